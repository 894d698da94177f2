"""A connection that remembers which statements have ended its transaction, or a part of it.

PostgreSQL executes a COMMIT or a ROLLBACK that a program sends as SQL, and the driver does not report it. After
`ROLLBACK; BEGIN` the connection is in a transaction as before, but in another one. The server's command tags show it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

__all__ = ["Endings", "WatchedConnection", "WatchedCursor", "endings_of"]

_COMMITS: Final = frozenset({b"COMMIT", b"COMMIT PREPARED"})
_ENDS: Final = frozenset({*_COMMITS, b"ROLLBACK", b"PREPARE TRANSACTION"})


class Endings:
    """The ends of transactions on one connection.

    Attributes:
        committed: A COMMIT was executed.
        undone: A ROLLBACK was executed, even one to a savepoint; or a PREPARE TRANSACTION.
    """

    __slots__ = ("_begun", "_ours", "committed", "undone")

    def __init__(self) -> None:
        self._ours = False
        self.reset()

    def reset(self) -> None:
        """Clear all notes at the beginning of a transaction."""
        self._begun = 0
        self.committed: bool = False
        self.undone: bool = False

    def note_beginning(self) -> None:
        """Count a BEGIN that the driver sends by itself, or that a pipeline sends."""
        self._begun += 1

    def note(self, tag: bytes | None) -> None:
        """Note the command tag of an answer."""
        if tag in _ENDS and not self._ours:
            if tag in _COMMITS:
                self.committed = True
            else:
                self.undone = True

    @contextlib.contextmanager
    def ours(self) -> Iterator[None]:
        """Ignore endings by the statements of the block, which are for SQLAlchemy's own savepoints."""
        before, self._ours = self._ours, True
        try:
            yield
        finally:
            self._ours = before

    def is_whole(self, status: int) -> bool:
        """Return whether the transaction is still the one that began after `reset`.

        Args:
            status: libpq's transaction status of the connection.
        """
        lost = self._begun > 1 or (self._begun == 1 and status == pq.TransactionStatus.IDLE)
        return not (self.committed or self.undone or lost)


class WatchedCursor(psycopg.AsyncCursor[Any]):
    """A cursor that notes the tags of all answers, including those before an error."""

    def _check_results(self, results: list[PGresult]) -> None:
        for result in results:
            tag = result.command_status
            if tag in _ENDS and (endings := endings_of(self.connection)) is not None:
                endings.note(tag)
        super()._check_results(results)

    async def stream(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        """Stream rows, and note a statement without rows, such as `ROLLBACK AND CHAIN`, whose tag is not visible."""
        endings = endings_of(self.connection)
        try:
            async for row in super().stream(*arguments, **options):
                yield row
        except psycopg.ProgrammingError as error:
            # The statement gave no rows, but it was executed.
            if endings is not None and error.sqlstate is None:
                endings.undone = True
            raise


class WatchedConnection(psycopg.AsyncConnection[Any]):
    """A connection of psycopg that records its `Endings`.

    Args:
        pgconn: libpq's connection.
        *arguments: Passed on to psycopg.
        **options: Passed on to psycopg.
    """

    def __init__(self, pgconn: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(pgconn, *arguments, **options)
        self.endings: Endings = Endings()
        self.cursor_factory: type[WatchedCursor] = WatchedCursor

    def _exec_command(self, command: Any, *arguments: Any, **options: Any) -> PQGen[PGresult | None]:
        """Note the driver's own commands: those of `commit`, `rollback` and `transaction`."""
        text = command if isinstance(command, bytes) else psycopg.sql.as_bytes(command, self)
        word = text.partition(b" ")[0]
        if word == b"BEGIN":
            self.endings.note_beginning()
        else:
            # Other words, such as DEALLOCATE, SAVEPOINT or RELEASE, are not among the tags.
            self.endings.note(b"PREPARE TRANSACTION" if word == b"PREPARE" else word)
        return super()._exec_command(command, *arguments, **options)


def endings_of(driver: object) -> Endings | None:
    """Return the endings of a connection. None if it does not record them."""
    return driver.endings if isinstance(driver, WatchedConnection) else None


def _require_hooks() -> None:
    missing = [
        f"{owner.__name__}.{name}"
        for owner, name in ((psycopg.AsyncCursor, "_check_results"), (psycopg.AsyncConnection, "_exec_command"))
        if not hasattr(owner, name)
    ]
    if missing:
        raise ImportError(
            f"psycopg {psycopg.__version__} has no {' and no '.join(missing)}, by which the end of a transaction is "
            "noticed; install the version in requirements.lock"
        )


# Without these methods an ending would go unnoticed.
_require_hooks()
