"""The names of keys."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from qts_data.contracts.cache import CacheType
from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qts_data.contracts import Position

__all__ = ["MAIN_ACCOUNT", "Keys"]

MAIN_ACCOUNT: Final = "main"
"""The account whose positions have the short keys."""

_REMEMBERED: Final = 4096


def _escapes(characters: str) -> dict[int, str]:
    return {ord(character): f"%{ord(character):02X}" for character in characters}


# With these out of the first name, the first } of a key ends its hash tag. With the colon out of the names after it,
# each colon there begins a name. So no two lists of names make one key.
_IN_TAG: Final = _escapes("%{}")
_AFTER_TAG: Final = _escapes("%{}:")
_FIELDS: Final = {
    CacheType.PRICE: "symbol",
    CacheType.POSITION: "symbol",
    CacheType.ORDERBOOK: "symbol",
    CacheType.RISK: "account",
    CacheType.ORDER: "order_id",
    CacheType.STRATEGY: "strategy_id",
}


class Keys:
    """Makes keys such as `price:{005930}`.

    The braces are part of the key: they are Redis Cluster's hash tag, and keep what belongs to a symbol on one
    server. A brace or per cent sign of a name is written `%7B`, `%7D` or `%25`, and a colon `%3A` in a name that stands
    after the braces.

    Args:
        prefix: Begins every key.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        # A read of a hot key would spend a fifth of its own time on the name.
        self._made = lru_cache(_REMEMBERED)(self._make)
        self._positions = lru_cache(_REMEMBERED)(self._position)

    def key(self, kind: CacheType, name: str, *rest: str) -> str:
        """The key of a value; names after the first do not decide about its server.

        Raises:
            InvalidRecord: A name is not a text, or holds half a surrogate pair.
        """
        try:
            return self._made(kind, name, *rest)
        except TypeError as error:
            wrong = next((part for part in (name, *rest) if not isinstance(part, str)), name)
            raise InvalidRecord(field=_FIELDS[kind], reason=f"must be a str, is {type(wrong).__name__}") from error

    def _make(self, kind: CacheType, name: str, *rest: str) -> str:
        _require_utf8(_FIELDS[kind], name)
        for part in rest:
            _require_utf8("account" if kind is CacheType.POSITION else "name", part)
        tail = "".join(f":{part.translate(_AFTER_TAG)}" for part in rest)
        return f"{self.prefix}{kind.value}:{{{name.translate(_IN_TAG)}}}{tail}"

    def of_position(self, position: Position) -> str:
        """The key of a position that was read; its names are texts."""
        return self._positions(position.symbol, position.account)

    def position(self, symbol: str, account: str = MAIN_ACCOUNT) -> str:
        """`pos:{symbol}` of the main account, `pos:{symbol}:account` of another.

        Raises:
            InvalidRecord: See `key`.
        """
        try:
            return self._positions(symbol, account)
        except TypeError:  # it cannot be looked up, so that it cannot be a text
            return self._position(symbol, account)

    def _position(self, symbol: str, account: str) -> str:
        return self.key(CacheType.POSITION, symbol, *(() if account == MAIN_ACCOUNT else (account,)))

    def book(self, symbol: str) -> tuple[str, str, str]:
        """Keys of the bids, of the asks and of what belongs to both."""
        base = self.key(CacheType.ORDERBOOK, symbol)
        return f"{base}:bid", f"{base}:ask", base

    def head(self, kind: CacheType) -> str:
        """How all keys of this type begin, without the brace."""
        return f"{self.prefix}{kind.value}"

    def starts(self, kinds: Iterable[CacheType] = CacheType) -> list[str]:
        """How all keys of these types begin."""
        return [f"{self.prefix}{kind.value}:{{" for kind in kinds]


def _require_utf8(field: str, name: str) -> None:
    """Refuse what no server takes; it would fail as whatever `str.encode` raises, on the way to one."""
    if not isinstance(name, str):
        raise InvalidRecord(field=field, reason=f"must be a str, is {type(name).__name__}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidRecord(field=field, reason=f"{name!a} holds half a surrogate pair") from error
