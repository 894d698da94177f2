"""Commits of this process, kept for as long as a cache may hold older values."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qts_data.cache.port import now

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Committed", "Floor"]

_MOST: Final = 100_000
_NEVER: Final = float("-inf")


class Floor(NamedTuple):
    """The floor of a key: older values may not be served.

    Attributes:
        version: Values of a lower version are not served; '' if no version is known.
        value: The committed value; None if it is not known.
        since: Values read from their source before this instant are not served, unless their version is new enough.
        made: When the newest commit was noted.
    """

    version: str
    value: Any
    since: float
    made: float


class _Kind:
    """The floors of keys with the same head, such as all positions. They share a TTL and a limit of their number.

    Attributes:
        keep: Seconds for which each floor is kept: the longest time for which such a value may be served.
        forgotten_at: Creation time of the newest evicted floor.
        order: Keys, the longest unchanged first.
        crowded_until: Before this instant no second event is sent.
    """

    __slots__ = ("crowded_until", "forgotten_at", "keep", "order")

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self.forgotten_at = _NEVER
        self.order: OrderedDict[str, None] = OrderedDict()
        self.crowded_until = _NEVER


class Committed:
    """Floors, for a bounded time and in a bounded number for each kind of key.

    A value that was read before a commit expires one TTL after its reading, wherever it is kept and whenever it was
    written there. So one TTL after the commit no older value is left, and the floor can be removed. If more keys have
    changed than are kept, a floor is evicted earlier. Then values of its kind that were read before the floor was made
    are not trusted; values read later are.

    Args:
        keep_seconds: How long floors are kept of a kind that `begin` did not name.
        most: Most floors of each kind.
        clock: A monotonic clock, in seconds.
        on_crowded: Called with the head of the keys and the seconds, when more keys of a kind have changed than are
            kept. It is not called again before those seconds have passed.

    Attributes:
        keep_seconds: The longest time for which any floor is kept.
        forgotten: Creation time of the newest evicted floor of any kind.
    """

    def __init__(
        self,
        keep_seconds: float,
        *,
        most: int = _MOST,
        clock: Callable[[], float] = now,
        on_crowded: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        self.keep_seconds: float = keep_seconds
        self.forgotten: float = _NEVER
        self._default = keep_seconds
        self._most = most
        self._clock = clock
        self._on_crowded = on_crowded
        self._floors: dict[str, Floor] = {}
        self._kinds: dict[str, _Kind] = {}

    def __len__(self) -> int:
        return len(self._floors)

    def begin(self, head: str, seconds: float) -> None:
        """Keep floors of keys `head:{...}` for this many seconds, unless that kind was named before."""
        if head not in self._kinds:
            self._kinds[head] = _Kind(seconds)
            self.keep_seconds = max(self.keep_seconds, seconds)

    def note(self, key: str, version: str, value: Any = None) -> None:
        """Note a commit of this version. Call it in the turn of the loop in which COMMIT returned."""
        there = self._floors.get(key)
        if there is not None and there.version > version:
            version, value = there.version, there.value
        elif there is not None and there.version == version and value is None:
            value = there.value
        since = there.since if there is not None else _NEVER
        self._put(key, Floor(version, value, since, self._clock()))

    def distrust(self, key: str) -> None:
        """Note that a commit may have changed a key in an unknown way. Values read before now are not trusted."""
        there = self._floors.get(key)
        version, value = (there.version, there.value) if there is not None else ("", None)
        time = self._clock()
        self._put(key, Floor(version, value, time, time))

    def keep_for(self, seconds: float, key: str | None = None) -> None:
        """Keep floors at least this long, existing ones included: of a key's kind, or of all kinds without a key."""
        self.keep_seconds = max(self.keep_seconds, seconds)
        if key is not None:
            kind = self._kind(key)
            kind.keep = max(kind.keep, seconds)
            return
        self._default = max(self._default, seconds)
        for kind in self._kinds.values():
            kind.keep = max(kind.keep, seconds)

    def kept_for(self, key: str) -> float:
        """Return for how many seconds floors of a key's kind are kept."""
        return self._kind(key).keep

    def find(self, key: str) -> Floor | None:
        """Return the floor of a key, or None without one."""
        floor = self._floors.get(key)
        if floor is None:
            return None
        kind = self._kind(key)
        if floor.made + kind.keep <= self._clock():
            self._forget(kind, key)
            return None
        return floor

    def forgotten_at(self, key: str) -> float:
        """Return when the newest evicted floor of a key's kind was made. Values read before it may be too old."""
        return self._kind(key).forgotten_at

    def _kind(self, key: str) -> _Kind:
        place = key.find(":{")
        head = key[:place] if place > 0 else ""
        kind = self._kinds.get(head)
        if kind is None:
            kind = self._kinds[head] = _Kind(self._default)
        return kind

    def _put(self, key: str, floor: Floor) -> None:
        kind = self._kind(key)
        self._floors[key] = floor
        kind.order[key] = None
        kind.order.move_to_end(key)
        time = self._clock()
        while kind.order:
            oldest = next(iter(kind.order))
            if self._floors[oldest].made + kind.keep > time:
                if len(kind.order) <= self._most:
                    return
                self._report(kind, key, time)
            self._forget(kind, oldest)

    def _forget(self, kind: _Kind, key: str) -> None:
        kind.forgotten_at = max(kind.forgotten_at, self._floors.pop(key).made)
        self.forgotten = max(self.forgotten, kind.forgotten_at)
        del kind.order[key]

    def _report(self, kind: _Kind, key: str, time: float) -> None:
        if kind.crowded_until <= time:
            kind.crowded_until = time + kind.keep
            self._on_crowded(key[: max(key.find(":{"), 0)], kind.keep)
