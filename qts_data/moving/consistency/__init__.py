"""Proof that two data sources contain the same: sums and hashes first, rows only where these differ."""

from qts_data.moving.consistency.compare import compare
from qts_data.moving.consistency.report import ConsistencyReport, Finding, TableReport
from qts_data.moving.consistency.sides import Item, Side, database_side, sheets_side
from qts_data.moving.consistency.verify import verify_data_consistency

__all__ = [
    "ConsistencyReport",
    "Finding",
    "Item",
    "Side",
    "TableReport",
    "compare",
    "database_side",
    "sheets_side",
    "verify_data_consistency",
]
