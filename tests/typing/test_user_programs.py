"""Programs of users under a type checker: misspelt names are errors, and nothing is Any."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from scripts.check_types import run_pyright
from tests.fixtures.fix_cli import ROOT
from tests.fixtures.pages import blocks

if TYPE_CHECKING:
    from pathlib import Path

RULES: Final = {
    "attr-defined": "reportAttributeAccessIssue",
    "arg-type": "reportArgumentType",
    "type-var": "reportArgumentType",
}
"""Codes of mypy, as the program names them, and pyright's rule for the same fault."""


def test_pyright_finds_the_faults_of_a_users_program(tmp_path: Path) -> None:
    """Lines that end in `# E: code` are errors, and all others are right. README's program has none."""
    program = (ROOT / "tests" / "fixtures" / "user_program.py.txt").read_text(encoding="utf-8")
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    (readme,) = blocks("python", "README.md")
    (tmp_path / "readme.py").write_text(readme.text, encoding="utf-8")
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}', encoding="utf-8")
    report = run_pyright("program.py", "readme.py", folder=tmp_path)
    found = {
        (one["file"].rpartition("/")[2], one["range"]["start"]["line"] + 1, one.get("rule"))
        for one in report["generalDiagnostics"]
        if one["severity"] == "error"
    }
    wanted = {
        ("program.py", number, RULES[code[1]])
        for number, line in enumerate(program.splitlines(), start=1)
        if (code := re.search(r"# E: (\S+)", line))
    }
    assert found == wanted
    assert report["summary"]["filesAnalyzed"] == 2
