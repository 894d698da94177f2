"""Checks that a transaction is still the one that its block began, and may be committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from psycopg import pq

from qts_data.errors import DatabaseError, DatabaseUnavailable
from qts_data.timescale.endings import endings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction

__all__ = ["Watch", "require_commitable", "require_whole"]

_ENDED: Final = "25P01"  # no_active_sql_transaction


def require_whole(connection: AsyncConnection) -> None:
    """Refuse to go on after the block has ended its transaction or undone a part of it.

    Args:
        connection: Of the block.

    Raises:
        DatabaseError: With SQLSTATE 25P01; names the part that is stored.
    """
    driver = _driver(connection)
    if driver is not None:
        _require_whole(driver)


def _require_whole(driver: psycopg.AsyncConnection[Any]) -> None:
    endings = endings_of(driver)
    if endings is None or endings.is_whole(driver.pgconn.transaction_status):
        return
    if endings.committed:
        raise _committed_inside()
    if endings.undone:
        raise DatabaseError(
            "the transaction, or a part of it, was rolled back inside its block by a statement or by the driver; "
            "nothing of it was committed: let an error out of the block, and undo a part of it by savepoint()",
            sqlstate=_ENDED,
        )
    raise _ended_inside()


def require_commitable(connection: AsyncConnection, begun: AsyncTransaction) -> None:
    """Refuse a COMMIT that would not commit all of the block.

    Args:
        connection: Of the block.
        begun: Its transaction.

    Raises:
        DatabaseUnavailable: The connection was lost.
        DatabaseError: With SQLSTATE 25P01, the block has ended the transaction; with 25P02, a statement failed.
    """
    driver = _driver(connection)
    if not begun.is_active and not connection.invalidated:
        endings = endings_of(driver)
        raise _committed_inside() if endings is not None and endings.committed else _ended_inside()
    status = pq.TransactionStatus.UNKNOWN if driver is None else driver.pgconn.transaction_status
    if driver is None or status == pq.TransactionStatus.UNKNOWN:
        raise DatabaseUnavailable("the connection was lost in the transaction; nothing was committed")
    _require_whole(driver)
    if status == pq.TransactionStatus.INERROR:
        raise DatabaseError(
            "a statement of the transaction failed, so all of it was rolled back, though its error was caught; nothing "
            "was committed: let the error out of the block, or put what may fail into savepoint()",
            sqlstate="25P02",
        )


class Watch:
    """Begin to watch a transaction, and report a block that commits a part of it, also where it ends by an error.

    Such a block raises `DatabaseError` with SQLSTATE 25P01 in place of its own error, which is the cause. A
    cancellation, and every other error that is not an `Exception`, comes out with a note.

    Args:
        connection: Of the block.
        doubted: Called if the block has committed.
    """

    __slots__ = ("_doubted", "_endings")

    def __init__(self, connection: AsyncConnection, doubted: Callable[[], None]) -> None:
        self._endings = endings_of(_driver(connection))
        self._doubted = doubted

    def __enter__(self) -> None:
        if self._endings is not None:
            self._endings.reset()

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None or self._endings is None or not self._endings.committed:
            return
        self._doubted()
        half_done = _committed_inside()
        if not isinstance(error, Exception):
            error.add_note(str(half_done))
        elif not (isinstance(error, DatabaseError) and error.sqlstate == _ENDED):
            raise half_done from error


def _committed_inside() -> DatabaseError:
    return DatabaseError(
        "the transaction was ended inside its block, by the block's own COMMIT; everything before it is stored, "
        "nothing after it was committed",
        sqlstate=_ENDED,
    )


def _ended_inside() -> DatabaseError:
    return DatabaseError(
        "the transaction was ended inside its block, by a commit or a rollback of the connection or the session; "
        "nothing after that was committed",
        sqlstate=_ENDED,
    )


def _driver(connection: AsyncConnection) -> psycopg.AsyncConnection[Any] | None:
    made = connection.sync_connection
    return None if made is None or made.closed or made.invalidated else made.connection.driver_connection
