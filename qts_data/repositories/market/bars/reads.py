"""Bars of every length, for several symbols at once."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import sqlalchemy as sa

from qts_data.contracts import OHLCV
from qts_data.contracts.identity import check_asked, names_of
from qts_data.contracts.instants import utc, utc_or_none
from qts_data.contracts.leniency import as_stored
from qts_data.database.errors import translated_errors
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.repositories.market.bars.frame import Bars
from qts_data.repositories.market.bars.refresh import continuous_aggregates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["BAR_INTERVALS", "VENDOR_MINUTES", "BarInterval", "BarReads", "BarSource", "on_hours_since"]

BarInterval = Literal["1m", "5m", "15m", "30m", "1h", "4h", "1d"]
BarSource = Literal["tick_data", "tick_history", "ohlcv_1m_vendor"]
"""Table from which bars are made."""

VENDOR_MINUTES: Final = "ohlcv_1m_vendor"
"""Minute bars that vendors publish."""


@dataclass(frozen=True, slots=True)
class _Interval:
    """How the server makes bars of one length.

    Attributes:
        length: Length of a bar; for a trading day, the longest possible.
        aggregate: Table that stores the parts of the bars.
        part: Length of a part.
    """

    length: dt.timedelta
    aggregate: str
    part: dt.timedelta


_NO_TIME: Final = dt.timedelta(0)
_MINUTE: Final = dt.timedelta(minutes=1)
_HOUR: Final = dt.timedelta(hours=1)
_LONGEST_DAY: Final = dt.timedelta(hours=26)
_TWO_WEEKS: Final = dt.timedelta(days=14)
_YEAR: Final = dt.timedelta(days=366)
# Before the first, places used their solar time. After the second, the clocks of each year repeat those of the year
# before.
_ZONES_BEGIN: Final = dt.datetime(1800, 1, 1, tzinfo=dt.UTC)
_ZONES_REPEAT: Final = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)

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

# Parts of bars, and ticks, in one shape. `at` and `seq` give their order.
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
# TimescaleDB counts its buckets from this Monday, so all editions do the same here.
_FIXED_BUCKET: Final = "date_bin(CAST(:length AS interval), at, TIMESTAMPTZ '2000-01-03 00:00:00+00')"
_FIXED_END: Final = "bucket + CAST(:length AS interval)"
_DAY_BUCKET: Final = "date_trunc('day', at, :zone)"
_DAY_END: Final = "date_trunc('day', bucket + INTERVAL '26 hours', :zone)"
_CLOSED: Final = "WHERE {end} + CAST(:grace AS interval) <= least(now(), CAST(:as_of AS timestamptz))"


_HOURS_WITHOUT_MINUTES: Final = """
    SELECT max(hour.bucket) FROM ohlcv_1h AS hour
     WHERE hour.symbol = ANY(:symbols) AND (CAST(:feed AS text) IS NULL OR hour.source = :feed)
       AND hour.bucket >= :earliest AND hour.bucket < :latest AND hour.bucket < :on_hours
       AND NOT EXISTS (SELECT FROM ohlcv_1m AS minute
                        WHERE minute.symbol = hour.symbol AND minute.source = hour.source
                          AND minute.bucket >= hour.bucket AND minute.bucket < hour.bucket + INTERVAL '1 hour')
"""


class BarReads:
    """Queries about the bars of one table, in the transaction of one connection.

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
    ) -> Bars:
        """Return the whole bars of symbols that start in [start, end), in order of time, symbol and source.

        Bars up to 4h begin at multiples of their length in UTC. A bar of `1d` is a day of the wall clock, of 23 to 25
        hours when clocks change. On a day that has midnight twice (Havana, in autumn), its `time` is the second one, an
        hour after its first ticks. To have that bar whole, begin before the day.

        From `tick_history`, all bars are computed from the ticks. From `tick_data`, bars shorter than an hour go back
        as far as `ohlcv_1m` is kept (30 days). The same holds for days that do not begin on hours of UTC
        (`Asia/Kolkata`). From minutes of vendors, longer bars are computed, and their tick_count is the sum of the
        vendor's counts.

        Args:
            symbols: One instrument or several.
            start: Aware instant; bars that start at it are included.
            end: Aware instant; bars that start at it are not included.
            interval: Length of a bar.
            source: Only bars of this feed or vendor.
            time_zone: Zone of the days of `1d`; the database's trading time zone by default.
            closed_only: Leave out every bar whose end lies after the server's clock, or after `as_of`. A late tick
                still changes a closed bar, and so does a vendor's correction. The report of the load counts such ticks
                in `late` and lists their minutes in `changed`, for bars up to the day of the database's trading zone.
            as_of: Leave out every bar that had not ended by this instant, which a strategy could not know then. It
                implies `closed_only`.
            grace: Extra time after its end before a bar counts as closed, with `closed_only` or `as_of`. Choose the
                delay of the feed plus the time until loads commit.

        Raises:
            InvalidRecord: An instant has no time zone, a symbol is invalid, the interval is unknown, or `grace` is
                given alone. Also if days that do not begin on hours of UTC start at a time whose minutes are no longer
                stored, or if the volume of a bar is larger than a bar can hold.
            ConfigurationError: The time zone is unknown.
        """
        with translated_errors():
            return await _select_bars(
                self._connection,
                self._made_of,
                names_of("symbol", symbols),
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
) -> Bars:
    start, end, as_of = utc("start", start), utc("end", end), utc_or_none("as_of", as_of)
    if interval not in BAR_INTERVALS:
        raise InvalidRecord(field="interval", reason=f"{interval!r} is none of {', '.join(BAR_INTERVALS)}")
    check_asked(source=source)
    closed_only = closed_only or as_of is not None
    if grace and not closed_only:
        raise InvalidRecord(field="grace", reason="is given without closed_only or as_of, and would change nothing")
    if grace < dt.timedelta(0):
        raise InvalidRecord(field="grace", reason=f"{grace} is below zero")
    chosen = BAR_INTERVALS[interval]
    parameters: dict[str, object] = {
        "symbols": list(symbols),
        "feed": source,
        "start": start,
        "end": end,
        # The bounds include every part of a bar that starts in the range.
        "earliest": start,
        "latest": _at_most(end, chosen.length),
        "grace": grace,
        "as_of": as_of or dt.datetime.max.replace(tzinfo=dt.UTC),
    }
    if interval == "1d":
        zone = time_zone or await connection.scalar(sa.text("SELECT qts_trading_zone()"))
        parameters["zone"] = zone
        parts = await _parts_of_days(connection, table, parameters, on_hours=on_hours_since(zone, start, end))
        bucket, bar_end = _DAY_BUCKET, _DAY_END
    else:
        parameters["length"] = chosen.length
        parts, bucket, bar_end = _parts(table, chosen.aggregate), _FIXED_BUCKET, _FIXED_END
    statement = _BARS.format(
        bucket=bucket,
        parts=parts,
        closed=_CLOSED.format(end=bar_end) if closed_only else "",
    )
    rows = await connection.execute(sa.text(statement), parameters)
    # Entered once for all rows: every stored row can be read.
    with as_stored():
        return Bars(_bar(row) for row in rows)


def _bar(row: sa.Row[Any]) -> OHLCV:
    try:
        return OHLCV(
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
    except InvalidRecord as error:
        # Volumes that are valid one by one can add up to more than a bar holds.
        reason = f"{error.reason}, in the bar of {row.symbol} at {row.bucket.isoformat()} of source {row.source!r}"
        raise InvalidRecord(field=error.field, reason=reason) from error


def _parts(table: BarSource, aggregate: str) -> str:
    if table == "tick_data":
        return _PARTS.format(relation=aggregate, start="bucket")
    if table == VENDOR_MINUTES:
        return _PARTS.format(relation=table, start="time")
    return _TICKS.format(table=table)


async def _parts_of_days(
    connection: AsyncConnection, table: BarSource, parameters: dict[str, object], *, on_hours: dt.datetime
) -> str:
    """Return the SQL of the parts of days: hours, but minutes while an hour can belong to two days.

    Args:
        connection: In a transaction.
        table: Ticks, or minute bars of vendors.
        parameters: Parameters of the query; the function may add some.
        on_hours: Instant from which on all days begin on hours of UTC.
    """
    parameters["on_hours"] = on_hours
    if table != "tick_data" or on_hours <= cast("dt.datetime", parameters["earliest"]):
        return _parts(table, "ohlcv_1h")
    if "ohlcv_1m" in await continuous_aggregates(connection):
        lost: dt.datetime | None = await connection.scalar(sa.text(_HOURS_WITHOUT_MINUTES), parameters)
        if lost is not None:
            raise InvalidRecord(
                field="start",
                reason=(
                    f"days of {parameters['zone']} do not begin on hours of UTC, and minutes are no longer kept up to "
                    f"{(lost + _HOUR).isoformat()}; ask for days after that, for bars of 1h, or for days of another "
                    "time_zone"
                ),
            )
    minutes, hours = _parts(table, "ohlcv_1m"), _parts(table, "ohlcv_1h")
    return (
        f"SELECT * FROM ({minutes}) AS minute WHERE at < :on_hours UNION ALL "
        f"SELECT * FROM ({hours}) AS hour WHERE at >= :on_hours"
    )


def _at_most(instant: dt.datetime, more: dt.timedelta) -> dt.datetime:
    try:
        return instant + more
    except OverflowError:
        return dt.datetime.max.replace(tzinfo=dt.UTC)


def on_hours_since(name: str, start: dt.datetime, end: dt.datetime) -> dt.datetime:
    """Return the instant from which on the zone is whole hours from UTC. Before it, an hour can belong to two days.

    Returns:
        `start` or earlier if that is so in all of [start, end]; the largest datetime if it is not so at the end.
    """
    try:
        zone = zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(f"no time zone {name!r} exists") from error
    start, end = utc("start", start), utc("end", end)
    first = min(max(start, _ZONES_BEGIN), _ZONES_REPEAT - _YEAR)
    probe = max(min(_at_most(end, _TWO_WEEKS), _ZONES_REPEAT), first)
    on_hours = dt.datetime.max.replace(tzinfo=dt.UTC)
    # Search backwards: in a zone with odd offsets long ago, only the time before their end needs minutes.
    while _on_hour(probe, zone):
        if probe == first:
            return min(start, first)
        on_hours = _next_hour(probe)
        # Clocks do not change and change back within two weeks.
        probe = max(probe - _TWO_WEEKS, first)
    # The last year of the search stands for all years after it.
    forever = end > _ZONES_REPEAT and probe >= _ZONES_REPEAT - _YEAR
    return dt.datetime.max.replace(tzinfo=dt.UTC) if forever else on_hours


def _on_hour(instant: dt.datetime, zone: zoneinfo.ZoneInfo) -> bool:
    return (instant.astimezone(zone).utcoffset() or _NO_TIME) % _HOUR == _NO_TIME


def _next_hour(instant: dt.datetime) -> dt.datetime:
    return instant.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0) + _HOUR
