"""The data layer of a quantitative trading system: what an engine imports.

Names are looked up when they are first used: Alembic imports this package while it is itself half imported, to load
the plugin below it, and nobody who runs `alembic` should wait for, or stumble over, all the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from qts_data.contracts import (
        OHLCV,
        BookedFill,
        Correction,
        ExecutionLog,
        HealthStatus,
        LedgerEntry,
        Position,
        Reversal,
        RiskLimit,
        TickData,
        allow_any_time,
        any_text,
        any_time,
    )
    from qts_data.database.engine import DatabaseConfig
    from qts_data.errors import (
        ConfigurationError,
        DatabaseError,
        DatabaseUnavailable,
        InvalidRecord,
        LedgerConflict,
        NotFound,
        OutcomeUnknown,
        QtsDataError,
        TransactionConflict,
    )
    from qts_data.repositories import Database, UnitOfWork

__all__ = [
    "OHLCV",
    "BookedFill",
    "ConfigurationError",
    "Correction",
    "Database",
    "DatabaseConfig",
    "DatabaseError",
    "DatabaseUnavailable",
    "ExecutionLog",
    "HealthStatus",
    "InvalidRecord",
    "LedgerConflict",
    "LedgerEntry",
    "NotFound",
    "OutcomeUnknown",
    "Position",
    "QtsDataError",
    "Reversal",
    "RiskLimit",
    "TickData",
    "TransactionConflict",
    "UnitOfWork",
    "allow_any_time",
    "any_text",
    "any_time",
]

_PLACES: Final = (
    "qts_data.errors",
    "qts_data.contracts",
    "qts_data.database.engine",
    "qts_data.repositories",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for place in _PLACES:
            module = import_module(place)
            if name in module.__all__:
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
