"""Loads of ticks and reads of bars: real days, duplicates, restarts, bad rows."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qts_data.contracts import OHLCV, TickData, any_text
from qts_data.database.engine import async_engine
from qts_data.errors import InvalidRecord
from qts_data.importers.lean_bars import read_bars
from qts_data.importers.lean_trade import read_ticks
from qts_data.repositories import IngestReport, RefreshReport, TickRepository
from tests.fixtures.effort import amount
from tests.fixtures.factories import TickFactory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

    from qts_data.timescale import Edition
    from tests.fixtures.fix_lean import LeanDay

DAY = dt.date(2013, 10, 7)
NEW_YORK_DAY = (dt.datetime(2013, 10, 7, tzinfo=dt.UTC), dt.datetime(2013, 10, 9, tzinfo=dt.UTC))


@pytest.fixture
async def async_database(database_url: URL) -> AsyncIterator[AsyncEngine]:
    made = async_engine(database_url)
    yield made
    await made.dispose()


async def ingest(database: AsyncEngine, ticks: Iterable[TickData], *, batch_size: int = 50_000) -> IngestReport:
    async with database.begin() as connection:
        return await TickRepository(connection).ingest(ticks, batch_size=batch_size)


async def bars(database: AsyncEngine, symbol: str, *, interval: str = "1m") -> list[OHLCV]:
    async with database.connect() as connection:
        return list(await TickRepository(connection).bars(symbol, *NEW_YORK_DAY, interval))  # type: ignore[arg-type]


async def refresh(database: AsyncEngine, start: dt.datetime, end: dt.datetime) -> tuple[str, ...]:
    autocommit = database.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        return (await TickRepository(connection).refresh_bars(start, end)).refreshed


async def test_day_loaded_twice_gives_the_published_minutes(
    async_database: AsyncEngine, edition: Edition, lean_day: LeanDay
) -> None:
    """The second load finds duplicates only, although some trades of the day are equal."""
    path, count = lean_day.spy_trades, lean_day.facts.spy_trades
    first = await ingest(async_database, read_ticks(path, "SPY", DAY))
    assert (first.received, first.inserted, first.duplicate) == (count, count, 0)
    second = await ingest(async_database, read_ticks(path, "SPY", DAY))
    assert (second.received, second.inserted, second.duplicate) == (count, 0, count)

    async with async_database.connect() as connection:
        stored, distinct = (
            await connection.execute(
                sa.text("SELECT count(*), count(DISTINCT (time, price, volume)) FROM tick_data WHERE symbol = 'SPY'")
            )
        ).one()
    assert stored == count
    assert distinct < stored

    assert first.first is not None
    assert first.last is not None
    refreshed = await refresh(async_database, first.first, first.last)
    assert refreshed == (("ohlcv_1m", "ohlcv_1h") if edition == "community" else ())

    ours = {bar.time: bar for bar in await bars(async_database, "SPY")}
    published = {bar.time: bar for bar in read_bars(lean_day.spy_minutes, "SPY", DAY)}
    both = [(ours[time], bar) for time, bar in published.items() if time in ours]
    assert len(published) == len(both) == lean_day.facts.minutes
    assert sum(mine.volume == theirs.volume for mine, theirs in both) == lean_day.facts.same_volumes
    assert (
        sum(
            (mine.open, mine.high, mine.low, mine.close) == (theirs.open, theirs.high, theirs.low, theirs.close)
            for mine, theirs in both
        )
        == lean_day.facts.same_prices
    )
    # An hour is made of its minutes, materialized or not.
    hours = await bars(async_database, "SPY", interval="1h")
    assert hours == hours_of(list(ours.values()))


def hours_of(minutes: list[OHLCV]) -> list[OHLCV]:
    groups: dict[dt.datetime, list[OHLCV]] = defaultdict(list)
    for bar in minutes:
        groups[bar.time.replace(minute=0)].append(bar)
    return [
        OHLCV(
            time=hour,
            symbol=group[0].symbol,
            source=group[0].source,
            open=group[0].open,
            high=max(bar.high for bar in group),
            low=min(bar.low for bar in group),
            close=group[-1].close,
            volume=sum((bar.volume for bar in group), Decimal(0)),
            tick_count=sum(bar.tick_count for bar in group),
        )
        for hour, group in sorted(groups.items())
    ]


def at(second: float, price: int, **values: object) -> TickData:
    time = dt.datetime(2013, 10, 7, 14, 30, tzinfo=dt.UTC) + dt.timedelta(seconds=second)
    return TickFactory.build(time=time, price=Decimal(price), volume=Decimal(1), **values)


async def test_ticks_of_one_millisecond_keep_the_source_order(async_database: AsyncEngine) -> None:
    """Open and close are the first and last tick as the source gave them."""
    await ingest(async_database, [at(0, 30), at(0, 10), at(5, 40), at(5, 20)])
    (bar,) = await bars(async_database, "005930")
    assert [int(price) for price in (bar.open, bar.high, bar.low, bar.close)] == [30, 40, 10, 20]
    assert (int(bar.volume), bar.tick_count) == (4, 4)


async def test_two_feeds_of_one_symbol_never_share_a_bar(async_database: AsyncEngine) -> None:
    await ingest(async_database, [at(0, 30, source="a"), at(1, 31, source="a"), at(0, 30, source="b")])
    found = await bars(async_database, "005930")
    assert [(bar.source, bar.tick_count) for bar in found] == [("a", 2), ("b", 1)]


async def test_batches_that_cut_a_millisecond_go_on_counting(async_database: AsyncEngine) -> None:
    """Equal ticks of one millisecond are numbered across batches of any size."""
    ticks = [at(0, 30)] * 7
    report = await ingest(async_database, ticks, batch_size=2)
    assert report.inserted == 7
    again = await ingest(async_database, ticks, batch_size=3)
    assert (again.inserted, again.duplicate) == (0, 7)


async def test_source_that_grew_adds_its_new_ticks_only(async_database: AsyncEngine) -> None:
    ticks = TickFactory.build_batch(1_000)
    await ingest(async_database, ticks[:600])
    report = await ingest(async_database, ticks, batch_size=128)
    assert (report.inserted, report.duplicate) == (400, 600)


async def test_other_tick_under_a_stored_key_is_refused(async_database: AsyncEngine) -> None:
    """The load raises and stores nothing. The stored tick stays."""
    await ingest(async_database, [at(0, 30)])
    with pytest.raises(InvalidRecord, match=r"already holds another tick .* stored 30.* given 31"):
        await ingest(async_database, [at(60, 50), at(0, 31)])
    found = await bars(async_database, "005930")
    assert [bar.open for bar in found] == [30]


async def test_a_bad_record_in_the_middle_of_a_source_loads_nothing(async_database: AsyncEngine) -> None:
    def source() -> Iterable[TickData]:
        yield at(0, 30)
        yield at(1, 30, symbol="")

    with pytest.raises(InvalidRecord, match="symbol"):
        await ingest(async_database, source(), batch_size=1)
    assert await bars(async_database, "005930") == []


async def test_an_empty_source_is_no_error(async_database: AsyncEngine) -> None:
    report = await ingest(async_database, [])
    assert (report.received, report.inserted, report.first, report.to_refresh) == (0, 0, None, ())


async def test_bars_of_a_range_without_a_time_zone_are_refused(async_database: AsyncEngine) -> None:
    async with async_database.connect() as connection:
        with pytest.raises(InvalidRecord, match=r"start: .* has no time zone"):
            await TickRepository(connection).bars(
                "SPY",
                dt.datetime(2013, 10, 7),  # noqa: DTZ001 - that is the mistake
                NEW_YORK_DAY[1],
                "1m",
            )


@pytest.mark.edition("community")
async def test_a_refresh_never_deletes_bars_whose_ticks_were_dropped(async_database: AsyncEngine) -> None:
    old = [at(0, 30), at(60, 31)]
    await ingest(async_database, old)
    await refresh(async_database, old[0].time, old[-1].time)
    async with async_database.begin() as connection:
        await connection.execute(sa.text("SELECT drop_chunks('tick_data', TIMESTAMPTZ '2014-01-01')"))
    # A late file of another symbol makes a refresh necessary. A plain refresh would delete the bars.
    await ingest(async_database, [at(0, 99, symbol="000660")])
    autocommit = async_database.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        report = await TickRepository(connection).refresh_bars(old[0].time, old[-1].time)
    assert report.refreshed == ()
    assert report.skipped == {"ohlcv_1m": 2}
    assert [bar.open for bar in await bars(async_database, "005930")] == [30, 31]


async def drop(database: AsyncEngine, *relations: str) -> None:
    """Drop chunks as retention would."""
    async with database.begin() as connection:
        for relation in relations:
            await connection.execute(sa.text(f"SELECT drop_chunks('{relation}', TIMESTAMPTZ '2014-01-01')"))


async def refresh_stale(database: AsyncEngine, loaded: IngestReport) -> RefreshReport:
    autocommit = database.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        return await TickRepository(connection).refresh_bars(loaded.to_refresh)


@pytest.mark.edition("community")
@pytest.mark.parametrize("dropped", [("tick_data",), ("tick_data", "ohlcv_1m")])
async def test_bars_of_dropped_ticks_outlive_late_ticks(async_database: AsyncEngine, dropped: tuple[str, ...]) -> None:
    """A refresh after late ticks keeps the bars whose ticks were dropped by retention."""
    await refresh_stale(async_database, await ingest(async_database, [at(second, 30 + second) for second in range(50)]))
    await drop(async_database, *dropped)
    whole = ("1m", "1h") if dropped == ("tick_data",) else ("1h",)
    before = [await bars(async_database, "005930", interval=interval) for interval in whole]
    assert [bar.tick_count for found in before for bar in found] == [50] * len(whole)
    # More ticks than before: their number does not replace the dropped ones. The second refresh meets the state
    # that the first has left.
    late = await ingest(async_database, [at(second, 40) for second in range(60)])
    kept = {"ohlcv_1m": 1} if dropped == ("tick_data",) else {"ohlcv_1h": 1}
    for _ in range(2):
        report = await refresh_stale(async_database, late)
        assert (report.refreshed, report.skipped) == ((), kept)
    assert [await bars(async_database, "005930", interval=interval) for interval in whole] == before


@pytest.mark.edition("community")
async def test_bars_come_back_when_all_their_ticks_do(async_database: AsyncEngine) -> None:
    ticks = [at(second, 30 + second) for second in range(50)]
    await refresh_stale(async_database, await ingest(async_database, ticks))
    await drop(async_database, "tick_data", "ohlcv_1m")
    report = await refresh_stale(async_database, await ingest(async_database, [*ticks, at(50, 99)]))
    assert (report.refreshed, report.skipped) == (("ohlcv_1m", "ohlcv_1h"), {})
    assert [bar.tick_count for bar in await bars(async_database, "005930", interval="1h")] == [51]
    assert [bar.tick_count for bar in await bars(async_database, "005930")] == [51]


@pytest.mark.edition("community")
async def test_only_the_hours_of_endangered_bars_are_left_alone(async_database: AsyncEngine) -> None:
    hours = [dt.datetime(2013, 10, 7, hour, tzinfo=dt.UTC) for hour in (12, 13, 14)]
    first = TickFactory.build(symbol="005930", time=hours[1], price=Decimal(30))
    await refresh_stale(async_database, await ingest(async_database, [first]))
    await drop(async_database, "tick_data")
    late = [TickFactory.build(symbol="000660", time=hour + dt.timedelta(minutes=59)) for hour in hours]
    loaded = await ingest(async_database, late)
    assert [(span.start, span.end) for span in loaded.to_refresh] == [(hours[0], hours[2] + dt.timedelta(hours=1))]
    report = await refresh_stale(async_database, loaded)
    assert (report.refreshed, report.skipped) == (("ohlcv_1m", "ohlcv_1h"), {"ohlcv_1m": 1})
    assert [bar.time for bar in await bars(async_database, "000660", interval="1h")] == [hours[0], hours[2]]
    assert [bar.open for bar in await bars(async_database, "005930", interval="1h")] == [30]
    # A range does not contain its end: the endangered hour does not hold back the hour before it.
    neighbour = await ingest(async_database, [TickFactory.build(symbol="035420", time=late[0].time)])
    assert (await refresh_stale(async_database, neighbour)).skipped == {}
    assert len(await bars(async_database, "035420")) == 1


@pytest.mark.edition("community")
async def test_the_danger_that_the_refresh_avoids_is_real(async_database: AsyncEngine) -> None:
    old = [at(0, 30), at(60, 31)]
    await ingest(async_database, old)
    await refresh(async_database, old[0].time, old[-1].time)
    async with async_database.begin() as connection:
        await connection.execute(sa.text("SELECT drop_chunks('tick_data', TIMESTAMPTZ '2014-01-01')"))
    autocommit = async_database.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        await connection.execute(
            sa.text("CALL refresh_continuous_aggregate('ohlcv_1m', TIMESTAMPTZ '2013-10-07', TIMESTAMPTZ '2013-10-08')")
        )
    assert await bars(async_database, "005930") == []


numbers = st.decimals(allow_nan=False, allow_infinity=False, min_value=-9999999999, max_value=9999999999, places=8)


@settings(max_examples=amount(10, 25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.tuples(
            numbers, numbers.map(abs), st.one_of(st.none(), numbers), st.sampled_from(["", "a\\b", "t\tn\n", "가"])
        ),
        min_size=1,
        max_size=20,
    )
)
async def test_every_digit_and_character_comes_back_as_it_was(
    async_database: AsyncEngine, values: list[tuple[Decimal, Decimal, Decimal | None, str]]
) -> None:
    # Stored ticks may be older than the rules for names.
    with any_text():
        ticks = [
            TickFactory.build(price=price, volume=volume, bid=bid, source=source, symbol="S\\'\"" + source[:5])
            for price, volume, bid, source in values
        ]
        async with async_database.connect() as connection:
            await TickRepository(connection).ingest(ticks, batch_size=7)
            rows = (await connection.execute(sa.text("SELECT * FROM tick_data"))).all()
            await connection.rollback()
    stored = sorted((row.symbol, row.time, row.source, row.price, row.volume, row.bid) for row in rows)
    assert stored == sorted((t.symbol, t.time, t.source, t.price, t.volume, t.bid) for t in ticks)
