"""The wire format of PostgreSQL's NUMERIC.

Source: numeric_send in src/backend/utils/adt/numeric.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["units_of"]

_BASE: Final = 10_000
_FRACTION_DIGITS: Final = 2


def units_of(digits: Sequence[int], weight: int, sign: int) -> int:
    """Return a NUMERIC of at most 8 decimal places in 1/100,000,000.

    Args:
        digits: Digits of base 10,000.
        weight: Power of that base for the first digit.
        sign: Zero for positive numbers.
    """
    units = 0
    for place, digit in enumerate(digits):
        units += digit * _BASE ** (weight - place + _FRACTION_DIGITS)
    return -units if sign else units
