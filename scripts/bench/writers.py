"""How fast do many feeders go through TickWriter, beside psycopg's COPY and a commit for each tick?

    python -m scripts.bench.writers [--rows 40000] [--rounds 3] [--url URL] [--spool DIRECTORY]

Each round measures every work once on an emptied table, with the same rows, so that all works run under the same load.

* `psycopg COPY` writes rows of Python values with `write_row` and commits once.
* The feeders of a TickWriter write one tick each, wait until it is accepted at the level of durability, and write the
  next one.
* The clock of `accepted` stops when the last feeder is done; that of `stored` when the writer is closed and every tick
  is in the table.
* A disk limits `SPOOLED`: the table begins with the number of flushes a second that one thread reaches with the same
  blocks.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from qts_data.database.engine import DatabaseConfig
from qts_data.repositories import Database
from qts_data.writers import Durability, TickWriter
from scripts.bench.market import COLUMNS, Bench, Line, commit_each, database, made, ratio, records, table_of

if TYPE_CHECKING:
    from qts_data.contracts import TickData

_FLUSHES = 200
_BLOCK = b"x" * 3_000


def flushes(directory: Path) -> float:
    """Return appends of 3,000 bytes per second, with an fsync each."""
    path = directory / "flushes"
    with path.open("wb", buffering=0) as file:
        started = time.perf_counter()
        for _ in range(_FLUSHES):
            file.write(_BLOCK)
            os.fsync(file.fileno())
        taken = time.perf_counter() - started
    path.unlink()
    return _FLUSHES / taken


def copy_rows(bench: Bench, ticks: list[TickData]) -> float:
    """COPY rows of Python values with psycopg. Return the seconds."""

    async def work() -> None:
        async with (
            await psycopg.AsyncConnection.connect(bench.text) as connection,
            connection.cursor() as cursor,
            cursor.copy(f"COPY tick_data ({COLUMNS}) FROM STDIN") as copy,
        ):
            for seq, tick in enumerate(ticks):
                row = (tick.symbol, tick.time, tick.source, seq, tick.price, tick.volume, tick.bid, tick.ask)
                await copy.write_row(row)

    started = time.perf_counter()
    asyncio.run(work())
    return time.perf_counter() - started


def feed(
    bench: Bench, ticks: list[TickData], *, feeders: int, durability: Durability, spool: Path | None
) -> tuple[float, float]:
    """Write ticks from many tasks. Return the seconds until all were accepted, and until all were stored."""

    async def work() -> tuple[float, float]:
        rest = iter(ticks)

        async def feeder(writer: TickWriter) -> None:
            for tick in rest:
                await writer.write(tick)

        async with Database(bench.url, DatabaseConfig(statement_timeout_seconds=0)) as target:
            # A caller of COMMITTED waits for its group, so a short one is better; the others use the default.
            seconds = 0.005 if durability is Durability.COMMITTED else 0.05
            writer = TickWriter(target, durability=durability, spool=spool, group_seconds=seconds)
            await writer.start()
            started = time.perf_counter()
            await asyncio.gather(*(feeder(writer) for _ in range(feeders)))
            accepted = time.perf_counter() - started
            await writer.close()
            return accepted, time.perf_counter() - started

    return asyncio.run(work())


def writers(bench: Bench, spool: Path) -> list[Line]:
    """Measure every work in each round."""
    ticks = records(made(bench.rows, 5))
    few = ticks[:1_000]
    rates: dict[str, list[float]] = {}

    def note(name: str, count: int, seconds: float) -> None:
        rates.setdefault(name, []).append(count / seconds)

    def fed(name: str, feeders: int, durability: Durability, where: Path | None) -> None:
        bench.empty()
        accepted, stored = feed(bench, ticks, feeders=feeders, durability=durability, spool=where)
        if bench.run("SELECT count(*) FROM tick_data") != len(ticks):
            raise SystemExit(f"{name}: not every row is there")
        note(f"{name}, accepted", len(ticks), accepted)
        note(f"{name}, stored", len(ticks), stored)

    for _ in range(bench.rounds):
        note("flushes of the spool's disk", 1, 1 / flushes(spool))
        bench.empty()
        note("psycopg COPY of rows", len(ticks), copy_rows(bench, ticks))
        bench.empty()
        started = time.perf_counter()
        commit_each(bench, few)
        note("a commit for each tick", len(few), time.perf_counter() - started)
        fed("QUEUED, 40 feeders", 40, Durability.QUEUED, None)
        fed("SPOOLED, 40 feeders", 40, Durability.SPOOLED, spool)
        fed("SPOOLED, 400 feeders", 400, Durability.SPOOLED, spool)
        fed("COMMITTED, 400 feeders", 400, Durability.COMMITTED, None)
    floor, each = rates["psycopg COPY of rows"], rates["a commit for each tick"]
    targets = {"SPOOLED, 40 feeders, stored": "0.3"}
    lines = [
        Line(name, f"{statistics.median(rate):,.0f}", ratio(rate, floor), targets.get(name, ""))
        for name, rate in rates.items()
    ]
    committed = rates["COMMITTED, 400 feeders, stored"]
    return [*lines, Line("COMMITTED, 400 feeders, to a commit for each tick", "", ratio(committed, each), "10")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url")
    parser.add_argument("--spool", type=Path, help="directory on the disk that is to be measured")
    arguments = parser.parse_args()
    arguments.big = 0
    with (
        tempfile.TemporaryDirectory(dir=arguments.spool) as directory,
        database(arguments, Path(directory)) as url,
    ):
        bench = Bench(url, arguments, Path(directory))
        spool = Path(directory) / "spool"
        spool.mkdir()
        print(
            f"{bench.rows:,} rows, median of {bench.rounds}; {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}\n"
        )
        print(table_of("Many feeders", writers(bench, spool)))
        bench.engine.dispose()


if __name__ == "__main__":
    main()
