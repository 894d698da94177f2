"""Continuous aggregates of ticks: bring them up to date without deleting what outlived its ticks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.repositories.ticks.reports import RefreshReport, TimeRange

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["refresh_aggregates", "retention_cutoff"]


def _orphaned(aggregate: str, width: str, source: str, time: str) -> str:
    return (
        f"SELECT count(*) FROM {aggregate} AS bar WHERE bar.bucket >= date_trunc('{width}', "
        f"CAST(:start AS timestamptz), 'UTC') AND bar.bucket <= CAST(:end AS timestamptz) AND NOT EXISTS ("
        f"SELECT FROM {source} AS row WHERE row.symbol = bar.symbol AND row.source = bar.source "
        f"AND row.{time} >= bar.bucket AND row.{time} < bar.bucket + INTERVAL '1 {width}')"
    )


_ORPHANED: Final = {
    "ohlcv_1m": ("minute", _orphaned("ohlcv_1m", "minute", "tick_data", "time")),
    "ohlcv_1h": ("hour", _orphaned("ohlcv_1h", "hour", "ohlcv_1m", "bucket")),
}


async def refresh_aggregates(connection: AsyncConnection, ranges: Iterable[TimeRange]) -> RefreshReport:
    """The work of `TickRepository.refresh_bars`."""
    refreshed: dict[str, None] = {}
    kept: dict[str, int] = {}
    existing = await _aggregates(connection)
    for span in ranges:
        blocked = False
        for name, (width, orphans) in _ORPHANED.items():
            if name not in existing or blocked:
                continue
            window = {"start": span.start, "end": span.end}
            lost = await connection.scalar(sa.text(orphans), window)
            if lost:
                kept[name] = kept.get(name, 0) + lost
                blocked = True
                continue
            await connection.execute(
                sa.text(
                    f"CALL refresh_continuous_aggregate('{name}', "
                    f"date_trunc('{width}', CAST(:start AS timestamptz), 'UTC'), "
                    f"date_trunc('{width}', CAST(:end AS timestamptz), 'UTC') + INTERVAL '1 {width}')"
                ),
                window,
            )
            refreshed[name] = None
    return RefreshReport(tuple(refreshed), kept)


async def _aggregates(connection: AsyncConnection) -> set[str]:
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


async def retention_cutoff(connection: AsyncConnection, relation: str) -> dt.datetime | None:
    """Instant before which the server will drop rows of a table by itself; None if it keeps them."""
    found = await connection.scalar(sa.text("SELECT to_regclass('timescaledb_information.jobs') IS NOT NULL"))
    if not found:
        return None
    cutoff: dt.datetime | None = await connection.scalar(
        sa.text(
            "SELECT now() - CAST(config ->> 'drop_after' AS interval) FROM timescaledb_information.jobs "
            "WHERE proc_name = 'policy_retention' AND hypertable_schema = current_schema() "
            "AND hypertable_name = :relation AND scheduled"
        ),
        {"relation": relation},
    )
    return cutoff
