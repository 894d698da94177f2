"""An entry that is about to be written to the ledger, and the position after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qts_data.contracts import BookedFill, LedgerEntry, Position
from qts_data.contracts.checks import check_amount, check_price
from qts_data.rules.average_cost import Holding, realized_between
from qts_data.rules.fill_rows import decimal, fill_row, instant

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence
    from decimal import Decimal


__all__ = ["Booked", "unmarked_position"]


class Booked(NamedTuple):
    """An entry that is to be written, and its effect.

    Attributes:
        ledger_id: Its id.
        entry: The fill. For a reversal, the opposite trade of the reversed fill.
        before: The holding before it.
        after: The holding after it.
        realized_pnl: Profit that it realizes.
        avg_price: Average price of the position after it.
        reverses_id: The entry that it reverses.
        corrects_id: The entry that it replaces.
    """

    ledger_id: int
    entry: LedgerEntry
    before: Holding
    after: Holding
    realized_pnl: Decimal
    avg_price: Decimal
    reverses_id: int | None = None
    corrects_id: int | None = None

    @classmethod
    def of(
        cls,
        ledger_id: int,
        entry: LedgerEntry,
        before: Holding,
        after: Holding,
        *,
        reverses_id: int | None = None,
        corrects_id: int | None = None,
    ) -> Booked:
        """Make an entry, and compute its profit and average price.

        Raises:
            InvalidRecord: A figure of the position would not fit its column; the message names it.
        """
        avg_price = after.avg_price
        check_price("position qty", after.qty)
        check_price("position avg_price", avg_price)
        check_amount("position cost_basis", after.cost_basis)
        check_amount("position realized_pnl", after.realized_pnl)
        realized = realized_between(before, after)
        return cls(ledger_id, entry, before, after, realized, avg_price, reverses_id, corrects_id)

    @property
    def position_key(self) -> tuple[str, str]:
        """Account and symbol of the position."""
        return self.entry.account, self.entry.symbol

    def row(self) -> list[str | None]:
        """Return the row, in the order of the ledger's columns. recorded_at is left out: the server sets it."""
        row = self.row_without_id()
        row.insert(0, str(self.ledger_id))
        return row

    def row_without_id(self) -> list[str | None]:
        """Return the row without the id, for a statement that makes the id itself."""
        after = self.after
        return [
            *fill_row(self.entry),
            None if self.reverses_id is None else str(self.reverses_id),
            None if self.corrects_id is None else str(self.corrects_id),
            str(self.realized_pnl),
            str(after.qty),
            str(self.avg_price),
            str(after.cost_basis),
            str(after.realized_pnl),
        ]

    def position_row(self) -> list[str | None]:
        """Return the columns to write to the position: all except its valuation and updated_at."""
        entry, after = self.entry, self.after
        figures = (after.qty, self.avg_price, after.cost_basis, after.realized_pnl, self.ledger_id)
        return [entry.account, entry.symbol, entry.market, entry.currency, *map(str, figures)]

    def result(self, stored: Sequence[str | None], *, is_last: bool) -> BookedFill:
        """Return the caller's result. Only the last entry of a position has the valuation stored with it."""
        _, _, mark_price, exposure, share, unrealized, marked_at, updated_at = stored
        marked = is_last and mark_price is not None
        return BookedFill(
            ledger_id=self.ledger_id,
            realized_pnl=self.realized_pnl,
            position=Position(
                account=self.entry.account,
                symbol=self.entry.symbol,
                market=self.entry.market,
                currency=self.entry.currency,
                qty=self.after.qty,
                avg_price=self.avg_price,
                cost_basis=self.after.cost_basis,
                realized_pnl=self.after.realized_pnl,
                mark_price=decimal(mark_price) if marked else None,
                exposure_value=decimal(exposure) if marked and exposure is not None else None,
                exposure_pct=decimal(share) if marked and share is not None else None,
                unrealized_pnl=decimal(unrealized) if marked and unrealized is not None else None,
                marked_at=instant(marked_at) if marked else None,
                last_ledger_id=self.ledger_id,
                updated_at=instant(updated_at),
            ),
            duplicate=False,
        )


def unmarked_position(
    entry: LedgerEntry, holding: Holding, avg_price: Decimal, ledger_id: int, at: dt.datetime
) -> Position:
    """Return a position without a valuation.

    Args:
        entry: Its last entry.
        holding: The holding after it.
        avg_price: Average price of the holding.
        ledger_id: Id of the entry.
        at: Time of booking.
    """
    return Position(
        account=entry.account,
        symbol=entry.symbol,
        market=entry.market,
        currency=entry.currency,
        qty=holding.qty,
        avg_price=avg_price,
        cost_basis=holding.cost_basis,
        realized_pnl=holding.realized_pnl,
        mark_price=None,
        exposure_value=None,
        exposure_pct=None,
        unrealized_pnl=None,
        marked_at=None,
        last_ledger_id=ledger_id,
        updated_at=at,
    )
