"""Rows and statements that the database itself refuses, for every role."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from qts_data.models import Base, LedgerEntry
from tests.fixtures.rows import NOW, ledger_row

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

TABLES = Base.metadata.tables


def insert(database: Engine, table: str, **values: Any) -> None:
    with database.begin() as connection:
        connection.execute(TABLES[table].insert().values(**values))


def test_execution_id_is_unique_for_its_broker(database: Engine) -> None:
    """The unique key refuses a second row of the same id, also with other contents."""
    insert(database, "t_ledger", **ledger_row(execution_id="X1"))
    with pytest.raises(sa.exc.IntegrityError, match="uq_t_ledger_execution"):
        insert(database, "t_ledger", **ledger_row(execution_id="X1", price=Decimal(999), amount=Decimal(9990)))
    insert(database, "t_ledger", **ledger_row(execution_id="X1", broker="another"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE t_ledger SET price = 1",
        "DELETE FROM t_ledger",
        "DELETE FROM t_ledger WHERE false",
        "TRUNCATE t_ledger",
        "UPDATE t_ledger SET fee = 0 WHERE id = -1",
    ],
)
def test_ledger_refuses_changes_even_by_its_owner(database: Engine, statement: str) -> None:
    """UPDATE, DELETE and TRUNCATE are refused by a trigger."""
    insert(database, "t_ledger", **ledger_row())
    with (
        pytest.raises(sa.exc.IntegrityError, match=r"t_ledger is append-only: (UPDATE|DELETE|TRUNCATE) is refused"),
        database.begin() as connection,
    ):
        connection.exec_driver_sql(statement)
    with database.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(LedgerEntry)) == 1


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"qty": Decimal(0), "amount": Decimal(0)}, "ck_t_ledger_qty_positive"),
        ({"qty": Decimal(-1), "amount": Decimal(-100)}, "ck_t_ledger_qty_positive"),
        ({"qty": Decimal("NaN")}, "ck_t_ledger_"),
        ({"price": Decimal("NaN")}, "ck_t_ledger_"),
        ({"fee": Decimal("NaN")}, "ck_t_ledger_fee_finite"),
        ({"amount": Decimal("NaN")}, "ck_t_ledger_amount_is_qty_times_price"),
        ({"amount": Decimal("1000.00000001")}, "ck_t_ledger_amount_is_qty_times_price"),
        ({"price": Decimal(-1), "amount": Decimal(-10)}, "ck_t_ledger_price_not_negative"),
        ({"side": "HOLD"}, "ck_t_ledger_side"),
        ({"symbol": ""}, "ck_t_ledger_symbol_length"),
        ({"symbol": "S" * 65}, "ck_t_ledger_symbol_length"),
    ],
)
def test_the_ledger_refuses_nonsense(database: Engine, change: dict[str, Any], constraint: str) -> None:
    with pytest.raises(sa.exc.IntegrityError, match=constraint):
        insert(database, "t_ledger", **ledger_row(**change))


@pytest.mark.parametrize("amount", ["0.00000001", "0.00000002"])
def test_an_amount_may_be_rounded_either_way_at_the_last_place(database: Engine, amount: str) -> None:
    # 0.5 x 0.00000003 = 0.000000015: half-even gives ...02, half-down gives ...01.
    values = ledger_row(qty=Decimal("0.5"), price=Decimal("0.00000003"), amount=Decimal(amount))
    insert(database, "t_ledger", **values)


def test_small_crypto_fees_are_kept_to_the_last_digit(database: Engine) -> None:
    insert(database, "t_ledger", **ledger_row(fee=Decimal("0.00000123"), fee_currency="BNB"))
    with database.connect() as connection:
        assert connection.scalar(sa.select(LedgerEntry.fee)) == Decimal("0.00000123")


def test_a_short_position_can_be_stored_and_nan_cannot(database: Engine) -> None:
    row = {"symbol": "005930", "market": "KRX", "currency": "KRW", "avg_price": Decimal(70000)}
    insert(database, "positions", qty=Decimal(-3), **row)
    with pytest.raises(sa.exc.IntegrityError, match="ck_positions_qty_finite"):
        insert(database, "positions", qty=Decimal("NaN"), **(row | {"symbol": "000660"}))


def test_a_strategy_has_many_parameters(database: Engine) -> None:
    for name in ("fast", "slow"):
        insert(database, "strategies", strategy_id="cross", param_name=name, value="5", value_type="int")
    with pytest.raises(sa.exc.IntegrityError, match="ck_strategies_value_type"):
        insert(database, "strategies", strategy_id="cross", param_name="x", value="5", value_type="float")


def test_a_daily_bar_cannot_close_above_its_high(database: Engine) -> None:
    bar = {"symbol": "005930", "time": NOW, "open": 10, "high": 12, "low": 9, "close": 11, "volume": 5}
    insert(database, "ohlcv_1d", **bar)
    with pytest.raises(sa.exc.IntegrityError, match="ck_ohlcv_1d_low_open_close_high"):
        insert(database, "ohlcv_1d", **(bar | {"symbol": "000660", "close": 13}))


def test_long_option_and_crypto_symbols_fit(database: Engine) -> None:
    for symbol in ("AAPL  131101C00470000", "1000SHIBUSDT", "S" * 64):
        insert(database, "t_ledger", **ledger_row(symbol=symbol, execution_id=symbol))
