"""Named questions and writes of one aggregate each; they flush, they never commit."""

from qts_data.repositories.bar_upsert import UpsertReport
from qts_data.repositories.daily_bars import DailyBarReads, DailyBarRepository
from qts_data.repositories.fill_writer import FillWriter
from qts_data.repositories.minute_bars import MinuteBarReads, MinuteBarRepository
from qts_data.repositories.outbox import Outbox, OutboxStatus, OutboxTask
from qts_data.repositories.proof import Mismatch, Verification
from qts_data.repositories.ticks import (
    BAR_INTERVALS,
    AtBound,
    BarInterval,
    BarRange,
    BatchId,
    Durability,
    Gap,
    IngestReport,
    Numbering,
    RefreshReport,
    SignedOff,
    StaleFeed,
    SymbolSummary,
    TickQuery,
    TickQueueFull,
    TickReads,
    TickRepository,
    TickTable,
    TickWriter,
    TimeRange,
    WriterStats,
    load_in_parts,
)
from qts_data.repositories.unit_of_work import Database, Reader, UnitOfWork

__all__ = [
    "BAR_INTERVALS",
    "AtBound",
    "BarInterval",
    "BarRange",
    "BatchId",
    "DailyBarReads",
    "DailyBarRepository",
    "Database",
    "Durability",
    "FillWriter",
    "Gap",
    "IngestReport",
    "MinuteBarReads",
    "MinuteBarRepository",
    "Mismatch",
    "Numbering",
    "Outbox",
    "OutboxStatus",
    "OutboxTask",
    "Reader",
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
    "UnitOfWork",
    "UpsertReport",
    "Verification",
    "WriterStats",
    "load_in_parts",
]
