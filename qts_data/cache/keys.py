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


# The first name has no }, so the first } of a key ends its hash tag. The names after it have no colon, so each colon
# there begins a name. Hence two different lists of names never make the same key.
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

    The braces are part of the key. They are Redis Cluster's hash tag, and keep all keys of a symbol on one server. In
    names, a brace or per cent sign is written `%7B`, `%7D` or `%25`. In names after the braces, a colon is written
    `%3A`.

    Args:
        prefix: Begins every key.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        # Without this, making the name takes a fifth of the time of reading a hot key.
        self._made = lru_cache(_REMEMBERED)(self._make)
        self._positions = lru_cache(_REMEMBERED)(self._position)

    def key(self, kind: CacheType, name: str, *rest: str) -> str:
        """Return the key of a value. Only the first name decides which server has it.

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
        """Return the key of a position that was read, whose names are known to be texts."""
        return self._positions(position.symbol, position.account)

    def position(self, symbol: str, account: str = MAIN_ACCOUNT) -> str:
        """Return `pos:{symbol}` for the main account, `pos:{symbol}:account` for another.

        Raises:
            InvalidRecord: See `key`.
        """
        try:
            return self._positions(symbol, account)
        except TypeError:  # it is not hashable, so it cannot be a text
            return self._position(symbol, account)

    def _position(self, symbol: str, account: str) -> str:
        return self.key(CacheType.POSITION, symbol, *(() if account == MAIN_ACCOUNT else (account,)))

    def book(self, symbol: str) -> tuple[str, str, str]:
        """Return the keys of the bids, of the asks and of the fields that belong to both."""
        base = self.key(CacheType.ORDERBOOK, symbol)
        return f"{base}:bid", f"{base}:ask", base

    def head(self, kind: CacheType) -> str:
        """Return the beginning of all keys of this type, without the brace."""
        return f"{self.prefix}{kind.value}"

    def starts(self, kinds: Iterable[CacheType] = CacheType) -> list[str]:
        """Return the beginnings of all keys of these types."""
        return [f"{self.prefix}{kind.value}:{{" for kind in kinds]


def _require_utf8(field: str, name: str) -> None:
    """Refuse a name that Redis cannot take. Without this check, `str.encode` would fail later, while sending."""
    if not isinstance(name, str):
        raise InvalidRecord(field=field, reason=f"must be a str, is {type(name).__name__}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidRecord(field=field, reason=f"{name!a} holds half a surrogate pair") from error
