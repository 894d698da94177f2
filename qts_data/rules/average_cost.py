"""The effect of a fill on a position: average cost, signed quantities, exact to the last digit.

The average is the moving weighted average of the cost of the position (the weighted average cost formula of IAS 2,
paragraph 27, recalculated at each purchase). Each fill carries on the *cost* of the position, not its average price:
an average has to be rounded, and a rounded average times a quantity differs from the amount paid. So no money leaks. At
any moment, the sum of all realized P&L minus the signed cost of the position equals the cash flow of the trades. A
closed position has a cost of exactly zero.

Three results are rounded, all to 8 places with ties to even (`qts_data.contracts.round_money`):

* the share of the cost that a partial reduction removes;
* the amount of the closing part of a trade through zero;
* the average price that is shown.

A short position has a negative quantity and a negative cost (minus the amount received for it).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from qts_data.contracts import round_money

if TYPE_CHECKING:
    from qts_data.contracts import LedgerEntry

__all__ = ["FLAT", "Fold", "Holding", "Trade", "apply", "realized_between"]

_ZERO: Final = Decimal(0)
# Sums and products of 18 and 24 digits are exact; a quotient has more digits than round_money uses. Operators would
# use the caller's decimal context, even the unary minus.
_wide: Final = Context(prec=80)


class Trade(NamedTuple):
    """The fields of a fill that change a position.

    Attributes:
        qty: Signed quantity: above 0 bought, below 0 sold.
        price: Price, 0 or more.
        amount: |qty| x price rounded to 8 places, signed like `qty`.
    """

    qty: Decimal
    price: Decimal
    amount: Decimal

    @classmethod
    def of(cls, entry: LedgerEntry) -> Trade:
        """Return the trade of a ledger entry."""
        amount = entry.amount
        assert amount is not None  # noqa: S101 - the record computes it
        if entry.side == "BUY":
            return cls(entry.qty, entry.price, amount)
        return cls(entry.qty.copy_negate(), entry.price, amount.copy_negate())


class Holding(NamedTuple):
    """The part of a position that the ledger determines.

    Attributes:
        qty: Signed quantity.
        cost_basis: Signed cost of it.
        realized_pnl: Realized profit so far.
    """

    qty: Decimal
    cost_basis: Decimal
    realized_pnl: Decimal

    @property
    def avg_price(self) -> Decimal:
        """Average price of the holding, rounded to 8 places. 0 when closed."""
        return round_money(_wide.divide(self.cost_basis, self.qty)) if self.qty else _ZERO


FLAT: Final = Holding(_ZERO, _ZERO, _ZERO)


def apply(holding: Holding, trade: Trade) -> Holding:
    """Return the holding after a trade."""
    qty, cost, realized = holding
    signed, price, amount = trade
    after = _wide.add(qty, signed)
    if not qty or (qty > 0) == (signed > 0):
        return Holding(after, _wide.add(cost, amount), realized)
    if not after:
        return Holding(_ZERO, _ZERO, _wide.subtract(_wide.subtract(realized, amount), cost))
    if (after > 0) == (qty > 0):
        # The trade removes the same share of the cost as of the quantity.
        removed = round_money(_wide.divide(_wide.multiply(cost, signed.copy_negate()), qty))
        return Holding(after, _wide.subtract(cost, removed), _wide.subtract(_wide.subtract(realized, amount), removed))
    # Through zero: one leg closes at the price, and the rest of the amount is the cost of the new position.
    closing = round_money(_wide.multiply(qty.copy_negate(), price))
    return Holding(after, _wide.subtract(amount, closing), _wide.subtract(_wide.subtract(realized, closing), cost))


def realized_between(before: Holding, after: Holding) -> Decimal:
    """Return the profit that an entry realized, given the holding before and after it."""
    return _wide.subtract(after.realized_pnl, before.realized_pnl)


@dataclass(slots=True)
class _Slot:
    """A place in the sequence of fills. A correction takes the place of the fill that it corrects."""

    trade: Trade | None
    after: Holding


class Fold:
    """The ledger of one account and symbol, entry by entry in the order of booking.

    The fold computes a busted trade as if it had never happened, and a corrected one as if it had always been right.
    It computes the later trades again, and books the difference with the reversal or correction.
    """

    def __init__(self) -> None:
        self._slots: list[_Slot] = []
        self._place: dict[int, int] = {}

    @property
    def holding(self) -> Holding:
        """The holding after all entries so far."""
        return self._slots[-1].after if self._slots else FLAT

    def add(
        self, ledger_id: int, trade: Trade, *, reverses_id: int | None = None, corrects_id: int | None = None
    ) -> None:
        """Book an entry.

        The entry that it reverses or corrects may be missing, because the fold began after it or ends before it. Then
        a reversal does nothing, and a correction is a fill of its own.
        """
        if reverses_id is not None:
            place = self._place.get(reverses_id)
            if place is not None:
                self._slots[place].trade = None
                self._recompute(place)
            return
        place = self._place.get(corrects_id) if corrects_id is not None else None
        if place is None:
            self._place[ledger_id] = len(self._slots)
            self._slots.append(_Slot(trade, apply(self.holding, trade)))
        else:
            self._place[ledger_id] = place
            self._slots[place].trade = trade
            self._recompute(place)

    def pass_over(self, ledger_id: int, corrects_id: int) -> None:
        """Skip a correction, but remember the place that it would take.

        A later correction or reversal of it takes that place, because it refers to the same trade.
        """
        place = self._place.get(corrects_id)
        if place is not None:
            self._place[ledger_id] = place

    def _recompute(self, place: int) -> None:
        holding = self._slots[place - 1].after if place else FLAT
        for slot in self._slots[place:]:
            if slot.trade is not None:
                holding = apply(holding, slot.trade)
            slot.after = holding
