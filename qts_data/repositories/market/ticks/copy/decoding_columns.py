"""Rows of a binary COPY with NUMERIC in them, read by NumPy many at a time.

A row's length depends on its numbers' digits, so no row begins at a known place; but all begin alike. What looks like
a beginning is taken for one, every field of all rows is read in one step, and then each row must end where the next
one begins: that proves all of them. Where it does not hold, the rows are gone through one by one.
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
    """Where the fields of a row are, in words of 16 bits: everything has an even length.

    Attributes:
        time: Place of the time, which has four words.
        seq: Place of the seq, which has four.
        feed: Place of the feed, which has two.
        first_number: Place behind the feed.
        type_words: Words before the length of a number.
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
# The number takes two words, and the type of each field stands before its length.
RECORD: Final = Layout(
    6,
    14,
    22,
    24,
    2,
    ((3, 1184), (0, 0), (1, 3 + _NUMBERS), (2, 0), (4, 0), (5, 8), (11, 20), (13, 8), (19, 23), (21, 4)),
)
"""A value of type record, as record_send writes it: timestamptz, bigint, integer, and numbers."""
_HEAD_WORDS: Final = 6  # of a number: its length, the count of its digits, its weight, sign and scale
# More than a number of ours can have; what is no beginning of a row may seem to have more.
_MOST_DIGITS: Final = 15
_WEIGHTS: Final = range(-16, 16)
_PADDING: Final = bytes(2 * _NUMBERS * (2 + _HEAD_WORDS + _MOST_DIGITS) + 96)
_BASE: Final = 10_000
_FRACTION_DIGITS: Final = 2
# Four digits before the point (weight 3) could be more than 64 bits hold in 1/100,000,000; three with a first one
# of at most 921 cannot.
_SAFE_WEIGHT: Final = 2
_SAFE_FIRST_DIGIT: Final = 921


class Numbers(NamedTuple):
    """A column of NUMERIC.

    Attributes:
        units: In 1/100,000,000: 64-bit integers, or Python's where those are not enough.
        present: Where it is not null.
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
    """Columns of whole rows, one behind the other: time, seq, feed and four numbers.

    Args:
        rows: At least one.
        layout: Where their fields are.

    Raises:
        ValueError: They are something else.
    """
    words = Words(rows, layout)
    columns = words.columns(words.likely_beginnings()) or words.columns(words.beginnings())
    if columns is None:
        raise ValueError("these are no whole rows")
    return columns


class Words:
    """The rows as words of 16 bits, and views of 32 and 64 bits that begin at each word."""

    def __init__(self, rows: bytes, layout: Layout = COPIED) -> None:
        numpy = self._numpy = require("numpy")
        self._layout = layout
        self._size = len(rows) // 2
        # A number at the very end is read as if it had more digits; so is what only looks like one.
        padded = self._padded = rows + _PADDING
        starts = self._size + len(_PADDING) // 2 - 3
        self._words = numpy.frombuffer(rows, dtype=numpy.int16)
        self._ints = numpy.ndarray(starts, dtype=">i4", buffer=padded, strides=(2,))
        self._longs = numpy.ndarray(starts, dtype=">i8", buffer=padded, strides=(2,))

    def likely_beginnings(self) -> Array:
        """Where the words of a row's beginning are."""
        numpy = self._numpy
        # As this machine would read them: to turn all words around would take longer than the search.
        fixed = [(offset, int(numpy.array(word, ">i2").view(numpy.int16))) for offset, word in self._layout.fixed]
        (offset, word), *more = fixed
        found = numpy.flatnonzero(self._words[offset : max(0, self._size - self._layout.feed) + offset] == word)
        for offset, word in more:
            same = self._words[found + offset] == word
            if not same.all():
                found = found[same]
        return found

    def beginnings(self) -> Array:
        """Where rows begin, from the first to the last."""
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
        """Of the rows that begin there; None if not every row does, or something else."""
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
        """The numbers there, and what is behind each; None if those are no numbers."""
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
        """Numbers of one form, as many digits before and behind the point and one sign, are read in one step."""
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
    """Units of a digit; a digit that is less than one of them is none of a row."""
    return int(_BASE ** max(0, weight + _FRACTION_DIGITS))
