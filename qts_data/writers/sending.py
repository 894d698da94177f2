"""Sending groups of a live feed until they are stored."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from qts_data.errors import (
    DatabaseError,
    DatabaseUnavailable,
    OutcomeUnknown,
    QtsDataError,
    StatementTimeout,
    TransactionConflict,
    WritesRefused,
)
from qts_data.repositories.market.ticks import bookkeeping
from qts_data.repositories.market.ticks.groups import Group, live_numbering, prepared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qts_data.repositories.market.reports import IngestReport, TickTable
    from qts_data.repositories.market.ticks.sources import Numbering
    from qts_data.repositories.unit_of_work import Database

__all__ = ["Sender", "Sent"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 2.0
_READ_ONLY: Final = "25006"  # read_only_sql_transaction: the server is a standby, or is set to read-only
# Classes of SQLSTATE: insufficient resources (a full disk, no memory), and errors of the system below the server.
_IN_NEED: Final = frozenset({"53", "58"})


class Sent(NamedTuple):
    """A group that is stored.

    Attributes:
        report: Its counts; None if an earlier attempt had succeeded after all.
        numbering: The numbering of its ticks.
        attempts: How often it was sent.
    """

    report: IngestReport | None
    numbering: Numbering
    attempts: int


class Sender:
    """Sends one group at a time, and retries while the reason may pass.

    It waits while no server answers, while the server is read-only or short of resources, and while the safety state
    of the engine refuses writes. Every other error is raised.

    Args:
        database: The target database.
        table: `tick_data` or `tick_history`.
        name: Name of the feed, for the log.
        synchronous: Whether COMMIT waits for the server's disk.
    """

    def __init__(self, database: Database, table: TickTable, name: str, *, synchronous: bool) -> None:
        self._database = database
        self._table: TickTable = table
        self._name = name
        self._synchronous = synchronous
        self.resent: int = 0

    async def stored(self, stream: str) -> int:
        """Return how many ticks of a stream are in the table."""

        async def ask() -> int:
            async with self._database.reader() as reader:
                return await bookkeeping.stood(reader.connection, self._table, stream)

        found, _ = await self._until_it_passes(ask, 0)
        return found

    async def send(self, group: Group, stream: str, before: int, at_most: int) -> Sent:
        """Send a group until it is stored.

        Args:
            group: Ticks.
            stream: Name of their stream.
            before: Number of the first tick.
            at_most: Number of the stream's ticks that may be stored already.

        Raises:
            QtsDataError: The group is refused for a reason that does not pass.
        """
        held: Group | None = group
        numbering = group.numbering

        async def attempt() -> IngestReport | None:
            nonlocal held, numbering
            # The numbers of a failed attempt were rolled back, so number the ticks again after those of the table.
            now = held or await prepared(group.ticks, live_numbering())
            held, numbering = None, now.numbering
            return await self._once(now, stream, before, at_most)

        report, attempts = await self._until_it_passes(attempt, len(group.ticks))
        return Sent(report, numbering, attempts)

    async def _until_it_passes(self, work: Callable[[], Awaitable[_T]], ticks: int) -> tuple[_T, int]:
        pause = _FIRST_PAUSE_SECONDS
        attempt = 0
        while True:
            attempt += 1
            try:
                return await work(), attempt
            except QtsDataError as error:
                if not _may_pass(error):
                    raise
                if attempt == 1 and ticks:
                    self.resent += 1
                _log.warning("%d ticks of %s wait: %s", ticks, self._name, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _once(self, group: Group, stream: str, before: int, at_most: int) -> IngestReport | None:
        async with self._database.transaction() as uow:
            if not self._synchronous:
                await uow.commit_without_waiting()
            repository = uow.ticks if self._table == "tick_data" else uow.tick_history
            try:
                return await repository.ingest_group(group, stream=stream, before=before, at_most=at_most)
            except DatabaseError as error:
                if error.sqlstate == _READ_ONLY:
                    # A server that has become a standby stays one. The next attempt connects anew, to find the primary.
                    await uow.connection.invalidate()
                raise


def _may_pass(error: QtsDataError) -> bool:
    """Return whether the same group can be stored later."""
    passing = (DatabaseUnavailable, OutcomeUnknown, TransactionConflict, StatementTimeout, WritesRefused)
    if isinstance(error, passing):
        return True
    state = error.sqlstate if isinstance(error, DatabaseError) else None
    return state is not None and (state == _READ_ONLY or state[:2] in _IN_NEED)
