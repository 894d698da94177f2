"""Minute bars of vendors: corrections replace stored bars, and longer bars equal those of the ticks."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from qts_data.contracts import OHLCV
from qts_data.contracts.checks import check_full_minute
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.importers.lean_bars import read_minutes
from qts_data.models import MinuteBar
from qts_data.repositories import BAR_INTERVALS, Database, UpsertReport
from qts_data.repositories.market.bars import upsert as bar_upsert
from tests.fixtures.factories import TickFactory
from tests.fixtures.market import DAY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from sqlalchemy.engine import URL, Engine

    from qts_data.repositories import BarInterval
    from tests.fixtures.fix_lean import LeanDay

START = dt.datetime(2026, 11, 1, 15, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)


def bar(minute: int, close: int, symbol: str = "005930", source: str = "x", tick_count: int = 0) -> OHLCV:
    price = Decimal(close)
    return OHLCV(
        time=START + minute * MINUTE, symbol=symbol, source=source, open=price, high=price + 1, low=price - 1,
        close=price, volume=Decimal(minute), tick_count=tick_count,
    )  # fmt: skip


@pytest_asyncio.fixture
async def market(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


async def stored(database: Database) -> list[OHLCV]:
    """All stored bars, in the order of time, symbol and source."""
    statement = sa.select(MinuteBar).order_by(MinuteBar.time, MinuteBar.symbol, MinuteBar.source)
    async with database.reader() as reader:
        rows = (await reader.connection.execute(statement)).mappings()
        return [OHLCV(**row) for row in rows]


async def upsert(database: Database, bars: Sequence[OHLCV]) -> UpsertReport:
    async with database.transaction() as uow:
        return await uow.minute_bars.upsert(iter(bars))


# In ---------------------------------------------------------------------------------------------------------


async def test_minute_bars_are_inserted_corrected_or_left_alone(market: Database) -> None:
    bars = [bar(minute, 100 + minute) for minute in range(10)]
    assert await upsert(market, bars) == UpsertReport(10, 10, 0, 0)
    # Another vendor's bars of the same minutes are other bars. The number of trades counts as a value too.
    corrected = [replace(bars[3], volume=Decimal(999)), replace(bars[4], tick_count=7), *bars[5:], bars[9]]
    assert await upsert(market, [*corrected, bar(3, 1, source=""), bar(10, 1)]) == UpsertReport(10, 2, 2, 6)
    assert await stored(market) == [*bars[:3], bar(3, 1, source=""), *corrected[:-1], bar(10, 1)]
    assert await upsert(market, []) == UpsertReport(0, 0, 0, 0)


@pytest.mark.parametrize("seed", range(3))
async def test_bars_in_any_pieces_keep_the_last_of_each_vendor(
    market: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """A model counts inserted, updated and unchanged bars over random pieces."""
    monkeypatch.setattr(bar_upsert, "_BARS_OF_A_STATEMENT", 7)
    chance = random.Random(seed)
    wanted: dict[tuple[dt.datetime, str, str], OHLCV] = {}
    for _ in range(12):
        given: list[OHLCV] = []
        counts: Counter[str] = Counter()
        while len(given) < chance.choice([1, 7, 8, 40]):
            one = bar(chance.randrange(6), chance.randrange(100, 103), chance.choice("AB"), chance.choice(["", "x"]))
            key = (one.time, one.symbol, one.source)
            statement = given[len(given) // 7 * 7 :]
            if any((other.time, other.symbol, other.source) == key and other != one for other in statement):
                continue
            counts["inserted" if key not in wanted else "unchanged" if wanted[key] == one else "updated"] += 1
            wanted[key] = one
            given.append(one)
        assert await upsert(market, given) == UpsertReport(
            len(given), counts["inserted"], counts["updated"], counts["unchanged"]
        )
        assert await stored(market) == [wanted[key] for key in sorted(wanted)]


async def test_a_bad_bar_is_named_and_nothing_is_written(market: Database) -> None:
    good = [bar(minute, 100) for minute in range(3)]
    for bad, words in (
        (
            replace(good[2], time=START + dt.timedelta(seconds=30)),
            r"row 4: time: 2026-11-01T15:00:30\+00:00 is not a full",
        ),
        (replace(good[2], time=START + dt.timedelta(microseconds=1)), "row 4: time: .* is not a full minute"),
        (replace(good[2], high=Decimal(500)), r"row 4: time: 005930 2026-11-01T15:02:00.* comes twice and differs"),
        (replace(good[2], tick_count=1), "row 4: time: .* comes twice and differs"),
    ):
        with pytest.raises(InvalidRecord, match=words):
            await upsert(market, [*good, bad])
        assert await stored(market) == []
    # One time, another zone: the same bar.
    seoul = dt.timezone(dt.timedelta(hours=9))
    assert await upsert(market, [good[0], replace(good[0], time=START.astimezone(seoul))]) == UpsertReport(2, 1, 0, 1)


async def test_bars_are_taken_from_their_source_a_statement_at_a_time(
    market: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bar_upsert, "_BARS_OF_A_STATEMENT", 100)
    taken = 0
    seen: list[tuple[int, int]] = []

    def source() -> Iterator[OHLCV]:
        nonlocal taken
        for minute in range(250):
            taken += 1
            yield bar(minute, 100)

    async with market.transaction() as uow:
        report = await uow.minute_bars.upsert(source(), progress=lambda done: seen.append((done, taken)))
    assert report == UpsertReport(250, 250, 0, 0)
    assert seen == [(100, 100), (200, 200), (250, 250)]


@pytest.mark.parametrize(("close", "outcome"), [(100, UpsertReport(1, 0, 0, 1)), (101, UpsertReport(1, 0, 1, 0))])
async def test_two_writers_of_one_bar_wait_for_each_other(market: Database, close: int, outcome: UpsertReport) -> None:
    # The chunk exists: otherwise the writers would wait for its creation.
    await upsert(market, [bar(1, 100)])
    async with market.transaction() as first:
        await first.minute_bars.upsert([bar(0, 100)])
        second = asyncio.create_task(upsert(market, [bar(0, close)]))
        async with market.engine.connect() as looking:
            waiting = sa.text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            while not await looking.scalar(waiting):
                assert not second.done(), await second
                await looking.rollback()
                await asyncio.sleep(0.01)
    assert await second == outcome
    assert await stored(market) == [bar(0, close), bar(1, 100)]


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"time": START + dt.timedelta(seconds=1)}, "ck_ohlcv_1m_vendor_time_on_a_minute"),
        ({"time": sa.text("'infinity'")}, "ck_ohlcv_1m_vendor_time_on_a_minute"),
        ({"close": 13}, "ck_ohlcv_1m_vendor_low_open_close_high"),
        ({"low": 12}, "ck_ohlcv_1m_vendor_low_open_close_high"),
        ({"volume": -1}, "ck_ohlcv_1m_vendor_volume_not_negative"),
        ({"volume": Decimal("NaN")}, "ck_ohlcv_1m_vendor_volume_finite"),
        ({"high": Decimal("NaN")}, "ck_ohlcv_1m_vendor_high_finite"),
        ({"tick_count": -1}, "ck_ohlcv_1m_vendor_tick_count_not_negative"),
        ({"symbol": ""}, "ck_ohlcv_1m_vendor_symbol_length"),
        ({"source": 65 * "s"}, "ck_ohlcv_1m_vendor_source_length"),
        ({}, "pk_ohlcv_1m_vendor"),
    ],
)
def test_table_refuses_rows_that_are_not_bars(database: Engine, change: dict[str, Any], constraint: str) -> None:
    row: dict[str, Any] = {
        "symbol": "005930", "time": START, "open": 10, "high": 12, "low": 9, "close": 11, "volume": 5,
    }  # fmt: skip
    with database.begin() as connection:
        connection.execute(sa.insert(MinuteBar).values(row))
        assert tuple(connection.execute(sa.select(MinuteBar.source, MinuteBar.tick_count)).one()) == ("", 0)
    with pytest.raises(sa.exc.IntegrityError, match=constraint), database.begin() as connection:
        connection.execute(sa.insert(MinuteBar).values(row | change))


INSTANTS = st.one_of(
    st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29), timezones=st.timezones()),  # noqa: DTZ001
    st.datetimes(dt.datetime(1800, 1, 1), dt.datetime(2100, 1, 1), timezones=st.timezones()).map(  # noqa: DTZ001
        lambda time: time.astimezone(dt.UTC).replace(second=0, microsecond=0)
    ),
    st.datetimes(dt.datetime(1800, 1, 1), dt.datetime(2100, 1, 1), timezones=st.timezones()).map(  # noqa: DTZ001
        lambda time: time.replace(second=0, microsecond=0)
    ),
)


def test_check_refuses_the_rows_that_the_table_refuses(database: Engine) -> None:
    asked = sa.text("SELECT mod(EXTRACT(epoch FROM CAST(:time AS timestamptz)), 60) = 0")
    with database.connect() as connection:
        found: Counter[bool] = Counter()

        @given(INSTANTS)
        def agree(time: dt.datetime) -> None:
            try:
                check_full_minute("time", time)
                full = True
            except InvalidRecord:
                full = False
            found[full] += 1
            assert connection.scalar(asked, {"time": time}) is full

        agree()
    assert found[True]
    assert found[False]


@pytest.mark.edition("community")
async def test_old_minutes_are_columns_and_a_correction_still_corrects(market: Database) -> None:
    bars = [bar(minute, 100 + minute % 7, symbol) for symbol in "AB" for minute in range(2_000)]
    await upsert(market, bars)
    async with market.transaction() as uow:
        chunks = list(await uow.connection.scalars(sa.text("SELECT show_chunks('ohlcv_1m_vendor')::text")))
        for chunk in chunks:
            await uow.connection.execute(sa.text("SELECT compress_chunk(CAST(:chunk AS regclass))"), {"chunk": chunk})

    async def rows() -> int:
        async with market.reader() as reader:
            counts = [await reader.connection.scalar(sa.text(f"SELECT count(*) FROM ONLY {chunk}")) for chunk in chunks]
            return sum(counts)

    assert chunks
    assert await rows() == 0
    # Bars that are already stored leave the columnstore unchanged.
    assert await upsert(market, bars) == UpsertReport(4_000, 0, 0, 4_000)
    assert await rows() == 0
    corrected = replace(bars[7], volume=Decimal(999))
    late = bar(2_000, 5, "A")
    assert await upsert(market, [*bars[:7], corrected, *bars[8:2_000], late]) == UpsertReport(2_001, 1, 1, 1_999)
    assert await rows() > 0
    wanted = sorted([*bars[:7], corrected, *bars[8:], late], key=lambda one: (one.time, one.symbol))
    assert await stored(market) == wanted
    async with market.reader() as reader:
        found = await reader.minute_bars.bars(["A", "B"], START, START + dt.timedelta(days=2), "1m")
    assert found == wanted


@pytest.mark.edition("community")
def test_minutes_become_columns_after_sixty_days_and_never_go(database: Engine) -> None:
    now = dt.datetime.now(dt.UTC).replace(second=0, microsecond=0)
    with database.begin() as connection:
        for days in (0, 59, 100, 5_000):
            connection.execute(
                sa.insert(MinuteBar).values(
                    symbol="A", time=now - dt.timedelta(days=days), open=1, high=1, low=1, close=1, volume=1
                )
            )
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        jobs = connection.execute(
            sa.text(
                "SELECT job_id, proc_name FROM timescaledb_information.jobs WHERE hypertable_name = 'ohlcv_1m_vendor'"
            )
        ).all()
        assert [job.proc_name for job in jobs] == ["policy_compression"]
        connection.execute(sa.text("CALL run_job(:job)"), {"job": jobs[0].job_id})
        compressed = connection.scalar(
            sa.text(
                "SELECT count(*) FROM timescaledb_information.chunks "
                "WHERE hypertable_name = 'ohlcv_1m_vendor' AND is_compressed"
            )
        )
        assert compressed == 2
        assert connection.scalar(sa.select(sa.func.count()).select_from(MinuteBar)) == 4


# Out --------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def wandering(market: Database, implausible_times: None) -> Database:  # noqa: ARG001
    """Ticks around now, and the minutes made of them as bars of a vendor."""
    chance = random.Random(11)
    now = dt.datetime.now(dt.UTC)
    span = int(dt.timedelta(days=5) / dt.timedelta(milliseconds=1))
    ticks = [
        TickFactory.build(
            symbol=symbol, source=source, time=now + dt.timedelta(milliseconds=chance.randrange(span) - span // 2),
            price=Decimal(chance.randrange(9_000, 11_000)).scaleb(-2),
            volume=Decimal(chance.randrange(1, 10**9)).scaleb(-8),
        )
        for symbol, source, count in (("A", "x", 1_500), ("A", "y", 300), ("B", "x", 100))
        for _ in range(count)
    ]  # fmt: skip
    async with market.transaction() as uow:
        await uow.tick_history.ingest(sorted(ticks, key=lambda tick: tick.time), max_ahead=None)
        minutes = await uow.tick_history.bars(["A", "B"], *around(now), "1m")
        assert len(minutes) > 1_000
        await uow.minute_bars.upsert(minutes)
    return market


def around(now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    return now - dt.timedelta(days=4), now + dt.timedelta(days=4)


@pytest.mark.parametrize("interval", list(BAR_INTERVALS))
async def test_bars_of_every_length_equal_those_of_their_ticks(wandering: Database, interval: BarInterval) -> None:
    """Bars made of stored minutes equal the bars made of the ticks behind them."""
    now = dt.datetime.now(dt.UTC)
    asked: list[dict[str, Any]] = [
        {},
        {"source": "y"},
        {"closed_only": True},
        {"closed_only": True, "as_of": now - dt.timedelta(hours=26), "grace": dt.timedelta(minutes=3)},
    ]
    if interval == "1d":
        # An hour of Kolkata is on two days of the others.
        asked += [{"time_zone": zone} for zone in ("America/New_York", "Asia/Kolkata", "UTC")]
    # One snapshot and one clock for both.
    async with wandering.reader() as reader:
        for options in asked:
            wanted = await reader.tick_history.bars(["A", "B"], *around(now), interval, **options)
            assert wanted
            assert await reader.minute_bars.bars(["A", "B"], *around(now), interval, **options) == wanted, options
        every = await reader.minute_bars.bars("A", *around(now), interval)
        closed = await reader.minute_bars.bars("A", *around(now), interval, closed_only=True)
        assert set(closed) < set(every)
        # A range takes whole bars that start in it.
        middle = every[len(every) // 2].time
        found = await reader.minute_bars.bars("A", middle, middle + dt.timedelta(seconds=1), interval)
        assert found == [one for one in every if one.time == middle]


async def test_impossible_questions_are_refused(market: Database) -> None:
    async with market.reader() as reader:
        with pytest.raises(InvalidRecord, match="interval: '2h' is none of 1m, 5m"):
            await reader.minute_bars.bars("A", START, START, "2h")  # type: ignore[arg-type]
        with pytest.raises(InvalidRecord, match=r"start: .* has no time zone"):
            await reader.minute_bars.bars("A", START.replace(tzinfo=None), START, "1m")
        with pytest.raises(ConfigurationError, match="Asia/Soul"):
            await reader.minute_bars.bars("A", START, START, "1d", time_zone="Asia/Soul")
        assert await reader.minute_bars.bars("A", START, START + MINUTE, "1m") == []


async def test_a_day_of_a_publisher_is_stored_as_published(market: Database, lean_day: LeanDay) -> None:
    minutes = list(read_minutes(lean_day.spy_minutes, "SPY", DAY))
    count = lean_day.facts.minutes
    assert await upsert(market, minutes) == UpsertReport(count, count, 0, 0)
    assert await stored(market) == minutes
    start, end = minutes[0].time, minutes[-1].time + MINUTE
    async with market.reader() as reader:
        [day] = await reader.minute_bars.bars(
            "SPY", start - dt.timedelta(hours=5), end, "1d", time_zone="America/New_York"
        )
        hours = await reader.minute_bars.bars("SPY", start, end, "1h")
        assert await reader.ticks.bars("SPY", start, end, "1m") == []
    assert (day.open, day.close) == (minutes[0].open, minutes[-1].close)
    assert (day.low, day.high) == (min(one.low for one in minutes), max(one.high for one in minutes))
    assert day.volume == sum(one.volume for one in minutes)
    assert (day.tick_count, day.source) == (0, "lean")
    assert len(hours) == 16
    assert sum(one.volume for one in hours) == day.volume
