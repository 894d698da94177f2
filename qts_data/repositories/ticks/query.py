"""Ticks out: one COPY, read as columns or as records."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from qts_data.database.errors import translated_errors
from qts_data.extras import require
from qts_data.repositories.ticks.copy_out import copy_rows
from qts_data.repositories.ticks.decoding import Decoded, arrow_schema, decode_columns, decode_records
from qts_data.repositories.ticks.sources import ahead

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import TickData
    from qts_data.repositories.ticks.reports import TickTable

    Array = Any

__all__ = ["TickQuery"]

_BYTES_OF_A_PIECE: Final = 1_500_000
_SELECTED: Final = """
      FROM {table}
     WHERE symbol = %(symbol)s AND time >= %(start)s AND time < %(end)s {more}
     ORDER BY symbol, time, source, seq
"""
# NUMERIC as it is stored: to turn it into integers would cost the server more than it costs us to read it.
_COPY: Final = """
    COPY (SELECT time, seq, {feed}, price, volume, bid, ask {selected}) TO STDOUT WITH (FORMAT binary)
"""


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
        async with contextlib.aclosing(self._pieces(decode_records)) as pieces:
            ticks: list[TickData] = []
            async for piece in pieces:
                ticks += piece
            return ticks

    async def stream_records(self) -> AsyncGenerator[TickData, None]:
        """One by one, in bounded memory."""
        async with contextlib.aclosing(self._pieces(decode_records)) as pieces:
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
        async with contextlib.aclosing(self._pieces(decode_columns)) as batches:
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

    async def _pieces(self, decode: Callable[[bytes, str, list[str]], Awaitable[Decoded]]) -> AsyncGenerator[Any, None]:
        """Decoded pieces; the next one is read while one is decoded and in use."""
        sources = await self._known_sources()
        after: tuple[dt.datetime, str, int] | None = None
        with translated_errors():
            while True:
                rows = copy_rows(
                    self._connection,
                    self._statement(sources, after),
                    self._parameters(sources, after),
                    bytes_of_a_piece=_BYTES_OF_A_PIECE,
                )
                strange = False
                async with (
                    contextlib.aclosing(rows) as arriving,
                    contextlib.aclosing(ahead(functools.partial(anext, arriving, None))) as read,
                ):
                    async for some in read:
                        piece, last, strange = await decode(some, self._symbol, sources)
                        if last is not None:
                            after = last
                            yield piece
                        if strange:
                            break
                if not strange:
                    return
                sources = await self._all_sources()

    def _statement(self, sources: list[str], after: object) -> str:
        more = "" if self._source is None else " AND source = %(source)s"
        if after is not None:
            more += " AND (time, source, seq) > (%(after_time)s, %(after_source)s, %(after_seq)s)"
        # As an integer, of one length. What is not known is 0.
        cases = " ".join(f"WHEN %(source_{number})s THEN {number}" for number in range(1, len(sources) + 1))
        return _COPY.format(
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
