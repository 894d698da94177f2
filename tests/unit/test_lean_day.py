"""The generated day has the difficulties of a real one, and is the same on every machine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.fix_cli import ROOT, clean_environment
from tests.fixtures.fix_lean import REAL_DAY
from tests.fixtures.lean_day import FILES, DayFacts, Row, facts_of, write_lean_day

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.fix_lean import LeanDay

CONTENT = "67a71d6458d69b9a8302b3859b75b7c1532297fcc85496141f2dbe06d23d0f6b"
"""SHA-256 of the five files' rows, which change only with the generator."""


def rows_of(folder: Path) -> list[list[str]]:
    found = []
    for name in FILES:
        with zipfile.ZipFile(folder / name) as archive:
            [member] = archive.namelist()
            found.append(archive.read(member).decode("ascii").splitlines())
    return found


def shares(facts: DayFacts) -> list[float]:
    """The peculiarities as shares, which do not depend on the number of rows."""
    return [
        facts.equal_trades / facts.spy_trades,
        facts.alike_trades / facts.spy_trades,
        facts.minutes / 960,
        facts.same_volumes / facts.minutes,
        facts.same_prices / facts.minutes,
    ]


def test_generated_days_are_byte_for_byte_the_same(generated_day: LeanDay, tmp_path: Path) -> None:
    assert write_lean_day(tmp_path) == generated_day.facts
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (generated_day.folder / name).read_bytes()


def test_a_generated_day_is_the_same_on_every_machine(generated_day: LeanDay) -> None:
    content = "\n".join(row for rows in rows_of(generated_day.folder) for row in rows)
    assert hashlib.sha256(content.encode("ascii")).hexdigest() == CONTENT


def test_the_figures_of_a_day_are_those_of_its_files(lean_day: LeanDay) -> None:
    spy, ibm, quotes, minutes, days = rows_of(lean_day.folder)

    def trades(rows: list[str]) -> list[Row]:
        split = (row.split(",") for row in rows)
        return [Row(int(time), int(price), int(volume), *rest) for time, price, volume, *rest, _ in split]

    assert facts_of(trades(spy), trades(ibm), quotes, minutes, days) == lean_day.facts


def test_a_generated_day_has_the_peculiarities_of_a_real_one(generated_day: LeanDay) -> None:
    assert shares(generated_day.facts) == pytest.approx(shares(REAL_DAY), abs=0.05)
    assert generated_day.facts.longest_burst == REAL_DAY.longest_burst == 28
    spy, _, quotes, _, days = rows_of(generated_day.folder)
    assert any(int(row.split(",")[1]) % 100 for row in spy)
    assert any(int(row.split(",")[4]) % 100 for row in days)
    assert [int(row.split(",")[0]) for row in spy] == sorted(int(row.split(",")[0]) for row in spy)
    assert len(quotes) > len(set(quotes))


def test_every_quote_of_a_day_is_of_one_side(lean_day: LeanDay) -> None:
    for row in rows_of(lean_day.folder)[2]:
        bid, bid_size, ask, ask_size = row.split(",")[1:5]
        assert (bid, bid_size) == ("0", "0") or (ask, ask_size) == ("0", "0")


def test_a_missing_real_day_is_left_out_and_fails_ci(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "one_side"]
    variables = {"QTS_TEST_SHARED_DATA": str(tmp_path), "CI": "true"}
    run = subprocess.run(
        command, check=False, capture_output=True, encoding="utf-8", cwd=ROOT, env=clean_environment(**variables)
    )
    assert run.returncode == 1
    assert " need the real market data" in run.stdout
    assert "QTS_TEST_SHARED_DATA names the folder that has us_equity_ticks/" in run.stdout
    assert "1 passed" in run.stdout
