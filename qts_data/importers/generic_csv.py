"""Trades in a CSV file with any columns: the caller names the column of each field, and the time zone.

The first row names the columns. Quotes may enclose a value, but not a line end. Lines end with LF or CR LF; a byte
order mark at the start of the file is left out.
"""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import re
from decimal import Decimal
from typing import TYPE_CHECKING

from qts_data.contracts import TickData
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.importers.files import read_lines, wrong_width
from qts_data.importers.rows import (
    Refuse,
    check_plausible,
    each_row,
    instant_of,
    read_decimal,
    read_text,
    utc_of,
    zone_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from qts_data.importers.layout import ReadOptions

__all__ = ["read_ticks"]

_OURS = ("time", "symbol", "price", "volume", "source", "seq", "bid", "ask")
_REQUIRED = ("time", "price", "volume")
_MAX_LINE_BYTES = 65_536
# Microseconds of each unit of time since 1970.
_UNITS = {"s": Decimal(1_000_000), "ms": Decimal(1_000), "us": Decimal(1), "ns": Decimal("0.001")}
# In no unit do the years up to 9999 have more digits before the point.
_MAX_INTEGER_DIGITS = 21
_EXACT = decimal.Context(prec=2 * _MAX_LINE_BYTES)
# datetime.fromisoformat drops these digits silently.
_BEYOND_MICROSECONDS = re.compile(r"[.,][0-9]{6}[0-9]*[1-9]")
_MAX_SEQUENCE_DIGITS = 19
_DIRECTIVE = re.compile(r"%(.)", re.DOTALL)
_OF_A_DATE = frozenset("aAbBcdGjmuUVwWxyY")


def read_ticks(path: Path, options: ReadOptions, refuse: Refuse | None) -> Iterator[TickData]:
    """Read the trades of a file.

    Times with an offset are instants. Other times are on the clock of `time_zone`; without a `time_zone` they are bad
    rows. Times without a date belong to the day `date`. If `symbol` or `source` is given, it replaces the file's
    column.

    Raises:
        ConfigurationError: A mapping names an unknown field, or the time zone does not exist. Or `time_format` cannot
            be read: it contains the name of a zone, half a date, or no date while `date` is not given.
        InvalidRecord: The file is missing, or lacks a required column. Without `refuse` also: a row is bad.
    """
    unknown = set(options.columns) - set(_OURS)
    if unknown:
        raise ConfigurationError(f"tick_data has no column {min(unknown)!r}; its columns are {', '.join(_OURS)}")
    if len(options.delimiter) != 1:
        raise ConfigurationError(f"the delimiter is one character, not {options.delimiter!r}")
    lines = read_lines(path, max_line_bytes=_MAX_LINE_BYTES)
    header = _values(read_text(next(lines, b"")), options.delimiter)
    places = _places(header, options.columns, symbol_needed=options.symbol is None)
    instant = _reader_of_times(options)

    def parse(line: bytes) -> TickData | None:
        if not line:
            return None
        values = _values(read_text(line), options.delimiter)
        if len(values) != len(header):
            raise wrong_width(len(values), len(header))

        def optional(name: str) -> str | None:
            return values[places[name]] or None if name in places else None

        bid, ask, seq = optional("bid"), optional("ask"), optional("seq")
        return check_plausible(
            TickData(
                time=instant(values[places["time"]]),
                symbol=options.symbol if options.symbol is not None else values[places["symbol"]],
                price=read_decimal("price", values[places["price"]]),
                volume=read_decimal("volume", values[places["volume"]]),
                source=options.source if options.source is not None else optional("source") or "",
                seq=None if seq is None else _sequence(seq),
                bid=None if bid is None else read_decimal("bid", bid),
                ask=None if ask is None else read_decimal("ask", ask),
            ),
            options.max_ahead,
        )

    return each_row(lines, parse, refuse, first_row=2)


def _values(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise InvalidRecord(field="row", reason=f"its quotes do not pair: {error}") from error


def _places(header: list[str], columns: Mapping[str, str], *, symbol_needed: bool) -> dict[str, int]:
    places: dict[str, int] = {}
    for ours in _OURS:
        theirs = columns.get(ours, ours)
        if header.count(theirs) > 1:
            raise InvalidRecord(field=ours, reason=f"column {theirs!r} comes twice", row=1)
        if theirs in header:
            places[ours] = header.index(theirs)
        elif ours in columns or ours in _REQUIRED or (ours == "symbol" and symbol_needed):
            raise InvalidRecord(field=ours, reason=f"the column {theirs!r} is missing; the columns are {header}", row=1)
    return places


def _reader_of_times(options: ReadOptions) -> Callable[[str], dt.datetime]:
    pattern = options.time_format
    zone = None if options.time_zone is None else zone_of(options.time_zone)
    if pattern in _UNITS:
        return lambda text: instant_of(_microseconds(text, _UNITS[pattern]))
    local = _reader_of_iso if pattern == "iso" else _reader_of_pattern(pattern, options.date)

    def instant(text: str) -> dt.datetime:
        try:
            time = local(text)
        except ValueError as error:
            raise InvalidRecord(field="time", reason=f"{text[:40]!r} is not a time of the form {pattern}") from error
        if time.tzinfo is None:
            if zone is None:
                raise InvalidRecord(field="time", reason=f"{text[:40]!r} has no time zone; say whose clock it is")
            return utc_of(time, zone)
        try:
            return time.astimezone(dt.UTC)
        except OverflowError as error:
            raise InvalidRecord(field="time", reason=f"{text[:40]!r} is outside the years 1 to 9999 in UTC") from error

    return instant


def _reader_of_iso(text: str) -> dt.datetime:
    if _BEYOND_MICROSECONDS.search(text):
        raise InvalidRecord(field="time", reason=f"{text[:40]!r} has a fraction of a microsecond")
    return dt.datetime.fromisoformat(text)


def _reader_of_pattern(pattern: str, date: dt.date | None) -> Callable[[str], dt.datetime]:
    directives = set(_DIRECTIVE.findall(pattern))
    if "Z" in directives:
        # strptime reads the name and ignores it.
        raise ConfigurationError(
            f"{pattern!r} has %Z, and names of zones are not read: %z reads offsets, and all rows may be given one zone"
        )
    if _says_a_date(directives):
        return lambda text: dt.datetime.strptime(text, pattern)  # noqa: DTZ007 - the zone follows
    if directives & _OF_A_DATE:
        raise ConfigurationError(f"{pattern!r} says half a date; a whole one has day, month and year")
    if date is None:
        raise ConfigurationError(f"{pattern!r} says no date; give the day of the file")
    day = date
    return lambda text: dt.datetime.combine(day, dt.datetime.strptime(text, pattern).timetz())  # noqa: DTZ007


def _says_a_date(directives: set[str]) -> bool:
    if directives & {"c", "x"}:
        return True
    weekday = directives & set("aAuw")
    if "G" in directives:
        return "V" in directives and bool(weekday)
    if not directives & {"y", "Y"}:
        return False
    return bool(
        "j" in directives or ("d" in directives and directives & set("mbB")) or (weekday and directives & set("UW"))
    )


def _microseconds(text: str, unit: Decimal) -> int:
    value = read_decimal("time", text)
    if value and value.adjusted() >= _MAX_INTEGER_DIGITS:
        raise InvalidRecord(field="time", reason=f"{text[:40]!r} is outside the years 1 to 9999")
    # Exact, whatever the precision of the caller's context.
    value = _EXACT.multiply(value, unit)
    if value != value.to_integral_value():
        raise InvalidRecord(field="time", reason=f"{text[:40]!r} has a fraction of a microsecond")
    return int(value)


def _sequence(text: str) -> int:
    # Without leading zeros: int() refuses thousands of digits with an error of its own.
    if not (text.isascii() and text.isdigit()) or len(text.lstrip("0")) > _MAX_SEQUENCE_DIGITS:
        raise InvalidRecord(field="seq", reason=f"{text[:40]!r} is not a whole number that could be a seq")
    return int(text.lstrip("0") or "0")
