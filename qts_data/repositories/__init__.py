"""Named questions and writes of one aggregate each; they flush, they never commit."""

from qts_data.repositories.ticks import (
    BAR_INTERVALS,
    BarInterval,
    IngestReport,
    RefreshReport,
    TickRepository,
)
from qts_data.repositories.unit_of_work import Database, Reader, UnitOfWork

__all__ = [
    "BAR_INTERVALS",
    "BarInterval",
    "Database",
    "IngestReport",
    "Reader",
    "RefreshReport",
    "TickRepository",
    "UnitOfWork",
]
