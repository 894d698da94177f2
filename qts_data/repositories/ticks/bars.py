"""Bars of every length, for several symbols at once."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import sqlalchemy as sa

from qts_data.contracts import OHLCV
from qts_data.contracts.checks import check_aware
from qts_data.database.errors import translated_errors
from qts_data.errors import ConfigurationError, InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["BAR_INTERVALS", "VENDOR_MINUTES", "BarInterval", "BarReads", "BarSource"]

BarInterval = Literal["1m", "5m", "15m", "30m", "1h", "4h", "1d"]
BarSource = Literal["tick_data", "tick_history", "ohlcv_1m_vendor"]
"""What bars are made of."""

VENDOR_MINUTES: Final = "ohlcv_1m_vendor"
"""Minute bars that vendors publish."""


@dataclass(frozen=True, slots=True)
class _Interval:
    """How bars of one length come about.

    Attributes:
        length: Of a bar; of a trading day, the longest there is.
        aggregate: Where its parts are kept.
        part: Length of a part.
    """

    length: dt.timedelta
    aggregate: str
    part: dt.timedelta


_NO_TIME: Final = dt.timedelta(0)
_MINUTE: Final = dt.timedelta(minutes=1)
_HOUR: Final = dt.timedelta(hours=1)
_LONGEST_DAY: Final = dt.timedelta(hours=26)

BAR_INTERVALS: Final[Mapping[BarInterval, _Interval]] = {
    "1m": _Interval(_MINUTE, "ohlcv_1m", _MINUTE),
    "5m": _Interval(5 * _MINUTE, "ohlcv_1m", _MINUTE),
    "15m": _Interval(15 * _MINUTE, "ohlcv_1m", _MINUTE),
    "30m": _Interval(30 * _MINUTE, "ohlcv_1m", _MINUTE),
    "1h": _Interval(_HOUR, "ohlcv_1h", _HOUR),
    "4h": _Interval(4 * _HOUR, "ohlcv_1h", _HOUR),
    "1d": _Interval(_LONGEST_DAY, "ohlcv_1h", _HOUR),
}
"""The lengths of a bar."""

# Parts of bars and ticks themselves, in one shape; `at` and `seq` order them.
_PARTS: Final = """
    SELECT symbol, source, {start} AS at, 0 AS seq, open, high, low, close, volume, tick_count
      FROM {relation} WHERE symbol = ANY(:symbols) AND {start} >= :earliest AND {start} < :latest
"""
_TICKS: Final = """
    SELECT symbol, source, time AS at, seq, price AS open, price AS high, price AS low, price AS close, volume,
           1 AS tick_count
      FROM {table} WHERE symbol = ANY(:symbols) AND time >= :earliest AND time < :latest
"""
_BARS: Final = """
    SELECT * FROM (
        SELECT bucket, symbol, source, (array_agg(open ORDER BY at, seq))[1] AS open, max(high) AS high,
               min(low) AS low, (array_agg(close ORDER BY at, seq))[CAST(count(*) AS integer)] AS close,
               sum(volume) AS volume, CAST(sum(tick_count) AS bigint) AS tick_count
          FROM (SELECT *, {bucket} AS bucket FROM ({parts}) AS part) AS binned
         WHERE (CAST(:feed AS text) IS NULL OR source = :feed) AND bucket >= :start AND bucket < :end
         GROUP BY bucket, symbol, source) AS bar
     {closed}
     ORDER BY bucket, symbol, source
"""
# TimescaleDB counts its buckets from this Monday; so does every edition here.
_FIXED_BUCKET: Final = "date_bin(CAST(:length AS interval), at, TIMESTAMPTZ '2000-01-03 00:00:00+00')"
_FIXED_END: Final = "bucket + CAST(:length AS interval)"
_DAY_BUCKET: Final = "date_trunc('day', at, :zone)"
_DAY_END: Final = "date_trunc('day', bucket + INTERVAL '26 hours', :zone)"
_CLOSED: Final = "WHERE {end} + CAST(:grace AS interval) <= least(now(), CAST(:as_of AS timestamptz))"


class BarReads:
    """Questions about the bars of one table, in the transaction of one connection.

    Args:
        connection: In a transaction.
        table: Ticks, or minute bars of vendors.
    """

    def __init__(self, connection: AsyncConnection, table: BarSource) -> None:
        self._connection = connection
        self._made_of: BarSource = table

    async def bars(
        self,
        symbols: str | Sequence[str],
        start: dt.datetime,
        end: dt.datetime,
        interval: BarInterval,
        *,
        source: str | None = None,
        time_zone: str | None = None,
        closed_only: bool = False,
        as_of: dt.datetime | None = None,
        grace: dt.timedelta = _NO_TIME,
    ) -> list[OHLCV]:
        """Bars of symbols that start in [start, end), whole, in order of time, symbol and source.

        Bars up to 4h begin at multiples of their length in UTC. A bar of `1d` is a day of the wall clock, of 23
        to 25 hours where clocks change. From `tick_data`, bars of less than an hour go back as far as `ohlcv_1m`
        is kept (30 days); from `tick_history` all are computed from the ticks. Of vendors' minutes, the longer
        bars are computed; their tick_count is the sum of those that the vendor says.

        Args:
            symbols: One instrument or several.
            start: Aware instant; bars that start at it are included.
            end: Aware instant; bars that start at it are not.
            interval: Length of a bar.
            source: Only of this feed or vendor.
            time_zone: Whose days `1d` means; the database's trading time zone by default.
            closed_only: Leave out every bar that time can still change: its end lies after the server's clock,
                or after `as_of`. A tick that arrives after the end of its bar still changes it; such bars are in
                the report of the load. So does a vendor's correction.
            as_of: With `closed_only`: the instant to look from, for what a strategy knew then.
            grace: With `closed_only`: how long after its end a bar may still be waiting for ticks that are on
                their way; as long as the feed is behind.

        Raises:
            InvalidRecord: An instant has no time zone, or there is no such interval.
            ConfigurationError: There is no such time zone.
        """
        with translated_errors():
            return await _select_bars(
                self._connection,
                self._made_of,
                [symbols] if isinstance(symbols, str) else symbols,
                start,
                end,
                interval=interval,
                source=source,
                time_zone=time_zone,
                closed_only=closed_only,
                as_of=as_of,
                grace=grace,
            )


async def _select_bars(
    connection: AsyncConnection,
    table: BarSource,
    symbols: Sequence[str],
    start: dt.datetime,
    end: dt.datetime,
    *,
    interval: BarInterval,
    source: str | None,
    time_zone: str | None,
    closed_only: bool,
    as_of: dt.datetime | None,
    grace: dt.timedelta,
) -> list[OHLCV]:
    for field, instant in (("start", start), ("end", end), ("as_of", as_of)):
        if instant is not None:
            check_aware(field, instant)
    if interval not in BAR_INTERVALS:
        raise InvalidRecord(field="interval", reason=f"{interval!r} is none of {', '.join(BAR_INTERVALS)}")
    if grace < dt.timedelta(0):
        raise InvalidRecord(field="grace", reason=f"{grace} is below zero")
    chosen = BAR_INTERVALS[interval]
    parameters: dict[str, object] = {
        "symbols": list(symbols),
        "feed": source,
        "start": start,
        "end": end,
        # Whatever a bar that starts in the range can hold.
        "earliest": start,
        "latest": _at_most(end, chosen.length),
        "grace": grace,
        "as_of": as_of or dt.datetime.max.replace(tzinfo=dt.UTC),
    }
    if interval == "1d":
        zone = time_zone or await connection.scalar(sa.text("SELECT qts_trading_zone()"))
        parameters["zone"] = zone
        aggregate = "ohlcv_1h" if _days_begin_on_hours(zone, start, end) else "ohlcv_1m"
        bucket, bar_end = _DAY_BUCKET, _DAY_END
    else:
        parameters["length"] = chosen.length
        aggregate, bucket, bar_end = chosen.aggregate, _FIXED_BUCKET, _FIXED_END
    statement = _BARS.format(
        bucket=bucket,
        parts=_parts(table, aggregate),
        closed=_CLOSED.format(end=bar_end) if closed_only else "",
    )
    rows = await connection.execute(sa.text(statement), parameters)
    return [
        OHLCV(
            time=row.bucket,
            symbol=row.symbol,
            source=row.source,
            open=row.open,
            high=row.high,
            low=row.low,
            close=row.close,
            volume=row.volume,
            tick_count=row.tick_count,
        )
        for row in rows
    ]


def _parts(table: BarSource, aggregate: str) -> str:
    if table == "tick_data":
        return _PARTS.format(relation=aggregate, start="bucket")
    if table == VENDOR_MINUTES:
        return _PARTS.format(relation=table, start="time")
    return _TICKS.format(table=table)


def _at_most(instant: dt.datetime, more: dt.timedelta) -> dt.datetime:
    try:
        return instant + more
    except OverflowError:
        return dt.datetime.max.replace(tzinfo=dt.UTC)


def _days_begin_on_hours(name: str, start: dt.datetime, end: dt.datetime) -> bool:
    """Whether the zone is whole hours from UTC all the time; else an hour belongs to two days."""
    try:
        zone = zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(f"there is no time zone {name!r}") from error
    # Clocks do not change and change back within two weeks.
    probe, step = start.astimezone(dt.UTC), dt.timedelta(days=14)
    probes = [probe]
    while probes[-1] < end:
        probes.append(_at_most(probes[-1], step))
        if probes[-1].year == dt.MAXYEAR:
            break
    return all((instant.astimezone(zone).utcoffset() or dt.timedelta()) % _HOUR == dt.timedelta() for instant in probes)
