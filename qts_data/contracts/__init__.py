"""Frozen records that cross the package's border; no database, no driver, no ORM.

Times are aware UTC instants, money and quantities are `decimal.Decimal`; a record that breaks a rule cannot
be made: the constructor raises `InvalidRecord` with the field and the reason.
"""

from qts_data.contracts.book import (
    BookedEntry,
    BookedFill,
    LedgerEntry,
    Position,
    RejectedEntry,
    Reversal,
    Side,
    round_money,
)
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
from qts_data.contracts.health import HealthStatus
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

__all__ = [
    "DEFAULT_TTL_MS",
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
    "HealthStatus",
    "LedgerEntry",
    "OperatingState",
    "OrderBook",
    "OrderState",
    "Position",
    "Precheck",
    "Quote",
    "Reading",
    "RejectedEntry",
    "Reversal",
    "RiskLimits",
    "SafetyState",
    "Side",
    "StrategyParameters",
    "TickData",
    "round_money",
]
