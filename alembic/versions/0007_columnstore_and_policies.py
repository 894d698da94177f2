"""Columnstore, refresh and retention policies.

Revision ID: 0007
Revises: 0006
Create Date: 2026-11-21

For every aggregate, the start of a refresh plus one chunk of its source stays inside the source's retention. Otherwise
a refresh would delete the bars of dropped ticks.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.enable_columnstore("tick_data", segment_by=["symbol"], order_by=["time DESC", "source", "seq"])
    op.add_columnstore_policy("tick_data", after="1 day")
    op.add_retention_policy("tick_data", drop_after="7 days")
    op.add_retention_policy("execution_logs", drop_after="90 days")
    # Two adjacent windows: the newest minutes at once, late ticks of the last days within the hour.
    op.add_refresh_policy("ohlcv_1m", start="1 hour", end="1 minute", every="1 minute")
    op.add_refresh_policy("ohlcv_1m", start="6 days", end="1 hour", every="1 hour")
    op.add_retention_policy("ohlcv_1m", drop_after="30 days")
    op.add_refresh_policy("ohlcv_1h", start="7 days", end="1 hour", every="30 minutes")
    op.add_refresh_policy("hourly_execution_metrics", start="7 days", end="1 hour", every="1 hour")
    op.add_retention_policy("hourly_execution_metrics", drop_after="180 days")


def downgrade() -> None:
    op.remove_retention_policy("hourly_execution_metrics")
    op.remove_refresh_policy("hourly_execution_metrics", start="7 days", end="1 hour", every="1 hour")
    op.remove_refresh_policy("ohlcv_1h", start="7 days", end="1 hour", every="30 minutes")
    op.remove_retention_policy("ohlcv_1m")
    op.remove_refresh_policy("ohlcv_1m", start="6 days", end="1 hour", every="1 hour")
    op.remove_refresh_policy("ohlcv_1m", start="1 hour", end="1 minute", every="1 minute")
    op.remove_retention_policy("execution_logs")
    op.remove_retention_policy("tick_data")
    op.remove_columnstore_policy("tick_data")
    op.disable_columnstore("tick_data")
