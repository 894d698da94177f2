"""A live feed into the table: groups, a bound, and no silent loss.

    NEW -> start -> OPEN -> close   -> CLOSED  every tick is stored, or `close` raises
                         -> abandon -> CLOSED  callers that wait get `WriterClosed`; the spool keeps its ticks

A writer is started once. Its own task sends the groups. If that task fails, each later call raises its failure.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
import uuid
from typing import TYPE_CHECKING, Self

from qts_data.contracts import TickData
from qts_data.contracts.instants import MAX_AHEAD
from qts_data.errors import ConfigurationError, InvalidRecord, QtsDataError, TickQueueFull, WriterClosed
from qts_data.writers.group_queue import GroupQueue, notify
from qts_data.writers.leads import LeadLog
from qts_data.writers.recovery import located, recover
from qts_data.writers.sending import Sender
from qts_data.writers.spool.spool import Spool
from qts_data.writers.terms import AtBound, Counters, Durability, WriterStats
from qts_data.writers.waiters import Waiters

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qts_data.repositories.market.reports import IngestReport, TickTable
    from qts_data.repositories.market.ticks.groups import Group
    from qts_data.repositories.unit_of_work import Database
    from qts_data.writers.spool.format import Damage
    from qts_data.writers.spool.left import Left

__all__ = ["AtBound", "Durability", "TickQueueFull", "TickWriter", "WriterStats"]

_log = logging.getLogger(__name__)


class _State(enum.Enum):
    NEW = "was not started"
    STARTING = "is being started"
    OPEN = "is open"
    CLOSED = "is closed"


class TickWriter:
    """Accepts ticks one by one and commits them in groups, in the order of the calls, each exactly once.

    One group is under way at a time, and the next one is prepared meanwhile. The transaction of a group's ticks also
    advances the group's number. So after a commit of unknown outcome the writer can look it up, and does not send a
    stored group again. While the database is unavailable, or the engine's safety state refuses writes, the writer
    accepts ticks up to its bound, and catches up afterwards.

    A tick without a seq is appended to the stored ticks of its instant, also after a restart. A tick with a seq that
    is stored already with the same content is a duplicate.

    Args:
        database: The target database.
        name: Name of this feed in `ingest_batches`.
        table: `tick_data` or `tick_history`.
        group_size: Most ticks of a group.
        group_seconds: Longest time a tick waits for its group to fill.
        bound: Most ticks that are accepted and not committed, without those found in the spool.
        at_bound: The reaction of `write` at the bound.
        durability: The guarantee that holds when `write` has returned.
        spool: Directory for ticks that are not committed yet. A writer of the same name that starts later sends
            the ticks that it finds there first. One writer holds it at a time.
        on_group: Called with the report of each group after its commit, for the bars that late ticks changed. A plain
            function; its exceptions are logged.
        synchronous_commit: False lets the server confirm a commit before it is on its disk. Then a crash of the
            server may lose the whole groups of its last moments (three times wal_writer_delay, 0.6 s).
        max_ahead: Ticks further ahead of the server's clock are named in the log. They are stored like all others: a
            wrong time does not end a feed, and no closed bar holds the tick before that time. None names none.

    Raises:
        ConfigurationError: A bound is not a positive number, `SPOOLED` without `spool`, or `on_group` is a coroutine
            function.
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
        max_ahead: dt.timedelta | None = MAX_AHEAD,
    ) -> None:
        if group_size < 1 or bound < 1 or group_seconds < 0:
            raise ConfigurationError("group_size and bound are at least 1, group_seconds at least 0")
        if durability is Durability.SPOOLED and spool is None:
            raise ConfigurationError("ticks that are to be spooled need a directory: give spool=")
        if inspect.iscoroutinefunction(on_group):
            raise ConfigurationError("on_group is a coroutine function, and would not be awaited: give a plain one")
        self._name = name
        self._group_size = min(group_size, bound)
        self._queue = GroupQueue(self._group_size, group_seconds)
        self._bound = bound
        self._at_bound = at_bound
        self._durability = durability
        self._spool = None if spool is None else Spool(spool, name, table=table, on_disk=self._take_all)
        self._on_group = on_group
        self._leads = LeadLog(name, max_ahead)
        self._sender = Sender(database, table, name, synchronous=synchronous_commit)
        self._stream = f"{name}/{uuid.uuid4()}"
        self._sent = 0  # ticks of the own stream that are stored
        self._left: list[Left] = []
        self._found = 0  # ticks in the files of earlier writers
        self._damages: list[Damage] = []
        self._counts = Counters()
        self._stored = Waiters()
        self._room = Waiters()
        self._state = _State.NEW
        self._started = asyncio.Event()
        self._closing = False  # no further tick is accepted
        self._failure: QtsDataError | None = None
        self._task: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Read the ticks that earlier writers left in the spool, and begin. A start that fails may be tried again.

        Damaged files are named in the log and in `damages`, and kept in `NAME.damaged` in the spool's directory. Their
        whole ticks are sent.

        Raises:
            ConfigurationError: The writer was started before, or the spool belongs to a writer into another table.
            SpoolInUse: Another writer holds the spool; the message names its process.
            SpoolRefused: The disk refused.
        """
        if self._state is not _State.NEW:
            raise ConfigurationError(f"the writer {self._name} {self._state.value}; a writer is started once")
        self._state = _State.STARTING
        self._started.clear()
        try:
            if self._spool is not None:
                self._left = await self._spool.open(self._stream)
                self._damages = list(self._spool.unread)
        except BaseException:
            self._state = _State.NEW
            raise
        finally:
            self._started.set()
        self._found = self._counts.accepted = sum(len(left.ticks) for left in self._left)
        self._state = _State.OPEN
        self._task = asyncio.create_task(self._run(), name=f"tick writer {self._name}")

    async def write(self, tick: TickData) -> None:
        """Accept a tick. The writer's durability defines the guarantee when it returns.

        A call that is cancelled while it waits for room has not accepted the tick. A call that is cancelled later,
        while it waits for the disk or the database (`SPOOLED`, `COMMITTED`), has accepted it: the tick is stored all
        the same, and writing it again would store it twice.

        Raises:
            InvalidRecord: It is not TickData; nothing was accepted.
            TickQueueFull: The queue is full and `at_bound` is RAISE; the tick was not accepted.
            SpoolRefused: The disk refused. The tick was not accepted, and may be written again when there is room.
                Ticks that were accepted before stay accepted.
            WriterClosed: The writer is not open; or it was abandoned while the tick waited for its commit.
            QtsDataError: The writer has failed on an earlier tick, for instance a different tick stored under the same
                key. No further tick is accepted.
        """
        if not isinstance(tick, TickData):
            raise InvalidRecord(field="tick", reason=f"is {type(tick).__name__}; give TickData")
        # Written inline, like the lines below, because each call here is made for millions of ticks.
        if self._state is not _State.OPEN or self._failure is not None or self._closing or not self._has_room():
            await self._until_room()
        if self._spool is not None:
            if self._durability is Durability.SPOOLED:
                await self._spool.append(tick)
                return
            self._spool.follow(tick)
        self._queue.take(tick)
        self._counts.accepted += 1
        if self._durability is Durability.COMMITTED:
            await self._until_stored(self._counts.accepted)

    async def flush(self) -> None:
        """Wait until every tick accepted so far is committed.

        Raises:
            WriterClosed: The writer was not started, or was abandoned before the ticks were committed.
            QtsDataError: The writer has failed.
        """
        if self._state in {_State.NEW, _State.STARTING}:
            self._refuse()
        self._queue.hurry = len(self._queue)
        self._queue.recheck()
        await self._until_stored(self._counts.accepted)

    async def close(self) -> None:
        """Commit every accepted tick, however long the database is unavailable, and end. Accept no further tick.

        A second call waits for the same end. If the call is cancelled, the writer goes on closing by itself.

        Raises:
            WriterClosed: The writer was abandoned meanwhile; `stats.depth` ticks are not in the database.
            QtsDataError: The writer has failed; `stats.depth` ticks are not in the database.
        """
        while self._state is _State.STARTING:
            await self._started.wait()
        if self._state is _State.NEW:
            self._state = _State.CLOSED
        if self._task is None:
            return
        await asyncio.shield(self._ending(self._task))
        if self._failure is not None:
            raise self._failure

    async def abandon(self) -> None:
        """End at once, in spite of waiting ticks. Ticks in the spool stay there. Waiting calls raise `WriterClosed`."""
        while self._state is _State.STARTING:
            await self._started.wait()
        if self._state is _State.NEW:
            self._state = _State.CLOSED
        if self._task is None:
            return
        if not self._task.done():
            self._fail(self._abandoned())
            self._task.cancel()
        await asyncio.shield(self._ending(self._task))

    @property
    def stats(self) -> WriterStats:
        """The present counters."""
        self._counts.resent = self._sender.resent
        own = self._counts.accepted - self._found
        before = 0 if self._spool is None else self._spool.position
        return self._counts.stats(self._queue.oldest, damaged=len(self._damages), position=before + own)

    @property
    def damages(self) -> Sequence[Damage]:
        """Places of the spool that could not be read, or are missing, and are not in the table."""
        return tuple(self._damages)

    def _is_open(self) -> bool:
        return self._state is _State.OPEN and self._failure is None and not self._closing

    def _refuse(self) -> None:
        if self._failure is not None:
            raise self._failure
        state = _State.CLOSED if self._closing else self._state
        raise WriterClosed(f"the writer {self._name} is not open: it {state.value}")

    def _abandoned(self) -> WriterClosed:
        depth = self._counts.accepted - self._counts.committed
        where = "in the spool" if self._spool is not None else "lost"
        return WriterClosed(f"the writer {self._name} was abandoned; {depth:,} ticks are not in the table, but {where}")

    async def _until_room(self) -> None:
        while True:
            if not self._is_open():
                self._refuse()
            if self._has_room():
                return
            if self._at_bound is AtBound.RAISE:
                raise TickQueueFull(f"{self._bound:,} ticks wait for the database; the tick was not taken")
            await self._room.until(0)

    def _has_room(self) -> bool:
        if self._spool is None:
            return len(self._queue) < self._bound
        on_their_way = self._spool.waiting if self._durability is Durability.SPOOLED else 0
        return len(self._queue) + on_their_way < self._bound

    def _take_all(self, ticks: Sequence[TickData]) -> None:
        """Queue ticks that are on the disk now. With another durability than SPOOLED they were queued before."""
        if self._durability is Durability.SPOOLED:
            self._queue.take_all(ticks)
            self._counts.accepted += len(ticks)

    async def _until_stored(self, number: int) -> None:
        while self._counts.committed < number:
            if self._failure is not None:
                raise self._failure
            await self._stored.until(number)

    def _ending(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._closing = True
        self._state = _State.CLOSED
        self._room.release()
        if self._end is None:
            self._end = asyncio.create_task(self._finish(task), name=f"end of tick writer {self._name}")
        return self._end

    async def _finish(self, task: asyncio.Task[None]) -> None:
        if self._spool is not None:
            await self._spool.flush()
        self._queue.last = True
        self._queue.recheck()
        await asyncio.wait([task])
        if self._spool is not None:
            await self._spool.close(empty=self._failure is None)

    def _fail(self, error: QtsDataError) -> None:
        if self._failure is None:
            self._failure = error
        self._stored.release()
        self._room.release()

    async def _run(self) -> None:
        try:
            await self._recover()
            await self._send_groups()
        except QtsDataError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._fail(self._abandoned())
        except Exception as error:  # noqa: BLE001 - every caller has to get any error
            _log.exception("the writer %s has failed", self._name)
            failure = QtsDataError(f"the writer {self._name} has failed: {error!r}")
            failure.__cause__ = error
            self._fail(failure)

    async def _recover(self) -> None:
        """Send the ticks of earlier writers, before any other."""
        for left in self._left:
            if self._spool is not None:
                self._damages += await recover(
                    self._spool,
                    self._sender,
                    left,
                    group_size=self._group_size,
                    known=self._known,
                    stored=self._committed,
                )

    async def _send_groups(self) -> None:
        following: Group | None = None
        while following is not None or await self._queue.due():
            group = following or await self._queue.first()
            size = len(group.ticks)
            sending = asyncio.create_task(self._sender.send(group, self._stream, self._sent, self._sent + size))
            try:
                following = await self._queue.following(size, sending)
                sent = await sending
            except InvalidRecord as error:
                if self._spool is None:
                    raise
                raise located(error, self._spool.place(self._sent)) from error
            finally:
                sending.cancel()
                await asyncio.wait([sending])
            self._counts.lags.append(self._queue.stored(size, sent))
            self._sent += size
            self._committed(size, sent.report)
            if self._spool is not None:
                await self._spool.forget(self._sent)
            following = self._queue.fits(following)

    def _known(self, ticks: int) -> None:
        """Count ticks that an earlier writer had stored. A `flush` may wait for these alone."""
        self._counts.find(ticks)
        self._stored.release(self._counts.committed)

    def _committed(self, ticks: int, report: IngestReport | None) -> None:
        self._counts.add_group(ticks, report)
        self._stored.release(self._counts.committed)
        self._room.release()
        self._leads.take(report)
        notify(self._on_group, report, self._name)
