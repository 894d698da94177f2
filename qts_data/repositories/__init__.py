"""Named questions and writes of one aggregate each; they flush, they never commit."""

from qts_data.repositories.ticks import (
    BAR_INTERVALS,
    BarInterval,
    BarRange,
    BatchId,
    IngestReport,
    Numbering,
    RefreshReport,
    SymbolSummary,
    TickQuery,
    TickReads,
    TickRepository,
    TickTable,
    TimeRange,
    load_in_parts,
)
from qts_data.repositories.daily_bars import DailyBarReads, DailyBarRepository, UpsertReport
from qts_data.repositories.unit_of_work import Database, Reader, UnitOfWork

__all__ = [
    "BAR_INTERVALS",
    "BarInterval",
    "BarRange",
    "BatchId",
    "DailyBarReads",
    "DailyBarRepository",
    "Database",
    "IngestReport",
    "Numbering",
    "Reader",
    "RefreshReport",
    "SymbolSummary",
    "TickQuery",
    "TickReads",
    "TickRepository",
    "TickTable",
    "TimeRange",
    "UnitOfWork",
    "UpsertReport",
    "load_in_parts",
]
