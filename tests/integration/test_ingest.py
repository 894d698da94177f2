"""Ticks loaded as columns and records: exactly once and to the last digit, also after faults."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import signal
import subprocess
import sys
import zoneinfo
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest
import pytest_asyncio
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qts_data.contracts import TickData, any_text
from qts_data.database.engine import DatabaseConfig
from qts_data.errors import DatabaseUnavailable, InvalidRecord, QtsDataError
from qts_data.importers.lean_trade import read_ticks
from qts_data.repositories import BarRange, BatchId, Database, Numbering, SymbolSummary, TickRepository, TimeRange
from qts_data.repositories.market.ticks.copy.columns import read_columns
from qts_data.writers import load_in_parts
from tests.fixtures.effort import amount
from tests.fixtures.factories import TickFactory
from tests.fixtures.market import DAY, as_table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from sqlalchemy.engine import URL

    from qts_data.repositories import IngestReport, UnitOfWork
    from qts_data.timescale import Edition
    from tests.fixtures.fix_lean import LeanDay
    from tests.fixtures.fix_proxy import Proxy

START = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
FOR_EVER = (dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, tzinfo=dt.UTC))


@pytest_asyncio.fixture
async def database_(database_url: URL) -> AsyncIterator[Database]:
    # Loads wait for each other for as long as a busy machine takes.
    async with Database(database_url, DatabaseConfig(statement_timeout_seconds=0, lock_timeout_seconds=0)) as made:
        yield made


async def ingest(database: Database, ticks: Any, **options: Any) -> IngestReport:
    async with database.transaction() as uow:
        return await uow.ticks.ingest(ticks, **options)


async def stored(database: Database, symbol: str) -> list[TickData]:
    async with database.reader() as reader:
        return await reader.ticks.ticks(symbol, *FOR_EVER)


def at(second: float, price: int, **values: object) -> TickData:
    return TickFactory.build(
        time=START + dt.timedelta(seconds=second), price=Decimal(price), volume=Decimal(1), **values
    )


async def test_a_day_as_columns_in_any_batches_is_the_day_as_records(database_: Database, lean_day: LeanDay) -> None:
    symbol, count = "IBM", lean_day.facts.ibm_trades
    ticks = list(read_ticks(lean_day.ibm_trades, symbol, DAY))
    table = as_table(ticks)
    first = await ingest(database_, table, batch_size=1_000)
    assert (first.received, first.inserted, first.duplicate, first.late) == (count, count, 0, 0)
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=777))
    for again in (reader, pl.from_arrow(table), table.to_pandas(types_mapper=None), iter(ticks)):
        report = await ingest(database_, again)
        assert (report.inserted, report.duplicate) == (0, count)
    found = await stored(database_, symbol)
    assert [(tick.time, tick.price, tick.volume) for tick in found] == [
        (tick.time, tick.price, tick.volume) for tick in sorted(ticks, key=lambda tick: tick.time)
    ]


@pytest.fixture(params=["columns", "records", "records without NumPy"])
def as_columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The ways to load: one for Arrow, two for records."""
    if request.param == "records without NumPy":
        monkeypatch.setattr("qts_data.repositories.market.ticks.sources.is_installed", lambda _: False)
    return bool(request.param == "columns")


async def test_batches_of_one_number_like_one_batch(database_: Database, as_columns: bool) -> None:
    ticks = [at(second, price) for second, price in [(0, 1), (0, 2), (1, 3), (0, 4), (1, 5), (0, 6)]]
    report = await ingest(database_, as_table(ticks) if as_columns else ticks, batch_size=1)
    assert report.inserted == 6
    assert [(int(tick.price), tick.seq) for tick in await stored(database_, "005930")] == [
        (1, 0), (2, 1), (4, 2), (6, 3), (3, 0), (5, 1),
    ]  # fmt: skip
    again = await ingest(database_, ticks if as_columns else as_table(ticks), batch_size=4)
    assert again.duplicate == 6


async def test_a_known_batch_is_not_read_again(database_: Database) -> None:
    batch = BatchId("feed", 100)
    first = await ingest(database_, [at(0, 1), at(0, 1)], batch=batch)

    def never() -> Iterator[TickData]:
        pytest.fail("the batch was read")
        yield

    known = await ingest(database_, never(), batch=batch)
    assert known.already_loaded
    assert (known.received, known.inserted, known.duplicate, known.first) == (2, 0, 2, first.first)
    async with database_.transaction() as uow:
        await uow.connection.exec_driver_sql("DELETE FROM tick_data")
    again = await ingest(database_, [at(0, 1), at(0, 1)], batch=batch, again=True)
    assert (again.already_loaded, again.inserted) == (False, 2)
    # Another table is another place.
    async with database_.transaction() as uow:
        kept = await uow.tick_history.ingest([at(0, 1)], batch=batch)
    assert kept.inserted == 1


async def test_a_batch_of_a_load_that_failed_is_not_known(database_: Database) -> None:
    def broken() -> Iterator[TickData]:
        yield at(0, 1)
        raise ValueError("the disk")

    with pytest.raises(ValueError, match="the disk"):
        await ingest(database_, broken(), batch=BatchId("a"), batch_size=1)
    report = await ingest(database_, [at(0, 1)], batch=BatchId("a"))
    assert (report.already_loaded, report.inserted) == (False, 1)


async def test_two_loads_of_one_batch_at_the_same_time_load_it_once(database_: Database) -> None:
    ticks = TickFactory.build_batch(500)
    reports = await asyncio.gather(*(ingest(database_, ticks, batch=BatchId("same")) for _ in range(4)))
    assert sorted(report.already_loaded for report in reports) == [False, True, True, True]
    assert sum(report.inserted for report in reports) == 500


async def test_file_is_known_by_its_content_and_options(tmp_path: Path) -> None:
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (BatchId.of_file(tmp_path / name, "lean-trade", "SPY") for name in "abc")
    assert a == b != c
    assert a != BatchId.of_file(tmp_path / "a", "lean-trade", "IBM")


@pytest.mark.usefixtures("as_columns")
async def test_pieces_of_a_feed_go_on_from_the_stored_ticks(database_: Database) -> None:
    for part, prices in enumerate([(1, 2), (3,), (4, 5, 6)]):
        for _ in range(2):  # each is sent twice
            report = await ingest(
                database_, [at(0, price) for price in prices], batch=BatchId("feed", part), continues=True
            )
    assert report.already_loaded
    assert [(int(tick.price), tick.seq) for tick in await stored(database_, "005930")] == [
        (price, price - 1) for price in range(1, 7)
    ]
    # Ticks that have a seq of their own are known by it.
    mixed = [at(0, 7), at(9, 8, seq=55), at(9, 8, seq=55)]
    with pytest.raises(InvalidRecord, match="name of the batch"):
        await ingest(database_, mixed, continues=True)
    report = await ingest(database_, as_table(mixed[:2]), batch=BatchId("feed", 3), continues=True)
    assert report.inserted == 2
    report = await ingest(database_, as_table(mixed[1:2]), batch=BatchId("feed", 4), continues=True)
    assert (report.inserted, report.duplicate) == (0, 1)


async def test_writers_that_meet_in_one_instant_lose_nothing(database_: Database) -> None:
    async def load(uow: UnitOfWork, batch: BatchId) -> IngestReport:
        ticks = [at(0, batch.part) for _ in range(20)]
        return await uow.ticks.ingest(ticks, batch=batch, continues=True)

    async def feed(name: str) -> None:
        for part in range(5):
            await database_.run(partial(load, batch=BatchId(name, part)))

    await asyncio.gather(*(feed(name) for name in "abc"))
    found = await stored(database_, "005930")
    assert [tick.seq for tick in found] == list(range(300))


async def test_a_source_in_parts_shares_its_numbering(database_: Database) -> None:
    numbering = Numbering()
    ticks = [at(0, price) for price in range(10)]
    await ingest(database_, ticks[:4], numbering=numbering)
    await ingest(database_, ticks[4:], numbering=numbering)
    assert [int(tick.price) for tick in await stored(database_, "005930")] == list(range(10))


async def test_loaded_batch_counts_for_batches_that_follow(database_: Database, as_columns: bool) -> None:
    """A batch that is already loaded still counts in the numbering of its source after a restart."""

    def part(*prices: int) -> Any:
        ticks = [at(0, price) for price in prices]
        return as_table(ticks) if as_columns else ticks

    await ingest(database_, part(1, 2), batch=BatchId("source", 0), numbering=Numbering())
    numbering = Numbering()  # of a restarted process
    assert (await ingest(database_, part(1, 2), batch=BatchId("source", 0), numbering=numbering)).already_loaded
    assert (await ingest(database_, part(2, 3), batch=BatchId("source", 2), numbering=numbering)).inserted == 2
    assert [(int(tick.price), tick.seq) for tick in await stored(database_, "005930")] == [
        (1, 0), (2, 1), (2, 2), (3, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("sizes", [(2, 2), (2, 7), (7, 2)])
async def test_loads_of_one_source_at_the_same_time_lose_nothing(database_: Database, sizes: tuple[int, int]) -> None:
    ticks = [at(0, 5) for _ in range(40)]
    reports = await asyncio.gather(
        *(load_in_parts(database_, iter(ticks), stream="source", part_size=size) for size in sizes)
    )
    assert [report.received for report in reports] == [40, 40]
    assert [tick.seq for tick in await stored(database_, "005930")] == list(range(40))


async def test_attempt_overtaken_by_another_is_numbered_on(database_: Database) -> None:
    """Another attempt loads parts of the same batch after this one has looked for them."""
    ticks = [at(0, price) for price in range(20)]

    def overtaken() -> Iterator[TickData]:
        yield from ticks[:5]
        raise OSError

    # Another attempt loads parts of three after this one has looked for parts.
    attempts = iter([3])
    transaction = database_.transaction

    @contextlib.asynccontextmanager
    async def late_transaction() -> AsyncIterator[UnitOfWork]:
        for size in attempts:
            with contextlib.suppress(OSError):
                await load_in_parts(database_, overtaken(), stream="source", part_size=size)
        async with transaction() as uow:
            yield uow

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database_, "transaction", late_transaction)
        report = await load_in_parts(database_, ticks, stream="source", part_size=8)
    assert (report.received, report.inserted) == (20, 17)
    assert [int(tick.price) for tick in await stored(database_, "005930")] == list(range(20))


async def test_resumed_load_names_bars_of_ticks_loaded_before(database_: Database) -> None:
    ticks = [at(hour * 3600, 1) for hour in (0, 1, 5)]

    def killed() -> Iterator[TickData]:
        yield from ticks[:2]
        raise KeyboardInterrupt

    # Killed before the refresh of the bars.
    with pytest.raises(KeyboardInterrupt):
        await load_in_parts(database_, killed(), stream="source", part_size=1)
    stale = (
        TimeRange(START, START + dt.timedelta(hours=2)),
        TimeRange(START + dt.timedelta(hours=5), START + dt.timedelta(hours=6)),
    )
    report = await load_in_parts(database_, ticks, stream="source", part_size=1)
    assert (report.already_loaded, report.inserted, report.to_refresh) == (False, 1, stale)
    assert (report.first, report.last) == (ticks[0].time, ticks[2].time)
    # And killed between the last part and the refresh.
    report = await load_in_parts(database_, ticks, stream="source", part_size=1)
    assert (report.already_loaded, report.to_refresh) == (True, (TimeRange(START, START + dt.timedelta(hours=6)),))


async def test_an_empty_batch_of_the_name_of_a_source_does_not_hide_it(database_: Database) -> None:
    await ingest(database_, [], batch=BatchId("source"))
    assert (await load_in_parts(database_, [at(0, 1)], stream="source")).inserted == 1


@pytest.mark.usefixtures("as_columns")
async def test_late_ticks_are_named_with_the_bars_they_change(database_: Database) -> None:
    first = await ingest(database_, [at(0, 1), at(600, 1)])
    assert (first.late, first.changed) == (0, ())
    assert first.to_refresh == (TimeRange(START, START + dt.timedelta(hours=1)),)
    report = await ingest(
        database_, [at(600, 1), at(601, 2), at(61, 1), at(125, 1), at(300, 1), at(0, 1, symbol="000660")]
    )
    # The minute of the last tick is over too, so its bar may have been given as closed.
    assert (report.inserted, report.duplicate, report.late) == (5, 1, 4)

    def minutes(start: int, end: int) -> BarRange:
        return BarRange("005930", "test", START + dt.timedelta(minutes=start), START + dt.timedelta(minutes=end))

    assert report.changed == (minutes(1, 3), minutes(5, 6), minutes(10, 11))


async def test_ticks_of_a_minute_that_is_not_over_are_not_late(database_: Database) -> None:
    async with database_.reader() as reader:
        now: dt.datetime = await reader.connection.scalar(sa.text("SELECT now()"))
    # Minutes that do not end while this runs.
    minute = now.replace(second=0, microsecond=0) + dt.timedelta(minutes=30)
    for second in (20, 10, -1):
        report = await ingest(
            database_, [TickFactory.build(time=minute + dt.timedelta(seconds=second))], max_ahead=None
        )
        assert (report.late, report.ahead, report.changed) == (0, 1, ())
    report = await ingest(database_, [TickFactory.build(time=now - dt.timedelta(minutes=2))])
    assert (report.late, report.ahead) == (1, 0)


@pytest.mark.usefixtures("as_columns")
async def test_a_tick_too_far_ahead_is_refused_with_its_row(database_: Database) -> None:
    async with database_.reader() as reader:
        now: dt.datetime = await reader.connection.scalar(sa.text("SELECT now()"))
    ticks = [TickFactory.build(time=now + dt.timedelta(seconds=seconds)) for seconds in (-5, 20, 3600)]
    with pytest.raises(InvalidRecord, match=r"row 3: time: .* ahead of the server's clock; at most 0:01:00 are taken"):
        await ingest(database_, ticks)
    assert await stored(database_, "005930") == []
    report = await ingest(database_, ticks, max_ahead=dt.timedelta(hours=2))
    assert (report.inserted, report.last) == (3, ticks[2].time)
    assert report.ahead in {1, 2}


async def test_rows_too_far_ahead_are_rejected_beside_good_ones(database_: Database) -> None:
    now = dt.datetime.now(dt.UTC)
    ticks = [TickFactory.build(time=now + dt.timedelta(seconds=seconds)) for seconds in (3600, -5, 7200)]
    rejected: list[InvalidRecord] = []
    report = await ingest(database_, as_table(ticks), reject=rejected.append)
    assert (report.received, report.inserted, report.rejected) == (3, 1, 2)
    assert [(one.row, one.field) for one in rejected] == [(1, "time"), (3, "time")]


async def test_a_first_import_in_parts_has_no_late_ticks(database_: Database) -> None:
    """Parts end within a minute, an hour and a day."""
    ticks = [at(second, 1) for second in range(0, 3 * 86_400, 1_777)]
    ticks += [at(3 * 86_400 + second, 1) for second in range(100)]
    report = await load_in_parts(database_, ticks, stream="sorted", part_size=7)
    assert (report.inserted, report.late, report.changed) == (len(ticks), 0, ())
    again = await load_in_parts(database_, [at(50.5, 2)], stream="another")
    assert (again.late, again.changed[0].start) == (1, START)


@pytest.mark.parametrize(("seconds", "late"), [(3_599, 1), (3_600, 1), (14_400, 1), (15 * 3600 - 1, 1), (15 * 3600, 0)])
async def test_a_new_minute_of_a_closed_longer_bar_is_late(database_: Database, seconds: int, late: int) -> None:
    """The minute had no tick and comes after all that had one. The trading day in Seoul ends at 15:00 UTC."""
    await ingest(database_, [at(0, 1)])
    report = await ingest(database_, [at(seconds, 1)])
    minute = START + dt.timedelta(seconds=seconds // 60 * 60)
    changed = (BarRange("005930", "test", minute, minute + dt.timedelta(minutes=1)),)
    assert (report.late, report.changed) == (late, changed if late else ())


@pytest.mark.usefixtures("as_columns")
async def test_pieces_go_behind_ticks_with_a_seq_of_their_own(database_: Database) -> None:
    await ingest(database_, [at(0, 1, seq=5), at(1, 1)])
    pieces = [[at(0, 2), at(1, 2), at(2, 1)], [at(2, 2, seq=7), at(2, 3)], [at(0, 3), at(1, 3), at(2, 4)]]
    for part, ticks in enumerate(pieces):
        await ingest(database_, ticks, batch=BatchId("feed", part), continues=True)
    assert [(tick.time.second, int(tick.price), tick.seq) for tick in await stored(database_, "005930")] == [
        (0, 1, 5), (0, 2, 6), (0, 3, 7),
        (1, 1, 0), (1, 2, 1), (1, 3, 2),
        (2, 1, 0), (2, 2, 7), (2, 3, 8), (2, 4, 9),
    ]  # fmt: skip


@pytest.mark.usefixtures("as_columns", "implausible_times")
async def test_the_last_instants_that_there_are_can_be_loaded(database_: Database) -> None:
    last = dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)
    times = [last, last - dt.timedelta(minutes=30)]
    report = await ingest(database_, [TickFactory.build(time=time) for time in times], max_ahead=None)
    assert report.to_refresh == (TimeRange(last.replace(minute=0, second=0, microsecond=0), last),)
    assert (report.first, report.last) == (times[1], times[0])
    report = await ingest(database_, [TickFactory.build(time=last - dt.timedelta(minutes=10))], max_ahead=None)
    # No bar of that time has been given as closed.
    assert (report.late, report.ahead) == (0, 1)
    autocommit = database_.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        assert (await TickRepository(connection).refresh_bars(report.to_refresh)).skipped == {}


@pytest.mark.usefixtures("as_columns")
async def test_both_passes_of_a_repeated_hour_are_own_instants(database_: Database) -> None:
    """The hour that a change of the clocks repeats gives two instants for one local time."""

    def times(second: int) -> list[dt.datetime]:
        zone = zoneinfo.ZoneInfo("America/New_York")
        return [dt.datetime(2025, 11, 2, 1, 30, second, fold=fold, tzinfo=zone) for fold in (1, 0)]

    ticks = [TickFactory.build(time=time) for second in (0, 1) for time in times(second)]
    report = await ingest(database_, ticks)
    assert [(tick.time, tick.seq) for tick in await stored(database_, "005930")] == [
        (time.astimezone(dt.UTC), 0) for time in (times(0)[1], times(1)[1], times(0)[0], times(1)[0])
    ]
    assert (report.first, report.last) == (times(0)[1].astimezone(dt.UTC), times(1)[0].astimezone(dt.UTC))


@pytest.mark.usefixtures("as_columns")
async def test_zeros_beyond_the_places_of_a_column_are_no_digits(database_: Database) -> None:
    zeros = "0" * 40
    tick = TickFactory.build(
        price=Decimal(f"100.{zeros}"), volume=Decimal(f"1.5{zeros}"), bid=None, ask=Decimal(f"101.{zeros}")
    )
    await ingest(database_, [tick, TickFactory.build(price=Decimal(1))])
    found = {found.price: found for found in await stored(database_, tick.symbol)}[Decimal(100)]
    assert (found.volume, found.bid, found.ask) == (Decimal("1.5"), None, Decimal(101))


def test_refused_long_symbol_does_not_widen_all_rows() -> None:
    """The array of symbols is as wide as the longest symbol that was accepted."""
    table = as_table([at(0, 1), at(1, 1)]).set_column(1, "symbol", pa.array(["A", "x" * 100_000]))
    complaints: list[InvalidRecord] = []
    columns, rejected = read_columns(table.combine_chunks().to_batches()[0], reject=complaints.append)
    assert (rejected, complaints[0].field) == (1, "symbol")
    assert max(map(len, columns.symbols)) == 1


async def test_categories_of_polars_go_in(database_: Database) -> None:
    await ingest(database_, [at(second, second + 1, symbol="AB"[second % 2]) for second in range(6)])
    async with database_.reader() as reader:
        frame = pl.concat([await reader.ticks.ticks(symbol, *FOR_EVER).as_polars() for symbol in "AB"])
    assert frame.schema["symbol"] == pl.Categorical
    enums = frame.with_columns(symbol=frame["symbol"].cast(pl.Enum(["unused", "B", "A"])))
    for taken in (frame, enums, enums.slice(2, 3)):
        for batch_size in (2, 100):
            async with database_.engine.connect() as connection:  # never committed
                history = TickRepository(connection, "tick_history")
                await history.ingest(taken, batch_size=batch_size)
                for symbol in "AB":
                    ticks = await history.ticks(symbol, *FOR_EVER)
                    prices = taken.filter(pl.col("symbol").cast(pl.String) == symbol)["price"].to_list()
                    assert [tick.price for tick in ticks] == prices


async def test_report_counts_ticks_that_retention_will_drop(database_: Database, edition: Edition) -> None:
    now = dt.datetime.now(dt.UTC)
    old = TickFactory.build(time=now - dt.timedelta(days=30))
    report = await ingest(database_, [old, TickFactory.build(time=now)])
    if edition == "community":
        assert report.cutoff is not None
        assert abs(now - dt.timedelta(days=7) - report.cutoff) < dt.timedelta(minutes=10)
        assert report.past_retention == 1
    else:
        assert (report.cutoff, report.past_retention) == (None, 0)
    async with database_.transaction() as uow:
        kept = await uow.tick_history.ingest([old])
    assert (kept.inserted, kept.cutoff, kept.past_retention) == (1, None, 0)


async def test_overview_is_exact_under_concurrent_loads(database_: Database) -> None:
    """The loads have duplicates, and some are rolled back."""

    def load(seed: int) -> list[TickData]:
        chance = random.Random(seed)
        return [
            TickFactory.build(
                symbol=chance.choice("AB"),
                source=chance.choice(["x", "y"]),
                time=START + dt.timedelta(hours=chance.randrange(60)),
                seq=chance.randrange(5),
                price=Decimal(1),
                volume=Decimal(1),
            )
            for _ in range(200)
        ]

    async def run(seed: int) -> None:
        ticks = load(seed)
        unique = {(tick.symbol, tick.time, tick.source, tick.seq): tick for tick in ticks}
        try:
            async with database_.transaction() as uow:
                await uow.ticks.ingest(as_table(list(unique.values())) if seed % 2 else unique.values())
                if seed % 3 == 0:
                    await uow.connection.exec_driver_sql("SELECT 1 / 0")
        except QtsDataError:
            assert seed % 3 == 0

    await asyncio.gather(*(run(seed) for seed in range(9)))
    async with database_.reader() as reader:
        counted = await reader.ticks.overview()
        rows = await reader.connection.exec_driver_sql(
            "SELECT symbol, source, count(*) AS ticks, min(time) AS first, max(time) AS last FROM tick_data "
            "GROUP BY 1, 2 ORDER BY 1, 2"
        )
        assert counted == [SymbolSummary(row.symbol, row.source, row.ticks, row.first, row.last) for row in rows]
    assert len(counted) == 4
    async with database_.transaction() as uow:
        await uow.connection.exec_driver_sql("DELETE FROM tick_data WHERE symbol = 'A'")
        await uow.ticks.recount()
        assert [item.symbol for item in await uow.ticks.overview()] == ["B", "B"]


@pytest.mark.edition("community", "apache")
async def test_overview_follows_dropped_and_reloaded_days(database_: Database) -> None:
    """Retention drops a day, and the day is then loaded again."""
    day = dt.timedelta(days=1)
    await ingest(database_, [at(0, 1), at(1, 1), at(day.total_seconds(), 1)])
    async with database_.transaction() as uow:
        await uow.connection.execute(
            sa.text("SELECT drop_chunks('tick_data', CAST(:t AS timestamptz))"), {"t": START + day}
        )
        (only,) = await uow.ticks.overview()
        assert (only.ticks, only.first, only.last) == (1, START + day, START + day)
    await ingest(database_, [at(5, 1)])
    async with database_.reader() as reader:
        (both,) = await reader.ticks.overview()
    assert (both.ticks, both.first, both.last) == (2, START + dt.timedelta(seconds=5), START + day)


numbers = st.decimals(allow_nan=False, allow_infinity=False, min_value=-9999999999, max_value=9999999999, places=8)
volumes = st.decimals(
    allow_nan=False, allow_infinity=False, min_value=0, max_value=Decimal("99999999999999999999.99999999"), places=8
) | numbers.map(abs)
rows = st.tuples(
    numbers,
    volumes,
    st.none() | numbers,
    st.none() | numbers,
    st.sampled_from(["", "a\\b", "t\tn\n", "가"]),
    st.sampled_from(["S", "종목", "X\\'\""]),
    st.integers(-3600_000_000, 3600_000_000),
)


def place(tick: TickData) -> tuple[dt.datetime, bytes, int | None]:
    return (tick.time, tick.source.encode(), tick.seq)


@settings(max_examples=amount(15, 40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(rows, min_size=1, max_size=30), batch_size=st.integers(1, 40))
async def test_columns_keep_every_digit_on_their_way(
    database_: Database, values: list[tuple[Any, ...]], batch_size: int
) -> None:
    # Stored ticks may be older than the rules for names.
    """Ticks loaded as columns are read back exactly, as columns and as records."""
    with any_text():
        await _goes_in_and_comes_out(database_, values, batch_size)


async def _goes_in_and_comes_out(database_: Database, values: list[tuple[Any, ...]], batch_size: int) -> None:
    ticks = [
        TickData(
            time=START + dt.timedelta(microseconds=micros),
            symbol=symbol, source=source, price=price, volume=volume, bid=bid, ask=ask, seq=number,
        )
        for number, (price, volume, bid, ask, source, symbol, micros) in enumerate(values)
    ]  # fmt: skip
    wanted = sorted(ticks, key=lambda tick: (tick.symbol, tick.time, tick.source.encode(), tick.seq or 0))
    async with database_.engine.connect() as connection:
        repository = TickRepository(connection)
        await repository.ingest(as_table(ticks), batch_size=batch_size)
        for symbol in {tick.symbol for tick in ticks}:
            mine = [tick for tick in wanted if tick.symbol == symbol]
            query = repository.ticks(symbol, *FOR_EVER)
            found = await query
            assert sorted(found, key=place) == mine
            table = await query.as_arrow()
            assert sorted((TickData(**row) for row in table.to_pylist()), key=place) == mine
        again = await repository.ingest(ticks)
        assert again.duplicate == len(ticks)
        # Loaded again as text, without NumPy, the ticks equal those that NumPy encoded.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("qts_data.repositories.market.ticks.sources.is_installed", lambda _: False)
            again = await repository.ingest(ticks)
        assert again.duplicate == len(ticks)
        await connection.rollback()


BAD_COLUMNS: list[tuple[str, Callable[[pa.Table], pa.Table], str]] = [
    ("float", lambda t: t.set_column(4, "price", t["price"].cast(pa.float64())), "price: is double, which is not"),
    ("naive", lambda t: t.set_column(0, "time", t["time"].cast(pa.timestamp("us"))), "time: has no time zone"),
    ("text", lambda t: t.set_column(4, "price", t["price"].cast(pa.string())), "price: is string, which is not exact"),
    ("missing", lambda t: t.drop_columns(["volume"]), "volume: the column is missing"),
    ("unknown", lambda t: t.rename_columns([name.replace("bid", "bd") for name in t.schema.names]), "bd: tick_data"),
    ("seq", lambda t: t.set_column(3, "seq", pa.array([1.0, 2.0])), "seq: is double; give integers"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in BAD_COLUMNS], ids=[row[0] for row in BAD_COLUMNS])
async def test_columns_that_are_not_exact_are_refused(
    database_: Database, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    with pytest.raises(InvalidRecord) as caught:
        await ingest(database_, change(as_table([at(0, 1), at(1, 2)])))
    assert str(caught.value).startswith(message)


async def test_bad_rows_of_columns_are_named_and_good_ones_stored(database_: Database) -> None:
    """Each bad row is named by its number and field."""
    good = as_table([at(second, 1, source="", seq=second) for second in range(8)]).to_pylist()
    wide = pa.decimal128(38, 10)
    kinds = {"time": pa.timestamp("ns", "UTC"), "price": wide, "volume": wide, "bid": wide, "ask": wide}
    good[1] |= {"symbol": ""}
    good[2] |= {"price": Decimal(12345678901)}
    good[3] |= {"volume": Decimal(-1)}
    good[4] |= {"price": None}
    good[5] |= {"bid": Decimal("0.000000001")}
    good[6] |= {"seq": -1}
    table = pa.Table.from_pylist(
        good,
        schema=pa.schema([(name, kinds.get(name, pa.int64() if name == "seq" else pa.string())) for name in good[0]]),
    )
    with pytest.raises(InvalidRecord, match="row 2: symbol: must have 1 to 64 characters"):
        await ingest(database_, table)
    refused: list[InvalidRecord] = []
    report = await ingest(database_, table, reject=refused.append, batch_size=3)
    assert [(error.row, error.field) for error in refused] == [
        (2, "symbol"), (3, "price"), (4, "volume"), (5, "price"), (6, "bid"), (7, "seq"),
    ]  # fmt: skip
    assert (report.received, report.rejected, report.inserted) == (8, 6, 2)


async def test_nanoseconds_are_refused_where_they_would_be_lost(database_: Database) -> None:
    table = as_table([at(0, 1)])
    nanos = pa.array([1_000_001], pa.timestamp("ns", "UTC"))
    with pytest.raises(InvalidRecord, match="fraction of a microsecond"):
        await ingest(database_, table.set_column(0, "time", nanos))


async def test_tick_of_an_evicted_instant_is_refused(database_: Database, as_columns: bool) -> None:
    from qts_data.repositories.market.ticks.copy.column_batch import ColumnOrdinals
    from qts_data.repositories.market.ticks.ordinals import Ordinals

    numbering = Numbering()
    numbering.records, numbering.columns = Ordinals(remembered=4), ColumnOrdinals(remembered=4)
    ticks = [*(at(second, 1) for second in range(20)), at(0, 1)]
    with pytest.raises(InvalidRecord, match="out of order, more than 4 instants"):
        await ingest(database_, as_table(ticks) if as_columns else ticks, numbering=numbering, batch_size=2)


async def test_load_with_a_lost_connection_is_all_or_nothing(proxy: Proxy) -> None:
    """The connection is lost in the middle of a load. The next attempt loads everything."""
    ticks = TickFactory.build_batch(3_000)
    async with Database(proxy.url) as database:
        proxy.cut_at(b"COPY tick_data", when="after")
        with pytest.raises(DatabaseUnavailable):
            await ingest(database, ticks, batch=BatchId("cut"), batch_size=1_000)
        report = await ingest(database, ticks, batch=BatchId("cut"), batch_size=1_000)
        assert (report.already_loaded, report.inserted) == (False, 3_000)


_LOADER = """
import asyncio, sys
from pathlib import Path
from qts_data.database.engine import parse_url
from qts_data.importers.lean_trade import read_ticks
from qts_data.repositories import Database
from qts_data.writers import load_in_parts
import datetime as dt
async def main():
    url, path, symbol, size = sys.argv[1:]
    async with Database(parse_url(url)) as database:
        ticks = read_ticks(Path(path), symbol, dt.date(2013, 10, 7))
        print("go", flush=True)
        await load_in_parts(database, ticks, stream="killed", part_size=int(size))
asyncio.run(main())
"""


async def test_a_load_that_is_killed_again_and_again_ends_exact(
    database_: Database, database_url: URL, long_feed: tuple[Path, int]
) -> None:
    (path, count), symbol = long_feed, "SPY"
    chance = random.Random(7)
    url = database_url.render_as_string(hide_password=False)
    killed = 0
    for size in ("500", "1300", "2000", str(count)):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _LOADER, url, str(path), symbol, size, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.readline()
        if size != str(count):
            await asyncio.sleep(chance.uniform(0.02, 0.5))
            with contextlib.suppress(ProcessLookupError):  # it was faster
                process.kill()
        _, errors = await process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert process.returncode in {0, -signal.SIGKILL}, errors
    assert process.returncode == 0
    assert killed
    wanted = list(read_ticks(path, symbol, DAY))
    found = await stored(database_, symbol)
    assert [(tick.time, tick.price, tick.volume) for tick in found] == [
        (tick.time, tick.price, tick.volume) for tick in wanted
    ]
