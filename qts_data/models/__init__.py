"""Declarative models: one aggregate a file, columns, constraints and comments; no queries."""

from qts_data.models.base import Base
from qts_data.models.execution import HOURLY_EXECUTION_METRICS, ExecutionLog
from qts_data.models.history import ConfigChange
from qts_data.models.ledger import LedgerEntry
from qts_data.models.ohlcv import DailyBar
from qts_data.models.pending import PendingReport
from qts_data.models.position import Position
from qts_data.models.risk import RiskConfig
from qts_data.models.strategy import StrategyParameter
from qts_data.models.tick import OHLCV_1H, OHLCV_1M, Tick
from qts_data.models.views import VIEWS, View

# Last: its listener grants on what the others have created.
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
    "LedgerEntry",
    "PendingReport",
    "Position",
    "RiskConfig",
    "StrategyParameter",
    "Tick",
    "View",
]
