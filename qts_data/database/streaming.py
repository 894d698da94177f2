"""Results that do not fit into memory."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from qts_data.database.errors import translated_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncResult

__all__ = ["streamed"]

_ROWS_AT_ONCE: Final = 2000


@contextlib.asynccontextmanager
async def streamed(
    connection: AsyncConnection, statement: sa.Select[*tuple[Any, ...]]
) -> AsyncIterator[AsyncResult[*tuple[Any, ...]]]:
    """The rows of a statement, a few thousand at a time, with our errors.

    The server's cursor is closed even when somebody stops in the middle, which SQLAlchemy's own block does not do.
    """
    with translated_errors():
        rows = await connection.stream(statement, execution_options={"yield_per": _ROWS_AT_ONCE})
        try:
            yield rows
        finally:
            await rows.close()
