"""Bars as vendors publish them: official daily bars, and one-minute bars."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base, Instant, Price, Quantity, finite, symbol_length
from qts_data.timescale import Columnstore, hypertable

__all__ = ["DailyBar", "MinuteBar"]


def _bar_table(comment: str, chunk_interval: str, *constraints: sa.Constraint) -> tuple[Any, ...]:
    return (
        symbol_length(),
        *finite("open", "high", "low", "close", "volume"),
        sa.CheckConstraint(
            "low <= open AND low <= close AND open <= high AND close <= high", name="low_open_close_high"
        ),
        sa.CheckConstraint("volume >= 0", name="volume_not_negative"),
        *constraints,
        {
            "comment": comment,
            "timescaledb_hypertable": {"time_column_name": "time", "chunk_time_interval": chunk_interval},
        },
    )


class DailyBar(Base):
    """One vendor's official daily bar."""

    __tablename__ = "ohlcv_1d"
    __table_args__: Any = _bar_table(
        "Official daily bars as the vendor publishes them; kept for ever",
        "365 days",
        sa.PrimaryKeyConstraint("symbol", "time"),
    )

    symbol: Mapped[str] = mapped_column(comment="Instrument, 1 to 64 characters")
    time: Mapped[Instant] = mapped_column(comment="Start of the trading day")
    open: Mapped[Price] = mapped_column(comment="First price of the day")
    high: Mapped[Price] = mapped_column(comment="Highest price of the day")
    low: Mapped[Price] = mapped_column(comment="Lowest price of the day")
    close: Mapped[Price] = mapped_column(comment="Last price of the day")
    volume: Mapped[Quantity] = mapped_column(comment="Traded quantity of the day, zero or more")


class MinuteBar(Base):
    """One vendor's bar of a minute. `ohlcv_1m` has the bars made from our own ticks."""

    __tablename__ = "ohlcv_1m_vendor"
    __table_args__: Any = _bar_table(
        "One-minute bars as vendors publish them, not made of tick_data; kept for ever",
        "30 days",
        sa.PrimaryKeyConstraint("symbol", "time", "source"),
        sa.CheckConstraint("length(source) <= 64", name="source_length"),
        # Not date_trunc: its result depends on the session's time zone.
        sa.CheckConstraint("mod(EXTRACT(epoch FROM time), 60) = 0", name="time_on_a_minute"),
        sa.CheckConstraint("tick_count >= 0", name="tick_count_not_negative"),
    )

    symbol: Mapped[str] = mapped_column(comment="Instrument, 1 to 64 characters")
    time: Mapped[Instant] = mapped_column(comment="Start of the minute")
    source: Mapped[str] = mapped_column(server_default="", comment="Vendor that published it; '' for the only one")
    open: Mapped[Price] = mapped_column(comment="First price of the minute")
    high: Mapped[Price] = mapped_column(comment="Highest price of the minute")
    low: Mapped[Price] = mapped_column(comment="Lowest price of the minute")
    close: Mapped[Price] = mapped_column(comment="Last price of the minute")
    volume: Mapped[Quantity] = mapped_column(comment="Traded quantity of the minute, zero or more")
    tick_count: Mapped[int] = mapped_column(
        server_default="0", comment="Number of trades; 0 where the vendor does not say"
    )


hypertable(DailyBar.__table__)
hypertable(
    MinuteBar.__table__,
    columnstore=Columnstore.of(segment_by=["symbol"], order_by=["time DESC", "source"], after="60 days"),
)
