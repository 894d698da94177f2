"""What a field of a record may hold: exactly what its column holds, to the last digit."""

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
"""Longest symbol the schema takes, in characters (an OCC option symbol has 21)."""

MAX_SOURCE_LENGTH = 64
"""Longest name of a feed, in characters; it is part of a key, and an index entry has a size limit."""

_MAX_BIGINT = 2**63 - 1


def check_text(field: str, value: str, *, shortest: int, longest: int) -> None:
    """Refuse what TEXT in a UTF-8 database cannot hold, or a CHECK of its length refuses."""
    if not isinstance(value, str):
        raise InvalidRecord(field=field, reason=f"must be a str, is {type(value).__name__}")
    if not shortest <= len(value) <= longest:
        raise InvalidRecord(field=field, reason=f"must have {shortest} to {longest} characters, has {len(value)}")
    check_characters(field, value)


def check_storable(field: str, value: str) -> None:
    """Refuse what TEXT in a UTF-8 database cannot hold; it may have any length."""
    if not isinstance(value, str):
        raise InvalidRecord(field=field, reason=f"must be a str, is {type(value).__name__}")
    check_characters(field, value)


def check_symbol(symbol: str) -> None:
    """Refuse what is no symbol of 1 to 64 characters."""
    check_name("symbol", symbol)


def check_source(source: str) -> None:
    """Refuse what is no name of a feed; '' is one."""
    check_name("source", source, shortest=0)


def check_full_minute(field: str, value: dt.datetime) -> None:
    """Refuse an instant at which no minute begins; in UTC, because zones of old are seconds away from it."""
    instant = utc(field, value)
    if instant.second or instant.microsecond:
        raise InvalidRecord(field=field, reason=f"{instant.isoformat()} is no full minute")


def check_decimal(field: str, value: Decimal, *, integer_digits: int, places: int) -> None:
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
            field=field, reason=f"{shown(value)} has more than {integer_digits} digits before the point"
        )
    _, digits, exponent = value.as_tuple()
    # Zeros beyond the last place lose nothing: 1.0000000000 is stored as it is.
    if isinstance(exponent, int) and -exponent > places and any(digits[exponent + places :]):
        raise InvalidRecord(field=field, reason=f"{shown(value)} has more than {places} digits after the point")


_UNIT = Decimal("1E-8")
# Rounding to 8 places within a precision of 18 digits succeeds without a loss exactly for what
# NUMERIC(18,8) holds: one call in C says yes for nearly every value. It never says no by itself.
_as_numeric_18_8 = Context(prec=18, traps=[Inexact, InvalidOperation]).quantize
_as_numeric_24_8 = Context(prec=24, traps=[Inexact, InvalidOperation]).quantize
_as_numeric_28_8 = Context(prec=28, traps=[Inexact, InvalidOperation]).quantize


def check_price(field: str, value: Decimal) -> None:
    """Refuse what NUMERIC(18,8) cannot hold to the last digit."""
    try:
        if value.__class__ is Decimal and _as_numeric_18_8(value, _UNIT).is_finite():
            return
    except (Inexact, InvalidOperation):
        pass  # the full check says what is wrong, if anything
    check_decimal(field, value, integer_digits=10, places=8)


def check_positive(field: str, value: Decimal) -> None:
    """Refuse what NUMERIC(18,8) cannot hold to the last digit, and what is not above zero."""
    check_price(field, value)
    if value <= 0:
        raise InvalidRecord(field=field, reason=f"{shown(value)} is not above zero")


def check_amount(field: str, value: Decimal) -> None:
    """Refuse what NUMERIC(24,8) cannot hold to the last digit."""
    try:
        if value.__class__ is Decimal and _as_numeric_24_8(value, _UNIT).is_finite():
            return
    except (Inexact, InvalidOperation):
        pass  # the full check says what is wrong, if anything
    check_decimal(field, value, integer_digits=16, places=8)


def check_volume(field: str, value: Decimal) -> None:
    """Refuse what NUMERIC(28,8) cannot hold to the last digit, and what is below zero."""
    try:
        if value.__class__ is Decimal and not value.is_signed() and _as_numeric_28_8(value, _UNIT).is_finite():
            return
    except (Inexact, InvalidOperation):
        pass  # the full check says what is wrong, if anything
    check_decimal(field, value, integer_digits=20, places=8)
    if value < 0:
        raise InvalidRecord(field=field, reason=f"{shown(value)} is below zero")


def check_count(field: str, value: int) -> None:
    """Refuse what is no BIGINT of at least 0; True would be stored as 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRecord(field=field, reason=f"must be an int, is {type(value).__name__}")
    if value < 0:
        raise InvalidRecord(field=field, reason=f"{shown(value)} is below zero")
    if value > _MAX_BIGINT:
        raise InvalidRecord(field=field, reason=f"is above {_MAX_BIGINT}")
