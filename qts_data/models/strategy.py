"""Parameters of strategies, one row for each parameter."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base, Instant

__all__ = ["StrategyParameter"]


class StrategyParameter(Base):
    """One parameter of one strategy, as text with its type."""

    __tablename__ = "strategies"
    __table_args__: Any = (
        sa.CheckConstraint("value_type IN ('string', 'int', 'decimal', 'bool', 'json')", name="value_type"),
        sa.Index("ix_strategies_updated_at", sa.desc("updated_at")),
        {"comment": "Parameters of the strategies, one row for each parameter"},
    )

    strategy_id: Mapped[str] = mapped_column(primary_key=True, comment="The strategy")
    param_name: Mapped[str] = mapped_column(primary_key=True, comment="The parameter's name")
    value: Mapped[str] = mapped_column(comment="The value as text; read it by value_type")
    value_type: Mapped[str] = mapped_column(comment="string, int, decimal, bool or json")
    description: Mapped[str | None] = mapped_column(comment="What the parameter does")
    updated_at: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="When the row last changed")
