"""Cache-aside for the manager and the decorator: guarded, fenced, and with one load for all callers that miss."""

from __future__ import annotations

import asyncio
import logging
from asyncio import get_running_loop
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from qts_data.cache.codec import ForeignRecord
from qts_data.cache.committed import Committed
from qts_data.cache.loading import Loads
from qts_data.cache.plan import Plan, below, encoded, own
from qts_data.cache.port import MISSING, Entry, Missing, now
from qts_data.contracts.cache import CacheStats
from qts_data.errors import CacheError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from qts_data.cache.breaker import Breaker
    from qts_data.cache.flights import Loaded
    from qts_data.cache.near import NearCache
    from qts_data.cache.port import Cache, Write

__all__ = ["CacheAside", "Counters", "Plan"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_MOST_KEPT: Final = 10_000


@dataclass(slots=True)
class Counters:
    """The counters of `CacheStats`, while they grow."""

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

    def snapshot(self) -> CacheStats:
        """Return a copy of the counters."""
        return CacheStats(**{item.name: getattr(self, item.name) for item in fields(self)})


class CacheAside:
    """Reads the cache first, and the source if the cache has no value or none that can be trusted.

    No error of the cache leaves it. It belongs to the event loop that uses it. In the next loop, after the first has
    ended, it makes its own connection and begins with an empty near cache.

    Args:
        cache: The cache server.
        breaker: Decides whether the cache may be called.
        keep_seconds: How long floors are kept of kinds that were not announced: the longest time for which their values
            may be served. A plan with a longer TTL lengthens it.
        near: The near cache; None keeps nothing in the process.
        on_crowded: Called when more keys of a kind have changed than are remembered; see `Committed`.

    Attributes:
        enabled: Whether the cache may be called at all.
        read_only: Whether writes into the cache are forbidden.
    """

    def __init__(
        self,
        cache: Cache,
        breaker: Breaker,
        *,
        keep_seconds: float,
        near: NearCache | None = None,
        on_crowded: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        self.cache = cache
        self.breaker = breaker
        self.counters: Counters = Counters()
        self.committed: Committed = Committed(keep_seconds, on_crowded=on_crowded)
        self.near = near
        self.read_only = False
        self.enabled = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loads = Loads(self.committed, stale=self._stale, keep=self._keep)
        self._background: set[asyncio.Task[Any]] = set()
        # The plan under which each key was read last. The key's floors are already kept for that plan.
        self._kept_plans: dict[str, Plan[Any]] = {}

    async def fetch(self, key: str, plan: Plan[_T], load: Callable[[], Awaitable[_T | None]]) -> _T | None:
        """Return the value from the near cache, the cache or the source, whichever first has a fresh one.

        Args:
            key: Key in the cache.
            plan: How values of this kind are cached.
            load: Reads the value from its source; called once for all callers that miss at the same time.

        Raises:
            Exception: The error of `load`, for all callers that waited for it.
        """
        if plan.near and self.near is not None:
            if get_running_loop() is not self._loop:
                self.enter_loop()
            value = self.near.get(key)
            if value is not MISSING and self._fresh(key, plan, value):
                copied: Any = value if plan.copy is None else own(plan, cast("_T | None", value))
                if copied is not MISSING:
                    self.counters.hits += 1
                    self.counters.near_hits += 1
                    return cast("_T | None", copied)
            found = await self.read(key, plan)
        else:
            # Does the same as `read` without another coroutine: a thousand tasks may wait here at a time.
            entry = await self.guarded(self.cache.lookup, key, reads=1)
            found = MISSING if entry is None else cast("_T | Missing | None", self.accept(key, plan, entry))
        if isinstance(found, Missing):
            return await self.load(key, plan, load)
        return found

    async def read(self, key: str, plan: Plan[_T]) -> _T | Missing | None:
        """Return the cached value, or `MISSING` if there is none that can be trusted."""
        if plan.near and self.near is not None:
            return await self._read_near(self.near, key, plan, self.accept, reads=1)
        entry = await self.guarded(self.cache.lookup, key, reads=1)
        if entry is None:
            return MISSING
        return self.accept(key, plan, entry)

    def accept(self, key: str, plan: Plan[_T], entry: Entry | Missing) -> _T | Missing | None:
        """Return the value of an entry, or `MISSING` if it is absent, too old, foreign, or older than a commit."""
        value = self._open(key, plan, entry)
        if value is MISSING:
            self.counters.misses += 1
        else:
            self.counters.hits += 1
        return value

    async def load(self, key: str, plan: Plan[_T], load: Callable[[], Awaitable[_T | None]]) -> _T | None:
        """Read the source, once for all callers that ask meanwhile, and keep the value.

        Raises:
            ConfigurationError: The load asks for its own key, nested too often.
            Exception: The error of `load`.
        """
        self.enter_loop()
        return await self._loads.load(key, plan, load)

    async def store(self, key: str, plan: Plan[_T], value: _T | None, read_at: float) -> bool:
        """Write a value. False if it was refused or could not be written."""
        write, kept = encoded(key, plan, value, read_at), own(plan, value)
        if write is None or isinstance(kept, Missing):
            return False
        return await self._send(write, plan, kept, read_at)

    def changed(self, key: str, version: str | None = None, value: Any = None) -> None:
        """Note that the source of a key has changed. Call it in the turn of the loop in which COMMIT returned.

        Args:
            key: Key in the cache.
            version: The new version, if it is known.
            value: The new value, if it is known. The caller must not change it any more.
        """
        if version is None:
            self.committed.distrust(key)
        else:
            self.committed.note(key, version, value)
        if self.near is not None:
            self.near.drop(key)
        self._loads.changed(key)

    async def guarded(self, call: Callable[..., Coroutine[Any, Any, _T]], *args: Any, reads: int = 0) -> _T | None:
        """Call the cache, if it may be called. None if it was not called or did not answer.

        Args:
            call: The method of the cache.
            args: Its arguments.
            reads: How many values it reads, for the hit rate; 0 for a write.
        """
        if get_running_loop() is not self._loop:
            self.enter_loop()
        permit = self.breaker.enter() if self.enabled else 0
        if not permit:
            self.counters.skipped += 1
            self.counters.unanswered += reads
            return None
        try:
            answer = await call(*args)
        except CacheError as error:
            self.counters.errors += 1
            self.counters.unanswered += reads
            self.breaker.failed(permit, error.incident)
            return None
        except BaseException:
            self.breaker.abandoned(permit)
            raise
        self.breaker.succeeded(permit)
        return answer

    def enter_loop(self) -> None:
        """Bind this object to the running event loop.

        Raises:
            ConfigurationError: No loop runs here, or another thread's loop that still runs uses this object.
        """
        try:
            if (loop := get_running_loop()) is self._loop:
                return
        except RuntimeError as error:
            raise ConfigurationError("this cache works in an event loop only, and none runs here") from error
        if self._loop is not None and self._loop.is_running():
            raise ConfigurationError(
                "this cache belongs to an event loop that runs in another thread; make a manager for each loop"
            )
        # Futures and tasks of the former loop never finish here, and its connection reports no changes any more.
        self._loop = loop
        self._loads.forget()
        self._background.clear()
        if self.near is not None:
            self.near.clear()

    def in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run work that no caller waits for."""
        try:
            self.enter_loop()
        except ConfigurationError:
            work.close()
            raise
        task = get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    async def settle(self) -> None:
        """Wait for the writes that run in the background now, and for those that they begin."""
        self.enter_loop()
        for _ in range(3):
            if not self._background:
                return
            await asyncio.wait(set(self._background))

    async def _send(self, write: Write, plan: Plan[_T], value: _T | None, read_at: float) -> bool:
        """Write an encoded value, and keep it near. No caller holds this copy of the value."""
        key = write.key
        if self.read_only:
            return False
        if self._overtaken(key, plan, value, read_at):
            self.counters.refused += 1
            return False
        near = self.near if plan.near else None
        # Before `begin`: entering another loop empties the near cache.
        self.enter_loop()
        token = near.begin(key) if near is not None else None
        taken = None
        try:
            answer = await self.guarded(self.cache.set_many, [write])
            taken = bool(answer and answer[0])
        finally:
            kept = near is None or near.wrote(key, token, value if taken else MISSING, read_at + write.ttl_ms / 1000)
        if taken and not kept:
            # The server notifies us of writes by scripts, our own included, and joins them with those of other
            # processes.
            self.in_background(self._bring_near(key, plan))
        if answer is not None and not taken:
            self.counters.refused += 1
        return taken

    async def _read_near(
        self, near: NearCache, key: str, plan: Plan[_T], take: Callable[..., _T | Missing | None], *, reads: int
    ) -> _T | Missing | None:
        """Read, and keep the value near if there is one."""
        self.enter_loop()
        token = near.begin(key)
        value: _T | Missing | None = MISSING
        expires_at = 0.0
        try:
            entry = await self.guarded(self.cache.lookup, key, reads=reads)
            if entry is None:
                return MISSING
            value = take(key, plan, entry)
            if isinstance(entry, Entry):
                expires_at = min(entry.expires_at, entry.read_at + plan.ttl_seconds)
        finally:
            near.end(key, token, value if isinstance(value, Missing) else own(plan, value), expires_at)
        return value

    async def _bring_near(self, key: str, plan: Plan[_T]) -> None:
        if self.near is not None:
            await self._read_near(self.near, key, plan, self._open, reads=0)

    def _open(self, key: str, plan: Plan[_T], entry: Entry | Missing, *, stale: bool = False) -> _T | Missing | None:
        if self._kept_plans.get(key) is not plan:
            self._keep_for(key, plan)
        # It may have been written with a longer TTL than the present one.
        if not isinstance(entry, Entry) or (not stale and now() - entry.read_at > plan.ttl_seconds):
            return MISSING
        value: _T | None = None
        try:
            if entry.value is not None:
                value = plan.codec.decode(entry.value)
                if plan.key_of is not None and (other := plan.key_of(value)) != key:
                    raise ForeignRecord(f"the value belongs to {other}")  # noqa: TRY301
            fresh = not self._overtaken(key, plan, value, entry.read_at)
        except Exception as error:  # noqa: BLE001 - an entry edited by hand may hold anything, a codec raise anything
            self.counters.foreign += 1
            _log.debug("the entry of %s cannot be read: %s", key, error)
            return MISSING
        return value if fresh else MISSING

    def _keep_for(self, key: str, plan: Plan[Any]) -> None:
        """Keep floors as long as the plan serves values. Done once for each key, because hot keys are read often."""
        self.committed.keep_for(plan.keep_seconds, key)
        if len(self._kept_plans) >= _MOST_KEPT:
            self._kept_plans.clear()
        self._kept_plans[key] = plan

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a write into the cache failed", exc_info=error)

    def _keep(self, write: Write, plan: Plan[_T], loaded: Loaded[_T], landed: Callable[[], None]) -> None:
        async def keep() -> None:
            try:
                await self._send(write, plan, loaded.value, loaded.read_at)
            finally:
                landed()

        self.in_background(keep())

    async def _stale(self, key: str, plan: Plan[_T]) -> _T | Missing | None:
        async def lookup() -> Entry | Missing:
            return await self.cache.lookup(key, stale=True)

        entry = await self.guarded(lookup)
        if not isinstance(entry, Entry) or now() - entry.read_at > min(plan.keep_seconds, self.committed.kept_for(key)):
            # Commits that are longer ago may have been forgotten by this process.
            return MISSING
        return self._open(key, plan, entry, stale=True)

    def _fresh(self, key: str, plan: Plan[_T], value: _T | None) -> bool:
        """Return whether a near value is as new as the commits of this process."""
        floor = self.committed.find(key)
        return floor is None or not below(floor, plan, value)

    def _overtaken(self, key: str, plan: Plan[_T], value: _T | None, read_at: float) -> bool:
        """Return whether a value may be older than the commits of this process."""
        floor = self.committed.find(key)
        if read_at < self.committed.forgotten and read_at < self.committed.forgotten_at(key):
            return True
        return floor is not None and (read_at < floor.since or below(floor, plan, value))
