"""The data layer of a quantitative trading system: what an engine imports, and no code."""

from qts_data.contracts import OHLCV, TickData
from qts_data.errors import (
    ConfigurationError,
    ConstraintViolated,
    DatabaseError,
    DatabaseUnavailable,
    InvalidRecord,
    OutcomeUnknown,
    QtsDataError,
    SchemaMismatch,
    StatementTimeout,
    TransactionConflict,
)

__all__ = [
    "OHLCV",
    "ConfigurationError",
    "ConstraintViolated",
    "DatabaseError",
    "DatabaseUnavailable",
    "InvalidRecord",
    "OutcomeUnknown",
    "QtsDataError",
    "SchemaMismatch",
    "StatementTimeout",
    "TickData",
    "TransactionConflict",
]
