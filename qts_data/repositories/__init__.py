"""Named questions and writes of one aggregate each; they flush, they never commit."""

from qts_data.repositories.fill_writer import FillWriter
from qts_data.repositories.proof import Mismatch, Verification
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
    "FillWriter",
    "IngestReport",
    "Mismatch",
    "Reader",
    "RefreshReport",
    "TickRepository",
    "UnitOfWork",
    "Verification",
]
