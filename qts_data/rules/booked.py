"""An entry on its way into the ledger, and the position that it leaves."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple, cast

from qts_data.contracts import BookedFill, LedgerEntry, Position
from qts_data.contracts.checks import check_amount, check_price
from qts_data.rules.average_cost import Holding, realized_between

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["Booked", "decimal", "instant", "unmarked_position", "utc_text"]


def decimal(value: str | None) -> Decimal:
    """A NOT NULL number."""
    return Decimal(cast("str", value))


def instant(value: str | None) -> dt.datetime:
    """A NOT NULL instant, in UTC; the session's DateStyle is ISO."""
    return dt.datetime.fromisoformat(cast("str", value)).astimezone(dt.UTC)


def utc_text(value: dt.datetime) -> str:
    """An aware instant as it is sent: the server takes fewer offsets than Python does."""
    return value.astimezone(dt.UTC).isoformat()


class Booked(NamedTuple):
    """An entry that is to be written, and what it does.

    Attributes:
        ledger_id: Its id.
        entry: The fill, or the opposite of one that is taken back.
        before: The position before it.
        after: The position after it.
        realized_pnl: What it realizes.
        avg_price: Average price of the position after it.
        reverses_id: The entry that it takes back.
        corrects_id: The entry whose place it takes.
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
        """Compute the rest.

        Raises:
            InvalidRecord: Names the figure of the position that would not fit its column.
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
        """Account and symbol."""
        return self.entry.account, self.entry.symbol

    def row(self) -> list[str | None]:
        """What is written: every column but recorded_at, which the server gives."""
        entry, after = self.entry, self.after
        return [
            str(self.ledger_id),
            utc_text(entry.timestamp),
            entry.account,
            entry.symbol,
            entry.market,
            entry.side,
            str(entry.qty),
            str(entry.price),
            str(entry.amount),
            str(entry.fee),
            entry.currency,
            entry.fee_currency,
            entry.strategy_tag,
            entry.order_id,
            entry.broker,
            entry.stored_execution_id,
            None if self.reverses_id is None else str(self.reverses_id),
            None if self.corrects_id is None else str(self.corrects_id),
            str(self.realized_pnl),
            str(after.qty),
            str(self.avg_price),
            str(after.cost_basis),
            str(after.realized_pnl),
        ]

    def position_row(self) -> list[str | None]:
        """What is written of the position: every column but its valuation and updated_at."""
        entry, after = self.entry, self.after
        figures = (after.qty, self.avg_price, after.cost_basis, after.realized_pnl, self.ledger_id)
        return [entry.account, entry.symbol, entry.market, entry.currency, *map(str, figures)]

    def result(self, stored: Sequence[str | None], *, is_last: bool) -> BookedFill:
        """What the caller hears; only the last entry of a position has the valuation that is stored with it."""
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
    """A position without a valuation.

    Args:
        entry: Its last entry.
        holding: What is held after it.
        avg_price: The average price of that.
        ledger_id: Id of the entry.
        at: When it was booked.
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
