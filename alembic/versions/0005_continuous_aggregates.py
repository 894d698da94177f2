"""Continuous aggregates: bars of a minute and an hour, execution metrics of an hour.

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-21

On an edition without continuous aggregates, these are views with the same columns. Plain PostgreSQL lacks time_bucket
as well; date_bin with TimescaleDB's origin (a Monday) gives the same buckets.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


BAR_COLUMNS = {
    "bucket": "Start of the bar; it covers [bucket, bucket + interval)",
    "symbol": "Instrument",
    "source": "Feed that the ticks came from; two feeds of one symbol never share a bar",
    "open": "First price, by time and seq",
    "high": "Highest price",
    "low": "Lowest price",
    "close": "Last price, by time and seq",
    "volume": "Sum of the traded quantities",
    "tick_count": "Number of ticks",
}

# Open and close share one sorted array, which the server builds once.
OHLCV_1M = """
SELECT {bucket} AS bucket, symbol, source,
       (array_agg(price ORDER BY time, seq))[1] AS open,
       max(price) AS high,
       min(price) AS low,
       (array_agg(price ORDER BY time, seq))[CAST(count(*) AS INTEGER)] AS close,
       sum(volume) AS volume,
       count(*) AS tick_count
  FROM tick_data
 GROUP BY {bucket}, symbol, source
"""

OHLCV_1H = """
SELECT {bucket} AS bucket, symbol, source,
       (array_agg(open ORDER BY bucket))[1] AS open,
       max(high) AS high,
       min(low) AS low,
       (array_agg(close ORDER BY bucket))[CAST(count(*) AS INTEGER)] AS close,
       sum(volume) AS volume,
       CAST(sum(tick_count) AS BIGINT) AS tick_count
  FROM ohlcv_1m
 GROUP BY {bucket}, symbol, source
"""

HOURLY_EXECUTION_METRICS = """
SELECT {bucket} AS hour, stage,
       avg(latency_ms) AS avg_latency_ms,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_ms) AS p99_latency_ms,
       count(*) FILTER (WHERE success) AS success_count,
       count(*) FILTER (WHERE NOT success) AS failure_count
  FROM execution_logs
 GROUP BY {bucket}, stage
"""


def definitions(template: str, width: str, column: str) -> dict[str, str]:
    """Return the SELECT with time_bucket, and an equal one without it."""
    return {
        "select": template.format(bucket=f"time_bucket(INTERVAL '{width}', {column})"),
        "fallback_select": template.format(
            bucket=f"date_bin(INTERVAL '{width}', {column}, TIMESTAMPTZ '2000-01-03 00:00:00+00')"
        ),
    }


def upgrade() -> None:
    op.create_continuous_aggregate(
        "ohlcv_1m",
        **definitions(OHLCV_1M, "1 minute", "time"),
        chunk_interval="10 days",
        indexes={"ix_ohlcv_1m_symbol_bucket": ["symbol", "bucket DESC"]},
        comment="One-minute bars of tick_data, for each source; kept for 30 days",
        column_comments=BAR_COLUMNS,
    )
    op.create_continuous_aggregate(
        "ohlcv_1h",
        **definitions(OHLCV_1H, "1 hour", "bucket"),
        chunk_interval="100 days",
        indexes={"ix_ohlcv_1h_symbol_bucket": ["symbol", "bucket DESC"]},
        comment="One-hour bars of ohlcv_1m, for each source; kept for ever",
        column_comments=BAR_COLUMNS,
    )
    op.create_continuous_aggregate(
        "hourly_execution_metrics",
        **definitions(HOURLY_EXECUTION_METRICS, "1 hour", "time"),
        chunk_interval="10 days",
        indexes={"ix_hourly_execution_metrics_stage_hour": ["stage", "hour DESC"]},
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


def downgrade() -> None:
    op.drop_continuous_aggregate("hourly_execution_metrics")
    op.drop_continuous_aggregate("ohlcv_1h")
    op.drop_continuous_aggregate("ohlcv_1m")
