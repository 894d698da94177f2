"""`qts-data import` as a user types it: rejects, resume, the same file under another name."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import random
import shutil
import zipfile
from functools import partial
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from qts_data.database.engine import engine
from qts_data.importers import ReadOptions
from qts_data.operations import market
from qts_data.settings import Settings
from qts_data.writers import load_in_parts

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.engine import URL

    from qts_data.errors import InvalidRecord

    Run = Callable[..., subprocess.CompletedProcess[str]]
    from tests.fixtures.fix_lean import LeanDay

COLUMNS = ["time", "symbol", "price", "volume", "bid", "ask"]


def text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def count(url: URL, table: str = "tick_data") -> int:
    with engine(url).connect() as connection:
        found: int = connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))
        return found


BAD: list[Callable[[list[str]], list[str]]] = [
    lambda row: [*row[:2], "NaN", *row[3:]],
    lambda row: [*row[:2], "-1", *row[3:]],
    lambda row: [*row[:2], "0", *row[3:]],
    lambda row: [*row[:4], "9", "8"],
    lambda row: [row[0].removesuffix("+00:00"), *row[1:]],
    lambda row: [row[0].replace("2026", "9026"), *row[1:]],
    lambda row: [*row[:2], "12345678901.1", *row[3:]],
    lambda row: [row[0], "", *row[2:]],
    lambda row: row[:2],
    lambda row: [*row, "1"],
    lambda row: [row[0], "A\udcff", *row[2:]],
    lambda row: ["\ufeff" + row[0], *row[1:]],
    lambda row: [row[0], "A\rB", *row[2:]],
    lambda row: [row[0], '"A', *row[2:]],
    lambda row: [*row[:2], '"1,234"', *row[3:]],
]


def made_file(path: Path, rows: int) -> set[int]:
    """Write a CSV with one bad row in a thousand, of every kind in turn, and return their numbers."""
    chance = random.Random(5)
    bad: set[int] = set()
    lines = [",".join(COLUMNS)]
    for number in range(rows):
        row = [f"2026-11-20T00:{number // 1000 % 60:02}:{number // 20 % 60:02}.000+00:00", chance.choice("AB")]
        row += [str(chance.randrange(1, 9)), "1", "7", "8"]
        if number % 1000 == 500:
            row = BAD[len(bad) % len(BAD)](row)
            bad.add(number + 2)
        lines.append(",".join(row))
    path.write_bytes("\r\n".join(lines).encode("utf-8", "surrogateescape"))
    return bad


def test_good_rows_are_loaded_and_bad_rows_are_rejects(qts_data: Run, database_url: URL, tmp_path: Path) -> None:
    """A dry run and `--strict` load nothing of a file with bad rows."""
    bad = made_file(tmp_path / "ticks.csv", 15_000)
    assert len(bad) == len(BAD)
    arguments = ["import", "ticks", "ticks.csv", "--format", "csv"]
    environment = {"QTS_DATABASE_URL": text(database_url)}
    dry = qts_data(*arguments, "--dry-run", "--rejects", "dry.csv", **environment)
    assert (dry.returncode, dry.stdout.strip()) == (3, "read 15,000, good 14,985, rejected 15; nothing was loaded")
    assert count(database_url) == 0

    strict = qts_data(*arguments, "--strict", **environment)
    assert strict.returncode == 1
    assert "error: row 502: price: 'NaN' is not a number in plain digits" in strict.stderr
    assert count(database_url) == 0

    run = qts_data(*arguments, **environment)
    assert (run.returncode, run.stdout.strip()) == (
        3, "received 15,000, inserted 14,985, duplicate 0, rejected 15",
    ), run.stderr  # fmt: skip
    assert "note: 15 bad rows are in ticks.csv.rejects.csv" in run.stderr
    assert count(database_url) == 14_985
    with (tmp_path / "ticks.csv.rejects.csv").open(encoding="utf-8", newline="") as file:
        rejects = list(csv.DictReader(file))
    assert {int(row["row"]) for row in rejects} == bad
    assert all(row["reason"] and row["field"] for row in rejects)
    assert rejects[0]["line"].split(",")[2] == "NaN"
    assert "\\xff" in rejects[10]["line"]

    again = qts_data(*arguments, **environment)
    assert again.stdout.strip() == "received 15,000, inserted 0, duplicate 14,985, rejected 15"
    assert "--again loads it once more" in again.stderr


def test_one_bound_rules_reading_and_storing_ticks_ahead(qts_data: Run, database_url: URL, tmp_path: Path) -> None:
    """A file is read again under another bound. `--any-time` also lifts the bound of the server."""
    now = dt.datetime.now(dt.UTC)
    times = [now - dt.timedelta(hours=1), now + dt.timedelta(minutes=30), now + dt.timedelta(hours=3)]
    rows = [f"{time.isoformat()},A,{price},1" for price, time in enumerate(times, start=1)]
    (tmp_path / "ahead.csv").write_text("\n".join(["time,symbol,price,volume", *rows]))
    arguments = ["import", "ticks", "ahead.csv", "--format", "csv"]
    environment = {"QTS_DATABASE_URL": text(database_url)}
    wide = environment | {"QTS_TICK_MAX_AHEAD_SECONDS": "3600"}
    assert "good 2, rejected 1" in qts_data(*arguments, "--dry-run", **wide).stdout
    for bound, options, good, stored in [
        (environment, [], 1, 1),
        (wide, [], 2, 2),
        (environment, ["--any-time"], 3, 3),
    ]:
        run = qts_data(*arguments, *options, **bound)
        assert (run.returncode, count(database_url)) == (0 if good == 3 else 3, stored), run.stderr
        assert run.stdout.startswith(f"received 3, inserted 1, duplicate {good - 1}"), run.stdout


def test_file_under_another_name_is_already_loaded(
    qts_data: Run, database_url: URL, tmp_path: Path, lean_day: LeanDay
) -> None:
    """`--again` reads it again and finds duplicates only. With other options it is another load."""
    total, trades = lean_day.facts.ibm_trades, f"{lean_day.facts.ibm_trades:,}"
    options = ["--format", "lean-trade", "--symbol", "IBM", "--date", "2013-10-07"]
    quotes = ["--quotes", str(lean_day.ibm_quotes)]
    environment = {"QTS_DATABASE_URL": text(database_url)}
    shutil.copy(lean_day.ibm_trades, tmp_path / "other.zip")
    first = qts_data("import", "ticks", str(lean_day.ibm_trades), *options, *quotes, **environment)
    assert first.stdout.strip() == f"received {trades}, inserted {trades}, duplicate 0", first.stderr
    for more in ([], ["--again"]):
        run = qts_data("import", "ticks", "other.zip", *options, *quotes, *more, **environment)
        assert (run.returncode, run.stdout.strip()) == (0, f"received {trades}, inserted 0, duplicate {trades}")
        assert ("is already loaded" in run.stderr) == (not more)
    assert count(database_url) == total
    # Without its quotes it is another load, with other values of the same ticks.
    plain = qts_data("import", "ticks", "other.zip", *options, **environment)
    assert plain.returncode == 1
    assert "already holds another tick" in plain.stderr
    with engine(database_url).connect() as connection:
        with_quotes = connection.scalar(sa.text("SELECT count(*) FROM tick_data WHERE bid IS NOT NULL"))
    assert with_quotes is not None
    assert with_quotes > total * 0.98


@pytest.fixture
def interrupted(database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of six ticks in three hours. Its first four are loaded, in parts of two, and no bars are refreshed."""
    path = tmp_path / "ticks.csv"
    rows = [f"2026-11-20T0{second // 2}:00:0{second}Z,X,{second + 1},1" for second in range(6)]
    path.write_text("\n".join(["time,symbol,price,volume", *rows]))
    monkeypatch.setattr(market, "load_in_parts", partial(load_in_parts, part_size=2))

    def killed(ticks: int) -> None:
        if ticks == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(imported(database_url, path, progress=killed))
    return path


async def imported(
    url: URL,
    path: Path,
    *,
    layout: str = "csv",
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> market.ImportReport:
    def refuse(error: InvalidRecord, line: bytes) -> None:
        pytest.fail(f"{error}: {line!r}")

    return await market.import_tick_file(
        Settings(_env_file=None, database_url=SecretStr(text(url))),
        layout,
        path,
        ReadOptions(),
        refuse=None if strict else refuse,
        rejected=lambda: 0,
        keep=False,
        again=False,
        progress=progress,
    )


@pytest.mark.parametrize("strict", [True, False])
def test_interrupted_import_goes_on_strict_or_not(database_url: URL, interrupted: Path, strict: bool) -> None:
    """An interrupted import is finished with or without `--strict`, and is then already loaded for both."""
    assert count(database_url) == 4
    loaded = asyncio.run(imported(database_url, interrupted, strict=strict)).ingest
    assert (loaded.already_loaded, loaded.received, loaded.inserted, loaded.duplicate) == (False, 6, 2, 4)
    assert count(database_url) == 6
    for way in (True, False):
        assert asyncio.run(imported(database_url, interrupted, strict=way)).ingest.already_loaded


@pytest.mark.edition("community")
def test_resumed_import_refreshes_bars_of_all_its_ticks(database_url: URL, interrupted: Path) -> None:
    # Bars of later minutes are materialized, so only a refresh makes the bars of the file.
    """The bars of the part that was loaded before the interruption are refreshed too."""
    with engine(database_url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("INSERT INTO tick_data VALUES ('LATER', '2026-11-21Z', '', 0, 1, 1, NULL, NULL)"))
        for aggregate in ("ohlcv_1m", "ohlcv_1h"):
            connection.execute(sa.text(f"CALL refresh_continuous_aggregate('{aggregate}', '2026-11-21Z', NULL)"))
    asyncio.run(imported(database_url, interrupted))
    with engine(database_url).connect() as connection:
        counts = connection.scalars(sa.text("SELECT tick_count FROM ohlcv_1h WHERE symbol = 'X' ORDER BY bucket"))
        assert counts.all() == [2, 2, 2]


def test_equal_files_of_two_symbols_are_two_files(database_url: URL, tmp_path: Path) -> None:
    for name in ("ETHUSDT", "BTCUSDT"):
        path = tmp_path / f"{name}-trades-2025-01-01.csv"
        path.write_text("1,1.5,1,1.5,1735689600000000,True,True\n")
        loaded = asyncio.run(imported(database_url, path, layout="binance-trades")).ingest
        assert (loaded.already_loaded, loaded.inserted) == (False, 1)
    other = tmp_path / "BTCUSDT-trades-2025-01-02.csv"
    path.rename(other)
    assert asyncio.run(imported(database_url, other, layout="binance-trades")).ingest.already_loaded


@pytest.mark.parametrize("command", ["bars", "daily-bars"])
def test_daily_bars_are_inserted_and_corrected(
    qts_data: Run, database_url: URL, tmp_path: Path, lean_day: LeanDay, command: str
) -> None:
    days = lean_day.facts.days
    environment = {"QTS_DATABASE_URL": text(database_url)}
    arguments = ["import", command, str(lean_day.spy_days), "--format", "lean-daily", "--symbol", "SPY"]
    first = qts_data(*arguments, **environment)
    assert first.stdout.strip() == f"received {days:,}, inserted {days:,}, updated 0, unchanged 0", first.stderr
    (tmp_path / "c.csv").write_text("19980102 00:00,973100,975300,965300,973600,1\n", encoding="utf-8")
    corrected = qts_data("import", command, "c.csv", "--format", "lean-daily", "--symbol", "SPY", **environment)
    assert corrected.stdout.strip() == "received 1, inserted 0, updated 1, unchanged 0"
    assert count(database_url, "ohlcv_1d") == days
    assert count(database_url, "ohlcv_1m_vendor") == 0


def test_minute_bars_are_inserted_and_corrected(
    qts_data: Run, database_url: URL, tmp_path: Path, lean_day: LeanDay
) -> None:
    minutes = lean_day.facts.minutes
    environment = {"QTS_DATABASE_URL": text(database_url)}
    arguments = [
        "import",
        "bars",
        str(lean_day.spy_minutes),
        "--format",
        "lean-minute",
        "--symbol",
        "SPY",
        "--date",
        "2013-10-07",
    ]
    dry = qts_data(*arguments, "--dry-run", **environment)
    assert dry.stdout.strip() == f"read {minutes}, good {minutes}, rejected 0; nothing was loaded", dry.stderr
    assert count(database_url, "ohlcv_1m_vendor") == 0
    for outcome in (f"inserted {minutes}, updated 0, unchanged 0", f"inserted 0, updated 0, unchanged {minutes}"):
        run = qts_data(*arguments, **environment)
        assert (run.returncode, run.stdout.strip()) == (0, f"received {minutes}, {outcome}"), run.stderr
    # The same day with a correction, a bad row and one more minute, and the bars of another vendor.
    (tmp_path / "c.csv").write_text(
        "34200000,1674100,1674500,1673900,1674200,1\n34260000,1,2\n86340000,1674100,1674500,1673900,1674200,3\n",
        encoding="utf-8",
    )
    arguments[2] = "c.csv"
    strict = qts_data(*arguments, "--strict", **environment)
    assert strict.returncode == 1
    assert "error: row 2: row: has 3 columns instead of 6" in strict.stderr
    assert count(database_url, "ohlcv_1m_vendor") == minutes
    corrected = qts_data(*arguments, **environment)
    assert (corrected.returncode, corrected.stdout.strip()) == (3, "received 2, inserted 1, updated 1, unchanged 0")
    assert "note: 1 bad rows are in c.csv.rejects.csv" in corrected.stderr
    other = qts_data(*arguments, "--source", "other", **environment)
    assert other.stdout.strip() == "received 2, inserted 2, updated 0, unchanged 0"
    assert count(database_url, "ohlcv_1m_vendor") == minutes + 3
    assert count(database_url, "ohlcv_1d") == 0
    environment["QTS_TRADING_TIME_ZONE"] = "America/New_York"
    shown = qts_data("bars", "SPY", "--vendor", "--interval", "1h", "--date", "2013-10-07", **environment)
    rows = [line.split() for line in shown.stdout.splitlines()[1:]]
    assert rows[0] == ["time", "source", "open", "high", "low", "close", "volume", "ticks"], shown.stderr
    assert [row[:2] for row in rows if row[0] == "23:00"] == [["23:00", "lean"], ["23:00", "other"]]
    assert qts_data("bars", "SPY", "--date", "2013-10-07", **environment).returncode == 1
    both = qts_data("bars", "SPY", "--vendor", "--kept", **environment)
    assert both.stderr.startswith("error: --kept, --vendor and --daily")


def test_klines_go_where_their_length_belongs(qts_data: Run, database_url: URL, tmp_path: Path) -> None:
    environment = {"QTS_DATABASE_URL": text(database_url)}
    first = 1_735_689_600_000_000

    def klines(name: str, minutes: int, rows: int) -> list[str]:
        length = minutes * 60_000_000
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(
                f"{name}.csv",
                "".join(
                    f"{first + n * length},93576.00,95151.15,92888.00,94591.79,10.5,{first + (n + 1) * length - 1},"
                    f"974906.3,{n},5000.1,470000.2,0\n"
                    for n in range(rows)
                ),
            )
        return ["import", "bars", f"{name}.zip", "--format", "binance-klines"]

    minutes = klines("BTCUSDT-1m-2025-01", 1, 6_000)
    days = klines("BTCUSDT-1d-2025-01", 24 * 60, 31)
    for outcome in ("inserted {0}, updated 0, unchanged 0", "inserted 0, updated 0, unchanged {0}"):
        for arguments, rows in ((minutes, "6,000"), (days, "31")):
            run = qts_data(*arguments, **environment)
            assert run.stdout.strip() == f"received {rows}, {outcome.format(rows)}", run.stderr
    assert count(database_url, "ohlcv_1m_vendor") == 6_000
    assert count(database_url, "ohlcv_1d") == 31
    with engine(database_url).connect() as connection:
        found = connection.execute(sa.text("SELECT DISTINCT symbol, source FROM ohlcv_1m_vendor")).one()
        assert tuple(found) == ("BTCUSDT", "binance")
        assert connection.scalar(sa.text("SELECT sum(tick_count) FROM ohlcv_1m_vendor")) == sum(range(6_000))
    for name, length in (("BTCUSDT-5m-2025-01", 5), ("BTCUSDT-1h-2025-01", 60)):
        for more in ([], ["--dry-run"], ["--strict"]):
            run = qts_data(*klines(name, length, 10), *more, **environment)
            assert run.returncode == 1
            assert "error: row 1: close_time: the bar covers" in run.stderr
            assert "neither a minute nor a day; import klines of a minute, or trades" in run.stderr
            assert "Traceback" not in run.stderr
    assert count(database_url, "ohlcv_1m_vendor") == 6_000
    assert not list(tmp_path.glob("*.rejects.csv"))


def test_seconds_do_not_pass_for_minutes(qts_data: Run, database_url: URL, tmp_path: Path) -> None:
    rows = [f"{34_200_000 + 1_000 * n},1674100,1674500,1673900,1674200,1\n" for n in range(120)]
    (tmp_path / "20131007_trade.csv").write_text("".join(rows), encoding="utf-8")
    run = qts_data(
        "import", "bars", "20131007_trade.csv", "--format", "lean-minute", "--symbol", "SPY", "--date", "2013-10-07",
        QTS_DATABASE_URL=text(database_url),
    )  # fmt: skip
    assert run.returncode == 1
    assert "error: file: 20131007_trade.csv holds no bars of a minute, but of seconds" in run.stderr
    assert count(database_url, "ohlcv_1m_vendor") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ticks", "no.csv", "--format", "csv"], "file: no.csv: No such file"),
        (["ticks", "no.csv", "--format", "lean-trade", "--symbol", "A"], "No such file"),
        (["bars", "no.csv", "--format", "krx-daily", "--date", "2026-01-02"], "file: no.csv: No such file"),
        (["bars", "no.csv", "--format", "binance-klines", "--symbol", "A"], "file: no.csv: No such file"),
        (["bars", "no.csv", "--format", "lean-minute", "--symbol", "A"], "date: a file of layout lean-minute does not"),
        (["ticks", "no.csv", "--format", "csv", "--column", "price"], "write OURS=THEIRS"),
    ],
)
def test_missing_file_or_option_is_one_sentence(
    qts_data: Run, database_url: URL, arguments: list[str], words: str
) -> None:
    run = qts_data("import", *arguments, QTS_DATABASE_URL=text(database_url))
    assert run.returncode == 1
    assert words in run.stderr
    assert "Traceback" not in run.stderr
