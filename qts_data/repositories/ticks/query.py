"""Ticks out: one COPY, read as columns or as records."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import struct
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from qts_data.contracts.market import stored_tick
from qts_data.database.errors import translated_errors
from qts_data.extras import require
from qts_data.repositories.ticks.copy_out import Piece, copy_rows
from qts_data.repositories.ticks.decoding import Rows
from qts_data.repositories.ticks.sources import ahead

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import TickData
    from qts_data.repositories.ticks.reports import TickTable

    Array = Any

__all__ = ["TickQuery"]

_EPOCH: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_EPOCH_MICROSECONDS: Final = int(_EPOCH.timestamp()) * 1_000_000
_ROWS_OF_A_PIECE: Final = 16_384
_RECORDS_OF_A_TURN: Final = 500
_REMEMBERED_NUMBERS: Final = 100_000
_EXACT: Final = Context(prec=40)
_NO_PRICE: Final = -(2**63)
_HIGH_VOLUME: Final = 10**16  # 100,000,000 in units

_SELECTED: Final = """
      FROM {table}
     WHERE symbol = %(symbol)s AND time >= %(start)s AND time < %(end)s {more}
     ORDER BY symbol, time, source, seq
"""
# NUMERIC as it is stored: to turn it into integers would cost the server a third of its speed.
_COLUMNS_COPY: Final = """
    COPY (SELECT time, seq, {feed}, price, volume, bid, ask {selected}) TO STDOUT WITH (FORMAT binary)
"""
# Rows of one length, which the standard library can read. 64 bits hold every price, and volumes in two pieces.
_RECORDS_COPY: Final = """
    COPY (SELECT time, seq, {feed}, (price * 100000000)::bigint,
                 CASE WHEN volume < 90000000000 THEN 0 ELSE div(volume, 100000000)::bigint END,
                 (CASE WHEN volume < 90000000000 THEN volume ELSE mod(volume, 100000000) END * 100000000)::bigint,
                 coalesce((bid * 100000000)::bigint, -9223372036854775808),
                 coalesce((ask * 100000000)::bigint, -9223372036854775808)
          {selected}) TO STDOUT WITH (FORMAT binary)
"""
_ROW: Final = struct.Struct(">h iq iq ii iq iq iq iq iq")


class TickQuery:
    """Ticks of a symbol, in order of time, source and seq; `await` gives them as records.

    Nothing is asked of the server before one of the methods is called; each call asks anew.
    """

    def __init__(  # noqa: PLR0917 - one place makes it
        self,
        connection: AsyncConnection,
        table: TickTable,
        symbol: str,
        start: dt.datetime,
        end: dt.datetime,
        source: str | None,
    ) -> None:
        self._connection = connection
        self._table = table
        self._symbol = symbol
        self._start = start
        self._end = end
        self._source = source

    def __await__(self) -> Generator[Any, None, list[TickData]]:
        return self.as_records().__await__()

    async def as_records(self) -> list[TickData]:
        """All of them in a list."""
        async with contextlib.aclosing(self._pieces(_RECORDS_COPY, _decode_records)) as pieces:
            return [tick async for piece in pieces for tick in piece]

    async def stream_records(self) -> AsyncGenerator[TickData, None]:
        """One by one, in bounded memory."""
        async with contextlib.aclosing(self._pieces(_RECORDS_COPY, _decode_records)) as pieces:
            async for piece in pieces:
                for tick in piece:
                    yield tick

    async def as_arrow(self) -> Any:
        """A pyarrow Table: time in microseconds UTC, symbol and source as dictionaries, decimal128 for numbers.

        Raises:
            ConfigurationError: The extra `arrow` is not installed.
        """
        pyarrow = require("pyarrow")
        async with contextlib.aclosing(self.stream_arrow()) as batches:
            held = [batch async for batch in batches]
        # A source that somebody adds meanwhile changes the dictionary of the pieces after it.
        return pyarrow.Table.from_batches(held, schema=arrow_schema()).unify_dictionaries()

    async def stream_arrow(self) -> AsyncGenerator[Any, None]:
        """Pyarrow RecordBatches of some ten thousand rows, in bounded memory.

        Raises:
            ConfigurationError: The extra `arrow` is not installed.
        """
        require("pyarrow")
        async with contextlib.aclosing(self._pieces(_COLUMNS_COPY, _decode_columns)) as batches:
            async for batch in batches:
                yield batch

    async def as_polars(self) -> Any:
        """A Polars DataFrame; numbers are of type Decimal.

        Raises:
            ConfigurationError: The extra `polars` is not installed.
        """
        polars = require("polars")
        return polars.from_arrow(await self.as_arrow())

    async def as_pandas(self) -> Any:
        """A pandas DataFrame on Arrow types: pandas has no exact decimals of its own.

        Raises:
            ConfigurationError: The extra `pandas` is not installed.
        """
        pandas = require("pandas")
        table = await self.as_arrow()
        return table.to_pandas(types_mapper=pandas.ArrowDtype)

    async def _pieces(
        self, template: str, decode: Callable[[Piece, str, list[str]], Awaitable[_Decoded]]
    ) -> AsyncGenerator[Any, None]:
        """Decoded pieces, each made while the one before is in use."""
        sources = await self._known_sources()
        after: tuple[dt.datetime, str, int] | None = None
        with translated_errors():
            while True:
                rows = copy_rows(
                    self._connection,
                    self._statement(template, sources, after),
                    self._parameters(sources, after),
                    rows_of_a_piece=_ROWS_OF_A_PIECE,
                )
                strange = False
                async with contextlib.aclosing(rows) as arriving:

                    async def following(
                        arriving: AsyncIterator[Piece] = arriving, sources: list[str] = sources
                    ) -> _Decoded | None:
                        piece = await anext(arriving, None)
                        return None if piece is None else await decode(piece, self._symbol, sources)

                    async with contextlib.aclosing(ahead(following)) as decoded:
                        async for piece, last, strange in decoded:
                            if last is not None:
                                after = last
                                yield piece
                            if strange:
                                break
                if not strange:
                    return
                sources = await self._all_sources()

    def _statement(self, template: str, sources: list[str], after: object) -> str:
        more = "" if self._source is None else " AND source = %(source)s"
        if after is not None:
            more += " AND (time, source, seq) > (%(after_time)s, %(after_source)s, %(after_seq)s)"
        # As an integer: a text would make the rows differ in length. What is not known is 0.
        cases = " ".join(f"WHEN %(source_{number})s THEN {number}" for number in range(1, len(sources) + 1))
        return template.format(
            feed=f"CASE source {cases} ELSE 0 END" if cases else "0",
            selected=_SELECTED.format(table=self._table, more=more),
        )

    def _parameters(self, sources: list[str], after: tuple[dt.datetime, str, int] | None) -> dict[str, object]:
        parameters: dict[str, object] = {
            "symbol": self._symbol,
            "start": self._start,
            "end": self._end,
            "source": self._source,
        }
        parameters |= {f"source_{number}": source for number, source in enumerate(sources, start=1)}
        if after is not None:
            parameters |= {"after_time": after[0], "after_source": after[1], "after_seq": after[2]}
        return parameters

    async def _known_sources(self) -> list[str]:
        if self._source is not None:
            return [self._source]
        statement = sa.text(
            "SELECT DISTINCT source FROM tick_days WHERE relation = :relation AND symbol = :symbol ORDER BY source"
        )
        with translated_errors():
            found = await self._connection.scalars(statement, {"relation": self._table, "symbol": self._symbol})
            return list(found)

    async def _all_sources(self) -> list[str]:
        """From the ticks themselves, for those that were not loaded by this package, or a moment ago."""
        statement = sa.text(
            f"SELECT DISTINCT source FROM {self._table} WHERE symbol = :symbol AND time >= :start AND time < :end"
        )
        found = await self._connection.scalars(
            statement, {"symbol": self._symbol, "start": self._start, "end": self._end}
        )
        return sorted(found)


class _Decoded(NamedTuple):
    """A piece of the result.

    Attributes:
        piece: Records or a RecordBatch, up to the first row of an unknown source.
        last: Key of its last row; None if it is empty.
        strange: Whether a row of an unknown source follows.
    """

    piece: Any
    last: tuple[dt.datetime, str, int] | None
    strange: bool


class _Numbers(dict[int, Decimal]):
    """Decimals of integers of 1/100,000,000: a symbol's day has few prices."""

    def __missing__(self, units: int) -> Decimal:
        # In a context of its own: the caller's may round.
        value = _EXACT.scaleb(Decimal(units), -8)
        if len(self) >= _REMEMBERED_NUMBERS:
            self.clear()
        self[units] = value
        return value


async def _decode_records(rows: Piece, symbol: str, sources: list[str]) -> _Decoded:
    numbers = _Numbers()
    ticks: list[TickData] = []
    strange = False
    records = _ROW.iter_unpack(rows.data)
    while not strange and (turn := tuple(itertools.islice(records, _RECORDS_OF_A_TURN))):
        strange = _add_records(turn, symbol, sources, numbers, ticks)
        await asyncio.sleep(0)
    last = ticks[-1] if ticks else None
    return _Decoded(ticks, None if last is None else (last.time, last.source, last.seq or 0), strange)


def _add_records(
    records: tuple[tuple[int, ...], ...], symbol: str, sources: list[str], numbers: _Numbers, ticks: list[TickData]
) -> bool:
    """Append ticks; True at the first of an unknown source."""
    names = [None, *sources]
    time, last_microseconds = _EPOCH, 0
    for _, _, microseconds, _, seq, _, feed, _, price, _, high, _, low, _, bid, _, ask in records:
        source = names[feed]
        if source is None:
            return True
        # Trades come in bursts.
        if microseconds != last_microseconds:
            time, last_microseconds = _EPOCH + dt.timedelta(microseconds=microseconds), microseconds
        ticks.append(
            stored_tick(
                time,
                symbol,
                numbers[price],
                numbers[high * _HIGH_VOLUME + low if high else low],
                source,
                seq,
                None if bid == _NO_PRICE else numbers[bid],
                None if ask == _NO_PRICE else numbers[ask],
            )
        )
    return False


def arrow_schema() -> Any:
    """Columns of ticks in Arrow."""
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


async def _decode_columns(rows: Piece, symbol: str, sources: list[str]) -> _Decoded:
    # NumPy lets others work meanwhile.
    return await asyncio.to_thread(_decode_columns_now, rows, symbol, sources)


def _decode_columns_now(rows: Piece, symbol: str, sources: list[str]) -> _Decoded:
    pyarrow, numpy = require("pyarrow"), require("numpy")
    fields = Rows(rows)
    time, seq, feed = fields.int8() + _EPOCH_MICROSECONDS, fields.int8(), fields.int4()
    numbers = [fields.numeric() for _ in range(4)]
    unknown = numpy.flatnonzero(feed == 0)
    size = int(unknown[0]) if len(unknown) else fields.size
    if not size:
        return _Decoded(None, None, strange=True)
    schema = arrow_schema()

    def dictionary(codes: Array, values: list[str]) -> Any:
        return pyarrow.DictionaryArray.from_arrays(
            pyarrow.array(codes, pyarrow.int32()), pyarrow.array(values, pyarrow.string())
        )

    batch = pyarrow.RecordBatch.from_arrays(
        [
            pyarrow.array(time[:size], pyarrow.timestamp("us", "UTC")),
            dictionary(numpy.zeros(size, dtype=numpy.int32), [symbol]),
            dictionary(feed[:size].astype(numpy.int32) - 1, sources),
            pyarrow.array(seq[:size], pyarrow.int64()),
            *(
                _decimal_array(values[:size], present[:size], field.type)
                for (values, present), field in zip(numbers, list(schema)[4:], strict=True)
            ),
        ],
        schema=schema,
    )
    last = (
        _EPOCH + dt.timedelta(microseconds=int(time[size - 1]) - _EPOCH_MICROSECONDS),
        sources[int(feed[size - 1]) - 1],
        int(seq[size - 1]),
    )
    return _Decoded(batch, last, strange=size < fields.size)


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
