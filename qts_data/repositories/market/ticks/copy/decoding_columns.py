"""Rows of a binary COPY with NUMERIC in them, which NumPy reads many at a time.

The length of a row depends on the digits of its numbers, so the places of the rows are unknown. But all rows begin
alike. The reader first takes every place that looks like a beginning for one, and reads every field of all rows in one
step. Then each row must end at the beginning of the next, which proves all of them. If that fails, the reader walks
through the rows one by one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qts_data.extras import require
from qts_data.repositories.market.ticks.copy.numeric import units_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = Any

__all__ = ["COPIED", "RECORD", "Layout", "Numbers", "Rows", "Words", "read_rows"]

_NUMBERS: Final = 4


class Layout(NamedTuple):
    """Places of the fields of a row, in words of 16 bits. Every field has an even length.

    Attributes:
        time: Place of the time, four words long.
        seq: Place of the seq, four words long.
        feed: Place of the feed, two words long.
        first_number: Place after the feed.
        type_words: Number of words before the length of a number.
        fixed: Places and values of the words that all rows share, the rarest first.
    """

    time: int
    seq: int
    feed: int
    first_number: int
    type_words: int
    fixed: tuple[tuple[int, int], ...]


# The number of the fields, and each field with its length in two words.
COPIED: Final = Layout(3, 9, 15, 17, 0, ((0, 3 + _NUMBERS), (1, 0), (2, 8), (7, 0), (8, 8), (13, 0), (14, 4)))
"""A row of a binary COPY."""
# The number of the fields has two words, and each field has its type before its length.
RECORD: Final = Layout(
    6,
    14,
    22,
    24,
    2,
    ((3, 1184), (0, 0), (1, 3 + _NUMBERS), (2, 0), (4, 0), (5, 8), (11, 20), (13, 8), (19, 23), (21, 4)),
)
"""A value of type record, in the form of record_send: timestamptz, bigint, integer, and numbers."""
_HEAD_WORDS: Final = 6  # of a number: its length, the count of its digits, its weight, sign and scale
# More digits than any number of ours has. A false beginning of a row may seem to have even more.
_MOST_DIGITS: Final = 15
_WEIGHTS: Final = range(-16, 16)
_PADDING: Final = bytes(2 * _NUMBERS * (2 + _HEAD_WORDS + _MOST_DIGITS) + 96)
_BASE: Final = 10_000
_FRACTION_DIGITS: Final = 2
# With four digits before the point (weight 3), a number in 1/100,000,000 may exceed 64 bits. With three digits and a
# first one of at most 921, it cannot.
_SAFE_WEIGHT: Final = 2
_SAFE_FIRST_DIGIT: Final = 921


class Numbers(NamedTuple):
    """A column of NUMERIC.

    Attributes:
        units: In 1/100,000,000: 64-bit integers, or Python's if those are not enough.
        present: False for each null.
    """

    units: Array
    present: Array


class Rows(NamedTuple):
    """The columns of all rows: integers, and prices, volumes, bids and asks as numbers."""

    time: Array
    seq: Array
    feed: Array
    numbers: list[Numbers]


def read_rows(rows: bytes, layout: Layout = COPIED) -> Rows:
    """Read the columns of whole consecutive rows: time, seq, feed and four numbers.

    Args:
        rows: The bytes of at least one row.
        layout: Places of the fields.

    Raises:
        ValueError: The bytes are not such rows.
    """
    words = Words(rows, layout)
    columns = words.columns(words.likely_beginnings()) or words.columns(words.beginnings())
    if columns is None:
        raise ValueError("these are not whole rows")
    return columns


class Words:
    """The rows as words of 16 bits, and views of 32 and 64 bits that begin at each word."""

    def __init__(self, rows: bytes, layout: Layout = COPIED) -> None:
        numpy = self._numpy = require("numpy")
        self._layout = layout
        self._size = len(rows) // 2
        # A number at the very end is read as if it had more digits. The same holds for a false beginning.
        padded = self._padded = rows + _PADDING
        starts = self._size + len(_PADDING) // 2 - 3
        self._words = numpy.frombuffer(rows, dtype=numpy.int16)
        self._ints = numpy.ndarray(starts, dtype=">i4", buffer=padded, strides=(2,))
        self._longs = numpy.ndarray(starts, dtype=">i8", buffer=padded, strides=(2,))

    def likely_beginnings(self) -> Array:
        """Return the places at which the words of a row's beginning stand."""
        numpy = self._numpy
        # In this machine's byte order: it would take longer than the search to swap all words.
        fixed = [(offset, int(numpy.array(word, ">i2").view(numpy.int16))) for offset, word in self._layout.fixed]
        (offset, word), *more = fixed
        found = numpy.flatnonzero(self._words[offset : max(0, self._size - self._layout.feed) + offset] == word)
        for offset, word in more:
            same = self._words[found + offset] == word
            if not same.all():
                found = found[same]
        return found

    def beginnings(self) -> Array:
        """Return the beginnings of the rows, from the first to the last, by walking through them."""
        return self._numpy.fromiter(self._walk(), dtype=self._numpy.int64)

    def _walk(self) -> Iterator[int]:
        at = 0
        while at < self._size:
            yield at
            at += self._layout.first_number
            for _ in range(_NUMBERS):
                at += self._layout.type_words
                if at >= self._size:
                    return
                (length,) = struct.unpack_from(">i", self._padded, 2 * at)
                at += 2 + max(0, length) // 2

    def columns(self, beginnings: Array) -> Rows | None:
        """Return the columns of the rows at these beginnings, or None unless the rows fill the bytes exactly."""
        if not len(beginnings) or beginnings[0] != 0:
            return None
        numpy = self._numpy
        at = beginnings + self._layout.first_number
        numbers = []
        for _ in range(_NUMBERS):
            read = self._numeric(at)
            if read is None:
                return None
            number, at = read
            numbers.append(number)
        if at[-1] != self._size or (at[:-1] != beginnings[1:]).any():
            return None
        return Rows(
            self._longs[beginnings + self._layout.time].astype(numpy.int64),
            self._longs[beginnings + self._layout.seq].astype(numpy.int64),
            self._ints[beginnings + self._layout.feed].astype(numpy.int32),
            numbers,
        )

    def _numeric(self, at: Array) -> tuple[Numbers, Array] | None:
        """Return the numbers at these places, and the place after each. None if they are not numbers."""
        numpy = self._numpy
        size = len(at)
        at = at + self._layout.type_words
        head = self._longs[at].astype(numpy.int64)  # length, count of digits, weight
        present = head >= 0
        where = None if present.all() else numpy.flatnonzero(present)
        if where is not None:
            at_null, at, head = at, at[where], head[where]
        tail = self._longs[at + 4].astype(numpy.int64)  # sign, scale, two digits
        count = (head >> 16) & 0xFFFF
        weight = head.astype(numpy.int16).astype(numpy.int64)
        if len(at) and not (
            count.max() <= _MOST_DIGITS and weight.min() >= _WEIGHTS[0] and weight.max() <= _WEIGHTS[-1]
        ):
            return None
        units = self._units(at, count, weight, tail)
        behind = at + _HEAD_WORDS + count
        if where is None:
            return Numbers(units, present), behind
        all_units = numpy.zeros(size, dtype=units.dtype)
        all_units[where] = units
        behind_null = at_null + 2
        behind_null[where] = behind
        return Numbers(all_units, present), behind_null

    def _units(self, at: Array, count: Array, weight: Array, tail: Array) -> Array:
        """Return numbers in 1/100,000,000. Numbers with equal digit counts and sign are read in one step."""
        numpy = self._numpy
        form = (count << 6) | ((weight - _WEIGHTS[0]) << 1) | ((tail >> 62) & 1)
        units = numpy.zeros(len(at), dtype=numpy.int64)
        forms = numpy.flatnonzero(numpy.bincount(form)).tolist() if len(at) else []
        big = []
        for one in forms:
            digits, power, negative = one >> 6, ((one >> 1) & 31) + _WEIGHTS[0], one & 1
            if not digits:
                continue
            rows = slice(None) if len(forms) == 1 else numpy.flatnonzero(form == one)
            places, first = at[rows], tail[rows]
            if power > _SAFE_WEIGHT:
                big += numpy.arange(len(at))[rows].tolist()
                continue
            if power == _SAFE_WEIGHT and (unsafe := (first >> 16) & 0xFFFF > _SAFE_FIRST_DIGIT).any():
                big += numpy.arange(len(at))[rows][unsafe].tolist()
            value = ((first >> 16) & 0xFFFF) * _power(power)
            if digits > 1:
                value += (first & 0xFFFF) * _power(power - 1)
            for four in range(2, digits, 4):
                more = self._longs[places + (_HEAD_WORDS + four)].astype(numpy.int64)
                for place in range(four, min(four + 4, digits)):
                    value += ((more >> (16 * (3 - place + four))) & 0xFFFF) * _power(power - place)
            units[rows] = -value if negative else value
        if big:
            units = units.astype(object)
            for row in big:
                units[row] = self._python_units(int(at[row]))
        return units

    def _python_units(self, at: int) -> int:
        count, weight, sign = struct.unpack_from(">Hhh", self._padded, 2 * at + 4)
        return units_of(struct.unpack_from(f">{count}h", self._padded, 2 * at + 2 * _HEAD_WORDS), weight, sign)


def _power(weight: int) -> int:
    """Return the units of a digit. Rows have no digits below one unit."""
    return int(_BASE ** max(0, weight + _FRACTION_DIGITS))
