"""Market data: trades and bars."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from qts_data.contracts.checks import (
    check_count,
    check_price,
    check_source,
    check_symbol,
    check_volume,
)
from qts_data.contracts.identity import NAMES
from qts_data.contracts.instants import EARLIEST, Confirmed, plausible, plausible_bar
from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OHLCV", "TickData", "stored_tick"]


# Bound here: this saves a look-up by name for each tick.
_datetime = dt.datetime
_UTC = dt.UTC
_FIRST_YEAR = EARLIEST.year


# The constructor is written by hand. The generated one of a frozen class spends longer on object.__setattr__ than
# all checks take together, and a day of one symbol makes 250,000 ticks.
@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class TickData:
    """One trade of one symbol at one feed.

    Attributes:
        time: Instant of the trade, aware; kept in UTC.
        symbol: Instrument, 1 to 64 characters.
        price: Trade price in the symbol's quote currency, at most 8 decimal places. May be negative
            (futures and spreads trade below zero).
        volume: Traded quantity in units of the instrument, at least 0, at most 8 decimal places.
        source: Feed that sent the tick, at most 64 characters; '' if there is only one feed.
        seq: The feed's own sequence number, at least 0. For None the loader numbers the ticks of the same
            (symbol, time, source).
        bid: Best bid at the trade, or None.
        ask: Best ask at the trade, or None.

    Raises:
        InvalidRecord: A field is of the wrong type, or the table would refuse it or store it as something else. Also
            if the time is implausible (see `any_time`), or a name looks like another one.
    """

    time: dt.datetime
    symbol: str
    price: Decimal
    volume: Decimal
    source: str = ""
    seq: int | None = None
    bid: Decimal | None = None
    ask: Decimal | None = None

    def __init__(
        self,
        *,
        time: dt.datetime,
        symbol: str,
        price: Decimal,
        volume: Decimal,
        source: str = "",
        seq: int | None = None,
        bid: Decimal | None = None,
        ask: Decimal | None = None,
    ) -> None:
        # The conditions accept the ordinary value at once; the checks decide about all others.
        if symbol.__class__ is not str or symbol not in NAMES:
            check_symbol(symbol)
        if (
            time.__class__ is not _datetime
            or time.tzinfo is not _UTC
            or time.year < _FIRST_YEAR
            or time > Confirmed.latest
        ):
            time = plausible("time", time)
        check_price("price", price)
        check_volume("volume", volume)
        if source.__class__ is not str or (source and source not in NAMES):
            check_source(source)
        if seq is not None:
            check_count("seq", seq)
        if bid is not None:
            check_price("bid", bid)
        if ask is not None:
            check_price("ask", ask)
        _set_time(self, time)
        _set_symbol(self, symbol)
        _set_price(self, price)
        _set_volume(self, volume)
        _set_source(self, source)
        _set_seq(self, seq)
        _set_bid(self, bid)
        _set_ask(self, ask)


def _setter(field: str) -> Callable[[TickData, object], None]:
    """Return the slot's own descriptor: it sets a field of the frozen class without a look-up by name."""
    setter: Callable[[TickData, object], None] = vars(TickData)[field].__set__
    return setter


_set_time = _setter("time")
_set_symbol = _setter("symbol")
_set_price = _setter("price")
_set_volume = _setter("volume")
_set_source = _setter("source")
_set_seq = _setter("seq")
_set_bid = _setter("bid")
_set_ask = _setter("ask")


def stored_tick(  # noqa: PLR0917 - called for each row: passing names would take a third of its time
    time: dt.datetime,
    symbol: str,
    price: Decimal,
    volume: Decimal,
    source: str,
    seq: int,
    bid: Decimal | None,
    ask: Decimal | None,
) -> TickData:
    """Make a tick from a row of the table. Its columns and constraints have checked the values, so no check follows."""
    tick = _new(TickData)
    _set_time(tick, time)
    _set_symbol(tick, symbol)
    _set_price(tick, price)
    _set_volume(tick, volume)
    _set_source(tick, source)
    _set_seq(tick, seq)
    _set_bid(tick, bid)
    _set_ask(tick, ask)
    return tick


_new = object.__new__


@dataclass(frozen=True, slots=True, kw_only=True)
class OHLCV:
    """One bar: open, high, low, close and volume of a half-open interval.

    Attributes:
        time: Start of the interval, aware and kept in UTC; the bar covers [time, time + interval).
        symbol: Instrument, 1 to 64 characters.
        source: Feed from which the bar was built, at most 64 characters; '' if there is only one feed.
        open: First price, at most 8 decimal places, like high, low and close.
        high: Highest price.
        low: Lowest price.
        close: Last price.
        volume: Sum of the traded quantities, at least 0, at most 8 decimal places.
        tick_count: Number of ticks in the bar; 0 if the publisher of the bar does not give it.

    Raises:
        InvalidRecord: A field is of the wrong type or cannot be stored, or open or close does not lie between low and
            high. Also if the time is implausible: before 1900, in the first two months of 1970, or in the future (see
            `any_time`).
    """

    time: dt.datetime
    symbol: str
    source: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    tick_count: int

    def __post_init__(self) -> None:
        """Raise `InvalidRecord` for values that the table would refuse or, worse, store as something else."""
        check_symbol(self.symbol)
        check_source(self.source)
        object.__setattr__(self, "time", plausible_bar("time", self.time))
        check_price("open", self.open)
        check_price("high", self.high)
        check_price("low", self.low)
        check_price("close", self.close)
        check_volume("volume", self.volume)
        check_count("tick_count", self.tick_count)
        for field, price in (("open", self.open), ("close", self.close)):
            if not self.low <= price <= self.high:
                raise InvalidRecord(field=field, reason=f"{price} is not between low {self.low} and high {self.high}")
