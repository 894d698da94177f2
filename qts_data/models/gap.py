"""Gaps in the market data that have been explained."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base, Instant, symbol_length

__all__ = ["SignedOffGap"]


class SignedOffGap(Base):
    """A stretch of time whose missing data is explained."""

    __tablename__ = "signed_off_gaps"
    __table_args__: Any = (
        sa.PrimaryKeyConstraint("symbol", "source", "start_time"),
        symbol_length(),
        sa.CheckConstraint("start_time < end_time", name="start_before_end"),
        sa.CheckConstraint("length(reason) >= 1", name="reason_given"),
        {"comment": "Gaps in the market data that are known and explained; they are no longer reported"},
    )

    symbol: Mapped[str] = mapped_column(comment="Instrument, 1 to 64 characters")
    source: Mapped[str] = mapped_column(comment="Feed that has the gap; '*' for all feeds together")
    start_time: Mapped[Instant] = mapped_column(comment="Start of the gap")
    end_time: Mapped[Instant] = mapped_column(comment="End of the gap, exclusive")
    reason: Mapped[str] = mapped_column(comment="Why nothing is there")
    signed_off_by: Mapped[str] = mapped_column(server_default=sa.text("CURRENT_USER"), comment="Who looked at it")
    signed_off_at: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="When it was signed off")
