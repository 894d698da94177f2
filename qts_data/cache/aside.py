"""Cache-aside, done once for the manager and the decorator: guarded, fenced, and one load for all who miss."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from qts_data.cache.codec import ForeignRecord, copier
from qts_data.cache.committed import Committed
from qts_data.cache.port import MISSING, Entry, Missing, Write, now
from qts_data.contracts.cache import CacheStats
from qts_data.errors import CacheError, ConfigurationError, DatabaseUnavailable, StatementTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from qts_data.cache.breaker import Breaker
    from qts_data.cache.codec import Codec
    from qts_data.cache.committed import Floor
    from qts_data.cache.near import NearCache
    from qts_data.cache.port import Cache

__all__ = ["CacheAside", "Counters", "Plan"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_MOST_LOADS: Final = 3
_JITTER: Final = 0.1


@dataclass(slots=True)
class Counters:
    """`CacheStats` as it grows."""

    hits: int = 0
    near_hits: int = 0
    misses: int = 0
    errors: int = 0
    skipped: int = 0
    refused: int = 0

    def snapshot(self) -> CacheStats:
        """The counters now."""
        return CacheStats(**{item.name: getattr(self, item.name) for item in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Generic[_T]):
    """How values of one kind are cached.

    Attributes:
        codec: Turns them into fields and back.
        ttl_ms: For how long they may be served, in milliseconds.
        version: What a value is fenced by; None where it has none, which fences by the time of reading.
        none_version: The same for "there is none".
        near: Whether they may be kept in the process.
        negative: Whether "there is none" is cached too.
        jitter: Whether TTLs are shortened at random by up to a tenth, so that keys do not expire together.
        stale_ms: For how long after the TTL a value may be served where the database cannot be reached.
        copy: Gives a value that its holder may change without anybody else seeing it; None where nobody can change it.

    Raises:
        ConfigurationError: A TTL is below 1 ms, or `stale_ms` below zero.
    """

    codec: Codec[_T]
    ttl_ms: int
    version: Callable[[_T], str] | None = None
    none_version: str | None = None
    near: bool = False
    negative: bool = True
    jitter: bool = False
    stale_ms: int = 0
    copy: Callable[[_T], _T] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """The codec knows whether its values can be changed."""
        if self.ttl_ms < 1 or self.stale_ms < 0:
            reason = f"a TTL is 1 ms or more, and stale_ms 0 or more; got {self.ttl_ms} and {self.stale_ms}"
            raise ConfigurationError(reason)
        object.__setattr__(self, "copy", copier(self.codec))


@dataclass(frozen=True, slots=True)
class _Loaded(Generic[_T]):
    """What a load found, when it began, and whether the cache may have it."""

    value: _T | None
    read_at: float
    keep: bool


class CacheAside:
    """Asks the cache first and the source where the cache has nothing, or is not to be trusted.

    No error of the cache leaves it.

    Args:
        cache: Where values are kept.
        breaker: Says whether it may be asked.
        keep_seconds: The longest time for which any value may be served; a plan with a longer TTL lengthens it.
        near: Values in this process.

    Attributes:
        enabled: Whether the cache may be asked at all.
        read_only: Whether nothing may be written into the cache.
    """

    def __init__(
        self,
        cache: Cache,
        breaker: Breaker,
        *,
        keep_seconds: float,
        near: NearCache | None = None,
    ) -> None:
        self.cache = cache
        self.breaker = breaker
        self.counters = Counters()
        self.committed = Committed(keep_seconds)
        self.near = near
        self.read_only = False
        self.enabled = True
        self._flights: dict[str, asyncio.Future[Any]] = {}
        self._background: set[asyncio.Task[Any]] = set()

    async def fetch(self, key: str, plan: Plan[_T], load: Callable[[], Awaitable[_T | None]]) -> _T | None:
        """The value from wherever it is fresh enough.

        Args:
            key: Where the cache keeps it.
            plan: How it is cached.
            load: Reads it from its source; called by one of all who miss at the same time.

        Raises:
            Exception: What `load` raised, to all who were waiting for it.
        """
        if plan.near and self.near is not None:
            value = self.near.get(key)
            if value is not MISSING and self._fresh(key, plan, value):
                self.counters.hits += 1
                self.counters.near_hits += 1
                return _own(plan, cast("_T | None", value))
        found = await self.read(key, plan)
        if isinstance(found, Missing):
            return await self.load(key, plan, load)
        return found

    async def read(self, key: str, plan: Plan[_T]) -> _T | Missing | None:
        """The cached value, if it can be trusted."""
        if plan.near and self.near is not None:
            return await self._read_near(self.near, key, plan, self.accept)
        entry = await self.guarded(self.cache.lookup, key)
        if entry is None:
            return MISSING
        return self.accept(key, plan, entry)

    def accept(self, key: str, plan: Plan[_T], entry: Entry | Missing, *, stale: bool = False) -> _T | Missing | None:
        """What an entry says, or `MISSING` if it is not there, too old, of another layout, or older than a commit."""
        value = self._open(key, plan, entry, stale=stale)
        if value is MISSING:
            self.counters.misses += 1
        else:
            self.counters.hits += 1
        return value

    async def load(self, key: str, plan: Plan[_T], load: Callable[[], Awaitable[_T | None]]) -> _T | None:
        """Read the source, once for all who ask meanwhile, and keep what it says."""
        while (flight := self._flights.get(key)) is not None:
            # Not awaited itself: whoever is cancelled here must not cancel it for the others.
            await asyncio.wait([flight])
            if not flight.cancelled():
                loaded: _Loaded[_T] = flight.result()
                if now() - loaded.read_at <= plan.ttl_ms / 1000:
                    return _own(plan, loaded.value)
                self._land(key, flight)
            # Whoever was loading was cancelled; somebody else takes over.
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            loaded = await self._load(key, plan, load)
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # nobody may be waiting, and that is no reason for a warning
            self._land(key, flight)
            raise
        except BaseException:
            flight.cancel()
            self._land(key, flight)
            raise
        # From its return on, the value is the caller's, who may change it: what is kept and shared is made before.
        shared = replace(loaded, value=_own(plan, loaded.value))
        wanted = loaded.keep and (loaded.value is not None or plan.negative)
        write = _encoded(key, plan, loaded.value, loaded.read_at) if wanted else None
        flight.set_result(shared)
        if write is not None:
            # Until the value is in the cache, who has just missed it there is answered from here.
            self.in_background(self._keep(write, plan, shared, flight))
        else:
            self._land(key, flight)
        return loaded.value

    async def store(self, key: str, plan: Plan[_T], value: _T | None, read_at: float) -> bool:
        """Write a value; False if it was refused or could not be written."""
        write = _encoded(key, plan, value, read_at)
        return write is not None and await self._send(write, plan, _own(plan, value), read_at)

    async def _send(self, write: Write, plan: Plan[_T], value: _T | None, read_at: float) -> bool:
        """Write what was encoded, and keep the value near, which is nobody else's."""
        key = write.key
        if self.read_only:
            return False
        if self._overtaken(key, plan, value, read_at):
            self.counters.refused += 1
            return False
        near = self.near if plan.near else None
        token = near.begin(key) if near is not None else None
        taken = None
        try:
            answer = await self.guarded(self.cache.set_many, [write])
            taken = bool(answer and answer[0])
        finally:
            kept = near is None or near.wrote(key, token, value if taken else MISSING, read_at + write.ttl_ms / 1000)
        if taken and not kept:
            # The server tells of the writes of scripts, our own too, and together with those of others.
            self.in_background(self._bring_near(key, plan))
        if answer is not None and not taken:
            self.counters.refused += 1
        return taken

    def changed(self, key: str, version: str | None = None, value: Any = None) -> None:
        """The source of a key has changed; call it in the turn of the loop in which COMMIT returned.

        Args:
            key: Where the cache keeps it.
            version: The new version, if it is known.
            value: The new value, if it is known; not to be changed any more.
        """
        if version is None:
            self.committed.distrust(key)
        else:
            self.committed.note(key, version, value)
        if self.near is not None:
            self.near.drop(key)
        # Who asks from now on does not join a load that may have begun before the commit.
        self._flights.pop(key, None)

    async def guarded(self, call: Callable[..., Coroutine[Any, Any, _T]], *args: Any) -> _T | None:
        """Call the cache, if it may be called; None where it was not, or did not answer."""
        permit = self.breaker.enter() if self.enabled else 0
        if not permit:
            self.counters.skipped += 1
            return None
        try:
            answer = await call(*args)
        except CacheError as error:
            self.counters.errors += 1
            self.breaker.failed(permit, error.incident)
            return None
        except BaseException:
            self.breaker.abandoned(permit)
            raise
        self.breaker.succeeded(permit)
        return answer

    def in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    async def settle(self) -> None:
        """Wait for what goes on in the background."""
        while self._background:
            await asyncio.wait(self._background)

    async def _read_near(
        self, near: NearCache, key: str, plan: Plan[_T], take: Callable[..., _T | Missing | None]
    ) -> _T | Missing | None:
        """Read, and keep near what was found."""
        token = near.begin(key)
        value: _T | Missing | None = MISSING
        expires_at = 0.0
        try:
            entry = await self.guarded(self.cache.lookup, key)
            if entry is None:
                return MISSING
            value = take(key, plan, entry)
            if isinstance(entry, Entry):
                expires_at = min(entry.expires_at, entry.read_at + plan.ttl_ms / 1000)
        finally:
            near.end(key, token, value if isinstance(value, Missing) else _own(plan, value), expires_at)
        return value

    async def _bring_near(self, key: str, plan: Plan[_T]) -> None:
        if self.near is not None:
            await self._read_near(self.near, key, plan, self._open)

    def _open(self, key: str, plan: Plan[_T], entry: Entry | Missing, *, stale: bool = False) -> _T | Missing | None:
        value: _T | Missing | None = MISSING
        ttl = plan.ttl_ms / 1000
        if ttl > self.committed.keep_seconds:
            self.committed.keep_for(ttl)
        # It may have been written under a longer TTL than the one in force.
        if isinstance(entry, Entry) and (stale or now() - entry.read_at <= ttl):
            try:
                value = None if entry.value is None else plan.codec.decode(entry.value)
            except ForeignRecord as error:
                _log.debug("%s is of another layout: %s", key, error)
            if not isinstance(value, Missing) and not self._fresh(key, plan, value, entry):
                value = MISSING
        return value

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a write into the cache failed", exc_info=error)

    async def _load(self, key: str, plan: Plan[_T], load: Callable[[], Awaitable[_T | None]]) -> _Loaded[_T]:
        value: _T | None = None
        floor: Floor | None = None
        for _ in range(_MOST_LOADS):
            read_at = now()
            try:
                value = await load()
            except (DatabaseUnavailable, StatementTimeout):
                if not plan.stale_ms:
                    raise
                stale = await self._stale(key, plan)
                if isinstance(stale, Missing):
                    raise
                return _Loaded(stale, read_at, keep=False)
            floor = self.committed.find(key)
            if floor is None or (read_at >= floor.since and not _below(floor, plan, value)):
                return _Loaded(value, read_at, keep=True)
            # A commit of this process came between: read again.
        if floor is not None and floor.value is not None and _below(floor, plan, value):
            # The source lags behind the commit, as a replica does.
            value = _own(plan, cast("_T", floor.value))
        return _Loaded(value, read_at, keep=False)

    async def _keep(self, write: Write, plan: Plan[_T], loaded: _Loaded[_T], flight: asyncio.Future[Any]) -> None:
        try:
            await self._send(write, plan, loaded.value, loaded.read_at)
        finally:
            self._land(write.key, flight)

    def _land(self, key: str, flight: asyncio.Future[Any]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _stale(self, key: str, plan: Plan[_T]) -> _T | Missing | None:
        async def lookup() -> Entry | Missing:
            return await self.cache.lookup(key, stale=True)

        entry = await self.guarded(lookup)
        if not isinstance(entry, Entry) or now() - entry.read_at > self.committed.keep_seconds:
            # Older than that, nobody knows any more what was committed since.
            return MISSING
        return self.accept(key, plan, entry, stale=True)

    def _fresh(self, key: str, plan: Plan[_T], value: _T | None, entry: Entry | None = None) -> bool:
        """Whether a cached value is no older than what this process has committed."""
        if self.committed.blind:
            return False
        if entry is not None:
            return not self._overtaken(key, plan, value, entry.read_at)
        floor = self.committed.find(key)
        return floor is None or not _below(floor, plan, value)

    def _overtaken(self, key: str, plan: Plan[_T], value: _T | None, read_at: float) -> bool:
        """Whether a value may be older than what this process has committed."""
        floor = self.committed.find(key)
        if read_at < self.committed.forgotten_at:
            return True
        return floor is not None and (read_at < floor.since or _below(floor, plan, value))


def _own(plan: Plan[_T], value: _T | None) -> _T | None:
    """A value that its holder may change without anybody else seeing it."""
    if value is None or plan.copy is None:
        return value
    try:
        return plan.copy(value)
    except Exception:  # noqa: BLE001 - what its codec does not take is not kept either, and no reason to fail
        return value


def _encoded(key: str, plan: Plan[_T], value: _T | None, read_at: float) -> Write | None:
    """A value as it is now, ready to be written; None if its codec does not take it."""
    ttl = plan.ttl_ms
    if plan.jitter:
        ttl -= int(ttl * _JITTER * random.random())  # noqa: S311 - not a secret
    if value is None:
        return Write(key, None, ttl, plan.none_version, read_at, plan.stale_ms)
    try:
        found = plan.codec.encode(value)
        version = plan.version(value) if plan.version is not None else None
    except Exception as error:  # noqa: BLE001 - whoever asked for the value is to have it all the same
        _log.warning("%s cannot be cached: %s", key, error)
        return None
    return Write(key, found, ttl, version, read_at, plan.stale_ms)


def _below(floor: Floor, plan: Plan[_T], value: _T | None) -> bool:
    """Whether a value is older than what was committed."""
    if not floor.version:
        return False
    if value is None:
        return (plan.none_version or "") < floor.version
    return plan.version is not None and plan.version(value) < floor.version
