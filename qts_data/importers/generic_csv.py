"""Trades in a CSV of any making: the caller says which column is what, and whose clock it is.

The first row names the columns. Quotes may surround a value, not a line end. Lines end with LF or CR LF; a byte order
mark at the start of the file is left out.
"""

from __future__ import annotations

import csv
import datetime as dt
from typing import TYPE_CHECKING

from qts_data.contracts import TickData
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.importers.lean_trade import read_lines, wrong_width
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
_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_MAX_LINE_BYTES = 65_536


def read_ticks(path: Path, options: ReadOptions, refuse: Refuse | None) -> Iterator[TickData]:
    """The trades of a file.

    Times with an offset are instants; others are of the clock of `time_zone`, and without one they are bad rows.

    Raises:
        ConfigurationError: A mapping names no column of ours, or there is no such time zone.
        InvalidRecord: The file is missing, or has no column that is needed; without `refuse` also: a row is bad.
    """
    unknown = set(options.columns) - set(_OURS)
    if unknown:
        raise ConfigurationError(
            f"there is no column {min(unknown)!r} in tick_data; the columns are {', '.join(_OURS)}"
        )
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
                source=optional("source") or options.source or "",
                seq=None if seq is None else _sequence(seq),
                bid=None if bid is None else read_decimal("bid", bid),
                ask=None if ask is None else read_decimal("ask", ask),
            )
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
            raise InvalidRecord(field=ours, reason=f"there is no column {theirs!r}; the columns are {header}", row=1)
    return places


def _reader_of_times(options: ReadOptions) -> Callable[[str], dt.datetime]:
    pattern = options.time_format
    zone = None if options.time_zone is None else zone_of(options.time_zone)
    if pattern in _UNITS:
        return lambda text: instant_of(_exactly(text, _UNITS[pattern]))
    if pattern == "ns":
        return lambda text: instant_of(_without_fraction(text))

    def instant(text: str) -> dt.datetime:
        try:
            time = dt.datetime.fromisoformat(text) if pattern == "iso" else dt.datetime.strptime(text, pattern)  # noqa: DTZ007
        except ValueError as error:
            raise InvalidRecord(field="time", reason=f"{text[:40]!r} is no time of the form {pattern}") from error
        if time.tzinfo is not None:
            return time.astimezone(dt.UTC)
        if zone is None:
            raise InvalidRecord(field="time", reason=f"{text[:40]!r} has no time zone; say whose clock it is")
        return utc_of(time, zone)

    return instant


def _exactly(text: str, microseconds: int) -> int:
    value = read_decimal("time", text) * microseconds
    if value != value.to_integral_value():
        raise InvalidRecord(field="time", reason=f"{text[:40]!r} has a fraction of a microsecond")
    return int(value)


def _without_fraction(text: str) -> int:
    value = read_decimal("time", text)
    if value % 1000:
        raise InvalidRecord(field="time", reason=f"{text[:40]!r} has a fraction of a microsecond")
    return int(value // 1000)


def _sequence(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidRecord(field="seq", reason=f"{text[:40]!r} is no whole number")
    return int(text)
