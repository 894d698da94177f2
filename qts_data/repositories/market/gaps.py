"""Missing market data: sessions without ticks, minutes without ticks, and feeds that have become silent."""

from __future__ import annotations

import asyncio
import bisect
import datetime as dt
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import sqlalchemy as sa

from qts_data.contracts.checks import check_source, check_symbol
from qts_data.contracts.identity import check_asked
from qts_data.contracts.instants import utc, utc_fields, utc_or_none
from qts_data.errors import InvalidRecord
from qts_data.repositories.market.bars.refresh import retention_cutoff
from qts_data.repositories.market.clock import server_time
from qts_data.repositories.market.reports import TimeRange, merged
from qts_data.repositories.market.sessions import minute_after, minute_of, sessions_between, trading_minutes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.repositories.market.reports import TickTable
    from qts_data.repositories.market.sessions import Session

__all__ = ["EVERY_FEED", "Gap", "SignedOff", "StaleFeed", "find_gaps", "find_stale", "list_signed_off", "sign_off"]

EVERY_FEED: Final = "*"
"""Value of `signed_off_gaps.source` for a gap of all feeds together."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MINUTE: Final = dt.timedelta(minutes=1)

# The minute bars are kept longer than their ticks.
_PRESENT: Final = {
    "tick_data": (
        "SELECT DISTINCT bucket FROM ohlcv_1m WHERE symbol = :symbol AND bucket >= :start AND bucket < :end "
        "AND (CAST(:feed AS text) IS NULL OR source = :feed)"
    ),
    "tick_history": (
        "SELECT DISTINCT date_bin('1 minute', time, TIMESTAMPTZ '1970-01-01 00:00:00+00') FROM tick_history "
        "WHERE symbol = :symbol AND time >= :start AND time < :end AND (CAST(:feed AS text) IS NULL OR source = :feed)"
    ),
}
_SIGNED_OFF: Final = """
    SELECT symbol, source, start_time, end_time, reason, signed_off_by, signed_off_at FROM signed_off_gaps
     WHERE symbol = :symbol AND source = ANY(:feeds) AND start_time < :end AND end_time > :start
     ORDER BY start_time, source
"""
_SIGN_OFF: Final = """
    INSERT INTO signed_off_gaps (symbol, source, start_time, end_time, reason)
    VALUES (:symbol, :feed, :start, :end, :reason)
    ON CONFLICT (symbol, source, start_time) DO UPDATE SET
        end_time = excluded.end_time, reason = excluded.reason, signed_off_by = excluded.signed_off_by,
        signed_off_at = excluded.signed_off_at
"""


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of a session without a tick.

    Attributes:
        symbol: The instrument.
        source: The feed; None for all feeds together.
        kind: `day` if the whole session has no tick, else `minutes`.
        start: Start of its first minute.
        end: End of its last minute. Breaks of the session may lie between.
        minutes: Number of trading minutes in it.
    """

    symbol: str
    source: str | None
    kind: Literal["day", "minutes"]
    start: dt.datetime
    end: dt.datetime
    minutes: int

    def __post_init__(self) -> None:
        """Convert the instants to UTC."""
        utc_fields(self, "start", "end")


@dataclass(frozen=True, slots=True)
class StaleFeed:
    """A feed that has sent no tick although its exchange was trading.

    Attributes:
        symbol: The instrument.
        source: The feed.
        last: Instant of its last tick.
        silent: Trading time since its last tick.
    """

    symbol: str
    source: str
    last: dt.datetime
    silent: dt.timedelta

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "last")


@dataclass(frozen=True, slots=True)
class SignedOff:
    """A gap that a person has checked and explained.

    Attributes:
        symbol: The instrument.
        source: The feed; None for all feeds together.
        start: Start of the gap.
        end: End of the gap, exclusive.
        reason: Reason why no tick exists.
        by: Database role that signed it off.
        at: Time of the sign-off.
    """

    symbol: str
    source: str | None
    start: dt.datetime
    end: dt.datetime
    reason: str
    by: str
    at: dt.datetime

    def __post_init__(self) -> None:
        """Convert the instants to UTC."""
        utc_fields(self, "start", "end", "at")


async def find_gaps(
    connection: AsyncConnection,
    table: TickTable,
    symbol: str,
    start: dt.datetime,
    end: dt.datetime,
    *,
    calendar: str,
    source: str | None,
    at_least: dt.timedelta,
) -> list[Gap]:
    """Implement `TickReads.gaps`."""
    check_symbol(symbol)
    check_asked(source=source)
    start, end = _range(start, end)
    if at_least < _MINUTE:
        raise InvalidRecord(field="at_least", reason=f"{at_least} is shorter than a minute")
    cutoff = await retention_cutoff(connection, "ohlcv_1m" if table == "tick_data" else table)
    if cutoff is not None and start < cutoff:
        raise InvalidRecord(
            field="start",
            reason=f"minutes before {cutoff:%Y-%m-%d %H:%M} UTC are dropped by retention; gaps before that "
            "cannot be found",
        )
    now = await server_time(connection)
    # The current minute and later ones are not missing.
    first, last = minute_after(start), minute_of(min(end, now))
    sessions = await asyncio.to_thread(sessions_between, calendar, start, min(end, now))
    window = {"symbol": symbol, "start": start, "end": end}
    present = {
        minute_of(instant) for instant in await connection.scalars(sa.text(_PRESENT[table]), window | {"feed": source})
    }
    feeds = [EVERY_FEED] if source is None else [source, EVERY_FEED]
    # Merged: two sign-offs that meet within a minute explain that minute together. Neither of them covers it alone.
    explained = merged(
        TimeRange(row.start_time, row.end_time)
        for row in await connection.execute(sa.text(_SIGNED_OFF), window | {"feeds": feeds})
    )
    found = itertools.chain.from_iterable(
        _gaps_of(session, range(first, last), present, explained) for session in sessions
    )
    return [
        Gap(symbol, source, kind, _instant(begin), _instant(stop + 1), minutes)
        for kind, begin, stop, minutes in found
        if minutes * _MINUTE >= at_least
    ]


def _gaps_of(
    session: Session, asked: range, present: set[int], explained: Sequence[TimeRange]
) -> Iterator[tuple[Literal["day", "minutes"], int, int, int]]:
    """Yield kind, first minute, last minute and trading minutes of each gap in a session."""
    wanted = [minute for minute in session.minutes if minute in asked]
    missing = {
        minute
        for minute in wanted
        if minute not in present
        and not any(span.start <= _instant(minute) and _instant(minute + 1) <= span.end for span in explained)
    }
    if len(missing) == len(session.minutes):
        yield "day", session.minutes[0], session.minutes[-1], len(missing)
        return
    for is_missing, group in itertools.groupby(wanted, missing.__contains__):
        if is_missing:
            stretch = list(group)
            yield "minutes", stretch[0], stretch[-1], len(stretch)


async def find_stale(
    connection: AsyncConnection,
    feeds: Iterable[tuple[str, str, dt.datetime]],
    *,
    calendar: str,
    silent_for: dt.timedelta,
    alive_within: dt.timedelta,
    as_of: dt.datetime | None,
) -> list[StaleFeed]:
    """Implement `TickReads.stale_feeds`. `feeds` are symbol, source and last tick."""
    now: dt.datetime = utc_or_none("as_of", as_of) or await server_time(connection)
    since = now - alive_within
    trading = await asyncio.to_thread(trading_minutes, calendar, since, now)
    found = []
    for symbol, source, last in feeds:
        silent = (len(trading) - bisect.bisect_left(trading, minute_after(last))) * _MINUTE
        if last >= since and silent > silent_for:
            found.append(StaleFeed(symbol, source, last, silent))
    return found


async def sign_off(
    connection: AsyncConnection, symbol: str, start: dt.datetime, end: dt.datetime, reason: str, *, source: str | None
) -> None:
    """Implement `TickRepository.sign_off_gap`."""
    check_symbol(symbol)
    start, end = _range(start, end)
    if source is not None:
        check_source(source)
        if source == EVERY_FEED:
            raise InvalidRecord(field="source", reason=f"{EVERY_FEED!r} stands for every feed; leave it out")
    if not reason.strip():
        raise InvalidRecord(field="reason", reason="is empty; say why no tick exists")
    await connection.execute(
        sa.text(_SIGN_OFF),
        {
            "symbol": symbol,
            "feed": EVERY_FEED if source is None else source,
            "start": start,
            "end": end,
            "reason": reason.strip(),
        },
    )


async def list_signed_off(
    connection: AsyncConnection, symbol: str, start: dt.datetime, end: dt.datetime
) -> list[SignedOff]:
    """Implement `TickReads.list_signed_off_gaps`."""
    check_symbol(symbol)
    start, end = _range(start, end)
    statement = sa.text(_SIGNED_OFF.replace("source = ANY(:feeds)", "true"))
    return [
        SignedOff(
            row.symbol,
            None if row.source == EVERY_FEED else row.source,
            row.start_time,
            row.end_time,
            row.reason,
            row.signed_off_by,
            row.signed_off_at,
        )
        for row in await connection.execute(statement, {"symbol": symbol, "start": start, "end": end})
    ]


def _instant(minute: int) -> dt.datetime:
    return _EPOCH + minute * _MINUTE


def _range(start: dt.datetime, end: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Return both in UTC. By the clock of a zone, the second 01:10 of a night would precede its first 01:30."""
    start, end = utc("start", start), utc("end", end)
    if start >= end:
        raise InvalidRecord(field="start", reason=f"{start.isoformat()} is not before {end.isoformat()}")
    return start, end
