"""Batches from any source of ticks, prepared one batch ahead of the server."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from qts_data.contracts import TickData
from qts_data.errors import InvalidRecord
from qts_data.extras import is_installed, require
from qts_data.repositories.market.ticks.copy.column_batch import ColumnBatch, ColumnOrdinals
from qts_data.repositories.market.ticks.copy.columns import read_columns
from qts_data.repositories.market.ticks.copy.record_columns import RecordColumns
from qts_data.repositories.market.ticks.copy.records import RecordBatch, numbered
from qts_data.repositories.market.ticks.ordinals import Ordinals

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence

    from qts_data.repositories.market.ticks.batch import Batch
    from qts_data.repositories.market.ticks.copy.columns import Columns
    from qts_data.repositories.market.ticks.copy.records import Row
    from qts_data.repositories.market.ticks.latest import LatestTime

__all__ = ["ArrowStream", "Numbering", "Ticks", "ahead", "batches_of"]

_T = TypeVar("_T")
_ROWS_OF_A_TURN: Final = 256
# Sorting records blocks the event loop: ten thousand take a few milliseconds. NumPy sorts in a thread.
_RECORDS_OF_A_BATCH: Final = 10_000
_ROWS_OF_A_BATCH: Final = 32_768
_NO_LIMIT: Final = dt.datetime.max.replace(tzinfo=dt.UTC)


class ArrowStream(Protocol):
    """Arrow's C stream interface: Arrow tables and readers, Polars and pandas frames, DuckDB relations."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


Ticks = "Iterable[TickData] | ArrowStream"


class Numbering:
    """Counters for ticks without a seq of their own. Use the same object for all parts of one source.

    Args:
        strict: Refuse a tick that comes so late that its ordinal in the source is unknown.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self.records: Ordinals = Ordinals(strict=strict)
        self.columns: ColumnOrdinals = ColumnOrdinals(strict=strict)

    def skip(self, ticks: Sequence[TickData]) -> None:
        """Count records that are not loaded.

        Raises:
            InvalidRecord: A record comes so late that its instant may have been forgotten.
        """
        if is_installed("pyarrow"):
            gathered = RecordColumns()
            gathered.add(ticks)
            self.columns.number(gathered.columns())
            return
        for tick in ticks:
            if tick.seq is None:
                self.records.next(tick.symbol, tick.time, tick.source)


def batches_of(
    ticks: Iterable[TickData] | ArrowStream,
    *,
    batch_size: int | None,
    numbering: Numbering,
    split: bool,
    source: str | None,
    reject: Callable[[InvalidRecord], None] | None,
    latest: LatestTime | None = None,
) -> Callable[[], Awaitable[tuple[list[Batch], int] | None]]:
    """Return a function that returns the next batches and the number of rows refused meanwhile. None at the end.

    Args:
        ticks: Read once, lazily.
        batch_size: Rows of a batch; None for the usual number.
        numbering: Counters of the source.
        split: Make separate batches of ticks with a seq of the feed's own, and of those without.
        source: Feed of columns without a column `source`.
        reject: Called with errors of bad rows of columns; None raises the first.
        latest: Limit after which ticks are refused; None accepts any time.
    """
    if hasattr(ticks, "__arrow_c_stream__") or hasattr(ticks, "__arrow_c_array__"):
        return _ColumnBatches(
            ticks,
            batch_size or _ROWS_OF_A_BATCH,
            numbering.columns,
            split=split,
            source=source,
            reject=reject,
            latest=latest,
        ).next
    if is_installed("pyarrow"):
        return _RecordColumnBatches(
            _checked(ticks, latest), batch_size or _RECORDS_OF_A_BATCH, numbering.columns, split
        ).next
    return _RecordBatches(_checked(ticks, latest), batch_size or _RECORDS_OF_A_BATCH, numbering.records, split).next


async def ahead(following: Callable[[], Awaitable[_T | None]]) -> AsyncGenerator[_T, None]:
    """Yield the results of the function. While one is in use, the next is made."""
    pending = asyncio.ensure_future(following())
    try:
        while (item := await pending) is not None:
            pending = asyncio.ensure_future(following())
            yield item
    finally:
        # No reader may use the source after this has ended. A thread cannot be stopped, so wait for it.
        await asyncio.wait([pending])
        if not pending.cancelled():
            pending.exception()


class _RecordBatches:
    def __init__(self, ticks: Iterator[TickData], batch_size: int, ordinals: Ordinals, split: bool) -> None:
        self._ticks = ticks
        self._batch_size = batch_size
        self._ordinals = ordinals
        self._split = split

    async def next(self) -> tuple[list[Batch], int] | None:
        given: list[Row] = []
        counted: list[Row] = []
        size = 0
        while size < self._batch_size:
            turn = list(itertools.islice(self._ticks, min(_ROWS_OF_A_TURN, self._batch_size - size)))
            if not turn:
                break
            size += len(turn)
            if self._split:
                counted += numbered([tick for tick in turn if tick.seq is None], self._ordinals)
                given += numbered([tick for tick in turn if tick.seq is not None], self._ordinals)
            else:
                given += numbered(turn, self._ordinals)
            await asyncio.sleep(0)
        if not size:
            return None
        return [RecordBatch(rows, counted=rows is counted) for rows in (given, counted) if rows], 0


class _RecordColumnBatches:
    def __init__(self, ticks: Iterator[TickData], batch_size: int, ordinals: ColumnOrdinals, split: bool) -> None:
        self._ticks = ticks
        self._batch_size = batch_size
        self._ordinals = ordinals
        self._split = split

    async def next(self) -> tuple[list[Batch], int] | None:
        gathered = RecordColumns()
        while gathered.size < self._batch_size:
            turn = list(itertools.islice(self._ticks, min(_ROWS_OF_A_TURN, self._batch_size - gathered.size)))
            if not turn:
                break
            gathered.add(turn)
            await asyncio.sleep(0)
        if not gathered.size:
            return None
        if gathered.size <= _ROWS_OF_A_TURN:
            return _column_batches(gathered.columns(), self._ordinals, split=self._split), 0
        return await asyncio.to_thread(
            lambda: (_column_batches(gathered.columns(), self._ordinals, split=self._split), 0)
        )


def _column_batches(columns: Columns, ordinals: ColumnOrdinals, *, split: bool) -> list[Batch]:
    ordinals.number(columns)
    parts = [columns]
    if split and columns.counted.any() and not columns.counted.all():
        parts = [columns.take(~columns.counted), columns.take(columns.counted)]
    return [ColumnBatch(part) for part in parts if len(part)]


def _checked(ticks: Iterable[TickData], latest: LatestTime | None) -> Iterator[TickData]:
    limit = _NO_LIMIT if latest is None else latest.at_present()
    for row, tick in enumerate(ticks, start=1):
        if not isinstance(tick, TickData):
            raise InvalidRecord(field="tick", reason=f"is {type(tick).__name__}; give TickData or columns", row=row)
        if tick.time > limit and latest is not None:
            # Only a tick that seems too late causes a look at the clock.
            limit = latest.at_present()
            if tick.time > limit:
                raise latest.complaint(tick.time, limit).at(row)
        yield tick


class _ColumnBatches:
    def __init__(
        self,
        ticks: Any,
        batch_size: int,
        ordinals: ColumnOrdinals,
        *,
        split: bool,
        source: str | None,
        reject: Callable[[InvalidRecord], None] | None,
        latest: LatestTime | None,
    ) -> None:
        pyarrow = require("pyarrow")
        if hasattr(ticks, "__arrow_c_stream__"):
            reader = pyarrow.RecordBatchReader.from_stream(ticks)
        else:
            batch = pyarrow.record_batch(ticks)
            reader = pyarrow.RecordBatchReader.from_batches(batch.schema, [batch])
        self._slices = _slices(reader, batch_size)
        self._ordinals = ordinals
        self._split = split
        self._source = source
        self._reject = reject
        self._latest = latest
        self._row = 1

    async def next(self) -> tuple[list[Batch], int] | None:
        return await asyncio.to_thread(self._next)

    def _next(self) -> tuple[list[Batch], int] | None:
        batch = next(self._slices, None)
        if batch is None:
            return None
        columns, rejected = read_columns(
            batch, first_row=self._row, source=self._source, reject=self._reject, latest=self._latest
        )
        self._row += len(batch)
        return _column_batches(columns, self._ordinals, split=self._split), rejected


def _slices(reader: Any, size: int) -> Iterator[Any]:
    """Yield record batches of `size` rows, from reader batches of any size."""
    pyarrow = require("pyarrow")
    held: list[Any] = []
    rows = 0
    for given in reader:
        batch = given
        while rows + len(batch) >= size:
            cut = size - rows
            held.append(batch.slice(0, cut))
            yield pyarrow.concat_batches(held)
            batch, held, rows = batch.slice(cut), [], 0
        if len(batch):
            held.append(batch)
            rows += len(batch)
    if rows:
        yield pyarrow.concat_batches(held)
