"""The result of a query for bars, as records or as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from qts_data.extras import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from qts_data.contracts import OHLCV

__all__ = ["Bars"]

_PRICES = ("open", "high", "low", "close")


class Bars:
    """Bars of a query, in its order. They cannot be changed.

    Use it like a list of `OHLCV`: `len`, `for`, `bars[0]`, `bars[-3:]` and `==`. Its columns are exact: prices are
    decimal128(18, 8), volumes decimal128(28, 8), times are in UTC.

    `pl.DataFrame(bars)` and `pa.table(bars)` also read the columns. The class is not a `list`: from a list, Polars
    would infer the scale of decimals by the first hundred rows, and cut the digits of later rows.

    Args:
        bars: The bars, in order.
    """

    __slots__ = ("_bars",)

    def __init__(self, bars: Iterable[OHLCV] = ()) -> None:
        self._bars = tuple(bars)

    def __len__(self) -> int:
        return len(self._bars)

    def __iter__(self) -> Iterator[OHLCV]:
        return iter(self._bars)

    def __reversed__(self) -> Iterator[OHLCV]:
        return reversed(self._bars)

    def __contains__(self, bar: object) -> bool:
        return bar in self._bars

    @overload
    def __getitem__(self, place: int) -> OHLCV: ...
    @overload
    def __getitem__(self, place: slice) -> Bars: ...
    def __getitem__(self, place: int | slice) -> OHLCV | Bars:
        return Bars(self._bars[place]) if isinstance(place, slice) else self._bars[place]

    def __add__(self, others: Iterable[OHLCV]) -> Bars:
        return Bars((*self._bars, *others))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Bars):
            return self._bars == other._bars
        if isinstance(other, list | tuple):
            return self._bars == tuple(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._bars)

    def __repr__(self) -> str:
        return f"Bars({list(self._bars)!r})"

    def as_arrow(self) -> pa.Table:
        """Make a pyarrow Table with the fields of `OHLCV` as columns.

        Raises:
            ConfigurationError: The extra `arrow` is not installed.
        """
        pyarrow = require("pyarrow")
        price, text = pyarrow.decimal128(18, 8), pyarrow.string()
        kinds: dict[str, Any] = {
            "time": pyarrow.timestamp("us", "UTC"),
            "symbol": text,
            "source": text,
            **dict.fromkeys(_PRICES, price),
            "volume": pyarrow.decimal128(28, 8),
            "tick_count": pyarrow.int64(),
        }
        columns = [pyarrow.array([getattr(bar, name) for bar in self._bars], kind) for name, kind in kinds.items()]
        table: pa.Table = pyarrow.Table.from_arrays(columns, schema=pyarrow.schema(list(kinds.items())))
        return table

    def as_polars(self) -> pl.DataFrame:
        """Make a Polars DataFrame. Numbers are of type Decimal.

        Raises:
            ConfigurationError: The extra `polars` is not installed.
        """
        frame: pl.DataFrame = require("polars").from_arrow(self.as_arrow())
        return frame

    def as_pandas(self) -> pd.DataFrame:
        """Make a pandas DataFrame with Arrow types, because pandas has no exact decimals of its own.

        Raises:
            ConfigurationError: The extra `pandas` is not installed.
        """
        pandas = require("pandas")
        frame: pd.DataFrame = self.as_arrow().to_pandas(types_mapper=pandas.ArrowDtype)
        return frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        stream: object = self.as_arrow().__arrow_c_stream__(requested_schema)
        return stream
