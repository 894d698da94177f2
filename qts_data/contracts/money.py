"""Money: the one rounding rule of the package."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final

__all__ = ["EXACT", "round_money"]

_PLACES: Final = Decimal("1E-8")
EXACT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""Wide enough for the product of two numbers of 18 digits, so that only the last step rounds."""


def round_money(value: Decimal) -> Decimal:
    """Round to 8 places, ties to even (IEEE 754-2019, 4.3.1 roundTiesToEven. Also called banker's rounding).

    Ties go to the even neighbour. So the errors of many roundings do not all point the same way.
    """
    return EXACT.quantize(value, _PLACES)
