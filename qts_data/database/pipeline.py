"""Pipelines: several prepared statements in one round trip, on a connection that SQLAlchemy hands out.

The hot paths of an engine send a handful of known statements for each fill. Through SQLAlchemy's async layer each
statement costs a round trip and most of a millisecond of Python. Here they travel together in libpq's pipeline mode:
https://www.postgresql.org/docs/current/libpq-pipeline-mode.html
"""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, Final

import psycopg
import sqlalchemy as sa
from psycopg import pq
from psycopg.errors import error_from_result

from qts_data.timescale.dialect import require_committed
from qts_data.timescale.endings import endings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from psycopg.pq.abc import PGresult
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["BEGIN", "COMMIT", "Pipeline", "Rows", "Statement", "array", "driver_connection"]

Rows = list[list[str | None]]
"""Rows of a statement's answer. Each value is the server's text, or None for NULL."""

_prepared: Final[weakref.WeakKeyDictionary[psycopg.AsyncConnection[Any], set[bytes]]] = weakref.WeakKeyDictionary()
_GOOD: Final = {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}


class Statement:
    """SQL with parameters $1, $2, .... A connection prepares it at its first use.

    Args:
        name: Unique among the statements of the program.
        sql: The text. Its casts give the parameters' types.
    """

    __slots__ = ("name", "sql")

    def __init__(self, name: str, sql: str) -> None:
        self.name: bytes = f"qts_{name}".encode()
        self.sql: bytes = sql.encode()


BEGIN: Final = Statement("begin", "BEGIN")
COMMIT: Final = Statement("commit", "COMMIT")


async def driver_connection(connection: AsyncConnection) -> psycopg.AsyncConnection[Any]:
    """Return the psycopg connection under SQLAlchemy's."""
    driver = (await connection.get_raw_connection()).driver_connection
    if driver is None:
        raise sa.exc.ResourceClosedError("the connection is closed")
    made: psycopg.AsyncConnection[Any] = driver
    return made


def array(values: Iterable[str | None]) -> str:
    """Write an array literal of PostgreSQL. None is NULL."""
    return "{" + ",".join([_NULL if value is None else _quoted(value) for value in values]) + "}"


_NULL: Final = "NULL"


def _quoted(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


class Pipeline:
    """Statements that are sent together.

    Args:
        driver: The connection. If it is in no transaction, one is begun.
    """

    __slots__ = ("_driver", "_exchange", "_expected", "_steps")

    def __init__(self, driver: psycopg.AsyncConnection[Any]) -> None:
        self._driver = driver
        self._steps: list[tuple[Statement, Sequence[str | None]]] = []
        self._expected: list[bytes | None] = []
        self._exchange: _Exchange | None = None

    def add(self, statement: Statement, *parameters: str | None) -> None:
        """Put a statement at the end, with its parameters as text."""
        self._steps.append((statement, parameters))

    async def run(self) -> list[Rows]:
        """Send all statements, wait for all answers, and return the rows of each.

        After an error the server skips the remaining statements; the caller must roll the transaction back. A `COMMIT`
        that the server answers with ROLLBACK is an error.

        Raises:
            psycopg.Error: The first statement that failed. If the connection itself failed or the task was cancelled,
                the connection is closed, so that no other call reads the answers meant for this one.
        """
        async with self._driver.lock:
            landed = asyncio.Event()
            self.start(landed.set)
            try:
                await landed.wait()
            except BaseException:
                self.abort()
                raise
            return self.rows()

    def start(self, landed: Callable[[], object]) -> None:
        """Send all statements, for a caller that waits by other means.

        Until the answers have landed, only this pipeline may use the connection.

        Args:
            landed: Called once, when `rows` can be called.
        """
        driver = self._driver
        pgconn = driver.pgconn
        if pgconn.transaction_status == pq.TransactionStatus.IDLE:
            self._steps.insert(0, (BEGIN, ()))
            if (endings := endings_of(driver)) is not None:
                endings.note_beginning()
        known = _prepared.setdefault(driver, set())
        expected = self._expected
        try:
            pgconn.enter_pipeline_mode()
            for statement, parameters in self._steps:
                if statement.name not in known and statement.name not in expected:
                    pgconn.send_prepare(statement.name, statement.sql)
                    expected.append(statement.name)
                values = [None if value is None else value.encode() for value in parameters]
                pgconn.send_query_prepared(statement.name, values)
                expected.append(None)
            pgconn.pipeline_sync()
            self._exchange = _Exchange(pgconn, len(expected) + 1, landed)
        except BaseException:
            pgconn.finish()
            raise

    def abort(self) -> None:
        """Close the connection, so that no other call reads the answers."""
        if self._exchange is not None:
            self._exchange.end()
        self._driver.pgconn.finish()

    def rows(self) -> list[Rows]:
        """Return the rows of each statement. Call it once the answers have landed.

        Raises:
            psycopg.Error: As `run` does.
        """
        exchange = self._exchange
        if exchange is None:
            raise RuntimeError("nothing was sent")
        pgconn = self._driver.pgconn
        if exchange.failure is not None:
            pgconn.finish()
            raise exchange.failure
        try:
            pgconn.exit_pipeline_mode()
        except BaseException:
            pgconn.finish()
            raise
        return self._sort_out(exchange.results)

    def _sort_out(self, results: list[list[PGresult]]) -> list[Rows]:
        known = _prepared.setdefault(self._driver, set())
        answers: list[Rows] = []
        failure: PGresult | None = None
        steps = iter(self._steps)
        for (result, *_), prepared in zip(results, self._expected, strict=False):
            statement = None if prepared is not None else next(steps)[0]
            if result.status not in _GOOD:
                if failure is None:
                    failure = result
            elif prepared is not None:
                known.add(prepared)
            else:
                if statement is COMMIT and failure is None:
                    require_committed(result.command_status)
                answers.append(_rows(result))
        if failure is not None:
            raise error_from_result(failure, encoding=self._driver.info.encoding)
        return answers[1:] if self._steps[0][0] is BEGIN else answers


class _Exchange:
    """Sends queued data and receives answers by callbacks of the event loop alone.

    Psycopg's own way, generators that a task waits for, takes a tenth of a millisecond more.

    Attributes:
        results: The answers. The last one is the answer to the synchronization.
        failure: Why answers are missing; None if all arrived.
    """

    def __init__(self, pgconn: Any, answers: int, landed: Callable[[], object]) -> None:
        self._pgconn = pgconn
        self._answers = answers
        self._landed = landed
        self._loop = asyncio.get_running_loop()
        # The descriptor, while it is open. libpq does not return it any more once the connection is broken.
        self._file: int | None = pgconn.socket
        self._writing = False
        self._answer: list[PGresult] = []
        self.results: list[list[PGresult]] = []
        self.failure: BaseException | None = None
        self._writing = pgconn.flush() != 0
        self._loop.add_reader(self._file, self._readable)
        if self._writing:
            self._loop.add_writer(self._file, self._writable)

    def end(self) -> None:
        """Stop reading and writing."""
        file, self._file = self._file, None
        if file is not None:
            self._loop.remove_reader(file)
            if self._writing:
                self._loop.remove_writer(file)

    def _writable(self) -> None:
        try:
            if self._pgconn.flush() == 0 and self._file is not None:
                self._writing = False
                self._loop.remove_writer(self._file)
        except Exception as error:  # noqa: BLE001 - any error is raised by the waiting call
            self._finish(error)

    def _readable(self) -> None:
        try:
            self._pgconn.consume_input()
            while len(self.results) < self._answers and not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is not None and result.status != pq.ExecStatus.PIPELINE_SYNC:
                    self._answer.append(result)
                elif result is not None:
                    self.results.append([result])
                elif self._answer:
                    self.results.append(self._answer)
                    self._answer = []
                else:
                    break
        except Exception as error:  # noqa: BLE001 - any error is raised by the waiting call
            self._finish(error)
            return
        if len(self.results) == self._answers:
            self._finish(None)

    def _finish(self, failure: BaseException | None) -> None:
        self.failure = failure
        self.end()
        self._landed()


def _rows(result: PGresult) -> Rows:
    columns = range(result.nfields)
    get = result.get_value
    return [
        [None if (value := get(row, column)) is None else value.decode() for column in columns]
        for row in range(result.ntuples)
    ]
