"""Execution logs, as a hypertable.

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-21
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "execution_logs",
        sa.Column("time", sa.TIMESTAMP(timezone=True), nullable=False, comment="When the stage ended"),
        sa.Column("order_id", sa.Text(), nullable=False, comment="The order"),
        sa.Column("symbol", sa.Text(), nullable=False, comment="Instrument of the order"),
        sa.Column("stage", sa.Text(), nullable=False, comment="Stage of the order's way, such as SUBMIT or FILL"),
        sa.Column(
            "latency_ms",
            sa.Numeric(precision=10, scale=3),
            nullable=False,
            comment="Length of the stage in milliseconds",
        ),
        sa.Column("success", sa.Boolean(), nullable=False, comment="Whether the stage succeeded"),
        sa.Column("error_code", sa.Text(), nullable=True, comment="What went wrong, if it did"),
        sa.CheckConstraint("latency_ms <> 'NaN'", name=op.f("ck_execution_logs_latency_ms_finite")),
        sa.CheckConstraint("latency_ms >= 0", name=op.f("ck_execution_logs_latency_ms_not_negative")),
        comment="Latency and outcome of each stage of each order; kept for 90 days",
    )
    op.create_index(
        "ix_execution_logs_order_id_time",
        "execution_logs",
        ["order_id", sa.literal_column("time DESC")],
        unique=False,
    )
    op.create_index(
        "ix_execution_logs_stage_time",
        "execution_logs",
        ["stage", sa.literal_column("time DESC")],
        unique=False,
    )
    op.create_hypertable("execution_logs", time="time", chunk_interval="1 day")


def downgrade() -> None:
    op.drop_table("execution_logs")
