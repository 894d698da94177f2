"""A long source in several transactions: stored parts stay stored if a later part fails."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from qts_data.repositories.market.reports import BatchId, IngestReport
from qts_data.repositories.market.ticks import bookkeeping
from qts_data.repositories.market.ticks.latest import MAX_AHEAD
from qts_data.repositories.market.ticks.sources import Numbering
from qts_data.repositories.market.ticks.tally import Baseline

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable

    from qts_data.contracts import TickData
    from qts_data.repositories.market.reports import TickTable
    from qts_data.repositories.unit_of_work import Database

__all__ = ["load_in_parts"]

_ROWS_OF_A_TURN = 512


async def load_in_parts(
    database: Database,
    ticks: Iterable[TickData],
    *,
    stream: str,
    table: TickTable = "tick_data",
    part_size: int = 100_000,
    again: bool = False,
    rejected: Callable[[], int] = lambda: 0,
    progress: Callable[[int], None] | None = None,
    max_ahead: dt.timedelta | None = MAX_AHEAD,
) -> IngestReport:
    """Load a source part by part, each in its own transaction, and resume where an earlier attempt ended.

    All parts that this call loads count as one load: ticks are late for bars that existed before the call.

    The ticks of parts that are already loaded are counted, not loaded. So later ticks of the same instant get the same
    numbers as without an interruption.

    Args:
        database: The target database.
        ticks: The whole source from its beginning, the same at each attempt; read once, lazily.
        stream: Name of the source, such as the digest of its file; the parts are recognised by it.
        table: `tick_data` or `tick_history`.
        part_size: Ticks of a part. It may differ from an earlier attempt.
        again: Load parts that are already loaded once more.
        rejected: Called at the end; returns how many rows the reader of the source has refused.
        progress: Called with the number of ticks so far.
        max_ahead: A tick further ahead of the server's clock is refused; None accepts any.

    Raises:
        InvalidRecord: A tick is bad, or the table holds a different tick under the same key.
        QtsDataError: The database refused, or became unavailable. Earlier parts stay stored; call again to resume.
    """
    whole = BatchId.of_whole(stream)
    if not again and (known := await _known(database, table, whole)):
        return known
    finished = {} if again else await _finished_parts(database, table, stream)
    numbering = Numbering()
    baseline = Baseline()
    report: IngestReport | None = None
    offset = 0
    source = _Source(ticks)
    while True:
        done = finished.get(offset)
        if done is None:
            held = await _taken(source, part_size)
            if not held:
                break
            done = await _load(
                database,
                held,
                BatchId(stream, offset),
                table,
                again=again,
                numbering=numbering,
                baseline=baseline,
                max_ahead=max_ahead,
            )
            if done.already_loaded:
                # Another process has loaded it meanwhile, perhaps in parts of another size.
                source.put_back(held)
        size = done.received
        if done.already_loaded:
            taken = await _skip(source, size, numbering)
            done = replace(done, received=taken, duplicate=taken, rejected=0)
        report = done if report is None else report + done
        offset += done.received
        if progress is not None:
            progress(offset)
        if done.received < size:
            break
    report = replace(report or IngestReport(0, 0, 0, None, None), rejected=rejected(), already_loaded=False)
    report = replace(report, received=report.received + report.rejected)
    async with database.transaction() as uow:
        await bookkeeping.claim(uow.connection, table, whole, again=True)
        await bookkeeping.finish(uow.connection, table, whole, report)
    return report


async def _known(database: Database, table: TickTable, whole: BatchId) -> IngestReport | None:
    """Return the report of a source that is already loaded completely, or None otherwise."""
    async with database.reader() as reader:
        return await bookkeeping.find(reader.connection, table, whole)


async def _finished_parts(database: Database, table: TickTable, stream: str) -> dict[int, IngestReport]:
    """Return the reports of parts that are already loaded, by offset."""
    async with database.reader() as reader:
        found = await bookkeeping.find_parts(reader.connection, table, stream)
    return {part: report for part, report in found.items() if report.received}


async def _load(
    database: Database,
    held: list[TickData],
    batch: BatchId,
    table: TickTable,
    *,
    again: bool,
    numbering: Numbering,
    baseline: Baseline,
    max_ahead: dt.timedelta | None,
) -> IngestReport:
    """Load a part, unless it is already loaded. Then nothing is numbered."""
    async with database.transaction() as uow:
        known = await bookkeeping.claim(uow.connection, table, batch, again=again)
        # An empty batch of that name does not mean that these ticks are loaded.
        if known is not None and known.received:
            return known
        repository = uow.ticks if table == "tick_data" else uow.tick_history
        return await repository.ingest(
            held, batch=batch, again=True, numbering=numbering, baseline=baseline, max_ahead=max_ahead
        )


class _Source:
    """A source of ticks that can be put back."""

    def __init__(self, ticks: Iterable[TickData]) -> None:
        self._ticks = iter(ticks)
        self._back: list[TickData] = []

    def take(self, count: int) -> list[TickData]:
        taken = self._back[:count]
        del self._back[:count]
        taken += itertools.islice(self._ticks, count - len(taken))
        return taken

    def put_back(self, ticks: list[TickData]) -> None:
        self._back[:0] = ticks


async def _taken(source: _Source, size: int) -> list[TickData]:
    held: list[TickData] = []
    while turn := source.take(min(_ROWS_OF_A_TURN, size - len(held))):
        held += turn
        await asyncio.sleep(0)
    return held


async def _skip(source: _Source, size: int, numbering: Numbering) -> int:
    """Count ticks without loading them."""
    taken = 0
    while turn := source.take(min(_ROWS_OF_A_TURN, size - taken)):
        numbering.skip(turn)
        taken += len(turn)
        await asyncio.sleep(0)
    return taken
