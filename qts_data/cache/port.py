"""The port: the operations that every cache server offers.

Every write carries a version and the instant at which its value was read from its source. A write replaces an entry
only if its own version is not lower. It expires one TTL after that instant, however long the write took. So a row
that was read before a commit neither replaces the row after it nor outlives its own TTL.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

if TYPE_CHECKING:
    from qts_data.contracts import HealthStatus

__all__ = ["MISSING", "BookSides", "BookWrite", "Cache", "Entry", "Fields", "Missing", "Write", "version_text"]

Fields: TypeAlias = Mapping[str, str]
"""A value as a server keeps it: names and texts. No name begins with an underscore."""

_VERSION_DIGITS: Final = 19


@final
class Missing:
    """The type of `MISSING`. It is falsy and printable, and differs from None, because None can be cached."""

    _only: Missing | None = None

    def __new__(cls) -> Missing:
        """Return the only instance."""
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cls._only

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()


def version_text(*parts: int) -> str:
    """Make a version of one or more numbers of 0 to 2^63 - 1. Of two such texts, the greater is the newer.

    Digits are padded, so that Redis can compare texts: its Lua has no integers above 2^53.
    """
    return ".".join(f"{part:0{_VERSION_DIGITS}d}" for part in parts)


class Entry(NamedTuple):
    """The content of a cache under a key.

    Attributes:
        value: The fields; None is a cached "there is none".
        version: The version that it was written with.
        read_at: `time.monotonic()` of this process when the value was read from its source, or earlier.
        expires_at: `time.monotonic()` at which it expires, or earlier.
    """

    value: Fields | None
    version: str
    read_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Write:
    """A value to be written into a cache.

    Attributes:
        key: Key of the value.
        value: The fields; None means that there is none.
        ttl_ms: How long after `read_at` it may be served, in milliseconds.
        version: The version that fences it; None takes the server's time at `read_at`.
        read_at: `time.monotonic()` before it was read from its source; None means now.
        stale_ms: How long after its TTL it may still be served if its source fails, in milliseconds.
        tombstone: Serve no value from now on and take no older one; `value` is ignored.
    """

    key: str
    value: Fields | None
    ttl_ms: int
    version: str | None = None
    read_at: float | None = None
    stale_ms: int = 0
    tombstone: bool = False

    def __post_init__(self) -> None:
        """Refuse a write that would never expire.

        Raises:
            ValueError: A duration is out of range.
        """
        if self.ttl_ms < 1 or self.stale_ms < 0:
            raise ValueError(f"a TTL is 1 ms or more, and stale_ms 0 or more; got {self.ttl_ms} and {self.stale_ms}")


@dataclass(frozen=True, slots=True)
class BookWrite:
    """Both sides of an order book, to be written into a cache. Each level is (price, size) as text.

    Attributes:
        bid_key: Key of the bids.
        ask_key: Key of the asks.
        meta_key: Key of the version and the times.
        bids: Levels of the bids, in any order.
        asks: Levels of the asks, in any order.
        ttl_ms: How long it may be served, in milliseconds.
        version: The version that fences it.
        fields: All other fields of the book.
    """

    bid_key: str
    ask_key: str
    meta_key: str
    bids: Sequence[tuple[str, str]]
    asks: Sequence[tuple[str, str]]
    ttl_ms: int
    version: str
    fields: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BookSides:
    """Both sides of an order book, the best level of each first.

    Attributes:
        meta: Its fields, version and times.
        bids: (price, size) as text, highest price first.
        asks: (price, size) as text, lowest price first.
    """

    meta: Entry
    bids: tuple[tuple[str, str], ...]
    asks: tuple[tuple[str, str], ...]


class Cache(ABC):
    """A store of values that expire.

    Every method but `health_check` raises `CacheUnavailable` or `CacheTimeout`. No method falls back to another source.
    """

    async def get(self, key: str) -> Fields | Missing | None:
        """Return the value, or `MISSING` without an entry, or None if the absence of a value is cached."""
        entry = await self.lookup(key)
        return entry.value if isinstance(entry, Entry) else MISSING

    async def get_many(self, keys: Sequence[str]) -> list[Fields | Missing | None]:
        """Return the value of each key, in their order, in one round trip."""
        found = await self.lookup_many(keys)
        return [entry.value if isinstance(entry, Entry) else MISSING for entry in found]

    async def set(
        self, key: str, value: Fields | None, *, ttl_ms: int, version: str | None = None, read_at: float | None = None
    ) -> bool:
        """Replace the whole value, with a TTL. False if a newer one is there or its TTL has passed.

        Args:
            key: Key of the value.
            value: The fields; None caches that there is none.
            ttl_ms: How long after `read_at` it may be served, in milliseconds.
            version: The version that fences it; None takes the server's time at `read_at`.
            read_at: `time.monotonic()` before the value was read from its source; None means now.
        """
        return (await self.set_many([Write(key, value, ttl_ms, version, read_at)]))[0]

    async def invalidate(self, key: str, *, ttl_ms: int, version: str | None = None) -> bool:
        """Serve no value from now on, and take none that was read before now. Call it after the commit.

        Args:
            key: Key of the changed value.
            ttl_ms: Longest time for which values under this key may be served, in milliseconds.
            version: Take values of this version and newer ones, whenever they were read.
        """
        return (await self.set_many([Write(key, None, ttl_ms, version, tombstone=True)]))[0]

    @abstractmethod
    async def lookup(self, key: str, *, stale: bool = False) -> Entry | Missing:
        """Return the entry of a key: value, version and times.

        Args:
            key: Key of the value.
            stale: Also return a value that may only be served if its source fails.
        """

    @abstractmethod
    async def lookup_many(self, keys: Sequence[str], *, stale: bool = False) -> list[Entry | Missing]:
        """Return the entries of many keys, in their order, in one round trip (one for each server of a cluster)."""

    @abstractmethod
    async def set_many(self, writes: Sequence[Write]) -> list[bool]:
        """Write each value, and return for each whether it was taken. Each is atomic, all together are not."""

    @abstractmethod
    async def delete(self, *keys: str) -> int:
        """Remove values and their fences, and return how many keys existed. To keep a fence, use `invalidate`."""

    @abstractmethod
    async def set_book(self, write: BookWrite) -> bool:
        """Replace both sides of an order book at once. False if a newer one is there."""

    @abstractmethod
    async def get_book(self, bid_key: str, ask_key: str, meta_key: str, *, levels: int) -> BookSides | Missing:
        """Return the best levels of both sides, both of the same write."""

    @abstractmethod
    async def drop_all(self, patterns: Sequence[str]) -> int:
        """Remove every key that begins with one of these, and return how many there were."""

    @abstractmethod
    async def health_check(self) -> HealthStatus:
        """Report whether the server answers. It never raises."""

    @abstractmethod
    async def close(self) -> None:
        """Close every connection."""


now: Final = time.monotonic
"""The clock of `read_at` and `expires_at`, in seconds."""
