"""`qts-data import` as a user types it: rejects, resume, the same file under another name."""

from __future__ import annotations

import csv
import random
import shutil
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from qts_data.database.engine import engine
from tests.fixtures.market import DATA

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.engine import URL

    Run = Callable[..., subprocess.CompletedProcess[str]]

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
    """A CSV with one bad row in a thousand, of every kind in turn; returns their numbers."""
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


def test_every_good_row_is_loaded_and_every_bad_row_is_in_the_rejects(
    qts_data: Run, database_url: URL, tmp_path: Path
) -> None:
    bad = made_file(tmp_path / "ticks.csv", 15_000)
    assert len(bad) == len(BAD)
    arguments = ["import", "ticks", "ticks.csv", "--format", "csv"]
    environment = {"QTS_DATABASE_URL": text(database_url)}
    dry = qts_data(*arguments, "--dry-run", "--rejects", "dry.csv", **environment)
    assert (dry.returncode, dry.stdout.strip()) == (3, "read 15,000, good 14,985, rejected 15; nothing was loaded")
    assert count(database_url) == 0

    strict = qts_data(*arguments, "--strict", **environment)
    assert strict.returncode == 1
    assert "error: row 502: price: 'NaN' is no number in plain digits" in strict.stderr
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


def test_a_real_file_under_another_name_is_known_and_with_again_a_duplicate(
    qts_data: Run, database_url: URL, tmp_path: Path
) -> None:
    options = ["--format", "lean-trade", "--symbol", "IBM", "--date", "2013-10-07"]
    quotes = ["--quotes", str(DATA / "ibm_20131007_quote_tick.zip")]
    environment = {"QTS_DATABASE_URL": text(database_url)}
    shutil.copy(DATA / "ibm_20131007_trade_tick.zip", tmp_path / "other.zip")
    first = qts_data("import", "ticks", str(DATA / "ibm_20131007_trade_tick.zip"), *options, *quotes, **environment)
    assert first.stdout.strip() == "received 24,293, inserted 24,293, duplicate 0", first.stderr
    for more in ([], ["--again"]):
        run = qts_data("import", "ticks", "other.zip", *options, *quotes, *more, **environment)
        assert (run.returncode, run.stdout.strip()) == (0, "received 24,293, inserted 0, duplicate 24,293")
        assert ("is in already" in run.stderr) == (not more)
    assert count(database_url) == 24_293
    # Without its quotes it is another load, and says other things about the same ticks.
    plain = qts_data("import", "ticks", "other.zip", *options, **environment)
    assert plain.returncode == 1
    assert "already holds another tick" in plain.stderr
    with engine(database_url).connect() as connection:
        with_quotes = connection.scalar(sa.text("SELECT count(*) FROM tick_data WHERE bid IS NOT NULL"))
    assert with_quotes is not None
    assert with_quotes > 24_000


def test_daily_bars_are_inserted_and_corrected(qts_data: Run, database_url: URL, tmp_path: Path) -> None:
    environment = {"QTS_DATABASE_URL": text(database_url)}
    arguments = ["import", "daily-bars", str(DATA / "spy_daily.zip"), "--format", "lean-daily", "--symbol", "SPY"]
    first = qts_data(*arguments, **environment)
    assert first.stdout.strip() == "received 5,849, inserted 5,849, updated 0, unchanged 0", first.stderr
    (tmp_path / "c.csv").write_text("19980102 00:00,973100,975300,965300,973600,1\n", encoding="utf-8")
    corrected = qts_data("import", "daily-bars", "c.csv", "--format", "lean-daily", "--symbol", "SPY", **environment)
    assert corrected.stdout.strip() == "received 1, inserted 0, updated 1, unchanged 0"
    assert count(database_url, "ohlcv_1d") == 5_849


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ticks", "no.csv", "--format", "csv"], "file: no.csv: No such file"),
        (["ticks", "no.csv", "--format", "lean-trade", "--symbol", "A"], "No such file"),
        (["daily-bars", "no.csv", "--format", "krx-daily", "--date", "2026-01-02"], "file: no.csv: No such file"),
        (["ticks", "no.csv", "--format", "csv", "--column", "price"], "write OURS=THEIRS"),
    ],
)
def test_what_is_missing_is_one_sentence(qts_data: Run, database_url: URL, arguments: list[str], words: str) -> None:
    run = qts_data("import", *arguments, QTS_DATABASE_URL=text(database_url))
    assert run.returncode == 1
    assert words in run.stderr
    assert "Traceback" not in run.stderr
