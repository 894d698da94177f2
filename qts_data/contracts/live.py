"""Data that a strategy reads before an order: current quotes, books, orders, limits and parameters."""

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
        quoted_at: Time at which the feed saw it.
        bid: Best bid at that time, if known.
        ask: Best ask at that time, if known.

    Raises:
        InvalidRecord: A price is not a Decimal of at most 10 + 8 digits, or the instant has no time zone.
    """

    symbol: str
    price: Decimal
    quoted_at: dt.datetime
    bid: Decimal | None = None
    ask: Decimal | None = None

    def __post_init__(self) -> None:
        """Raise `InvalidRecord` for values that cannot be a quote."""
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
        size: Quantity offered or wanted at the price. 0 means nothing; a book leaves such a level out.
    """

    price: Decimal
    size: Decimal

    def __post_init__(self) -> None:
        """Raise `InvalidRecord` for values that cannot be a level."""
        check_price("price", self.price)
        check_volume("size", self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderBook:
    """A snapshot of an order book. Levels of size 0 are left out, the others are sorted.

    Attributes:
        symbol: Instrument.
        bids: Bids, the highest price first.
        asks: Asks, the lowest price first.
        quoted_at: Time at which the feed saw it.

    Raises:
        InvalidRecord: A side holds a price twice, or the instant has no time zone.
    """

    symbol: str
    bids: tuple[BookLevel, ...]
    asks: tuple[BookLevel, ...]
    quoted_at: dt.datetime

    def __post_init__(self) -> None:
        """Sort the levels."""
        check_symbol(self.symbol)
        object.__setattr__(self, "quoted_at", plausible("quoted_at", self.quoted_at))
        for side, descending in (("bids", True), ("asks", False)):
            levels = [level for level in getattr(self, side) if level.size]
            levels.sort(key=lambda level: level.price, reverse=descending)
            if len({level.price for level in levels}) != len(levels):
                raise InvalidRecord(field=side, reason="holds a price twice")
            object.__setattr__(self, side, tuple(levels))

    @property
    def best_bid(self) -> BookLevel | None:
        """The highest bid. None if the side is empty."""
        return self.bids[0] if self.bids else None

    @property
    def best_ask(self) -> BookLevel | None:
        """The lowest ask. None if the side is empty."""
        return self.asks[0] if self.asks else None

    def depth(self, levels: int) -> OrderBook:
        """Return a book with the best `levels` levels of both sides."""
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
        filled_qty: Quantity filled so far.
        status: The engine's word for the order's state.
        updated_at: Time of that state; the version of the record.
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
        """Raise `InvalidRecord` for values that could not be read back."""
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
    """The limits against which the orders of an account are checked.

    Attributes:
        account: The account.
        limits: The limits by name.
    """

    account: str
    limits: Mapping[str, Decimal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Copy the limits, so that no other holder of the mapping can change them."""
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyParameters:
    """The parameters of a strategy.

    Attributes:
        strategy_id: The strategy.
        parameters: The parameters by name.
    """

    strategy_id: str
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Copy the parameters, so that no other holder of the mapping can change them."""
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))


@dataclass(frozen=True, slots=True)
class Reading(Generic[_T]):
    """A value that ages, with its age.

    Attributes:
        value: The value that was read.
        age_seconds: The greater of two times: since the value was pushed (by the cache's clock), and since its
            `quoted_at` (by this machine's clock).
    """

    value: _T
    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Precheck:
    """The data that is checked before an order, read together.

    Attributes:
        quote: Last price with its age; None if unavailable or too old.
        position: The account's position; None if there is none.
        risk: The account's limits; None if there are none.
        strategy: The strategy's parameters; None if there are none.
        quote_age_seconds: Age of the last price that the cache holds, even of one that is too old. None without a
            price.
    """

    quote: Reading[Quote] | None
    position: Position | None
    risk: RiskLimits | None
    strategy: StrategyParameters | None
    quote_age_seconds: float | None = None
