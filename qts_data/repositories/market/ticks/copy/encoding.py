"""PostgreSQL's binary COPY format from NumPy arrays.

A row of ticks has a fixed layout if every number has the same number of digits. The server's reader allows that: it
drops zero digits at both ends. So a batch is one structured array. A mask then cuts rows that differ in length
(symbols, missing bids) to size.

Sources: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; numeric_recv in
src/backend/utils/adt/numeric.c for NUMERIC: number of digits, weight of the first, sign, places, digits of
base 10,000.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

from qts_data.extras import require

if TYPE_CHECKING:
    from qts_data.repositories.market.ticks.copy.columns import Columns

    Array = Any

__all__ = ["HEADER", "TRAILER", "encode_rows"]

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
_FIELD_COUNT: Final = 8
_BASE: Final = 10_000
_SCALE: Final = 8
_FRACTION_DIGITS: Final = 2  # of base 10,000: eight decimal places
_NEGATIVE: Final = 0x4000
_MISSING: Final = -1
# PostgreSQL counts time from the year 2000.
_EPOCH_MICROSECONDS: Final = int(dt.datetime(2000, 1, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000


def encode_rows(columns: Columns) -> bytes:
    """Encode rows of symbol, time, source, seq, price, volume, bid and ask, without header and trailer."""
    numpy = require("numpy")
    symbols, symbol_lengths = _texts(columns.symbols)
    sources, source_lengths = _texts(columns.sources)
    numbers = {"price": _digits(columns.price), "volume": _digits(columns.volume)}
    for name, present in (("bid", columns.has_bid), ("ask", columns.has_ask)):
        numbers[name] = _digits(getattr(columns, name)) if present.any() else []
    layout = _layout(symbol_lengths, source_lengths, numbers)
    kind = numpy.dtype(layout)
    rows = numpy.empty(len(columns), dtype=kind)
    rows["fields"] = _FIELD_COUNT
    rows["symbol_length"] = symbol_lengths[columns.symbol]
    if "symbol" in kind.names:
        rows["symbol"] = symbols[columns.symbol]
    rows["time_length"] = 8
    rows["time"] = columns.time - _EPOCH_MICROSECONDS
    rows["source_length"] = source_lengths[columns.source]
    if "source" in kind.names:
        rows["source"] = sources[columns.source]
    rows["seq_length"] = 8
    rows["seq"] = columns.seq
    for name, digits in numbers.items():
        if name not in kind.names:
            rows[f"{name}_length"] = _MISSING
            continue
        field = rows[name]
        rows[f"{name}_length"] = 8 + 2 * len(digits)
        field["ndigits"] = len(digits)
        field["weight"] = len(digits) - 1 - _FRACTION_DIGITS
        field["sign"] = numpy.asarray(getattr(columns, name) < 0, dtype=bool) * _NEGATIVE
        field["scale"] = _SCALE
        for position, digit in enumerate(digits):
            field["digits"][:, position] = digit
    for name, present in (("bid", columns.has_bid), ("ask", columns.has_ask)):
        rows[f"{name}_length"][~present] = _MISSING
    return _cut(rows, columns, symbol_lengths, source_lengths)


def _layout(symbol_lengths: Array, source_lengths: Array, numbers: dict[str, list[Array]]) -> list[tuple[Any, ...]]:
    """Return the fields of a row. A field that every row of the batch lacks takes no space."""
    layout: list[tuple[Any, ...]] = [("fields", ">i2")]

    def add(name: str, kind: object) -> None:
        layout.append((f"{name}_length", ">i4"))
        if kind is not None:
            layout.append((name, kind))

    def text(lengths: Array) -> str | None:
        longest = int(lengths.max(initial=0))
        return f"S{longest}" if longest else None

    add("symbol", text(symbol_lengths))
    add("time", ">i8")
    add("source", text(source_lengths))
    add("seq", ">i8")
    for name, digits in numbers.items():
        numeric = [
            ("ndigits", ">i2"),
            ("weight", ">i2"),
            ("sign", ">i2"),
            ("scale", ">i2"),
            ("digits", ">i2", (len(digits),)),
        ]
        add(name, numeric if digits else None)
    return layout


def _cut(rows: Array, columns: Columns, symbol_lengths: Array, source_lengths: Array) -> bytes:
    """Cut the bytes of fields that are missing, or shorter than their space."""
    numpy = require("numpy")
    kind = rows.dtype
    keep: Array | None = None

    def only(name: str, mask: Array) -> None:
        nonlocal keep
        if keep is None:
            keep = numpy.ones((len(rows), kind.itemsize), dtype=bool)
        place, start = kind.fields[name]
        keep[:, start : start + place.itemsize] = mask

    for name, present in (("bid", columns.has_bid), ("ask", columns.has_ask)):
        if name in kind.names and not present.all():
            only(name, present[:, None])
    for name, lengths, codes in (
        ("symbol", symbol_lengths, columns.symbol),
        ("source", source_lengths, columns.source),
    ):
        if name not in kind.names:
            continue
        width = kind.fields[name][0].itemsize
        if (lengths != width).any():
            only(name, numpy.arange(width) < lengths[codes][:, None])
    if keep is None:
        return bytes(rows.tobytes())
    return bytes(rows.view(numpy.uint8).reshape(len(rows), kind.itemsize)[keep].tobytes())


def _texts(values: list[str]) -> tuple[Array, Array]:
    numpy = require("numpy")
    encoded = [value.encode() for value in values]
    return numpy.array(encoded, dtype=bytes), numpy.array([len(value) for value in encoded], dtype=numpy.int32)


def _digits(values: Array) -> list[Array]:
    """Return digits of base 10,000, the highest first: as many as the greatest value needs, two of them a fraction."""
    rest = abs(values)
    digits: list[Array] = []
    while len(digits) <= _FRACTION_DIGITS or (rest != 0).any():
        digits.append((rest % _BASE).astype("i2"))
        rest = rest // _BASE
    return digits[::-1]
