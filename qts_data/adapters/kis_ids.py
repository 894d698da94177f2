"""Execution ids for Korea Investment & Securities (KIS), whose fill notices carry only an order number.

An id consists of the day, the branch, the order number and the quantity filled so far. An order filled by 3, 7 and 3
shares has the ids `20261120/06010/0000117057/3`, `.../10` and `.../13`. A second entry `/13` is a duplicate, in this
process or after a restart. A notice that comes twice looks like a second equal fill; the daily total shows which it is.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Final, Self
from zoneinfo import ZoneInfo

from qts_data.contracts import LedgerEntry, round_money
from qts_data.contracts.checks import check_amount, check_positive, check_price, check_text
from qts_data.contracts.instants import plausible
from qts_data.errors import ConfigurationError, InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qts_data.contracts import BookedEntry
    from qts_data.repositories.book.ledger import LedgerReader

__all__ = ["KisFill", "KisFills", "KisOrder"]

_exact: Final = Context(prec=60)
_ZERO: Final = Decimal(0)
_SEOUL: Final = ZoneInfo("Asia/Seoul")


@dataclass(frozen=True, slots=True)
class KisOrder:
    """An order as KIS names it. Order numbers start again each day, in each branch.

    Attributes:
        day: Day of the order in Seoul.
        branch: `KRX_FWDG_ORD_ORGNO`, such as `06010`.
        number: `ODNO`, such as `0000117057`.

    Raises:
        InvalidRecord: `branch` or `number` is empty or contains a slash, or `day` is not a date.
    """

    day: dt.date
    branch: str
    number: str

    def __post_init__(self) -> None:
        """Refuse names from which two orders could get the same id."""
        if isinstance(self.day, dt.datetime) or not isinstance(self.day, dt.date):
            raise InvalidRecord(field="day", reason=f"must be a date, is {type(self.day).__name__}")
        for name in ("branch", "number"):
            value = getattr(self, name)
            check_text(name, value, shortest=1, longest=64)
            if "/" in value:
                raise InvalidRecord(field=name, reason=f"{value!r} holds a slash")

    def execution_id(self, cumulative: Decimal | int) -> str:
        """Return the id of the fill that brought the order to this quantity.

        Args:
            cumulative: Quantity filled so far, including this fill and reversed ones.

        Raises:
            InvalidRecord: `cumulative` is not above zero.
        """
        quantity = Decimal(cumulative)
        check_positive("cumulative", quantity)
        return f"{self._prefix}{_plain(quantity)}"

    def cumulative_of(self, execution_id: str | None) -> Decimal | None:
        """Return the quantity in an id of this order. None for any other id."""
        if execution_id is None or not execution_id.startswith(self._prefix):
            return None
        rest = execution_id.removeprefix(self._prefix)
        try:
            quantity = Decimal(rest)
        except ArithmeticError:
            return None
        return quantity if quantity.is_finite() and _plain(quantity) == rest else None

    @property
    def _prefix(self) -> str:
        return f"{self.day:%Y%m%d}/{self.branch}/{self.number}/"


@dataclass(frozen=True, slots=True)
class KisFill:
    """One fill of an order, to be booked.

    Attributes:
        execution_id: Id of the fill.
        qty: Quantity of the fill.
        price: Price of the fill. After lost notices it is their average price, rounded to 8 places.
    """

    execution_id: str
    qty: Decimal
    price: Decimal


class KisFills:
    """Turns notices and daily totals of one order into fills with ids.

    All state comes from the ledger: `load` reads the booked fills, so a restart loses nothing. Book each returned fill
    before the next call for the same order.

    Args:
        order: The order.
        booked: Entries of the ledger, of this order or others, in the order of booking. A `BookedEntry` names the fill
            that it reverses or corrects; a `LedgerEntry` counts as a fill.

    Attributes:
        cumulative: Quantity filled so far, as far as this object knows, without reversed fills.

    Raises:
        InvalidRecord: The fills of the order do not add up to the quantity in the last id.
    """

    def __init__(self, order: KisOrder, booked: Iterable[LedgerEntry | BookedEntry] = ()) -> None:
        self._order = order
        self.cumulative: Decimal = _ZERO
        self._amount = _ZERO
        # Ids count reversed fills, too: the next fill must not get the id of one of them.
        self._numbered = _ZERO
        self._settled_at: dt.datetime | None = None
        self._noticed_at: dt.datetime | None = None
        total = _ZERO
        known: set[int] = set()
        for item in booked:
            entry, row = (item, None) if isinstance(item, LedgerEntry) else (item.entry, item)
            reached = order.cumulative_of(entry.execution_id)
            if row is not None and row.reverses_id in known:
                self._add(_exact.minus(entry.qty), entry.price)
                continue
            if reached is not None and (row is None or row.corrects_id is None):
                self._numbered = max(self._numbered, reached)
                total = _exact.add(total, entry.qty)
            elif row is None or row.corrects_id not in known:
                continue
            if row is not None:
                known.add(row.id)
            self._add(entry.qty, entry.price)
            self._noticed_at = max(entry.timestamp, self._noticed_at or entry.timestamp)
        if total != self._numbered:
            reason = f"the fills of {order} add up to {_plain(total)}, the last id says {_plain(self._numbered)}"
            raise InvalidRecord(field="booked", reason=reason)
        self._needs_total = self._numbered > 0

    @classmethod
    async def load(cls, ledger: LedgerReader, order: KisOrder, *, symbol: str, account: str = "main") -> Self:
        """Read an order from the ledger, with its busts and corrections. Call `total` next if it has fills.

        Args:
            ledger: `reader.ledger` or `uow.ledger`.
            order: The order.
            symbol: Instrument of the order.
            account: Account of the order.
        """
        midnight = dt.datetime.combine(order.day, dt.time(), _SEOUL).astimezone(dt.UTC)
        # A bust may come on any later day.
        found = ledger.stream_entries(account=account, symbol=symbol, start=midnight)
        return cls(order, [booked async for booked in found])

    def notice(self, qty: Decimal, price: Decimal, at: dt.datetime) -> KisFill | None:
        """Take a notice of a fill (H0STCNI0).

        Args:
            qty: `CNTG_QTY`, the quantity of this fill.
            price: `CNTG_UNPR`, its price.
            at: `STCK_CNTG_HOUR`, its time.

        Returns:
            The fill to book. None if the notice is of the same second as the last total, or of an earlier one: that
            total contains the fill, or the next total will.

        Raises:
            InvalidRecord: A number or the time is wrong.
            ConfigurationError: Fills were loaded and `total` was not called yet, so missed notices are unknown.
        """
        check_positive("qty", qty)
        check_price("price", price)
        at = plausible("at", at)
        if self._needs_total:
            raise ConfigurationError(f"call total with the daily query of {self._order} before its next notice")
        if self._settled_at is not None and at <= self._settled_at:
            return None
        self._noticed_at = max(at, self._noticed_at or at)
        return self._fill(qty, price)

    def total(self, qty: Decimal, amount: Decimal, at: dt.datetime) -> KisFill | None:
        """Take the totals of the daily query (TTTC8001R): after a start, after a lost connection, at the day's end.

        Args:
            qty: `TOT_CCLD_QTY`, the quantity filled so far.
            amount: `TOT_CCLD_AMT`, quantity x price so far.
            at: When the query was sent.

        Returns:
            One fill for everything that the notices did not report. None if nothing is missing, or the answer is older
            than a notice.

        Raises:
            InvalidRecord: A number or the time is wrong, or the missing part would have a price below zero. Also raised
                if the query was sent in a later second than the last fill and its quantity is below the known one: a
                notice came twice, or a fill was reversed. Until a total fits, `notice` raises `ConfigurationError`.
        """
        check_amount("amount", amount)
        check_price("qty", qty)
        at = plausible("at", at)
        if qty < self.cumulative:
            self._require_older(qty, at)
            return None
        self._needs_total = False
        self._settled_at = max(at, self._settled_at or at)
        if qty == self.cumulative:
            return None
        missing = _exact.subtract(qty, self.cumulative)
        price = round_money(_exact.divide(_exact.subtract(amount, self._amount), missing))
        if price < 0:
            raise InvalidRecord(field="amount", reason=f"{amount} is less than the {self._amount} that is booked")
        return self._fill(missing, price)

    def _require_older(self, qty: Decimal, asked_at: dt.datetime) -> None:
        """Refuse a quantity below the known one, unless the last fill may have come after the query was sent."""
        # Notices carry whole seconds.
        if self._noticed_at is None or asked_at.replace(microsecond=0) > self._noticed_at:
            self._needs_total = True
            raise InvalidRecord(
                field="qty",
                reason=f"the broker says {_plain(qty)} for {self._order}, and {_plain(self.cumulative)} are known from "
                "its notices: one came twice, or a fill was reversed; compare the day's fills with the broker's list, "
                "book the missing bust with reverse_fill, and load the order again",
            )

    def _fill(self, qty: Decimal, price: Decimal) -> KisFill:
        self._add(qty, price)
        self._numbered = _exact.add(self._numbered, qty)
        return KisFill(self._order.execution_id(self._numbered), qty, price)

    def _add(self, qty: Decimal, price: Decimal) -> None:
        self.cumulative = _exact.add(self.cumulative, qty)
        self._amount = _exact.add(self._amount, _exact.multiply(qty, price))


def _plain(value: Decimal) -> str:
    """Return the same text for 10 and for 10.00000000."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
