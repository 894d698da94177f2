"""Repositories: the queries and writes of one aggregate each. They flush, but never commit."""

from qts_data.repositories.book.proof import Mismatch, Verification
from qts_data.repositories.market.bars.daily import DailyBarReads, DailyBarRepository
from qts_data.repositories.market.bars.frame import Bars
from qts_data.repositories.market.bars.reads import BAR_INTERVALS, BarInterval, BarReads, BarSource
from qts_data.repositories.market.bars.upsert import UpsertReport
from qts_data.repositories.market.bars.vendor import MinuteBarReads, MinuteBarRepository
from qts_data.repositories.market.gaps import Gap, SignedOff, StaleFeed
from qts_data.repositories.market.reports import (
    BarRange,
    BatchId,
    IngestReport,
    Lead,
    RefreshReport,
    TickTable,
    TimeRange,
)
from qts_data.repositories.market.ticks.query import TickQuery
from qts_data.repositories.market.ticks.reads import SymbolSummary, TickReads
from qts_data.repositories.market.ticks.repository import TickRepository
from qts_data.repositories.market.ticks.sources import Numbering
from qts_data.repositories.moving.outbox import Outbox, OutboxStatus, OutboxTask
from qts_data.repositories.unit_of_work import Database, Reader, UnitOfWork

__all__ = [
    "BAR_INTERVALS",
    "BarInterval",
    "BarRange",
    "BarReads",
    "BarSource",
    "Bars",
    "BatchId",
    "DailyBarReads",
    "DailyBarRepository",
    "Database",
    "Gap",
    "IngestReport",
    "Lead",
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
    "TickReads",
    "TickRepository",
    "TickTable",
    "TimeRange",
    "UnitOfWork",
    "UpsertReport",
    "Verification",
]
