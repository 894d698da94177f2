"""`timescaledb+psycopg://` for SQLAlchemy, sync and async, without losing Alembic.

sqlalchemy-timescaledb brings the table argument `timescaledb_hypertable` and dialects for psycopg2 and asyncpg whose
name is `timescaledb`. That name disables everything keyed on `postgresql`: Alembic's own implementation,
`with_variant`, `@compiles`. These dialects keep `name = "postgresql"`, so all of these work. None of that library's
DDL listeners fires, so every statement comes from the migrations.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import generators, pq
from psycopg.errors import error_from_result
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
from sqlalchemy.sql.expression import RollbackToSavepointClause
from sqlalchemy.util import await_only

from qts_data.timescale.endings import endings_of

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from sqlalchemy import Connection
    from sqlalchemy.engine.interfaces import Dialect

__all__ = ["TimescaleDialect", "TimescaleDialectAsync", "register", "require_committed"]


def require_committed(tag: str | bytes | None) -> None:
    """Refuse the answer to a COMMIT that committed nothing.

    The server answers the COMMIT of an aborted transaction with ROLLBACK. The driver raises no error for it.

    Args:
        tag: Command tag of the answer.

    Raises:
        psycopg.errors.InFailedSqlTransaction: The tag is not COMMIT.
    """
    found = tag.decode() if isinstance(tag, bytes) else tag
    if found != "COMMIT":
        raise psycopg.errors.InFailedSqlTransaction(
            f"the server answered COMMIT with {found or 'nothing'}: an earlier statement had failed, and nothing was "
            "committed"
        )


def _has_nothing_to_commit(driver: Any) -> bool:
    return bool(driver.pgconn.transaction_status == pq.TransactionStatus.IDLE)


def _commit(driver: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> PQGen[None]:
    """Commit as the driver does, and read the command tag, which the driver discards.

    A cursor would give the tag, too, but costs a tenth of the client's time of a short transaction.
    """
    if driver.closed:
        raise psycopg.OperationalError("the connection is closed")
    driver.pgconn.send_query(b"COMMIT")
    answers = yield from generators.execute(driver.pgconn)
    if len(answers) != 1:
        raise psycopg.OperationalError(f"{len(answers)} answers to one COMMIT")
    result = answers[0]
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise error_from_result(result, encoding=driver.info.encoding)
    require_committed(result.command_status)


async def _commit_async(driver: psycopg.AsyncConnection[Any]) -> None:
    async with driver.lock:
        await driver.wait(_commit(driver))


class TimescaleDialect(PGDialect_psycopg):
    """PostgreSQL over psycopg 3, reached by a `timescaledb+psycopg://` URL."""

    supports_statement_cache = True

    def do_commit(self, dbapi_connection: Any) -> None:
        """Commit, and read the answer."""
        driver = dbapi_connection.driver_connection
        if not _has_nothing_to_commit(driver):
            with driver.lock:
                driver.wait(_commit(driver))

    @classmethod
    def get_async_dialect_cls(cls, url: object) -> type[Dialect]:  # noqa: ARG003 - SQLAlchemy's signature
        """Return the async dialect, so that the same URL works in `create_async_engine`."""
        return TimescaleDialectAsync


class TimescaleDialectAsync(PGDialectAsync_psycopg):
    """The same dialect for async engines."""

    supports_statement_cache = True

    def do_commit(self, dbapi_connection: Any) -> None:
        """Commit, and read the answer."""
        driver = dbapi_connection.driver_connection
        if not _has_nothing_to_commit(driver):
            await_only(_commit_async(driver))

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        """Roll back to a savepoint of SQLAlchemy, which the connection does not count as an ending."""
        endings = endings_of(connection.connection.driver_connection)
        with endings.ours() if endings is not None else contextlib.nullcontext():
            connection.execute(RollbackToSavepointClause(name))  # type: ignore[no-untyped-call]

    @classmethod
    def get_async_dialect_cls(cls, url: object) -> type[Dialect]:  # noqa: ARG003 - SQLAlchemy's signature
        """Return this class, which is already async."""
        return cls


def register() -> None:
    """Register the URLs for a source tree, in which the package's entry points are not installed."""
    registry.register("timescaledb.psycopg", __name__, "TimescaleDialect")
    registry.register("timescaledb.psycopg_async", __name__, "TimescaleDialectAsync")
