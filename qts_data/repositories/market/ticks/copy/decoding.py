"""Decoding of ticks from a binary COPY: time, seq, feed, and four numbers as NUMERIC, in consecutive rows.

Feeds arrive as integers: 1 is the first of a list, and 0 is a feed that the list does not have.

Sources: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; numeric_send in
src/backend/utils/adt/numeric.c.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import struct
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qts_data.contracts.market import stored_tick
from qts_data.extras import is_installed, require
from qts_data.repositories.market.ticks.copy.decoding_columns import COPIED, RECORD, read_rows
from qts_data.repositories.market.ticks.copy.numeric import units_of

if TYPE_CHECKING:
    from qts_data.contracts import TickData
    from qts_data.repositories.market.ticks.copy.decoding_columns import Layout, Numbers, Rows

    Array = Any

__all__ = ["Decoded", "arrow_schema", "decode_columns", "decode_records"]

_EPOCH: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_EPOCH_MICROSECONDS: Final = int(_EPOCH.timestamp()) * 1_000_000
_RECORDS_OF_A_TURN: Final = 500
_REMEMBERED_NUMBERS: Final = 100_000
_EXACT: Final = Context(prec=40)
# Struct of the number of fields, then time, seq and feed with their lengths.
_FIRST_FIELDS: Final = {COPIED: struct.Struct(">2x4xq4xq4xi"), RECORD: struct.Struct(">4x8xq8xq8xi")}
_NUMBER_HEAD: Final = struct.Struct(">Hhh2x")
_NULL: Final = 255  # the last byte of the length -1; no number of ours has so many bytes


class Decoded(NamedTuple):
    """A piece of the result.

    Attributes:
        piece: Records or a RecordBatch, up to the first row of an unknown source.
        last: Key of its last row; None if the piece is empty.
        strange: Whether a row of an unknown source follows.
    """

    piece: Any
    last: tuple[dt.datetime, str, int] | None
    strange: bool


class _Numbers(dict[bytes, Decimal]):
    """Decimals by the bytes of NUMERIC, as the server sends them. A symbol's day has few different prices."""

    def __missing__(self, sent: bytes) -> Decimal:
        count, weight, sign = _NUMBER_HEAD.unpack_from(sent)
        value = _decimal(units_of(struct.unpack_from(f">{count}h", sent, 8), weight, sign))
        if len(self) >= _REMEMBERED_NUMBERS:
            self.clear()
        self[sent] = value
        return value


class _Units(dict[int, Decimal]):
    """Decimals by their number of 1/100,000,000."""

    def __missing__(self, units: int) -> Decimal:
        value = self[units] = _decimal(units)
        return value


def _decimal(units: int) -> Decimal:
    # In a context of our own: the caller's may round.
    return _EXACT.scaleb(Decimal(units), -8)


async def decode_records(rows: bytes, symbol: str, sources: list[str], layout: Layout = COPIED) -> Decoded:
    """Decode rows as TickData, with NumPy if it is installed, else with the standard library alone.

    NumPy takes two thirds of the time.
    """
    if is_installed("numpy"):
        return await _records_of_columns(await asyncio.to_thread(read_rows, rows, layout), symbol, sources)
    numbers = _Numbers()
    ticks: list[TickData] = []
    position: int | None = 0
    while position is not None and position < len(rows):
        position = _add_records(rows, position, symbol, sources, numbers, ticks, layout)
        await asyncio.sleep(0)
    return _decoded(ticks, strange=position is None)


def _add_records(  # noqa: PLR0917 - called in the hot path
    rows: bytes,
    position: int,
    symbol: str,
    sources: list[str],
    numbers: _Numbers,
    ticks: list[TickData],
    layout: Layout,
) -> int | None:
    """Append some ticks. Return the place of the next one, or None at the first of an unknown source."""
    names = [None, *sources]
    first_fields, append = _FIRST_FIELDS[layout].unpack_from, ticks.append
    to_number, to_next = 2 * (layout.first_number + layout.type_words) + 4, 2 * layout.type_words + 4
    time, last_microseconds = _EPOCH, 0
    end = len(rows)
    for _ in range(_RECORDS_OF_A_TURN):
        if position >= end:
            break
        microseconds, seq, feed = first_fields(rows, position)
        source = names[feed]
        if source is None:
            return None
        # Trades come in bursts, often at one instant.
        if microseconds != last_microseconds:
            time, last_microseconds = _EPOCH + dt.timedelta(microseconds=microseconds), microseconds
        # Written out four times: a loop or a function would take half as long again.
        start = position + to_number
        position = start + rows[start - 1]
        price = numbers[rows[start:position]]
        start = position + to_next
        position = start + rows[start - 1]
        volume = numbers[rows[start:position]]
        start = position + to_next
        if (size := rows[start - 1]) == _NULL:
            bid, position = None, start
        else:
            position = start + size
            bid = numbers[rows[start:position]]
        start = position + to_next
        if (size := rows[start - 1]) == _NULL:
            ask, position = None, start
        else:
            position = start + size
            ask = numbers[rows[start:position]]
        append(stored_tick(time, symbol, price, volume, source, seq, bid, ask))
    return position


async def _records_of_columns(columns: Rows, symbol: str, sources: list[str]) -> Decoded:
    names, numbers = [None, *sources], _Units()
    size = _known(columns.feed)
    ticks: list[TickData] = []
    for start in range(0, size, _RECORDS_OF_A_TURN):
        turn = slice(start, min(start + _RECORDS_OF_A_TURN, size))
        price, volume, bid, ask = (_decimals(number, turn, numbers) for number in columns.numbers)
        feeds = [names[feed] for feed in columns.feed[turn].tolist()]
        seqs = columns.seq[turn].tolist()
        times = _instants(columns.time[turn].tolist())
        ticks += map(stored_tick, times, itertools.repeat(symbol), price, volume, feeds, seqs, bid, ask)
        await asyncio.sleep(0)
    return _decoded(ticks, strange=size < len(columns.feed))


def _decoded(ticks: list[TickData], *, strange: bool) -> Decoded:
    last = ticks[-1] if ticks else None
    return Decoded(ticks, None if last is None else (last.time, last.source, last.seq or 0), strange)


def _known(feed: Array) -> int:
    """Return the number of rows before the first of an unknown source."""
    unknown = (feed == 0).nonzero()[0]
    return int(unknown[0]) if len(unknown) else len(feed)


def _instants(microseconds: list[int]) -> list[dt.datetime]:
    # Trades come in bursts, often at one instant.
    made = {at: _EPOCH + dt.timedelta(microseconds=at) for at in dict.fromkeys(microseconds)}
    return [made[at] for at in microseconds]


def _decimals(number: Numbers, turn: slice, known: _Units) -> list[Any]:
    values: list[Any] = list(map(known.__getitem__, number.units[turn].tolist()))
    present = number.present[turn]
    if present.all():
        return values
    return [value if there else None for value, there in zip(values, present.tolist(), strict=True)]


def arrow_schema() -> Any:
    """Return the Arrow schema of ticks."""
    pyarrow = require("pyarrow")
    text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    price = pyarrow.decimal128(18, 8)
    return pyarrow.schema(
        [
            ("time", pyarrow.timestamp("us", "UTC")),
            ("symbol", text),
            ("source", text),
            ("seq", pyarrow.int64()),
            ("price", price),
            ("volume", pyarrow.decimal128(28, 8)),
            ("bid", price),
            ("ask", price),
        ]
    )


async def decode_columns(rows: bytes, symbol: str, sources: list[str], layout: Layout = COPIED) -> Decoded:
    """Decode rows as a pyarrow RecordBatch."""
    # In a thread, because NumPy releases the interpreter meanwhile.
    return await asyncio.to_thread(_decode_columns_now, rows, symbol, sources, layout)


def _decode_columns_now(rows: bytes, symbol: str, sources: list[str], layout: Layout) -> Decoded:
    pyarrow, numpy = require("pyarrow"), require("numpy")
    columns = read_rows(rows, layout)
    time, seq, feed = columns.time + _EPOCH_MICROSECONDS, columns.seq, columns.feed
    size = _known(feed)
    if not size:
        return Decoded(None, None, strange=True)
    schema = arrow_schema()

    def dictionary(codes: Array, values: list[str]) -> Any:
        return pyarrow.DictionaryArray.from_arrays(
            pyarrow.array(codes, pyarrow.int32()), pyarrow.array(values, pyarrow.string())
        )

    batch = pyarrow.RecordBatch.from_arrays(
        [
            pyarrow.array(time[:size], pyarrow.timestamp("us", "UTC")),
            dictionary(numpy.zeros(size, dtype=numpy.int32), [symbol]),
            dictionary(feed[:size] - 1, sources),
            pyarrow.array(seq[:size], pyarrow.int64()),
            *(
                _decimal_array(number.units[:size], number.present[:size], field.type)
                for number, field in zip(columns.numbers, list(schema)[4:], strict=True)
            ),
        ],
        schema=schema,
    )
    last = (
        _EPOCH + dt.timedelta(microseconds=int(time[size - 1]) - _EPOCH_MICROSECONDS),
        sources[int(feed[size - 1]) - 1],
        int(seq[size - 1]),
    )
    return Decoded(batch, last, strange=size < len(feed))


def _decimal_array(values: Array, present: Array, kind: Any) -> Any:
    pyarrow, numpy = require("pyarrow"), require("numpy")
    halves = numpy.empty((len(values), 2), dtype="<i8")
    if values.dtype == object:
        # Two's complement of 128 bits, the low half first.
        halves[:, 0] = [((int(value) & (2**64 - 1)) ^ 2**63) - 2**63 for value in values]
        halves[:, 1] = [int(value) >> 64 for value in values]
    else:
        halves[:, 0] = values
        halves[:, 1] = values >> 63
    valid = None
    if not present.all():
        valid = pyarrow.py_buffer(numpy.packbits(present, bitorder="little").tobytes())
    return pyarrow.Array.from_buffers(kind, len(values), [valid, pyarrow.py_buffer(halves)])
