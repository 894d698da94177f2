"""Frozen records that cross the package's border. They know no database, driver or ORM.

Times are aware UTC instants; money and quantities are `decimal.Decimal`. The constructor of a record checks every
field. For a value that breaks a rule it raises `InvalidRecord` with the field and the reason.
"""

from qts_data.contracts.book import LedgerEntry, Side
from qts_data.contracts.booked import BookedEntry, BookedFill, RejectedEntry
from qts_data.contracts.cache import (
    DEFAULT_TTL_MS,
    CacheConfig,
    CacheEvent,
    CacheStats,
    CacheType,
    OperatingState,
    SafetyState,
)
from qts_data.contracts.checks import MAX_SOURCE_LENGTH, MAX_SYMBOL_LENGTH
from qts_data.contracts.config import ALL_ACCOUNTS, ConfigChange, ParameterValue, RiskLimit, StrategyParameter
from qts_data.contracts.execution import ExecutionLog, HourlyExecutionMetrics, StageLatency
from qts_data.contracts.health import HealthStatus
from qts_data.contracts.ids import IDEMPOTENCY_PREFIX, split_stored_id, stored_execution_id
from qts_data.contracts.leniency import allow_any_time, any_text, any_time
from qts_data.contracts.live import (
    BookLevel,
    OrderBook,
    OrderState,
    Precheck,
    Quote,
    Reading,
    RiskLimits,
    StrategyParameters,
)
from qts_data.contracts.market import OHLCV, TickData
from qts_data.contracts.money import round_money
from qts_data.contracts.pnl import DailyMetrics, DailyPnl, HourlyPnl, StrategyPerformance
from qts_data.contracts.positions import Position
from qts_data.contracts.reports import Correction, Reversal

__all__ = [
    "ALL_ACCOUNTS",
    "DEFAULT_TTL_MS",
    "IDEMPOTENCY_PREFIX",
    "MAX_SOURCE_LENGTH",
    "MAX_SYMBOL_LENGTH",
    "OHLCV",
    "BookLevel",
    "BookedEntry",
    "BookedFill",
    "CacheConfig",
    "CacheEvent",
    "CacheStats",
    "CacheType",
    "ConfigChange",
    "Correction",
    "DailyMetrics",
    "DailyPnl",
    "ExecutionLog",
    "HealthStatus",
    "HourlyExecutionMetrics",
    "HourlyPnl",
    "LedgerEntry",
    "OperatingState",
    "OrderBook",
    "OrderState",
    "ParameterValue",
    "Position",
    "Precheck",
    "Quote",
    "Reading",
    "RejectedEntry",
    "Reversal",
    "RiskLimit",
    "RiskLimits",
    "SafetyState",
    "Side",
    "StageLatency",
    "StrategyParameter",
    "StrategyParameters",
    "StrategyPerformance",
    "TickData",
    "allow_any_time",
    "any_text",
    "any_time",
    "round_money",
    "split_stored_id",
    "stored_execution_id",
]
