"""What a cache server can do for us, whatever it is.

Every write carries a version and the instant at which its value was read from its source. A write replaces what
is there only if its version is not lower, and it expires one TTL after that instant, however long it was on its
way: a row that was read before a commit neither replaces the row after it nor outlives its own time.
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
"""A value as a server keeps it: names and texts, no name beginning with an underscore."""

_VERSION_DIGITS: Final = 19


@final
class Missing:
    """The type of `MISSING`: falsy, printable, and not None, for None can be cached."""

    _only: Missing | None = None

    def __new__(cls) -> Missing:
        """There is one."""
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
    """A version of one or more numbers of 0 to 2^63 - 1; of two such texts, the greater is the newer.

    Digits are padded, so that Redis compares texts: its Lua has no integers above 2^53.
    """
    return ".".join(f"{part:0{_VERSION_DIGITS}d}" for part in parts)


class Entry(NamedTuple):
    """What a cache holds under a key.

    Attributes:
        value: The fields; None is a cached "there is none".
        version: The version that it was written with.
        read_at: `time.monotonic()` of this process when the value was read from its source; never too late.
        expires_at: The same clock when it may be served no longer; never too late.
    """

    value: Fields | None
    version: str
    read_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Write:
    """A value on its way into a cache.

    Attributes:
        key: Where to.
        value: The fields; None says that there is none.
        ttl_ms: For how long after `read_at` it may be served, in milliseconds.
        version: What it is fenced by; None takes the server's time at `read_at`.
        read_at: `time.monotonic()` before it was read from its source; None means now.
        stale_ms: For how long after its TTL it may still be served where its source fails.
        tombstone: Nothing is served from now on, and nothing older is taken; `value` is not looked at.
    """

    key: str
    value: Fields | None
    ttl_ms: int
    version: str | None = None
    read_at: float | None = None
    stale_ms: int = 0
    tombstone: bool = False

    def __post_init__(self) -> None:
        """A cache without an end is a store."""
        if self.ttl_ms < 1 or self.stale_ms < 0:
            raise ValueError(f"a TTL is 1 ms or more, and stale_ms 0 or more; got {self.ttl_ms} and {self.stale_ms}")


@dataclass(frozen=True, slots=True)
class BookWrite:
    """Both sides of an order book on their way into a cache; each level is (price, size) as text.

    Attributes:
        bid_key: Where the bids go.
        ask_key: Where the asks go.
        meta_key: Where the version and the times go.
        bids: Levels of the bids, in any order.
        asks: Levels of the asks.
        ttl_ms: For how long it may be served, in milliseconds.
        version: What it is fenced by.
        fields: Whatever else belongs to the book.
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
        asks: The same, lowest price first.
    """

    meta: Entry
    bids: tuple[tuple[str, str], ...]
    asks: tuple[tuple[str, str], ...]


class Cache(ABC):
    """A place for values that expire.

    Every method but `health_check` raises `CacheUnavailable` or `CacheTimeout`; nothing here falls back to anything.
    """

    async def get(self, key: str) -> Fields | Missing | None:
        """The value; `MISSING` if there is none, None if it is cached that there is none."""
        entry = await self.lookup(key)
        return entry.value if isinstance(entry, Entry) else MISSING

    async def get_many(self, keys: Sequence[str]) -> list[Fields | Missing | None]:
        """The value of each key, in their order, in one round trip."""
        found = await self.lookup_many(keys)
        return [entry.value if isinstance(entry, Entry) else MISSING for entry in found]

    async def set(
        self, key: str, value: Fields | None, *, ttl_ms: int, version: str | None = None, read_at: float | None = None
    ) -> bool:
        """Replace the whole value, which expires; False if a newer one is there or its time is over.

        Args:
            key: Where to.
            value: The fields; None caches that there is none.
            ttl_ms: For how long after `read_at` it may be served, in milliseconds.
            version: What it is fenced by; None takes the server's time at `read_at`.
            read_at: `time.monotonic()` before the value was read from its source; None means now.
        """
        return (await self.set_many([Write(key, value, ttl_ms, version, read_at)]))[0]

    async def invalidate(self, key: str, *, ttl_ms: int, version: str | None = None) -> bool:
        """Serve nothing from now on, and take no value that was read before now; call it after the commit.

        Args:
            key: What has changed.
            ttl_ms: Longest time for which values under this key may be served.
            version: Take values of this version and newer ones, whenever they were read.
        """
        return (await self.set_many([Write(key, None, ttl_ms, version, tombstone=True)]))[0]

    @abstractmethod
    async def lookup(self, key: str, *, stale: bool = False) -> Entry | Missing:
        """The value with its version and times.

        Args:
            key: Where to look.
            stale: Also return what may only be served where the source fails.
        """

    @abstractmethod
    async def lookup_many(self, keys: Sequence[str], *, stale: bool = False) -> list[Entry | Missing]:
        """The same for many keys, in their order, in one round trip (one for each server of a cluster)."""

    @abstractmethod
    async def set_many(self, writes: Sequence[Write]) -> list[bool]:
        """Write each value; says of each whether it was taken. Each is atomic, all together are not."""

    @abstractmethod
    async def delete(self, *keys: str) -> int:
        """Remove values and their fences; returns how many keys there were. To fence, `invalidate`."""

    @abstractmethod
    async def set_book(self, write: BookWrite) -> bool:
        """Replace both sides of an order book at once; False if a newer one is there."""

    @abstractmethod
    async def get_book(self, bid_key: str, ask_key: str, meta_key: str, *, levels: int) -> BookSides | Missing:
        """The best levels of both sides, of one and the same write."""

    @abstractmethod
    async def drop_all(self, patterns: Sequence[str]) -> int:
        """Remove every key that begins with one of these; returns how many there were."""

    @abstractmethod
    async def health_check(self) -> HealthStatus:
        """Whether the server answers; never raises."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of every connection."""


now: Final = time.monotonic
"""The clock of `read_at` and `expires_at`, in seconds."""
