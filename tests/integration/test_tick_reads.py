"""Reads of ticks and bars: every form, every length of a bar, every zone."""

from __future__ import annotations

import datetime as dt
import random
import zoneinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import pytest_asyncio

from qts_data.contracts import OHLCV, TickData
from qts_data.errors import ConfigurationError, InvalidRecord, StatementTimeout
from qts_data.repositories import BAR_INTERVALS, Database, TickRepository
from qts_data.repositories.market.bars.reads import on_hours_since
from tests.fixtures.factories import TickFactory
from tests.fixtures.market import as_table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

    from qts_data.repositories import BarInterval, TickTable

NEW_YORK = zoneinfo.ZoneInfo("America/New_York")


@pytest_asyncio.fixture
async def market(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


async def load(database: Database, ticks: list[TickData], table: TickTable = "tick_data") -> None:
    async with database.transaction() as uow:
        repository = uow.ticks if table == "tick_data" else uow.tick_history
        report = await repository.ingest(ticks, max_ahead=None)
    autocommit = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        await TickRepository(connection).refresh_bars(report.to_refresh)


def walk(start: dt.datetime, end: dt.datetime, *, symbol: str, source: str, count: int, seed: int) -> list[TickData]:
    """Ticks that wander, several of them in one millisecond, with empty minutes between."""
    chance = random.Random(seed)
    span = int((end - start) / dt.timedelta(milliseconds=1))
    price, ticks = 100_00, []
    for at in sorted(chance.choices(range(span), k=count)):
        price = max(1, price + chance.randrange(-5, 6))
        for _ in range(chance.choice([1, 1, 1, 3])):
            ticks += [
                TickData(
                    time=start + dt.timedelta(milliseconds=at), symbol=symbol, source=source,
                    price=Decimal(price).scaleb(-2), volume=Decimal(chance.randrange(1, 10**9)).scaleb(-8),
                )
            ]  # fmt: skip
    return ticks


def bars_of(ticks: list[TickData], interval: str, zone: str) -> list[OHLCV]:
    """Compute the same bars with Polars."""
    frame = pl.from_arrow(as_table(ticks))
    assert isinstance(frame, pl.DataFrame)
    time = pl.col("time")
    if interval == "1d":
        bucket = time.dt.convert_time_zone(zone).dt.truncate("1d").dt.convert_time_zone("UTC")
    else:
        bucket = time.dt.truncate(interval)
    frame = (
        frame.with_columns(bucket.alias("bucket"), pl.col("volume").cast(pl.Decimal(38, 8)))
        .sort("time", maintain_order=True)
        .group_by("bucket", "symbol", "source", maintain_order=True)
        .agg(
            pl.col("price").first().alias("open"), pl.col("price").max().alias("high"),
            pl.col("price").min().alias("low"), pl.col("price").last().alias("close"),
            pl.col("volume").sum(), pl.len().alias("tick_count"),
        )
        .sort("bucket", "symbol", "source")
    )  # fmt: skip
    return [
        OHLCV(
            time=row["bucket"].astimezone(dt.UTC), symbol=row["symbol"], source=row["source"], open=row["open"],
            high=row["high"], low=row["low"], close=row["close"], volume=row["volume"], tick_count=row["tick_count"],
        )
        for row in frame.iter_rows(named=True)
    ]  # fmt: skip


@pytest.mark.parametrize("table", ["tick_data", "tick_history"])
async def test_bars_of_every_length_equal_those_of_polars(market: Database, table: TickTable) -> None:
    # The night in which the clocks of New York go back, and several midnights of Korea.
    start = dt.datetime(2026, 10, 30, 22, 10, tzinfo=dt.UTC)
    end = dt.datetime(2026, 11, 3, 3, 50, tzinfo=dt.UTC)
    ticks = [
        *walk(start, end, symbol="A", source="x", count=700, seed=1),
        *walk(start, end, symbol="A", source="y", count=300, seed=2),
        *walk(start, end, symbol="B", source="x", count=100, seed=3),
        TickFactory.build(symbol="C", time=start, source="x"),  # a bar of one tick
    ]
    await load(market, ticks, table)
    days = (start - dt.timedelta(days=3), end + dt.timedelta(days=1))
    async with market.reader() as reader:
        reads = reader.ticks if table == "tick_data" else reader.tick_history
        for interval in BAR_INTERVALS:
            for zone in ("Asia/Seoul", "America/New_York", "Asia/Kolkata") if interval == "1d" else ("UTC",):
                wanted = bars_of(ticks, interval, zone)
                found = await reads.bars(["A", "B", "C"], *days, interval, time_zone=zone)
                assert found == wanted, (interval, zone)
        only = await reads.bars("A", *days, "30m", source="y")
        assert only == [bar for bar in bars_of(ticks, "30m", "UTC") if (bar.symbol, bar.source) == ("A", "y")]
        # The trading day of the database is that of Korea.
        assert await reads.bars(["A", "B", "C"], *days, "1d") == bars_of(ticks, "1d", "Asia/Seoul")
        # A range takes whole bars that start in it.
        wanted = bars_of(ticks, "4h", "UTC")
        middle = wanted[len(wanted) // 2].time
        assert await reads.bars(["A", "B", "C"], middle, middle + dt.timedelta(seconds=1), "4h") == [
            bar for bar in wanted if bar.time == middle
        ]


async def test_a_day_of_changing_clocks_has_its_hours(market: Database) -> None:
    midnight = dt.datetime(2026, 11, 1, tzinfo=NEW_YORK)
    last = dt.datetime(2026, 11, 1, 23, 59, tzinfo=NEW_YORK)
    assert (last.astimezone(dt.UTC) - midnight.astimezone(dt.UTC)) > dt.timedelta(hours=24)
    await load(market, [TickFactory.build(time=time.astimezone(dt.UTC)) for time in (midnight, last)])
    async with market.reader() as reader:
        (day,) = await reader.ticks.bars("005930", midnight, last, "1d", time_zone="America/New_York")
        assert (day.time, day.tick_count) == (midnight, 2)
        with pytest.raises(ConfigurationError, match="Asia/Soul"):
            await reader.ticks.bars("005930", midnight, last, "1d", time_zone="Asia/Soul")
        with pytest.raises(InvalidRecord, match="interval: '2h' is none of 1m, 5m"):
            await reader.ticks.bars("005930", midnight, last, "2h")  # type: ignore[arg-type]


@pytest.mark.edition("community")
async def test_days_go_back_for_ever_or_say_that_they_do_not(market: Database) -> None:
    hour = (dt.datetime.now(dt.UTC) - dt.timedelta(days=40)).replace(minute=0, second=0, microsecond=0)
    await load(market, [TickFactory.build(time=hour + dt.timedelta(minutes=minute)) for minute in (0, 40)])
    async with market.transaction() as uow:
        for relation, kept in (("tick_data", "7 days"), ("ohlcv_1m", "30 days")):
            await uow.connection.exec_driver_sql(f"SELECT drop_chunks('{relation}', now() - INTERVAL '{kept}')")
    end = hour + dt.timedelta(days=60)
    recent = TickFactory.build(time=dt.datetime.now(dt.UTC) - dt.timedelta(hours=1))
    await load(market, [recent])
    async with market.reader() as reader:

        async def days(start: dt.datetime, zone: str) -> list[int]:
            return [bar.tick_count for bar in await reader.ticks.bars("005930", start, end, "1d", time_zone=zone)]

        for year in (1, 1900, 1950, 1960, 1961, 1970, 2000):
            start = dt.datetime(year, 1, 1, tzinfo=dt.UTC)
            assert await days(start, "Asia/Seoul") == [2, 1]
            assert await days(start, "America/New_York") == [2, 1]
            with pytest.raises(InvalidRecord, match=r"start: days of Asia/Kolkata .* ask for days after that"):
                await days(start, "Asia/Kolkata")
        assert await days(hour + dt.timedelta(hours=2), "Asia/Kolkata") == [1]


async def test_days_of_zones_with_half_hours_are_made_of_minutes(market: Database) -> None:
    # 18:30 UTC is midnight in Kolkata.
    times = [dt.datetime(2026, 11, 19, 18, minute, tzinfo=dt.UTC) for minute in (10, 29, 30, 50)]
    await load(market, [TickFactory.build(time=time) for time in times])
    async with market.reader() as reader:
        for start, end in (
            (dt.datetime(2026, 11, 1, tzinfo=dt.UTC), dt.datetime(2026, 12, 1, tzinfo=dt.UTC)),
            (dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)),
        ):
            found = await reader.ticks.bars("005930", start, end, "1d", time_zone="Asia/Kolkata")
            assert [bar.tick_count for bar in found] == [2, 2]
            assert found[1].time == times[2]


@pytest.mark.parametrize(
    ("zone", "start", "end", "since"),
    [
        ("Asia/Seoul", 2000, 2026, 2000),
        ("Asia/Seoul", 1950, 9999, 1961),
        ("America/New_York", 1, 9999, 1883),
        ("Asia/Kolkata", 2000, 2026, 9999),
        ("Asia/Kolkata", 2000, 9999, 9999),
        # Half an hour in each summer.
        ("Australia/Lord_Howe", 2000, 9999, 9999),
        ("Australia/Lord_Howe", 2200, 2300, 9999),
        ("America/Caracas", 2000, 2026, 2016),
        ("UTC", 2200, 2300, 2200),
    ],
)
def test_the_year_from_which_days_begin_on_hours(zone: str, start: int, end: int, since: int) -> None:
    first, last = (dt.datetime(year, 1, 1, tzinfo=dt.UTC) for year in (start, end))
    found = on_hours_since(zone, first, last)
    assert (max(found, first)).year == since


async def test_volumes_beyond_the_digits_of_a_bar_are_named(market: Database) -> None:
    most, time = Decimal(99999999999999999999), dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    await load(market, [TickFactory.build(symbol="A", time=time, volume=most) for _ in range(2)])
    await load(market, [TickFactory.build(symbol="B", time=time)])
    async with market.reader() as reader:
        end = time + dt.timedelta(hours=1)
        with pytest.raises(InvalidRecord, match=r"volume: .* in the bar of A at 2026-11-20T00:00:00\+00:00"):
            await reader.ticks.bars(["A", "B"], time, end, "1m")
        assert len(await reader.ticks.bars("B", time, end, "1m")) == 1


@pytest.mark.usefixtures("implausible_times")
@pytest.mark.parametrize("interval", list(BAR_INTERVALS))
async def test_no_closed_bar_can_still_be_changed_by_time(market: Database, interval: BarInterval) -> None:
    now = dt.datetime.now(dt.UTC)
    ticks = walk(now - dt.timedelta(days=2), now + dt.timedelta(days=2), symbol="A", source="x", count=800, seed=5)
    await load(market, ticks)
    days = (now - dt.timedelta(days=4), now + dt.timedelta(days=4))
    every = bars_of(ticks, interval, "Asia/Seoul")
    seoul = zoneinfo.ZoneInfo("Asia/Seoul")

    def end_of(bar: OHLCV) -> dt.datetime:
        if interval == "1d":
            local = bar.time.astimezone(seoul) + dt.timedelta(days=1)
            return local.astimezone(dt.UTC)
        return bar.time + BAR_INTERVALS[interval].length

    async with market.reader() as reader:
        closed = await reader.ticks.bars("A", *days, interval, closed_only=True)
        read_at = dt.datetime.now(dt.UTC)
        assert closed
        assert all(end_of(bar) <= read_at for bar in closed)
        # and all that were closed before the question are there
        assert [bar for bar in every if end_of(bar) <= now] == [bar for bar in closed if end_of(bar) <= now]
        then = now - dt.timedelta(hours=26)
        for grace in (dt.timedelta(0), dt.timedelta(minutes=3)):
            seen = await reader.ticks.bars("A", *days, interval, closed_only=True, as_of=then, grace=grace)
            assert seen == [bar for bar in every if end_of(bar) + grace <= then]
        # An instant in the future does not close more bars.
        ahead = await reader.ticks.bars("A", *days, interval, closed_only=True, as_of=now + dt.timedelta(days=1))
        assert all(end_of(bar) <= dt.datetime.now(dt.UTC) for bar in ahead)


async def test_a_late_tick_is_in_its_bars_once_they_are_refreshed(market: Database) -> None:
    minute = dt.datetime(2026, 11, 20, 1, 0, tzinfo=dt.UTC)

    def tick(second: int, price: int) -> TickData:
        return TickFactory.build(time=minute + dt.timedelta(seconds=second), price=Decimal(price), volume=Decimal(1))

    await load(market, [tick(1, 10), tick(90, 11)])
    await load(market, [tick(2, 9), tick(0, 8)])
    async with market.reader() as reader:
        first, _ = await reader.ticks.bars("005930", minute, minute + dt.timedelta(hours=1), "1m")
        (hour,) = await reader.ticks.bars("005930", minute, minute + dt.timedelta(hours=1), "1h")
    assert [int(price) for price in (first.open, first.high, first.low, first.close)] == [8, 10, 8, 9]
    assert (hour.tick_count, int(hour.open), int(hour.close)) == (4, 8, 11)


async def test_ticks_come_in_order_in_every_form(market: Database) -> None:
    start = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    end = start + dt.timedelta(hours=6)
    ticks = walk(start, end, symbol="A", source="b", count=400, seed=8)
    ticks += walk(start, end, symbol="A", source="a", count=400, seed=9)
    ticks += [TickFactory.build(symbol="B", time=start)]
    await load(market, ticks)
    async with market.reader() as reader:
        query = reader.ticks.ticks("A", start, end)
        records = await query
        assert records == [tick async for tick in reader.ticks.stream_ticks("A", start, end)]
        keys = [(tick.time, tick.source, tick.seq) for tick in records]
        assert keys == sorted(keys, key=lambda key: (key[0], key[1], key[2] or 0))
        assert sorted((t.time, t.source, t.price, t.volume) for t in records) == sorted(
            (t.time, t.source, t.price, t.volume) for t in ticks if t.symbol == "A"
        )
        table = await query.as_arrow()
        assert [TickData(**row) for row in table.to_pylist()] == records
        frame = await query.as_polars()
        assert frame.schema["price"] == pl.Decimal(18, 8)
        assert [TickData(**row) for row in frame.iter_rows(named=True)] == records
        pandas = await query.as_pandas()
        assert pandas["price"].tolist() == [tick.price for tick in records]
        # Half of the range, one feed; and nothing.
        half = await reader.ticks.ticks("A", start, start + dt.timedelta(hours=3), source="a")
        assert half == [t for t in records if t.source == "a" and t.time < start + dt.timedelta(hours=3)]
        assert await reader.ticks.ticks("NONE", start, end) == []
        assert (await reader.ticks.ticks("NONE", start, end).as_arrow()).num_rows == 0
        with pytest.raises(InvalidRecord, match=r"start: .* has no time zone"):
            reader.ticks.ticks("A", start.replace(tzinfo=None), end)
        # After an early end of the stream the transaction goes on.
        stream: Any = reader.ticks.stream_ticks("A", start, end)
        assert await anext(stream) == records[0]
        await stream.aclose()
        assert (await reader.ticks.ticks("A", start, end)) == records


async def test_ticks_of_feeds_that_others_wrote_are_read_too(market: Database) -> None:
    start = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    await load(market, [TickFactory.build(time=start + dt.timedelta(seconds=n), source="m") for n in (0, 1, 4)])
    async with market.transaction() as uow:
        await uow.connection.exec_driver_sql(
            "INSERT INTO tick_data (symbol, time, source, seq, price, volume) SELECT '005930', time + INTERVAL '2 s', "
            "s, 0, 7, 1 FROM tick_data, unnest(ARRAY['a', 'z']) AS s"
        )
        query = uow.ticks.ticks("005930", start, start + dt.timedelta(minutes=1))
        found = await query
        assert [(tick.time.second, tick.source) for tick in found] == [
            (0, "m"), (1, "m"), (2, "a"), (2, "z"), (3, "a"), (3, "z"), (4, "m"), (6, "a"), (6, "z"),
        ]  # fmt: skip
        assert [TickData(**row) for row in (await query.as_arrow()).to_pylist()] == found


async def test_server_that_gives_up_in_the_middle_gives_its_reason(market: Database) -> None:
    start = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    await load(market, TickFactory.build_batch(3, source="slow"))
    with pytest.raises(StatementTimeout):
        async with market.transaction() as uow:
            await uow.connection.exec_driver_sql("SET LOCAL statement_timeout = '200ms'")
            await uow.connection.exec_driver_sql(
                "CREATE TEMPORARY VIEW tick_data AS SELECT symbol, time, source, seq, price, volume, bid, ask "
                "FROM public.tick_data, LATERAL (SELECT pg_sleep(0.15) WHERE symbol IS NOT NULL) AS s"
            )
            await uow.ticks.ticks("005930", dt.datetime(1, 1, 1, tzinfo=dt.UTC), start + dt.timedelta(days=9000))


async def test_the_latest_tick_of_each_symbol_in_one_round_trip(market: Database, proxy: Any) -> None:
    start = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    ticks = [
        TickFactory.build(symbol=symbol, time=start + dt.timedelta(days=day), price=Decimal(day + 1), source=source)
        for symbol, days in (("A", 3), ("B", 1))
        for day in range(days)
        for source in ("x", "y")
        for _ in range(2)
    ]
    await load(market, ticks)
    async with Database(proxy.url) as database, database.reader() as reader:
        await reader.ticks.latest(["warm"])
        before = proxy.round_trips
        found = await reader.ticks.latest(["B", "NONE", "A"])
        assert proxy.round_trips == before + 1
        assert list(found) == ["B", "A"]
        assert [(int(tick.price), tick.source, tick.seq) for tick in found.values()] == [(1, "y", 1), (3, "y", 1)]
        assert (await reader.ticks.latest(["A"], source="x"))["A"].source == "x"


async def test_reads_refuse_wrong_questions_by_name(market: Database) -> None:
    start = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    minute = dt.timedelta(minutes=1)
    await load(market, [TickFactory.build(symbol="A", time=start + number * minute) for number in range(5)])
    end = start + 5 * minute
    async with market.reader() as reader:
        assert list(await reader.ticks.latest("A")) == ["A"]
        assert list(await reader.ticks.latest(["A"])) == ["A"]
        for ask in (reader.ticks.bars([5930], start, end, "1m"), reader.ticks.latest([5930])):  # type: ignore[list-item]
            with pytest.raises(InvalidRecord, match="symbol: must be a str, is int"):
                await ask
        with pytest.raises(InvalidRecord, match="symbol: 'A ' ends with a blank"):
            await reader.ticks.ticks("A ", start, end)
        with pytest.raises(InvalidRecord, match="grace: is given without closed_only or as_of"):
            await reader.ticks.bars("A", start, end, "1m", grace=minute)


async def test_as_of_alone_leaves_out_bars_not_yet_closed(market: Database) -> None:
    start = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    minute = dt.timedelta(minutes=1)
    await load(market, [TickFactory.build(symbol="A", time=start + number * minute) for number in range(5)])
    async with market.reader() as reader:
        found = await reader.ticks.bars("A", start, start + 5 * minute, "1m", as_of=start + 3 * minute)
    assert [bar.time for bar in found] == [start, start + minute, start + 2 * minute]
