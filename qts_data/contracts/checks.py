"""Checks of single fields: a field may hold only values that its column stores to the last digit."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import TYPE_CHECKING

from qts_data.contracts.identity import check_characters, check_name, shown
from qts_data.contracts.instants import utc
from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    import datetime as dt

__all__ = [
    "MAX_SOURCE_LENGTH",
    "MAX_SYMBOL_LENGTH",
    "check_amount",
    "check_count",
    "check_decimal",
    "check_full_minute",
    "check_positive",
    "check_price",
    "check_source",
    "check_storable",
    "check_symbol",
    "check_text",
    "check_volume",
    "shown",
]

MAX_SYMBOL_LENGTH = 64
"""Longest symbol that the schema stores, in characters (an OCC option symbol has 21)."""

MAX_SOURCE_LENGTH = 64
"""Longest name of a feed, in characters. The name is part of a key, and an index entry has a size limit."""

_MAX_BIGINT = 2**63 - 1


def check_text(field: str, value: str, *, shortest: int, longest: int) -> None:
    """Refuse a text that a TEXT column in UTF-8 cannot hold, or whose length its CHECK refuses."""
    if not isinstance(value, str):
        raise InvalidRecord(field=field, reason=f"must be a str, is {type(value).__name__}")
    if not shortest <= len(value) <= longest:
        raise InvalidRecord(field=field, reason=f"must have {shortest} to {longest} characters, has {len(value)}")
    check_characters(field, value)


def check_storable(field: str, value: str) -> None:
    """Refuse a text that a TEXT column in UTF-8 cannot hold. The length is free."""
    if not isinstance(value, str):
        raise InvalidRecord(field=field, reason=f"must be a str, is {type(value).__name__}")
    check_characters(field, value)


def check_symbol(symbol: str) -> None:
    """Refuse a text that is not a symbol of 1 to 64 characters."""
    check_name("symbol", symbol)


def check_source(source: str) -> None:
    """Refuse a text that is not a name of a feed. '' is allowed."""
    check_name("source", source, shortest=0)


def check_full_minute(field: str, value: dt.datetime) -> None:
    """Refuse an instant that is not the start of a minute in UTC. Old zones were offset from UTC by odd seconds."""
    instant = utc(field, value)
    if instant.second or instant.microsecond:
        raise InvalidRecord(field=field, reason=f"{instant.isoformat()} is not a full minute")


def check_decimal(field: str, value: Decimal, *, integer_digits: int, places: int) -> None:
    """Refuse a value that NUMERIC(integer_digits + places, places) cannot hold to the last digit.

    No step depends on the caller's decimal context: a lower precision must not change the result.
    """
    # A float would pass every numeric test below, with its binary error.
    if not isinstance(value, Decimal):
        raise InvalidRecord(field=field, reason=f"must be a Decimal, is {type(value).__name__}")
    if not value.is_finite():
        raise InvalidRecord(field=field, reason=f"{value} is not a finite number")
    if value and value.adjusted() >= integer_digits:
        raise InvalidRecord(
            field=field, reason=f"{shown(value)} has more than {integer_digits} digits before the point"
        )
    _, digits, exponent = value.as_tuple()
    # Zeros beyond the last place lose nothing: 1.0000000000 is stored without a loss.
    if isinstance(exponent, int) and -exponent > places and any(digits[exponent + places :]):
        raise InvalidRecord(field=field, reason=f"{shown(value)} has more than {places} digits after the point")


_UNIT = Decimal("1E-8")
# Rounding to 8 places within a precision of 18 digits succeeds without a loss exactly for the values that
# NUMERIC(18,8) holds. So one call in C accepts nearly every value; the full check below decides about the others.
_as_numeric_18_8 = Context(prec=18, traps=[Inexact, InvalidOperation]).quantize
_as_numeric_24_8 = Context(prec=24, traps=[Inexact, InvalidOperation]).quantize
_as_numeric_28_8 = Context(prec=28, traps=[Inexact, InvalidOperation]).quantize


def check_price(field: str, value: Decimal) -> None:
    """Refuse a value that NUMERIC(18,8) cannot hold to the last digit."""
    try:
        if value.__class__ is Decimal and _as_numeric_18_8(value, _UNIT).is_finite():
            return
    except (Inexact, InvalidOperation):
        pass  # the full check below raises with the reason, or accepts the value
    check_decimal(field, value, integer_digits=10, places=8)


def check_positive(field: str, value: Decimal) -> None:
    """Refuse a value that NUMERIC(18,8) cannot hold to the last digit, or that is not above zero."""
    check_price(field, value)
    if value <= 0:
        raise InvalidRecord(field=field, reason=f"{shown(value)} is not above zero")


def check_amount(field: str, value: Decimal) -> None:
    """Refuse a value that NUMERIC(24,8) cannot hold to the last digit."""
    try:
        if value.__class__ is Decimal and _as_numeric_24_8(value, _UNIT).is_finite():
            return
    except (Inexact, InvalidOperation):
        pass  # the full check below raises with the reason, or accepts the value
    check_decimal(field, value, integer_digits=16, places=8)


def check_volume(field: str, value: Decimal) -> None:
    """Refuse a value that NUMERIC(28,8) cannot hold to the last digit, or that is below zero."""
    try:
        if value.__class__ is Decimal and not value.is_signed() and _as_numeric_28_8(value, _UNIT).is_finite():
            return
    except (Inexact, InvalidOperation):
        pass  # the full check below raises with the reason, or accepts the value
    check_decimal(field, value, integer_digits=20, places=8)
    if value < 0:
        raise InvalidRecord(field=field, reason=f"{shown(value)} is below zero")


def check_count(field: str, value: int) -> None:
    """Refuse a value that is not a BIGINT of at least 0. A bool is refused too: True would be stored as 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRecord(field=field, reason=f"must be an int, is {type(value).__name__}")
    if value < 0:
        raise InvalidRecord(field=field, reason=f"{shown(value)} is below zero")
    if value > _MAX_BIGINT:
        raise InvalidRecord(field=field, reason=f"is above {_MAX_BIGINT}")
