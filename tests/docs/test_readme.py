"""The program of the README runs as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.fixtures.fix_cli import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import URL

LONGEST_README = 120


def test_the_readme_program_runs_as_printed(database_url: URL, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    programs = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "asyncio.run(" in block]
    assert len(programs) == 1
    environment = {
        **os.environ,
        "QTS_DATABASE_URL": database_url.render_as_string(hide_password=False),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", programs[0]],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    qty, again, price = done.stdout.split()
    assert again == "True"
    assert (Decimal(qty), Decimal(price)) == (Decimal(10), Decimal(71_500))


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    dead = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not dead
