"""Intervals in PostgreSQL's notation: months and a fixed part, kept separately.

Declarations are compared at import, without a server. So this module reads the part of PostgreSQL's interval syntax
that policies use: a sum of numbers with units (`"1 day"`, `"1 hour 30 minutes"`).
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final, TypeAlias

from qts_data.timescale.errors import DeclarationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Interval", "IntervalLike"]

_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_MONTHS: Final = {"month": 1, "year": 12}
_PART: Final = re.compile(r"([+-]?)(\d+(?:\.\d+)?)\s*([a-z]+)")
_ABBREVIATIONS: Final = {"sec": "second", "min": "minute", "mon": "month", "hr": "hour"}


@dataclass(frozen=True, slots=True)
class Interval:
    """A length of time.

    Attributes:
        months: Calendar months, which have no fixed length.
        microseconds: The rest; a day counts 24 hours, as in TimescaleDB's buckets.
        text: The declared text, which migrations and comments show.
    """

    months: int
    microseconds: int
    text: str

    @classmethod
    def parse(cls, value: IntervalLike) -> Interval:
        """Read a declared length.

        Args:
            value: `"1 day"`, `"1 hour 30 minutes"`, a `timedelta` or an `Interval`.

        Raises:
            DeclarationError: The text is not a positive length of time.
        """
        if isinstance(value, Interval):
            return value
        read = cls.offset(value)
        if not {"+", "-"}.isdisjoint(read.text) or not (read.months or read.microseconds):
            raise _no_length(value)
        return read

    @classmethod
    def offset(cls, value: IntervalLike) -> Interval:
        """Read a distance from now. It may be zero or negative, as the end of a refresh window can be.

        Raises:
            DeclarationError: The text is not a length of time.
        """
        if isinstance(value, Interval):
            return value
        if isinstance(value, dt.timedelta):
            value = cls.of_parts(0, value // dt.timedelta(microseconds=1)).text
        text = " ".join(value.lower().split())
        months, seconds, end = 0, Fraction(0), 0
        for part in _PART.finditer(text):
            if text[end : part.start()].strip():
                break
            end = part.end()
            sign = -1 if part[1] == "-" else 1
            unit = part[3].removesuffix("s") if part[3] != "s" else "second"
            unit = _ABBREVIATIONS.get(unit, unit)
            if unit in _MONTHS and "." not in part[2]:
                months += sign * int(part[2]) * _MONTHS[unit]
            elif unit in _SECONDS:
                seconds += sign * Fraction(part[2]) * _SECONDS[unit]
            else:
                break
        else:
            microseconds = seconds * 1_000_000
            if text and end == len(text) and microseconds.denominator == 1:
                return cls(months, int(microseconds), text)
        raise _no_length(value)

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def of_parts(cls, months: int, microseconds: int) -> Interval:
        """Make an interval from the parts of a server's interval, with a text that `offset` can read."""
        counts = [*([(months, "month")] if months else []), *_counts(microseconds)]
        if not counts:
            return cls(0, 0, "0 seconds")
        # Either each part has a sign or none has. Under some IntervalStyle, one sign would count for all parts.
        signs = min(count for count, _ in counts) < 0
        parts = [
            f"{'+' if signs and count > 0 else ''}{count} {unit}{'' if unit == 'seconds' or abs(count) == 1 else 's'}"
            for count, unit in counts
        ]
        return cls(months, microseconds, " ".join(parts))

    def __str__(self) -> str:
        """Return the declared text."""
        return self.text

    @property
    def sql(self) -> str:
        """The interval as a PostgreSQL literal, because DDL takes no bind parameters."""
        return f"INTERVAL '{self.text}'"

    @property
    def shortest(self) -> int:
        """Length in microseconds if every month had 28 days."""
        return self.months * 28 * 86_400_000_000 + self.microseconds

    @property
    def as_chunk(self) -> int:
        """Length in microseconds as the length of a chunk, for which the server counts 30 days to a month."""
        return self.months * 30 * 86_400_000_000 + self.microseconds

    @property
    def longest(self) -> int:
        """Length in microseconds if every month had 31 days."""
        return self.months * 31 * 86_400_000_000 + self.microseconds

    def is_multiple_of(self, other: Interval) -> bool:
        """Return whether buckets of this length consist of whole buckets of the other."""
        if self.months:
            if self.microseconds:
                return False
            if other.months:
                return not other.microseconds and self.months % other.months == 0
            # A month starts at midnight, so a length that divides a day divides every month.
            return 86_400_000_000 % other.microseconds == 0
        return not other.months and self.microseconds % other.microseconds == 0

    def same_length(self, other: Interval) -> bool:
        """Return whether both are the same length, even if written differently."""
        return (self.months, self.microseconds) == (other.months, other.microseconds)


IntervalLike: TypeAlias = "Interval | dt.timedelta | str"


def _no_length(value: object) -> DeclarationError:
    return DeclarationError(
        f"{value!r} is not a length of time: write a number and a unit, such as '1 day' or '30 minutes'"
    )


def _counts(microseconds: int) -> Iterator[tuple[int | Decimal, str]]:
    """Yield the parts of a fixed length, each with its unit and the sign of the whole."""
    sign, rest = (-1 if microseconds < 0 else 1), abs(microseconds)
    for unit in ("day", "hour", "minute"):
        count, rest = divmod(rest, _SECONDS[unit] * 1_000_000)
        if count:
            yield sign * count, unit
    if rest:
        seconds, micros = divmod(rest, 1_000_000)
        yield (Decimal(sign * rest).scaleb(-6).normalize() if micros else sign * seconds), "seconds"
