"""Queries for ticks, as columns or as records: one COPY to read all of them, a cursor to stream them."""

from __future__ import annotations

import contextlib
import itertools
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from qts_data.database.errors import translated_errors
from qts_data.database.streaming import Cursor, Stream
from qts_data.extras import require
from qts_data.repositories.market.ticks.copy.copy_out import copy_rows
from qts_data.repositories.market.ticks.copy.decoding import arrow_schema, decode_columns, decode_records
from qts_data.repositories.market.ticks.copy.record_stream import RecordStream
from qts_data.repositories.market.ticks.sources import ahead

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable

    import pandas as pd
    import polars as pl
    import pyarrow as pa
    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import TickData
    from qts_data.repositories.market.reports import TickTable
    from qts_data.repositories.market.ticks.copy.record_stream import Decode as _Decode

__all__ = ["TickQuery"]

_BYTES_OF_A_PIECE: Final = 1_500_000
_SELECTED: Final = """
      FROM {table}
     WHERE symbol = %(symbol)s AND time >= %(start)s AND time < %(end)s {more}
     ORDER BY symbol, time, source, seq
"""
# NUMERIC as stored: the conversion to integers would cost the server more than the decoding costs us.
_COPY: Final = """
    COPY (SELECT time, seq, {feed}, price, volume, bid, ask {selected}) TO STDOUT WITH (FORMAT binary)
"""


# The second column gives the source's name if the list lacks it. The name `unknown` keeps ORDER BY from using it.
_RECORDS: Final = "SELECT ROW(time, seq, {feed}, price, volume, bid, ask), {unknown} AS unknown {selected}"


class TickQuery:
    """Ticks of a symbol, in order of time, source and seq. `await` returns them as records.

    The object sends no statement before one of its methods is called. Each call sends the query again.
    """

    def __init__(  # noqa: PLR0917 - called at one place only
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
        """Return all ticks in a list."""
        async with contextlib.aclosing(self._pieces(decode_records)) as pieces:
            ticks: list[TickData] = []
            async for piece in pieces:
                ticks += piece
            return ticks

    def stream_records(self) -> Stream[TickData]:
        """Stream the ticks one by one, in bounded memory.

        Other statements may run in the same transaction beside the stream, and the caller may leave it at any moment.
        The stream returns the ticks that were stored when the caller asked for its first one.
        """
        return self._stream(decode_records, itertools.chain.from_iterable)

    async def as_arrow(self) -> pa.Table:
        """Return a pyarrow Table: time in microseconds UTC, symbol and source as dictionaries, numbers as decimal128.

        Raises:
            ConfigurationError: The extra `arrow` is not installed.
        """
        pyarrow = require("pyarrow")
        async with contextlib.aclosing(self._pieces(decode_columns)) as batches:
            held = [batch async for batch in batches]
        # A source that another transaction adds meanwhile changes the dictionary of later pieces.
        table: pa.Table = pyarrow.Table.from_batches(held, schema=arrow_schema()).unify_dictionaries()
        return table

    def stream_arrow(self) -> Stream[pa.RecordBatch]:
        """Stream pyarrow RecordBatches of some ten thousand rows, in bounded memory, like `stream_records`.

        Raises:
            ConfigurationError: The extra `arrow` is not installed.
        """
        require("pyarrow")
        return self._stream(decode_columns, list)

    async def as_polars(self) -> pl.DataFrame:
        """Return a Polars DataFrame. Numbers are of type Decimal.

        Raises:
            ConfigurationError: The extra `polars` is not installed.
        """
        polars = require("polars")
        frame: pl.DataFrame = polars.from_arrow(await self.as_arrow())
        return frame

    async def as_pandas(self) -> pd.DataFrame:
        """Return a pandas DataFrame with Arrow types, because pandas has no exact decimals of its own.

        Raises:
            ConfigurationError: The extra `pandas` is not installed.
        """
        pandas = require("pandas")
        table = await self.as_arrow()
        frame: pd.DataFrame = table.to_pandas(types_mapper=pandas.ArrowDtype)
        return frame

    def _stream(self, decode: _Decode, unpack: Callable[[list[Any]], Iterable[Any]]) -> Stream[Any]:
        cursor = Cursor(self._connection)
        rows: RecordStream | None = None

        async def pieces() -> Iterable[Any] | None:
            nonlocal rows
            if rows is None:
                sources = await self._known_sources()
                rows = RecordStream(cursor, self._symbol, sources, decode)
                await cursor.declare(partial(self._declare, sources))
            found = await rows.next()
            return None if found is None else unpack(found)

        return Stream(cursor, pieces)

    async def _declare(self, sources: list[str], beginning: str) -> None:
        await self._connection.exec_driver_sql(
            beginning + self._filled(_RECORDS, sources, None), self._parameters(sources, None)
        )

    async def _pieces(self, decode: _Decode) -> AsyncGenerator[Any, None]:
        """Yield decoded pieces. While one is decoded and used, the next one is read."""
        sources = await self._known_sources()
        after: tuple[dt.datetime, str, int] | None = None
        with translated_errors():
            while True:
                rows = copy_rows(
                    self._connection,
                    self._filled(_COPY, sources, after),
                    self._parameters(sources, after),
                    bytes_of_a_piece=_BYTES_OF_A_PIECE,
                )
                strange = False
                async with (
                    contextlib.aclosing(rows) as arriving,
                    contextlib.aclosing(ahead(partial(anext, arriving, None))) as read,
                ):
                    async for some in read:
                        if strange:
                            continue  # unless it is read to its end, the COPY would end the transaction
                        piece, last, strange = await decode(some, self._symbol, sources)
                        if last is not None:
                            after = last
                            yield piece
                if not strange:
                    return
                sources = await self._all_sources()

    def _filled(self, template: str, sources: list[str], after: object) -> str:
        more = "" if self._source is None else " AND source = %(source)s"
        if after is not None:
            more += " AND (time, source, seq) > (%(after_time)s, %(after_source)s, %(after_seq)s)"
        # An integer of one length for each source; 0 for an unknown one.
        known = " ".join(f"WHEN %(source_{number})s THEN NULL" for number in range(1, len(sources) + 1))
        cases = " ".join(f"WHEN %(source_{number})s THEN {number}" for number in range(1, len(sources) + 1))
        return template.format(
            feed=f"CASE source {cases} ELSE 0 END" if cases else "0",
            unknown=f"CASE source {known} ELSE source END" if cases else "source",
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
        """Return the sources of the ticks themselves, for ticks that the list of loads does not cover (yet)."""
        statement = sa.text(
            f"SELECT DISTINCT source FROM {self._table} WHERE symbol = :symbol AND time >= :start AND time < :end"
        )
        found = await self._connection.scalars(
            statement, {"symbol": self._symbol, "start": self._start, "end": self._end}
        )
        return sorted(found)
