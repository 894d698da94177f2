"""Conversion between rows of t_ledger, as the server's text, and records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qts_data.rules.average_cost import Holding
from qts_data.rules.booked import unmarked_position
from qts_data.rules.fill_rows import EFFECT_COLUMNS, FILL_COLUMNS, booked_of, fill_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qts_data.contracts import BookedEntry, Position

__all__ = [
    "COLUMNS",
    "booked_entry",
    "entry_columns",
    "position_after",
]

COLUMNS: Final = {"id": EFFECT_COLUMNS["id"], **FILL_COLUMNS, **EFFECT_COLUMNS}
"""Columns with their types, in the order in which rows are written and read. The records declare them."""
_END_OF_FILL: Final = 1 + len(FILL_COLUMNS)


def entry_columns(alias: str) -> str:
    """Return all columns of t_ledger under an alias, for a SELECT."""
    return ", ".join(f"{alias}.{column}" for column in COLUMNS)


def booked_entry(row: Sequence[str | None]) -> BookedEntry:
    """Make an entry from a row, in the order of `COLUMNS`."""
    return booked_of(fill_of(row[1:_END_OF_FILL]), row[0], *row[_END_OF_FILL:])


def position_after(booked: BookedEntry) -> Position:
    """Return the position directly after an entry, without a valuation, which the ledger does not store."""
    holding = Holding(booked.position_qty, booked.position_cost_basis, booked.position_realized_pnl)
    return unmarked_position(booked.entry, holding, booked.position_avg_price, booked.id, booked.recorded_at)
