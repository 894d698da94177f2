"""Gaps: sessions of exchanges compared with stored ticks, and the reasons that users give."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from qts_data.contracts import TickData
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.repositories import Database, Gap

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable, Iterable

    from sqlalchemy.engine import URL

    from qts_data.timescale import Edition

SEOUL = zoneinfo.ZoneInfo("Asia/Seoul")
NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
MINUTE = dt.timedelta(minutes=1)


@pytest_asyncio.fixture
async def market(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


def seoul(day: int, hour: int = 0, minute: int = 0, second: int = 0) -> dt.datetime:
    return dt.datetime(2026, 6, day, hour, minute, second, tzinfo=SEOUL)


def each_minute(start: dt.datetime, end: dt.datetime, skip: Iterable[dt.datetime] = ()) -> list[dt.datetime]:
    minutes = int((end - start) / MINUTE)
    return [start + n * MINUTE for n in range(minutes) if start + n * MINUTE not in set(skip)]


def tick(time: dt.datetime, source: str = "krx") -> TickData:
    return TickData(time=time, symbol="005930", source=source, price=Decimal(1), volume=Decimal(1))


async def keep(database: Database, times: Iterable[dt.datetime], source: str = "krx") -> None:
    async with database.transaction() as uow:
        await uow.tick_history.ingest([tick(time, source) for time in times])


async def gaps(database: Database, start: dt.datetime, end: dt.datetime, **options: object) -> list[Gap]:
    async with database.reader() as reader:
        return await reader.tick_history.gaps("005930", start, end, **options)  # type: ignore[arg-type]


async def test_missing_days_and_minutes_of_sessions_and_nothing_else(market: Database) -> None:
    # A Thursday with holes, a Friday without a tick, a weekend, a Monday with one tick.
    lost = [seoul(11, 9), seoul(11, 10, 30), seoul(11, 10, 31), seoul(11, 15, 29)]
    await keep(market, each_minute(seoul(11, 9), seoul(11, 15, 30), lost))
    await keep(market, [seoul(15, 12, 0, 30)])
    found = await gaps(market, seoul(11), seoul(17))
    assert [(gap.kind, gap.start, gap.end, gap.minutes) for gap in found] == [
        ("minutes", seoul(11, 9), seoul(11, 9, 1), 1),
        ("minutes", seoul(11, 10, 30), seoul(11, 10, 32), 2),
        ("minutes", seoul(11, 15, 29), seoul(11, 15, 30), 1),
        ("day", seoul(12, 9), seoul(12, 15, 30), 390),
        ("minutes", seoul(15, 9), seoul(15, 12), 180),
        ("minutes", seoul(15, 12, 1), seoul(15, 15, 30), 209),
        ("day", seoul(16, 9), seoul(16, 15, 30), 390),
    ]
    long = await gaps(market, seoul(11), seoul(12), at_least=2 * MINUTE)
    assert [gap.minutes for gap in long] == [2]
    # A range of half a session gives no gap of kind day.
    (half,) = await gaps(market, seoul(16, 10, 0, 30), seoul(16, 11))
    assert (half.kind, half.start, half.end) == ("minutes", seoul(16, 10, 1), seoul(16, 11))
    assert await gaps(market, seoul(13), seoul(15)) == []


async def test_feeds_are_looked_at_together_or_by_themselves(market: Database) -> None:
    await keep(market, each_minute(seoul(16, 9), seoul(16, 12)), "a")
    await keep(market, each_minute(seoul(16, 11), seoul(16, 15, 30)), "b")
    day = (seoul(16), seoul(17))
    assert await gaps(market, *day) == []
    (of_a,) = await gaps(market, *day, source="a")
    assert (of_a.source, of_a.start, of_a.end) == ("a", seoul(16, 12), seoul(16, 15, 30))


async def test_signed_off_gap_keeps_its_reason_and_is_not_reported(market: Database) -> None:
    """A sign-off of one source does not hide the gaps of the others."""
    day = (seoul(16), seoul(17))
    await keep(market, each_minute(seoul(16, 9), seoul(16, 12)), "a")
    async with market.transaction() as uow:
        await uow.ticks.sign_off_gap("005930", seoul(16, 12), seoul(16, 14), "halt")
        await uow.ticks.sign_off_gap("005930", seoul(16, 14), seoul(16, 15), "feed down", source="a")
        with pytest.raises(InvalidRecord, match="reason: is empty"):
            await uow.ticks.sign_off_gap("005930", *day, " ")
        with pytest.raises(InvalidRecord, match="is not before"):
            await uow.ticks.sign_off_gap("005930", day[1], day[0], "x")
    # A sign-off of one feed does not hold for the others.
    assert [gap.start for gap in await gaps(market, *day)] == [seoul(16, 14)]
    assert [gap.start for gap in await gaps(market, *day, source="a")] == [seoul(16, 15)]
    async with market.transaction() as uow:
        await uow.ticks.sign_off_gap("005930", *day, "all of it")
        listed = await uow.ticks.list_signed_off_gaps("005930", *day)
    assert [(item.reason, item.source) for item in listed] == [("all of it", None), ("halt", None), ("feed down", "a")]
    assert await gaps(market, *day) == []


async def test_sessions_follow_the_calendar_of_the_exchange(market: Database) -> None:
    """Lunch breaks and changes of the clocks are those of the exchange."""
    tokyo = zoneinfo.ZoneInfo("Asia/Tokyo")
    start = dt.datetime(2024, 10, 15, tzinfo=tokyo)
    (day,) = await gaps(market, start, start + dt.timedelta(days=1), calendar="XTKS")
    assert day.minutes == 300  # 9:00 to 11:30, 12:30 to 15:00
    # The day before the clocks of New York change, and the day after.
    for date in (dt.date(2024, 11, 1), dt.date(2024, 11, 4)):
        opened = dt.datetime.combine(date, dt.time(9, 30), NEW_YORK)
        (day,) = await gaps(market, opened, opened + dt.timedelta(hours=12), calendar="XNYS")
        assert (day.kind, day.start, day.minutes) == ("day", opened, 390)


async def test_the_minute_under_way_is_not_missing(market: Database) -> None:
    now = dt.datetime.now(dt.UTC)
    found = await gaps(market, now - dt.timedelta(hours=1), now + dt.timedelta(hours=1), calendar="24/7")
    # The seconds between the two clocks are few.
    assert all(gap.end <= dt.datetime.now(dt.UTC) for gap in found)
    assert sum(gap.minutes for gap in found) >= 58


async def test_gaps_count_minutes_and_refuse_dropped_ranges(market: Database, edition: Edition) -> None:
    """A range that retention has dropped is refused: its gaps cannot be known."""
    now = dt.datetime.now(dt.UTC).replace(second=0, microsecond=0)
    hour = now - dt.timedelta(hours=2)
    async with market.transaction() as uow:
        await uow.ticks.ingest([tick(time) for time in each_minute(hour, hour + 60 * MINUTE, [hour + 7 * MINUTE])])
        (gap,) = await uow.ticks.gaps("005930", hour, hour + 60 * MINUTE, "24/7")
        assert (gap.start, gap.minutes) == (hour + 7 * MINUTE, 1)
        long_ago = now - dt.timedelta(days=40)
        if edition == "community":
            with pytest.raises(InvalidRecord, match=r"start: minutes before .* are dropped by retention"):
                await uow.ticks.gaps("005930", long_ago, now, "24/7")
        else:
            assert len(await uow.ticks.gaps("005930", long_ago, long_ago + dt.timedelta(days=1), "24/7")) == 2


async def test_a_feed_is_stale_by_the_time_that_its_exchange_traded(market: Database) -> None:
    async with market.transaction() as uow:
        # Friday before the close: one feed ended long ago.
        await uow.tick_history.ingest([tick(seoul(12, 15, 20)), tick(seoul(1, 9) - dt.timedelta(days=90), "old")])

        async def stale(as_of: dt.datetime, minutes: int = 15) -> list[tuple[str, int]]:
            found = await uow.tick_history.stale_feeds(silent_for=minutes * MINUTE, as_of=as_of)
            return [(feed.source, feed.silent // MINUTE) for feed in found]

        assert await stale(seoul(14, 23)) == []  # a weekend does not make a feed stale
        assert await stale(seoul(15, 9, 5)) == []
        assert await stale(seoul(15, 9, 6, 30)) == [("krx", 16)]
        assert await stale(seoul(12, 15, 10), 0) == []


async def test_impossible_calendar_or_range_is_refused(market: Database) -> None:
    with pytest.raises(ConfigurationError, match="no calendar 'KRX'"):
        await gaps(market, seoul(1), seoul(2), calendar="KRX")
    with pytest.raises(InvalidRecord, match=r"start: .* is not before"):
        await gaps(market, seoul(2), seoul(2))
    with pytest.raises(InvalidRecord, match="shorter than a minute"):
        await gaps(market, seoul(1), seoul(2), at_least=dt.timedelta(0))
    with pytest.raises(InvalidRecord, match=r"start: .* has no time zone"):
        await gaps(market, seoul(1).replace(tzinfo=None), seoul(2))
    with pytest.raises(InvalidRecord, match=r"the calendar XKRX (does not cover|covers only)"):
        await gaps(market, dt.datetime(1850, 1, 1, tzinfo=dt.UTC), dt.datetime(1850, 2, 1, tzinfo=dt.UTC))


def test_the_command_lists_signs_off_and_finds_silence(
    qts_data: Callable[..., subprocess.CompletedProcess[str]], database_url: URL
) -> None:
    environment = {"QTS_DATABASE_URL": database_url.render_as_string(hide_password=False)}
    day = ["005930", "--from", "2026-06-16", "--to", "2026-06-17"]
    run = qts_data("gaps", "list", *day, "--kept", **environment)
    assert run.returncode == 3, run.stderr
    assert run.stdout.splitlines()[1].split() == ["day", "2026-06-16", "09:00", "2026-06-16", "15:30", "390"]
    assert qts_data("gaps", "sign-off", *day, "--reason", "halt", **environment).returncode == 0
    run = qts_data("gaps", "list", *day, "--kept", **environment)
    assert (run.returncode, run.stdout.strip()) == (0, "no gaps of 005930")
    run = qts_data("gaps", "stale", **environment)
    assert (run.returncode, run.stderr.strip()) == (0, "no feed is stale")


async def test_sign_offs_that_meet_within_a_minute_explain_it(market: Database) -> None:
    start = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
    end, middle = start + dt.timedelta(hours=1), start + dt.timedelta(minutes=30, seconds=20)
    async with market.transaction() as uow:
        await uow.tick_history.sign_off_gap("005930", start, middle, "halt")
        assert [gap.minutes for gap in await uow.tick_history.gaps("005930", start, end, "24/7")] == [30]
        await uow.tick_history.sign_off_gap("005930", middle, end, "halt")
        assert await uow.tick_history.gaps("005930", start, end, "24/7") == []
