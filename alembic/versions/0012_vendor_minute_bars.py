"""Minute bars as vendors publish them.

Revision ID: 0012
Revises: 0011
Create Date: 2026-11-21

A new table only, so it runs online. The default privileges of revision 0008 grant the privileges on it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def price(name: str, comment: str) -> sa.Column[object]:
    return sa.Column(name, sa.Numeric(18, 8), nullable=False, comment=comment)


def upgrade() -> None:
    op.create_table(
        "ohlcv_1m_vendor",
        sa.Column("symbol", sa.Text(), nullable=False, comment="Instrument, 1 to 64 characters"),
        sa.Column("time", sa.TIMESTAMP(timezone=True), nullable=False, comment="Start of the minute"),
        sa.Column(
            "source",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="Vendor that published it; '' for the only one",
        ),
        price("open", "First price of the minute"),
        price("high", "Highest price of the minute"),
        price("low", "Lowest price of the minute"),
        price("close", "Last price of the minute"),
        sa.Column("volume", sa.Numeric(28, 8), nullable=False, comment="Traded quantity of the minute, zero or more"),
        sa.Column(
            "tick_count",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Number of trades; 0 where the vendor does not say",
        ),
        sa.CheckConstraint("close <> 'NaN'", name=op.f("ck_ohlcv_1m_vendor_close_finite")),
        sa.CheckConstraint("high <> 'NaN'", name=op.f("ck_ohlcv_1m_vendor_high_finite")),
        sa.CheckConstraint("low <> 'NaN'", name=op.f("ck_ohlcv_1m_vendor_low_finite")),
        sa.CheckConstraint("open <> 'NaN'", name=op.f("ck_ohlcv_1m_vendor_open_finite")),
        sa.CheckConstraint("volume <> 'NaN'", name=op.f("ck_ohlcv_1m_vendor_volume_finite")),
        sa.CheckConstraint("length(symbol) BETWEEN 1 AND 64", name=op.f("ck_ohlcv_1m_vendor_symbol_length")),
        sa.CheckConstraint("length(source) <= 64", name=op.f("ck_ohlcv_1m_vendor_source_length")),
        sa.CheckConstraint(
            "low <= open AND low <= close AND open <= high AND close <= high",
            name=op.f("ck_ohlcv_1m_vendor_low_open_close_high"),
        ),
        sa.CheckConstraint("volume >= 0", name=op.f("ck_ohlcv_1m_vendor_volume_not_negative")),
        # Not date_trunc: its result depends on the session's time zone.
        sa.CheckConstraint("mod(EXTRACT(epoch FROM time), 60) = 0", name=op.f("ck_ohlcv_1m_vendor_time_on_a_minute")),
        sa.CheckConstraint("tick_count >= 0", name=op.f("ck_ohlcv_1m_vendor_tick_count_not_negative")),
        sa.PrimaryKeyConstraint("symbol", "time", "source", name=op.f("pk_ohlcv_1m_vendor")),
        comment="One-minute bars as vendors publish them, not made of tick_data; kept for ever",
    )
    op.create_hypertable("ohlcv_1m_vendor", time="time", chunk_interval="30 days")
    op.enable_columnstore("ohlcv_1m_vendor", segment_by=["symbol"], order_by=["time DESC", "source"])
    op.add_columnstore_policy("ohlcv_1m_vendor", after="60 days")


def downgrade() -> None:
    op.drop_table("ohlcv_1m_vendor")
