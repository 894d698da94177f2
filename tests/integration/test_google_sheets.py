"""The real gspread client against the stand-in: odd sheets and failing requests."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import gspread
import pytest
import pytest_asyncio
from google.oauth2.service_account import Credentials

from qts_data.demo.sheets_server import Fault, Formula, faults_in_order
from qts_data.errors import ConfigurationError, InvalidRecord, SourceRefused, SourceUnavailable
from qts_data.importers.tables import LEDGER, POSITIONS
from tests.fixtures.factories import FillFactory
from tests.fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qts_data.adapters import GoogleSheetsAdapter
    from qts_data.demo.sheets_server import SheetsStandIn, Workbook
    from tests.fixtures.fix_sheets import MakeSheets


SHORT_SECONDS = 1.5
"""Seconds that a client waits for an answer that does not come. Answers of a busy machine come before."""


@pytest_asyncio.fixture
async def sheets(make_sheets: MakeSheets) -> AsyncIterator[GoogleSheetsAdapter]:
    async with make_sheets() as made:
        yield made


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in Fault])
async def test_fill_is_in_the_sheet_once_after_any_fault(
    fault: Fault, make_sheets: MakeSheets, standin: SheetsStandIn, workbook: Workbook
) -> None:
    standin.delay_seconds = 2 * SHORT_SECONDS
    async with make_sheets(timeout_seconds=SHORT_SECONDS) as sheets:
        standin.faults = faults_in_order([fault, None, fault], method="POST")
        for entry in FillFactory.build_batch(3):
            await sheets.append_ledger(entry)
        await eventually(lambda: not standin.in_flight)
        assert len(workbook.sheets["T_Ledger"].cells) == 4
        held = await sheets.fetch_position("005930")
        assert held is not None
        assert sheets.client.retries == 2
        assert held.qty == 30
        await sheets.append_ledger(FillFactory.build())
        again = await sheets.fetch_position("005930")
        assert again is not None
        assert again.qty == 40


async def test_position_overwritten_by_an_old_request_is_repaired(
    sheets: GoogleSheetsAdapter, workbook: Workbook
) -> None:
    """The next fill, or the same fill again, writes the position that the ledger gives."""
    entries = FillFactory.build_batch(3)
    await sheets.append_ledger(entries[0])
    before = list(workbook.sheets["Position"].cells[1])
    await sheets.append_ledger(entries[1])
    workbook.sheets["Position"].cells[1] = before
    result = await sheets.append_ledger(entries[2])
    assert result.position.qty == 30
    workbook.sheets["Position"].cells[1] = before
    repeated = await sheets.append_ledger(entries[2])
    assert repeated.duplicate
    held = await sheets.fetch_position("005930")
    assert held is not None
    assert held.qty == 30


@pytest.mark.parametrize("patience", [None, SHORT_SECONDS / 2], ids=["exhausted", "cancelled"])
async def test_late_request_of_a_failed_fill_overwrites_no_other(
    patience: float | None, make_sheets: MakeSheets, standin: SheetsStandIn, workbook: Workbook
) -> None:
    """The request of a fill that failed or was cancelled arrives after the next fill."""
    standin.delay_seconds = 2 * SHORT_SECONDS
    async with make_sheets(attempts=1, timeout_seconds=SHORT_SECONDS) as sheets:
        await sheets.append_ledger(FillFactory.build(symbol="A"))
        first, second = FillFactory.build(symbol="B"), FillFactory.build(symbol="C")
        standin.faults = faults_in_order([Fault.LATE], method="POST")
        giving_up = asyncio.create_task(sheets.append_ledger(first))
        if patience is not None:
            await eventually(lambda: standin.in_flight > 0 and standin.calls["write"] == 2)
            giving_up.cancel()
        with pytest.raises((SourceUnavailable, asyncio.CancelledError)):
            await giving_up
        assert not (await sheets.append_ledger(second)).duplicate
        await eventually(lambda: not standin.in_flight)
        assert Counter(one.key for one in await sheets.fetch_ledger())[second.key] == 1
        again = await sheets.append_ledger(first)
        assert again.position.qty == 10
        held = {one.symbol: int(one.qty) for one in await sheets.fetch_positions()}
        assert held == {"A": 10, "B": 10, "C": 10}
        assert len(workbook.sheets["T_Ledger"].cells) == 4


async def test_a_fill_that_was_refused_is_not_sent_with_the_next_one(
    sheets: GoogleSheetsAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sheets.client.write

    async def refuse(_values: object) -> None:
        raise SourceRefused("APIError: [400]: no")

    monkeypatch.setattr(sheets.client, "write", refuse)
    with pytest.raises(SourceRefused):
        await sheets.append_ledger(FillFactory.build(symbol="A"))
    monkeypatch.setattr(sheets.client, "write", real)
    assert (await sheets.append_ledger(FillFactory.build(symbol="B"))).ledger_id == 2
    assert len(await sheets.fetch_ledger()) == 1


async def test_outdated_position_is_read_as_its_fills_say(sheets: GoogleSheetsAdapter, workbook: Workbook) -> None:
    """A late request has put an older position into its cells. Reading and valuing it use the ledger."""
    await sheets.append_ledger(FillFactory.build(price=Decimal(10)))
    before = list(workbook.sheets["Position"].cells[1])
    after = (await sheets.append_ledger(FillFactory.build(price=Decimal(20)))).position
    workbook.sheets["Position"].cells[1] = before
    held = await sheets.fetch_position("005930")
    assert held is not None
    assert (held.qty, held.avg_price) == (Decimal(20), Decimal(15))
    marked = dataclasses.replace(after, mark_price=Decimal(30), marked_at=after.updated_at)
    assert (await sheets.update_position(marked)).unrealized_pnl == 300
    assert [one.qty for one in await sheets.workbook.records("positions")] == [20]


async def test_without_a_column_for_versions_no_fill_is_booked(sheets: GoogleSheetsAdapter, workbook: Workbook) -> None:
    workbook.put("Position", [[name for name in POSITIONS.fields if name != "last_ledger_id"]])
    with pytest.raises(SourceRefused, match=r"'Position' has no column last_ledger_id.*add the column"):
        await sheets.append_ledger(FillFactory.build())
    assert len(workbook.sheets["T_Ledger"].cells) == 1


UNSAID = [
    ("broker", {"broker": "kis"}, "the broker test in place of kis"),
    ("account", {"account": "second"}, "the account main in place of second"),
    ("market", {"market": "NASDAQ"}, "the market KRX in place of NASDAQ"),
    ("currency", {"currency": "USD"}, "the currency KRW in place of USD"),
    ("fee", {"fee": Decimal("1.5")}, "the fee none in place of 1.5"),
    ("fee_currency", {"fee_currency": "BNB"}, "the fee_currency KRW in place of BNB"),
]


@pytest.mark.parametrize(("column", "values", "reason"), UNSAID, ids=[column for column, _, _ in UNSAID])
async def test_fill_that_needs_a_missing_column_is_refused(
    column: str, values: dict[str, Any], reason: str, sheets: GoogleSheetsAdapter, workbook: Workbook
) -> None:
    """Without the column the sheet would show the fill wrongly. An ordinary fill is written."""
    workbook.put("T_Ledger", [[name for name in LEDGER.fields if name != column]])
    with pytest.raises(SourceRefused, match=f"'T_Ledger' has no column {column}: .*{reason}; add the column"):
        await sheets.append_ledger(FillFactory.build(**values))
    assert len(workbook.sheets["T_Ledger"].cells) == 1
    assert not (await sheets.append_ledger(FillFactory.build(execution_id="usual"))).duplicate
    assert (await sheets.append_ledger(FillFactory.build(execution_id="usual"))).duplicate


async def test_position_that_needs_a_missing_column_is_refused(sheets: GoogleSheetsAdapter, workbook: Workbook) -> None:
    """Without a column for the account, a second account's position would be read as the first's."""
    workbook.put("Position", [[name for name in POSITIONS.fields if name != "account"]])
    with pytest.raises(SourceRefused, match="'Position' has no column account: second 005930 would be read"):
        await sheets.append_ledger(FillFactory.build(account="second"))


def insert_column(workbook: Workbook, title: str) -> None:
    sheet = workbook.sheets[title]
    for row in sheet.cells:
        row.insert(0, "mine")
    sheet.column_count += 1


async def test_column_inserted_meanwhile_moves_later_writes(sheets: GoogleSheetsAdapter, workbook: Workbook) -> None:
    """The execution id is in the last column of the grid.

    The inserted column moves it out of the grid that was read.
    """
    fields = [name for name in LEDGER.fields if name != "reverses"]
    workbook.put("T_Ledger", [fields])
    workbook.sheets["T_Ledger"].column_count = len(fields)
    await sheets.append_ledger(FillFactory.build())
    insert_column(workbook, "T_Ledger")
    entry = FillFactory.build()
    await sheets.append_ledger(entry)
    row = workbook.sheets["T_Ledger"].cells[2]
    assert (row[0], row[len(fields)]) == (None, entry.execution_id)
    assert (await sheets.append_ledger(entry)).duplicate
    insert_column(workbook, "Position")
    result = await sheets.append_ledger(FillFactory.build())
    assert (result.ledger_id, int(result.position.qty)) == (4, 30)
    assert len(await sheets.fetch_ledger()) == 3


async def test_columns_of_other_people_and_their_formulas_stay(sheets: GoogleSheetsAdapter, workbook: Workbook) -> None:
    note = Formula("=HYPERLINK(A1)", "note")
    workbook.put("Position", [["my notes", *POSITIONS.fields, "graph"], [note, "main", "005930", "KRX", "KRW", 5, 10]])
    workbook.put("T_Ledger", [["weather", *LEDGER.fields]])
    await sheets.append_ledger(FillFactory.build(symbol="005930", price=Decimal(10)))
    await sheets.append_ledger(FillFactory.build(symbol="000660"))
    cells = workbook.sheets["Position"].cells
    assert cells[1][0] is note
    assert cells[1][5:7] == [15, 10]
    assert cells[2][:3] == [None, "main", "000660"]


async def test_formula_result_is_read_and_its_error_refused(sheets: GoogleSheetsAdapter, workbook: Workbook) -> None:
    """The value that a formula shows is read. A cell that shows an error is named."""
    header = ["종목코드", "보유수량", "평균단가"]
    workbook.put("Position", [header, ["005930", Formula("=0.1+0.2", 0.1 + 0.2), 100]])
    (position,) = await sheets.fetch_positions()
    assert position.qty == Decimal("0.3")
    workbook.put("Position", [header, [], ["005930", Formula("=A9", "#REF!"), 100]])
    with pytest.raises(InvalidRecord, match=r"row 3: Position!B3 qty: the cell shows the error #REF!"):
        await sheets.fetch_positions()


async def test_a_sheet_that_is_full_grows(sheets: GoogleSheetsAdapter, workbook: Workbook) -> None:
    workbook.sheets["T_Ledger"].row_count = 2
    workbook.sheets["Position"].row_count = 2
    for number in range(4):
        await sheets.append_ledger(FillFactory.build(symbol=f"S{number}"))
    assert len(await sheets.fetch_ledger()) == 4
    assert len(await sheets.fetch_positions()) == 4


async def test_a_late_request_for_more_rows_cuts_nothing_off(
    make_sheets: MakeSheets, standin: SheetsStandIn, workbook: Workbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qts_data.adapters.sheets.sheets._MORE_ROWS", 1)
    workbook.sheets["T_Ledger"].row_count = 1
    standin.delay_seconds = 2 * SHORT_SECONDS
    async with make_sheets(timeout_seconds=SHORT_SECONDS) as sheets:
        await sheets.fetch_positions()
        standin.faults = faults_in_order([Fault.LATE], method="POST")
        for _ in range(4):
            await sheets.append_ledger(FillFactory.build())
        await eventually(lambda: not standin.in_flight)
        assert len(await sheets.fetch_ledger()) == 4


async def test_a_long_sheet_is_read_in_few_calls(
    sheets: GoogleSheetsAdapter, workbook: Workbook, standin: SheetsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qts_data.adapters.sheets.sheets._ROWS_OF_A_CALL", 40)
    for entry in FillFactory.build_batch(3):
        await sheets.append_ledger(entry)
    cells = workbook.sheets["T_Ledger"].cells
    filler = [[None] * len(LEDGER.fields) for _ in range(90)]
    cells[2:2] = filler
    workbook.sheets["T_Ledger"].row_count = len(cells)
    await sheets.health_check()
    standin.calls.clear()
    assert len(await sheets.fetch_ledger()) == 3
    assert standin.calls["read"] <= 4


async def test_wrong_set_up_is_named(make_sheets: MakeSheets, workbook: Workbook, standin: SheetsStandIn) -> None:
    broken = dict(standin.credentials()) | {"private_key": "nothing"}
    stranger = dict(standin.credentials()) | {"token_uri": f"{standin.url}/nothing"}
    for credentials, reason in ((broken, "key file"), (stranger, "Google")):
        async with make_sheets(credentials=credentials, attempts=1) as sheets:
            with pytest.raises((ConfigurationError, SourceUnavailable), match=reason):
                await sheets.fetch_positions()
    async with make_sheets(spreadsheet_id="another") as sheets:
        with pytest.raises(SourceRefused, match="not found"):
            await sheets.fetch_positions()
        assert not (await sheets.health_check()).healthy
    async with make_sheets(titles={"positions": "잔고"}) as sheets:
        with pytest.raises(ConfigurationError, match="has no sheet '잔고'; it has Config, History"):
            await sheets.fetch_positions()
        workbook.put("잔고", [["종목코드", "보유수량", "평균단가"], ["005930", 1, 2]])
        await sheets.health_check()
        assert [one.symbol for one in await sheets.fetch_positions()] == ["005930"]
        workbook.put("T_Ledger", [[name for name in LEDGER.fields if name != "execution_id"]])
        with pytest.raises(SourceRefused, match="no column execution_id"):
            await sheets.append_ledger(FillFactory.build())
    workbook.time_zone = "Mars/Olympus"
    async with make_sheets() as sheets:
        with pytest.raises(ConfigurationError, match="time zone 'Mars/Olympus' is unknown"):
            await sheets.fetch_positions()


async def test_the_event_loop_goes_on_while_the_sheet_is_slow(
    sheets: GoogleSheetsAdapter, standin: SheetsStandIn
) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def slow(_method: str) -> None:
        asked.set()
        may_answer.wait(50)

    standin.faults = slow
    fetching = asyncio.create_task(sheets.fetch_positions())
    await eventually(asked.is_set)
    assert not fetching.done()
    may_answer.set()
    assert not await fetching


async def test_after_as_many_attempts_as_allowed_it_is_unavailable(
    make_sheets: MakeSheets, standin: SheetsStandIn
) -> None:
    async with make_sheets(attempts=3) as sheets:
        standin.faults = lambda _method: Fault.ERROR
        with pytest.raises(SourceUnavailable, match="Internal error"):
            await sheets.fetch_positions()
        assert standin.calls["read"] == 3
        assert SourceUnavailable.retryable


def test_gspread_itself_works_with_the_stand_in(
    standin: SheetsStandIn, workbook: Workbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worksheets, values, appends and errors by gspread's own methods, without our subclass."""
    credentials = Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
        standin.credentials(), scopes=["https://www.googleapis.com/auth/spreadsheets"]
    )
    from qts_data.adapters.sheets.client import _HTTPClient

    client = gspread.Client(credentials)
    monkeypatch.setattr(client, "http_client", _HTTPClient(standin.url, credentials))
    book = client.open_by_key(workbook.spreadsheet_id)
    assert [sheet.title for sheet in book.worksheets()] == list(workbook.sheets)
    sheet = book.add_worksheet("new", rows=3, cols=2)
    sheet.update([["a", "b"], ["1,234", "=1"]], raw=False)
    typed = gspread.utils.ValueInputOption.user_entered
    sheet.append_rows([[1.5, "x"], ["2026-11-20", ""]], value_input_option=typed)
    assert sheet.get_values("A1:B4") == [
        ["a", "b"], ["1234", "#NAME?"], ["1.5", "x"], ["2026-11-20", ""],
    ]  # fmt: skip
    assert sheet.get_values(value_render_option=gspread.utils.ValueRenderOption.unformatted)[3] == [46346, ""]
    assert sheet.acell("B2", value_render_option=gspread.utils.ValueRenderOption.formula).value == "=1"
    sheet.batch_clear(["A1:B1"])
    assert sheet.row_values(1) == []
    sheet.delete_rows(1)
    assert sheet.acell("A1").value == "1234"
    with pytest.raises(gspread.exceptions.APIError, match="exceeds grid limits"):
        sheet.update([["x"]], "A99")
    standin.faults = faults_in_order([Fault.QUOTA])
    with pytest.raises(gspread.exceptions.APIError, match="Quota exceeded"):
        sheet.get_values()
    sheet.client.session.close()
