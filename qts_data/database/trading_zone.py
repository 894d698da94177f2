"""The zone of trading days, as the database's own views use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["find_trading_zone"]


def find_trading_zone(connection: Connection) -> str | None:
    """Return the IANA name of the zone, or None before the views exist."""
    if not connection.scalar(sa.text("SELECT to_regproc('qts_trading_zone') IS NOT NULL")):
        return None
    return str(connection.scalar(sa.text("SELECT qts_trading_zone()")))
