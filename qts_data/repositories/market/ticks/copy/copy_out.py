"""Rows of a binary COPY, as the server sends them."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any, Final

import psycopg

from qts_data.database.driver import driver_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["copy_rows"]

_HEADER_BYTES: Final = 19
_TRAILER: Final = b"\xff\xff"
# A turn of the event loop takes about a millisecond.
_ROWS_OF_A_TURN: Final = 1_000
_BYTES_OF_A_BURST: Final = 50_000
_BURST_SECONDS: Final = 0.0005


async def copy_rows(
    connection: AsyncConnection, statement: str, parameters: dict[str, object], *, bytes_of_a_piece: int
) -> AsyncGenerator[bytes, None]:
    """Yield whole rows, one after the other, many in each piece.

    Read it to its end before any other statement is sent. If it is closed early, or its task is cancelled, it cancels
    the statement. That ends the transaction: the server refuses all later statements.

    Args:
        connection: In a transaction.
        statement: `COPY (...) TO STDOUT WITH (FORMAT binary)`, with psycopg's placeholders.
        parameters: Their values.
        bytes_of_a_piece: Approximate size of a piece, in bytes.
    """
    async with (
        driver_of(connection) as driver,
        driver.cursor() as cursor,
        cursor.copy(statement, parameters) as copy,
    ):
        arrived = _Arrived(bytes(await copy.read())[_HEADER_BYTES:])
        while not arrived.ended:
            if not arrived.take_waiting(driver.pgconn, _ROWS_OF_A_TURN):
                await _wait(driver.pgconn, copy, arrived)
            else:
                await asyncio.sleep(0)
            if arrived.size > bytes_of_a_piece and not arrived.ended:
                yield arrived.piece()
                arrived = _Arrived(bytes(await copy.read()))
        await copy.read()  # the end of the COPY
        if arrived.size:
            yield arrived.piece()


class _Arrived:
    """Rows that have arrived since the last piece. The trailer of COPY follows them and is not a row."""

    def __init__(self, first: bytes) -> None:
        self._rows = io.BytesIO()
        self.ended = False
        self.append(first)

    @property
    def size(self) -> int:
        """Total size of the rows in bytes."""
        return self._rows.tell()

    def append(self, row: bytes) -> None:
        """Add a row that the driver has read."""
        if row == _TRAILER:
            self.ended = True
        else:
            self._rows.write(row)

    def take_waiting(self, pgconn: Any, most: int) -> bool:
        """Take arrived rows, at most `most` of them and none past the last. Return False if there are none."""
        # Not with psycopg's own loop, which takes several times as long for each row. Few steps for each row.
        take, write = pgconn.get_copy_data, self._rows.write
        before = self.size
        for _ in range(most):
            size, row = take(1)
            if size == 0:
                pgconn.consume_input()
                size, row = take(1)
            if size <= len(_TRAILER):
                if size < 0:
                    raise _server_error(pgconn)
                self.ended = size > 0
                break
            write(row)
        return self.ended or self.size > before

    def piece(self) -> bytes:
        """Return all rows as one piece."""
        return self._rows.getvalue()


async def _wait(pgconn: Any, copy: Any, arrived: _Arrived) -> None:
    """Wait until more rows arrive."""
    if arrived.size > _BYTES_OF_A_BURST:
        # The server sends eighty rows at a time. To wake up for each burst would cost more than to read the rows.
        await asyncio.sleep(_BURST_SECONDS)
        pgconn.consume_input()
        if arrived.take_waiting(pgconn, 1):
            return
    arrived.append(bytes(await copy.read()))


def _server_error(pgconn: Any) -> Exception:
    """Return the error that ended the rows early."""
    error: Any = None
    while (result := pgconn.get_result()) is not None:
        error = result
    return psycopg.errors.error_from_result(error)
