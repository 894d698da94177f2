"""Bars of the running hour count every tick, also after a materialization, on the server's own clock."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from qts_data.contracts import TickData
from qts_data.database import migrations
from qts_data.database.engine import engine
from qts_data.models import Base
from qts_data.repositories import Database, TickRepository
from qts_data.writers import TickWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.engine import URL

    from qts_data.repositories import BarInterval, IngestReport
    from tests.fixtures.fix_cli import RunCommand

LENGTHS: tuple[BarInterval, ...] = ("1m", "5m", "1h", "4h", "1d")
HOUR = dt.timedelta(hours=1)


def text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def server_now(url: URL) -> dt.datetime:
    with engine(url).connect() as connection:
        now: dt.datetime = connection.execute(sa.text("SELECT now()")).scalar_one()
    return now


def ticks(symbol: str, last: dt.datetime, count: int, price: int) -> list[TickData]:
    """One tick a second, up to that time."""
    return [
        TickData(
            time=last - each * dt.timedelta(seconds=1),
            symbol=symbol,
            price=Decimal(price),
            volume=Decimal(1),
            source="",
        )
        for each in range(count)
    ][::-1]


async def load(database: Database, given: list[TickData]) -> IngestReport:
    async with database.transaction() as uow:
        return await uow.ticks.ingest(given, max_ahead=None)


async def refresh(database: Database, report: IngestReport) -> None:
    async with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await TickRepository(connection).refresh_bars(report.to_refresh)


async def counted(database: Database, symbol: str) -> set[tuple[int, int | None]]:
    """Ticks in the bars of each length, and the highest price."""
    async with database.reader() as reader:
        now: dt.datetime = await reader.connection.scalar(sa.text("SELECT now()"))
        span = (now - 3 * 24 * HOUR, now + 2 * 24 * HOUR)
        every = [await reader.ticks.bars(symbol, *span, length) for length in LENGTHS]
    return {(sum(bar.tick_count or 0 for bar in bars), max(int(bar.high) for bar in bars)) for bars in every}


def run_jobs(url: URL) -> None:
    with engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        found = "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name LIKE 'policy_refresh%' ORDER BY 1"
        for job in connection.scalars(sa.text(found)).all():
            connection.execute(sa.text(f"CALL run_job({job})"))


def materialize(url: URL, end: str) -> None:
    """Materialize without regard to the clock, as older imports did."""
    with engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name in ("ohlcv_1m", "ohlcv_1h", "hourly_execution_metrics"):
            connection.exec_driver_sql(
                f"CALL refresh_continuous_aggregate('{name}', now() - INTERVAL '2 days', now() + INTERVAL '{end}')"
            )


@pytest.mark.edition("community")
async def test_ticks_after_an_import_of_today_are_in_all_bars(
    database_url: URL, qts_data: RunCommand, tmp_path: Path
) -> None:
    now = server_now(database_url)
    file = tmp_path / "today.csv"
    lines = [f"{tick.time.isoformat()},A,100,1" for tick in ticks("A", now - dt.timedelta(seconds=10), 100, 100)]
    file.write_text("\n".join(["time,symbol,price,volume", *lines]))
    # The command has an event loop of its own.
    run = await asyncio.to_thread(
        qts_data, "import", "ticks", str(file), "--format", "csv", QTS_DATABASE_URL=text(database_url)
    )
    assert (run.returncode, "late" in run.stderr) == (0, False), run.stderr
    async with Database(database_url) as database:
        await load(database, ticks("A", now + dt.timedelta(seconds=5), 5, 500))
        assert await counted(database, "A") == {(105, 500)}
        run_jobs(database_url)
        assert await counted(database, "A") == {(105, 500)}


@pytest.mark.edition("community")
async def test_a_tick_hours_ahead_hides_no_other_symbols_ticks(database_url: URL) -> None:
    now = server_now(database_url)
    async with Database(database_url) as database:
        await load(database, ticks("C", now - dt.timedelta(seconds=10), 300, 7))
        run_jobs(database_url)
        ahead = await load(database, ticks("B", now + 9 * HOUR, 1, 1))
        assert (ahead.ahead, ahead.late, ahead.last) == (1, 0, now + 9 * HOUR)
        await refresh(database, ahead)
        await load(database, ticks("C", now, 5, 9))
        for _ in range(2):
            assert await counted(database, "C") == {(305, 9)}
            assert await counted(database, "B") == {(1, 1)}
            run_jobs(database_url)


@pytest.mark.edition("community")
async def test_a_live_tick_hours_ahead_stops_no_bars(database_url: URL) -> None:
    """Bars of the running hour and day go on for the symbol's own feed, before and after the policies ran."""
    now = server_now(database_url)
    reports: list[IngestReport] = []
    async with Database(database_url) as database:
        async with TickWriter(database, on_group=reports.append) as writer:
            for tick in [*ticks("C", now - dt.timedelta(seconds=10), 300, 7), *ticks("C", now + 9 * HOUR, 1, 1)]:
                await writer.write(tick)
            await writer.flush()
            assert writer.stats.ahead == 1
            await refresh(database, sum(reports[1:], reports[0]))
            run_jobs(database_url)
            for tick in ticks("C", now, 5, 9):
                await writer.write(tick)
        for _ in range(2):
            assert await counted(database, "C") == {(306, 9)}
            run_jobs(database_url)


@pytest.mark.edition("community")
async def test_ticks_after_adopting_are_in_all_bars(new_database: Callable[[], URL]) -> None:
    url = new_database()
    migrations.upgrade(url, timescaledb_off=True)
    now = server_now(url)
    async with Database(url) as database:
        await load(database, ticks("A", now - dt.timedelta(seconds=5), 4000, 100))
        await load(database, ticks("B", now + 9 * HOUR, 1, 1))
    migrations.adopt(url, Base.metadata)
    async with Database(url) as database:
        await load(database, ticks("A", now, 5, 500))
        assert await counted(database, "A") == {(4005, 500)}
    with engine(url).connect() as connection:
        made = connection.scalar(sa.text("SELECT count(*) > 0 FROM ohlcv_1m WHERE bucket < now() - INTERVAL '10 min'"))
    assert made


@pytest.mark.edition("community")
@pytest.mark.parametrize("end", ["1 hour", "20 hours"])
async def test_bars_materialized_too_early_are_found_and_set_back(
    database_url: URL, qts_data: RunCommand, end: str
) -> None:
    environment = {"QTS_DATABASE_URL": text(database_url)}
    now = server_now(database_url)
    log = (
        "INSERT INTO execution_logs (time, order_id, symbol, stage, latency_ms, success) "
        "VALUES (now(), '1', 'A', 'FILL', 1, true)"
    )
    async with Database(database_url) as database:
        await load(database, ticks("A", now - dt.timedelta(seconds=5), 4000, 100))
        await load(database, ticks("B", now + 9 * HOUR, 1, 1))
        with engine(database_url).begin() as connection:
            connection.exec_driver_sql(log)
        materialize(database_url, end)
        await load(database, ticks("A", now, 5, 500))
        assert await counted(database, "A") != {(4005, 500)}

        assert "run qts-data db adopt to set them back" in qts_data("status", **environment).stderr
        found = json.loads(qts_data("db", "check", "--json", **environment).stdout)
        names = {"hourly_execution_metrics", "ohlcv_1h"} | ({"ohlcv_1m"} if end == "20 hours" else set())
        assert names <= {one["name"] for one in found["differences"] if one["what"] == "watermark"}
        adopted = qts_data("db", "adopt", **environment)
        assert "set_back_watermark" in adopted.stdout, adopted.stderr

        assert qts_data("db", "check", **environment).returncode == 0
        assert await counted(database, "A") == {(4005, 500)}
        with engine(database_url).begin() as connection:
            connection.exec_driver_sql(log)
            assert connection.scalar(sa.text("SELECT sum(success_count) FROM hourly_execution_metrics")) == 2
        run_jobs(database_url)
        assert await counted(database, "A") == {(4005, 500)}
        assert await counted(database, "B") == {(1, 1)}
