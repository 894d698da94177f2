"""Frozen records that cross the package's border; no database, no driver, no ORM.

Times are aware UTC instants, money and quantities are `decimal.Decimal`; a record that breaks a rule cannot
be made: the constructor raises `InvalidRecord` with the field and the reason.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import TYPE_CHECKING

from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_SOURCE_LENGTH", "MAX_SYMBOL_LENGTH", "OHLCV", "TickData"]

MAX_SYMBOL_LENGTH = 64
"""Longest symbol the schema takes, in characters (an OCC option symbol has 21)."""

MAX_SOURCE_LENGTH = 64
"""Longest name of a feed, in characters; it is part of a key, and an index entry has a size limit."""

_MAX_BIGINT = 2**63 - 1
_SHOWN_CHARACTERS = 60


def _shown(value: object) -> str:
    """The value for a message; a number of a million digits must not make a message of a million."""
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _check_text(field: str, value: str, *, shortest: int, longest: int) -> None:
    """Refuse what TEXT in a UTF-8 database cannot hold, or a CHECK of its length refuses."""
    if not isinstance(value, str):
        raise InvalidRecord(field=field, reason=f"must be a str, is {type(value).__name__}")
    if not shortest <= len(value) <= longest:
        raise InvalidRecord(field=field, reason=f"must have {shortest} to {longest} characters, has {len(value)}")
    # Whatever is printable is neither NUL nor a surrogate, the two that PostgreSQL's TEXT refuses.
    if value.isprintable():
        return
    if "\0" in value:
        raise InvalidRecord(field=field, reason=f"{value!a} holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidRecord(field=field, reason=f"{value!a} holds half a surrogate pair")


def _check_symbol(symbol: str) -> None:
    _check_text("symbol", symbol, shortest=1, longest=MAX_SYMBOL_LENGTH)


def _check_source(source: str) -> None:
    _check_text("source", source, shortest=0, longest=MAX_SOURCE_LENGTH)


def _check_aware(field: str, value: dt.datetime) -> None:
    if not isinstance(value, dt.datetime):
        raise InvalidRecord(field=field, reason=f"must be a datetime, is {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidRecord(field=field, reason=f"{value!s} has no time zone; give an aware instant")
    try:
        value.astimezone(dt.UTC)
    except OverflowError as error:
        raise InvalidRecord(field=field, reason=f"{value!s} is outside the years 1 to 9999 in UTC") from error


def _check_decimal(field: str, value: Decimal, *, integer_digits: int, places: int) -> None:
    """Refuse what NUMERIC(integer_digits + places, places) cannot hold to the last digit.

    Nothing here asks the caller's decimal context: a lower precision must not change what is refused.
    """
    # A float would pass every numeric test below and bring its binary error with it.
    if not isinstance(value, Decimal):
        raise InvalidRecord(field=field, reason=f"must be a Decimal, is {type(value).__name__}")
    if not value.is_finite():
        raise InvalidRecord(field=field, reason=f"{value} is not a finite number")
    if value and value.adjusted() >= integer_digits:
        raise InvalidRecord(
            field=field, reason=f"{_shown(value)} has more than {integer_digits} digits before the point"
        )
    _, digits, exponent = value.as_tuple()
    # Zeros beyond the last place lose nothing: 1.0000000000 is stored as it is.
    if isinstance(exponent, int) and -exponent > places and any(digits[exponent + places :]):
        raise InvalidRecord(field=field, reason=f"{_shown(value)} has more than {places} digits after the point")


_UNIT = Decimal("1E-8")
# Rounding to 8 places within a precision of 18 digits succeeds without a loss exactly for what
# NUMERIC(18,8) holds: one call in C says yes for nearly every value. It never says no by itself.
_as_numeric_18_8 = Context(prec=18, traps=[Inexact, InvalidOperation]).quantize
_as_numeric_28_8 = Context(prec=28, traps=[Inexact, InvalidOperation]).quantize


def _check_price(field: str, value: Decimal) -> None:
    """Refuse what NUMERIC(18,8) cannot hold to the last digit."""
    try:
        if value.__class__ is Decimal and _as_numeric_18_8(value, _UNIT).is_finite():
            return
    except (Inexact, InvalidOperation):
        pass  # the full check says what is wrong, if anything
    _check_decimal(field, value, integer_digits=10, places=8)


def _check_volume(field: str, value: Decimal) -> None:
    """Refuse what NUMERIC(28,8) cannot hold to the last digit, and what is below zero."""
    try:
        if value.__class__ is Decimal and not value.is_signed() and _as_numeric_28_8(value, _UNIT).is_finite():
            return
    except (Inexact, InvalidOperation):
        pass  # the full check says what is wrong, if anything
    _check_decimal(field, value, integer_digits=20, places=8)
    if value < 0:
        raise InvalidRecord(field=field, reason=f"{_shown(value)} is below zero")


def _check_count(field: str, value: int) -> None:
    """Refuse what is no BIGINT of at least 0; True would be stored as 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRecord(field=field, reason=f"must be an int, is {type(value).__name__}")
    if value < 0:
        raise InvalidRecord(field=field, reason=f"{_shown(value)} is below zero")
    if value > _MAX_BIGINT:
        raise InvalidRecord(field=field, reason=f"is above {_MAX_BIGINT}")


# The constructor is written by hand: the generated one of a frozen class spends longer on
# object.__setattr__ than all checks take together, and a day of one symbol makes 250,000 of these.
@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class TickData:
    """One trade of one symbol at one feed.

    Attributes:
        time: Instant of the trade, aware.
        symbol: Instrument, 1 to 64 characters.
        price: Trade price in the symbol's quote currency, at most 8 decimal places. May be negative
            (futures and spreads trade below zero).
        volume: Traded quantity in units of the instrument, at least 0, at most 8 decimal places.
        source: Feed the tick came from, at most 64 characters; '' for the only one.
        seq: The feed's own sequence number, at least 0, or None: then the loader gives the ordinal
            among the ticks of the same (symbol, time, source).
        bid: Best bid at the trade, or None.
        ask: Best ask at the trade, or None.

    Raises:
        InvalidRecord: A field is of the wrong type, or the table would refuse it or store it as
            something else.
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
        # The conditions let the ordinary value through at once; the checks have the last word.
        if symbol.__class__ is not str or not symbol.isprintable() or not 0 < len(symbol) <= MAX_SYMBOL_LENGTH:
            _check_symbol(symbol)
        if time.__class__ is not dt.datetime or time.tzinfo is not dt.UTC:
            _check_aware("time", time)
        _check_price("price", price)
        _check_volume("volume", volume)
        if source.__class__ is not str or not source.isprintable() or len(source) > MAX_SOURCE_LENGTH:
            _check_source(source)
        if seq is not None:
            _check_count("seq", seq)
        if bid is not None:
            _check_price("bid", bid)
        if ask is not None:
            _check_price("ask", ask)
        _set_time(self, time)
        _set_symbol(self, symbol)
        _set_price(self, price)
        _set_volume(self, volume)
        _set_source(self, source)
        _set_seq(self, seq)
        _set_bid(self, bid)
        _set_ask(self, ask)


def _setter(field: str) -> Callable[[TickData, object], None]:
    """The slot's own descriptor: the one way past the frozen class that needs no look-up by name."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OHLCV:
    """One bar: open, high, low, close and volume of a half-open interval.

    Attributes:
        time: Start of the interval, aware; the bar covers [time, time + interval).
        symbol: Instrument, 1 to 64 characters.
        source: Feed the bar was built from, at most 64 characters; '' for the only one.
        open: First price, at most 8 decimal places, like high, low and close.
        high: Highest price.
        low: Lowest price.
        close: Last price.
        volume: Sum of the traded quantities, at least 0, at most 8 decimal places.
        tick_count: Number of ticks in the bar; 0 where the publisher of the bar does not say.

    Raises:
        InvalidRecord: A field is of the wrong type or cannot be stored, or the prices are out of order:
            open and close lie between low and high.
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
        """Refuse what the table would refuse, or worse, would store as something else."""
        _check_symbol(self.symbol)
        _check_source(self.source)
        _check_aware("time", self.time)
        _check_price("open", self.open)
        _check_price("high", self.high)
        _check_price("low", self.low)
        _check_price("close", self.close)
        _check_volume("volume", self.volume)
        _check_count("tick_count", self.tick_count)
        for field, price in (("open", self.open), ("close", self.close)):
            if not self.low <= price <= self.high:
                raise InvalidRecord(field=field, reason=f"{price} is not between low {self.low} and high {self.high}")
