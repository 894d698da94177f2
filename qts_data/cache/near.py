"""A near cache: values in the process itself, for the few keys that are read all the time.

A notification that a value is old may overtake that value on its way to us. So a reader takes a token before it asks,
and a notification makes the token void.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from qts_data.cache.port import MISSING, Missing, now
from qts_data.contracts.cache import CacheType

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["NEAR_TYPES", "NearCache"]

NEAR_TYPES: Final = (CacheType.POSITION, CacheType.RISK, CacheType.STRATEGY)
"""Types that may be kept near. Notifications of every change of a price, book or order would cost too much."""


class NearCache:
    """A bounded number of values, each kept until it expires or is invalidated.

    Args:
        entries: Most values. The one that was written first is evicted first.

    Attributes:
        tracked_starts: Beginnings of the keys of whose changes the server notifies us. Other keys may not be kept near.
    """

    def __init__(self, entries: int) -> None:
        self.tracked_starts: tuple[str, ...] = ()
        self._most = entries
        self._values: OrderedDict[str, tuple[Any, float]] = OrderedDict()
        # Tokens of the reads that are under way, by key.
        self._tokens: dict[str, set[object]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Any | Missing:
        """Return the value, or `MISSING`."""
        found = self._values.get(key)
        if found is None or found[1] <= now():
            return MISSING
        return found[0]

    def begin(self, key: str) -> object:
        """Take a token before the key is read or written elsewhere. Give it back to `end` or `wrote`."""
        token = object()
        self._tokens.setdefault(key, set()).add(token)
        return token

    def end(self, key: str, token: object, value: Any = MISSING, expires_at: float = 0.0) -> None:
        """Keep the value that was read, unless the key was invalidated since `begin`. `MISSING` keeps nothing.

        Args:
            key: The key.
            token: The token from `begin`.
            value: The value that was read.
            expires_at: End of the time in which it may be served, on the clock of `qts_data.cache.port.now`.
        """
        if self._take(key, token) and value is not MISSING:
            self._keep(key, value, expires_at)

    def wrote(self, key: str, token: object, value: Any, expires_at: float) -> bool:
        """Keep the value that this process has written, unless the key was invalidated since `begin`.

        Values of other reads that are under way are not kept, because they may be older.

        Args:
            key: The key.
            token: The token from `begin`.
            value: The value that was written; `MISSING` if the write was refused or failed.
            expires_at: End of the time in which it may be served.

        Returns:
            Whether it was kept.
        """
        keep = self._take(key, token) and value is not MISSING
        self.drop(key)
        if keep:
            self._keep(key, value, expires_at)
        return keep

    def _take(self, key: str, token: object) -> bool:
        tokens = self._tokens.get(key)
        if tokens is None or token not in tokens:
            return False
        tokens.discard(token)
        if not tokens:
            del self._tokens[key]
        return True

    def _keep(self, key: str, value: Any, expires_at: float) -> None:
        self._values[key] = (value, expires_at)
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def invalidated(self, keys: Iterable[str] | None) -> None:
        """Drop the keys that the server reported as changed, or all keys if it is None."""
        if keys is None:
            self.clear()
            return
        for key in keys:
            self.drop(key)

    def drop(self, key: str) -> None:
        """Drop a value, and make the tokens of its reads void."""
        self._values.pop(key, None)
        self._tokens.pop(key, None)

    def clear(self) -> None:
        """Drop everything, and make all tokens void, because changes are not notified any more."""
        self._values.clear()
        self._tokens.clear()
