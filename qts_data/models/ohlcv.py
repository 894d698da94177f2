"""Official daily bars."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base, Instant, Price, Quantity, finite, symbol_length
from qts_data.timescale import hypertable

__all__ = ["DailyBar"]


class DailyBar(Base):
    """One vendor's official daily bar."""

    __tablename__ = "ohlcv_1d"
    __table_args__ = (
        sa.PrimaryKeyConstraint("symbol", "time"),
        symbol_length(),
        *finite("open", "high", "low", "close", "volume"),
        sa.CheckConstraint(
            "low <= open AND low <= close AND open <= high AND close <= high", name="low_open_close_high"
        ),
        sa.CheckConstraint("volume >= 0", name="volume_not_negative"),
        {
            "comment": "Official daily bars as the vendor publishes them; kept for ever",
            "timescaledb_hypertable": {"time_column_name": "time", "chunk_time_interval": "365 days"},
        },
    )

    symbol: Mapped[str] = mapped_column(comment="Instrument, 1 to 64 characters")
    time: Mapped[Instant] = mapped_column(comment="Start of the trading day")
    open: Mapped[Price] = mapped_column(comment="First price of the day")
    high: Mapped[Price] = mapped_column(comment="Highest price of the day")
    low: Mapped[Price] = mapped_column(comment="Lowest price of the day")
    close: Mapped[Price] = mapped_column(comment="Last price of the day")
    volume: Mapped[Quantity] = mapped_column(comment="Traded quantity of the day, zero or more")


hypertable(DailyBar.__table__)
