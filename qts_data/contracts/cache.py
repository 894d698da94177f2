"""Vocabulary of the hot tier: the types of cached values, their TTLs, the connection settings and the counters."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

from qts_data.errors import ConfigurationError, InvalidRecord

__all__ = [
    "AGGRESSIVE_PRICE_TTL_MS",
    "DEFAULT_TTL_MS",
    "CacheConfig",
    "CacheEvent",
    "CacheStats",
    "CacheType",
    "OperatingState",
    "SafetyState",
    "check_milliseconds",
    "member",
]

_E = TypeVar("_E", bound=enum.StrEnum)
_MOST_MILLISECONDS: Final = 366 * 86_400_000


class CacheType(enum.StrEnum):
    """Type of a cached value. The enum's value begins its keys, such as `pos:{005930}`."""

    PRICE = "price"
    POSITION = "pos"
    ORDERBOOK = "book"
    RISK = "risk"
    ORDER = "ord"
    STRATEGY = "strat"


DEFAULT_TTL_MS: Final[Mapping[CacheType, int]] = MappingProxyType(
    {
        CacheType.PRICE: 100,
        CacheType.POSITION: 1_000,
        CacheType.ORDERBOOK: 50,
        CacheType.RISK: 5_000,
        CacheType.ORDER: 60_000,
        CacheType.STRATEGY: 60_000,
    }
)
"""Longest time for which a value may be served, in milliseconds after it was read from its source."""

AGGRESSIVE_PRICE_TTL_MS: Final = 50
"""The longest TTL of a price in AGGRESSIVE."""


class SafetyState(enum.StrEnum):
    """The engine's confidence in its own state."""

    NORMAL = "NORMAL"
    WARNING = "WARNING"
    FAIL = "FAIL"
    LOCKDOWN = "LOCKDOWN"


class OperatingState(enum.StrEnum):
    """How the engine trades."""

    AGGRESSIVE = "AGGRESSIVE"
    BALANCED = "BALANCED"
    DEFENSIVE = "DEFENSIVE"


def member(kind: type[_E], field_name: str, value: object) -> _E:
    """Return a member of an enumeration, given as the member or as its text.

    Raises:
        InvalidRecord: The value names no member.
    """
    try:
        return kind(cast("str", value))
    except (ValueError, TypeError) as error:
        names = ", ".join(one.value for one in kind)
        raise InvalidRecord(field=field_name, reason=f"{value!r} is none of {names}") from error


def check_milliseconds(name: str, value: object, *, least: int = 1) -> None:
    """Refuse a duration that is not a whole number of milliseconds of at most a year.

    Raises:
        ConfigurationError: The value is not allowed; the message names it.
    """
    _check_whole(name, value, least=least, most=_MOST_MILLISECONDS, unit=" milliseconds")


def _check_whole(name: str, value: object, *, least: int, most: int, unit: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError(f"{name} must be a whole number of {least} to {most}{unit}, is {value!r}")


def _check_seconds(name: str, value: Any, *, least: float = 0.0) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < least or (not least and name != "breaker_recovery_seconds" and value == 0):
        raise ConfigurationError(f"{name} must be a finite number of seconds above zero, is {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Address of the Redis server, and the time limits of calls to it.

    Attributes:
        host: Name or address of the server.
        port: Port of the server.
        db: Number of the database; a cluster has 0 only.
        username: ACL user; None is the default user.
        password: Its password.
        tls: Whether to encrypt, and to check the server's certificate.
        tls_root_certificate: File of the root certificate for that check. None uses the system's certificates.
        url: A `redis://`, `rediss://` or `unix://` URL that replaces all of the above.
        sentinels: Addresses (host, port) of Sentinels; then `sentinel_master` names the master.
        sentinel_master: The name under which the Sentinels watch the master.
        sentinel_username: ACL user of the Sentinels. They do not know the users of the master.
        sentinel_password: Password of that user; None if the Sentinels demand none.
        cluster: Whether the server belongs to a Redis Cluster.
        max_connections: Most connections of this process to each server that it talks to.
        socket_timeout_seconds: Longest wait for an answer, including the time for connecting.
        connect_timeout_seconds: Longest time for making a connection. A caller still waits no longer than for an
            answer.
        breaker_threshold: Consecutive failures after which the breaker opens and no calls are made.
        breaker_recovery_seconds: Time for which the breaker stays open.
        prefix: Text that begins every key. Two systems on one server need two prefixes.
        ttl_ms: TTL in milliseconds of each type that must not use its default.
        defensive_position_ttl_ms: Longest time for which a position may be served in DEFENSIVE, in milliseconds. None
            is its default TTL at most. A longer time means older positions: set it only to spare the database.
        most_ahead_ms: Milliseconds by which the `quoted_at` of a price or book may be ahead of this machine's clock. A
            record further ahead is neither published nor served.
        near_entries: Most values that the process keeps in its near cache, which the server invalidates. 0 disables it.
        degraded_event: Name of the event sent when the breaker opens.

    Raises:
        ConfigurationError: A value is out of range, or two values contradict each other.
    """

    host: str = "localhost"
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_root_certificate: str | None = None
    url: str | None = field(default=None, repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_master: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    cluster: bool = False
    max_connections: int = 50
    socket_timeout_seconds: float = 0.1
    connect_timeout_seconds: float = 0.5
    breaker_threshold: int = 5
    breaker_recovery_seconds: float = 60.0
    prefix: str = ""
    ttl_ms: Mapping[CacheType, int] = field(default_factory=lambda: dict(DEFAULT_TTL_MS))
    defensive_position_ttl_ms: int | None = None
    most_ahead_ms: int = 1000
    near_entries: int = 0
    degraded_event: str = "CACHE_DEGRADED"

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` for values that would fail later, or never."""
        for name in ("socket_timeout_seconds", "connect_timeout_seconds", "breaker_recovery_seconds"):
            _check_seconds(name, getattr(self, name))
        for name, least, most in _WHOLE:
            _check_whole(name, getattr(self, name), least=least, most=most)
        if not isinstance(self.prefix, str) or not self.prefix.isprintable() or set(self.prefix) & set("{}*?[]\\"):
            raise ConfigurationError(f"prefix {self.prefix!r} holds a character of hash tags or patterns: {{}}*?[]\\")
        self._check_ttls()
        if bool(self.sentinels) != bool(self.sentinel_master):
            raise ConfigurationError("sentinels and sentinel_master come together")
        if self.cluster and (self.sentinels or self.db):
            raise ConfigurationError("a Redis Cluster has no Sentinels and no database but 0")

    def _check_ttls(self) -> None:
        ttls: dict[CacheType, int] = {}
        for kind, milliseconds in self.ttl_ms.items():
            try:
                ttls[CacheType(kind)] = milliseconds
            except ValueError as error:
                names = ", ".join(one.value for one in CacheType)
                raise ConfigurationError(f"ttl_ms names {kind!r}, which is none of {names}") from error
            check_milliseconds(f"the TTL of {CacheType(kind).name}", milliseconds)
        # Copied: the caller may change its own mapping later.
        object.__setattr__(self, "ttl_ms", ttls)
        if self.defensive_position_ttl_ms is not None:
            check_milliseconds("the TTL of POSITION in DEFENSIVE", self.defensive_position_ttl_ms)

    def ttl(self, kind: CacheType, state: OperatingState = OperatingState.BALANCED) -> int:
        """Return the milliseconds for which a value of this type may be served in a state of the engine."""
        milliseconds = self.ttl_ms.get(kind, DEFAULT_TTL_MS[kind])
        if state == OperatingState.AGGRESSIVE and kind == CacheType.PRICE:
            return min(milliseconds, AGGRESSIVE_PRICE_TTL_MS)
        if state == OperatingState.DEFENSIVE and kind == CacheType.POSITION:
            return self.defensive_position_ttl_ms or min(milliseconds, DEFAULT_TTL_MS[kind])
        return milliseconds

    @property
    def longest_ttl_ms(self) -> int:
        """Return the milliseconds after which every value written under this configuration has expired."""
        return max(self.longest_ttl_of(kind) for kind in CacheType)

    def longest_ttl_of(self, kind: CacheType) -> int:
        """Return the most milliseconds for which a value of this type may be served in any state of the engine."""
        return max(self.ttl(kind, state) for state in OperatingState)


_WHOLE: Final = (
    ("port", 1, 65_535),
    ("db", 0, 2**31 - 1),
    ("max_connections", 1, 2**31 - 1),
    ("breaker_threshold", 1, 2**31 - 1),
    ("most_ahead_ms", 0, _MOST_MILLISECONDS),
    ("near_entries", 0, 2**31 - 1),
)
"""Fields that hold whole numbers, each with its smallest and largest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """Counters since the start of the process.

    Attributes:
        hits: Reads that the cache answered, including those from the near cache.
        near_hits: Hits that the near cache answered, inside the process.
        misses: Reads that reached the cache but that it could not answer.
        too_old: Misses whose price or book was cached but past its TTL, counted from `quoted_at`.
        foreign: Misses whose entry could not be read, or belonged to another key.
        unanswered: Reads for which the cache was disabled or failing. A precheck counts as four reads.
        errors: Calls that failed or timed out, reads and writes.
        skipped: Calls that were not made because the breaker was open or the cache disabled, reads and writes.
        refused: Writes that came too late: the cache held a newer value, or the same record with a stamp ahead.
        ahead: Prices and books stamped further ahead than `CacheConfig.most_ahead_ms`: not published, or not served.
    """

    hits: int = 0
    near_hits: int = 0
    misses: int = 0
    too_old: int = 0
    foreign: int = 0
    unanswered: int = 0
    errors: int = 0
    skipped: int = 0
    refused: int = 0
    ahead: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits / (hits + misses + unanswered). Writes do not count. 0.0 before the first read."""
        reads = self.hits + self.misses + self.unanswered
        return self.hits / reads if reads else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEvent:
    """A change or figure of the cache that the engine should handle.

    Attributes:
        name: `CACHE_DEGRADED`, `CACHE_RECOVERED`, `CACHE_CROWDED`, `METRIC_RECORD`, or the name that
            `CacheConfig.degraded_event` gives to the first.
        priority: 0 is the most urgent, 3 the least.
        detail: Figures and reasons, by name.
    """

    name: str
    priority: int
    detail: Mapping[str, str | int | float] = field(default_factory=dict)
