"""Transactions: commit when the block ends, roll back otherwise, and say what is known of a commit that was cut off."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import inspect
import logging
import random
import time
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from qts_data.contracts import HealthStatus
from qts_data.database.engine import DatabaseConfig, async_engine
from qts_data.database.errors import connecting, translate_commit, translated_errors
from qts_data.errors import QtsDataError, TransactionConflict, WritesRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["Scope", "Transactions", "WriteScope"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.5


class Scope:
    """One connection in one transaction, and what works on it.

    Attributes:
        connection: For statements of your own.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self._session: AsyncSession | None = None

    @property
    def session(self) -> AsyncSession:
        """An ORM session on the same connection; it is flushed before the transaction commits."""
        if self._session is None:
            self._session = AsyncSession(self.connection, expire_on_commit=False)
        return self._session

    async def flush(self) -> None:
        """Send what the session holds back."""
        if self._session is not None:
            await self._session.flush()

    async def close(self) -> None:
        """Let the session go; the connection is somebody else's."""
        if self._session is not None:
            await self._session.close()


class WriteScope(Scope):
    """A transaction that may write."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection)
        self._hooks: list[Callable[[], Awaitable[None] | None]] = []

    def after_commit(self, hook: Callable[[], Awaitable[None] | None]) -> None:
        """Run something once COMMIT has returned, and never otherwise; in the order of registration.

        What a hook raises is logged and goes no further: the transaction is committed, and an error would say that
        it is not.
        """
        self._hooks.append(hook)

    async def run_hooks(self) -> None:
        """Run what was registered."""
        for hook in self._hooks:
            try:
                done = hook()
                if inspect.isawaitable(done):
                    await done
            except Exception:  # noqa: BLE001 - whatever it is, the transaction stays committed
                _log.exception("a hook failed after the transaction had been committed: %r", hook)


_Writer = TypeVar("_Writer", bound=WriteScope)
_Reader = TypeVar("_Reader", bound=Scope)


class Transactions(Generic[_Writer, _Reader]):
    """Hands out transactions on a pool of connections.

    Args:
        url: The database.
        config: Pool, timeouts and TLS.
        writer: Makes what a writing transaction works with.
        reader: The same for a reading one.
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
        self.config = config or DatabaseConfig()
        self._engine = async_engine(url, self.config)
        self._read_only = self._engine.execution_options(postgresql_readonly=True)
        self._snapshot = self._read_only.execution_options(isolation_level="REPEATABLE READ")
        self._late: set[asyncio.Task[None]] = set()
        self._writer = writer
        self._reader = reader
        self._refusal: str | None = None

    @property
    def engine(self) -> AsyncEngine:
        """The engine, for what has no method here."""
        return self._engine

    def refuse_writes(self, reason: str | None) -> None:
        """Begin no writing transaction and commit none from now on; None allows both again.

        What is committing at this moment is not held up.
        """
        self._refusal = reason

    def require_writable(self) -> None:
        """Say that nothing may be written.

        Raises:
            WritesRefused: `refuse_writes` has said so.
        """
        if self._refusal is not None:
            raise WritesRefused(self._refusal)

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
        """A transaction that commits when the block ends without an error, and rolls back otherwise.

        Raises:
            WritesRefused: `refuse_writes` allows none; nothing was committed.
            OutcomeUnknown: The connection was lost during COMMIT.
            TransactionConflict: Another transaction got in the way; `run` would have tried again.
            QtsDataError: Whatever else the database says, by SQLSTATE. The error of the block, if it is no
                database error, comes out as it is.
        """
        self.require_writable()
        async with self._connection(self._engine) as connection:
            # Before anything joins: a session that found none would begin, and end, one of its own.
            await connection.begin()
            scope = self._writer(connection)
            with translated_errors():
                try:
                    yield scope
                    await scope.flush()
                finally:
                    await scope.close()
            self.require_writable()
            await self._commit(scope)

    @contextlib.asynccontextmanager
    async def reader(self, *, snapshot: bool = False) -> AsyncIterator[_Reader]:
        """A transaction that the server lets only read.

        Args:
            snapshot: Every statement sees the database as it was at the first one (REPEATABLE READ).
        """
        async with self._connection(self._snapshot if snapshot else self._read_only) as connection:
            scope = self._reader(connection)
            with translated_errors():
                try:
                    yield scope
                finally:
                    await scope.close()

    async def run(self, work: Callable[[_Writer], Awaitable[_T]], *, attempts: int = 8) -> _T:
        """Run a function in a transaction, and again after a `TransactionConflict`.

        Args:
            work: Called with a new unit of work each time; it must do nothing that a rollback does not undo.
            attempts: How often at most; the pause between two grows to half a second, and is random, for two that
                met once would meet again.

        Raises:
            TransactionConflict: Even the last attempt met somebody.
        """
        pause = _FIRST_PAUSE_SECONDS
        for _ in range(attempts - 1):
            try:
                async with self.transaction() as scope:
                    return await work(scope)
            except TransactionConflict:
                # Not a secret: two that wait for different times do not meet again.
                await asyncio.sleep(random.uniform(0.5, 1.0) * pause)  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        async with self.transaction() as scope:
            return await work(scope)

    async def health(self, *, timeout_seconds: float = 2.0) -> HealthStatus:
        """Whether the database answers; never raises."""
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
        """A connection; whatever it began and nobody committed is rolled back at the end."""
        async with connecting(self.url):
            connection = await self._taken(engine)
        try:
            yield connection
        finally:
            # A task that is cancelled here would leave the connection outside the pool for ever.
            await asyncio.shield(_give_back(connection))

    async def _taken(self, engine: AsyncEngine) -> AsyncConnection:
        """A connection of the pool, which gets it back if this task is cancelled half way."""
        taking = asyncio.create_task(_started(engine))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            late = asyncio.create_task(_give_back_late(taking))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            raise

    async def _commit(self, scope: WriteScope) -> None:
        # A commit that is under way is not given up: nobody would know what became of it.
        commit = asyncio.ensure_future(scope.connection.commit())
        cancelled: asyncio.CancelledError | None = None
        while not commit.done():
            try:
                await asyncio.wait([commit])
            except asyncio.CancelledError as error:
                cancelled = error
        failure = commit.exception()
        if failure is None:
            await scope.run_hooks()
        elif isinstance(failure, Exception):
            raise (translate_commit(failure) or failure) from failure
        if cancelled is not None:
            raise cancelled


async def _started(engine: AsyncEngine) -> AsyncConnection:
    return await engine.connect()


async def _give_back_late(taking: asyncio.Task[AsyncConnection]) -> None:
    # Nobody is left who would like to hear why there was no connection.
    with contextlib.suppress(sa.exc.SQLAlchemyError, psycopg.Error):
        await _give_back(await taking)


async def _give_back(connection: AsyncConnection) -> None:
    try:
        await connection.close()
    except (sa.exc.SQLAlchemyError, psycopg.Error):
        # It has died: there is nothing to roll back, and whoever worked on it has heard of it, or had no need to.
        with contextlib.suppress(sa.exc.ResourceClosedError):
            await connection.invalidate()
            await connection.close()
