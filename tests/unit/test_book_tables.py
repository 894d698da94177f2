# ruff: noqa: RUF001, PT017 - full-width digits are a subject here, and an error is one of two right answers
"""Cells, rows and headers of books that people keep: readable ones, and refusals of the rest."""

from __future__ import annotations

import csv
import datetime as dt
import io
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qts_data.contracts import LedgerEntry
from qts_data.errors import InvalidRecord
from qts_data.importers.tables import DAILY_BARS, LAYOUTS, LEDGER, POSITIONS, Defaults, Header, RecordMaker, read_rows
from qts_data.importers.tables.cell_times import read_date, read_instant
from qts_data.importers.tables.cells import (
    cell_of_decimal,
    column_letters,
    read_number,
    read_side,
    read_symbol,
)
from tests.fixtures.effort import amount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qts_data.importers.tables import Cell, Layout, Row

CASES = amount(80, 300, "QTS_TEST_FUZZ_CASES")
SEOUL = ZoneInfo("Asia/Seoul")
NINE = dt.datetime(2026, 11, 20, 0, 0, tzinfo=dt.UTC)  # 09:00 in Korea


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (75000, "75000"),
        (1.1, "1.1"),
        (0.1 + 0.2, "0.3"),
        (12345678.1 + 2e-9, "12345678.1"),
        ("₩75,000", "75000"),
        ("￦75,000", "75000"),
        ("75,000원", "75000"),
        ("-₩5", "-5"),
        ("$1.5", "1.5"),
        ("1,234.5", "1234.5"),
        ("(1,234)", "-1234"),
        ("１，２３４．５", "1234.5"),
        (" 12\u3000", "12"),
        ("\ufeff12\u200b", "12"),
        ("−3", "-3"),
        (".5", "0.5"),
        ("1e3", "1000"),
        ("12345678.12345678", "12345678.12345678"),
    ],
)
def test_a_number_is_read_exactly(cell: Cell, value: str) -> None:
    assert read_number("qty", cell).value == Decimal(value)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("#N/A", "error #N/A"),
        ("#REF!", "error #REF!"),
        ("Loading...", "error Loading"),
        ("=A1*2", "is a formula"),
        ("12%", "is a percentage"),
        ("1,23", "is not a number"),
        ("12,34,567", "is not a number"),
        ("1.234,5", "is not a number"),
        ("0,500", "is not a number"),
        ("-0,500", "is not a number"),
        ("00,123", "is not a number"),
        ("1 234", "is not a number"),
        ("10²", "is not a number"),
        ("٣", "is not a number"),
        ("NaN", "is not a number"),
        ("1e9999", "is not a number"),
        ("(-5)", "a sign inside parentheses"),
        ("-", "is not a number"),
        ("₩₩5", "is not a number"),
        (True, "is TRUE, no number"),
        (float("inf"), "not a finite number"),
        (12345678.12345678, "format the cell as plain text"),
        (1234567890123456, "format the cell as plain text"),
        (1.2345678901234567e19, "format the cell as plain text"),
    ],
)
def test_text_that_is_not_exactly_a_number_is_refused(cell: Cell, reason: str) -> None:
    with pytest.raises(InvalidRecord, match="qty: ") as caught:
        read_number("qty", cell)
    assert reason in caught.value.reason


def test_a_percentage_is_a_ratio_where_one_is_meant() -> None:
    assert read_number("weight", "12%", ratio=True).value == Decimal("0.12")
    assert read_number("weight", "12.5 %", ratio=True).value == Decimal("0.125")
    assert read_number("weight", 0.12, ratio=True).value == Decimal("0.12")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**10) + 1, max_value=10**10 - 1))
def test_value_written_into_a_cell_is_read_back_exactly(value: Decimal) -> None:
    assert read_number("qty", cell_of_decimal(value)).value == value


@given(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_a_double_is_taken_to_fifteen_digits_or_refused(value: float) -> None:
    try:
        read = read_number("qty", value).value
    except InvalidRecord:
        return
    assert read == Decimal(f"{value:.15g}")


@pytest.mark.parametrize(
    "cell",
    [
        46346.375,
        "2026-11-20 09:00:00",
        "2026-11-20 9:00",
        "2026/11/20 09:00",
        "2026. 11. 20 오전 9:00:00",
        "2026.11.20 9:00 AM",
        "2026-11-20T09:00:00+09:00",
        "2026-11-20T00:00:00Z",
        "２０２６-11-20 09:00",
    ],
)
def test_instant_without_an_offset_is_of_the_sheets_zone(cell: Cell) -> None:
    """An instant with an offset is taken as written."""
    assert read_instant("timestamp", cell, SEOUL) == NINE


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("20/11/2026", "is not a date"),
        ("11/20/26", "is not a date"),
        ("2026-13-01", "is not a date"),
        ("2026-11-20 25:00", "is not a date"),
        ("2026-11-20 오후 13:00", "is not a date"),
        ("2026-11-20 09:00:00.1234567", "is not a date"),
        ("오늘", "is not a date"),
        (0, "not the serial number"),
        (-5.5, "not the serial number"),
        (20269999, "not the serial number"),
        (1e300, "not the serial number"),
        (True, "not a date"),
    ],
)
def test_cell_that_is_not_an_instant_is_refused(cell: Cell, reason: str) -> None:
    with pytest.raises(InvalidRecord, match=reason):
        read_instant("timestamp", cell, SEOUL)


def test_repeated_or_skipped_local_time_is_refused() -> None:
    """A local time that a change of the clocks repeated or skipped is not an instant."""
    berlin = ZoneInfo("Europe/Berlin")
    with pytest.raises(InvalidRecord, match="twice"):
        read_instant("timestamp", "2026-10-25 02:30", berlin)
    with pytest.raises(InvalidRecord, match="leapt"):
        read_instant("timestamp", "2026-03-29 02:30", berlin)


def test_a_day_has_no_time_of_the_day() -> None:
    for cell in (46346, "2026-11-20", 20261120, "20261120", "2026. 11. 20."):
        assert read_date("date", cell, SEOUL) == dt.date(2026, 11, 20)
    with pytest.raises(InvalidRecord, match="time of the day"):
        read_date("date", 46346.5, SEOUL)


def test_day_with_an_offset_must_be_a_local_midnight() -> None:
    """An instant is a day only if it is midnight in the zone of the days."""
    new_york = ZoneInfo("America/New_York")
    assert read_date("date", "2026-11-20T00:00:00-05:00", new_york) == dt.date(2026, 11, 20)
    assert read_date("date", "2026-11-20T05:00:00Z", new_york) == dt.date(2026, 11, 20)
    for cell, zone in (("2026-11-20T00:00:00Z", new_york), ("2026-11-20 00:00:00Z", SEOUL)):
        with pytest.raises(InvalidRecord, match="where a day is needed; write the day alone"):
            read_date("date", cell, zone)
    with pytest.raises(InvalidRecord, match="outside the years"):
        read_date("date", "0001-01-01 00:00:00+14:00", new_york)


def test_lost_leading_zeros_are_refused_and_not_guessed() -> None:
    """A number format removed the zeros of a code. The error says how to enter it."""
    assert read_symbol("symbol", " ００５９３０ ", market="KRX") == "005930"
    assert read_symbol("symbol", "5930", market="HKEX") == "5930"
    for cell in (5930, 5930.0):
        with pytest.raises(InvalidRecord, match="format the column as plain text"):
            read_symbol("symbol", cell, market="BINANCE")
    with pytest.raises(InvalidRecord, match="enter '005930' as plain text"):
        read_symbol("symbol", "5930", market="KRX")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("5930.0", "a number format may have changed it"),
        ("5.93E+03", "a number format may have changed it"),
        ("5,930", "a number format may have changed it"),
        ("00 5930", "a number format may have changed it"),
        ("00593k", "a number format may have changed it"),
        ("A5930", "enter '005930' as plain text"),
        ("0059\u200b30", "cannot be seen"),
        ("005\u00ad930", "cannot be seen"),
        ("'005930", "apostrophe"),
    ],
)
@pytest.mark.parametrize("market", ["KRX", "krx", "KOSPI", "코스닥", "ＫＲＸ"])
def test_code_changed_by_a_number_format_is_refused(text: str, reason: str, market: str) -> None:
    """Codes of the Korean market have six characters."""
    with pytest.raises(InvalidRecord, match=reason):
        read_symbol("symbol", text, market=market)


def test_codes_of_shares_derivatives_and_names_are_taken() -> None:
    for code in ("005930", "A005930", "00104K", "0001A0", "101V3000", "KR7005930003", "KOSPI", "^KS11", "BRK.B"):
        assert read_symbol("symbol", code, market="KRX") == code
    assert read_symbol("symbol", "AAPL  240119C00150000", market="OPRA") == "AAPL  240119C00150000"
    for text in ("BTC\u200bUSDT", "BTC\tUSDT", "BTC\u00a0USDT"):
        with pytest.raises(InvalidRecord, match="cannot be seen"):
            read_symbol("symbol", text, market="BINANCE")


@pytest.mark.parametrize(
    "cell",
    [117057, 117057.0, 1234.5, 12345678901234567890, 1.2345678901234567e19, True, "2.02611E+15", "2e+15", "117057.0",
     "117,057", "１１７０５７．０", "'0000117057"],
)  # fmt: skip
@pytest.mark.parametrize("column", ["execution_id", "order_id", "account", "reverses"])
def test_an_id_that_was_a_number_is_refused_with_its_place(cell: Cell, column: str) -> None:
    header = [*KOREAN[:-1], column]
    with pytest.raises(InvalidRecord, match=rf"row 2: T_Ledger!G2 {column}: .*(plain text|take it out)"):
        records(LEDGER, header, [*FILL[:-1], cell])


def test_ids_and_texts_keep_their_characters() -> None:
    header = [*KOREAN, "계좌", "주문번호", "전략"]
    (entry,) = records(LEDGER, header, [*FILL[:-1], "Ａ１", " 계좌（１） ", "0000117057", "１호"])
    assert (entry.key, entry.order_id, entry.strategy_tag) == (
        ("kis", "계좌（１）", "Ａ１"), "0000117057", "１호",
    )  # fmt: skip
    for good in ("0000117057", "20261120-1", "0000e0d5.6534f1a2.01.01", "12E34", "key:mine"):
        assert records(LEDGER, KOREAN, [*FILL[:-1], good])[0].stored_execution_id == good


def test_a_row_without_an_id_keeps_the_key_that_is_stored() -> None:
    header = [*KOREAN[:-1], "계좌", "주문번호"]
    for account, order in (("계좌(1)", "A-1"), ("계좌（１）", "Ａ-１")):
        (entry,) = records(LEDGER, header, [*FILL[:-1], account, order])
        assert entry.idempotency_key == "row:42391b6fd043bb85258d62f3dc54ece9:1"


def test_sides_are_read_in_both_languages() -> None:
    assert [read_side("side", cell) for cell in ("BUY", "b", "매수", "Sell", "매도")] == ["BUY"] * 3 + ["SELL"] * 2
    with pytest.raises(InvalidRecord, match="neither BUY"):
        read_side("side", "매수취소")


def test_columns_have_letters() -> None:
    assert [column_letters(index) for index in (0, 25, 26, 701, 702)] == ["A", "Z", "AA", "ZZ", "AAA"]


def rows_of(layout: Layout, header: Sequence[Cell], *rows: Sequence[Cell]) -> tuple[Header, list[Row]]:
    found = Header.of(layout, layout.title, header)
    return found, list(read_rows(found, rows, zone=SEOUL, market="KRX", currency="KRW"))


def records(layout: Layout, header: Sequence[Cell], *rows: Sequence[Cell]) -> list[Any]:
    found, read = rows_of(layout, header, *rows)
    maker = RecordMaker(found, Defaults(broker="kis"))
    return [maker.make(row) for row in read]


KOREAN = ["체결일시", "종목코드", "매매구분", "수량", "체결단가", "수수료", "체결번호"]
FILL: list[Cell] = [46346.375, "005930", "매수", 10, "₩71,500", 0, "77"]


def test_columns_are_found_by_their_names_wherever_they_stand() -> None:
    (plain,) = records(LEDGER, KOREAN, FILL)
    (moved,) = records(LEDGER, ["메모", *KOREAN[::-1], "", "Weather"], ["my note", *FILL[::-1], None, "rain"])
    (english,) = records(
        LEDGER, [" Trade  Time", "TICKER", "Buy/Sell", "Quantity", "Price ", "Commission", "Exec-ID"], FILL
    )
    assert plain == moved == english
    assert plain == LedgerEntry(
        timestamp=NINE, symbol="005930", market="KRX", side="BUY", qty=Decimal(10), price=Decimal(71500),
        currency="KRW", broker="kis", execution_id="77",
    )  # fmt: skip


def test_a_header_that_comes_twice_is_refused_in_both_languages() -> None:
    with pytest.raises(InvalidRecord, match="columns D '수량' and H 'Qty' mean the same") as caught:
        rows_of(LEDGER, [*KOREAN, "Qty"])
    assert caught.value.row == 1


def test_a_renamed_header_is_missed_with_a_guess() -> None:
    with pytest.raises(InvalidRecord, match=r"T_Ledger!1 qty: the column 'qty' or .*renamed to 'qty 1'"):
        rows_of(LEDGER, ["timestamp", "symbol", "side", "Qty 1", "price"])


def test_every_bad_cell_is_named_by_sheet_row_and_column() -> None:
    """A row reports all of its bad cells, not only the first."""
    _, (row,) = rows_of(LEDGER, KOREAN, ["#N/A", 5930, "?", "1,23", "", None, "77"])
    assert [str(problem).split(":")[1].strip() for problem in row.problems] == [
        "T_Ledger!A2 timestamp", "T_Ledger!B2 symbol", "T_Ledger!C2 side", "T_Ledger!D2 qty", "T_Ledger!E2 price",
        "T_Ledger!F2 fee",
    ]  # fmt: skip
    assert "empty is not zero" in str(row.problems[-1])


def test_a_number_as_text_is_understood_and_noted() -> None:
    _, (row,) = rows_of(LEDGER, KOREAN, FILL)
    assert row.notes == ("T_Ledger!E2 holds '₩71,500' as text, not as a number",)


def test_a_sign_of_another_currency_than_the_rows_is_refused() -> None:
    with pytest.raises(InvalidRecord, match="E2 price: '₩71,500' is an amount of KRW"):
        records(LEDGER, [*KOREAN, "통화"], [*FILL, "USD"])


@pytest.mark.parametrize(
    ("currency", "price", "named"),
    [
        ("KRW", "$190.5", "USD, USDC or USDT, the row's currency is KRW"),
        ("EUR", "$190.5", "the row's currency is EUR"),
        ("KRW", "¥75", "CNH, CNY or JPY, the row's currency is KRW"),
        ("USD", "¥75", "the row's currency is USD"),
        ("USD", "USD 5", None),
        ("USDT", "$190.5", None),
        ("HKD", "$190.5", None),
        ("JPY", "￥75", None),
        ("CNY", "¥75", None),
    ],
)
def test_a_sign_of_several_currencies_must_mean_the_rows(currency: str, price: str, named: str | None) -> None:
    row = [*FILL[:4], price, *FILL[5:], currency]
    if named is None:
        assert records(LEDGER, [*KOREAN, "통화"], row)[0].currency == currency
        return
    with pytest.raises(InvalidRecord, match=f"E2 price: {price!r} is an amount of".replace("$", "[$]")) as caught:
        records(LEDGER, [*KOREAN, "통화"], row)
    assert caught.value.reason.endswith(named)


def test_the_sign_of_a_fee_is_of_the_fees_currency() -> None:
    header = [*KOREAN, "통화", "수수료통화"]
    with pytest.raises(InvalidRecord, match="F2 fee: '₩100' is an amount of KRW, the fee's currency is USD"):
        records(LEDGER, header, [*FILL[:5], "₩100", "77", "KRW", "USD"])
    (entry,) = records(LEDGER, header, [*FILL[:5], "$0.5", "77", "KRW", "USD"])
    assert (entry.fee, entry.fee_currency, entry.currency) == (Decimal("0.5"), "USD", "KRW")
    with pytest.raises(InvalidRecord, match=r"F2 fee: '[$]0.5' .* the fee's currency is KRW"):
        records(LEDGER, KOREAN, [*FILL[:5], "$0.5", "77"])


def test_a_currency_sign_in_a_header_holds_for_its_cells() -> None:
    header = ["체결일시", "종목코드", "매매구분", "수량", "price ($)", "수수료", "통화"]
    with pytest.raises(InvalidRecord, match=r"E2 price: the header says an amount of .*, the row's currency is KRW"):
        records(LEDGER, header, [*FILL[:4], 190.5, 0, None])
    assert records(LEDGER, header, [*FILL[:4], 190.5, 0, "USD"])[0].currency == "USD"
    with pytest.raises(InvalidRecord, match="an amount of ₽, the row's currency is KRW"):
        records(LEDGER, ["체결일시", "종목코드", "매매구분", "수량", "price ₽", "수수료"], FILL[:6])
    with pytest.raises(InvalidRecord, match="several currencies"):
        records(LEDGER, ["체결일시", "종목코드", "매매구분", "수량", "price ₩/$", "수수료"], FILL[:6])


def test_a_column_of_percentages_is_not_taken_for_one_of_numbers() -> None:
    header = ["종목코드", "수량", "평균단가", "비중(%)"]
    assert records(POSITIONS, header, ["005930", 10, 71500, 5.2])[0].exposure_pct is None
    assert records(POSITIONS, [*header, "weight"], ["005930", 10, 71500, 5.2, "5.2%"])[0].exposure_pct == Decimal(
        "0.052"
    )
    with pytest.raises(
        InvalidRecord, match=r"Position!1 exposure_pct: the header D .* says that its cells are percent"
    ):
        Header.of(POSITIONS, "Position", header, {"exposure_pct": "비중(%)"})
    with pytest.raises(InvalidRecord, match="Position!1 cost_basis: the header D 'Cost ％' says"):
        rows_of(POSITIONS, ["종목코드", "수량", "평균단가", "Cost ％"])
    with pytest.raises(
        InvalidRecord, match=r"Risk Config!1 value: the header B 'value \(%\)' says .* write 0.052 or 5.2%"
    ):
        rows_of(LAYOUTS["risk_limits"], ["key", "value (%)"])
    with pytest.raises(InvalidRecord, match="T_Ledger!1 fee: the header F 'Fee %'"):
        rows_of(LEDGER, [*KOREAN[:5], "Fee %"])
    (entry,) = records(LEDGER, [*KOREAN, "Fee %"], [*FILL[:5], 15, "77", 0.015])
    assert entry.fee == 15


def test_equal_rows_without_an_id_keep_their_keys() -> None:
    """Equal rows are two fills. Their keys stay when rows move or empty rows come between them."""
    header, rows = KOREAN[:-1], [FILL[:-1], FILL[:-1], [*FILL[:3], 11, *FILL[4:-1]]]
    first = records(LEDGER, header, *rows)
    again = records(LEDGER, header, rows[2], [], rows[0], rows[1])
    assert len({entry.idempotency_key for entry in first}) == 3
    assert {entry.idempotency_key for entry in first} == {entry.idempotency_key for entry in again}


def test_an_amount_that_is_not_quantity_times_price_is_refused() -> None:
    assert records(LEDGER, [*KOREAN, "금액"], [*FILL, 715000])
    with pytest.raises(InvalidRecord, match="H2 amount: is 715001, but qty x price is 715000"):
        records(LEDGER, [*KOREAN, "금액"], [*FILL, 715001])


def test_positions_and_bars_are_read() -> None:
    (position,) = records(POSITIONS, ["종목코드", "보유수량", "평균단가", "비중"], ["005930", -3, 71500.5, "12%"])
    assert (position.qty, position.cost_basis, position.exposure_pct) == (-3, Decimal("-214501.5"), Decimal("0.12"))
    (bar,) = records(
        DAILY_BARS, ["날짜", "종목코드", "시가", "고가", "저가", "종가", "거래량"],
        [46346, "005930", 1, 3, 1, 2, "1,000"],
    )  # fmt: skip
    assert (bar.time, bar.volume) == (dt.datetime(2026, 11, 19, 15, tzinfo=dt.UTC), Decimal(1000))
    with pytest.raises(InvalidRecord, match=r"row 2: Position!C2 avg_price: -100 is below zero"):
        records(POSITIONS, ["종목코드", "보유수량", "평균단가"], ["005930", 10, -100])
    with pytest.raises(InvalidRecord, match=r"row 2: Position!2 cost_basis: .* digits before the point"):
        records(POSITIONS, ["종목코드", "보유수량", "평균단가"], ["005930", 9_999_999_999, 9_999_999_999])
    with pytest.raises(InvalidRecord, match="open: 9 is not between"):
        records(DAILY_BARS, list(DAILY_BARS.fields), [46346, "005930", "", 9, 3, 1, 2, 5])


def test_parameter_that_cannot_be_stored_is_named_by_its_cell() -> None:
    """PostgreSQL stores no NUL character."""
    with pytest.raises(InvalidRecord, match=r"row 2: Strategy!C2 value: 'a.*b' holds a NUL"):
        records(LAYOUTS["strategies"], ["strategy", "name", "value"], ["s", "n", "a\0b"])


nasty = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["₩75,000", "1,234.5", "(1,234)", "12%", "#N/A", "#REF!", "", " ", "=A1", "005930", "5930", "１２３", "BUY",
         "매도",
         "2026-11-20", 46346, 46346.375, 1.1, 0, 10, "1e8", "-0", "\x00", "\ud800"]
    ),
)  # fmt: skip
tables = st.sampled_from(sorted(LAYOUTS)).flatmap(
    lambda kind: st.tuples(
        st.just(LAYOUTS[kind]),
        st.permutations([*LAYOUTS[kind].fields, "junk", ""]),
        st.lists(st.lists(nasty, max_size=20), max_size=6),
    )
)


@settings(max_examples=CASES)
@given(tables)
def test_any_sheet_gives_right_rows_or_errors_with_a_place(table: tuple[Layout, list[str], list[Any]]) -> None:
    """Random sheets: each row is read exactly or refused with its sheet, row and column."""
    layout, header, cells = table
    found, rows = rows_of(layout, header, *cells)
    maker = RecordMaker(found, Defaults())
    for row in rows:
        try:
            record = maker.make(row)
        except InvalidRecord as error:
            assert error.row == row.number
            assert error.field.startswith(f"{layout.title}!")
            assert str(row.number) in error.field
            continue
        given_cells = cells[row.number - 2]
        for name in {"qty", "price", "open", "volume", "avg_price"} & set(layout.fields):
            place = header.index(name)
            cell = given_cells[place]
            if isinstance(cell, int):
                assert getattr(record, name) == cell
            elif isinstance(cell, float):
                assert abs(getattr(record, name) - Decimal(cell)) <= Decimal(abs(cell)) * Decimal("1e-14")


@settings(max_examples=CASES)
@given(st.text(max_size=200))
def test_any_csv_text_gives_rows_or_errors(text: str) -> None:
    rows = list(csv.reader(io.StringIO("timestamp,symbol,side,qty,price,fee\n" + text.replace("\0", ""), newline="")))
    found = Header.of(LEDGER, "file.csv", rows[0])
    maker = RecordMaker(found, Defaults())
    for row in read_rows(found, rows[1:], zone=SEOUL, market="KRX", currency="KRW"):
        try:
            assert isinstance(maker.make(row), LedgerEntry)
        except InvalidRecord as error:
            assert error.field.startswith("file.csv!")
