"""Positions: the current state, one row for each account and symbol."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Amount, Base, Instant, Price, finite, symbol_length

__all__ = ["Position"]


class Position(Base):
    """The current holding of an account in a symbol, and its cost."""

    __tablename__ = "positions"
    __table_args__: Any = (
        symbol_length(),
        *finite(
            "qty",
            "avg_price",
            "cost_basis",
            "realized_pnl",
            "mark_price",
            "exposure_value",
            "exposure_pct",
            "unrealized_pnl",
            "marked_equity",
        ),
        sa.CheckConstraint("avg_price >= 0", name="avg_price_not_negative"),
        sa.CheckConstraint("(mark_price IS NULL) = (marked_at IS NULL)", name="mark_has_its_time"),
        sa.Index("ix_positions_market", "market"),
        sa.Index("ix_positions_updated_at", sa.desc("updated_at")),
        {"comment": "Current positions, one row for each account and symbol; always equals the fold of t_ledger"},
    )

    account: Mapped[str] = mapped_column(
        sa.Text, primary_key=True, server_default="main", comment="Account that holds the position"
    )
    symbol: Mapped[str] = mapped_column(sa.Text, primary_key=True, comment="Instrument, 1 to 64 characters")
    market: Mapped[str] = mapped_column(comment="Market the symbol trades at, such as KRX or BINANCE")
    currency: Mapped[str] = mapped_column(comment="Currency of prices and of realized P&L, such as KRW")
    qty: Mapped[Price] = mapped_column(comment="Signed quantity held: below zero is a short position, zero is closed")
    avg_price: Mapped[Price] = mapped_column(comment="Average entry price of the position, in currency; 0 when closed")
    cost_basis: Mapped[Amount] = mapped_column(
        server_default="0",
        comment="Signed cost of the position, in currency: paid for a long, below zero received for a short; "
        "kept beside avg_price, whose rounding would let money leak",
    )
    realized_pnl: Mapped[Amount] = mapped_column(
        server_default="0", comment="Cumulative realized profit by average cost, before fees, in currency"
    )
    mark_price: Mapped[Price | None] = mapped_column(comment="Price of the last valuation; ages, see marked_at")
    exposure_value: Mapped[Amount | None] = mapped_column(comment="qty x mark_price at marked_at, in currency; ages")
    exposure_pct: Mapped[Decimal | None] = mapped_column(
        sa.Numeric(12, 6), comment="exposure_value as a share of marked_equity; 0.05 means 5 %; ages"
    )
    unrealized_pnl: Mapped[Amount | None] = mapped_column(
        comment="exposure_value - cost_basis at marked_at, in currency; ages"
    )
    marked_at: Mapped[Instant | None] = mapped_column(comment="When mark_price and the figures made from it were taken")
    last_ledger_id: Mapped[int] = mapped_column(
        server_default="0",
        comment="Version of the row: id of the last ledger entry applied, 0 before the first",
    )
    updated_at: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="When the row last changed")
    marked_equity: Mapped[Amount | None] = mapped_column(
        comment="Equity that the last valuation was given, in currency; NULL without one; ages, see marked_at"
    )
