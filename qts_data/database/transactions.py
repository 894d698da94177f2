"""Transactions: commit when the block ends, roll back otherwise, and report a commit whose outcome is unknown."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

import psycopg
import sqlalchemy as sa

from qts_data.contracts import HealthStatus
from qts_data.database.endings import Watch, require_commitable
from qts_data.database.engine import DatabaseConfig, async_engine
from qts_data.database.errors import connecting, translate_commit, translated_errors
from qts_data.database.scopes import Scope, WriteScope, to_its_end
from qts_data.errors import (
    OutcomeUnknown,
    QtsDataError,
    TransactionConflict,
    WritesRefused,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncTransaction

__all__ = ["Transactions"]

_T = TypeVar("_T")
_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.5


_Writer = TypeVar("_Writer", bound=WriteScope)
_Reader = TypeVar("_Reader", bound=Scope)


class Transactions(Generic[_Writer, _Reader]):
    """Hands out transactions on a pool of connections.

    Args:
        url: The database.
        config: Pool, timeouts and TLS.
        writer: Makes the unit of work of a writing transaction.
        reader: Makes the unit of work of a reading transaction.
    """

    def __init__(
        self,
        url: URL,
        config: DatabaseConfig | None = None,
        *,
        writer: Callable[[AsyncConnection], _Writer],
        reader: Callable[[AsyncConnection], _Reader],
    ) -> None:
        self.url = url
        self.config: DatabaseConfig = config or DatabaseConfig()
        self._engine = async_engine(url, self.config)
        self._read_only = self._engine.execution_options(postgresql_readonly=True)
        self._snapshot = self._read_only.execution_options(isolation_level="REPEATABLE READ")
        # SQLAlchemy reports its savepoints: those of this class, of a session, and of a caller's begin_nested. If a
        # part is undone by other means, the block ends with an error and no hook is called.
        self._scopes: weakref.WeakKeyDictionary[sa.Connection, _Writer] = weakref.WeakKeyDictionary()
        for name, react in (
            ("savepoint", WriteScope._mark),
            ("release_savepoint", WriteScope._release),
            ("rollback_savepoint", WriteScope._undo),
        ):
            sa.event.listen(self._engine.sync_engine, name, partial(self._on_savepoint, react))
        self._late: set[asyncio.Task[None]] = set()
        self._writer = writer
        self._reader = reader
        self._refusals: dict[object, str] = {}

    @property
    def engine(self) -> AsyncEngine:
        """The engine, for statements that have no method here."""
        return self._engine

    def refuse_writes(self, reason: str | None, *, by: object = None) -> None:
        """Begin no writing transaction and commit none from now on.

        Writes are refused for as long as any caller refuses them. A commit that is under way is not held up.

        Args:
            reason: Text of the error's message. None withdraws the refusal of this caller and of no other.
            by: The caller, such as a cache manager; hashable.
        """
        if reason is None:
            self._refusals.pop(by, None)
        else:
            self._refusals[by] = reason

    def require_writable(self) -> None:
        """Raise if writes are refused.

        Raises:
            WritesRefused: A caller of `refuse_writes` has not withdrawn its refusal.
        """
        if self._refusals:
            raise WritesRefused("; ".join(dict.fromkeys(self._refusals.values())))

    async def dispose(self) -> None:
        """Close every connection of the pool."""
        await asyncio.gather(*self._late)
        await self._engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.dispose()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[_Writer]:
        """Open a transaction that commits when the block ends without an error, and rolls back otherwise.

        Raises:
            WritesRefused: A caller of `refuse_writes` refuses writes; nothing was committed.
            OutcomeUnknown: The connection was lost during COMMIT.
            DatabaseError: With SQLSTATE 25P02: a statement failed, the block went on in spite of it, and the server
                rolled back the whole transaction. With 25P01: the block itself ended the transaction, or undid a part
                of it as SQL, by COMMIT, ROLLBACK, ROLLBACK TO, or the driver's methods.
            TransactionConflict: The transaction conflicted with another one; `run` would have tried again.
            QtsDataError: Any other database error, translated by SQLSTATE. An error of the block that is not a
                database error is raised unchanged.
        """
        self.require_writable()
        scope: _Writer | None = None
        try:
            async with self._connection(self._engine) as connection:
                # Begin before a session joins: a session that finds no transaction would begin and end its own.
                begun = await connection.begin()
                scope = self._writer(connection)
                if connection.sync_connection is not None:
                    self._scopes[connection.sync_connection] = scope
                with translated_errors(), Watch(connection, scope._doubted):
                    try:
                        yield scope
                        await scope.flush()
                    finally:
                        await scope._close()
                    require_commitable(connection, begun)
                self.require_writable()
                await self._commit(begun, scope)
        finally:
            if scope is not None:
                await scope._finish()

    @contextlib.asynccontextmanager
    async def reader(self, *, snapshot: bool = False) -> AsyncIterator[_Reader]:
        """Open a transaction in which the server allows only reads.

        Each statement sees the commits before it, so two answers of one reader may differ.

        Args:
            snapshot: Let every statement see the database as it was at the first one (REPEATABLE READ).
        """
        async with self._connection(self._snapshot if snapshot else self._read_only) as connection:
            scope = self._reader(connection)
            with translated_errors():
                try:
                    yield scope
                finally:
                    await scope._close()

    async def run(self, work: Callable[[_Writer], Awaitable[_T]], *, attempts: int = 8) -> _T:
        """Run a function in a transaction, and again after a `TransactionConflict`.

        Args:
            work: Called with a new unit of work each time. It must have no effect that a rollback does not undo.
            attempts: Most attempts. The pause between two grows up to half a second. It is random, because two
                transactions with equal pauses would conflict again.

        Raises:
            TransactionConflict: The last attempt conflicted, too.
        """
        pause = _FIRST_PAUSE_SECONDS
        for _ in range(attempts - 1):
            try:
                async with self.transaction() as scope:
                    return await work(scope)
            except TransactionConflict:
                # The random number needs no secrecy. It only has to differ between two transactions that conflicted.
                await asyncio.sleep(random.uniform(0.5, 1.0) * pause)  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        async with self.transaction() as scope:
            return await work(scope)

    async def health(self, *, timeout_seconds: float = 2.0) -> HealthStatus:
        """Report whether the database answers. It never raises."""
        started = time.monotonic()
        latency: float | None = None
        try:
            async with asyncio.timeout(timeout_seconds), self.reader() as scope:
                version = await scope.connection.scalar(sa.text("SELECT current_setting('server_version')"))
                latency = time.monotonic() - started
            detail = f"PostgreSQL {version}; pool: {self._engine.pool.status()}"
        except TimeoutError:
            detail = f"no answer within {timeout_seconds:g} seconds"
        except QtsDataError as error:
            detail = str(error)
        return HealthStatus(
            component="database",
            healthy=latency is not None,
            detail=detail,
            latency_seconds=latency,
            checked_at=dt.datetime.now(dt.UTC),
        )

    @contextlib.asynccontextmanager
    async def _connection(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """Open a connection. At the end, roll back everything that was begun and not committed."""
        async with connecting(self.url):
            connection = await self._taken(engine)
        try:
            yield connection
        finally:
            # Without the shield, cancelling the task here would leave the connection outside the pool for ever.
            await asyncio.shield(_give_back(connection))

    async def _taken(self, engine: AsyncEngine) -> AsyncConnection:
        """Take a connection from the pool, and give it back if this task is cancelled in between."""
        taking = asyncio.create_task(_started(engine))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            late = asyncio.create_task(_give_back_late(taking))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            raise

    @staticmethod
    async def _commit(begun: AsyncTransaction, scope: WriteScope) -> None:
        async def commit() -> None:
            try:
                await begun.commit()
            except Exception as error:
                ours = translate_commit(error)
                if isinstance(ours, OutcomeUnknown):
                    scope._doubted()
                raise (ours or error) from error
            scope._committed()

        # A COMMIT that is under way is never abandoned: its outcome would be unknown.
        await to_its_end(commit())

    def _on_savepoint(self, react: Callable[[WriteScope], None], connection: sa.Connection, *_: object) -> None:
        if (scope := self._scopes.get(connection)) is not None:
            react(scope)


async def _started(engine: AsyncEngine) -> AsyncConnection:
    return await engine.connect()


async def _give_back_late(taking: asyncio.Task[AsyncConnection]) -> None:
    # The caller was cancelled, so no task is left that could handle a failed connection attempt.
    with contextlib.suppress(sa.exc.SQLAlchemyError, psycopg.Error):
        await _give_back(await taking)


async def _give_back(connection: AsyncConnection) -> None:
    try:
        await connection.close()
    except (sa.exc.SQLAlchemyError, psycopg.Error):
        # The connection is dead, so nothing is left to roll back. Its block has raised the error, or did not need it.
        with contextlib.suppress(sa.exc.ResourceClosedError):
            await connection.invalidate()
            await connection.close()
