"""Streams: results that do not fit into memory, read through a cursor of the server.

Each piece is one complete FETCH. Between two pieces the connection is free, so other statements of the transaction work
beside an open stream. The cursor sees the rows of the moment at which it was declared, whatever the transaction writes
later.

A stream that is left early changes nothing in the transaction. `aclose` closes its cursor. A stream that is dropped, as
by `break`, leaves its cursor behind. The next statement that SQLAlchemy sends in the transaction closes it first, and
the end of the transaction closes the rest. A task that is cancelled while a piece is on its way, or while the cursor is
being closed, waits for the server's answer, for two seconds at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import weakref
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

import sqlalchemy as sa
from psycopg import pq
from sqlalchemy.ext.compiler import compiles

from qts_data.database.errors import translated_errors
from qts_data.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["Cursor", "Stream", "stream_rows"]

_T_co = TypeVar("_T_co", covariant=True)
_ROWS_AT_ONCE: Final = 2000
_PATIENCE_SECONDS: Final = 2.0
_numbers: Final = itertools.count(1)
# A reader may pause between two pieces. Without this the server would end its transaction as idle.
_ALLOW_PAUSES: Final = """
    SELECT set_config('idle_in_transaction_session_timeout', '1h', true)
     WHERE current_setting('idle_in_transaction_session_timeout')::interval BETWEEN '1 ms' AND '59 min'
"""
_STILL_OPEN: Final = "SELECT name FROM pg_catalog.pg_cursors WHERE name = ANY(%(names)s)"

_left: Final[weakref.WeakKeyDictionary[sa.RootTransaction, set[str]]] = weakref.WeakKeyDictionary()
"""Cursors of streams that were dropped, by the transaction in which they are open."""


class Cursor:
    """A cursor of the server, in the transaction of one connection.

    Args:
        connection: In a transaction. Its end closes the cursor.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self.name: str = f"qts_stream_{next(_numbers)}"
        self.connection = connection
        self._transaction: sa.RootTransaction | None = None

    async def declare(self, declare: Callable[[str], Awaitable[object]]) -> None:
        """Declare the cursor.

        Args:
            declare: Called with the beginning of the statement, up to the word FOR. It adds the query and sends it.
        """
        await self.connection.exec_driver_sql(_ALLOW_PAUSES)
        sync = self.connection.sync_connection
        if sync is not None:
            if not sa.event.contains(sync, "before_cursor_execute", _close_left):
                sa.event.listen(sync, "before_cursor_execute", _close_left)
            self._transaction = sync.get_transaction()
        await declare(f"DECLARE {self.name} NO SCROLL CURSOR FOR ")

    def require_open(self) -> None:
        """Refuse to read on outside the cursor's transaction.

        Raises:
            DatabaseError: The transaction of the cursor has ended.
        """
        if not self._is_reachable():
            raise DatabaseError(
                "the transaction in which this stream began has ended; read a stream inside the block of its "
                "transaction or reader",
                sqlstate="34000",
            )

    def leave(self) -> None:
        """Let a later statement close the cursor, because this may be called where nothing can be sent."""
        if self._transaction is not None and self._transaction.is_active:
            _left.setdefault(self._transaction, set()).add(self.name)
        self._transaction = None

    async def close(self) -> None:
        """Close the cursor, unless its transaction or savepoint has ended and closed it."""
        reachable = self._is_reachable()
        self.leave()
        if reachable:
            await self.connection.run_sync(_close_left)

    def _is_reachable(self) -> bool:
        sync = self.connection.sync_connection
        return (
            self._transaction is not None
            and self._transaction.is_active
            and sync is not None
            and not sync.closed
            and not sync.invalidated
            and sync.get_transaction() is self._transaction
        )


def _close_left(connection: sa.Connection, *_: object) -> None:
    """Close the cursors that dropped streams have left open. Called before each statement."""
    transaction = connection.get_transaction()
    names = _left.get(transaction) if transaction is not None else None
    if not names or transaction is None:
        return
    driver = connection.connection.driver_connection
    if driver is None or driver.info.transaction_status != pq.TransactionStatus.INTRANS:
        return
    del _left[transaction]
    # A rollback to a savepoint closes cursors, too. Closing a cursor twice would end the transaction.
    for name in connection.exec_driver_sql(_STILL_OPEN, {"names": sorted(names)}).scalars().all():
        connection.exec_driver_sql(f"CLOSE {name}")


class Stream(AsyncIterator[_T_co], Generic[_T_co]):
    """Results one by one, in bounded memory. `async for` reads them.

    Statements of the same transaction work beside it. A reader may stop at any moment, and may take up to an
    hour for each piece. `aclose`, or `contextlib.aclosing`, frees the server's cursor at once.

    Args:
        cursor: Its cursor; `pieces` declares it.
        pieces: Reads the next piece. None is the end; an empty piece is not.
    """

    def __init__(self, cursor: Cursor, pieces: Callable[[], Awaitable[Iterable[_T_co] | None]]) -> None:
        self._cursor = cursor
        self._pieces = pieces
        self._piece: Iterator[_T_co] = iter(())
        self._ended = False
        self._reading = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T_co:
        while True:
            for item in self._piece:
                return item
            if self._ended:
                raise StopAsyncIteration
            await self._read()

    async def aclose(self) -> None:
        """End the stream and close its cursor."""
        self._piece = iter(())
        if not self._ended:
            self._ended = True
            await _to_its_end(self._close())

    async def _close(self) -> None:
        with translated_errors():
            await self._cursor.close()

    def __del__(self) -> None:
        # No statement can be sent from here.
        self._cursor.leave()

    async def _read(self) -> None:
        if self._reading:
            raise RuntimeError("another task is reading this stream")
        self._reading = True
        try:
            await _to_its_end(self._read_piece())
        except BaseException:
            self._ended = True
            self._cursor.leave()
            raise
        finally:
            self._reading = False

    async def _read_piece(self) -> None:
        with translated_errors():
            piece = await self._pieces()
            if piece is None:
                self._ended = True
                await self._cursor.close()
            else:
                self._piece = iter(piece)


async def _to_its_end(reading: Coroutine[Any, Any, None]) -> None:
    """Let a cancelled task wait for the server's answer, so that its transaction can go on.

    An answer that takes longer than two seconds is cancelled, too. That ends the transaction.
    """
    running = asyncio.ensure_future(reading)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        ending = asyncio.ensure_future(_end(running))
        while not ending.done():
            with contextlib.suppress(asyncio.CancelledError):  # the first one is raised
                await asyncio.shield(ending)
        raise


async def _end(running: asyncio.Future[None]) -> None:
    if not running.done():
        await asyncio.wait([running], timeout=_PATIENCE_SECONDS)
    if not running.done():
        running.cancel()
        await asyncio.wait([running])
    if not running.cancelled():
        running.exception()


class _Declare(sa.Executable, sa.ClauseElement):
    inherit_cache = False

    def __init__(self, beginning: str, query: sa.Select[Any]) -> None:
        self.beginning = beginning
        self.query = query


@compiles(_Declare)
def _compile_declare(element: _Declare, compiler: SQLCompiler, **options: Any) -> str:
    return element.beginning + compiler.process(element.query, **options)


def stream_rows(
    connection: AsyncConnection, query: sa.Select[Any], convert: Callable[[sa.Row[Any]], _T_co]
) -> Stream[_T_co]:
    """Stream the rows of a query, a few thousand at a time.

    Args:
        connection: In a transaction.
        query: The query. It is sent when the first row is read.
        convert: Makes an item from a row.
    """
    cursor = Cursor(connection)
    fetch = sa.text(f"FETCH FORWARD {_ROWS_AT_ONCE} FROM {cursor.name}").columns(*query.selected_columns)
    state = "new"

    async def pieces() -> Iterable[_T_co] | None:
        nonlocal state
        if state == "read":
            return None
        if state == "new":
            await cursor.declare(lambda beginning: connection.execute(_Declare(beginning, query)))
        cursor.require_open()
        # Each stream has a new cursor name, so caching its FETCH would drive other statements out of the cache.
        rows = (await connection.execute(fetch, execution_options={"compiled_cache": None})).all()
        state = "read" if len(rows) < _ROWS_AT_ONCE else "open"
        return map(convert, rows)

    return Stream(cursor, pieces)
