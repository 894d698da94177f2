"""Execution logs: latency and outcome of each stage of an order."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base, Instant, finite
from qts_data.timescale import (
    AggregateIndex,
    RefreshPolicy,
    continuous_aggregate,
    hypertable,
    time_bucket,
)

__all__ = ["HOURLY_EXECUTION_METRICS", "ExecutionLog"]


class ExecutionLog(Base):
    """One stage of one order."""

    __tablename__ = "execution_logs"
    __table_args__: Any = (
        *finite("latency_ms"),
        sa.CheckConstraint("latency_ms >= 0", name="latency_ms_not_negative"),
        sa.Index("ix_execution_logs_order_id_time", "order_id", sa.desc("time")),
        sa.Index("ix_execution_logs_stage_time", "stage", sa.desc("time")),
        {
            "comment": "Latency and outcome of each stage of each order; kept for 90 days",
            "timescaledb_hypertable": {"time_column_name": "time", "chunk_time_interval": "1 day"},
        },
    )

    time: Mapped[Instant] = mapped_column(comment="When the stage ended")
    order_id: Mapped[str] = mapped_column(comment="The order")
    symbol: Mapped[str] = mapped_column(comment="Instrument of the order")
    stage: Mapped[str] = mapped_column(comment="Stage of the order's way, such as SUBMIT or FILL")
    latency_ms: Mapped[Decimal] = mapped_column(sa.Numeric(10, 3), comment="Length of the stage in milliseconds")
    success: Mapped[bool] = mapped_column(comment="Whether the stage succeeded")
    error_code: Mapped[str | None] = mapped_column(comment="What went wrong, if it did")

    # The table has no primary key, but the mapper needs a key to identify objects.
    __mapper_args__: Any = {"primary_key": [order_id, stage, time]}  # noqa: RUF012 - SQLAlchemy's own hook


hypertable(ExecutionLog.__table__, retention="90 days")

_logs = ExecutionLog.__table__.c

HOURLY_EXECUTION_METRICS = continuous_aggregate(
    Base.metadata,
    "hourly_execution_metrics",
    sa.select(
        time_bucket("1 hour", _logs.time).label("hour"),
        _logs.stage,
        sa.func.avg(_logs.latency_ms).label("avg_latency_ms"),
        sa.func.percentile_cont(0.99).within_group(_logs.latency_ms).label("p99_latency_ms"),
        sa.func.count().filter(_logs.success).label("success_count"),
        sa.func.count().filter(sa.not_(_logs.success)).label("failure_count"),
    ).group_by(time_bucket("1 hour", _logs.time), _logs.stage),
    chunk_interval="10 days",
    refresh=[RefreshPolicy.of(start="7 days", end="1 hour", every="1 hour")],
    retention="180 days",
    indexes=[AggregateIndex("ix_hourly_execution_metrics_stage_hour", ("stage", "hour DESC"))],
    comment="Latency and outcomes of execution_logs for each hour and stage; kept for 180 days",
    column_comments={
        "hour": "Start of the hour",
        "stage": "Stage of the order's way",
        "avg_latency_ms": "Mean latency in milliseconds",
        "p99_latency_ms": "99th percentile of the latency in milliseconds",
        "success_count": "Stages that succeeded",
        "failure_count": "Stages that failed",
    },
)
