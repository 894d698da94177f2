"""The in-memory equivalent of Redis, for one process and for tests."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from qts_data.cache.port import MISSING, BookSides, Cache, Entry, Fields, Missing, now, version_text
from qts_data.contracts import HealthStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qts_data.cache.port import BookWrite, Write

__all__ = ["MemoryCache"]


@dataclass(slots=True)
class _Stored:
    value: Fields | None
    version: str
    read_at: float
    expires_at: float
    gone_at: float
    tombstone: bool = False
    until_read_after: float | None = None
    """For a tombstone without its own version: values read after this time are taken, whatever their version."""


class MemoryCache(Cache):
    """Keeps values in this process, by the same rules as Redis.

    Args:
        clock: A monotonic clock, in seconds; `time.monotonic` by default.
    """

    def __init__(self, clock: Callable[[], float] = now) -> None:
        self._clock = clock
        self._stored: dict[str, _Stored] = {}
        self._books: dict[str, tuple[_Stored, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]] = {}

    async def lookup(self, key: str, *, stale: bool = False) -> Entry | Missing:
        """Return the entry of a key: value, version and times."""
        stored = self._alive(key)
        if stored is None or stored.tombstone or (not stale and stored.expires_at <= self._clock()):
            return MISSING
        return Entry(
            None if stored.value is None else dict(stored.value), stored.version, stored.read_at, stored.expires_at
        )

    async def lookup_many(self, keys: Sequence[str], *, stale: bool = False) -> list[Entry | Missing]:
        """Return the entries of many keys, in their order."""
        return [await self.lookup(key, stale=stale) for key in keys]

    async def set_many(self, writes: Sequence[Write]) -> list[bool]:
        """Write each value, and return for each whether it was taken."""
        return [self._set(write) for write in writes]

    async def delete(self, *keys: str) -> int:
        """Remove values and their fences, and return how many keys existed."""
        return sum(self._forget(key) for key in keys if self._alive(key) is not None or key in self._books)

    async def set_book(self, write: BookWrite) -> bool:
        """Replace both sides of an order book at once. False if a newer one is there."""
        time = self._clock()
        there = self._books.get(write.meta_key)
        if there is not None and there[0].gone_at > time and there[0].version > write.version:
            return False
        expiry = time + write.ttl_ms / 1000
        stored = _Stored(dict(write.fields), write.version, time, expiry, expiry)
        self._books[write.meta_key] = (
            stored,
            _sorted(write.bids, descending=True),
            _sorted(write.asks, descending=False),
        )
        return True

    async def get_book(self, bid_key: str, ask_key: str, meta_key: str, *, levels: int) -> BookSides | Missing:  # noqa: ARG002
        """Return the best levels of both sides, both of the same write."""
        there = self._books.get(meta_key)
        if there is None or there[0].expires_at <= self._clock():
            self._books.pop(meta_key, None)
            return MISSING
        stored, bids, asks = there
        meta = Entry(dict(stored.value or {}), stored.version, stored.read_at, stored.expires_at)
        return BookSides(meta, bids[:levels], asks[:levels])

    async def drop_all(self, patterns: Sequence[str]) -> int:
        """Remove every key that begins with one of these, and return how many there were."""
        found = [key for key in (*self._stored, *self._books) if key.startswith(tuple(patterns))]
        return sum(self._forget(key) for key in found)

    async def health_check(self) -> HealthStatus:
        """Return a healthy status with the number of keys."""
        return HealthStatus(
            component="cache",
            healthy=True,
            detail=f"in memory, {len(self._stored) + len(self._books)} keys",
            latency_seconds=0.0,
            checked_at=dt.datetime.now(dt.UTC),
        )

    async def close(self) -> None:
        """Remove all values."""
        self._stored.clear()
        self._books.clear()

    def _alive(self, key: str) -> _Stored | None:
        stored = self._stored.get(key)
        if stored is not None and stored.gone_at <= self._clock():
            del self._stored[key]
            return None
        return stored

    def _set(self, write: Write) -> bool:
        time = self._clock()
        read_at = time if write.read_at is None else write.read_at
        version = version_text(math.floor(read_at * 1e6)) if write.version is None else write.version
        there = self._alive(write.key)
        if there is not None and not (write.tombstone and write.version is None):
            newer = there.version > version
            if there.until_read_after is not None:
                # The versions are of different scales, so the time of the invalidation decides.
                newer = read_at <= there.until_read_after and (newer or write.version is not None)
            if newer:
                return False
        self._stored.pop(write.key, None)
        expires_at = read_at + write.ttl_ms / 1000
        gone_at = expires_at + write.stale_ms / 1000
        if gone_at <= time:
            return False
        value = None if write.value is None or write.tombstone else dict(write.value)
        until = time if write.tombstone and write.version is None else None
        self._stored[write.key] = _Stored(value, version, read_at, expires_at, gone_at, write.tombstone, until)
        return True

    def _forget(self, key: str) -> bool:
        found = self._stored.pop(key, None) is not None
        return self._books.pop(key, None) is not None or found


def _sorted(levels: Sequence[tuple[str, str]], *, descending: bool) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(levels, key=lambda level: Decimal(level[0]), reverse=descending))
