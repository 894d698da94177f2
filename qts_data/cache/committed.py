"""What this process has committed, for as long as a cache may hold something older."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qts_data.cache.port import now

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Committed", "Floor"]

_MOST: Final = 100_000


class Floor(NamedTuple):
    """The oldest that may be served under a key.

    Attributes:
        version: Nothing below it; '' where no version is known.
        value: What was committed with it; None where that is not known.
        since: Nothing that was read from its source before this instant, unless its version says that it is new enough.
        until: When every older value has expired everywhere.
    """

    version: str
    value: Any
    since: float
    until: float


class Committed:
    """Floors, for a bounded time and of a bounded number.

    A value that was read before a commit expires one TTL after its reading, wherever it is kept and whenever it was
    written there. So one TTL after the commit nothing older is left, and the floor can go.

    Args:
        keep_seconds: The longest time for which any value may be served; `keep_for` lengthens it.
        most: Floors that are kept; beyond it, the cache is not asked at all until the oldest ones would have gone.
        clock: Seconds that only grow.

    Attributes:
        keep_seconds: For how long floors are kept now.
        forgotten_at: When the newest floor was made that has gone since: whether a value that was read before is older
            than a commit, nobody knows any more.
    """

    def __init__(self, keep_seconds: float, *, most: int = _MOST, clock: Callable[[], float] = now) -> None:
        self.keep_seconds = keep_seconds
        self.forgotten_at = float("-inf")
        self._most = most
        self._clock = clock
        self._floors: OrderedDict[str, Floor] = OrderedDict()
        self._blind_until = float("-inf")

    def __len__(self) -> int:
        return len(self._floors)

    def note(self, key: str, version: str, value: Any = None) -> None:
        """A commit made this version; call it in the turn of the loop in which COMMIT returned."""
        there = self._floors.get(key)
        if there is not None and there.version > version:
            version, value = there.version, there.value
        elif there is not None and there.version == version and value is None:
            value = there.value
        since = there.since if there is not None else float("-inf")
        self._put(key, Floor(version, value, since, self._clock() + self.keep_seconds))

    def distrust(self, key: str) -> None:
        """Something may have been committed, nobody knows what: take nothing that was read before now."""
        there = self._floors.get(key)
        version, value = (there.version, there.value) if there is not None else ("", None)
        time = self._clock()
        self._put(key, Floor(version, value, time, time + self.keep_seconds))

    def keep_for(self, seconds: float) -> None:
        """Values may be served for so long: floors stay no shorter, those that are here included."""
        longer = seconds - self.keep_seconds
        if longer <= 0:
            return
        self.keep_seconds = seconds
        self._blind_until += longer
        for key, floor in self._floors.items():
            self._floors[key] = floor._replace(until=floor.until + longer)

    def find(self, key: str) -> Floor | None:
        """The floor of a key, if it has one."""
        floor = self._floors.get(key)
        if floor is not None and floor.until <= self._clock():
            del self._floors[key]
            self._forget(floor)
            return None
        return floor

    @property
    def blind(self) -> bool:
        """Whether floors were lost that still matter, so that no cached value can be trusted."""
        return self._blind_until > self._clock()

    def _put(self, key: str, floor: Floor) -> None:
        self._floors[key] = floor
        self._floors.move_to_end(key)
        time = self._clock()
        while self._floors:
            oldest = next(iter(self._floors.values()))
            if oldest.until > time:
                if len(self._floors) <= self._most:
                    return
                self._blind_until = max(self._blind_until, oldest.until)
            self._floors.popitem(last=False)
            self._forget(oldest)

    def _forget(self, floor: Floor) -> None:
        self.forgotten_at = max(self.forgotten_at, floor.until - self.keep_seconds)
