"""The names of keys."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from qts_data.contracts.cache import CacheType

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAIN_ACCOUNT", "Keys"]

MAIN_ACCOUNT: Final = "main"
"""The account whose positions have the short keys."""

_REMEMBERED: Final = 4096
# With these out of the names, the first } of a key ends its hash tag and no two names make one key.
_ESCAPED: Final = str.maketrans({character: f"%{ord(character):02X}" for character in "%{}"})


class Keys:
    """Makes keys such as `price:{005930}`.

    The braces are part of the key: they are Redis Cluster's hash tag, and keep what belongs to a symbol on one
    server. A brace or per cent sign of a name is written `%7B`, `%7D` or `%25`.

    Args:
        prefix: Begins every key.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        # A read of a hot key would spend a fifth of its own time on the name.
        self._made = lru_cache(_REMEMBERED)(self._make)

    def key(self, kind: CacheType, name: str, *rest: str) -> str:
        """The key of a value; names after the first do not decide about its server."""
        return self._made(kind, name, *rest)

    def _make(self, kind: CacheType, name: str, *rest: str) -> str:
        tail = "".join(f":{part.translate(_ESCAPED)}" for part in rest)
        return f"{self.prefix}{kind.value}:{{{name.translate(_ESCAPED)}}}{tail}"

    def position(self, symbol: str, account: str = MAIN_ACCOUNT) -> str:
        """`pos:{symbol}` of the main account, `pos:{symbol}:account` of another."""
        return self.key(CacheType.POSITION, symbol, *(() if account == MAIN_ACCOUNT else (account,)))

    def book(self, symbol: str) -> tuple[str, str, str]:
        """Keys of the bids, of the asks and of what belongs to both."""
        base = self.key(CacheType.ORDERBOOK, symbol)
        return f"{base}:bid", f"{base}:ask", base

    def starts(self, kinds: Iterable[CacheType] = CacheType) -> list[str]:
        """How all keys of these types begin."""
        return [f"{self.prefix}{kind.value}:{{" for kind in kinds]
