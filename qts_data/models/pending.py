"""Busts and corrections that arrived before the fill to which they refer."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Amount, Base, Instant, Price

__all__ = ["PendingReport"]

# A correction carries the whole corrected fill; a bust carries none of these fields.
_FILL = ("symbol", "market", "side", "qty", "price", "amount", "fee", "currency", "fee_currency")


class PendingReport(Base):
    """A bust or correction of an execution that the ledger does not hold yet."""

    __tablename__ = "pending_reports"
    __table_args__: Any = (
        sa.CheckConstraint(f"num_nonnulls({', '.join(_FILL)}) IN (0, {len(_FILL)})", name="fill_is_whole"),
        sa.Index("ix_pending_reports_refers_to", "broker", "account", "refers_to"),
        {"comment": "Busts and corrections that arrived before their fill; its booking applies and removes them"},
    )

    broker: Mapped[str] = mapped_column(primary_key=True, comment="Broker or exchange that sent the report")
    account: Mapped[str] = mapped_column(primary_key=True, comment="Account that traded")
    execution_id: Mapped[str] = mapped_column(primary_key=True, comment="The broker's id of this report")
    refers_to: Mapped[str] = mapped_column(comment="Execution id of the fill that it reverses or corrects")
    timestamp: Mapped[Instant] = mapped_column(
        comment="When the broker busted the fill, or the corrected time of the fill"
    )
    symbol: Mapped[str | None] = mapped_column(comment="Of a correction: the instrument; NULL for a bust")
    market: Mapped[str | None] = mapped_column(comment="Of a correction: the market; NULL for a bust")
    side: Mapped[str | None] = mapped_column(comment="Of a correction: BUY or SELL; NULL for a bust")
    qty: Mapped[Price | None] = mapped_column(comment="Of a correction: the filled quantity; NULL for a bust")
    price: Mapped[Price | None] = mapped_column(comment="Of a correction: the fill price; NULL for a bust")
    amount: Mapped[Amount | None] = mapped_column(comment="Of a correction: qty x price; NULL for a bust")
    fee: Mapped[Amount | None] = mapped_column(comment="Of a correction: the fee; NULL for a bust")
    currency: Mapped[str | None] = mapped_column(comment="Of a correction: the currency; NULL for a bust")
    fee_currency: Mapped[str | None] = mapped_column(comment="Of a correction: currency of the fee; NULL for a bust")
    strategy_tag: Mapped[str | None] = mapped_column(comment="Of a correction: the strategy, if known")
    order_id: Mapped[str | None] = mapped_column(comment="Of a correction: the order, if known")
    received_at: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="When the report came")
