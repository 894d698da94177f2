"""Loads that are running, and the loads that they wait for.

All callers that miss a key share one load. A load may itself ask for keys, even for its own: by `super()`, by
recursion, or crosswise with another load. Waiting would then never end. A context variable holds the loads in which
a caller runs, and each flight knows the flights that it waits for. A caller that would close a circle loads directly.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Flight", "Loaded", "loads_around"]

_T = TypeVar("_T")
_MOST_NESTED: Final = 8
_around: ContextVar[tuple[Flight[Any], ...]] = ContextVar("_around", default=())


@dataclass(frozen=True, slots=True)
class Loaded(Generic[_T]):
    """The outcome of a load.

    Attributes:
        value: The value.
        read_at: When the load began.
        keep: Whether the value may be written into the cache.
        by_codec: Whether its codec copies it; otherwise `plain_copy` does.
        shared: Whether waiting callers may get copies of it; otherwise each loads for itself.
    """

    value: _T | None
    read_at: float
    keep: bool
    by_codec: bool = True
    shared: bool = True


class Flight(Generic[_T]):
    """One load of one key, for all callers that miss the key meanwhile.

    Attributes:
        key: The key.
        codec: The codec of the value; a caller with another codec does not join.
        landed: Completed with the outcome; cancelled if the loading task was cancelled.
        waits_for: The flights that this load waits for now.
    """

    __slots__ = ("codec", "key", "landed", "waits_for")

    def __init__(self, key: str, codec: object) -> None:
        self.key: str = key
        self.codec: object = codec
        self.landed: asyncio.Future[Loaded[_T]] = asyncio.get_running_loop().create_future()
        self.waits_for: list[Flight[Any]] = []

    def waits_for_any(self, others: tuple[Flight[Any], ...]) -> bool:
        """Return whether this flight is one of the others, or waits for one, over any number of steps."""
        if not others:
            return False
        seen: set[int] = set()
        left: list[Flight[Any]] = [self]
        while left:
            one = left.pop()
            if one in others:
                return True
            if id(one) not in seen:
                seen.add(id(one))
                left += one.waits_for
        return False

    @contextlib.contextmanager
    def awaited_by(self, others: tuple[Flight[Any], ...]) -> Iterator[None]:
        """Note, for the time of a block, that other loads wait for this flight."""
        for one in others:
            one.waits_for.append(self)
        try:
            yield
        finally:
            for one in others:
                one.waits_for.remove(self)

    @contextlib.contextmanager
    def under_way(self, others: tuple[Flight[Any], ...]) -> Iterator[None]:
        """Hold this flight in the context of the block that loads it.

        Raises:
            ConfigurationError: The load asks for its own key, nested too often.
        """
        if sum(one.key == self.key for one in others) >= _MOST_NESTED:
            raise ConfigurationError(
                f"the load of {self.key} asks for {self.key} again, {_MOST_NESTED} times: give it another key, or call "
                "the method that is not cached"
            )
        token = _around.set((*others, self))
        try:
            with self.awaited_by(others):
                yield
        finally:
            _around.reset(token)


def loads_around() -> tuple[Flight[Any], ...]:
    """Return the loads in which the caller runs, outermost first. Loads that have ended are left out."""
    found = _around.get()
    return tuple(one for one in found if not one.landed.done()) if found else found
