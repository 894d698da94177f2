"""Rules of the house that no tool checks by itself."""

from __future__ import annotations

import ast
import importlib
import re
from typing import TYPE_CHECKING

import pytest

import qts_data
from qts_data import errors
from tests.fixtures.fix_cli import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = ROOT / "qts_data"


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_timescale_imports_nothing_of_ours() -> None:
    for path in (PACKAGE / "timescale").rglob("*.py"):
        ours = {name for name in imports(path) if name.split(".")[0] == "qts_data"}
        assert all(name.startswith("qts_data.timescale") for name in ours), path.name


def test_settings_are_read_at_the_top_only() -> None:
    readers = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if "qts_data.settings" in imports(path)}
    assert readers
    for path in readers:
        assert path.parts[0] in {"__init__.py", "bootstrap.py", "cli", "demo", "operations"}, path


def test_public_names_are_the_same_for_type_checkers() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert sorted(seen) == sorted(qts_data.__all__)
    for name, module in seen.items():
        assert getattr(qts_data, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(qts_data, "nothing")  # noqa: B009 - a type checker refuses the name
    assert set(qts_data.__all__) <= set(dir(qts_data))


def test_every_error_has_one_root_and_a_default_message() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.QtsDataError)
        # These two are about a field or a fill, and cannot be made without it.
        if kind not in {errors.InvalidRecord, errors.LedgerConflict}:
            assert str(kind()) == (kind.__doc__ or "").splitlines()[0]


def test_the_lock_names_no_index_and_pins_every_line_with_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    names = re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==", lock, re.MULTILINE)
    assert len(names) > 30
    assert lock.count("--hash=sha256:") >= len(names)


def test_the_migrations_folder_is_never_a_package() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()


TEXT_CALLS = {"open", "read_text", "write_text", "TextIOWrapper"}
OTHER_OPENS = {"os", "zipfile", "archive", "webbrowser"}
"""Modules and objects whose open() takes no encoding."""


def texts_without_encoding(path: Path) -> list[int]:
    """Lines that open a file as text, or read a process as text, in the encoding of the machine."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if "encoding" in keywords:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        is_process = name in {"run", "Popen", "check_output"} and {"text", "universal_newlines"} & set(keywords)
        if is_process or (name in TEXT_CALLS and not _is_binary_or_other(node, name)):
            found.append(node.lineno)
    return found


def _is_binary_or_other(node: ast.Call, name: str) -> bool:
    of = node.func.value if isinstance(node.func, ast.Attribute) else None
    if name == "read_text":
        return of is None  # a function of the importers
    if name != "open":
        return False
    if isinstance(of, ast.Name) and of.id in OTHER_OPENS:
        return True
    modes = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
    if of is None:
        return any("b" in text for text in texts[-1:])
    # A method named open without a mode is that of a server or connection: here open() of a path has a mode.
    return not texts or "b" in texts[0] or not set(texts[0]) <= set("rwaxt+")


def test_no_text_depends_on_the_locale_of_the_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("qts_data", "scripts", "alembic", "tests/fixtures")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in texts_without_encoding(path)
    ]
    assert found == []


def test_make_calls_no_script_whose_first_line_names_a_folder() -> None:
    """A kernel reads 127 bytes of a script's first line. A program under `python -m` has no such line."""
    called = re.findall(r"\$\(BIN\)/(\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    # pip writes the project's own commands through /bin/sh where the line would be too long.
    assert set(called) <= {"python", "qts-data"}


# SQLAlchemy's commits go through the dialect, which reads the answer; so does a pipeline with `COMMIT` at its end.
CHECKED_COMMITS = {
    ("timescale/dialect.py", "COMMIT"),
    # Command tags that are looked for, not sent.
    ("timescale/endings.py", "COMMIT"),
    ("timescale/endings.py", "COMMIT PREPARED"),
    ("database/pipeline.py", "COMMIT"),
    ("database/transactions.py", "begun.commit"),
    ("database/migrations.py", "connection.commit"),
    ("repositories/market/ticks/loading.py", "savepoint.commit"),
}


def test_every_commit_goes_where_its_answer_is_read() -> None:
    """The server answers the COMMIT of an aborted transaction with ROLLBACK, and psycopg's own commit() ignores it.

    A new one is to be sent by SQLAlchemy or by a pipeline, and then added here.
    """
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "commit":
                found.add((name, ast.unparse(node)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                if re.match(r"\s*(COMMIT\b|END\s+(WORK|TRANSACTION)\b)[^.]*$", text):
                    found.add((name, text.strip()))
    assert found == CHECKED_COMMITS
