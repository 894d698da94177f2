"""Frozen records that cross the package's border; no database, no driver, no ORM.

Times are aware UTC instants, money and quantities are `decimal.Decimal`; a record that breaks a rule cannot
be made: the constructor raises `InvalidRecord` with the field and the reason.
"""

from qts_data.contracts.book import (
    IDEMPOTENCY_PREFIX,
    BookedEntry,
    BookedFill,
    Correction,
    LedgerEntry,
    Position,
    RejectedEntry,
    Reversal,
    Side,
    round_money,
)
from qts_data.contracts.checks import MAX_SOURCE_LENGTH, MAX_SYMBOL_LENGTH
from qts_data.contracts.health import HealthStatus
from qts_data.contracts.market import OHLCV, TickData

__all__ = [
    "IDEMPOTENCY_PREFIX",
    "MAX_SOURCE_LENGTH",
    "MAX_SYMBOL_LENGTH",
    "OHLCV",
    "BookedEntry",
    "BookedFill",
    "Correction",
    "HealthStatus",
    "LedgerEntry",
    "Position",
    "RejectedEntry",
    "Reversal",
    "Side",
    "TickData",
    "round_money",
]
