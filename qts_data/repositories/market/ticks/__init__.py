"""Ticks in and out, and the bars that are made of them.

`repository` loads, `reads` asks, `writer` takes a live feed. A load goes from `sources` (records or columns) by
batches (`records`, `column_batch`) through `loading` into the table, with `bookkeeping` in the same transaction.
"""

from qts_data.repositories.market.bars.reads import BAR_INTERVALS, BarInterval, BarReads, BarSource
from qts_data.repositories.market.gaps import Gap, SignedOff, StaleFeed
from qts_data.repositories.market.reports import (
    BarRange,
    BatchId,
    IngestReport,
    RefreshReport,
    TickTable,
    TimeRange,
)
from qts_data.repositories.market.ticks.query import TickQuery
from qts_data.repositories.market.ticks.reads import SymbolSummary, TickReads
from qts_data.repositories.market.ticks.repository import TickRepository
from qts_data.repositories.market.ticks.sources import ArrowStream, Numbering
from qts_data.writers.parts import load_in_parts
from qts_data.writers.ticks import AtBound, Durability, TickQueueFull, TickWriter, WriterStats

__all__ = [
    "BAR_INTERVALS",
    "ArrowStream",
    "AtBound",
    "BarInterval",
    "BarRange",
    "BarReads",
    "BarSource",
    "BatchId",
    "Durability",
    "Gap",
    "IngestReport",
    "Numbering",
    "RefreshReport",
    "SignedOff",
    "StaleFeed",
    "SymbolSummary",
    "TickQuery",
    "TickQueueFull",
    "TickReads",
    "TickRepository",
    "TickTable",
    "TickWriter",
    "TimeRange",
    "WriterStats",
    "load_in_parts",
]
