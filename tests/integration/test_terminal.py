"""Output of the command line: whole cells, every encoding, Ctrl-C, missing extras, versions."""

from __future__ import annotations

import datetime as dt
import io
import os
import re
import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from qts_data.cli.app import app
from qts_data.contracts import OHLCV
from qts_data.extras import EXTRAS
from qts_data.terminal.table import Table
from tests.fixtures.fix_cli import ROOT, clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.engine import URL

    from qts_data.repositories import BarInterval

    Run = Callable[..., subprocess.CompletedProcess[str]]

CELLS = st.text(st.characters(exclude_categories=["C", "Z", "M"]), min_size=1, max_size=60)


def printed(rows: list[tuple[str, str]], *, width: int, terminal: bool) -> str:
    target = Console(file=io.StringIO(), width=width, force_terminal=terminal, markup=False, highlight=False)
    table = Table(("name",), ("amount",), target=target)
    for row in rows:
        table.add(row)
    table.print()
    return cast("io.StringIO", target.file).getvalue()


@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), width=st.integers(5, 200), terminal=st.booleans()
)
def test_a_table_prints_each_cell_whole(rows: list[tuple[str, str]], width: int, *, terminal: bool) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(rows, width=width, terminal=terminal))
    for cell in (cell for row in rows for cell in row):
        assert cell in text
    if not terminal:
        assert len(text.splitlines()) == len(rows) + 1


def test_a_narrow_terminal_gets_one_line_a_cell() -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed([("A" * 30, "1,234.50000001")], width=20, terminal=True))
    assert text.splitlines() == ["name    " + "A" * 30, "amount  1,234.50000001"]


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def test_help_shows_every_text_literally(qts_data: Run) -> None:
    """With markup enabled, text in brackets would be missing."""
    for path, command in commands(typer.main.get_command(app)):
        words = " ".join(str(getattr(one, "help", "") or "") for one in command.params).split()
        if any("[" in word for word in words) or not path:
            shown = qts_data(*path, "--help").stdout.split()
            assert not {word for word in words if "[" in word} - set(shown), path
    assert "[columns]" in qts_data("import", "csv", "--help").stdout


def test_version_and_completion(qts_data: Run) -> None:
    assert re.fullmatch(r"qts-data \d+\.\d+\S*\n", qts_data("--version").stdout)
    assert "--install-completion" in qts_data("--help").stdout


INTERRUPTED = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from qts_data.__main__ import main
wanted = sys.argv[1]
sys.argv = ["qts-data", "status"]
Interrupt.find_spec = lambda self, name, path=None, target=None, wanted=wanted: (
    os.kill(os.getpid(), signal.SIGINT) if name == wanted else None)
main()
"""


@pytest.mark.parametrize("module", ["qts_data.cli", "sqlalchemy", "qts_data.cli.app"])
def test_ctrl_c_while_modules_are_imported_is_one_line(module: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module], cwd=tmp_path, capture_output=True, encoding="utf-8",
        env=clean_environment(PYTHONPATH=str(ROOT)), check=False, timeout=300,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp949"])
def test_a_terminal_of_another_encoding_does_not_crash(encoding: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("QTS_BOOK_BROKER='한국 €'\n", encoding="utf-8")
    for arguments in (["config"], ["config", "--json"], ["--help"]):
        run = subprocess.run(
            [sys.executable, "-m", "qts_data", *arguments], cwd=tmp_path, capture_output=True, check=False, timeout=300,
            env=clean_environment(
                PYTHONPATH=str(ROOT), PYTHONIOENCODING=encoding, QTS_ENV_FILE=".env", QTS_CONFIG_FILE=os.devnull
            ),
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        run.stdout.decode(encoding)


def test_a_missing_extra_is_one_line(qts_data: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    for name in [name for name in sys.modules if name.startswith("qts_data.demo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "qts_data.demo.move", None)

    def missing(work: Any) -> None:
        work.close()
        raise ModuleNotFoundError("No module named 'requests'", name="requests")

    monkeypatch.setattr("asyncio.run", missing)
    run = qts_data("bars", "SPY")
    assert run.returncode == 1
    assert run.stderr.startswith("error: this needs requests, which is not installed: pip install 'qts-data[sheets]'")
    assert set(EXTRAS.values()) >= {"sheets", "redis", "embedded", "arrow", "polars", "pandas", "calendars"}


def test_status_without_a_url_asks_to_set_it_first(qts_data: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    run = qts_data("status")
    assert run.returncode == 1
    assert run.stderr.startswith("error: no database: set QTS_DATABASE_URL=")


TODAY = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def ticks_of(symbol: str, count: int) -> str:
    lines = ["time,symbol,price,volume"]
    start = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    lines += [f"{(start + dt.timedelta(minutes=n)).isoformat()},{symbol},{100 + n},1" for n in range(count)]
    return "\n".join(lines) + "\n"


def test_bars_name_cut_ranges_and_unknown_symbols(qts_data: Run, database_url: URL, tmp_path: Path) -> None:
    environment = {"QTS_DATABASE_URL": database_url.render_as_string(hide_password=False)}
    file = tmp_path / "ticks.csv"
    file.write_text(ticks_of("ABC", 40), encoding="utf-8")
    loaded = qts_data("import", "ticks", str(file), "--format", "csv", **environment)
    assert loaded.returncode == 0, loaded.stderr
    shown = qts_data("bars", "ABC", "--date", "2026-11-20", "--zone", "UTC", **environment)
    assert "ABC 1m, 2026-11-20 UTC: the last 30 of 40" in shown.stdout
    assert len(shown.stdout.splitlines()) == 32
    empty = qts_data("bars", "ABC", "--date", "2026-11-19", **environment)
    assert (empty.returncode, "--zone" in empty.stderr) == (1, True)
    unknown = qts_data("bars", "XYZ", "--date", "2026-11-20", **environment)
    assert "tick_data has no rows of this symbol" in unknown.stderr
    gaps = qts_data("gaps", "list", "XYZ", "--from", "2026-11-21", "--to", "2026-11-22", **environment)
    assert (gaps.returncode, "no ticks of XYZ" in gaps.stderr) == (1, True)
    none = qts_data("gaps", "list", "ABC", "--from", "2026-11-21", "--to", "2026-11-22", **environment)
    assert (none.stdout, "in the sessions of XKRX; --calendar" in none.stderr) == ("no gaps of ABC\n", True)
    daily = qts_data("bars", "ABC", "--daily", "--date", "2026-11-20", **environment)
    assert "ohlcv_1d has no rows of this symbol" in daily.stderr


def test_a_repeated_import_keeps_the_code_of_its_bad_row(qts_data: Run, database_url: URL, tmp_path: Path) -> None:
    environment = {"QTS_DATABASE_URL": database_url.render_as_string(hide_password=False)}
    file = tmp_path / "ticks.csv"
    file.write_text(ticks_of("ABC", 3) + "yesterday,ABC,1,1\n", encoding="utf-8")
    arguments = ["import", "ticks", str(file), "--format", "csv"]
    first, second = qts_data(*arguments, **environment), qts_data(*arguments, **environment)
    assert (first.returncode, second.returncode) == (3, 3), second.stderr
    assert "1 of its rows were rejected then" in second.stderr
    strict = qts_data(*arguments, "--strict", **environment)
    assert strict.returncode == 1, strict.stderr
    assert "was loaded before without 1 bad rows" in strict.stderr


def test_an_open_bar_is_marked(capfd: pytest.CaptureFixture[str]) -> None:
    import zoneinfo

    from qts_data.repositories import Bars
    from qts_data.terminal.market import print_bars

    one = Decimal(1)
    first = OHLCV(
        time=dt.datetime(2026, 11, 20, tzinfo=dt.UTC), symbol="A", source="", open=one, high=one, low=one, close=one,
        volume=one, tick_count=1,
    )  # fmt: skip
    cases: list[tuple[BarInterval, int, bool]] = [
        ("1m", 1, False),
        ("5m", 1, True),
        ("1d", 1439, True),
        ("1d", 1440, False),
    ]
    for interval, minutes, marked in cases:
        asked_at = first.time + dt.timedelta(minutes=minutes)
        print_bars("A", Bars([first]), zoneinfo.ZoneInfo("UTC"), limit=1, interval=interval, asked_at=asked_at)
        assert ("open\n" in capfd.readouterr().out.partition("ticks")[2]) is marked


def test_features_that_an_edition_lacks_are_one_line(qts_data: Run, database_url: URL, edition: str) -> None:
    environment = {"QTS_DATABASE_URL": database_url.render_as_string(hide_password=False)}
    short, long = qts_data("status", **environment).stdout, qts_data("status", "--all", **environment).stdout
    assert "degraded" not in short
    left_out = {"postgresql": r"plain PostgreSQL: \d+ features are", "apache": r"TimescaleDB Apache: \d+ features are"}
    assert (re.search(left_out.get(edition, "features are"), short) is not None) is (edition in left_out)
    assert ("degraded" in long) is (edition in left_out)


@pytest.mark.parametrize("ran_before", [False, True])
def test_the_demo_of_a_move_stops_only_its_own_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ran_before: bool
) -> None:
    from qts_data.demo import move
    from qts_data.embedded import EmbeddedServer

    monkeypatch.setattr(move, "_run", lambda *_: None)
    server = EmbeddedServer(tmp_path / "demo")
    try:
        if ran_before:
            server.start()
        move.run_demo(tmp_path / "demo")
        assert (server.info() is not None) is ran_before
    finally:
        server.stop()
