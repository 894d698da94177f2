"""A live feed into the table: groups, a bound, and nothing lost in silence."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import logging
import time
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import sqlalchemy as sa

from qts_data.contracts import TickData
from qts_data.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseUnavailable,
    InvalidRecord,
    OutcomeUnknown,
    QtsDataError,
    StatementTimeout,
    TransactionConflict,
)
from qts_data.repositories.ticks.groups import Group, live_numbering, prepared
from qts_data.repositories.ticks.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qts_data.repositories.ticks.reports import IngestReport, TickTable
    from qts_data.repositories.unit_of_work import Database

__all__ = ["AtBound", "Durability", "TickQueueFull", "TickWriter", "WriterStats"]

_log = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 2.0
_REMEMBERED_LAGS: Final = 10_000
_READ_ONLY: Final = "25006"  # read_only_sql_transaction: the server is a standby, or was made read-only
# Classes of SQLSTATE: insufficient resources (a full disk, no memory), and errors of the system below the server.
_IN_NEED: Final = frozenset({"53", "58"})


class Durability(enum.StrEnum):
    """What is certain when `write` has returned.

    QUEUED: The tick is in this process's memory; a crash of the process loses what is not committed yet, at most
        the bound of the queue. The default: a feed is not slowed by the disk.
    SPOOLED: The tick is in a file on this machine, flushed to the disk; a crash of the process or of the machine
        loses nothing. Needs `spool`.
    COMMITTED: The tick is in the database, as durable as its synchronous_commit says. `write` waits for the group.
    """

    QUEUED = "queued"
    SPOOLED = "spooled"
    COMMITTED = "committed"


class AtBound(enum.StrEnum):
    """What `write` does when the queue is full; it never drops a tick.

    WAIT: Wait for room: the feed feels it.
    RAISE: Raise `TickQueueFull`; the tick was not taken.
    """

    WAIT = "wait"
    RAISE = "raise"


class TickQueueFull(QtsDataError):
    """The writer's queue is at its bound; the tick was not taken."""

    retryable = True


@dataclass(frozen=True, slots=True)
class WriterStats:
    """Counters of a writer since its start; ticks that an earlier writer committed count in `position` alone.

    Attributes:
        accepted: Ticks that `write` took, and those that the spool held at the start and the database did not.
        committed: Of these, ticks whose group is in the database.
        inserted: Of these, new ones.
        duplicate: Of these, ticks with a seq that were there already.
        late: Of these, ticks of a minute before the last one stored.
        depth: Ticks that are taken and not committed.
        groups: Groups that were committed.
        resent: Groups that were sent more than once, after the database was away or an outcome unknown.
        found: Groups that were found committed when their outcome was unknown.
        lag_seconds: Age of the oldest tick that waits, since `write` took it; 0 without any.
        p50_lag_seconds: Median time from `write` to commit, of the last 10,000 groups' oldest ticks.
        p99_lag_seconds: The same for 99 of 100.
        position: Ticks taken since the stream in the spool began, by earlier writers too: a feed goes on from here.
    """

    accepted: int
    committed: int
    inserted: int
    duplicate: int
    late: int
    depth: int
    groups: int
    resent: int
    found: int
    lag_seconds: float
    p50_lag_seconds: float
    p99_lag_seconds: float
    position: int


class TickWriter:
    """Takes ticks one by one and commits them in groups, in the order they came, each exactly once.

    One group is under way at a time, and the next one is made ready meanwhile. A group's number is moved on in the
    transaction of its ticks, so that after a commit of unknown outcome the writer looks: a group that is in is not
    sent again. While the database is away the writer keeps taking ticks up to its bound, and catches up afterwards.

    A tick without a seq goes behind what is stored of its instant, also after a restart. A tick with a seq that
    is stored already with the same content is a duplicate.

    Args:
        database: Where to.
        name: Name of this feed in `ingest_batches`.
        table: `tick_data` or `tick_history`.
        group_size: Most ticks of a group.
        group_seconds: Longest time a tick waits for its group to fill.
        bound: Most ticks that are taken and not committed.
        at_bound: What `write` does there.
        durability: What is certain when `write` has returned.
        spool: Directory for ticks that are not committed yet; a writer of the same name that starts later goes on
            with what it finds there. Used by one writer at a time.
        on_group: Called with the report of each group after its commit, for the bars that late ticks changed.
        synchronous_commit: False lets the server confirm a commit before it is on its disk: a crash of the
            server may lose the groups of its last moments (three times wal_writer_delay, 0.6 s), in whole groups.

    Raises:
        ConfigurationError: A bound is no positive number, or `SPOOLED` without `spool`.
    """

    def __init__(
        self,
        database: Database,
        *,
        name: str = "live",
        table: TickTable = "tick_data",
        group_size: int = 25_000,
        group_seconds: float = 0.05,
        bound: int = 100_000,
        at_bound: AtBound = AtBound.WAIT,
        durability: Durability = Durability.QUEUED,
        spool: Path | None = None,
        on_group: Callable[[IngestReport], None] | None = None,
        synchronous_commit: bool = True,
    ) -> None:
        if group_size < 1 or bound < 1 or group_seconds < 0:
            raise ConfigurationError("group_size and bound are at least 1, group_seconds at least 0")
        if durability is Durability.SPOOLED and spool is None:
            raise ConfigurationError("ticks that are to be spooled need a directory: give spool=")
        self._database = database
        self._name = name
        self._table: TickTable = table
        self._group_size = min(group_size, bound)
        self._group_seconds = group_seconds
        self._bound = bound
        self._at_bound = at_bound
        self._durability = durability
        self._spool = None if spool is None else Spool(spool, name, table=table)
        self._on_group = on_group
        self._synchronous = synchronous_commit
        self._stream = f"{name}/{uuid.uuid4()}"
        self._numbering = live_numbering()
        # Ticks, and the moments they were taken; not in pairs, which the garbage collector would have to watch.
        self._queue: deque[TickData] = deque()
        self._taken: deque[float] = deque()
        self._accepted = 0
        self._committed = 0
        self._base = 0  # ticks of the stream that were committed before this writer started
        self._inherited = 0  # ticks of the spool at the start that were not looked at yet
        self._sent = 0  # ticks of the stream that may be in the database
        self._inserted = self._duplicate = self._late = 0
        self._groups = self._resent = self._found = 0
        self._lags: deque[float] = deque(maxlen=_REMEMBERED_LAGS)
        self._changed = asyncio.Condition()
        self._arrived = asyncio.Event()
        self._wanted = 1  # the depth of the queue that somebody waits for
        self._hurry = False
        self._closing = False
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Take what an earlier writer left in the spool, and begin.

        Raises:
            ConfigurationError: The spool is damaged, or of a writer into another table; the message names the file.
        """
        if self._spool is not None:
            found = await asyncio.to_thread(self._spool.open, self._stream)
            # Some of these may be committed too: the server's row of the stream says which.
            self._stream, self._committed, self._base = found.stream, found.base, found.base
            self._accepted = self._sent = found.base + len(found.ticks)
            self._inherited = len(found.ticks)
            self._queue.extend(found.ticks)
            self._taken.extend([time.monotonic()] * len(found.ticks))
        self._task = asyncio.create_task(self._run())

    async def write(self, tick: TickData) -> None:
        """Take a tick; what is certain when this returns is the writer's durability.

        A call that is cancelled while it waits for room has not taken the tick. One that is cancelled later, while it
        waits for the disk or the database (`SPOOLED`, `COMMITTED`), has: the tick goes in as if nothing had happened,
        and writing it again would store it twice. `stats.accepted` tells the two apart.

        Raises:
            InvalidRecord: It is no TickData; nothing was taken.
            TickQueueFull: The queue is full and the policy is to raise; the tick was not taken.
            QtsDataError: The writer has failed on an earlier tick, for instance another tick stored under the same
                key; nothing more is taken.
            OSError: The disk refused the spool. Where `stats.accepted` has not grown the tick was not taken, and may be
                written again when there is room. Where it has, the tick was taken and is committed as usual, only
                not certain to survive a crash; nothing more is taken, and `close` ends the writer.
        """
        if not isinstance(tick, TickData):
            raise InvalidRecord(field="tick", reason=f"is {type(tick).__name__}; give TickData")
        if self._failure is not None or self._closing or self._task is None or not self._has_room():
            await self._room()
        if self._spool is not None:
            self._spool.append(tick)  # first: what the disk refuses is not taken
        self._queue.append(tick)
        self._taken.append(time.monotonic())
        self._accepted += 1
        if len(self._queue) >= self._wanted:
            self._arrived.set()
        if self._durability is not Durability.QUEUED:
            await self._certain(self._accepted)

    async def flush(self) -> None:
        """Wait until every tick taken so far is committed.

        Raises:
            QtsDataError: The writer has failed.
        """
        self._hurry = True
        self._arrived.set()
        await self._until(self._accepted)

    async def close(self) -> None:
        """Commit what was taken, however long the database is away, and end. No tick is taken any more.

        Raises:
            QtsDataError: The writer has failed; `stats.depth` ticks are not in the database.
        """
        if self._task is None:
            return
        self._closing = True
        self._arrived.set()
        try:
            await asyncio.shield(self._task)
        finally:
            if self._spool is not None and self._task.done():
                await self._spool.close(empty=self._failure is None)
        self._task = None

    async def abandon(self) -> None:
        """End at once, whatever waits; what is in the spool stays there."""
        try:
            if self._task is not None:
                self._task.cancel()
                with contextlib.suppress(asyncio.CancelledError, QtsDataError):
                    await self._task
                self._task = None
        finally:
            if self._spool is not None:
                await self._spool.close(empty=False)

    @property
    def stats(self) -> WriterStats:
        """Counters, now."""
        lags = sorted(self._lags)
        oldest = self._taken[0] if self._taken else None
        return WriterStats(
            accepted=self._accepted - self._base,
            committed=self._committed - self._base,
            inserted=self._inserted,
            duplicate=self._duplicate,
            late=self._late,
            depth=self._accepted - self._committed,
            groups=self._groups,
            resent=self._resent,
            found=self._found,
            lag_seconds=0.0 if oldest is None else time.monotonic() - oldest,
            p50_lag_seconds=lags[len(lags) // 2] if lags else 0.0,
            p99_lag_seconds=lags[len(lags) * 99 // 100] if lags else 0.0,
            position=self._accepted,
        )

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._task is None or self._closing:
            raise ConfigurationError("the writer is not open")

    async def _room(self) -> None:
        """Until there is room for a tick."""
        while True:
            self._check()
            if self._has_room():
                return
            if self._at_bound is AtBound.RAISE:
                raise TickQueueFull(f"{self._bound:,} ticks wait for the database; the tick was not taken")
            async with self._changed:
                await self._changed.wait_for(lambda: self._failure is not None or self._closing or self._has_room())

    def _has_room(self) -> bool:
        return self._accepted - self._committed < self._bound

    async def _certain(self, number: int) -> None:
        """Until so many ticks are where the durability says."""
        if self._spool is not None and self._durability is Durability.SPOOLED:
            await self._spool.sync(number)
        if self._durability is Durability.COMMITTED:
            await self._until(number)

    async def _until(self, number: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._failure is not None or self._committed >= number)
        if self._committed < number and self._failure is not None:
            raise self._failure

    async def _run(self) -> None:
        following: Group | None = None
        try:
            while following is not None or await self._wait_for_group():
                group = following or await self._prepared(0)
                sending = asyncio.create_task(self._commit(group))
                try:
                    following = await self._prepared_behind(len(group.ticks), sending)
                    report = await sending
                finally:
                    sending.cancel()
                    await asyncio.wait([sending])
                await self._committed_group(len(group.ticks), report)
                if following is not None and following.numbering is not self._numbering:
                    following = None
        except BaseException as error:
            self._failure = error
            async with self._changed:
                self._changed.notify_all()
            raise

    async def _wait_for_group(self) -> bool:
        """Until a group is full or old enough; False when there is nothing left to do."""
        while not self._queue:
            if self._closing:
                return False
            await self._deep(1)
        due = self._taken[0] + self._group_seconds
        while len(self._queue) < self._group_size and not self._closing and not self._hurry:
            left = due - time.monotonic()
            if left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._deep(self._group_size)
        return True

    async def _prepared_behind(self, sent: int, sending: asyncio.Task[IngestReport | None]) -> Group | None:
        """A full group behind the one that is sent; None if that is in before there is one."""
        # A smaller one would keep the ticks that come meanwhile out of it.
        sending.add_done_callback(lambda _: self._arrived.set())
        while len(self._queue) < sent + self._group_size:
            if sending.done():
                return None
            await self._deep(sent + self._group_size)
        with contextlib.suppress(QtsDataError):  # it comes again when it is this group's turn
            return await self._prepared(sent)
        return None

    async def _prepared(self, start: int) -> Group:
        return await prepared(list(itertools.islice(self._queue, start, start + self._group_size)), self._numbering)

    async def _deep(self, wanted: int) -> None:
        """Until the queue is so deep, or something else has happened."""
        self._wanted = wanted
        self._arrived.clear()
        await self._arrived.wait()

    async def _committed_group(self, ticks: int, report: IngestReport | None) -> None:
        self._lags.append(time.monotonic() - self._taken[0])
        for _ in range(ticks):
            self._queue.popleft()
            self._taken.popleft()
        self._committed += ticks
        inherited = min(ticks, self._inherited)
        self._inherited -= inherited
        # The spool may hold ticks that the earlier writer has committed: the server left them out.
        self._base += min(inherited, ticks if report is None else ticks - report.inserted - report.duplicate)
        self._groups += 1
        if self._hurry and not self._queue:
            self._hurry = False
        if report is None:
            self._found += 1
        else:
            self._inserted += report.inserted
            self._duplicate += report.duplicate
            self._late += report.late
        if self._spool is not None:
            await asyncio.to_thread(self._spool.forget, self._committed)
        async with self._changed:
            self._changed.notify_all()
        if self._on_group is not None and report is not None:
            try:
                self._on_group(report)
            except Exception:  # noqa: BLE001 - whatever a listener raises
                # The group is in, whatever its listener makes of it, and those behind it are to follow.
                _log.exception("on_group of %s failed after a group of %d ticks was committed", self._name, ticks)

    async def _commit(self, group: Group) -> IngestReport | None:
        """Send a group until it is in; None if an earlier attempt turns out to have succeeded."""
        if self._spool is not None:
            # What is in the database must be in the spool: after a crash, the next writer numbers its ticks from the
            # end of the spool. A disk that refuses has told, or will tell, who writes the next tick.
            with contextlib.suppress(OSError):
                await self._spool.sync(self._committed + len(group.ticks))
        pause = _FIRST_PAUSE_SECONDS
        attempt = 0
        while True:
            attempt += 1
            try:
                report = await self._send(group)
            except InvalidRecord as error:
                raise self._located(error) from error
            except DatabaseError as error:
                if not _may_pass(error):
                    raise
                if attempt == 1:
                    self._resent += 1
                _log.warning("%d ticks of %s wait: %s", len(self._queue), self._name, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                # What the attempt counted was rolled back; the server knows what is stored.
                group = await prepared(group.ticks, live_numbering())
            else:
                # A group that was prepared meanwhile has another one, and is prepared again.
                self._numbering = group.numbering
                return report

    async def _send(self, group: Group) -> IngestReport | None:
        async with self._database.transaction() as uow:
            if not self._synchronous:
                await uow.connection.execute(sa.text("SET LOCAL synchronous_commit = off"))
            repository = uow.ticks if self._table == "tick_data" else uow.tick_history
            try:
                return await repository.ingest_group(
                    group, stream=self._stream, before=self._committed, at_most=self._sent
                )
            except ConfigurationError as error:
                if self._spool is not None:
                    # Every start adds ticks to the spool: one day it would look as if it had all that is in.
                    await asyncio.to_thread(self._spool.refuse, self._stream, str(error))
                raise
            except DatabaseError as error:
                if error.sqlstate == _READ_ONLY:
                    # A server that has become a standby stays one: the next attempt is to ask who is the primary now.
                    await uow.connection.invalidate()
                raise
            finally:
                self._sent = max(self._sent, self._committed + len(group.ticks))

    def _located(self, error: InvalidRecord) -> InvalidRecord:
        """The complaint with the place of its group in the spool, where somebody can set it right."""
        if self._spool is None:
            return error
        return InvalidRecord(
            field=error.field,
            reason=f"{error.reason}; the tick is in the spool, at or behind {self._spool.place(self._committed)}",
            row=error.row,
        )


def _may_pass(error: DatabaseError) -> bool:
    """Whether the same group can go in later: nobody answers, somebody is in the way, or the server is in need."""
    if isinstance(error, (DatabaseUnavailable, OutcomeUnknown, TransactionConflict, StatementTimeout)):
        return True
    return error.sqlstate is not None and (error.sqlstate == _READ_ONLY or error.sqlstate[:2] in _IN_NEED)
