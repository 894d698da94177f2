"""The commands of each page's shell blocks run as they are printed, or stand in `NOT_RUN` with the reason.

`qts-data` runs in this process, every other program in bash, in a folder with a copy of what a checkout has. Commands
of one page run in order on one database.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import yaml

from qts_data import Database
from qts_data.demo.sheets_server import fill_book
from qts_data.embedded import EmbeddedServer
from qts_data.settings import load_settings
from tests.fixtures.factories import FillFactory
from tests.fixtures.fix_cli import ROOT, clean_environment, wheel_program
from tests.fixtures.pages import blocks, commands, pages_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import URL

    from qts_data.demo.sheets_server import SheetsStandIn, Workbook
    from qts_data.timescale import Edition
    from tests.fixtures.fix_cli import RunCommand


def make_knows(command: str) -> None:
    """make resolves the targets and variables. The tests that T names are there."""
    make = shutil.which("make")
    assert make is not None
    # The stamp counts as new: make would otherwise print how it installs.
    arguments = [*shlex.split(command)[1:], "--dry-run", "--assume-old=.venv/.installed"]
    done = subprocess.run([make, *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    for path in re.findall(r"\bT=(\S+)", command):
        assert (ROOT / path).exists(), path


def extras_exist(command: str) -> None:
    """The wheel has the extras that pip is to install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (asked,) = re.findall(rf'"{project["name"]}\[([a-z,]+)\]"', command)
    assert set(asked.split(",")) <= set(project["optional-dependencies"])


def script_knows(command: str) -> None:
    """The script is there, bash can read it, and its text has the options."""
    program, *options = shlex.split(command.removeprefix("sudo "))
    path = ROOT / program
    assert path.stat().st_mode & 0o100
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text(encoding="utf-8")
    assert all(re.search(rf"^\s*{re.escape(option)}\)", text, re.MULTILINE) for option in options if option[:2] == "--")


def compose_reads(command: str) -> None:
    """The file is there and declares services."""
    (name,) = re.findall(r"-f (\S+)", command)
    assert yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["services"]


def hooks_are_read(_command: str) -> None:
    """The configuration of pre-commit is there."""
    assert yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]


NOT_RUN: Final[dict[str, tuple[str, Callable[[str], None]]]] = {
    r"make (test|test-full|test-apache|check|lock|install|format)\b": ("the suite would run itself", make_knows),
    r"make (demo|demo-migration|changelog)\b": ("qts-data demo and migrate demo have tests of their own", make_knows),
    r"pip install ": ("a package index; test_wheel.py installs the wheel", extras_exist),
    r"sudo scripts/fresh_machine\.sh\b": ("root, and a Debian mirror", script_knows),
    r"docker compose ": ("a Docker daemon; test_compose_file.py checks the file", compose_reads),
    r"\.venv/bin/pre-commit install": ("it changes the checkout's .git", hooks_are_read),
}
"""What a test cannot run: the pattern of its commands, why, and the check in its place."""

ADDED: Final = {
    "qts-data migrate shadow": "--seconds 1 --every 0.2",
}
"""Options that end a command which runs until Ctrl-C."""

BEFORE: Final = {"qts-data migrate cutover": "migrate verify"}
"""Runs before a command: on a slow machine, a second of `shadow` makes too few comparisons for the gates."""

EXIT_CODES: Final = {"qts-data gaps list": 3}
"""Commands whose right answer is not exit code 0: the sample day has gaps."""


class Shell:
    """Runs the commands of a page."""

    def __init__(self, qts_data: RunCommand, folder: Path, variables: dict[str, str]) -> None:
        self._qts_data = qts_data
        self._folder = folder
        self._variables = variables

    def run(self, place: str, command: str) -> None:
        """Run a command, or only check it if `NOT_RUN` lists it."""
        left_out = [check for pattern, (_, check) in NOT_RUN.items() if re.match(pattern, command)]
        if left_out:
            left_out[0](command)
            return
        if command.startswith("export "):
            name, _, _value = command.removeprefix("export ").partition("=")
            assert name in self._variables, f"{place}: the page exports {name}, and the test has no value of its own"
            return
        if command in BEFORE:
            assert self._qts_data(*shlex.split(BEFORE[command]), **self._variables).returncode == 0
        wanted = next((code for begin, code in EXIT_CODES.items() if command.startswith(begin)), 0)
        more = next((text for begin, text in ADDED.items() if command.startswith(begin)), "")
        if re.match(r"qts-data [^|&;<>$]*$", command):
            done = self._qts_data(*shlex.split(f"{command} {more}")[1:], **self._variables)
        else:
            done = self._bash(command)
        assert done.returncode == wanted, f"{place}: {command}: {done.returncode}\n{done.stdout}\n{done.stderr}"

    def _bash(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-euc", command],
            env=clean_environment(**self._variables),
            cwd=self._folder,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=300,
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what commands need of a checkout, without the package."""
    for name in (".env.example", "alembic.ini", "docker-compose.dev.yml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    return tmp_path


@pytest.fixture
def variables(database_url: URL, new_database: Callable[[], URL], edition: Edition, folder: Path) -> dict[str, str]:
    """The settings of the page's commands. psql gets an empty database, for scripts that make a schema."""
    empty = new_database()
    programs = [Path(sys.executable).parent, Path(wheel_program("psql")).parent]
    return {
        "QTS_DATABASE_URL": database_url.render_as_string(hide_password=False),
        "QTS_DEV_DIRECTORY": str(folder / "dev"),
        "PATH": ":".join([*map(str, programs), "/usr/bin", "/bin"]),
        "PYTHONPATH": str(ROOT),
        "EDITOR": "true",
        "EDITION": str(edition),
        "PGHOST": str(empty.query.get("host", empty.host)),
        "PGPORT": str(empty.port or 5432),
        "PGUSER": empty.username or "postgres",
        "PGPASSWORD": empty.password or "",
        "PGDATABASE": str(empty.database),
    }


def write_zip(path: Path, text: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(path.stem + ".csv", text)


@pytest.fixture
def sample(folder: Path) -> None:
    """The files that the pages import."""
    trades = "34200000,1450000,100,P,0,0\n34260000,1450100,200,P,0,0\n"
    for name in ("spy", "ibm"):
        write_zip(folder / f"{name}.zip", trades)
    write_zip(folder / "ibm_quotes.zip", "34199000,1449900,1,1450100,2,P,0,0\n")
    write_zip(folder / "spy_minutes.zip", "34200000,1450000,1450000,1450000,1450000,100\n")
    fills = "when,symbol,side,qty,price,execution_id\n2026-11-20 09:30:00,BTCUSDT,BUY,1,91000,7\n"
    (folder / "fills.csv").write_bytes(fills.encode("cp949"))
    opening = "symbol,qty,avg_price,market,currency,account\n000660,10,71500,KRX,KRW,main\n"
    (folder / "opening.csv").write_text(opening, encoding="utf-8")
    bars = "date,symbol,open,high,low,close,volume\n2026-11-20,005930,1,2,1,2,10\n"
    (folder / "bars.csv").write_text(bars, encoding="utf-8")
    (mapping,) = blocks("toml", "docs/google-sheets.md")
    (folder / "binance.toml").write_text(mapping.text, encoding="utf-8")


@pytest.fixture
def spreadsheet(standin: SheetsStandIn, workbook: Workbook, folder: Path) -> dict[str, str]:
    """Settings of a spreadsheet with a small book."""
    fill_book(workbook, positions=5, fills=10)
    key_file = folder / "key.json"
    key_file.write_text(json.dumps(standin.credentials()), encoding="utf-8")
    return {
        "QTS_SHEETS_SPREADSHEET_ID": workbook.spreadsheet_id,
        "QTS_SHEETS_CREDENTIALS_FILE": str(key_file),
        "QTS_SHEETS_URL": standin.url,
        "QTS_SHEETS_READS_PER_MINUTE": "100000",
        "QTS_SHEETS_WRITES_PER_MINUTE": "100000",
        "QTS_BOOK_BROKER": "test",
    }


async def book_a_fill(url: str) -> None:
    """Book a fill: `book show` ends with exit code 1 where there is none."""
    async with Database(url) as database, database.transaction() as uow:
        await uow.ledger.record_fill(FillFactory.build())


@pytest.fixture
def dev_server(folder: Path) -> Iterator[None]:
    """Stop the development server that a page starts, also when a command fails."""
    yield
    EmbeddedServer(folder / "dev").delete()


@pytest.mark.usefixtures("sample", "dev_server", "roles")
@pytest.mark.parametrize("page", pages_with("shell"))
def test_commands_of_a_page_run_as_printed(
    page: str, qts_data: RunCommand, folder: Path, variables: dict[str, str], spreadsheet: dict[str, str]
) -> None:
    asyncio.run(book_a_fill(variables["QTS_DATABASE_URL"]))
    shell = Shell(qts_data, folder, variables | (spreadsheet if page == "docs/google-sheets.md" else {}))
    for block in blocks("shell", page):
        for place, command in commands(block):
            shell.run(place, re.sub(r"\bedition=community\b", f"edition={variables['EDITION']}", command))


def test_each_reason_not_to_run_belongs_to_a_command() -> None:
    printed = [command for block in blocks("shell") for _, command in commands(block)]
    for pattern in [*NOT_RUN, *map(re.escape, [*ADDED, *BEFORE, *EXIT_CODES])]:
        assert any(re.match(pattern, command) for command in printed), pattern


def test_the_settings_file_of_the_page_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("toml", "docs/settings.md")
    path = tmp_path / "qts-data.toml"
    path.write_text(block.text, encoding="utf-8")
    monkeypatch.setenv("QTS_CONFIG_FILE", str(path))
    settings = load_settings()
    assert settings.database.pool_max == tomllib.loads(block.text)["database"]["pool_max"]
    assert settings.redis.host == "cache.internal"
