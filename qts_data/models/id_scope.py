"""The scope in which each broker's execution ids are booked."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base

__all__ = ["IdScope"]


class IdScope(Base):
    """The scope of a broker's execution ids, recorded with the first fill that is booked under it."""

    __tablename__ = "id_scopes"
    __table_args__: Any = (
        {"comment": "Scopes of execution ids; a fill in another scope than its broker's is refused"},
    )

    broker: Mapped[str] = mapped_column(primary_key=True, comment="Broker or exchange whose execution ids restart")
    scope: Mapped[str] = mapped_column(comment="Kinds of the scope, such as day,symbol; divided by commas")
