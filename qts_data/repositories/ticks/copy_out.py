"""Rows of a binary COPY, as they come from the server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
import sqlalchemy as sa

from qts_data.repositories.ticks.driver import driver_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Piece", "copy_rows"]

_HEADER_BYTES: Final = 19
_TRAILER: Final = b"\xff\xff"
# A turn of the event loop takes about half a millisecond.
_ROWS_OF_A_TURN: Final = 1_000
_ROWS_OF_A_BURST: Final = 2_000
_BURST_SECONDS: Final = 0.0005


class Piece(NamedTuple):
    """Some rows of the result.

    Attributes:
        data: The rows, one behind the other.
        sizes: Bytes of each.
    """

    data: bytes
    sizes: list[int]


async def copy_rows(
    connection: AsyncConnection, statement: str, parameters: dict[str, object], *, rows_of_a_piece: int
) -> AsyncGenerator[Piece, None]:
    """The rows, some at a time; may be closed early, and leaves the transaction as it was.

    Args:
        connection: In a transaction.
        statement: `COPY (...) TO STDOUT WITH (FORMAT binary)`, with psycopg's placeholders.
        parameters: Their values.
        rows_of_a_piece: Rows in a piece, about.
    """
    # A COPY that is given up is cancelled, which would end the transaction.
    savepoint = await connection.begin_nested()
    try:
        async with (
            driver_of(connection) as driver,
            driver.cursor() as cursor,
            cursor.copy(statement, parameters) as copy,
        ):
            rows = [bytes(await copy.read())[_HEADER_BYTES:]]
            while rows[-1] != _TRAILER:
                if not _take_waiting(driver.pgconn, rows, len(rows) + _ROWS_OF_A_TURN):
                    await _wait(driver.pgconn, copy, rows)
                else:
                    await asyncio.sleep(0)
                if len(rows) > rows_of_a_piece and rows[-1] != _TRAILER:
                    yield _piece(rows)
                    rows = [bytes(await copy.read())]
            rows.pop()
            await copy.read()  # what COPY ended with
            if rows:
                yield _piece(rows)
    except BaseException:
        with contextlib.suppress(sa.exc.SQLAlchemyError, psycopg.Error):
            await savepoint.rollback()
        raise
    await savepoint.commit()


def _piece(rows: list[bytes]) -> Piece:
    return Piece(b"".join(rows), list(map(len, rows)))


async def _wait(pgconn: Any, copy: Any, rows: list[bytes]) -> None:
    """Until there are more rows."""
    if len(rows) > _ROWS_OF_A_BURST:
        # The server sends eighty rows at a time; to be woken by each would cost more than to read them.
        await asyncio.sleep(_BURST_SECONDS)
        pgconn.consume_input()
        if _take_waiting(pgconn, rows, len(rows) + 1):
            return
    rows.append(bytes(await copy.read()))


def _take_waiting(pgconn: Any, rows: list[bytes], most: int) -> bool:
    """Append rows that have arrived, up to so many and not past the last; False if there are none."""
    # Past psycopg's own loop: it takes several times as long for each row.
    take = pgconn.get_copy_data
    before = len(rows)
    size = 0
    while len(rows) < most:
        size, data = take(1)
        if size == 0:
            seen = len(rows)
            pgconn.consume_input()
            size, data = take(1)
            if size == 0:
                return seen > before
        if size < 0:
            raise _server_error(pgconn)
        rows.append(bytes(data))
        if size == len(_TRAILER):
            break
    return len(rows) > before


def _server_error(pgconn: Any) -> Exception:
    """Why the rows ended before the last one."""
    error: Any = None
    while (result := pgconn.get_result()) is not None:
        error = result
    return psycopg.errors.error_from_result(error)
