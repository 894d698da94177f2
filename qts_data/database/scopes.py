"""Scopes: connection and session of a transaction, and the hooks that run when its COMMIT has returned."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from qts_data.database.endings import require_whole
from qts_data.database.errors import translated_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection

    _Hook: TypeAlias = Callable[[], Awaitable[None] | None]

__all__ = ["Scope", "WriteScope", "to_its_end"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Scope:
    """One connection in one transaction, with its session.

    Attributes:
        connection: For the caller's own statements.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self._session: AsyncSession | None = None

    @property
    def session(self) -> AsyncSession:
        """An ORM session on the same connection. It is flushed before the transaction commits."""
        if self._session is None:
            # A session with its own savepoint would make it at first use, and lose it with an enclosing savepoint.
            self._session = AsyncSession(self.connection, expire_on_commit=False, join_transaction_mode="rollback_only")
        return self._session

    async def flush(self) -> None:
        """Send the pending changes of the session."""
        if self._session is not None:
            await self._session.flush()

    async def _close(self) -> None:
        """Close the session. The connection belongs to the caller and stays open."""
        if self._session is not None:
            await self._session.close()


class WriteScope(Scope):
    """A transaction that may write."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection)
        self._hooks: list[_Hook] = []
        self._doubts: list[Callable[[], None]] = []
        self._marks: list[int] = []
        self._begun: list[tuple[_Hook, Awaitable[None]]] = []

    def after_commit(self, hook: _Hook) -> None:
        """Register a hook that runs once COMMIT has returned, and never otherwise. Hooks run in order of registration.

        A function is called at once, before any other task runs. A coroutine is awaited when the connection is back in
        the pool, and runs to its end even if the task is cancelled. The rollback of a savepoint drops the hooks that
        were registered since it. An exception of a hook is logged and not raised: the transaction is committed, and
        an error would mean that it is not.
        """
        self._hooks.append(hook)

    async def commit_without_waiting(self) -> None:
        """Let COMMIT return before the server has written it to disk. A crash of the server may then lose it."""
        await self.connection.execute(sa.text("SET LOCAL synchronous_commit = off"))

    def in_doubt(self, hook: Callable[[], None]) -> None:
        """Register a function that is called at once when COMMIT got no answer, so that its outcome is unknown."""
        self._doubts.append(hook)

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo the block alone if it raises an error. The transaction can go on without it.

        Without a savepoint, PostgreSQL only accepts a rollback once a statement has failed, even if the error was
        caught.
        """
        with translated_errors():
            await self.flush()
            async with self.connection.begin_nested():
                yield
                await self.flush()
                require_whole(self.connection)

    def _mark(self) -> None:
        """Note that a savepoint was made."""
        self._marks.append(len(self._hooks))

    def _release(self) -> None:
        """Keep the hooks that were registered since the last savepoint, as part of the enclosing block."""
        self._marks.pop()

    def _undo(self) -> None:
        """Drop the hooks that were registered since the last savepoint, because it was rolled back."""
        del self._hooks[self._marks.pop() :]

    def _committed(self) -> None:
        """Call the registered hooks. `_finish` awaits their coroutines."""
        for hook in self._hooks:
            with _logged(hook):
                begun = hook()
                if inspect.isawaitable(begun):
                    self._begun.append((hook, begun))

    def _doubted(self) -> None:
        """Call the hooks that were registered for a COMMIT without an answer."""
        for hook in self._doubts:
            with _logged(hook):
                hook()

    async def _finish(self) -> None:
        """Await the coroutines that the hooks began after the commit."""
        if self._begun:
            await to_its_end(self._await_begun())

    async def _await_begun(self) -> None:
        for hook, begun in self._begun:
            with _logged(hook):
                await begun


@contextlib.contextmanager
def _logged(hook: object) -> Iterator[None]:
    try:
        yield
    except Exception:  # noqa: BLE001 - the transaction stays committed, whatever a hook raises
        _log.exception("a hook failed after the transaction had been committed: %r", hook)


async def to_its_end(work: Coroutine[Any, Any, _T] | asyncio.Future[_T]) -> _T:
    """Await work that must not be abandoned: a cancellation is raised after the work has ended."""
    running = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and running.exception() is None:
        raise cancelled
    return running.result()
