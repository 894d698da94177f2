"""Conversion of records to columns. If Arrow is installed, it numbers, sorts and encodes records, too, with NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qts_data.extras import require
from qts_data.repositories.market.ticks.copy.columns import Columns, read_columns, with_eight_places

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from qts_data.contracts import TickData

__all__ = ["RecordColumns"]


class RecordColumns:
    """Collects records, some at a time. Their values were checked when the records were made."""

    def __init__(self) -> None:
        self.size: int = 0
        self._parts: list[Any] = []

    def add(self, ticks: Sequence[TickData]) -> None:
        """Add the next records, which takes a microsecond or two each."""
        pyarrow = require("pyarrow")
        self.size += len(ticks)
        self._parts.append(
            pyarrow.RecordBatch.from_arrays(
                [
                    pyarrow.array([tick.time for tick in ticks], pyarrow.timestamp("us", "UTC")),
                    pyarrow.array([tick.symbol for tick in ticks], pyarrow.string()),
                    pyarrow.array([tick.source for tick in ticks], pyarrow.string()),
                    pyarrow.array([tick.seq for tick in ticks], pyarrow.int64()),
                    _numbers([tick.price for tick in ticks]),
                    _numbers([tick.volume for tick in ticks]),
                    _numbers([tick.bid for tick in ticks]),
                    _numbers([tick.ask for tick in ticks]),
                ],
                names=["time", "symbol", "source", "seq", "price", "volume", "bid", "ask"],
            )
        )

    def columns(self) -> Columns:
        """Return all collected records as columns."""
        columns, _ = read_columns(require("pyarrow").concat_batches(self._parts))
        return columns


def _numbers(values: Sequence[Decimal | None]) -> Any:
    pyarrow = require("pyarrow")
    kind = pyarrow.decimal128(38, 8)
    try:
        return pyarrow.array(values, kind)
    except pyarrow.ArrowInvalid:
        # Some number has more zeros after the point than Arrow has places.
        return pyarrow.array([None if value is None else with_eight_places(value) for value in values], kind)
