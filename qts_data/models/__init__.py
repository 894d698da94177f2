"""Declarative models, one aggregate a file: columns, constraints and comments, without queries."""

from qts_data.models.base import Base
from qts_data.models.execution import HOURLY_EXECUTION_METRICS, ExecutionLog
from qts_data.models.gap import SignedOffGap
from qts_data.models.history import ConfigChange
from qts_data.models.id_scope import IdScope
from qts_data.models.ingest import IngestBatch, TickDay
from qts_data.models.ledger import LedgerEntry
from qts_data.models.moving import Move, MoveCheckpoint, MoveVerification
from qts_data.models.ohlcv import DailyBar, MinuteBar
from qts_data.models.outbox import OutboxDestination, OutboxMessage
from qts_data.models.pending import PendingReport
from qts_data.models.position import Position
from qts_data.models.risk import RiskConfig
from qts_data.models.strategy import StrategyParameter
from qts_data.models.tick import OHLCV_1H, OHLCV_1M, HistoricTick, Tick
from qts_data.models.views import VIEWS, View

# Imported last: its listener grants privileges on the objects that the other listeners have created.
from qts_data.models.privileges import PRIVILEGE_STATEMENTS  # isort: skip

__all__ = [
    "HOURLY_EXECUTION_METRICS",
    "OHLCV_1H",
    "OHLCV_1M",
    "PRIVILEGE_STATEMENTS",
    "VIEWS",
    "Base",
    "ConfigChange",
    "DailyBar",
    "ExecutionLog",
    "HistoricTick",
    "IdScope",
    "IngestBatch",
    "LedgerEntry",
    "MinuteBar",
    "Move",
    "MoveCheckpoint",
    "MoveVerification",
    "OutboxDestination",
    "OutboxMessage",
    "PendingReport",
    "Position",
    "RiskConfig",
    "SignedOffGap",
    "StrategyParameter",
    "Tick",
    "TickDay",
    "View",
]
