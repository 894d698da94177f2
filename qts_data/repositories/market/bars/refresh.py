"""Refresh of continuous aggregates, without deleting bars that have outlived their ticks.

An aggregate has a watermark, the end of its youngest bucket. A query reads everything before it from the aggregate, and
computes only the rest from the ticks. So a bucket that is materialized before its end hides all later ticks in it. A
bucket far ahead hides the new ticks of all symbols. Therefore a refresh stops at a bucket that has ended. Like the
policies, it leaves one more bucket's length for ticks that are on their way.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.repositories.market.reports import RefreshReport, TimeRange, merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["clock_and_cutoff", "continuous_aggregates", "refresh_aggregates", "retention_cutoff"]

_HOUR: Final = dt.timedelta(hours=1)
# The last hour of a datetime has no end that a datetime can hold.
_LATEST: Final = dt.datetime.max.replace(tzinfo=dt.UTC)
_LAST_HOUR: Final = dt.datetime(9999, 12, 31, 23, tzinfo=dt.UTC)

# Detects bars that a refresh from these rows would damage: the rows have fewer ticks or less volume than the bar, or
# none at its highest or lowest price. Late ticks may have arrived after others were dropped. So the mere presence of
# rows proves nothing.
_HOLDS: Final = (
    "{rows}.tick_count >= bar.tick_count AND {rows}.volume >= bar.volume "
    "AND {rows}.high >= bar.high AND {rows}.low <= bar.low"
)
_IN_RANGE: Final = (
    "{column} >= CAST(:start AS timestamptz) AND {column} < coalesce(CAST(:end AS timestamptz), 'infinity')"
)
_OF_TICKS: Final = "count(*) AS tick_count, sum(volume) AS volume, max(price) AS high, min(price) AS low FROM tick_data"
_OF_BARS: Final = (
    "sum(tick_count) AS tick_count, sum(volume) AS volume, max(high) AS high, min(low) AS low FROM ohlcv_1m"
)

_ENDANGERED: Final = {
    "ohlcv_1m": f"""
        SELECT date_trunc('hour', bar.bucket, 'UTC') AS hour, count(*) AS bars
          FROM ohlcv_1m AS bar
          LEFT JOIN (SELECT date_trunc('minute', time, 'UTC') AS bucket, symbol, source, {_OF_TICKS}
                      WHERE {_IN_RANGE.format(column="time")} GROUP BY 1, 2, 3) AS ticks
               USING (bucket, symbol, source)
         WHERE {_IN_RANGE.format(column="bar.bucket")} AND ({_HOLDS.format(rows="ticks")}) IS NOT TRUE
         GROUP BY 1
    """,
    # Minutes are dropped earlier than hours. After a second load of the day, the ticks may all be present.
    "ohlcv_1h": f"""
        SELECT bar.bucket AS hour, count(*) AS bars
          FROM ohlcv_1h AS bar
          LEFT JOIN (SELECT date_trunc('hour', bucket, 'UTC') AS bucket, symbol, source, {_OF_BARS}
                      WHERE {_IN_RANGE.format(column="bucket")} GROUP BY 1, 2, 3) AS minutes
               USING (bucket, symbol, source)
         WHERE {_IN_RANGE.format(column="bar.bucket")} AND ({_HOLDS.format(rows="minutes")}) IS NOT TRUE
           AND NOT EXISTS (SELECT
                             FROM (SELECT {_OF_TICKS}
                                    WHERE symbol = bar.symbol AND source = bar.source
                                      AND time >= bar.bucket AND time < bar.bucket + INTERVAL '1 hour') AS ticks
                            WHERE {_HOLDS.format(rows="ticks")})
         GROUP BY 1
    """,
}


# No query computes a bucket before the watermark from the ticks: once it has ended, it is refreshed without a wait.
_REFRESHABLE: Final = """
    SELECT a.user_view_name AS name,
           date_bin(w.width,
                    greatest(now() - w.width,
                             least(now(), _timescaledb_functions.to_timestamp(
                                              _timescaledb_functions.cagg_watermark(a.mat_hypertable_id)))),
                    TIMESTAMPTZ '2000-01-03 00:00:00+00') AS until
      FROM _timescaledb_catalog.continuous_agg AS a
      JOIN (VALUES ('ohlcv_1m', INTERVAL '1 minute'), ('ohlcv_1h', INTERVAL '1 hour')) AS w (name, width)
        ON w.name = a.user_view_name
     WHERE a.user_view_schema = current_schema()
"""


async def refresh_aggregates(connection: AsyncConnection, ranges: Iterable[TimeRange]) -> RefreshReport:
    """Implement `TickRepository.refresh_bars`."""
    refreshed: dict[str, None] = {}
    kept: dict[str, int] = {}
    existing = await continuous_aggregates(connection)
    names = [name for name in _ENDANGERED if name in existing]
    if not names:
        return RefreshReport()
    until = {row.name: row.until for row in await connection.execute(sa.text(_REFRESHABLE))}
    for span in merged(map(_whole_hours, ranges)):
        # Both checks run before the first refresh. Otherwise minutes made from late ticks could add up to the figures
        # of an hour that has lost ticks.
        endangered: set[dt.datetime] = set()
        for name in names:
            found = (await connection.execute(sa.text(_ENDANGERED[name]), _window(span))).all()
            endangered |= {row.hour for row in found}
            if found:
                kept[name] = kept.get(name, 0) + sum(row.bars for row in found)
        for part in _without(span, endangered):
            for name in names:
                over = TimeRange(part.start, min(part.end, until[name]))
                if over.start < over.end:
                    await _refresh(connection, name, over)
                    refreshed[name] = None
    return RefreshReport(tuple(refreshed), kept)


async def _refresh(connection: AsyncConnection, name: str, span: TimeRange) -> None:
    await connection.execute(
        sa.text(f"CALL refresh_continuous_aggregate('{name}', CAST(:start AS timestamptz), CAST(:end AS timestamptz))"),
        {"start": span.start, "end": span.end},
    )


def _window(span: TimeRange) -> dict[str, object]:
    # The last instant of a datetime stands for no end, because it lies within an hour.
    return {"start": span.start, "end": span.end if span.end < _LATEST else None}


def _whole_hours(span: TimeRange) -> TimeRange:
    """Return the hours that hold any instant of a range."""
    start = span.start.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
    end = span.end.astimezone(dt.UTC)
    hour = end.replace(minute=0, second=0, microsecond=0)
    if hour < end:
        end = hour + _HOUR if hour < _LAST_HOUR else _LATEST
    return TimeRange(start, end)


def _without(span: TimeRange, hours: Iterable[dt.datetime]) -> Iterator[TimeRange]:
    """Yield the parts of a range outside of the hours."""
    start = span.start
    for hour in sorted(hours):
        if start < hour:
            yield TimeRange(start, hour)
        start = hour + _HOUR if hour < _LAST_HOUR else span.end
    if start < span.end:
        yield TimeRange(start, span.end)


async def continuous_aggregates(connection: AsyncConnection) -> set[str]:
    """Return the names of the schema's continuous aggregates. None on editions that use views."""
    found = await connection.scalar(
        sa.text("SELECT to_regclass('timescaledb_information.continuous_aggregates') IS NOT NULL")
    )
    if not found:
        return set()
    names = await connection.scalars(
        sa.text(
            "SELECT view_name FROM timescaledb_information.continuous_aggregates WHERE view_schema = current_schema()"
        )
    )
    return set(names)


async def clock_and_cutoff(connection: AsyncConnection, relation: str) -> tuple[dt.datetime, dt.datetime | None]:
    """Return the server's clock, and the instant before which it drops rows of a table. None if it keeps them."""
    now, jobs = (
        await connection.execute(
            sa.text("SELECT clock_timestamp(), to_regclass('timescaledb_information.jobs') IS NOT NULL")
        )
    ).one()
    if not jobs:
        return now, None
    cutoff: dt.datetime | None = await connection.scalar(
        sa.text(
            "SELECT now() - CAST(config ->> 'drop_after' AS interval) FROM timescaledb_information.jobs "
            "WHERE proc_name = 'policy_retention' AND hypertable_schema = current_schema() "
            "AND hypertable_name = :relation AND scheduled"
        ),
        {"relation": relation},
    )
    return now, cutoff


async def retention_cutoff(connection: AsyncConnection, relation: str) -> dt.datetime | None:
    """Return the instant before which the server drops rows of a table by itself. None if it keeps them."""
    _, cutoff = await clock_and_cutoff(connection, relation)
    return cutoff
