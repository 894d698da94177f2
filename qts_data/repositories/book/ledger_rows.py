"""Rows of t_ledger as the server's text, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from qts_data.contracts import IDEMPOTENCY_PREFIX, BookedEntry, LedgerEntry, Position, Side, split_stored_id
from qts_data.contracts.leniency import as_stored
from qts_data.rules.average_cost import Holding
from qts_data.rules.booked import decimal, instant, unmarked_position

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "COLUMNS",
    "booked_entry",
    "entry_columns",
    "position_after",
    "stored_id",
]

COLUMNS: Final = {
    "id": "bigint",
    "timestamp": "timestamptz",
    "account": "text",
    "symbol": "text",
    "market": "text",
    "side": "text",
    "qty": "numeric",
    "price": "numeric",
    "amount": "numeric",
    "fee": "numeric",
    "currency": "text",
    "fee_currency": "text",
    "strategy_tag": "text",
    "order_id": "text",
    "broker": "text",
    "execution_id": "text",
    "reverses_id": "bigint",
    "corrects_id": "bigint",
    "realized_pnl": "numeric",
    "position_qty": "numeric",
    "position_avg_price": "numeric",
    "position_cost_basis": "numeric",
    "position_realized_pnl": "numeric",
    "recorded_at": "timestamptz",
}
"""Columns in the order in which rows are written and read, with their types."""


def entry_columns(alias: str) -> str:
    """All columns of t_ledger under an alias, for a SELECT."""
    return ", ".join(f"{alias}.{column}" for column in COLUMNS)


def stored_id(value: str) -> dict[str, str]:
    """An execution id as the ledger keeps it, as the fields of the record that it belongs in."""
    if value.startswith(IDEMPOTENCY_PREFIX):
        return {"idempotency_key": value.removeprefix(IDEMPOTENCY_PREFIX)}
    scope, execution_id = split_stored_id(value)
    return {"execution_id": execution_id, "id_scope": scope} if scope else {"execution_id": value}


def booked_entry(row: Sequence[str | None]) -> BookedEntry:
    """A row as it was read, in the order of `COLUMNS`."""
    (
        ledger_id, timestamp, account, symbol, market, side, qty, price, amount, fee, currency, fee_currency,
        strategy_tag, order_id, broker, execution_id, reverses_id, corrects_id, realized_pnl, position_qty,
        position_avg_price, position_cost_basis, position_realized_pnl, recorded_at,
    ) = row  # fmt: skip
    with as_stored():
        entry = LedgerEntry(
            timestamp=instant(timestamp),
            account=cast("str", account),
            symbol=cast("str", symbol),
            market=cast("str", market),
            side=cast("Side", side),
            qty=decimal(qty),
            price=decimal(price),
            amount=decimal(amount),
            fee=decimal(fee),
            currency=cast("str", currency),
            fee_currency=fee_currency,
            strategy_tag=strategy_tag,
            order_id=order_id,
            broker=cast("str", broker),
            **stored_id(cast("str", execution_id)),
        )
    return BookedEntry(
        id=int(cast("str", ledger_id)),
        entry=entry,
        reverses_id=None if reverses_id is None else int(reverses_id),
        corrects_id=None if corrects_id is None else int(corrects_id),
        realized_pnl=decimal(realized_pnl),
        position_qty=decimal(position_qty),
        position_avg_price=decimal(position_avg_price),
        position_cost_basis=decimal(position_cost_basis),
        position_realized_pnl=decimal(position_realized_pnl),
        recorded_at=instant(recorded_at),
    )


def position_after(booked: BookedEntry) -> Position:
    """The position as it was after an entry; the ledger knows no valuation."""
    holding = Holding(booked.position_qty, booked.position_cost_basis, booked.position_realized_pnl)
    return unmarked_position(booked.entry, holding, booked.position_avg_price, booked.id, booked.recorded_at)
