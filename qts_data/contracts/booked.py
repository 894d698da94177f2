"""What became of fills: rows of the ledger, results, refusals."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from qts_data.contracts.book import LedgerEntry
from qts_data.contracts.fields import embedded, stored
from qts_data.contracts.instants import utc_fields
from qts_data.contracts.positions import Position

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BookedEntry", "BookedFill", "RejectedEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedEntry:
    """A row of the ledger.

    Attributes:
        id: Order of booking.
        entry: The fill; of a reversal, the opposite trade of the same size and price.
        reverses_id: The entry that this one takes back, or None.
        corrects_id: The entry whose place this one takes, or None.
        realized_pnl: What it realized, before fees.
        position_qty: Signed position after it.
        position_avg_price: Average price after it.
        position_cost_basis: Signed cost of the position after it.
        position_realized_pnl: Realized profit of the position so far.
        recorded_at: When it was booked.
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
        """Keep the instant in UTC."""
        utc_fields(self, "recorded_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedFill:
    """What became of a fill.

    Attributes:
        ledger_id: Its entry in the ledger.
        realized_pnl: What it realized by average cost, before fees.
        position: The position after it; of a duplicate, as it was after the first booking, without a valuation.
        duplicate: Whether it had been booked before; then nothing has changed.
        applied: What was booked along with it: busts and corrections that had come before it; of a correction, the
            reversal of the fill that was wrong.
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
        entry: What was handed over.
        reason: Why it was not booked.
    """

    row: int
    entry: LedgerEntry | Mapping[str, object]
    reason: str
