"""Rows of a binary COPY with NUMERIC in them, read by NumPy many at a time.

A row's length depends on its numbers' digits, so no row begins at a known place in its piece; but the server sends
each row by itself, and from there on every field of all rows is found in one step. All fields have an even length:
everything is read in units of 16 bits.

Sources: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; numeric_send in
src/backend/utils/adt/numeric.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qts_data.extras import require

if TYPE_CHECKING:
    from qts_data.repositories.ticks.copy_out import Piece

    Array = Any

__all__ = ["Rows"]

_BASE: Final = 10_000
_FRACTION_DIGITS: Final = 2
_NEGATIVE: Final = 0x4000
# Four digits before the point (weight 3) could be more than 64 bits hold in 1/100,000,000; three with a first one
# of at most 921 cannot.
_SAFE_WEIGHT: Final = 2
_SAFE_FIRST_DIGIT: Final = 921


class Rows:
    """A piece of rows, read field by field from the left."""

    def __init__(self, rows: Piece) -> None:
        numpy = require("numpy")
        self._numpy = numpy
        self._words = numpy.frombuffer(rows.data, dtype=">i2").astype(numpy.int16)
        lengths = numpy.array(rows.sizes, dtype=numpy.int64) // 2
        self._at = numpy.cumsum(lengths) - lengths + 1  # past the number of fields
        self.size = len(lengths)

    def _word(self, offset: int) -> Array:
        return self._words[self._at + offset]

    def _unsigned(self, offset: int) -> Array:
        return self._word(offset).view(self._numpy.uint16).astype(self._numpy.int64)

    def int8(self) -> Array:
        """A BIGINT that is never null."""
        value = self._word(2).astype(self._numpy.int64)
        for offset in (3, 4, 5):
            value = (value << 16) | self._unsigned(offset)
        self._at = self._at + 6
        return value

    def int4(self) -> Array:
        """An INTEGER that is never null."""
        value = (self._word(2).astype(self._numpy.int64) << 16) | self._unsigned(3)
        self._at = self._at + 4
        return value

    def numeric(self) -> tuple[Array, Array]:
        """A NUMERIC in 1/100,000,000, and where it is not null.

        The values are 64-bit integers, or Python's where those are not enough.
        """
        numpy = self._numpy
        length = self._word(1)
        present = length >= 0
        if not present.any():
            self._at = self._at + 2
            return numpy.zeros(self.size, dtype=numpy.int64), present
        # The fields of a null are those of whatever follows; they count for nothing, and must not be read past
        # the end.
        at = numpy.where(present, self._at, numpy.flatnonzero(present)[0] * 0 + self._at[present][0])
        words = self._words
        digit_count = numpy.where(present, words[at + 2], 0)
        weight = words[at + 3].astype(numpy.int64)
        negative = words[at + 4] == _NEGATIVE
        most = int(digit_count.max())
        value = numpy.zeros(self.size, dtype=numpy.int64)
        big = numpy.zeros(self.size, dtype=bool)
        if most:
            big = (digit_count > 0) & (
                (weight > _SAFE_WEIGHT)
                | ((weight == _SAFE_WEIGHT) & (words[at + 6 * (digit_count > 0)] > _SAFE_FIRST_DIGIT))
            )
            powers = numpy.array(
                [_BASE**power for power in range(_SAFE_WEIGHT + _FRACTION_DIGITS + 1)], dtype=numpy.int64
            )
            for position in range(most):
                inside = (digit_count > position) & ~big
                power = weight - position + _FRACTION_DIGITS
                digit = words[at + (6 + position) * inside]
                value += numpy.where(inside, digit * powers[numpy.where(inside, power, 0)], 0)
        value = numpy.where(negative, -value, value)
        if big.any():
            value = value.astype(object)
            for row in numpy.flatnonzero(big).tolist():
                value[row] = self._python_int(int(at[row]))
        self._at = self._at + numpy.where(present, 6 + digit_count, 2)
        return value, present

    def _python_int(self, at: int) -> int:
        count, weight, sign = (int(self._words[at + offset]) for offset in (2, 3, 4))
        value = 0
        for position in range(count):
            value += int(self._words[at + 6 + position]) * _BASE ** (weight - position + _FRACTION_DIGITS)
        return -value if sign == _NEGATIVE else value
