"""Translation of the driver's errors into ours, by SQLSTATE and never by message text.

Source of the codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import psycopg
import sqlalchemy as sa

from qts_data.database.probe import probe
from qts_data.errors import (
    CheckViolated,
    ConfigurationError,
    ConstraintViolated,
    DatabaseError,
    DatabaseUnavailable,
    ForeignKeyViolated,
    NotNullViolated,
    OutcomeUnknown,
    QtsDataError,
    SchemaMismatch,
    StatementTimeout,
    TransactionConflict,
    UniqueViolated,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from sqlalchemy.engine import URL

__all__ = ["connecting", "describe_url", "translate", "translate_commit", "translated_errors"]

_CODES: Final[Mapping[str, type[DatabaseError]]] = {
    "40001": TransactionConflict,  # serialization_failure
    "40P01": TransactionConflict,  # deadlock_detected
    "55P03": TransactionConflict,  # lock_not_available: lock_timeout
    "57014": StatementTimeout,  # query_canceled: statement_timeout
    "57P01": DatabaseUnavailable,  # admin_shutdown
    "57P02": DatabaseUnavailable,  # crash_shutdown
    "57P03": DatabaseUnavailable,  # cannot_connect_now
    "57P05": DatabaseUnavailable,  # idle_session_timeout
    "25P03": DatabaseUnavailable,  # idle_in_transaction_session_timeout
    "53300": DatabaseUnavailable,  # too_many_connections
    "08007": OutcomeUnknown,  # transaction_resolution_unknown
    "40003": OutcomeUnknown,  # statement_completion_unknown
    "23502": NotNullViolated,  # not_null_violation
    "23503": ForeignKeyViolated,  # foreign_key_violation
    "23505": UniqueViolated,  # unique_violation
    "23514": CheckViolated,  # check_violation
    "42703": SchemaMismatch,  # undefined_column
    "42883": SchemaMismatch,  # undefined_function
    "42P01": SchemaMismatch,  # undefined_table
}
_CLASSES: Final[Mapping[str, type[DatabaseError]]] = {
    "08": DatabaseUnavailable,  # connection exception
    "23": ConstraintViolated,  # integrity constraint violation
}

_PASSING: Final = frozenset({"57P03", "53300"})
"""Temporary refusals: the server is starting or stopping, or has too many connections."""

_CUT: Final = (
    "closed the connection unexpectedly",
    "Connection reset",
    "SSL SYSCALL",
    "timeout expired",
    "could not send",
)
"""libpq's own words for a connection that ended before the server answered the login."""
_CONNECTION_LOST: Final = "8s2b"
"""SQLAlchemy's code of that error: https://docs.sqlalchemy.org/en/21/errors.html#error-8s2b"""


def describe_url(url: URL) -> str:
    """Return user, host, port and database of a URL, without the password."""
    host = url.query.get("host") or url.host or "localhost"
    return f"{url.username or '-'}@{host}:{url.port or 5432}/{url.database or url.username or ''}"


def translate(error: Exception, url: URL | None = None) -> QtsDataError | None:
    """Return our error for an error of SQLAlchemy or psycopg, or None if it is not a database error.

    Args:
        error: The error that was raised.
        url: Target of the connection. With it, a failed connection is distinguished from a refused one.
    """
    if isinstance(error, sa.exc.TimeoutError):
        return DatabaseUnavailable("every connection of the pool is in use, and none came back in time")
    if isinstance(error, sa.exc.PendingRollbackError):
        return _not_rolled_back(error)
    if isinstance(error, sa.exc.ResourceClosedError):
        return DatabaseError("the block of this transaction or reader has ended; begin another one")
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if not isinstance(original, psycopg.Error):
        return None
    if original.sqlstate is None:
        return _connection_failed(original, url)
    message = (original.diag.message_primary or str(original)).strip()
    kind = _CODES.get(original.sqlstate) or _CLASSES.get(original.sqlstate[:2]) or DatabaseError
    if kind is SchemaMismatch:
        message += "; the code and the schema do not fit: run qts-data status"
    return kind(message, sqlstate=original.sqlstate, constraint=original.diag.constraint_name)


def translate_commit(error: Exception) -> QtsDataError | None:
    """Translate an error of COMMIT, whose answer may have been lost after the server had committed.

    Only an answer of the server proves a rollback: a deferred constraint, a serialization failure. A lost connection
    proves nothing, and becomes `OutcomeUnknown`.
    """
    ours = translate(error)
    # If the transaction had ended before, no COMMIT was sent.
    if isinstance(ours, DatabaseUnavailable) and not isinstance(error, sa.exc.PendingRollbackError):
        return OutcomeUnknown(
            f"the connection was lost during COMMIT ({ours}): the transaction may or may not have been committed; "
            "look before you try again",
            sqlstate=ours.sqlstate,
        )
    return ours


def _not_rolled_back(error: sa.exc.PendingRollbackError) -> QtsDataError:
    """Return the error for a statement in a transaction that an error has already ended."""
    if error.code == _CONNECTION_LOST:
        return DatabaseUnavailable("the connection was lost, and its transaction with it; begin another one")
    return DatabaseError("an error has ended this transaction; nothing more can be done in it")


def _connection_failed(error: psycopg.Error, url: URL | None) -> QtsDataError:
    said = str(error).strip().splitlines() or [type(error).__name__]
    if not isinstance(error, psycopg.OperationalError):
        return DatabaseError(said[0])
    if url is None:
        # The lines after the first are libpq's guess at the reason.
        return DatabaseUnavailable(said[0])
    where = describe_url(url)
    if "certificate" in said[-1] or "does not support SSL" in said[-1]:
        words = said[-1].partition(" failed: ")[2] or said[-1]
        return ConfigurationError(f"no encrypted connection to {where}: {words}; check the TLS settings")
    return _login_failed(str(error), said[-1], url)


def _login_failed(whole: str, said: str, url: URL) -> QtsDataError:
    where = describe_url(url)
    # libpq gives no SQLSTATE for a failed login. The probe finds out without logging in whether a server is there.
    answer = probe(url)
    if answer is None:
        return DatabaseUnavailable(
            f"no PostgreSQL server answers for {where}; start it, or check host and port in QTS_DATABASE_URL"
        )
    if answer.sqlstate in _PASSING:
        return DatabaseUnavailable(
            f"the server for {where} takes no connection now: {answer.words}; try again", sqlstate=answer.sqlstate
        )
    # These are the server's own words, untranslated. They name the password, the role or the database.
    words = said.partition("FATAL:")[2].strip() or said
    # A cut connection is not a refusal. Nor is a server that was starting up and accepts us now.
    if _was_cut(whole) or not _server_refuses(url):
        return DatabaseUnavailable(f"the connection to {where} ended while it was made: {words}; try again")
    return ConfigurationError(
        f"the server refused the connection to {where}: {words}; check user, password and database name in "
        "QTS_DATABASE_URL"
    )


def _was_cut(text: str) -> bool:
    return any(words in text for words in _CUT)


def _server_refuses(url: URL) -> bool:
    _, arguments = url.get_dialect()().create_connect_args(url)
    try:
        psycopg.connect(**{**arguments, "connect_timeout": 2, "client_encoding": "utf8"}).close()
    except psycopg.OperationalError as error:
        return not _was_cut(str(error))
    return False


@contextlib.asynccontextmanager
async def connecting(url: URL) -> AsyncIterator[None]:
    """Raise our errors instead of the driver's while a connection is made.

    To distinguish a refusal from an absent server, `translate` asks the server, which may take seconds. It runs in a
    thread, so the event loop goes on meanwhile.
    """
    try:
        yield
    except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
        ours = await asyncio.to_thread(translate, error, url)
        if ours is None:
            raise
        raise ours from error


@contextlib.contextmanager
def translated_errors(url: URL | None = None) -> Iterator[None]:
    """Raise our errors instead of the driver's inside the block."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
        ours = translate(error, url)
        if ours is None:
            raise
        raise ours from error
