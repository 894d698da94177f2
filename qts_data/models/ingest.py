"""Bookkeeping of loads: the loaded batches, and the stored ticks of each symbol and day."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base, Instant, symbol_length

__all__ = ["IngestBatch", "TickDay"]


class IngestBatch(Base):
    """One loaded batch, recorded in the transaction of its ticks."""

    __tablename__ = "ingest_batches"
    __table_args__: Any = (
        sa.PrimaryKeyConstraint("relation", "stream", "part"),
        sa.CheckConstraint("part >= 0", name="part_not_negative"),
        sa.CheckConstraint("received >= inserted + duplicate", name="received_is_the_most"),
        {"comment": "Batches of ticks that are loaded; a batch that is here is not loaded again"},
    )

    relation: Mapped[str] = mapped_column(comment="Table that the ticks are in, tick_data or tick_history")
    stream: Mapped[str] = mapped_column(comment="What the batch is a part of: the digest of a file, a feed, a writer")
    part: Mapped[int] = mapped_column(autoincrement=False, comment="Offset of the batch in its stream; 0 for a whole")
    received: Mapped[int] = mapped_column(comment="Ticks that were handed over")
    inserted: Mapped[int] = mapped_column(comment="Ticks that were new")
    duplicate: Mapped[int] = mapped_column(comment="Ticks that were there already")
    late: Mapped[int] = mapped_column(
        comment="Inserted ticks of bars over at the end of the load; before it, the feed had a tick in or after the bar"
    )
    rejected: Mapped[int] = mapped_column(comment="Rows that were refused")
    first_time: Mapped[Instant | None] = mapped_column(comment="Time of the earliest tick")
    last_time: Mapped[Instant | None] = mapped_column(comment="Time of the latest tick")
    recorded_at: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="When it was last loaded")


class TickDay(Base):
    """Number of stored ticks of one symbol and feed in one UTC day."""

    __tablename__ = "tick_days"
    __table_args__: Any = (
        sa.PrimaryKeyConstraint("relation", "symbol", "source", "day"),
        symbol_length(),
        sa.CheckConstraint("ticks > 0", name="ticks_positive"),
        {
            "comment": "Ticks of each symbol, feed and UTC day; every load keeps it in its transaction. A row whose "
            "chunk was dropped does not count"
        },
    )

    relation: Mapped[str] = mapped_column(comment="Table that the ticks are in, tick_data or tick_history")
    symbol: Mapped[str] = mapped_column(comment="Instrument, 1 to 64 characters")
    source: Mapped[str] = mapped_column(comment="Feed that sent them")
    day: Mapped[dt.date] = mapped_column(sa.Date, comment="Day in UTC")
    chunk: Mapped[str] = mapped_column(comment="Name of the chunk that holds them, or of the table where it has none")
    ticks: Mapped[int] = mapped_column(comment="Number of ticks")
    first_time: Mapped[Instant] = mapped_column(comment="Time of the earliest tick")
    last_time: Mapped[Instant] = mapped_column(comment="Time of the latest tick")
