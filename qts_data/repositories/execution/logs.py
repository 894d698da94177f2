"""Execution logs: the latency of each stage of an order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.contracts import ExecutionLog, HourlyExecutionMetrics, StageLatency
from qts_data.contracts.identity import check_asked
from qts_data.contracts.instants import utc
from qts_data.contracts.leniency import as_stored
from qts_data.database.errors import translated_errors
from qts_data.database.pipeline import driver_connection
from qts_data.models import HOURLY_EXECUTION_METRICS
from qts_data.models import ExecutionLog as Row

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable
    from decimal import Decimal

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["ExecutionLogReader", "ExecutionLogRepository"]

_log = Row.__table__.c
_COLUMNS: Final = ("time", "order_id", "symbol", "stage", "latency_ms", "success", "error_code")


class ExecutionLogReader:
    """Queries about execution logs, in the transaction of one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list_stages(self, order_id: str, *, limit: int = 1000) -> list[ExecutionLog]:
        """List the stages of an order, the earliest first."""
        check_asked(order_id=order_id)
        statement = sa.select(Row.__table__).where(_log.order_id == order_id).order_by(_log.time).limit(limit)
        with translated_errors():
            rows = (await self._connection.execute(statement)).mappings()
            with as_stored():
                return [ExecutionLog(**row) for row in rows]

    async def stage_latency(
        self, start: dt.datetime, end: dt.datetime, *, stage: str | None = None, symbol: str | None = None
    ) -> list[StageLatency]:
        """Compute the latency of each stage in [start, end), from the single logs, which are kept for 90 days.

        Returns:
            One record for each stage that ran, in order of its name.

        Raises:
            InvalidRecord: `start` or `end` has no time zone.
        """
        start, end = utc("start", start), utc("end", end)
        check_asked(stage=stage, symbol=symbol)
        ms = _log.latency_ms

        def percentile(share: float, name: str) -> sa.Label[Decimal]:
            return sa.cast(sa.func.percentile_cont(share).within_group(ms), sa.Numeric(18, 6)).label(name)

        statement = (
            sa.select(
                _log.stage,
                sa.func.count().label("count"),
                sa.func.count().filter(sa.not_(_log.success)).label("failure_count"),
                sa.cast(sa.func.avg(ms), sa.Numeric(18, 6)).label("avg_ms"),
                percentile(0.5, "p50_ms"),
                percentile(0.95, "p95_ms"),
                percentile(0.99, "p99_ms"),
                sa.func.max(ms).label("max_ms"),
            )
            .where(_log.time >= start, _log.time < end)
            .group_by(_log.stage)
            .order_by(_log.stage)
        )
        for column, value in ((_log.stage, stage), (_log.symbol, symbol)):
            if value is not None:
                statement = statement.where(column == value)
        with translated_errors():
            rows = (await self._connection.execute(statement)).mappings()
            return [StageLatency(**row) for row in rows]

    async def hourly_metrics(
        self, start: dt.datetime, end: dt.datetime, *, stage: str | None = None
    ) -> list[HourlyExecutionMetrics]:
        """List each stage in each hour that begins in [start, end), from the aggregate.

        Raises:
            InvalidRecord: `start` or `end` has no time zone.
        """
        start, end = utc("start", start), utc("end", end)
        check_asked(stage=stage)
        metric = HOURLY_EXECUTION_METRICS.c
        statement = (
            sa.select(
                metric.hour,
                metric.stage,
                sa.cast(metric.avg_latency_ms, sa.Numeric(18, 6)).label("avg_latency_ms"),
                sa.cast(metric.p99_latency_ms, sa.Numeric(18, 6)).label("p99_latency_ms"),
                metric.success_count,
                metric.failure_count,
            )
            .where(metric.hour >= start, metric.hour < end)
            .order_by(metric.hour, metric.stage)
        )
        if stage is not None:
            statement = statement.where(metric.stage == stage)
        with translated_errors():
            rows = (await self._connection.execute(statement)).mappings()
            return [HourlyExecutionMetrics(**row) for row in rows]


class ExecutionLogRepository(ExecutionLogReader):
    """Writes to execution logs. It never commits."""

    async def append(self, logs: Iterable[ExecutionLog]) -> int:
        """Append logs by COPY and return their number. A log has no key: a log sent twice is stored twice."""
        count = 0
        with translated_errors():
            driver = await driver_connection(self._connection)
            async with (
                driver.cursor() as cursor,
                cursor.copy(f"COPY execution_logs ({', '.join(_COLUMNS)}) FROM STDIN") as copy,
            ):
                for log in logs:
                    await copy.write_row([getattr(log, column) for column in _COLUMNS])
                    count += 1
        return count
