"""The inside of a transaction: its connection and session, and what happens when its COMMIT has returned."""

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
            # A savepoint of its own, made where it is first used, would be gone with one around it.
            self._session = AsyncSession(self.connection, expire_on_commit=False, join_transaction_mode="rollback_only")
        return self._session

    async def flush(self) -> None:
        """Send what the session holds back."""
        if self._session is not None:
            await self._session.flush()

    async def _close(self) -> None:
        """Let the session go; the connection is somebody else's."""
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
        """Run something once COMMIT has returned, and never otherwise; in the order of registration.

        A function is called at once, before any other task runs; a coroutine goes on when the connection is back in
        the pool, and is not given up if the task is cancelled. What is undone by a savepoint is forgotten. What a hook
        raises is logged and goes no further: the transaction is committed, and an error would say that it is not.
        """
        self._hooks.append(hook)

    async def commit_without_waiting(self) -> None:
        """Let COMMIT return before the server has written it to disk; a crash of the server may then lose it."""
        await self.connection.execute(sa.text("SET LOCAL synchronous_commit = off"))

    def in_doubt(self, hook: Callable[[], None]) -> None:
        """Call something at once when COMMIT got no answer, so that nobody knows whether it was carried out."""
        self._doubts.append(hook)

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """What fails in the block is undone, and the transaction goes on without it.

        Without one, PostgreSQL lets a transaction in which a statement has failed only be rolled back, whoever may
        have caught the error.
        """
        with translated_errors():
            await self.flush()
            async with self.connection.begin_nested():
                yield
                await self.flush()
                require_whole(self.connection)

    def _mark(self) -> None:
        """A savepoint was made."""
        self._marks.append(len(self._hooks))

    def _release(self) -> None:
        """What came after the last savepoint belongs to the rest from now on."""
        self._marks.pop()

    def _undo(self) -> None:
        """The transaction has gone back to the last savepoint: the hooks that came after it are forgotten."""
        del self._hooks[self._marks.pop() :]

    def _committed(self) -> None:
        """Call what was registered; `_finish` waits for what takes longer."""
        for hook in self._hooks:
            with _logged(hook):
                begun = hook()
                if inspect.isawaitable(begun):
                    self._begun.append((hook, begun))

    def _doubted(self) -> None:
        """Call what was registered for a COMMIT without an answer."""
        for hook in self._doubts:
            with _logged(hook):
                hook()

    async def _finish(self) -> None:
        """Wait for what was begun after the commit."""
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
    except Exception:  # noqa: BLE001 - whatever it is, the transaction stays committed
        _log.exception("a hook failed after the transaction had been committed: %r", hook)


async def to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """What is not given up half way: a cancellation is raised when it has ended."""
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
