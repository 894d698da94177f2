"""The comparison finds each difference with its place, and reports nothing else."""

from __future__ import annotations

import copy
import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from qts_data.demo.sheets_server import fill_book
from qts_data.errors import ConfigurationError, DataConsistencyError
from qts_data.moving import Move
from qts_data.moving.consistency import ConsistencyReport, compare, verify_data_consistency
from qts_data.moving.consistency.sides import Item, Side
from qts_data.repositories import Database
from tests.fixtures.factories import FillFactory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

    from qts_data.adapters import GoogleSheetsAdapter
    from qts_data.demo.sheets_server import Workbook
    from tests.fixtures.fix_sheets import MakeSheets


@pytest_asyncio.fixture
async def database(database_url: URL) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


@pytest_asyncio.fixture
async def sheets(make_sheets: MakeSheets) -> AsyncIterator[GoogleSheetsAdapter]:
    async with make_sheets() as made:
        yield made


@pytest_asyncio.fixture
async def moved(database: Database, sheets: GoogleSheetsAdapter, workbook: Workbook) -> Move:
    """A small book that is on both sides."""
    fill_book(workbook, positions=10, fills=40)
    move = Move(database, sheets)
    await move.copy()
    return move


async def test_a_copied_book_is_the_same_on_both_sides(moved: Move) -> None:
    report = await moved.verify()
    assert report.consistent, report.findings
    assert {table.table: (table.rows_here, table.rows_there) for table in report.tables} == {
        "positions": (10, 10), "ledger": (40, 40), "daily_bars": (15, 15), "strategies": (5, 5), "risk_limits": (2, 2),
    }  # fmt: skip
    ledger = report.tables[1]
    assert (ledger.groups_different, ledger.sums_here) == (0, ledger.sums_there)
    assert ledger.notes[0].startswith("1 fills of the database open positions held before")
    assert "holds '₩" in ledger.notes[1]


Change = Callable[[list[list[Any]]], None]


def set_cell(row: int, column: int, value: Any) -> Change:
    def change(cells: list[list[Any]]) -> None:
        cells[row][column] = value

    return change


def swap_symbols(cells: list[list[Any]]) -> None:
    cells[1][1], cells[2][1] = cells[2][1], cells[1][1]


def drop_row(cells: list[list[Any]]) -> None:
    del cells[5]


def repeat_row(cells: list[list[Any]]) -> None:
    cells.append(list(cells[5]))


def add_row(cells: list[list[Any]]) -> None:
    cells.append([*cells[5][:-1], "X999"])


def last_digit(cells: list[list[Any]]) -> None:
    cells[3][3] = f"{Decimal(str(cells[3][3])) + Decimal('0.00000001'):f}"


def another_day(cells: list[list[Any]]) -> None:
    cells[4][0] -= 9 / 24  # times in UTC, pasted by a user


DIFFERENCES: list[tuple[str, Change, set[tuple[str, str, str | None]]]] = [
    ("T_Ledger", drop_row, {("ledger", "missing there", None)}),
    ("T_Ledger", add_row, {("ledger", "missing here", None)}),
    ("T_Ledger", repeat_row, {("ledger", "duplicate", None)}),
    ("T_Ledger", last_digit, {("ledger", "different", "qty")}),
    ("T_Ledger", swap_symbols, {("ledger", "different", "symbol")}),
    ("T_Ledger", another_day, {("ledger", "different", "timestamp")}),
    ("T_Ledger", set_cell(2, 5, ""), {("ledger", "unreadable", None), ("ledger", "missing there", None)}),
    ("T_Ledger", set_cell(2, 4, "#REF!"), {("ledger", "unreadable", None), ("ledger", "missing there", None)}),
    ("T_Ledger", set_cell(2, 1, 5930), {("ledger", "unreadable", None), ("ledger", "missing there", None)}),
    ("Position", set_cell(3, 2, 1.5), {("positions", "different", "qty")}),
    ("Position", set_cell(3, 2, None), {("positions", "unreadable", None), ("positions", "missing there", None)}),
    ("History", set_cell(2, 6, 7), {("daily_bars", "different", "volume")}),
    ("Strategy", set_cell(1, 2, 13), {("strategies", "different", "value")}),
    ("Strategy", set_cell(2, 2, 0.1), {("strategies", "different", "value")}),
    ("Strategy", set_cell(1, 2, "12"), {("strategies", "different", "value")}),
    ("Strategy", set_cell(3, 2, "True"), {("strategies", "different", "value")}),
    ("Risk Config", set_cell(1, 1, "12.5%"), {("risk_limits", "different", "value")}),
]


async def test_each_kind_of_difference_is_found_and_nothing_else(
    moved: Move, workbook: Workbook, subtests: pytest.Subtests
) -> None:
    for sheet, change, expected in DIFFERENCES:
        with subtests.test(msg=f"{sheet} {change.__name__}", expected=expected):
            before = copy.deepcopy(workbook.sheets[sheet].cells)
            change(workbook.sheets[sheet].cells)
            with pytest.raises(DataConsistencyError, match="differences between database and spreadsheet") as caught:
                await moved.verify(strict=True)
            report = caught.value.report
            assert isinstance(report, ConsistencyReport)
            assert {(one.table, one.kind, one.field) for one in report.findings} == expected
            assert all(one.where for one in report.findings if one.kind in {"different", "unreadable", "missing here"})
            workbook.sheets[sheet].cells[:] = before
    assert (await moved.verify()).consistent


async def test_values_of_equal_meaning_are_the_same(moved: Move, workbook: Workbook) -> None:
    cells = workbook.sheets["T_Ledger"].cells
    for row in cells[1:]:
        row[4] = f"{float(row[4]):.2f}" if isinstance(row[4], int) else row[4]  # 1.1 and 1.10
        row[3] = f"{row[3]:,}"
    workbook.sheets["Risk Config"].cells[1][1] = 0.12
    assert (await moved.verify()).consistent
    cells[1:] = cells[:0:-1]
    assert (await moved.verify()).consistent


async def test_a_row_that_the_sheet_does_not_have_is_missing_there(moved: Move, database: Database) -> None:
    async with database.transaction() as uow:
        await uow.ledger.record_fill(FillFactory.build(symbol="NEW", qty=Decimal("1.5")))
    found = {(one.table, one.kind, one.key) for one in (await moved.verify()).findings}
    assert {kind for _, kind, _ in found} == {"missing there"}
    assert ("positions", "missing there", "main NEW") in found


async def test_a_tolerance_is_stated_and_holds_for_its_field_only(moved: Move, workbook: Workbook) -> None:
    cells = workbook.sheets["Position"].cells
    cells[4][3] = f"{Decimal(str(cells[4][3])) + Decimal('0.00000002'):f}"
    assert [one.field for one in (await moved.verify()).findings] == ["avg_price"]
    report = await moved.verify(tolerances={"positions.avg_price": Decimal("0.0001")})
    assert report.consistent
    assert report.tolerances == {"positions.avg_price": "0.0001"}
    with pytest.raises(ConfigurationError, match="unknown table 'nothing'"):
        await moved.verify(tolerances={"nothing.qty": Decimal(1)})


async def test_a_report_is_a_page_and_json(
    moved: Move, database: Database, sheets: GoogleSheetsAdapter, workbook: Workbook
) -> None:
    workbook.sheets["Position"].cells[3][1] = "<b>KOSDAQ</b>"
    report = await verify_data_consistency(database, sheets.workbook, tables=["positions"])
    as_json = json.loads(json.dumps(report.as_json()))
    assert as_json["consistent"] is False
    assert as_json["tables"][0]["findings"][0]["there"] == "<b>KOSDAQ</b>"
    page = report.as_html()
    assert page.startswith("<!doctype html>")
    assert "1 differences" in page
    assert "&lt;b&gt;KOSDAQ&lt;/b&gt;" in page
    assert "<b>" not in page
    assert (await moved.status()).verified_at is None


def test_rows_that_cancel_out_in_sums_are_found_by_the_hash() -> None:
    def side(*quantities: int) -> Side:
        return Side([Item((str(n),), ("g",), {"qty": Decimal(qty)}) for n, qty in enumerate(quantities)])

    report = compare("positions", side(1, 2, 3), side(2, 1, 3))
    assert report.sums_here == report.sums_there
    assert (report.groups_different, [one.key for one in report.findings]) == (1, ["0", "1"])
    equal = Side([Item(("0",), ("g",), {"qty": Decimal("1.10"), "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)})])
    again = Side([Item(("0",), ("g",), {"qty": Decimal("1.1"), "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)})])
    assert compare("positions", equal, again).groups_different == 0
    empty = Side([Item(("0",), ("g",), {"qty": None, "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)})])
    zero = Side([Item(("0",), ("g",), {"qty": Decimal(0), "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)})])
    assert [one.field for one in compare("ledger", zero, empty).findings] == ["qty"]


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        (Decimal(5), "5", ("5 (number)", "5 (text)")),
        (True, "True", ("True (boolean)", "True (text)")),
        (None, "empty", ("empty (nothing)", "empty (text)")),
        (Decimal(1), True, ("1", "True")),
        (None, "", ("empty", "")),
        (
            dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "2026-01-01T00:00:00+00:00",
            ("2026-01-01T00:00:00+00:00 (instant)", "2026-01-01T00:00:00+00:00 (text)"),
        ),
    ],
)  # fmt: skip
def test_values_that_look_alike_are_not_the_same(one: Any, other: Any, shown: tuple[str, str]) -> None:
    def side(value: Any) -> Side:
        return Side([Item(("0",), ("g",), {"value": value})])

    report = compare("strategies", side(one), side(other))
    assert report.groups_different == 1
    assert [(found.here, found.there) for found in report.findings] == [shown]
    assert compare("strategies", side(one), side(one)).groups_different == 0


def test_texts_that_run_into_each_other_are_not_the_same() -> None:
    def side(first: str, second: str) -> Side:
        return Side([Item(("0",), ("g",), {"a": first, "b": second})])

    report = compare("ledger", side("x\1b=y", "z"), side("x", "y\1b=z"))
    assert [found.field for found in report.findings] == ["a", "b"]
