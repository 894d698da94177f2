"""Outcomes of booking: rows of the ledger, results and refusals."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from qts_data.contracts.book import LedgerEntry
from qts_data.contracts.fields import embedded, stored
from qts_data.contracts.instants import utc_fields
from qts_data.contracts.positions import Position

__all__ = ["BookedEntry", "BookedFill", "RejectedEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedEntry:
    """A row of the ledger.

    Attributes:
        id: Number of the entry; numbers grow in the order of booking.
        entry: The fill. For a reversal, the opposite trade of the same size and price.
        reverses_id: The entry that this one reverses, or None.
        corrects_id: The entry that this one replaces, or None.
        realized_pnl: Profit that it realized, before fees.
        position_qty: Signed position after it.
        position_avg_price: Average price after it.
        position_cost_basis: Signed cost of the position after it.
        position_realized_pnl: Realized profit of the position so far.
        recorded_at: Time of booking.
    """

    id: int = field(metadata=stored("bigint"))
    entry: LedgerEntry = field(metadata=embedded(LedgerEntry))
    reverses_id: int | None = field(metadata=stored("bigint", null=True))
    corrects_id: int | None = field(metadata=stored("bigint", null=True))
    realized_pnl: Decimal = field(metadata=stored("numeric"))
    position_qty: Decimal = field(metadata=stored("numeric"))
    position_avg_price: Decimal = field(metadata=stored("numeric"))
    position_cost_basis: Decimal = field(metadata=stored("numeric"))
    position_realized_pnl: Decimal = field(metadata=stored("numeric"))
    recorded_at: dt.datetime = field(metadata=stored("timestamptz"))

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "recorded_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedFill:
    """The result of booking a fill.

    Attributes:
        ledger_id: Its entry in the ledger.
        realized_pnl: Profit that it realized by average cost, before fees.
        position: The position after it. For a duplicate, the position after the first booking, without a valuation.
        duplicate: Whether the fill had been booked before. Then nothing has changed.
        applied: Entries that were booked along with it. For a fill, the busts and corrections that arrived before it.
            For a correction, the reversal of the wrong fill.
    """

    ledger_id: int
    realized_pnl: Decimal
    position: Position
    duplicate: bool
    applied: tuple[BookedFill, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedEntry:
    """A fill of a batch that was not booked.

    Attributes:
        row: Its position in the batch, counted from 1.
        entry: The fill as the caller gave it.
        reason: The reason why it was not booked.
    """

    row: int
    entry: LedgerEntry | Mapping[str, object]
    reason: str
