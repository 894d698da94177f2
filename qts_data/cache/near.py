"""A cache in the process itself, for the few keys that are read all the time.

Filling it is what others get wrong: a value may be overtaken, on its way to us, by the news that it is old. So who
reads takes a token before it asks, and the token is void once such news has come.
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
"""What may be kept near: the news of every change of a price, a book or an order would cost more than it saves."""


class NearCache:
    """A bounded number of values, each until its time is over or it is invalidated.

    Args:
        entries: Most values; the one that was written first goes first.

    Attributes:
        told_of: How the keys begin of whose changes the server tells; no other may be kept.
    """

    def __init__(self, entries: int) -> None:
        self.told_of: tuple[str, ...] = ()
        self._most = entries
        self._values: OrderedDict[str, tuple[Any, float]] = OrderedDict()
        # Keys that are being read, and by whom.
        self._tokens: dict[str, set[object]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Any | Missing:
        """The value, or `MISSING`."""
        found = self._values.get(key)
        if found is None or found[1] <= now():
            return MISSING
        return found[0]

    def begin(self, key: str) -> object:
        """A token, before the key is read or written elsewhere; hand it back to `end` or `wrote`."""
        token = object()
        self._tokens.setdefault(key, set()).add(token)
        return token

    def end(self, key: str, token: object, value: Any = MISSING, expires_at: float = 0.0) -> None:
        """Keep what was read, unless the key was invalidated since `begin`; `MISSING` keeps nothing.

        Args:
            key: The key.
            token: What `begin` gave.
            value: What was read.
            expires_at: When it may be served no longer, on the clock of `qts_data.cache.port.now`.
        """
        if self._take(key, token) and value is not MISSING:
            self._keep(key, value, expires_at)

    def wrote(self, key: str, token: object, value: Any, expires_at: float) -> bool:
        """The same for what this process has written; what others of it are still reading may be older.

        Args:
            key: The key.
            token: What `begin` gave.
            value: What was written; `MISSING` if the write was refused or failed.
            expires_at: When it may be served no longer.

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
        """The server says that these have changed; None says that all have."""
        if keys is None:
            self.clear()
            return
        for key in keys:
            self.drop(key)

    def drop(self, key: str) -> None:
        """Forget a value, and what is on its way."""
        self._values.pop(key, None)
        self._tokens.pop(key, None)

    def clear(self) -> None:
        """Forget everything, and what is on its way: nobody tells any more what changes."""
        self._values.clear()
        self._tokens.clear()
