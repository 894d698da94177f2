"""The move from another data source: its progress and its verifications."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base, Instant

__all__ = ["Move", "MoveCheckpoint", "MoveVerification"]


class Move(Base):
    """One move, from planning to its end."""

    __tablename__ = "source_moves"
    __table_args__: Any = (
        sa.CheckConstraint("phase IN ('copy', 'copied', 'shadow', 'cutover', 'rolled_back')", name="phase"),
        {"comment": "Moves from another data source to this database, one row for each source"},
    )

    source: Mapped[str] = mapped_column(primary_key=True, comment="Name of the data source, such as sheets")
    phase: Mapped[str] = mapped_column(comment="copy, copied, shadow, cutover or rolled_back")
    phase_since: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="When the phase began")
    rollback_until: Mapped[Instant | None] = mapped_column(comment="After a cutover: when the way back closes")


class MoveCheckpoint(Base):
    """Progress of the copy of one table."""

    __tablename__ = "source_move_checkpoints"
    __table_args__: Any = (
        sa.PrimaryKeyConstraint("source", "kind"),
        sa.ForeignKeyConstraint(["source"], ["source_moves.source"], name="fk_source_move_checkpoints_source"),
        sa.CheckConstraint("rows_done >= 0 AND rows_total >= rows_done", name="rows_done_of_total"),
        {"comment": "How far each table of a source is copied; written in the transaction of the rows"},
    )

    source: Mapped[str] = mapped_column(comment="Name of the data source")
    kind: Mapped[str] = mapped_column(comment="Kind of the copied rows, such as ledger")
    rows_done: Mapped[int] = mapped_column(comment="Rows copied so far")
    rows_total: Mapped[int] = mapped_column(comment="Rows that the source had")
    digest: Mapped[str] = mapped_column(comment="Digest of the copied rows; if they change, the copy starts again")
    updated_at: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="When the row last changed")


class MoveVerification(Base):
    """One comparison of the data source with this database."""

    __tablename__ = "source_move_verifications"
    __table_args__: Any = (
        sa.ForeignKeyConstraint(["source"], ["source_moves.source"], name="fk_source_move_verifications_source"),
        sa.Index("ix_source_move_verifications_source", "source", sa.desc("id")),
        {"comment": "Comparisons of a data source with this database, and what they found"},
    )

    id: Mapped[int] = mapped_column(sa.Identity(always=True), primary_key=True, comment="Order of the comparisons")
    source: Mapped[str] = mapped_column(comment="Name of the data source")
    verified_at: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="When it ended")
    mismatches: Mapped[int] = mapped_column(comment="Differences that it found")
    report: Mapped[dict[str, Any]] = mapped_column(sa.JSON, comment="The report")
