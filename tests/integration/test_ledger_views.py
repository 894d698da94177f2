"""The views on the ledger, with arithmetic done by hand."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from qts_data.models import VIEWS, LedgerEntry
from qts_data.models.views import trading_zone_statements
from qts_data.timescale.ddl import verbatim
from tests.fixtures.rows import ledger_row

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

TABLES = {view.name: view.table for view in VIEWS}
# 09:30 KST of Monday the 2nd is 00:30 UTC.
MORNING = dt.datetime(2026, 11, 2, 0, 30, tzinfo=dt.UTC)


def book(database: Engine, *rows: dict[str, Any]) -> list[int]:
    with database.begin() as connection:
        return [
            connection.execute(
                sa.insert(LedgerEntry).values(**ledger_row(execution_id=str(number), **row)).returning(LedgerEntry.id)
            ).scalar_one()
            for number, row in enumerate(rows)
        ]


def rows_of(database: Engine, view: str) -> list[dict[str, Any]]:
    table = TABLES[view]
    with database.connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(table).order_by(*table.c)).mappings()]


BUY = {"side": "BUY", "qty": Decimal(10), "price": Decimal(100), "amount": Decimal(1000), "fee": Decimal(1)}
SELL = {
    "side": "SELL",
    "qty": Decimal(4),
    "price": Decimal(110),
    "amount": Decimal(440),
    "fee": Decimal("0.5"),
    "realized_pnl": Decimal(40),
}


def test_realized_profit_is_no_cash_flow(database: Engine) -> None:
    book(database, BUY | {"timestamp": MORNING}, SELL | {"timestamp": MORNING})
    (day,) = rows_of(database, "daily_pnl")
    assert day == {
        "trading_day": dt.date(2026, 11, 2),
        "account": "main",
        "symbol": "005930",
        "currency": "KRW",
        "realized_pnl": 40,
        "fees": Decimal("1.5"),
        "net_pnl": Decimal("38.5"),
        "net_cash_flow": Decimal("-561.5"),
        "trade_count": 2,
    }


def test_a_fee_in_another_currency_is_a_row_of_its_own(database: Engine) -> None:
    book(
        database,
        SELL | {"timestamp": MORNING, "currency": "USDT", "fee_currency": "BNB", "fee": Decimal("0.00000123")},
    )
    bnb, usdt = rows_of(database, "daily_metrics")
    assert (bnb["currency"], bnb["fees"], bnb["net_pnl"], bnb["trade_count"], bnb["notional"]) == (
        "BNB",
        Decimal("0.00000123"),
        Decimal("-0.00000123"),
        0,
        0,
    )
    assert (usdt["currency"], usdt["fees"], usdt["net_pnl"], usdt["trade_count"], usdt["win_count"]) == (
        "USDT",
        0,
        40,
        1,
        1,
    )


def test_a_trading_day_is_a_day_in_seoul_not_in_utc(database: Engine) -> None:
    # 08:30 KST of the 3rd is 23:30 UTC of the 2nd.
    book(database, BUY | {"timestamp": MORNING}, BUY | {"timestamp": MORNING + dt.timedelta(hours=23)})
    assert [row["trading_day"] for row in rows_of(database, "daily_pnl")] == [
        dt.date(2026, 11, 2),
        dt.date(2026, 11, 3),
    ]


def test_another_trading_zone_is_one_function_away(database: Engine) -> None:
    book(database, BUY | {"timestamp": MORNING})
    with database.begin() as connection:
        for statement in trading_zone_statements("America/New_York", replace=True):
            connection.execute(verbatim(statement))
    assert rows_of(database, "daily_pnl")[0]["trading_day"] == dt.date(2026, 11, 1)
    with database.begin() as connection:
        for statement in trading_zone_statements("Asia/Kolkata", replace=True):
            connection.execute(verbatim(statement))
    # Hours begin at full hours of the zone, here half past in UTC.
    assert rows_of(database, "hourly_pnl")[0]["hour"] == dt.datetime(2026, 11, 2, 0, 30, tzinfo=dt.UTC)


def test_a_reversed_fill_counts_no_more(database: Engine) -> None:
    first, second = book(
        database,
        BUY | {"timestamp": MORNING, "strategy_tag": "cross"},
        SELL | {"timestamp": MORNING, "strategy_tag": "cross"},
    )
    with database.begin() as connection:
        connection.execute(
            sa.insert(LedgerEntry).values(
                **ledger_row(
                    **SELL
                    | {
                        "timestamp": MORNING,
                        "strategy_tag": "cross",
                        "side": "BUY",
                        "fee": Decimal("-0.5"),
                        "realized_pnl": Decimal(-40),
                        "reverses_id": second,
                        "execution_id": "bust",
                    }
                )
            )
        )
    (row,) = rows_of(database, "strategy_performance")
    assert first < second
    assert (row["realized_pnl"], row["fees"], row["net_cash_flow"]) == (0, 1, -1001)
    assert (row["trade_count"], row["win_count"], row["notional"]) == (1, 0, 1000)


def test_two_currencies_are_never_added_up(database: Engine) -> None:
    book(database, SELL | {"timestamp": MORNING}, SELL | {"timestamp": MORNING, "currency": "USD"})
    for view in TABLES:
        by_currency = {row["currency"]: row["realized_pnl"] for row in rows_of(database, view)}
        assert by_currency == {"KRW": 40, "USD": 40}, view
