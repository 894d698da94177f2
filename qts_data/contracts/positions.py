"""Positions: holdings of an account in a symbol."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from qts_data.contracts.fields import ACCOUNT, CURRENCY, MARKET, SYMBOL, UPDATED_AT, sheet_column, stored
from qts_data.contracts.instants import utc_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qts_data.contracts.fields import SheetColumn, Sql, Stored

__all__ = ["Position"]


def _valuation(sql: Sql, sheet: SheetColumn) -> Mapping[str, Stored]:
    return stored(sql, null=True, compared=False, sheet=sheet)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The holding of an account in a symbol, and its cost.

    Attributes:
        account: Account that holds it.
        symbol: Instrument.
        market: Exchange or market on which it trades.
        currency: Currency of every amount here.
        qty: Signed quantity: below 0 is short, 0 is closed.
        avg_price: cost_basis / qty rounded to 8 places; 0 when closed.
        cost_basis: Signed cost of the holding: the amount paid for a long, minus the amount received for a short.
        realized_pnl: Realized profit so far by average cost, before fees.
        mark_price: Price of the last valuation; None before the first.
        exposure_value: qty x mark_price, rounded to 8 places with ties to even. Also None while a fill has made it, or
            unrealized_pnl, larger than its column.
        exposure_pct: exposure_value as a share of the equity of the last valuation, rounded to 6 places; 0.05 means
            5 %. A fill moves it with exposure_value; the equity ages with marked_at. None if no equity was given.
            `DataSourceAdapter.update_position` gives a share and no equity, so the next fill sets it to None.
        unrealized_pnl: exposure_value - cost_basis.
        marked_at: Time of mark_price.
        last_ledger_id: Version: id of the last applied ledger entry.
        updated_at: Time of the row's last change.
    """

    account: str = field(
        metadata=stored("text", key=True, compared=False, sheet=sheet_column("id", *ACCOUNT, default=True))
    )
    symbol: str = field(
        metadata=stored(
            "text", key=True, compared=False, sheet=sheet_column("symbol", *SYMBOL, required=True, blank=False)
        )
    )
    market: str = field(metadata=stored("text", sheet=sheet_column("text", *MARKET, default=True)))
    currency: str = field(metadata=stored("text", sheet=sheet_column("currency", *CURRENCY, default=True)))
    qty: Decimal = field(
        metadata=stored(
            "numeric",
            sheet=sheet_column("number", "quantity", "수량", "보유수량", "잔고수량", required=True, blank=False),
        )
    )
    avg_price: Decimal = field(
        metadata=stored(
            "numeric",
            sheet=sheet_column(
                "number", "average price", "avg price", "평균단가", "평단가", "매입단가", required=True, blank=False
            ),
        )
    )
    cost_basis: Decimal = field(
        metadata=stored("numeric", sheet=sheet_column("number", "cost", "매입금액", losable=True))
    )
    realized_pnl: Decimal = field(
        metadata=stored("numeric", sheet=sheet_column("number", "realized p&l", "실현손익", losable=True))
    )
    # Not compared from here on: a valuation ages, and each data source takes its own.
    mark_price: Decimal | None = field(
        metadata=_valuation("numeric", sheet_column("number", "price", "current price", "현재가", losable=True))
    )
    exposure_value: Decimal | None = field(
        metadata=_valuation("numeric", sheet_column("number", "market value", "평가금액", losable=True))
    )
    exposure_pct: Decimal | None = field(
        metadata=_valuation("numeric", sheet_column("ratio", "exposure", "weight", "비중", losable=True))
    )
    unrealized_pnl: Decimal | None = field(
        metadata=_valuation("numeric", sheet_column("number", "unrealized p&l", "평가손익", losable=True))
    )
    marked_at: dt.datetime | None = field(
        metadata=_valuation("timestamptz", sheet_column("instant", "price time", "현재가시각", losable=True))
    )
    # Not compared: each data source counts its own versions.
    last_ledger_id: int = field(
        metadata=stored("bigint", compared=False, sheet=sheet_column("count", "version", losable=True))
    )
    updated_at: dt.datetime = field(
        metadata=stored("timestamptz", compared=False, sheet=sheet_column("instant", *UPDATED_AT, losable=True))
    )

    def __post_init__(self) -> None:
        """Convert the instants to UTC."""
        # A position from the database is in UTC already, and a process reads thousands a second.
        updated_at, marked_at = self.updated_at, self.marked_at
        if (
            updated_at.__class__ is not dt.datetime
            or updated_at.tzinfo is not dt.UTC
            or (marked_at is not None and (marked_at.__class__ is not dt.datetime or marked_at.tzinfo is not dt.UTC))
        ):
            utc_fields(self, "marked_at", "updated_at")
