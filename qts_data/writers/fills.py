"""Fills of many tasks, booked together: group commit.

While one group is on its way to the server, new fills wait; all of them are the next group. So a lone fill is sent
at once, in one round trip if the writer remembers the position. A hundred tasks that book at the same time share one
COMMIT. Fills are booked in the order of the calls, and one process never waits for its own locks.

A task of the writer books the groups. A lone fill bypasses that task: the caller sends it, and the event loop takes
the answer, so no task has to be woken in between. If anything fails there, the task takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final, Self, cast

import psycopg
from sqlalchemy.util.concurrency import greenlet_spawn

from qts_data.database.errors import connecting, translate, translate_commit
from qts_data.database.pipeline import COMMIT, Pipeline
from qts_data.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    InvalidRecord,
    OutcomeUnknown,
    QtsDataError,
    TransactionConflict,
    UniqueViolated,
    WriterClosed,
)
from qts_data.repositories.book.booking import Booking
from qts_data.repositories.book.reports import settle_reports
from qts_data.rules.average_cost import Holding
from qts_data.writers.fill_answers import answer_all, has_unread_input, is_refusal, logged
from qts_data.writers.next_fill import NextFill, Remembered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from sqlalchemy.pool import PoolProxiedConnection

    from qts_data.contracts import BookedFill, LedgerEntry
    from qts_data.repositories import Database
    from qts_data.repositories.book.booking import Driver

__all__ = ["FillWriter"]

_ATTEMPTS: Final = 8
_REMEMBERED: Final = 10_000
"""Positions that a writer remembers: the ones that it booked last."""
_PAUSE_SECONDS: Final = 0.005


class FillWriter:
    """Books fills, each in a transaction that it may share with others that were waiting at the same time.

    Args:
        database: Gives the connections and the listeners. One connection is held while the writer is open.
        max_group: Most fills in one transaction.
        max_waiting: Most fills that may wait. Beyond it, `record_fill` waits for room.
    """

    def __init__(self, database: Database, *, max_group: int = 500, max_waiting: int = 10_000) -> None:
        self._engine = database.engine
        self._identity = database.identity
        self._max_group = max_group
        self._require_writable = database.require_writable
        self._listeners = database.booked_listeners
        self._in_doubt = database.changed_listeners
        self._inside = 0  # calls of `record_fill` that have not ended
        self._waiting: deque[tuple[LedgerEntry, asyncio.Future[BookedFill]]] = deque()
        self._room = asyncio.Semaphore(max_waiting)
        self._wake = asyncio.Event()
        self._closing = False
        self._dead = False  # the task accepts no more fills
        self._lease: PoolProxiedConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._remembered: OrderedDict[tuple[str, str], Remembered] = OrderedDict()
        self._flying = False  # a lone fill is under way, bypassing the task
        self._working = False  # the task uses the connection
        self._crowded = False  # the last group had several fills, so the next ones may come together, too
        self._broken = False  # the connection must be given back

    async def __aenter__(self) -> Self:
        if self._task is not None or self._closing:
            state = "is closed" if self._closing else "is open already"
            raise ConfigurationError(f"the fill writer {state}; a writer is entered once, make another one")
        self._task = asyncio.create_task(self._work(), name="fill writer")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Book the waiting fills, then give the connection back. This goes on even if the closing task is cancelled.

        A second call waits for the same end. A writer that was never entered accepts no fills afterwards.

        Raises:
            WriterClosed: The task of the writer was cancelled. Callers that waited for their fills got the same error.
        """
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])
            if self._task.cancelled():
                raise self._ended()
            if (error := self._task.exception()) is not None:
                raise error

    @staticmethod
    def _ended() -> WriterClosed:
        return WriterClosed("the fill writer was cancelled; fills that waited were not booked")

    async def record_fill(self, entry: LedgerEntry) -> BookedFill:
        """Book a fill and wait until it is committed. The rules are those of `LedgerRepository.record_fill`.

        A task that is cancelled while it waits does not know whether its fill was booked, and may send it again.

        Raises:
            LedgerConflict: A different fill, or a fill of another trading day, is booked under this execution id. Other
                fills of the group are booked.
            InvalidRecord: The fill does not match its position; other fills of the group are booked.
            WritesRefused: Writes are refused now; nothing of the group was booked.
            OutcomeUnknown: The connection was lost during COMMIT; send the fill again.
            DatabaseUnavailable: No server answers; nothing of the group was booked.
            WriterClosed: The writer was not entered, or is closed, or its task was cancelled before the fill was sent.
        """
        if self._closing or self._task is None:
            raise WriterClosed(f"the fill writer {'is closed' if self._closing else 'was not entered'}")
        entry = self._identity.scoped(entry)
        self._inside += 1
        try:
            async with self._room:
                if self._dead:  # the task was cancelled while this call waited for room
                    raise self._ended()
                booked: asyncio.Future[BookedFill] = asyncio.get_running_loop().create_future()
                if not self._send_alone(entry, booked):
                    self._waiting.append((entry, booked))
                    self._wake.set()
                return await booked
        finally:
            self._inside -= 1
            if self._closing:
                self._wake.set()

    def _send_alone(self, entry: LedgerEntry, booked: asyncio.Future[BookedFill]) -> bool:
        """Send a fill at once if nothing else is under way. False if it has to join a group."""
        if self._waiting or self._flying or self._working or self._crowded or self._broken or self._lease is None:
            return False
        remembered = self._remembered.get((entry.account, entry.symbol))
        driver: psycopg.AsyncConnection[Any] | None = self._lease.driver_connection
        if remembered is None or driver is None or driver.lock.locked() or has_unread_input(self._lease):
            return False
        held_at = time.monotonic()
        self._require_writable()
        try:
            fill = NextFill(driver, remembered, entry, self._identity.other_keys(entry))
        except InvalidRecord:
            return False
        self._flying = True
        try:
            fill.pipeline.start(lambda: self._landed(fill, entry, booked, held_at))
        except Exception as error:  # noqa: BLE001 - any error is raised by the waiting call
            self._failed_alone(error, entry, booked)
        return True

    def _landed(self, fill: NextFill, entry: LedgerEntry, booked: asyncio.Future[BookedFill], held_at: float) -> None:
        try:
            result = fill.result(fill.pipeline.rows())
        except Exception as error:  # noqa: BLE001 - any error is raised by the waiting call
            self._failed_alone(error, entry, booked)
            return
        self._flying = False
        if result is None:
            del self._remembered[entry.account, entry.symbol]
            self._waiting.appendleft((entry, booked))
        else:
            self._remember(result)
            self._notify({0: result}, held_at)
            if not booked.done():
                booked.set_result(result)
        self._wake.set()

    def _failed_alone(self, error: Exception, entry: LedgerEntry, booked: asyncio.Future[BookedFill]) -> None:
        self._flying = False
        self._broken = True
        ours = translate_commit(error) or error
        if isinstance(ours, InvalidRecord | UniqueViolated | TransactionConflict):
            # Nothing is booked. The longer way finds the reason, or that this fill was booked before.
            self._remembered.pop((entry.account, entry.symbol), None)
            self._waiting.appendleft((entry, booked))
        else:
            self._doubt(ours, [entry])
            if not booked.done():
                ours.__cause__ = error if ours is not error else None
                booked.set_exception(ours)
        self._wake.set()

    async def _work(self) -> None:
        try:
            while not self._closing or self._waiting or self._flying or self._inside:
                if self._flying or not (self._waiting or self._broken):
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                self._working = True
                if self._broken:
                    await self._release()
                    self._broken = False
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_group))]
                group = [(entry, booked) for entry, booked in taken if not booked.done()]
                self._crowded = len(group) > 1
                if group:
                    await self._book([entry for entry, _ in group], [booked for _, booked in group])
                self._working = False
        finally:
            self._closing = self._dead = True
            while self._flying:
                self._wake.clear()
                await self._wake.wait()
            # Only a cancelled writer leaves fills here.
            for _, booked in self._waiting:
                if not booked.done():
                    booked.set_exception(self._ended())
            self._waiting.clear()
            await self._release()

    async def _book(self, entries: list[LedgerEntry], answers: list[asyncio.Future[BookedFill]]) -> None:
        held_at = time.monotonic()
        try:
            self._require_writable()
            booking, results = await self._attempt(entries)
            self._notify(results, held_at)
        except Exception as error:  # noqa: BLE001 - any error is raised by the waiting calls, not in the writer
            if len(entries) > 1 and is_refusal(error):
                # The server refused one of them and does not say which, so book each alone.
                for entry, answer in zip(entries, answers, strict=True):
                    await self._book([entry], [answer])
            else:
                self._doubt(error, entries)
                answer_all(answers, dict.fromkeys(range(len(answers)), error), {})
            return
        except BaseException:
            # The connection is closed by now, perhaps in the middle of a COMMIT.
            unknown = OutcomeUnknown("the fill writer was cancelled while the fill was booked; send it again")
            self._doubt(unknown, entries)
            answer_all(answers, dict.fromkeys(range(len(answers)), unknown), {})
            raise
        answer_all(answers, booking.errors, results)

    def _doubt(self, error: Exception, entries: Iterable[LedgerEntry]) -> None:
        if isinstance(error, OutcomeUnknown):
            for account, symbol in {(entry.account, entry.symbol) for entry in entries}:
                for listener in self._in_doubt:
                    with logged(listener):
                        listener(account, symbol)

    def _notify(self, results: dict[int, BookedFill], held_at: float) -> None:
        for listener in self._listeners:
            for booked in results.values():
                with logged(listener):
                    listener(booked, held_at)

    async def _attempt(self, entries: list[LedgerEntry]) -> tuple[Booking, dict[int, BookedFill]]:
        conflicts = 0
        while True:
            held = self._lease is not None
            booking = Booking(entries, self._identity)
            try:
                if (at_once := await self._at_once(entries)) is not None:
                    return booking, {0: at_once}
                return booking, await self._transaction(booking)
            except (TransactionConflict, UniqueViolated):
                # Another transaction booked one of these ids just now, under another lock. The next attempt sees it.
                conflicts += 1
                if conflicts == _ATTEMPTS:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS * conflicts)
            except DatabaseUnavailable:
                # The connection died while it was idle. Nothing was committed, so another one may try.
                if not held:
                    raise

    async def _at_once(self, entries: list[LedgerEntry]) -> BookedFill | None:
        """Book a lone fill in one round trip. Return None, and book nothing, if that is not possible."""
        first, *more = entries
        key = first.account, first.symbol
        remembered = self._remembered.get(key)
        if more or remembered is None:
            return None
        driver = await self._leased()
        try:
            async with self._ended_on_error(committing=True):
                fill = NextFill(driver, remembered, first, self._identity.other_keys(first))
                result = fill.result(await fill.pipeline.run())
        except (InvalidRecord, UniqueViolated):
            # The longer way finds the reason, or that this fill was booked before.
            return None
        if result is None:
            del self._remembered[key]
        else:
            self._remember(result)
        return result

    async def _transaction(self, booking: Booking) -> dict[int, BookedFill]:
        driver = await self._leased()
        async with self._ended_on_error(committing=False):
            await booking.read(driver)
            if booking.reports_wait:
                results = await booking.write(driver)
                await settle_reports(driver, booking, results, self._identity)
        async with self._ended_on_error(committing=True):
            if booking.reports_wait:
                ending = Pipeline(driver)
                ending.add(COMMIT)
                await ending.run()
                self._remembered.clear()
            else:
                results = await booking.write(driver, commit=True)
                for index in booking.booked:
                    self._remember(results[index])
        return results

    def _remember(self, result: BookedFill) -> None:
        position = result.position
        key = position.account, position.symbol
        holding = Holding(position.qty, position.cost_basis, position.realized_pnl)
        self._remembered[key] = Remembered(position.market, position.currency, holding, result.ledger_id)
        self._remembered.move_to_end(key)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)

    @contextlib.asynccontextmanager
    async def _ended_on_error(self, *, committing: bool) -> AsyncIterator[None]:
        """Give the connection back after an error. The pool rolls back, and discards a dead connection."""
        try:
            yield
        except BaseException as error:
            await self._release()
            if isinstance(error, Exception):
                ours = translate_commit(error) if committing else translate(error)
                if ours is not None:
                    raise ours from error
            raise

    async def _leased(self) -> Driver:
        async with connecting(self._engine.url):
            return await self._driver()

    async def _driver(self) -> Driver:
        if self._lease is not None and has_unread_input(self._lease):
            # Servers send data without a query only before they close. No fill is under way, so nothing is in doubt.
            await greenlet_spawn(self._lease.invalidate)
            await self._release()
        if self._lease is None:
            self._lease = cast("PoolProxiedConnection", await greenlet_spawn(self._engine.sync_engine.raw_connection))
        driver: psycopg.AsyncConnection[Any] | None = self._lease.driver_connection
        if driver is None:
            raise DatabaseUnavailable("the pool handed out a connection that is closed")
        return driver

    async def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            with contextlib.suppress(psycopg.Error, QtsDataError):
                driver: psycopg.AsyncConnection[Any] | None = lease.driver_connection
                if driver is not None and driver.closed:
                    await greenlet_spawn(lease.invalidate)
                await greenlet_spawn(lease.close)
