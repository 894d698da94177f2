"""Several prepared statements in one round trip, on a connection that SQLAlchemy hands out.

The hot paths of an engine send a handful of known statements for each fill. Through SQLAlchemy's async layer each of
them is a round trip and most of a millisecond of Python; here they travel together in libpq's pipeline mode, by
psycopg's own generators: https://www.postgresql.org/docs/current/libpq-pipeline-mode.html
"""

from __future__ import annotations

import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg
import sqlalchemy as sa
from psycopg import generators, pq
from psycopg.errors import error_from_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["BEGIN", "COMMIT", "Pipeline", "Rows", "Statement", "array", "driver_connection"]

Rows = list[list[str | None]]
"""The answer of a statement: its rows, each value as the server's text."""

_prepared: Final[weakref.WeakKeyDictionary[psycopg.AsyncConnection[Any], set[bytes]]] = weakref.WeakKeyDictionary()
_GOOD: Final = {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}


class Statement:
    """SQL with parameters $1, $2, ..., that a connection prepares at its first use.

    Args:
        name: Unique among the statements of the program.
        sql: The text; casts say what the parameters are.
    """

    __slots__ = ("name", "sql")

    def __init__(self, name: str, sql: str) -> None:
        self.name = f"qts_{name}".encode()
        self.sql = sql.encode()


BEGIN: Final = Statement("begin", "BEGIN")
COMMIT: Final = Statement("commit", "COMMIT")


async def driver_connection(connection: AsyncConnection) -> psycopg.AsyncConnection[Any]:
    """The psycopg connection under SQLAlchemy's."""
    driver = (await connection.get_raw_connection()).driver_connection
    if driver is None:
        raise sa.exc.InvalidRequestError("the connection is closed")
    made: psycopg.AsyncConnection[Any] = driver
    return made


def array(values: Iterable[str | None]) -> str:
    """An array literal of PostgreSQL; None is NULL."""
    return "{" + ",".join([_NULL if value is None else _quoted(value) for value in values]) + "}"


_NULL: Final = "NULL"


def _quoted(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


class Pipeline:
    """Statements that travel together.

    Args:
        driver: The connection; where it is in no transaction, `run` begins one.
    """

    __slots__ = ("_driver", "_steps")

    def __init__(self, driver: psycopg.AsyncConnection[Any]) -> None:
        self._driver = driver
        self._steps: list[tuple[Statement, Sequence[str | None]]] = []

    def add(self, statement: Statement, *parameters: str | None) -> None:
        """Put a statement at the end, with its parameters as text."""
        self._steps.append((statement, parameters))

    async def run(self) -> list[Rows]:
        """Send all, wait for all; returns the rows of each.

        After an error the server skips the rest; the transaction is to be rolled back.

        Raises:
            psycopg.Error: The first statement that failed. Where the connection itself failed or the task was
                cancelled, the connection is closed: nobody may read answers that were meant for this call.
        """
        driver = self._driver
        async with driver.lock:
            pgconn = driver.pgconn
            steps = self._steps
            if pgconn.transaction_status == pq.TransactionStatus.IDLE:
                steps.insert(0, (BEGIN, ()))
            known = _prepared.setdefault(driver, set())
            commands: deque[Callable[[], None]] = deque()
            expected: list[bytes | None] = []
            for statement, parameters in steps:
                if statement.name not in known and statement.name not in expected:
                    commands.append(partial(pgconn.send_prepare, statement.name, statement.sql))
                    expected.append(statement.name)
                values = [None if value is None else value.encode() for value in parameters]
                commands.append(partial(pgconn.send_query_prepared, statement.name, values))
                expected.append(None)
            commands.append(pgconn.pipeline_sync)
            try:
                pgconn.enter_pipeline_mode()
                results = await driver.wait(_communicate(pgconn, commands, len(expected) + 1))
                pgconn.exit_pipeline_mode()
            except BaseException:
                pgconn.finish()
                raise
        return self._sort_out(results, expected, known)

    def _sort_out(self, results: list[list[PGresult]], expected: list[bytes | None], known: set[bytes]) -> list[Rows]:
        answers: list[Rows] = []
        failure: PGresult | None = None
        for (result, *_), prepared in zip(results, expected, strict=False):
            if result.status not in _GOOD:
                if failure is None:
                    failure = result
            elif prepared is not None:
                known.add(prepared)
            else:
                answers.append(_rows(result))
        if failure is not None:
            raise error_from_result(failure, encoding=self._driver.info.encoding)
        return answers[1:] if self._steps[0][0] is BEGIN else answers


def _communicate(pgconn: Any, commands: deque[Callable[[], None]], answers: int) -> PQGen[list[list[PGresult]]]:
    results: list[list[PGresult]] = yield from generators.pipeline_communicate(pgconn, commands)
    while len(results) < answers:
        results.append((yield from generators.fetch_many(pgconn)))
    return results


def _rows(result: PGresult) -> Rows:
    columns = range(result.nfields)
    get = result.get_value
    return [
        [None if (value := get(row, column)) is None else value.decode() for column in columns]
        for row in range(result.ntuples)
    ]
