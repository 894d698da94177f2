"""`@cached`: makes a method that reads the database look into the cache first."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, cast, overload

from qts_data.cache.arguments import key_names
from qts_data.cache.aside import CacheAside, Plan
from qts_data.cache.codec import JsonCodec
from qts_data.cache.keys import Keys
from qts_data.contracts.cache import DEFAULT_TTL_MS, CacheType, check_milliseconds, member
from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from qts_data.cache.codec import Codec

__all__ = ["CacheAccess", "Cached", "CachedByAttribute", "HasCache", "cached"]

_P = ParamSpec("_P")
_S = TypeVar("_S")
_T = TypeVar("_T")
_APART: Final = "cached"


class CacheAccess:
    """The cache of a class with decorated methods.

    `CacheManager.access` makes it.

    Args:
        aside: Cache, breaker and fences.
        prefix: Begins every key.
        name: Separates the values from those of other classes and of the manager. Without a name, the names that a key
            function returns must differ from theirs.
    """

    def __init__(self, aside: CacheAside, prefix: str = "", name: str = "") -> None:
        self.aside = aside
        self.keys: Keys = Keys(prefix)
        # A key of the manager has at most one name after the first.
        self._apart = (_APART, name) if name else ()
        for kind in CacheType:
            aside.committed.begin(self.keys.head(kind), DEFAULT_TTL_MS[kind] / 1000)

    def key(self, kind: CacheType, *names: str) -> str:
        """Return the key of a value.

        Raises:
            InvalidRecord: A name is not a text.
        """
        return self.keys.key(kind, *names, *self._apart)

    def may_be_near(self, key: str) -> bool:
        """Return whether the server notifies this process when other processes change the value of a key."""
        near = self.aside.near
        return near is not None and key.startswith(near.tracked_starts)

    async def invalidate(self, kind: CacheType, *names: str, ttl_ms: int | None = None) -> None:
        """Serve no value that was read before now. Call it after the commit.

        Args:
            kind: The type given to `@cached`.
            names: The names that the key function returns for the changed value.
            ttl_ms: The longest TTL of such values, if it is not the type's default.

        Raises:
            InvalidRecord: The type does not exist, or a name is not a text.
            ConfigurationError: The TTL is not a whole number of 1 ms or more.
        """
        kind = member(CacheType, "kind", kind)
        key = self.key(kind, *names)
        if ttl_ms is None:
            ttl_ms = DEFAULT_TTL_MS[kind]
        check_milliseconds("ttl_ms", ttl_ms)
        committed = self.aside.committed
        committed.keep_for(ttl_ms / 1000, key)
        self.aside.changed(key)
        await self.aside.guarded(_invalidate, self.aside, key, math.ceil(committed.keep_seconds * 1000))


async def _invalidate(aside: CacheAside, key: str, ttl_ms: int) -> bool:
    return await aside.cache.invalidate(key, ttl_ms=ttl_ms)


_JSON: Final[Codec[Any]] = JsonCodec()


_C = TypeVar("_C", bound="HasCache")


def _attribute(owner: Any) -> CacheAccess | None:
    found: CacheAccess | None = getattr(owner, "cache", None)
    return found


def _require_access(found: object, method: Callable[..., Any]) -> None:
    if not isinstance(found, CacheAccess):
        raise ConfigurationError(
            f"{method.__qualname__} is cached by a CacheAccess, such as manager.access(name), not by a "
            f"{type(found).__name__}"
        )


class HasCache(Protocol):
    """A class whose methods may be cached. Its attribute `cache` is the cache to use. With None, nothing is cached."""

    @property
    def cache(self) -> CacheAccess | None:
        """The cache, made by `CacheManager.access`."""
        ...


class CachedByAttribute(Protocol):
    """A decorator for methods of a class with an attribute `cache`. It keeps the method's signature."""

    def __call__(
        self, method: Callable[Concatenate[_C, _P], Coroutine[Any, Any, _T]], /
    ) -> Callable[Concatenate[_C, _P], Coroutine[Any, Any, _T]]:
        """Return the method that looks into the cache first."""
        ...


class Cached(Protocol):
    """A decorator that keeps the method's signature."""

    def __call__(
        self, method: Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]], /
    ) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]]:
        """Return the method that looks into the cache first."""
        ...


@overload
def cached(
    kind: CacheType,
    *,
    key: Callable[..., str | tuple[str, ...]],
    codec: Codec[Any] = ...,
    ttl_ms: int | None = ...,
    version: Callable[[Any], str] | None = ...,
    none_version: str | None = ...,
    negative: bool = ...,
    jitter: bool = ...,
    stale_if_error_ms: int = ...,
    near: bool = ...,
) -> CachedByAttribute: ...
@overload
def cached(
    kind: CacheType,
    *,
    key: Callable[..., str | tuple[str, ...]],
    codec: Codec[Any] = ...,
    ttl_ms: int | None = ...,
    version: Callable[[Any], str] | None = ...,
    none_version: str | None = ...,
    negative: bool = ...,
    jitter: bool = ...,
    stale_if_error_ms: int = ...,
    near: bool = ...,
    access: Callable[[Any], CacheAccess | None],
) -> Cached: ...
def cached(
    kind: CacheType,
    *,
    key: Callable[..., str | tuple[str, ...]],
    codec: Codec[Any] = _JSON,
    ttl_ms: int | None = None,
    version: Callable[[Any], str] | None = None,
    none_version: str | None = None,
    negative: bool = True,
    jitter: bool = True,
    stale_if_error_ms: int = 0,
    near: bool = False,
    access: Callable[[Any], CacheAccess | None] = _attribute,
) -> Cached:
    """Look into the cache before calling the method, and cache the method's result.

    All callers that miss at the same time wait for one call of the method. If its caller is cancelled, another of them
    calls it. No error of the cache reaches a caller. The method's own errors do, and are not cached. A value that
    neither its codec nor a plain copy can copy is not shared: each caller calls the method itself.

    Use it only for methods that read committed rows. In a transaction that writes, the method would see rows that may
    be rolled back, and publish them. So give only readers a cache. If `access` returns None, the method is called
    without a cache.

    Args:
        kind: The type of the value. It gives the beginning of the key and the default TTL.
        key: Called with the method's arguments except self, bound: with their defaults, in the method's order. It
            may take fewer of them, by their names. It returns the name, or names, of the value. The values of a
            `CacheManager` have one name, a position also its account, a book also `bid` and `ask`. Use a second name
            that is none of these.
        codec: How the value is written; by default JSON of texts, whole numbers, booleans, lists and dicts.
        ttl_ms: Milliseconds for which a value may be served; None is the type's default.
        version: Returns the version that fences a value, such as `version_text(position.last_ledger_id)`. Without it,
            values are fenced by the time at which they were read.
        none_version: The version that fences None; by default the lowest, if `version` is given.
        negative: Whether None is cached, too.
        jitter: Whether TTLs are shortened at random by up to a tenth, so that keys do not expire together.
        stale_if_error_ms: How long after its TTL a value may be served while the database cannot be reached.
        near: Whether values may be kept in the process, if the near cache is enabled. It keeps only positions, limits
            and parameters, and only under the configured prefix: the server notifies us of no other changes.
        access: Returns the cache of self; by default its attribute `cache`.

    Raises:
        ConfigurationError: A duration is not a whole number of milliseconds, or the key function needs more arguments
            than the method has. On a call: the key function returns no text, `access` returns no `CacheAccess`, or
            a load asks for its own key, nested too often. Nested a few times, as by `super()`, the load reads the
            source directly.
        InvalidRecord: The type does not exist.
    """
    kind = member(CacheType, "kind", kind)
    plan: Plan[Any] = Plan(
        codec=codec,
        ttl_ms=DEFAULT_TTL_MS[kind] if ttl_ms is None else ttl_ms,
        version=version,
        none_version=none_version,
        near=near,
        negative=negative,
        jitter=jitter,
        stale_ms=stale_if_error_ms,
    )
    far = replace(plan, near=False)

    def decorate(
        method: Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]],
    ) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]]:
        names_of = key_names(method, key)

        @functools.wraps(method)
        async def ask(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            found = access(self)
            if found is None:
                return await method(self, *args, **kwargs)
            if found.__class__ is not CacheAccess:
                _require_access(found, method)
            name = found.key(kind, *names_of(args, kwargs))

            def load() -> Awaitable[_T]:
                return method(self, *args, **kwargs)

            chosen = plan if near and found.may_be_near(name) else far
            return cast("_T", await found.aside.fetch(name, chosen, load))

        return ask

    return decorate
