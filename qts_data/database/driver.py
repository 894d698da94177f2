"""The driver's own connection, for COPY, which SQLAlchemy does not know."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from qts_data.database.pipeline import driver_connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["driver_of"]


@contextlib.asynccontextmanager
async def driver_of(connection: AsyncConnection) -> AsyncIterator[Any]:
    """Psycopg's connection; if it is lost in the block, SQLAlchemy hears of it."""
    driver: Any = await driver_connection(connection)
    try:
        yield driver
    except BaseException:
        # Otherwise it would be rolled back and go back into the pool.
        if driver.closed and not connection.invalidated:
            await connection.invalidate()
        raise
