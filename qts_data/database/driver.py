"""The driver's own connection, for COPY, which SQLAlchemy does not support."""

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
    """Yield psycopg's connection. If it is lost in the block, invalidate SQLAlchemy's connection, too."""
    driver: Any = await driver_connection(connection)
    try:
        yield driver
    except BaseException:
        # Otherwise SQLAlchemy would roll back on a dead connection and put it back into the pool.
        if driver.closed and not connection.invalidated:
            await connection.invalidate()
        raise
