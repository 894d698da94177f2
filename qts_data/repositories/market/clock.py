"""The server's clock. Bars close and feeds become silent by this clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    import datetime as dt

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["server_time"]


async def server_time(connection: AsyncConnection) -> dt.datetime:
    """Return the server's time at the start of the transaction, in UTC."""
    now: dt.datetime = await connection.scalar(sa.text("SELECT now()"))
    return now
