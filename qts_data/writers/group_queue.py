"""The queue of a live feed, which decides when the next group is due."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from qts_data.errors import QtsDataError
from qts_data.repositories.market.ticks.groups import Group, live_numbering, prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qts_data.contracts import TickData
    from qts_data.repositories.market.reports import IngestReport
    from qts_data.writers.sending import Sent

__all__ = ["GroupQueue", "notify"]

_log = logging.getLogger(__name__)


class GroupQueue:
    """Ticks that were accepted and are not stored yet, in order.

    Attributes:
        hurry: Ticks at the front that do not wait for a full group, because a flush waits for them.
        last: No further ticks arrive.

    Args:
        size: Most ticks of a group.
        seconds: Longest time a tick waits for its group to fill.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        # Ticks, and the times at which they were accepted. Pairs would burden the garbage collector.
        self._ticks: deque[TickData] = deque()
        self._taken: deque[float] = deque()
        self._arrived = asyncio.Event()
        self._wanted = 1
        self._numbering = live_numbering()
        self.hurry: int = 0
        self.last = False

    def __len__(self) -> int:
        return len(self._ticks)

    @property
    def oldest(self) -> float | None:
        """`time.monotonic()` at which the first tick was accepted, or None without any."""
        return self._taken[0] if self._taken else None

    def take(self, tick: TickData) -> None:
        """Add a tick."""
        self._ticks.append(tick)
        self._taken.append(time.monotonic())
        if len(self._ticks) >= self._wanted:
            self._arrived.set()

    def take_all(self, ticks: Sequence[TickData]) -> None:
        """Add ticks that arrived together."""
        now = time.monotonic()
        self._ticks.extend(ticks)
        self._taken.extend([now] * len(ticks))
        if len(self._ticks) >= self._wanted:
            self._arrived.set()

    def recheck(self) -> None:
        """Check again whether a group is due, because `hurry` or `last` has changed."""
        self._arrived.set()

    async def due(self) -> bool:
        """Wait until a group is full or old enough. False when no tick is left and none will arrive."""
        while not self._ticks:
            if self.last:
                return False
            await self._until_depth(1)
        until = self._taken[0] + self._seconds
        while len(self._ticks) < self._size and not self.last and not self.hurry:
            left = until - time.monotonic()
            if left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._until_depth(self._size)
        return True

    async def first(self) -> Group:
        """Prepare the group at the front."""
        return await self._prepared(0)

    async def following(self, sent: int, sending: asyncio.Task[Sent]) -> Group | None:
        """Prepare a full group after the one that is being sent. None if that one is stored before the next is full."""
        # A group that is not full would exclude the ticks that arrive meanwhile.
        sending.add_done_callback(lambda _: self._arrived.set())
        while len(self._ticks) < sent + self._size:
            if sending.done():
                return None
            await self._until_depth(sent + self._size)
        with contextlib.suppress(QtsDataError):  # it is raised again when it is this group's turn
            return await self._prepared(sent)
        return None

    def stored(self, ticks: int, sent: Sent) -> float:
        """Remove the group at the front, and return the age of its oldest tick in seconds."""
        # A group that was prepared meanwhile may have another numbering. Then it is prepared again.
        self._numbering = sent.numbering
        age = time.monotonic() - self._taken[0]
        for _ in range(ticks):
            self._ticks.popleft()
            self._taken.popleft()
        self.hurry = max(0, self.hurry - ticks)
        return age

    def fits(self, group: Group | None) -> Group | None:
        """Return the group if it was numbered by the counters in use, otherwise None."""
        return group if group is not None and group.numbering is self._numbering else None

    async def _prepared(self, start: int) -> Group:
        return await prepared(list(itertools.islice(self._ticks, start, start + self._size)), self._numbering)

    async def _until_depth(self, wanted: int) -> None:
        """Wait until the queue has this many ticks, or another event has occurred."""
        self._wanted = wanted
        self._arrived.clear()
        await self._arrived.wait()


def notify(on_group: Callable[[IngestReport], object] | None, report: IngestReport | None, name: str) -> None:
    """Call the listener of groups. The group is stored, so an exception of the listener is only logged."""
    if on_group is None or report is None:
        return
    try:
        answer = on_group(report)
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the listener may raise a CancelledError itself
        _log.exception("on_group of %s failed after a group of %d ticks was committed", name, report.received)
        return
    if inspect.iscoroutine(answer):
        answer.close()
        _log.error("on_group of %s returned a coroutine, which is not awaited: give a plain function", name)
