"""Ticks on the local disk until they are in the database.

A writer's own stream is new at each start, and its numbers begin at 0. Ticks of earlier writers keep their stream, so
`ingest_batches` shows how many of them are stored. The numbers of a damaged file are never given to other ticks.

    append ... append -> one block -> pwrite (O_DSYNC) in a thread -> `on_disk`, and every waiting caller goes on

All ticks that arrive while a block is being written make the next one: many callers share one flush.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from qts_data.database.scopes import to_its_end
from qts_data.errors import ConfigurationError, WriterClosed
from qts_data.writers.spool.aside import sync_directory
from qts_data.writers.spool.drain import (
    FULL,
    disk_errors,
    keep_damaged,
    refusal,
    remove_drained,
    remove_stored,
    set_foreign_aside,
    write_if_room,
)
from qts_data.writers.spool.files import Listed, Segment, write_list
from qts_data.writers.spool.format import Head, Kind, encode_tick, record, seed_of
from qts_data.writers.spool.lock import SpoolLock, refuse_held
from qts_data.writers.spool.scan import listed, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qts_data.contracts import TickData
    from qts_data.writers.spool.format import Damage
    from qts_data.writers.spool.left import Left

    _Waiting: TypeAlias = tuple[TickData, bytes, asyncio.Future[None] | None]

__all__ = ["Spool"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_NAME: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")


class Spool:
    """Files of ticks. A file is removed when the database has all of its ticks.

    Args:
        directory: Directory of the files; it is made if it does not exist.
        name: Name of the feed, part of the files' names.
        table: Target table of the ticks. A spool of another table is refused.
        on_disk: Called with ticks that have just been written to the disk, in order, before their `append` returns.

    Raises:
        ConfigurationError: The name cannot be part of a file name.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        table: str = "tick_data",
        on_disk: Callable[[Sequence[TickData]], None] | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"a spool's name has letters, digits, dots and dashes, not {name!r}")
        self._directory = directory
        self._name = name
        self._table = table
        self._head = directory / f"{name}.stream"
        self._aside = directory / f"{name}.damaged"
        self._on_disk = on_disk
        self._lock: SpoolLock | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._left: list[Left] = []
        self._stream = Listed("", 0, 0)
        self._seed = 0
        self._next = 0  # number of the next tick that is written to the disk
        self._segment: Segment | None = None
        self._full: list[tuple[int, Path]] = []  # files before the current one, with the number after their ticks
        self._waiting: list[_Waiting] = []
        self._outstanding = 0
        self._has_taken = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._refused: OSError | None = None  # of a flush that no caller waited for; the next call raises it
        self._failure: OSError | None = None
        self.unread: list[Damage] = []  # paths that are not a spool's files, moved aside at the start

    async def open(self, stream: str) -> list[Left]:
        """Take the lock, read what earlier writers left, and begin the files of a stream.

        Args:
            stream: A name that no stream had before.

        Returns:
            Streams of earlier writers, the oldest first.

        Raises:
            SpoolInUse: Another writer holds the spool.
            ConfigurationError: The spool belongs to a writer into another table.
            SpoolRefused: The disk refused.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"spool {self._name}")
        try:
            with disk_errors(self._directory):
                return await self._in_thread(lambda: self._open(stream))
        except BaseException:
            await self._in_thread(self._leave)
            self._thread.shutdown(wait=False)
            self._thread = None
            raise

    @property
    def position(self) -> int:
        """Ticks that the spool had taken before this writer, since it was last empty."""
        return self._stream.position

    async def learn(self, left: Left, stored: int) -> None:
        """Correct `position` by the number of a stream's ticks in the table, which its damaged files do not show.

        Once this writer has accepted a tick, its position is fixed.
        """
        position = left.position + stored
        if not self._has_taken and position > self._stream.position:
            self._stream = self._stream._replace(position=position)
            with disk_errors(self._directory):
                streams = [*listed(self._left), self._stream]
                await self._in_thread(lambda: write_if_room(self._head, self._table, streams))

    @property
    def waiting(self) -> int:
        """Ticks on their way to the disk."""
        return self._outstanding

    def append(self, tick: TickData) -> asyncio.Future[None]:
        """Add a tick to the next block. The future is done when the tick is on the disk.

        Raises:
            SpoolRefused: The disk has failed; no further tick is accepted.
        """
        written = asyncio.get_running_loop().create_future()
        self._append(tick, written)
        return written

    def follow(self, tick: TickData) -> None:
        """Add a tick to the next block, without waiting.

        Raises:
            SpoolRefused: The disk refused an earlier tick; this one is not accepted.
        """
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refusal(refused, self._directory) from refused
        self._append(tick, None)

    def _append(self, tick: TickData, written: asyncio.Future[None] | None) -> None:
        if self._failure is not None:
            raise refusal(self._failure, self._directory) from self._failure
        if self._thread is None:
            raise WriterClosed(f"the spool {self._directory} of {self._name} is closed")
        self._waiting.append((tick, encode_tick(tick), written))
        self._outstanding += 1
        self._has_taken = True
        if self._idle.is_set():
            self._idle.clear()
            # Runs after the other tasks of this turn, so that their ticks are in the same block.
            asyncio.get_running_loop().call_soon(self._begin)

    def place(self, number: int) -> str:
        """Return file and record of a tick of the own stream, counted from 1, for a person."""
        for end, path in self._full:
            if number < end:
                return f"{path}:{number - int(path.name.rsplit('.', 2)[1]) + 1}"
        segment = self._segment
        return str(self._directory) if segment is None else f"{segment.path}:{number - segment.head.first + 1}"

    async def drained(self, left: Left, missing: Sequence[Damage]) -> None:
        """Remove the files of a stream whose ticks are stored or set aside.

        Raises:
            SpoolRefused: The disk refused to set a damaged file aside; nothing was removed.
        """
        with disk_errors(self._directory):
            await self._in_thread(lambda: self._remove_left(left, missing))

    async def set_aside(self, left: Left, missing: Sequence[Damage]) -> None:
        """Keep the damaged files of a stream, with the reasons, before its whole records are sent.

        Raises:
            SpoolRefused: The disk refused.
        """
        with disk_errors(self._directory):
            await self._in_thread(lambda: keep_damaged(left, missing, self._aside))

    async def forget(self, stored: int) -> None:
        """Remove full files of the own stream whose ticks are all stored.

        A file that the disk refuses to remove is tried again the next time.
        """
        if self._full and self._full[0][0] <= stored:
            await self._in_thread(lambda: remove_stored(self._full, stored))

    async def flush(self) -> None:
        """Wait until every tick so far is on the disk, or was refused."""
        await self._idle.wait()

    async def close(self, *, empty: bool) -> None:
        """Flush, close the files and let the next writer in. A second call does nothing.

        Args:
            empty: The table has every tick, so the files are not needed any more.
        """
        if self._thread is None:
            return
        await self.flush()
        thread, self._thread = self._thread, None
        try:
            await asyncio.wrap_future(thread.submit(self._close, empty=empty))
        except OSError as error:
            _log.warning("the spool %s of %s could not be closed: %s", self._directory, self._name, error)
        finally:
            thread.shutdown(wait=False)

    # Callbacks, not a task: while groups are prepared, each turn of the loop takes milliseconds. A block should
    # be written and confirmed in as few turns as possible.

    def _begin(self) -> None:
        """Submit all waiting ticks to the thread as one block."""
        some, self._waiting = self._waiting, []
        if not some or self._thread is None:
            self._idle.set()
            return
        first, seed = self._next, self._seed
        block = [record(Kind.TICK, number, payload, seed) for number, (_, payload, _) in enumerate(some, start=first)]
        loop = asyncio.get_running_loop()

        def work() -> None:
            refused: OSError | None = None
            try:
                self._write_block(block, first)
            except Exception as error:  # noqa: BLE001 - every waiting caller has to get any error
                refused = error if isinstance(error, OSError) else OSError(errno.EIO, repr(error))
            with contextlib.suppress(RuntimeError):  # the loop may be closed meanwhile
                loop.call_soon_threadsafe(self._end, some, self._next - first, refused)

        self._thread.submit(work)

    def _end(self, some: list[_Waiting], written: int, refused: OSError | None) -> None:
        """Complete the futures of a block, and begin the next block."""
        self._outstanding -= len(some)
        on_disk, rest = some[:written], some[written:]
        if self._on_disk is not None and on_disk:
            self._on_disk([tick for tick, _, _ in on_disk])
        for _, _, future in on_disk:
            if future is not None and not future.done():
                future.set_result(None)
        if refused is not None:
            if refused.errno not in FULL:  # a full disk is tried again
                self._failure = refused
            self._refuse(rest, refused)
        # Runs after the callers, so that their next ticks are in the same block.
        asyncio.get_running_loop().call_soon(self._begin)

    def _refuse(self, rest: list[_Waiting], error: OSError) -> None:
        _log.error("the disk refused %d ticks of the spool %s of %s: %s", len(rest), self._directory, self._name, error)
        for _, _, future in rest:
            if future is None:
                # The tick is in memory and will be stored. Only its place in the files stays free.
                self._next += 1
                self._refused = error
            elif not future.done():
                future.set_exception(refusal(error, self._directory))

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """Run work in the spool's thread, to its end even if the caller is cancelled."""
        if self._thread is None:
            raise WriterClosed(f"the spool {self._directory} of {self._name} is closed")
        return await to_its_end(asyncio.wrap_future(self._thread.submit(work)))

    # All methods below run in the thread.

    def _open(self, stream: str) -> list[Left]:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock = SpoolLock(self._directory / f"{self._name}.lock")
        refuse_held(self._directory, self._name)
        found = scan(self._directory, self._name, self._table)
        self._left = found.left
        self.unread = [damage for _, damage in found.unread]
        set_foreign_aside(found, self._head, self._aside)
        position = max([0, *(left.position + left.end for left in found.left)])
        self._stream = Listed(stream, 0, position)
        self._seed = seed_of(stream)
        try:
            self._next_segment()
        except OSError as error:
            if error.errno not in FULL or not any(left.files for left in found.left):
                raise
            # Sending the files makes room. Until then ticks are refused.
            _log.warning("the disk of %s has no room for a new file until others are drained: %s", self._head, error)
        return list(found.left)

    def _leave(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()
            self._unlist()
            segment.path.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()

    def _unlist(self) -> None:
        """Remove the own stream, which has no tick, from the list of files."""
        with contextlib.suppress(OSError):
            if self._left:
                write_list(self._head, self._table, listed(self._left))
            else:
                self._head.unlink(missing_ok=True)

    def _next_segment(self) -> Segment:
        head = Head(self._stream.stream, self._table, self._stream.files, self._next, self._stream.position)
        new = Segment(self._directory, self._name, head)
        try:
            write_list(self._head, self._table, [*listed(self._left), self._stream._replace(files=head.ordinal + 1)])
        except OSError:
            new.close()
            new.path.unlink(missing_ok=True)
            raise
        self._stream = self._stream._replace(files=head.ordinal + 1)
        old, self._segment = self._segment, new
        if old is None:
            if self._lock is not None:  # until now only the lock kept other writers out
                self._lock.prove()
        else:
            self._full.append((self._next, old.path))
            old.seal(self._next)
        return new

    def _write_block(self, block: list[bytes], first: int) -> int:
        """Write records in as few flushes as the files allow. Return their number."""
        if self._failure is not None:
            raise self._failure
        if self._lock is not None and self._segment is not None:
            self._lock.restore()
        start = 0
        while start < len(block):
            segment = self._segment or self._next_segment()
            end, size = start, 0
            while end < len(block) and size + len(block[end]) <= segment.room:
                size += len(block[end])
                end += 1
            if end > start:
                segment.append(b"".join(block[start:end]))
                self._next = first + end
                start = end
            if start < len(block):
                self._next_segment()
        return len(block)

    def _remove_left(self, left: Left, missing: Sequence[Damage]) -> None:
        if missing:
            keep_damaged(left, missing, self._aside)
        rest = [one for one in self._left if one is not left]
        remove_drained(self._head, self._table, [*listed(rest), self._stream], left.files)
        self._left = rest

    def _close(self, *, empty: bool) -> None:
        try:
            last = [] if self._segment is None else [self._segment.path]
            if self._segment is not None:
                self._segment.seal(self._next)
            if empty and not self._left:
                self._head.unlink(missing_ok=True)
                for path in [*(path for _, path in self._full), *last]:
                    path.unlink(missing_ok=True)
                sync_directory(self._directory)
        finally:
            self._segment = None
            if self._lock is not None:
                self._lock.release()
