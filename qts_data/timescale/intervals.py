"""Lengths of time as PostgreSQL writes them: months and a fixed part, never mixed up.

Declarations are compared while a module is imported, without a server, so the package reads the part of
PostgreSQL's interval syntax that policies use: a sum of numbers with units (`"1 day"`, `"1 hour 30 minutes"`).
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, TypeAlias

from qts_data.timescale.errors import DeclarationError

__all__ = ["Interval", "IntervalLike"]

_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_MONTHS: Final = {"month": 1, "year": 12}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_ABBREVIATIONS: Final = {"sec": "second", "min": "minute", "mon": "month", "hr": "hour"}


@dataclass(frozen=True, slots=True)
class Interval:
    """A length of time.

    Attributes:
        months: Calendar months, which have no fixed length.
        microseconds: The rest; a day counts 24 hours, as in TimescaleDB's buckets.
        text: How it was declared; what migrations and comments show.
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
            DeclarationError: The text is no positive length of time.
        """
        if isinstance(value, Interval):
            return value
        if isinstance(value, dt.timedelta):
            value = _describe(value)
        text = " ".join(value.lower().split())
        months, seconds, end = 0, Fraction(0), 0
        for part in _PART.finditer(text):
            if text[end : part.start()].strip():
                break
            end = part.end()
            unit = part[2].removesuffix("s") if part[2] != "s" else "second"
            unit = _ABBREVIATIONS.get(unit, unit)
            if unit in _MONTHS and "." not in part[1]:
                months += int(part[1]) * _MONTHS[unit]
            elif unit in _SECONDS:
                seconds += Fraction(part[1]) * _SECONDS[unit]
            else:
                break
        else:
            microseconds = seconds * 1_000_000
            if end == len(text) and microseconds.denominator == 1 and (months or microseconds):
                return cls(months, int(microseconds), text)
        raise DeclarationError(
            f"{value!r} is no length of time: write a number and a unit, such as '1 day' or '30 minutes'"
        )

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def of_parts(cls, months: int, microseconds: int) -> Interval:
        """From what a server's interval is made of; the text is a description."""
        parts = [f"{months} month{'s' * (months > 1)}"] if months else []
        if microseconds:
            parts.append(_describe(dt.timedelta(microseconds=microseconds)))
        return cls(months, microseconds, " ".join(parts))

    def __str__(self) -> str:
        """As declared."""
        return self.text

    @property
    def sql(self) -> str:
        """As a PostgreSQL literal; DDL takes no bind parameters."""
        return f"INTERVAL '{self.text}'"

    @property
    def shortest(self) -> int:
        """Length in microseconds if every month had 28 days."""
        return self.months * 28 * 86_400_000_000 + self.microseconds

    @property
    def as_chunk(self) -> int:
        """Length in microseconds where it is the length of a chunk: the server counts 30 days to a month there."""
        return self.months * 30 * 86_400_000_000 + self.microseconds

    @property
    def longest(self) -> int:
        """Length in microseconds if every month had 31 days."""
        return self.months * 31 * 86_400_000_000 + self.microseconds

    def is_multiple_of(self, other: Interval) -> bool:
        """Whether buckets of this length are made of whole buckets of the other."""
        if self.months:
            if self.microseconds:
                return False
            if other.months:
                return not other.microseconds and self.months % other.months == 0
            # A month starts at midnight: what divides a day divides every month.
            return 86_400_000_000 % other.microseconds == 0
        return not other.months and self.microseconds % other.microseconds == 0

    def same_length(self, other: Interval) -> bool:
        """Whether both are the same length, however written."""
        return (self.months, self.microseconds) == (other.months, other.microseconds)


IntervalLike: TypeAlias = "Interval | dt.timedelta | str"


def _describe(delta: dt.timedelta) -> str:
    parts = []
    rest = delta // dt.timedelta(microseconds=1)
    if rest <= 0:
        raise DeclarationError(f"{delta} is no length of time: it must be above zero")
    for unit in ("day", "hour", "minute"):
        count, rest = divmod(rest, _SECONDS[unit] * 1_000_000)
        if count:
            parts.append(f"{count} {unit}{'s' * (count > 1)}")
    if rest:
        seconds, micros = divmod(rest, 1_000_000)
        fraction = f".{micros:06d}".rstrip("0") if micros else ""
        parts.append(f"{seconds}{fraction} seconds")
    return " ".join(parts)
