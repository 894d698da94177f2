# ruff: noqa: RUF001 - full-width characters are the subject of one test
"""Single rows of a sheet copied into the book: named bad rows, and keys that stay."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from qts_data.errors import InvalidRecord, LedgerConflict
from qts_data.importers.tables import LAYOUTS
from qts_data.moving import Move
from qts_data.repositories import Database
from tests.fixtures.factories import FillFactory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

    from qts_data.adapters import GoogleSheetsAdapter
    from qts_data.contracts import Position
    from qts_data.demo.sheets_server import Workbook
    from tests.fixtures.fix_sheets import MakeSheets

FILL = {
    "timestamp": "2026-11-20 09:00:00", "symbol": "005930", "side": "BUY", "qty": 10, "price": 100, "fee": 0,
    "broker": "test",
}  # fmt: skip
HELD = {"symbol": "005930", "qty": 10, "avg_price": 100}
BAR = {"date": "2026-11-20", "symbol": "005930", "open": 1, "high": 3, "low": 1, "close": 2, "volume": 5}


@pytest_asyncio.fixture
async def database(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


@pytest_asyncio.fixture
async def sheets(make_sheets: MakeSheets) -> AsyncIterator[GoogleSheetsAdapter]:
    async with make_sheets() as made:
        yield made


@pytest.fixture
def move(database: Database, sheets: GoogleSheetsAdapter) -> Move:
    return Move(database, sheets)


def put(workbook: Workbook, kind: str, *rows: dict[str, Any]) -> None:
    fields = LAYOUTS[kind].fields
    workbook.put(LAYOUTS[kind].title, [list(fields), *([row.get(field) for field in fields] for row in rows)])


async def held(database: Database) -> Position:
    async with database.reader(snapshot=True) as reader:
        assert (await reader.positions.verify_positions()).mismatches == ()
        (position,) = await reader.positions.list_positions()
        return position


async def problems_of(move: Move) -> list[str]:
    found = [problem for table in (await move.plan()).tables for problem in table.problems]
    if found:
        with pytest.raises(InvalidRecord):
            await move.copy()
        assert (await move.status()).copied == {}
    return found


async def test_an_id_that_is_a_number_in_its_cell_is_named(move: Move, workbook: Workbook) -> None:
    put(workbook, "ledger", FILL | {"execution_id": 117057})
    put(workbook, "positions", HELD)
    (problem,) = await problems_of(move)
    assert problem.startswith("row 2: T_Ledger!O2 execution_id: is the number 117057, no text")


async def test_full_width_ids_are_known_after_a_restart(make_sheets: MakeSheets) -> None:
    """Full-width ids and accounts are not folded: the same fill is a duplicate for a new process."""
    fills = FillFactory.build(execution_id="Ａ１"), FillFactory.build(account="계좌（１）", order_id="１")
    for duplicate in (False, True):
        async with make_sheets() as sheets:
            for entry in fills:
                assert (await sheets.append_ledger(entry)).duplicate is duplicate
                position = await sheets.fetch_position(entry.symbol, entry.account)
                assert position is not None
                assert position.qty == 10
            assert list(await sheets.fetch_ledger()) == list(fills)


@pytest.mark.parametrize(
    ("kind", "row", "named"),
    [
        ("positions", HELD, "Position!3 symbol: '005930' of the account 'main' is in row 2, too"),
        ("daily_bars", BAR, "History!3 date: this day of '005930' is in row 2, too"),
        ("strategies", {"strategy_id": "s", "param_name": "n", "value": 5}, "Strategy!3 param_name: s 'n' is in row 2"),
        ("system", {"param_name": "n", "value": 5}, "Config!3 param_name: system 'n' is in row 2"),
        ("risk_limits", {"config_key": "k", "value": 5}, "Risk Config!3 config_key: 'k' is in row 2"),
    ],
)
async def test_key_used_twice_is_refused_in_every_sheet(
    move: Move, workbook: Workbook, kind: str, row: dict[str, Any], named: str
) -> None:
    put(workbook, kind, row, row)
    (problem,) = await problems_of(move)
    assert problem.startswith(f"row 3: {named}")


BOUGHT = (FILL | {"execution_id": "A"}, FILL | {"execution_id": "B", "price": 200})
BUST = FILL | {"side": "SELL", "price": 200, "execution_id": "C", "reverses": "B"}


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([BUST | {"reverses": "b"}], "4: T_Ledger!P4 reverses: the fill 'b' of test/main is missing"),
        ([BUST | {"reverses": "C"}], "4: T_Ledger!P4 reverses: row 4 is not a fill, but a reversal itself"),
        (
            [BUST | {"execution_id": None}],
            "4: T_Ledger!P4 reverses: a row that reverses a fill needs an",
        ),
        ([BUST | {"qty": 9}], "4: T_Ledger!P4 reverses: a line that reverses a fill must be the opposite trade"),
        ([BUST, BUST | {"execution_id": "D"}], "5: T_Ledger!P5 reverses: row 4 reverses the same fill"),
    ],
)
async def test_row_that_reverses_no_fill_is_named(
    move: Move, workbook: Workbook, rows: list[dict[str, Any]], named: str
) -> None:
    put(workbook, "ledger", *BOUGHT, *rows)
    put(workbook, "positions", HELD)
    (problem,) = await problems_of(move)
    assert problem.startswith(f"row {named}")


async def test_row_may_reverse_a_fill_that_only_the_book_has(
    move: Move, workbook: Workbook, database: Database
) -> None:
    async with database.transaction() as uow:
        await uow.ledger.record_fill(FillFactory.build(execution_id="B", price=Decimal(200)))
    put(workbook, "ledger", BUST)
    put(workbook, "positions", HELD | {"qty": -10})
    assert (await move.plan()).ready
    await move.copy()
    position = await held(database)
    assert (position.qty, position.realized_pnl) == (Decimal(0), Decimal(0))


async def test_a_row_that_was_booked_as_a_trade_is_not_silently_a_bust(
    move: Move, workbook: Workbook, database: Database
) -> None:
    put(workbook, "ledger", *BOUGHT, BUST | {"reverses": None})
    put(workbook, "positions", HELD)
    await move.copy()
    put(workbook, "ledger", *BOUGHT, BUST)
    with pytest.raises(
        LedgerConflict, match="row 4: T_Ledger!4: this execution id is booked, and does not reverse this"
    ):
        await move.copy()
    assert (await held(database)).realized_pnl == 500


async def test_a_conflict_is_named_by_the_row_of_the_sheet(move: Move, workbook: Workbook) -> None:
    rows = [FILL | {"execution_id": f"E{number}"} for number in range(5)]
    put(workbook, "ledger", *rows)
    put(workbook, "positions", HELD | {"qty": 50})
    await move.copy(chunk=2)
    put(workbook, "ledger", *rows[:4], rows[4] | {"fee": 2})
    with pytest.raises(LedgerConflict, match="row 6: T_Ledger!6: another fill has this execution id"):
        await move.copy(chunk=2)


async def test_a_position_that_cannot_be_opened_is_named_by_its_cell(move: Move, workbook: Workbook) -> None:
    put(workbook, "positions", HELD, HELD | {"symbol": "000660", "avg_price": -100})
    (problem,) = await problems_of(move)
    assert problem.startswith("row 3: Position!F3 avg_price: -100 is below zero")


async def test_refused_opening_is_named_by_its_position(move: Move, workbook: Workbook, database: Database) -> None:
    """The book holds the symbol in another currency."""
    async with database.transaction() as uow:
        await uow.ledger.record_fill(FillFactory.build(currency="USD"))
    put(workbook, "positions", HELD)
    with pytest.raises(InvalidRecord, match=r"Position, main 005930 currency: is 'KRW', but main holds"):
        await move.copy()


async def test_two_equal_rows_without_an_id_are_two_fills_in_the_book(
    move: Move, workbook: Workbook, database: Database
) -> None:
    put(workbook, "ledger", FILL, FILL)
    put(workbook, "positions", HELD | {"qty": 20})
    await move.copy()
    assert (await held(database)).qty == 20
