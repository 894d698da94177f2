"""The life of a cache manager: its parts, the engine's states, events, counters, and its end."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, Self

from qts_data.cache.aside import CacheAside
from qts_data.cache.breaker import Breaker, BreakerState
from qts_data.cache.feed_clock import FeedClock
from qts_data.cache.keys import Keys
from qts_data.cache.market import LiveMarket
from qts_data.cache.near import NearCache
from qts_data.cache.plans import Plans
from qts_data.cache.redis import RedisCache
from qts_data.contracts.cache import CacheEvent, CacheType, OperatingState, SafetyState, member
from qts_data.errors import CacheClosed, CacheError, WritesRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from qts_data.cache.loaders import Loaders
    from qts_data.cache.port import Cache
    from qts_data.contracts import HealthStatus
    from qts_data.contracts.cache import CacheConfig, CacheStats

__all__ = ["ManagerStates"]

_log = logging.getLogger(__name__)
_READ_ONLY: Final = frozenset({SafetyState.FAIL, SafetyState.LOCKDOWN})


class ManagerStates:
    """The part of a `CacheManager` that is independent of values. Its arguments are described there."""

    def __init__(
        self,
        config: CacheConfig,
        loaders: Loaders,
        *,
        cache: Cache | None = None,
        on_event: Callable[[CacheEvent], None] | None = None,
        on_safety: Callable[[SafetyState], None] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._config = config
        self._loaders = loaders
        self._on_event = on_event
        self._on_safety = on_safety
        self._on_close = on_close
        self._near = NearCache(config.near_entries) if config.near_entries and cache is None else None
        self._keys = Keys(config.prefix)
        self._closed = False
        self._safety = SafetyState.NORMAL
        self._operating = OperatingState.BALANCED
        self.breaker: Breaker = Breaker(
            config.breaker_threshold, config.breaker_recovery_seconds, on_change=self._breaker_changed
        )
        self._feed_clock = FeedClock(config.most_ahead_ms)
        self.aside: CacheAside = CacheAside(
            cache or RedisCache(config, near=self._near),
            self.breaker,
            keep_seconds=config.longest_ttl_ms / 1000,
            near=self._near,
            on_crowded=self._crowded,
        )
        for kind in CacheType:
            self.aside.committed.begin(self._keys.head(kind), config.longest_ttl_of(kind) / 1000)
        self._make_plans()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def cache(self) -> Cache:
        """The cache itself. Its errors are not caught."""
        return self.aside.cache

    @property
    def safety(self) -> SafetyState:
        """The safety state. `set_safety` enters another."""
        return self._safety

    @property
    def operating(self) -> OperatingState:
        """The operating state. `set_operating` enters another."""
        return self._operating

    async def close(self) -> None:
        """Remove the listeners, wait for the writes that are under way, and close the connections.

        The manager stays closed: each later call raises `CacheClosed`, but `set_safety` still reaches the database,
        the counters can be read, and commits that are still reported are ignored. A second `close` does nothing.
        """
        if not self._closed:
            self._closed = True
            if self._on_close is not None:
                self._on_close()
        try:
            await self.aside.settle()
        finally:
            await self.cache.close()

    # Health and counters

    def get_stats(self) -> CacheStats:
        """Return the counters since the start."""
        return self.aside.counters.snapshot()

    def is_circuit_open(self) -> bool:
        """Return whether the breaker stops calls to the cache."""
        return self.breaker.state is not BreakerState.CLOSED

    async def health_check(self) -> HealthStatus:
        """Report whether the cache answers. It never raises."""
        return await self.cache.health_check()

    def record_metrics(self) -> None:
        """Send the counters as a METRIC_RECORD event. Call it as often as they are wanted."""
        stats = self.get_stats()
        self._emit("METRIC_RECORD", 3, **asdict(stats), hit_rate=stats.hit_rate)

    # The engine's states

    def require_writable(self) -> None:
        """Refuse a write that the safety state does not allow.

        Raises:
            CacheClosed: The manager was closed.
            WritesRefused: The state is FAIL or LOCKDOWN.
        """
        self._require_open()
        if self._safety in _READ_ONLY:
            raise WritesRefused(f"the safety state is {self._safety}: cache and database are read-only")

    async def set_safety(self, state: SafetyState | str) -> None:
        """Enter a safety state.

        NORMAL and WARNING change nothing. FAIL makes cache and database read-only. LOCKDOWN also drops the cached
        values under this prefix, and disables the cache until another state is entered. A closed manager changes
        the database only.

        Raises:
            InvalidRecord: The text names no state; nothing has changed.
        """
        state = member(SafetyState, "safety", state)
        self._safety = state
        self.aside.read_only = state in _READ_ONLY
        self.aside.enabled = state is not SafetyState.LOCKDOWN
        if self._on_safety is not None:
            self._on_safety(state)
        if state is not SafetyState.LOCKDOWN or self._closed:
            return
        if self._near is not None:
            self._near.clear()
        await self.aside.settle()
        try:
            dropped = await self.cache.drop_all(self._keys.starts())
            _log.warning("LOCKDOWN: dropped %d keys of the cache", dropped)
        except CacheError as error:
            _log.error("LOCKDOWN: the cache could not be emptied, its values expire by themselves: %s", error)

    def set_operating(self, state: OperatingState | str) -> None:
        """Enter an operating state: AGGRESSIVE shortens the TTL of prices, DEFENSIVE caps that of positions.

        Raises:
            InvalidRecord: The text names no state; nothing has changed.
        """
        self._operating = member(OperatingState, "operating", state)
        if self._near is not None:
            self._near.clear()
        self._make_plans()

    def _require_open(self) -> None:
        if self._closed:
            raise CacheClosed("the cache manager was closed, and stays closed; make another")

    def _make_plans(self) -> None:
        self._plans = Plans(self._config, self._keys, self._operating, near=self._near is not None)
        self._market = LiveMarket(
            self.aside, self._keys, self._plans.price_ttl_ms, self._plans.book_ttl_ms, self._feed_clock
        )

    def _breaker_changed(self, state: BreakerState) -> None:
        if state is BreakerState.OPEN:
            self._emit(self._config.degraded_event, 0, failures=self.breaker.failures)
        else:
            self._emit("CACHE_RECOVERED", 1)

    def _crowded(self, head: str, seconds: float) -> None:
        self._emit("CACHE_CROWDED", 1, keys=head, seconds=seconds)

    def _emit(self, name: str, priority: int, **detail: float | str) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(CacheEvent(name=name, priority=priority, detail=detail))
        except Exception:  # noqa: BLE001 - a listener must not make the cache fail
            _log.exception("a listener for the cache's events failed")
