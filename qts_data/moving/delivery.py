"""The worker that delivers the outbox into the sheets: at least once, and once only in the sheets.

One worker runs at a time, by an advisory lock; another one waits. A message that the sheets refuse is retried, and then
laid aside (dead); it holds up its own position only. While the sheets do not answer, nothing is laid aside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qts_data.adapters.sheets.writer import Line
from qts_data.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    InvalidRecord,
    QtsDataError,
    SourceRefused,
    SourceUnavailable,
)
from qts_data.repositories.book.ledger_rows import position_after
from qts_data.repositories.moving.moves import only_worker
from qts_data.repositories.moving.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from qts_data.adapters.sheets.writer import BookWriter
    from qts_data.contracts import BookedEntry, Position
    from qts_data.repositories import Database, OutboxTask, Reader, UnitOfWork

__all__ = ["DeliveryConfig", "OutboxWorker"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryConfig:
    """Settings of the delivery.

    Attributes:
        batch: Largest number of messages in one request.
        idle_seconds: Pause when there is nothing to deliver, or while another worker runs.
        first_pause_seconds: Pause after a failure. It doubles each time; half of it is random.
        longest_pause_seconds: Longest pause.
        most_attempts: Number of refusals after which a message is dead.
        settle_seconds: How long the sheet is checked after a request with an unknown outcome. The server may carry it
            out late; a change made later than this stays.
    """

    batch: int = 500
    idle_seconds: float = 0.5
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 60.0
    most_attempts: int = 5
    settle_seconds: float = 60.0


class OutboxWorker:
    """Delivers the outbox to a book in a spreadsheet.

    Args:
        database: The database that writes the outbox.
        writer: The book.
        destination: Name of the book in the outbox.
        config: Settings of the delivery.
        sleep: Waits for some seconds; a test can pass a function that returns at once.

    Attributes:
        delivered: Messages that this worker has delivered.
        failures: Attempts that failed.
    """

    def __init__(
        self,
        database: Database,
        writer: BookWriter,
        *,
        destination: str = "sheets",
        config: DeliveryConfig | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._writer = writer
        self._destination = destination
        self._config = config or DeliveryConfig()
        self._sleep = sleep
        self._suspect: dict[tuple[str, str], float] = {}
        self.delivered: int = 0
        self.failures: int = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set. Continue after every failure of either side."""
        pause = self._config.first_pause_seconds
        while not stop.is_set():
            try:
                async with self._alone() as alone:
                    while not stop.is_set() and await alone():
                        if not await self.deliver_once():
                            await self._wait(stop, self._config.idle_seconds)
                        pause = self._config.first_pause_seconds
                if not stop.is_set():
                    await self._wait(stop, self._config.idle_seconds)
            except QtsDataError as error:
                _log.warning("nothing was delivered to %s: %s; again in %.1f s", self._destination, error, pause)
                # Not a secret: two workers that failed together should not retry together.
                await self._wait(stop, random.uniform(0.5, 1.0) * pause)  # noqa: S311
                pause = min(2 * pause, self._config.longest_pause_seconds)

    async def drain(self) -> int:
        """Deliver everything that can be delivered now. Return the number of messages.

        Raises:
            ConfigurationError: Another worker is delivering.
            SourceUnavailable: The sheets do not answer.
        """
        before = self.delivered
        async with self._alone() as alone:
            while await self._require(alone) and await self.deliver_once():
                pass
            await self.settle()
        return self.delivered - before

    async def deliver_once(self) -> int:
        """Deliver one batch. Return the number of messages, 0 if there was nothing to deliver.

        Raises:
            SourceUnavailable: The sheets do not answer; nothing was lost.
            ConfigurationError: The sheets cannot be used in their present form.
            InvalidRecord: A row of the sheets cannot be read.
        """
        async with self._database.reader(snapshot=True) as reader:
            outbox = Outbox(reader.connection, self._destination)
            tasks = await outbox.due(limit=self._config.batch)
            parcel = await _parcel(reader, tasks, await outbox.last_fills())
        if self._suspect and time.monotonic() - min(self._suspect.values()) >= self._config.settle_seconds:
            await self.settle()
        if not tasks:
            return 0
        try:
            await self._writer.prepare()
            done = await self._deliver(tasks, parcel)
        except (SourceUnavailable, ConfigurationError, InvalidRecord, SourceRefused) as error:
            self.failures += 1
            if isinstance(error, SourceUnavailable) and error.maybe_written:
                self._suspect_all(tasks)
            await self._note(str(error))
            raise
        return done

    async def settle(self) -> None:
        """Read positions back after requests with an unknown outcome, and correct those that changed.

        A late request may have overwritten them with earlier values. A position is checked until `settle_seconds` have
        passed since the last such request.
        """
        if not self._suspect:
            return
        began = time.monotonic()
        self._writer.forget()
        await self._writer.prepare()
        async with self._database.reader(snapshot=True) as reader:
            # Messages that wait or are held up are written when their turn comes.
            waiting = await Outbox(reader.connection, self._destination).last_fills()
            wrong = []
            for account, symbol in sorted(self._suspect.keys() - waiting.keys()):
                right = await reader.positions.find_position(symbol, account)
                if right is not None and not _same(right, self._writer.position(account, symbol)):
                    wrong.append(right)
        if wrong and await self._writer.deliver([], wrong):
            self._suspect |= dict.fromkeys(((item.account, item.symbol) for item in wrong), time.monotonic())
        over = began - self._config.settle_seconds
        self._suspect = {key: since for key, since in self._suspect.items() if since > over}

    def _suspect_all(self, tasks: Sequence[OutboxTask]) -> None:
        self._suspect |= dict.fromkeys(((task.account, task.symbol) for task in tasks), time.monotonic())

    async def _send(self, tasks: Sequence[OutboxTask], parcel: _Parcel) -> None:
        if await self._writer.deliver(*parcel.of(tasks)):
            self._suspect_all(tasks)

    async def _deliver(self, tasks: Sequence[OutboxTask], parcel: _Parcel) -> int:
        try:
            await self._send(tasks, parcel)
        except SourceRefused as error:
            if len(tasks) == 1:
                await self._refused(tasks[0], str(error))
                return 0
            return await self._one_by_one(tasks, parcel)
        await self._done(tasks)
        return len(tasks)

    async def _one_by_one(self, tasks: Sequence[OutboxTask], parcel: _Parcel) -> int:
        """Deliver one message at a time to find the refused one. Later messages of its position wait."""
        held_up: set[tuple[str, str]] = set()
        done = 0
        for task in tasks:
            if (task.account, task.symbol) in held_up:
                continue
            try:
                await self._writer.prepare()
                await self._send([task], parcel)
            except SourceRefused as error:
                held_up.add((task.account, task.symbol))
                await self._refused(task, str(error))
            else:
                await self._done([task])
                done += 1
        return done

    async def _done(self, tasks: Sequence[OutboxTask]) -> None:
        async def work(uow: UnitOfWork) -> None:
            await uow.outbox(self._destination).delivered(tasks)

        await self._database.run(work)
        self.delivered += len(tasks)

    async def _refused(self, task: OutboxTask, error: str) -> None:
        self.failures += 1

        async def work(uow: UnitOfWork) -> None:
            await uow.outbox(self._destination).refused(task, error, most_attempts=self._config.most_attempts)

        await self._database.run(work)

    async def _note(self, error: str) -> None:
        async def work(uow: UnitOfWork) -> None:
            await uow.outbox(self._destination).failed(error)

        with contextlib.suppress(DatabaseUnavailable):
            await self._database.run(work)

    async def _require(self, alone: Callable[[], Awaitable[bool]]) -> bool:
        if not await alone():
            raise ConfigurationError(
                f"another process delivers to {self._destination} already; it will deliver this, too"
            )
        return True

    def _alone(self) -> AbstractAsyncContextManager[Callable[[], Awaitable[bool]]]:
        # The sheets may have changed while another worker had the lock.
        return only_worker(self._database, self._destination, begin=self._writer.forget)

    async def _wait(self, stop: asyncio.Event, seconds: float) -> None:
        if self._sleep is not asyncio.sleep:
            await self._sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()


@dataclass(frozen=True, slots=True)
class _Parcel:
    """The lines and positions of messages."""

    entries: dict[int, BookedEntry]
    reversed_ids: dict[int, str]
    positions: dict[tuple[str, str], Position]
    last_fills: dict[tuple[str, str], int]

    def of(self, tasks: Sequence[OutboxTask]) -> tuple[list[Line], list[Position]]:
        """Return the lines and positions of some messages.

        With the last waiting fill of a position goes the position as it is stored. With earlier fills goes the position
        after the latest of these fills.
        """
        lines: list[Line] = []
        latest: dict[tuple[str, str], BookedEntry] = {}
        reached: dict[tuple[str, str], int] = {}
        for task in tasks:
            key = task.account, task.symbol
            reached[key] = task.id
            if task.ledger_id is not None:
                booked = self.entries[task.ledger_id]
                reverses = None if booked.reverses_id is None else self.reversed_ids[booked.reverses_id]
                lines.append(Line(booked.entry, reverses))
                if key not in latest or latest[key].id < booked.id:
                    latest[key] = booked
        positions = []
        for key, last in reached.items():
            if last >= self.last_fills.get(key, 0):
                positions.append(self.positions[key])
            elif key in latest:
                positions.append(position_after(latest[key]))
        return lines, positions


async def _parcel(reader: Reader, tasks: Sequence[OutboxTask], last_fills: dict[tuple[str, str], int]) -> _Parcel:
    ids = [task.ledger_id for task in tasks if task.ledger_id is not None]
    entries = {booked.id: booked for booked in await reader.ledger.list_by_id(ids)} if ids else {}
    reversed_ids = [booked.reverses_id for booked in entries.values() if booked.reverses_id is not None]
    reverses = {
        booked.id: booked.entry.stored_execution_id
        for booked in (await reader.ledger.list_by_id(reversed_ids) if reversed_ids else [])
    }
    keys = {(task.account, task.symbol) for task in tasks}
    held = await reader.positions.list_by_key(keys) if keys else []
    return _Parcel(entries, reverses, {(item.account, item.symbol): item for item in held}, last_fills)


def _same(here: Position, there: Position | None) -> bool:
    fields = ("qty", "avg_price", "market", "currency")
    return there is not None and all(getattr(here, field) == getattr(there, field) for field in fields)
