"""The data layer of a quantitative trading system: the names that an engine imports.

A name is imported when it is first used. Alembic imports this package while the package is still being imported, to
load the plugin below it. So importing the package must import nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qts_data.cache import CacheAccess, CacheManager, cached
    from qts_data.contracts import (
        OHLCV,
        BookedEntry,
        BookedFill,
        BookLevel,
        CacheConfig,
        CacheEvent,
        CacheType,
        Correction,
        ExecutionLog,
        HealthStatus,
        LedgerEntry,
        OperatingState,
        OrderBook,
        OrderState,
        Position,
        Precheck,
        Quote,
        Reading,
        Reversal,
        RiskLimit,
        RiskLimits,
        SafetyState,
        Side,
        StrategyParameter,
        StrategyParameters,
        TickData,
        allow_any_time,
        any_text,
        any_time,
    )
    from qts_data.database.engine import DatabaseConfig
    from qts_data.errors import (
        CacheError,
        ConfigurationError,
        DatabaseError,
        DatabaseUnavailable,
        InvalidRecord,
        LedgerConflict,
        NotFound,
        OutcomeUnknown,
        QtsDataError,
        SchemaMismatch,
        SpoolRefused,
        StaleWrite,
        TransactionConflict,
        WriterClosed,
        WritesRefused,
    )
    from qts_data.repositories import Bars, BatchId, Database, IngestReport, Reader, UnitOfWork
    from qts_data.rules.fill_identity import FillIdentity
    from qts_data.settings import Settings, load_settings
    from qts_data.writers import AtBound, Durability, FillWriter, TickQueueFull, TickWriter

_MODULES: Final[dict[str, tuple[str, ...]]] = {
    "qts_data.cache": ("CacheAccess", "CacheManager", "cached"),
    "qts_data.contracts": (
        "OHLCV",
        "BookLevel",
        "BookedEntry",
        "BookedFill",
        "CacheConfig",
        "CacheEvent",
        "CacheType",
        "Correction",
        "ExecutionLog",
        "HealthStatus",
        "LedgerEntry",
        "OperatingState",
        "OrderBook",
        "OrderState",
        "Position",
        "Precheck",
        "Quote",
        "Reading",
        "Reversal",
        "RiskLimit",
        "RiskLimits",
        "SafetyState",
        "Side",
        "StrategyParameter",
        "StrategyParameters",
        "TickData",
        "allow_any_time",
        "any_text",
        "any_time",
    ),
    "qts_data.database.engine": ("DatabaseConfig",),
    "qts_data.errors": (
        "CacheError",
        "ConfigurationError",
        "DatabaseError",
        "DatabaseUnavailable",
        "InvalidRecord",
        "LedgerConflict",
        "NotFound",
        "OutcomeUnknown",
        "QtsDataError",
        "SchemaMismatch",
        "SpoolRefused",
        "StaleWrite",
        "TransactionConflict",
        "WriterClosed",
        "WritesRefused",
    ),
    "qts_data.repositories": ("Bars", "BatchId", "Database", "IngestReport", "Reader", "UnitOfWork"),
    "qts_data.rules.fill_identity": ("FillIdentity",),
    "qts_data.settings": ("Settings", "load_settings"),
    "qts_data.writers": ("AtBound", "Durability", "FillWriter", "TickQueueFull", "TickWriter"),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "OHLCV",
    "AtBound",
    "Bars",
    "BatchId",
    "BookLevel",
    "BookedEntry",
    "BookedFill",
    "CacheAccess",
    "CacheConfig",
    "CacheError",
    "CacheEvent",
    "CacheManager",
    "CacheType",
    "ConfigurationError",
    "Correction",
    "Database",
    "DatabaseConfig",
    "DatabaseError",
    "DatabaseUnavailable",
    "Durability",
    "ExecutionLog",
    "FillIdentity",
    "FillWriter",
    "HealthStatus",
    "IngestReport",
    "InvalidRecord",
    "LedgerConflict",
    "LedgerEntry",
    "NotFound",
    "OperatingState",
    "OrderBook",
    "OrderState",
    "OutcomeUnknown",
    "Position",
    "Precheck",
    "QtsDataError",
    "Quote",
    "Reader",
    "Reading",
    "Reversal",
    "RiskLimit",
    "RiskLimits",
    "SafetyState",
    "SchemaMismatch",
    "Settings",
    "Side",
    "SpoolRefused",
    "StaleWrite",
    "StrategyParameter",
    "StrategyParameters",
    "TickData",
    "TickQueueFull",
    "TickWriter",
    "TransactionConflict",
    "UnitOfWork",
    "WriterClosed",
    "WritesRefused",
    "allow_any_time",
    "any_text",
    "any_time",
    "cached",
    "load_settings",
]

# Type checkers must not see this function: with it, every misspelt name would be Any.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
