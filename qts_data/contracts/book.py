"""The trading book: fills as brokers report them, what they did, and the positions that they make."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import TYPE_CHECKING, Final, Literal

from qts_data.contracts.checks import check_amount, check_positive, check_price, check_symbol, shown
from qts_data.contracts.identity import check_currency, check_identifier, check_name
from qts_data.contracts.ids import (
    IDEMPOTENCY_PREFIX,
    MAX_STORED_ID_LENGTH,
    SCOPE_PREFIX,
    parse_scope,
    stored_execution_id,
)
from qts_data.contracts.instants import plausible, utc_fields
from qts_data.contracts.leniency import as_stored
from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "IDEMPOTENCY_PREFIX",
    "BookedEntry",
    "BookedFill",
    "Correction",
    "LedgerEntry",
    "Position",
    "RejectedEntry",
    "Reversal",
    "Side",
    "round_money",
]

Side = Literal["BUY", "SELL"]

_MAX_NAME_LENGTH: Final = 64
_MAX_ID_LENGTH: Final = 256
_REVERSAL: Final = "/reversal"
"""What the id of a correction gets for the entry that makes room for it."""
_ZERO: Final = Decimal(0)
_PLACES: Final = Decimal("1E-8")
# Wide enough for the product of two numbers of 18 digits: only the last step rounds.
_EXACT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)


def round_money(value: Decimal) -> Decimal:
    """Round to 8 places, ties to even (IEEE 754-2019, 4.3.1 roundTiesToEven; also called banker's rounding).

    Ties go to the even neighbour, so that the errors of many roundings do not all point the same way.
    """
    return _EXACT.quantize(value, _PLACES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One fill: a trade of the account as the broker reported it.

    Attributes:
        timestamp: When the broker filled the order; kept in UTC.
        symbol: Instrument, 1 to 64 characters.
        market: Where it trades, such as `KRX` or `BINANCE`.
        side: `BUY` or `SELL`.
        qty: Filled quantity, above 0, at most 8 decimal places.
        price: Fill price in `currency`, 0 or more, at most 8 decimal places.
        currency: Code of the currency of price and amount, such as `KRW` or `USDT`.
        broker: Broker or exchange that reported the fill.
        account: Account that traded.
        execution_id: The broker's id of this execution (FIX tag 17, ExecID).
        idempotency_key: Stands in for a missing execution id; the same key always means the same fill.
        id_scope: Where the broker's ids restart: what makes this one unique, such as `day=2026-11-20`. A `Database`
            with a declared scope fills it in; see `FillIdentity`.
        amount: qty x price rounded to 8 places, ties to even; None computes it, and another value is refused.
        fee: Fee and tax of this fill in `fee_currency`; below 0 is a rebate.
        fee_currency: Currency of the fee; None means `currency`.
        strategy_tag: Strategy that sent the order, if known.
        order_id: The order that was filled, if known.

    Raises:
        InvalidRecord: A field is of the wrong type or cannot be stored to the last digit, `amount` is not
            qty x price, or there is not exactly one of `execution_id` and `idempotency_key`. Or the time is implausible
            (see `any_time`), a name or id looks like another one, or a currency is not a code.
    """

    timestamp: dt.datetime
    symbol: str
    market: str
    side: Side
    qty: Decimal
    price: Decimal
    currency: str
    broker: str
    account: str = "main"
    execution_id: str | None = None
    idempotency_key: str | None = None
    amount: Decimal | None = None
    fee: Decimal = _ZERO
    fee_currency: str | None = None
    strategy_tag: str | None = None
    order_id: str | None = None
    id_scope: str = ""

    def __post_init__(self) -> None:
        """Refuse what the ledger would refuse, or would store as something else."""
        object.__setattr__(self, "timestamp", plausible("timestamp", self.timestamp))
        check_symbol(self.symbol)
        check_name("market", self.market)
        check_name("broker", self.broker)
        check_name("account", self.account)
        check_currency("currency", self.currency)
        if not isinstance(self.side, str) or self.side not in {"BUY", "SELL"}:
            raise InvalidRecord(field="side", reason=f"must be BUY or SELL, is {self.side!r}")
        check_positive("qty", self.qty)
        check_price("price", self.price)
        if self.price < 0:
            raise InvalidRecord(field="price", reason=f"{shown(self.price)} is below zero")
        check_amount("fee", self.fee)
        self._check_ids()
        if self.fee_currency is None:
            object.__setattr__(self, "fee_currency", self.currency)
        else:
            check_currency("fee_currency", self.fee_currency)
        product = round_money(_EXACT.multiply(self.qty, self.price))
        if self.amount is None:
            object.__setattr__(self, "amount", product)
        # A signalling NaN would not even be compared.
        elif not isinstance(self.amount, Decimal) or not self.amount.is_finite() or self.amount != product:
            raise InvalidRecord(field="amount", reason=f"is {shown(self.amount)}, but qty x price is {shown(product)}")
        check_amount("amount", product)

    def _check_ids(self) -> None:
        if (self.execution_id is None) == (self.idempotency_key is None):
            raise InvalidRecord(
                field="execution_id",
                reason="give the broker's execution_id or, where there is none, an idempotency_key: one of them",
            )
        if self.execution_id is not None:
            _check_execution_id(self.execution_id)
            # The empty scope needs no look: an id of 256 characters alone is never too long.
            if (self.id_scope.__class__ is not str or self.id_scope) and (
                _checked_scope(self.id_scope, self.execution_id).get("symbol", self.symbol) != self.symbol
            ):
                raise InvalidRecord(field="id_scope", reason=f"{self.id_scope!r} is not of the symbol {self.symbol!r}")
        elif self.id_scope:
            raise InvalidRecord(field="id_scope", reason="goes with an execution_id, not with an idempotency_key")
        for field in ("idempotency_key", "strategy_tag", "order_id"):
            value = getattr(self, field)
            if value is not None:
                check_identifier(field, value, shortest=1, longest=_MAX_ID_LENGTH)

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same fill: broker, account and execution id (or the marked idempotency key)."""
        return self.broker, self.account, self.stored_execution_id

    @property
    def stored_execution_id(self) -> str:
        """The id as the ledger keeps it, with its scope: `scope:day=2026-11-20/0017`."""
        if self.execution_id is None:
            return f"{IDEMPOTENCY_PREFIX}{self.idempotency_key}"
        return stored_execution_id(self.id_scope, self.execution_id)

    def same_content(self, other: LedgerEntry) -> bool:
        """Whether two reports of an execution agree in all but the time.

        A broker's stream and its history often give the same fill with timestamps of different precision. Whether the
        times may differ so much is decided by `FillIdentity`.
        """
        with as_stored():
            return replace(self, timestamp=other.timestamp) == other

    def __str__(self) -> str:
        """For messages: what was traded, where, and under which id."""
        name = f"{self.broker}/{self.account}/{self.stored_execution_id}"
        fee = f" fee {_plain(self.fee)} {self.fee_currency}" if self.fee else ""
        tags = "".join(
            f" {label} {value}"
            for label, value in (("order", self.order_id), ("strategy", self.strategy_tag))
            if value is not None
        )
        trade = f"{self.side} {_plain(self.qty)} {self.symbol} ({self.market}) @ {_plain(self.price)} {self.currency}"
        return f"{name}: {trade}{fee}{tags} at {self.timestamp.isoformat()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversal:
    """The broker takes a fill back: a trade bust (FIX: ExecType H, Trade Cancel).

    Attributes:
        timestamp: When the broker took it back.
        broker: Broker or exchange that says so.
        execution_id: The broker's id of this report, not of the fill.
        reverses: Execution id of the fill that is taken back (FIX tag 19, ExecRefID), as the ledger keeps it.
        account: Account that had traded.
        id_scope: Where the broker's ids restart: what makes the id of this report unique.

    Raises:
        InvalidRecord: A field is of the wrong type, or the ledger could not hold it.
    """

    timestamp: dt.datetime
    broker: str
    execution_id: str
    reverses: str
    account: str = "main"
    id_scope: str = ""

    def __post_init__(self) -> None:
        """Refuse what the ledger could not hold."""
        object.__setattr__(self, "timestamp", plausible("timestamp", self.timestamp))
        for field in ("broker", "account"):
            check_identifier(field, getattr(self, field), shortest=1, longest=_MAX_NAME_LENGTH)
        _check_execution_id(self.execution_id)
        _checked_scope(self.id_scope, self.execution_id)
        _check_stored_id("reverses", self.reverses)
        if self.stored_execution_id == self.reverses:
            raise InvalidRecord(field="reverses", reason="a report cannot take itself back")

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same report: broker, account and execution id."""
        return self.broker, self.account, self.stored_execution_id

    @property
    def stored_execution_id(self) -> str:
        """The id of this report as the ledger keeps it."""
        return stored_execution_id(self.id_scope, self.execution_id)

    @property
    def fill_key(self) -> tuple[str, str, str]:
        """The key of the fill."""
        return self.broker, self.account, self.reverses

    def reversal_of(self, fill: LedgerEntry) -> LedgerEntry:
        """The entry that takes the fill back: the opposite trade, with the fee returned."""
        return _opposite(fill, self.timestamp, execution_id=self.execution_id, id_scope=self.id_scope)

    def same_content(self, other: Reversal | Correction) -> bool:
        """Whether two reports agree in all but the time."""
        with as_stored():
            return isinstance(other, Reversal) and replace(self, timestamp=other.timestamp) == other

    def __str__(self) -> str:
        """For messages."""
        name = f"{self.broker}/{self.account}/{self.stored_execution_id}"
        return f"{name}: reverses {self.reverses} at {self.timestamp.isoformat()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """The broker says what a fill should have been (FIX: ExecType G, Trade Correct).

    Attributes:
        entry: The fill as it is right, of the same instrument, under the execution id of this report, which has at
            most 247 characters here.
        corrects: Execution id of the fill that was wrong (FIX tag 19, ExecRefID), as the ledger keeps it.

    Raises:
        InvalidRecord: A field is of the wrong type, or the ledger could not hold it.
    """

    entry: LedgerEntry
    corrects: str

    def __post_init__(self) -> None:
        """Refuse what the ledger could not hold."""
        _check_stored_id("corrects", self.corrects)
        for field in ("execution_id", "idempotency_key"):
            value = getattr(self.entry, field)
            if value is not None:
                # The entry that makes room has to have an id, too.
                check_identifier(field, value, shortest=1, longest=_MAX_ID_LENGTH - len(_REVERSAL))
        if self.entry.stored_execution_id == self.corrects:
            raise InvalidRecord(field="corrects", reason="a report cannot correct itself")

    @property
    def timestamp(self) -> dt.datetime:
        """When the broker filled the order, by this report."""
        return self.entry.timestamp

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same report: broker, account and execution id."""
        return self.entry.key

    @property
    def fill_key(self) -> tuple[str, str, str]:
        """The key of the fill that was wrong."""
        return self.entry.broker, self.entry.account, self.corrects

    def reversal_of(self, fill: LedgerEntry) -> LedgerEntry:
        """The entry that makes room: the opposite trade, under an id made from this report's."""
        if self.entry.execution_id is None:
            return _opposite(fill, self.timestamp, idempotency_key=f"{self.entry.idempotency_key}{_REVERSAL}")
        return _opposite(
            fill,
            self.timestamp,
            execution_id=f"{self.entry.execution_id}{_REVERSAL}",
            id_scope=self.entry.id_scope,
        )

    def same_content(self, other: Reversal | Correction) -> bool:
        """Whether two reports agree in all but the time."""
        return (
            isinstance(other, Correction) and self.corrects == other.corrects and self.entry.same_content(other.entry)
        )

    def __str__(self) -> str:
        """For messages."""
        return f"{self.entry}, corrects {self.corrects}"


def _plain(value: Decimal) -> str:
    """The same text for 10 and for 10.00000000, which is how the database gives it back."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _opposite(
    fill: LedgerEntry,
    timestamp: dt.datetime,
    *,
    execution_id: str | None = None,
    idempotency_key: str | None = None,
    id_scope: str = "",
) -> LedgerEntry:
    # The fill may be older than a rule that it breaks.
    with as_stored():
        return replace(
            fill,
            timestamp=timestamp,
            side="SELL" if fill.side == "BUY" else "BUY",
            fee=_EXACT.minus(fill.fee),
            execution_id=execution_id,
            idempotency_key=idempotency_key,
            id_scope=id_scope,
        )


def _check_stored_id(field: str, value: str) -> None:
    """An id as the ledger keeps it: that of a broker, perhaps with its scope, or a marked idempotency key."""
    longest = _MAX_ID_LENGTH
    if isinstance(value, str) and value.startswith(IDEMPOTENCY_PREFIX):
        longest += len(IDEMPOTENCY_PREFIX)
    elif isinstance(value, str) and value.startswith(SCOPE_PREFIX):
        longest = MAX_STORED_ID_LENGTH
    check_identifier(field, value, shortest=1, longest=longest)


def _checked_scope(scope: str, execution_id: str) -> dict[str, str]:
    """The parts of a scope; refuses one that is none, or too long with its id."""
    check_identifier("id_scope", scope, shortest=0, longest=MAX_STORED_ID_LENGTH)
    stored = stored_execution_id(scope, execution_id)
    if len(stored) > MAX_STORED_ID_LENGTH:
        reason = f"and execution_id have {len(stored)} characters together, at most {MAX_STORED_ID_LENGTH} fit"
        raise InvalidRecord(field="id_scope", reason=reason)
    return parse_scope(scope)


def _check_execution_id(value: str) -> None:
    check_identifier("execution_id", value, shortest=1, longest=_MAX_ID_LENGTH)
    if value.startswith(SCOPE_PREFIX):
        raise InvalidRecord(
            field="execution_id", reason=f"begins with {SCOPE_PREFIX!r}, which marks scopes; give it as id_scope"
        )
    if value.startswith(IDEMPOTENCY_PREFIX):
        raise InvalidRecord(
            field="execution_id", reason=f"begins with {IDEMPOTENCY_PREFIX!r}, which marks idempotency keys"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What an account holds of a symbol, and what it cost.

    Attributes:
        account: Account that holds it.
        symbol: Instrument.
        market: Where it trades.
        currency: Currency of every amount here.
        qty: Signed quantity: below 0 is short, 0 is closed.
        avg_price: cost_basis / qty rounded to 8 places; 0 when closed.
        cost_basis: Signed cost of what is held: what was paid for a long, below 0 what was received for a short.
        realized_pnl: Realized profit so far by average cost, before fees.
        mark_price: Price of the last valuation; None before the first.
        exposure_value: qty x mark_price, rounded to 8 places with ties to even; None also while a fill has made it, or
            unrealized_pnl, larger than its column.
        exposure_pct: exposure_value as a share of the equity that the last valuation was given, rounded to 6 places;
            0.05 means 5 %. A fill moves it with exposure_value, and the equity ages with marked_at. None where no
            equity was given; `DataSourceAdapter.update_position` gives a share and no equity, so the next fill ends it.
        unrealized_pnl: exposure_value - cost_basis.
        marked_at: When mark_price was taken.
        last_ledger_id: Version: id of the last ledger entry applied.
        updated_at: When the row last changed.
    """

    account: str
    symbol: str
    market: str
    currency: str
    qty: Decimal
    avg_price: Decimal
    cost_basis: Decimal
    realized_pnl: Decimal
    mark_price: Decimal | None
    exposure_value: Decimal | None
    exposure_pct: Decimal | None
    unrealized_pnl: Decimal | None
    marked_at: dt.datetime | None
    last_ledger_id: int
    updated_at: dt.datetime

    def __post_init__(self) -> None:
        """Keep instants in UTC."""
        # A position that was read is in UTC already, and thousands are read a second.
        updated_at, marked_at = self.updated_at, self.marked_at
        if (
            updated_at.__class__ is not dt.datetime
            or updated_at.tzinfo is not dt.UTC
            or (marked_at is not None and (marked_at.__class__ is not dt.datetime or marked_at.tzinfo is not dt.UTC))
        ):
            utc_fields(self, "marked_at", "updated_at")


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

    id: int
    entry: LedgerEntry
    reverses_id: int | None
    corrects_id: int | None
    realized_pnl: Decimal
    position_qty: Decimal
    position_avg_price: Decimal
    position_cost_basis: Decimal
    position_realized_pnl: Decimal
    recorded_at: dt.datetime

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
