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
)
from qts_data.repositories.unit_of_work import Database, Reader, UnitOfWork

__all__ = [
    "BAR_INTERVALS",
    "BarInterval",
    "BarRange",
    "BatchId",
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
]
