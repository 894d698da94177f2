"""What a strategy looks at before an order: quotes, books, orders, limits and parameters of this moment."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Generic, TypeVar

from qts_data.contracts.checks import check_price, check_symbol, check_volume
from qts_data.contracts.config import ParameterValue
from qts_data.contracts.identity import check_identifier
from qts_data.contracts.instants import plausible
from qts_data.contracts.positions import Position
from qts_data.errors import InvalidRecord

__all__ = [
    "BookLevel",
    "OrderBook",
    "OrderState",
    "Precheck",
    "Quote",
    "Reading",
    "RiskLimits",
    "StrategyParameters",
]

_T = TypeVar("_T")
_LONGEST_ID = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The last price of a symbol.

    Attributes:
        symbol: Instrument.
        price: Last traded price.
        quoted_at: When the feed saw it.
        bid: Best bid then, if known.
        ask: Best ask then, if known.

    Raises:
        InvalidRecord: A price is no Decimal of 10 + 8 digits, or the instant has no time zone.
    """

    symbol: str
    price: Decimal
    quoted_at: dt.datetime
    bid: Decimal | None = None
    ask: Decimal | None = None

    def __post_init__(self) -> None:
        """Refuse what is no quote."""
        check_symbol(self.symbol)
        object.__setattr__(self, "quoted_at", plausible("quoted_at", self.quoted_at))
        for name, value in (("price", self.price), ("bid", self.bid), ("ask", self.ask)):
            if value is not None or name == "price":
                check_price(name, value)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class BookLevel:
    """One price of an order book.

    Attributes:
        price: The price.
        size: How much is offered or wanted there; 0 means nothing, and such a level is left out of a book.
    """

    price: Decimal
    size: Decimal

    def __post_init__(self) -> None:
        """Refuse what is no level."""
        check_price("price", self.price)
        check_volume("size", self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderBook:
    """A snapshot of an order book; levels of size 0 are left out, the rest is sorted.

    Attributes:
        symbol: Instrument.
        bids: Highest price first.
        asks: Lowest price first.
        quoted_at: When the feed saw it.

    Raises:
        InvalidRecord: A price stands twice on a side, or the instant has no time zone.
    """

    symbol: str
    bids: tuple[BookLevel, ...]
    asks: tuple[BookLevel, ...]
    quoted_at: dt.datetime

    def __post_init__(self) -> None:
        """Put the levels in order."""
        check_symbol(self.symbol)
        object.__setattr__(self, "quoted_at", plausible("quoted_at", self.quoted_at))
        for side, descending in (("bids", True), ("asks", False)):
            levels = [level for level in getattr(self, side) if level.size]
            levels.sort(key=lambda level: level.price, reverse=descending)
            if len({level.price for level in levels}) != len(levels):
                raise InvalidRecord(field=side, reason="a price stands there twice")
            object.__setattr__(self, side, tuple(levels))

    @property
    def best_bid(self) -> BookLevel | None:
        """The highest bid; None on an empty side."""
        return self.bids[0] if self.bids else None

    @property
    def best_ask(self) -> BookLevel | None:
        """The lowest ask; None on an empty side."""
        return self.asks[0] if self.asks else None

    def depth(self, levels: int) -> OrderBook:
        """The best so many levels of both sides."""
        return OrderBook(symbol=self.symbol, bids=self.bids[:levels], asks=self.asks[:levels], quoted_at=self.quoted_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderState:
    """An order as the engine last knew it.

    Attributes:
        order_id: The engine's id.
        symbol: Instrument.
        account: Account that sent it.
        side: `BUY` or `SELL`.
        qty: Ordered quantity.
        filled_qty: Filled so far.
        status: The engine's word for where it stands.
        updated_at: When that was; the version of the record.
        price: Limit price; None for a market order.
    """

    order_id: str
    symbol: str
    account: str
    side: str
    qty: Decimal
    filled_qty: Decimal
    status: str
    updated_at: dt.datetime
    price: Decimal | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be read back."""
        check_identifier("order_id", self.order_id, shortest=1, longest=_LONGEST_ID)
        check_identifier("account", self.account, shortest=1, longest=_LONGEST_ID)
        check_symbol(self.symbol)
        object.__setattr__(self, "updated_at", plausible("updated_at", self.updated_at))
        for name in ("qty", "filled_qty"):
            check_price(name, getattr(self, name))
        if self.price is not None:
            check_price("price", self.price)


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskLimits:
    """The limits that the orders of an account are checked against.

    Attributes:
        account: The account.
        limits: Each limit by its name.
    """

    account: str
    limits: Mapping[str, Decimal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nobody changes the limits of somebody else's copy."""
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyParameters:
    """The parameters of a strategy.

    Attributes:
        strategy_id: The strategy.
        parameters: Each parameter by its name.
    """

    strategy_id: str
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nobody changes the parameters of somebody else's copy."""
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))


@dataclass(frozen=True, slots=True)
class Reading(Generic[_T]):
    """A value that ages, with its age.

    Attributes:
        value: What was read.
        age_seconds: The greater of the time since it was pushed (by the cache's clock) and the time since its
            `quoted_at` (by this machine's).
    """

    value: _T
    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Precheck:
    """Everything that is looked at before an order, read together.

    Attributes:
        quote: Last price with its age; None means unavailable, or too old.
        position: The account's position; None means that there is none.
        risk: The account's limits; None means that there are none.
        strategy: The strategy's parameters; None means that there are none.
        quote_age_seconds: Age of the last price that the cache holds, even of one that is too old; None without one.
    """

    quote: Reading[Quote] | None
    position: Position | None
    risk: RiskLimits | None
    strategy: StrategyParameters | None
    quote_age_seconds: float | None = None
