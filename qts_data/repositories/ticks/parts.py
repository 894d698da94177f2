"""A long source in several transactions: what is in stays in, whatever happens to the rest."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from qts_data.models import IngestBatch
from qts_data.repositories.ticks import bookkeeping
from qts_data.repositories.ticks.reports import BatchId, IngestReport
from qts_data.repositories.ticks.sources import Numbering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from qts_data.contracts import TickData
    from qts_data.repositories.ticks.reports import TickTable
    from qts_data.repositories.unit_of_work import Database

__all__ = ["load_in_parts"]

_ROWS_OF_A_TURN = 512
# Beside the rows of the parts: the one that says that there are no more.
_WHOLE = "#whole"


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
) -> IngestReport:
    """Load a source part by part, each in its transaction, and go on where an earlier attempt ended.

    The ticks of parts that are in are counted, not loaded: those that follow in the same instant get the same
    numbers as in an attempt without an interruption.

    Args:
        database: Where to.
        ticks: The whole source from its beginning, at each attempt the same; read once, lazily.
        stream: Name of the source, such as the digest of its file; the parts are known by it.
        table: `tick_data` or `tick_history`.
        part_size: Ticks of a part. Another size than that of an earlier attempt does no harm.
        again: Load parts that are in once more.
        rejected: Says at the end how many rows the reader of the source has refused.
        progress: Called with the number of ticks so far.

    Raises:
        InvalidRecord: A tick is bad, or the table holds another one under the same key.
        QtsDataError: The database refused, or went away. The parts before stay; call again to go on.
    """
    whole = BatchId(f"{stream}{_WHOLE}")
    if not again and (known := await _known(database, table, whole)):
        return known
    finished: dict[int, int] = {} if again else await _finished_parts(database, table, stream)
    numbering = Numbering()
    report: IngestReport | None = None
    offset = 0
    iterator = iter(ticks)
    while True:
        size = finished.get(offset)
        part = itertools.islice(iterator, part_size if size is None else size)
        if size is None:
            held = await _taken(part)
            if not held:
                break
            async with database.transaction() as uow:
                repository = uow.ticks if table == "tick_data" else uow.tick_history
                done = await repository.ingest(held, batch=BatchId(stream, offset), again=again, numbering=numbering)
            taken = len(held)
        else:
            taken = await _skip(part, numbering)
            done = IngestReport(taken, 0, taken, None, None, known=True)
        report = done if report is None else report + done
        offset += taken
        if progress is not None:
            progress(offset)
        if size is not None and taken < size:
            break
    report = replace(report or IngestReport(0, 0, 0, None, None), rejected=rejected(), known=False)
    report = replace(report, received=report.received + report.rejected)
    async with database.transaction() as uow:
        await bookkeeping.claim(uow.connection, table, whole, again=True)
        await bookkeeping.finish(uow.connection, table, whole, report)
    return report


async def _known(database: Database, table: TickTable, whole: BatchId) -> IngestReport | None:
    """The report of a source that is in from its beginning to its end."""
    async with database.reader() as reader:
        return await bookkeeping.find(reader.connection, table, whole)


async def _finished_parts(database: Database, table: TickTable, stream: str) -> dict[int, int]:
    """Offset and size of each part that is in."""
    async with database.reader() as reader:
        rows = await reader.connection.execute(
            sa.select(IngestBatch.part, IngestBatch.received).where(
                IngestBatch.relation == table, IngestBatch.stream == stream
            )
        )
        return {row.part: row.received for row in rows}


async def _taken(part: Iterator[TickData]) -> list[TickData]:
    held: list[TickData] = []
    while turn := list(itertools.islice(part, _ROWS_OF_A_TURN)):
        held += turn
        await asyncio.sleep(0)
    return held


async def _skip(part: Iterator[TickData], numbering: Numbering) -> int:
    """Count ticks without loading them."""
    taken = 0
    while turn := list(itertools.islice(part, _ROWS_OF_A_TURN)):
        numbering.skip(turn)
        taken += len(turn)
        await asyncio.sleep(0)
    return taken
