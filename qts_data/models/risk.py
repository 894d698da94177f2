"""Risk limits."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base, Instant, Price, finite

__all__ = ["RiskConfig"]


class RiskConfig(Base):
    """One limit against which orders are checked, of one account or of all."""

    __tablename__ = "risk_configs"
    __table_args__: Any = (
        sa.PrimaryKeyConstraint("account", "config_key"),
        *finite("value"),
        {"comment": "Risk limits, one row for each account and limit; the description gives the unit"},
    )

    config_key: Mapped[str] = mapped_column(comment="Name of the limit")
    value: Mapped[Price] = mapped_column(comment="The limit's value, in the unit that description gives")
    description: Mapped[str | None] = mapped_column(comment="What it limits, and its unit")
    updated_at: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="When the row last changed")
    account: Mapped[str] = mapped_column(
        server_default="*", comment="Account that the limit is of; * for every account that has none of its own"
    )
