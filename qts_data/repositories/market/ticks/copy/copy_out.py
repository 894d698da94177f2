"""Rows of a binary COPY, as they come from the server."""

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
    """Whole rows, one behind the other, some at a time.

    It is to be read to its end before anything else is sent. One that is closed early, or whose task is cancelled,
    cancels the statement, which ends the transaction: the server refuses whatever follows.

    Args:
        connection: In a transaction.
        statement: `COPY (...) TO STDOUT WITH (FORMAT binary)`, with psycopg's placeholders.
        parameters: Their values.
        bytes_of_a_piece: Bytes in a piece, about.
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
        await copy.read()  # what COPY ended with
        if arrived.size:
            yield arrived.piece()


class _Arrived:
    """Rows that have come since the last piece; the trailer of COPY ends them and is not one of them."""

    def __init__(self, first: bytes) -> None:
        self._rows = io.BytesIO()
        self.ended = False
        self.append(first)

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return self._rows.tell()

    def append(self, row: bytes) -> None:
        """Take one that the driver has read."""
        if row == _TRAILER:
            self.ended = True
        else:
            self._rows.write(row)

    def take_waiting(self, pgconn: Any, most: int) -> bool:
        """Take rows that have arrived, up to so many and not past the last; False if there are none."""
        # Past psycopg's own loop, which takes several times as long for each row; and the fewest steps for a row.
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
        """All of them."""
        return self._rows.getvalue()


async def _wait(pgconn: Any, copy: Any, arrived: _Arrived) -> None:
    """Until there are more rows."""
    if arrived.size > _BYTES_OF_A_BURST:
        # The server sends eighty rows at a time; to be woken by each would cost more than to read them.
        await asyncio.sleep(_BURST_SECONDS)
        pgconn.consume_input()
        if arrived.take_waiting(pgconn, 1):
            return
    arrived.append(bytes(await copy.read()))


def _server_error(pgconn: Any) -> Exception:
    """Why the rows ended before the last one."""
    error: Any = None
    while (result := pgconn.get_result()) is not None:
        error = result
    return psycopg.errors.error_from_result(error)
