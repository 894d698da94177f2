"""The trade ledger: every fill, append-only."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Amount, Base, Instant, Price, finite, symbol_length

__all__ = ["LedgerEntry"]


class LedgerEntry(Base):
    """One fill as the broker reported it, with its effect on the position."""

    __tablename__ = "t_ledger"
    __table_args__: Any = (
        sa.UniqueConstraint("broker", "account", "execution_id", name="uq_t_ledger_execution"),
        sa.UniqueConstraint("reverses_id", name="uq_t_ledger_reverses_id"),
        sa.ForeignKeyConstraint(["reverses_id"], ["t_ledger.id"], name="fk_t_ledger_reverses_id"),
        sa.UniqueConstraint("corrects_id", name="uq_t_ledger_corrects_id"),
        sa.ForeignKeyConstraint(["corrects_id"], ["t_ledger.id"], name="fk_t_ledger_corrects_id"),
        symbol_length(),
        sa.CheckConstraint("side IN ('BUY', 'SELL')", name="side"),
        sa.CheckConstraint("qty > 0", name="qty_positive"),
        sa.CheckConstraint("price >= 0", name="price_not_negative"),
        # Half a unit of the last place in either direction, so any rounding rule of the product passes.
        sa.CheckConstraint("abs(amount - qty * price) <= 0.000000005", name="amount_is_qty_times_price"),
        *finite(
            "qty",
            "price",
            "fee",
            "realized_pnl",
            "position_qty",
            "position_avg_price",
            "position_cost_basis",
            "position_realized_pnl",
        ),
        sa.Index("ix_t_ledger_timestamp", sa.desc("timestamp")),
        sa.Index("ix_t_ledger_symbol_timestamp", "symbol", sa.desc("timestamp")),
        sa.Index("ix_t_ledger_strategy_tag_timestamp", "strategy_tag", sa.desc("timestamp")),
        {
            "comment": "Every fill, append-only: UPDATE, DELETE and TRUNCATE are refused; "
            "a busted trade is a new entry that reverses the old one"
        },
    )

    id: Mapped[int] = mapped_column(
        sa.Identity(always=False), primary_key=True, comment="Order of booking; the version of positions"
    )
    timestamp: Mapped[Instant] = mapped_column(comment="When the broker filled the order")
    account: Mapped[str] = mapped_column(server_default="main", comment="Account that traded")
    symbol: Mapped[str] = mapped_column(comment="Instrument, 1 to 64 characters")
    market: Mapped[str] = mapped_column(comment="Market the symbol trades at, such as KRX or BINANCE")
    side: Mapped[str] = mapped_column(comment="BUY or SELL")
    qty: Mapped[Price] = mapped_column(comment="Filled quantity, above zero")
    price: Mapped[Price] = mapped_column(comment="Fill price in currency, zero or more")
    amount: Mapped[Amount] = mapped_column(comment="qty x price in currency, rounded to 8 places")
    fee: Mapped[Amount] = mapped_column(
        server_default="0", comment="Fee and tax of this fill in fee_currency; below zero is a rebate"
    )
    currency: Mapped[str] = mapped_column(comment="Currency of price, amount and realized_pnl")
    fee_currency: Mapped[str] = mapped_column(comment="Currency of fee; often, but not always, currency")
    strategy_tag: Mapped[str | None] = mapped_column(comment="Strategy that sent the order, if known")
    order_id: Mapped[str | None] = mapped_column(comment="The order that was filled, if known")
    broker: Mapped[str] = mapped_column(comment="Broker or exchange that reported the fill")
    execution_id: Mapped[str] = mapped_column(
        comment="The broker's id of this execution, behind its scope where ids restart (scope:day=2026-11-20/0017); "
        "booked once for each broker and account"
    )
    reverses_id: Mapped[int | None] = mapped_column(comment="id of the entry that this one reverses, if it is a bust")
    corrects_id: Mapped[int | None] = mapped_column(
        comment="id of the entry that this one replaces, if it is a correction"
    )
    realized_pnl: Mapped[Amount] = mapped_column(
        server_default="0", comment="Profit that this fill realized by average cost, before fees, in currency"
    )
    position_qty: Mapped[Price] = mapped_column(comment="Signed position after this fill")
    position_avg_price: Mapped[Price] = mapped_column(
        comment="Average entry price of the position after this fill, in currency"
    )
    position_cost_basis: Mapped[Amount] = mapped_column(
        comment="Signed cost of the position after this fill, in currency; "
        "sum of realized_pnl minus it is the cash flow"
    )
    position_realized_pnl: Mapped[Amount] = mapped_column(
        comment="Realized profit of the position so far, before fees, in currency"
    )
    recorded_at: Mapped[Instant] = mapped_column(server_default=sa.func.now(), comment="When the entry was booked")


REFUSE_CHANGE_FUNCTION: Final = """\
CREATE FUNCTION t_ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 't_ledger is append-only: % is refused', TG_OP
        USING ERRCODE = 'restrict_violation',
              HINT = 'Book an entry that reverses it, and names it.';
END
$$"""
"""A statement trigger also refuses statements of the owner, and those that match no row."""

APPEND_ONLY_STATEMENTS: Final = (
    REFUSE_CHANGE_FUNCTION,
    "COMMENT ON FUNCTION t_ledger_refuse_change() IS 'Keeps t_ledger append-only'",
    """\
CREATE TRIGGER t_ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON t_ledger
    FOR EACH STATEMENT EXECUTE FUNCTION t_ledger_refuse_change()""",
    """\
COMMENT ON TRIGGER t_ledger_append_only ON t_ledger
    IS 'Refuses UPDATE, DELETE and TRUNCATE, also for the owner'""",
)


@event.listens_for(LedgerEntry.__table__, "after_create")
def _make_append_only(_target: sa.Table, connection: sa.Connection, **_: object) -> None:
    for statement in APPEND_ONLY_STATEMENTS:
        connection.exec_driver_sql(statement.replace("%", "%%"))


@event.listens_for(LedgerEntry.__table__, "after_drop")
def _drop_function(_target: sa.Table, connection: sa.Connection, **_: object) -> None:
    connection.exec_driver_sql("DROP FUNCTION t_ledger_refuse_change()")
