"""Market data: ticks and official daily bars, as hypertables.

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-21
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tick_data",
        sa.Column("symbol", sa.Text(), nullable=False, comment="Instrument, 1 to 64 characters"),
        sa.Column("time", sa.TIMESTAMP(timezone=True), nullable=False, comment="When the trade happened"),
        sa.Column(
            "source",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="Feed that sent it; '' for the only one",
        ),
        sa.Column(
            "seq",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="The feed's sequence number, else the ordinal among the ticks of the same symbol, time and source",
        ),
        sa.Column(
            "price",
            sa.Numeric(precision=18, scale=8),
            nullable=False,
            comment="Trade price in the symbol's quote currency",
        ),
        sa.Column(
            "volume",
            sa.Numeric(precision=28, scale=8),
            nullable=False,
            comment="Traded quantity, zero or more",
        ),
        sa.Column("bid", sa.Numeric(precision=18, scale=8), nullable=True, comment="Best bid at the trade, if known"),
        sa.Column("ask", sa.Numeric(precision=18, scale=8), nullable=True, comment="Best ask at the trade, if known"),
        sa.CheckConstraint("ask <> 'NaN'", name=op.f("ck_tick_data_ask_finite")),
        sa.CheckConstraint("bid <> 'NaN'", name=op.f("ck_tick_data_bid_finite")),
        sa.CheckConstraint("price <> 'NaN'", name=op.f("ck_tick_data_price_finite")),
        sa.CheckConstraint("volume <> 'NaN'", name=op.f("ck_tick_data_volume_finite")),
        sa.CheckConstraint("length(symbol) BETWEEN 1 AND 64", name=op.f("ck_tick_data_symbol_length")),
        sa.CheckConstraint("length(source) <= 64", name=op.f("ck_tick_data_source_length")),
        sa.CheckConstraint("volume >= 0", name=op.f("ck_tick_data_volume_not_negative")),
        sa.PrimaryKeyConstraint("symbol", "time", "source", "seq", name=op.f("pk_tick_data")),
        comment="Trades as the feeds sent them, exact duplicates included; kept for 7 days",
    )
    op.create_hypertable("tick_data", time="time", chunk_interval="1 day")
    op.create_table(
        "ohlcv_1d",
        sa.Column("symbol", sa.Text(), nullable=False, comment="Instrument, 1 to 64 characters"),
        sa.Column("time", sa.TIMESTAMP(timezone=True), nullable=False, comment="Start of the trading day"),
        sa.Column("open", sa.Numeric(precision=18, scale=8), nullable=False, comment="First price of the day"),
        sa.Column("high", sa.Numeric(precision=18, scale=8), nullable=False, comment="Highest price of the day"),
        sa.Column("low", sa.Numeric(precision=18, scale=8), nullable=False, comment="Lowest price of the day"),
        sa.Column("close", sa.Numeric(precision=18, scale=8), nullable=False, comment="Last price of the day"),
        sa.Column(
            "volume",
            sa.Numeric(precision=28, scale=8),
            nullable=False,
            comment="Traded quantity of the day, zero or more",
        ),
        sa.CheckConstraint("close <> 'NaN'", name=op.f("ck_ohlcv_1d_close_finite")),
        sa.CheckConstraint("high <> 'NaN'", name=op.f("ck_ohlcv_1d_high_finite")),
        sa.CheckConstraint("low <> 'NaN'", name=op.f("ck_ohlcv_1d_low_finite")),
        sa.CheckConstraint("open <> 'NaN'", name=op.f("ck_ohlcv_1d_open_finite")),
        sa.CheckConstraint("volume <> 'NaN'", name=op.f("ck_ohlcv_1d_volume_finite")),
        sa.CheckConstraint("length(symbol) BETWEEN 1 AND 64", name=op.f("ck_ohlcv_1d_symbol_length")),
        sa.CheckConstraint(
            "low <= open AND low <= close AND open <= high AND close <= high",
            name=op.f("ck_ohlcv_1d_low_open_close_high"),
        ),
        sa.CheckConstraint("volume >= 0", name=op.f("ck_ohlcv_1d_volume_not_negative")),
        sa.PrimaryKeyConstraint("symbol", "time", name=op.f("pk_ohlcv_1d")),
        comment="Official daily bars as the vendor publishes them; kept for ever",
    )
    op.create_hypertable("ohlcv_1d", time="time", chunk_interval="365 days")


def downgrade() -> None:
    op.drop_table("ohlcv_1d")
    op.drop_table("tick_data")
