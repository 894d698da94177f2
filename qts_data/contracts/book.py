"""The trading book: fills as brokers report them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final, Literal

from qts_data.contracts.checks import check_amount, check_positive, check_price, check_symbol, shown
from qts_data.contracts.fields import ACCOUNT, CURRENCY, MARKET, SYMBOL, sheet_column, stored
from qts_data.contracts.id_checks import MAX_ID_LENGTH, check_execution_id, checked_scope
from qts_data.contracts.identity import check_currency, check_identifier, check_name
from qts_data.contracts.ids import IDEMPOTENCY_PREFIX, stored_execution_id
from qts_data.contracts.instants import plausible
from qts_data.contracts.leniency import as_stored, reads_stored
from qts_data.contracts.money import EXACT, round_money
from qts_data.errors import InvalidRecord

__all__ = ["LedgerEntry", "Side"]

Side = Literal["BUY", "SELL"]

_ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One fill: a trade of the account as the broker reported it.

    Attributes:
        timestamp: When the broker filled the order; kept in UTC.
        symbol: Instrument, 1 to 64 characters.
        market: Exchange or market on which it trades, such as `KRX` or `BINANCE`.
        side: `BUY` or `SELL`.
        qty: Filled quantity, above 0, at most 8 decimal places.
        price: Fill price in `currency`, 0 or more, at most 8 decimal places.
        currency: Code of the currency of price and amount, such as `KRW` or `USDT`.
        broker: Broker or exchange that reported the fill.
        account: Account that traded.
        execution_id: The broker's id of this execution (FIX tag 17, ExecID).
        idempotency_key: The caller's replacement for a missing execution id. The same key always means the same fill.
        id_scope: The scope in which the broker's id is unique, such as `day=2026-11-20`. A `Database` with a declared
            scope fills it in; see `FillIdentity`.
        amount: qty x price rounded to 8 places, ties to even. None computes it; any other value is refused.
        fee: Fee and tax of this fill in `fee_currency`; below 0 is a rebate.
        fee_currency: Currency of the fee; None means `currency`.
        strategy_tag: Strategy that sent the order, if known.
        order_id: The order that was filled, if known.

    Raises:
        InvalidRecord: A field is of the wrong type or cannot be stored to the last digit, or `amount` is not
            qty x price. Also if not exactly one of `execution_id` and `idempotency_key` is given, the time is
            implausible (see `any_time`), a name or id looks like another one, or a currency is not a code.
    """

    timestamp: dt.datetime = field(
        metadata=stored(
            "timestamptz", content=False,
            sheet=sheet_column(
                "instant", "time", "datetime", "date", "trade time", "체결시간", "체결일시", "일시", "거래일시",
                required=True, blank=False,
            ),
        )
    )  # fmt: skip
    account: str = field(
        default="main",
        metadata=stored("text", key=True, compared=False, sheet=sheet_column("id", *ACCOUNT, default=True)),
    )
    symbol: str = field(metadata=stored("text", sheet=sheet_column("symbol", *SYMBOL, required=True, blank=False)))
    market: str = field(metadata=stored("text", sheet=sheet_column("text", *MARKET, default=True)))
    side: Side = field(
        metadata=stored(
            "text", sheet=sheet_column("side", "buy/sell", "매매구분", "구분", "매수/매도", required=True, blank=False)
        )
    )
    qty: Decimal = field(
        metadata=stored(
            "numeric", sheet=sheet_column("number", "quantity", "수량", "체결수량", required=True, blank=False)
        )
    )
    price: Decimal = field(
        metadata=stored(
            "numeric", sheet=sheet_column("number", "체결가", "체결단가", "단가", "가격", required=True, blank=False)
        )
    )
    # Not compared: it follows from quantity and price, which are compared.
    amount: Decimal | None = field(
        default=None,
        metadata=stored(
            "numeric", compared=False, sheet=sheet_column("number", "금액", "체결금액", "거래금액", losable=True)
        ),
    )
    fee: Decimal = field(
        default=_ZERO,
        metadata=stored("numeric", sheet=sheet_column("number", "commission", "fees", "수수료", blank=False)),
    )
    currency: str = field(metadata=stored("text", sheet=sheet_column("currency", *CURRENCY, default=True)))
    fee_currency: str | None = field(
        default=None, metadata=stored("text", sheet=sheet_column("currency", "수수료통화"))
    )
    strategy_tag: str | None = field(
        default=None, metadata=stored("text", null=True, sheet=sheet_column("text", "strategy", "전략", losable=True))
    )
    order_id: str | None = field(
        default=None, metadata=stored("text", null=True, sheet=sheet_column("id", "order no", "주문번호", losable=True))
    )
    broker: str = field(
        metadata=stored("text", key=True, compared=False, sheet=sheet_column("text", "증권사", "브로커", default=True))
    )
    # `BookWriter` demands the column: without an id, a fill that is sent twice would be booked twice.
    execution_id: str | None = field(
        default=None,
        metadata=stored(
            "text", source="stored_execution_id", key=True, content=False, compared=False,
            sheet=sheet_column("id", "exec id", "fill id", "체결번호"),
        ),
    )  # fmt: skip
    idempotency_key: str | None = field(
        default=None, metadata=stored("text", inside="execution_id", key=True, content=False, compared=False)
    )
    id_scope: str = field(
        default="", metadata=stored("text", inside="execution_id", key=True, content=False, compared=False)
    )

    def __post_init__(self) -> None:
        """Raise `InvalidRecord` for values that the ledger would refuse or store as something else."""
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
        product = round_money(EXACT.multiply(self.qty, self.price))
        if self.amount is None:
            object.__setattr__(self, "amount", product)
        # The finite check comes first: comparing a signalling NaN raises.
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
            check_execution_id(self.execution_id)
            # An empty scope needs no check: an id of at most 256 characters alone is never too long.
            if self.id_scope.__class__ is not str or self.id_scope:
                self._check_scope(checked_scope(self.id_scope, self.execution_id))
        elif self.id_scope:
            raise InvalidRecord(field="id_scope", reason="goes with an execution_id, not with an idempotency_key")
        for name in ("idempotency_key", "strategy_tag", "order_id"):
            value = getattr(self, name)
            if value is not None:
                check_identifier(name, value, shortest=1, longest=MAX_ID_LENGTH)

    def _check_scope(self, parts: dict[str, str]) -> None:
        """Refuse a scope that belongs to another fill. The day may differ, as for a night session."""
        # A reversal has the opposite side of its fill, and the scope of its own report.
        kinds = ("symbol",) if reads_stored() else ("symbol", "order", "side")
        for kind in kinds:
            own = self.order_id if kind == "order" else self.symbol if kind == "symbol" else self.side
            if kind in parts and parts[kind] != own:
                raise InvalidRecord(
                    field="id_scope",
                    reason=f"{self.id_scope!r} is not of the {kind} {own if own is None else repr(own)}",
                )

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity of the fill: broker, account and execution id (or the marked idempotency key)."""
        return self.broker, self.account, self.stored_execution_id

    @property
    def stored_execution_id(self) -> str:
        """The id as the ledger stores it, with its scope, such as `scope:day=2026-11-20/0017`."""
        if self.execution_id is None:
            return f"{IDEMPOTENCY_PREFIX}{self.idempotency_key}"
        return stored_execution_id(self.id_scope, self.execution_id)

    def same_content(self, other: LedgerEntry) -> bool:
        """Tell whether two reports of an execution agree in all fields except the time.

        A broker's stream and its history often report the same fill with timestamps of different precision.
        `FillIdentity` decides how far the times may differ.
        """
        with as_stored():
            return replace(self, timestamp=other.timestamp) == other

    def __str__(self) -> str:
        """Return a text for messages: the trade, its market and its id."""
        name = f"{self.broker}/{self.account}/{self.stored_execution_id}"
        fee = f" fee {_plain(self.fee)} {self.fee_currency}" if self.fee else ""
        tags = "".join(
            f" {label} {value}"
            for label, value in (("order", self.order_id), ("strategy", self.strategy_tag))
            if value is not None
        )
        trade = f"{self.side} {_plain(self.qty)} {self.symbol} ({self.market}) @ {_plain(self.price)} {self.currency}"
        return f"{name}: {trade}{fee}{tags} at {self.timestamp.isoformat()}"


def _plain(value: Decimal) -> str:
    """Return the same text for 10 and for 10.00000000, the form in which the database returns it."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
