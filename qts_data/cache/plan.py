"""How values of one kind are cached, and how they are copied for callers that may change them."""

from __future__ import annotations

import copy
import datetime as dt
import logging
import random
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from qts_data.cache.codec import Codec, copier
from qts_data.cache.port import MISSING, Missing, Write, version_text
from qts_data.contracts.cache import check_milliseconds

if TYPE_CHECKING:
    from qts_data.cache.committed import Floor

__all__ = ["Plan", "below", "encoded", "own", "plain_copy"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Generic[_T]):
    """How values of one kind are cached.

    Attributes:
        codec: Turns them into fields and back.
        ttl_ms: How long they may be served, in milliseconds.
        version: Returns the version that fences a value; None fences by the time of reading.
        none_version: The version that fences "there is none"; None is the lowest version if `version` is given.
        near: Whether they may be kept in the process.
        negative: Whether "there is none" is cached too.
        jitter: Whether TTLs are shortened at random by up to a tenth, so that keys do not expire together.
        stale_ms: How long after the TTL a value may be served while the database cannot be reached, in milliseconds.
        key_of: Returns the key of a value. An entry whose value has another key is a miss. None does not check.
        copy: Returns a copy that its holder may change without an effect on others. None if values cannot change.

    Raises:
        ConfigurationError: A TTL is not a whole number of 1 ms or more, or `stale_ms` is below zero.
    """

    codec: Codec[_T]
    ttl_ms: int
    version: Callable[[_T], str] | None = None
    none_version: str | None = None
    near: bool = False
    negative: bool = True
    jitter: bool = False
    stale_ms: int = 0
    key_of: Callable[[_T], str] | None = None
    copy: Callable[[_T], _T] | None = field(init=False, repr=False, compare=False)
    ttl_seconds: float = field(init=False, repr=False, compare=False)
    keep_seconds: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Derive the copier and the durations in seconds."""
        check_milliseconds("ttl_ms", self.ttl_ms)
        check_milliseconds("stale_ms", self.stale_ms, least=0)
        if self.version is not None and self.none_version is None:
            # A None fenced by its time would keep out every version of a ledger's scale.
            object.__setattr__(self, "none_version", version_text(0))
        object.__setattr__(self, "copy", copier(self.codec))
        object.__setattr__(self, "ttl_seconds", self.ttl_ms / 1000)
        object.__setattr__(self, "keep_seconds", (self.ttl_ms + self.stale_ms) / 1000)


def own(plan: Plan[_T], value: _T | None) -> _T | Missing | None:
    """Copy a value for one holder, or `MISSING` if its codec cannot."""
    if value is None or plan.copy is None:
        return value
    try:
        return plan.copy(value)
    except Exception as error:  # noqa: BLE001 - a foreign codec may raise anything
        _log.debug("a value cannot be copied by its codec: %r", error)
        return MISSING


def encoded(key: str, plan: Plan[_T], value: _T | None, read_at: float) -> Write | None:
    """Encode a value for writing, as it is now, or None if its codec refuses it."""
    ttl = plan.ttl_ms
    if plan.jitter:
        ttl -= int(ttl * _JITTER * random.random())  # noqa: S311 - needs no secrecy
    if value is None:
        return Write(key, None, ttl, plan.none_version, read_at, plan.stale_ms)
    try:
        found = plan.codec.encode(value)
        version = plan.version(value) if plan.version is not None else None
    except Exception as error:  # noqa: BLE001 - the caller gets its value in any case
        _log.warning("%s cannot be cached: %s", key, error)
        return None
    return Write(key, found, ttl, version, read_at, plan.stale_ms)


def below(floor: Floor, plan: Plan[_T], value: _T | None) -> bool:
    """Return whether a value is older than the committed one."""
    if not floor.version:
        return False
    if value is None:
        return (plan.none_version or "") < floor.version
    return plan.version is not None and plan.version(value) < floor.version


_ATOMS: Final = frozenset(
    {type(None), bool, int, float, complex, str, bytes, Decimal, uuid.UUID}
    | {dt.date, dt.datetime, dt.time, dt.timedelta, dt.timezone}
)
_HOLDERS: Final = frozenset({list, tuple, set, frozenset, deque, dict, OrderedDict, defaultdict, Counter})


def plain_copy(value: Any) -> Any | Missing:
    """Copy a value that consists of builtin containers and plain values, or `MISSING` for any other."""
    try:
        return copy.deepcopy(value) if _is_plain(value) else MISSING
    except RecursionError:
        return MISSING


def _is_plain(value: Any) -> bool:
    kind = value.__class__
    if kind in _ATOMS:
        return True
    if kind not in _HOLDERS:
        return False
    if isinstance(value, dict):
        return all(_is_plain(name) and _is_plain(item) for name, item in value.items())
    return all(_is_plain(item) for item in value)
