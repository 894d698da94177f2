"""Loads of values from their source: one for all callers that miss, and never older than a commit of this process."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from qts_data.cache.flights import Flight, Loaded, loads_around
from qts_data.cache.plan import Plan, below, encoded, own, plain_copy
from qts_data.cache.port import Missing, Write, now
from qts_data.errors import DatabaseUnavailable, StatementTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from qts_data.cache.committed import Committed, Floor

__all__ = ["Loads"]

_T = TypeVar("_T")
_MOST_LOADS: Final = 3
_PATIENCE_SECONDS: Final = 60.0
"""Longest wait for the load of another caller. That load may depend on this one in a way that no context shows."""


class _Stale(Protocol):
    async def __call__(self, key: str, plan: Plan[Any]) -> Any | Missing:
        """Return a value whose TTL has passed, for use while its source cannot be reached."""
        ...


class _Keep(Protocol):
    def __call__(self, write: Write, plan: Plan[Any], loaded: Loaded[Any], landed: Callable[[], None]) -> None:
        """Begin to write a loaded value, and call `landed` at the end."""
        ...


class Loads:
    """The loads of one cache.

    Args:
        committed: The commits of this process.
        stale: Returns a value that may be served if the source fails.
        keep: Writes a loaded value into the cache.
    """

    def __init__(self, committed: Committed, *, stale: _Stale, keep: _Keep) -> None:
        self._committed = committed
        self._stale = stale
        self._keep = keep
        self._flights: dict[str, Flight[Any]] = {}
        # For each key that is being loaded: how many loads run, and how often it has changed meanwhile.
        self._watched: dict[str, list[int]] = {}

    def changed(self, key: str) -> None:
        """Note that a commit has changed a key. Later callers do not join a load that may have begun before."""
        if (watched := self._watched.get(key)) is not None:
            watched[1] += 1
        self._flights.pop(key, None)

    def forget(self) -> None:
        """Drop the loads of an event loop that has ended."""
        self._flights.clear()
        self._watched.clear()

    async def load(self, key: str, plan: Plan[_T], load: Callable[[], Awaitable[_T | None]]) -> _T | None:
        """Read the source, once for all callers that ask meanwhile, and keep the value.

        Raises:
            ConfigurationError: The load asks for its own key, nested too often.
            Exception: The error of `load`.
        """
        around = loads_around()
        while (flight := self._flights.get(key)) is not None:
            if flight.codec is not plan.codec or flight.waits_for_any(around):
                # Waiting would give a value of another codec, or never end.
                break
            with flight.awaited_by(around):
                # Wait by `asyncio.wait`: cancelling one caller must not cancel the future of the others.
                landed, _ = await asyncio.wait([flight.landed], timeout=_PATIENCE_SECONDS)
            if not landed:
                break
            if not flight.landed.cancelled():
                loaded: Loaded[_T] = flight.landed.result()
                if now() - loaded.read_at <= plan.ttl_seconds:
                    value = _share(plan, loaded)
                    if isinstance(value, Missing):
                        break
                    return value
            # The loading task was cancelled, or the value has become too old meanwhile.
            self._land(flight)
        if flight is None:
            return await self._load_for_all(key, plan, load, around)
        return await self._load_alone(key, plan, load, around)

    async def _load_for_all(
        self, key: str, plan: Plan[_T], load: Callable[[], Awaitable[_T | None]], around: tuple[Flight[Any], ...]
    ) -> _T | None:
        flight: Flight[_T] = Flight(key, plan.codec)
        self._flights[key] = flight
        try:
            with flight.under_way(around):
                loaded = await self._load(key, plan, load)
        except Exception as error:
            flight.landed.set_exception(error)
            flight.landed.exception()  # perhaps no caller waits: no warning
            self._land(flight)
            raise
        except BaseException:
            flight.landed.cancel()
            self._land(flight)
            raise
        # After the return, the caller may change the value. So the cached and shared copies are made before.
        write = encoded(key, plan, loaded.value, loaded.read_at)
        shared = _shareable(plan, loaded, by_codec=write is not None)
        flight.landed.set_result(shared)
        if write is not None and loaded.keep and shared.shared and (loaded.value is not None or plan.negative):
            # Until the value is in the cache, this flight answers callers that have just missed it there.
            self._keep(write, plan, shared, lambda: self._land(flight))
        else:
            self._land(flight)
        return loaded.value

    async def _load_alone(
        self, key: str, plan: Plan[_T], load: Callable[[], Awaitable[_T | None]], around: tuple[Flight[Any], ...]
    ) -> _T | None:
        """Read the source for one caller only. The value is not kept."""
        flight: Flight[_T] = Flight(key, plan.codec)
        try:
            with flight.under_way(around):
                return (await self._load(key, plan, load)).value
        finally:
            flight.landed.cancel()

    async def _load(self, key: str, plan: Plan[_T], load: Callable[[], Awaitable[_T | None]]) -> Loaded[_T]:
        value: _T | None = None
        floor: Floor | None = None
        with self._watching(key) as watched:
            for _ in range(_MOST_LOADS):
                read_at, changes = now(), watched[1]
                try:
                    value = await load()
                except (DatabaseUnavailable, StatementTimeout):
                    if not plan.stale_ms:
                        raise
                    stale = await self._stale(key, plan)
                    if isinstance(stale, Missing):
                        raise
                    return Loaded(stale, read_at, keep=False)
                floor = self._committed.find(key)
                if floor is None:
                    # The load may have taken longer than the floor of a commit lives, so count the changes, too.
                    if watched[1] == changes:
                        return Loaded(value, read_at, keep=True)
                elif read_at >= floor.since and not below(floor, plan, value):
                    return Loaded(value, read_at, keep=True)
                # A commit of this process happened meanwhile: read again.
        if floor is not None and floor.value is not None and below(floor, plan, value):
            # The source is behind the commit, as a replica may be.
            copied = own(plan, cast("_T", floor.value))
            value = cast("_T", floor.value) if isinstance(copied, Missing) else copied
        return Loaded(value, read_at, keep=False)

    @contextlib.contextmanager
    def _watching(self, key: str) -> Iterator[list[int]]:
        """Count the changes of a key while it is loaded."""
        watched = self._watched.setdefault(key, [0, 0])
        watched[0] += 1
        try:
            yield watched
        finally:
            watched[0] -= 1
            if not watched[0] and self._watched.get(key) is watched:
                del self._watched[key]

    def _land(self, flight: Flight[Any]) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]


def _shareable(plan: Plan[_T], loaded: Loaded[_T], *, by_codec: bool) -> Loaded[_T]:
    """Replace a loaded value by a copy that no caller holds."""
    kept: Any = own(plan, loaded.value) if by_codec else plain_copy(loaded.value)
    if not isinstance(kept, Missing):
        return replace(loaded, value=kept, by_codec=by_codec)
    return replace(loaded, value=None, shared=False)


def _share(plan: Plan[_T], loaded: Loaded[_T]) -> _T | Missing | None:
    """Copy a shared value for one caller, or `MISSING` if it cannot be copied."""
    if not loaded.shared:
        return Missing()
    if loaded.by_codec:
        return own(plan, loaded.value)
    return cast("_T | Missing", plain_copy(loaded.value))
