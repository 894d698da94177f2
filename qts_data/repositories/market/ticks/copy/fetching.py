"""Rows of a server's cursor, each as one value of type record in the server's binary form.

Each row is one value, not one for each field: to take a value out of libpq's result costs more than to read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq

from qts_data.database.driver import driver_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["fetch"]

_TURN_SECONDS: Final = 0.001  # of the event loop
_PATIENCE_SECONDS: Final = 2.0


async def fetch(connection: AsyncConnection, cursor: str, rows: int) -> Any:
    """Read the next rows of a cursor.

    A cancelled task cancels the statement, which ends the transaction. Other statements wait for that.

    Args:
        connection: In the transaction of the cursor.
        cursor: Name of the cursor.
        rows: Most rows to read.

    Returns:
        Libpq's result.

    Raises:
        psycopg.Error: The server's error, or the loss of the connection.
    """
    async with driver_of(connection) as driver, driver.lock:
        statement = f"FETCH FORWARD {rows} FROM {cursor}"
        driver.pgconn.send_query_params(statement.encode(), None, result_format=pq.Format.BINARY)
        try:
            result = await _answer(driver.pgconn)
        except asyncio.CancelledError:
            await _call_off(driver)
            raise
        if result is None or result.status != pq.ExecStatus.TUPLES_OK:
            raise _error(driver, result)
        return result


async def _call_off(driver: psycopg.AsyncConnection[Any]) -> None:
    """Cancel the running statement and read its answer, so that no other statement reads that."""
    ending = asyncio.ensure_future(_answer(driver.pgconn))
    try:
        with contextlib.suppress(psycopg.Error):
            await driver.cancel_safe(timeout=_PATIENCE_SECONDS)
        await asyncio.wait([ending], timeout=_PATIENCE_SECONDS)
    finally:
        if ending.done():
            ending.exception()
        else:
            # The server does not answer.
            ending.cancel()
            driver.pgconn.finish()


async def _answer(pgconn: Any) -> Any:
    while pgconn.flush():  # noqa: ASYNC110 - libpq gives no event for it
        await asyncio.sleep(0)
    look = select.poll()
    look.register(pgconn.socket, select.POLLIN)
    if pgconn.is_busy():
        await _readable(pgconn.socket)
    while True:
        until = time.perf_counter() + _TURN_SECONDS
        while look.poll(0):
            pgconn.consume_input()
            if not pgconn.is_busy() or time.perf_counter() > until:
                break
        if not pgconn.is_busy():
            break
        if look.poll(0):
            await asyncio.sleep(0)
        else:
            await _readable(pgconn.socket)
    result = pgconn.get_result()
    while pgconn.is_busy():
        await _readable(pgconn.socket)
        pgconn.consume_input()
    while (more := pgconn.get_result()) is not None:
        result = more  # an error that followed the rows
    return result


def _error(driver: psycopg.AsyncConnection[Any], result: Any) -> psycopg.Error:
    if result is None:
        return psycopg.OperationalError("the connection gave no answer")
    return psycopg.errors.error_from_result(result, encoding=driver.info.encoding)


async def _readable(file: int) -> None:
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()

    def wake() -> None:
        if not arrived.done():
            arrived.set_result(None)

    loop.add_reader(file, wake)
    try:
        await arrived
    finally:
        loop.remove_reader(file)
