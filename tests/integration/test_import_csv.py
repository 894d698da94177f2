"""CSV files into the book: rows that are read, rows that are refused with their line, fills that are booked."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.importers.tables import Defaults
from qts_data.operations.csv_files import CsvMapping, CsvReject, import_csv, read_csv
from qts_data.repositories import Database
from tests.fixtures.effort import amount

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import URL

    from qts_data.contracts import Position
    from tests.fixtures.fix_cli import RunCommand

LEDGER = """\
체결일시,종목코드,매매구분,수량,체결단가,수수료,체결번호
2026-11-20 09:00:00,005930,매수,10,"71,500",15,1
2026-11-20 09:00:01,005930,매도,4,"72,000",7,2
2026-11-20 09:00:02,5930,매수,1,72000,0,3
"2026-11-20 09:00:03",005930,매수,1,,0,4
2026-11-20 09:00:04,000660,매수,"1,0",120000,0,5
2026-11-20 09:00:05,000660,매수,2,120000,0,6
2026-11-20 09:00:05,000660,매수,3,120000,0,6
"""


def url_of(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def positions(url: URL) -> dict[str, Position]:
    async def work() -> dict[str, Position]:
        async with Database(url) as database, database.reader(snapshot=True) as reader:
            assert (await reader.positions.verify_positions()).mismatches == ()
            return {one.symbol: one for one in await reader.positions.list_positions()}

    return asyncio.run(work())


def test_good_fills_are_booked_and_bad_rows_written_aside(
    qts_data: RunCommand, database_url: URL, tmp_path: Path
) -> None:
    """Bad rows go to a file with their line and reason."""
    (tmp_path / "fills.csv").write_text(LEDGER, encoding="utf-8-sig")
    environment = {"QTS_DATABASE_URL": url_of(database_url)}
    dry = qts_data("import", "csv", "ledger", "fills.csv", "--dry-run", **environment)
    assert dry.stdout.strip() == "read 7, written 3, unchanged 0, rejected 4; everything was rolled back"
    assert positions(database_url) == {}

    run = qts_data("import", "csv", "ledger", "fills.csv", **environment)
    assert (run.returncode, run.stdout.strip()) == (3, "read 7, written 3, unchanged 0, rejected 4")
    assert re.search(r"fills\.csv .* 4/4 ", run.stderr)  # four rows could be read
    with (tmp_path / "fills.csv.rejects.csv").open(encoding="utf-8") as file:
        header, *rejects = csv.reader(file)
    assert header == ["line", "reason", "row"]
    assert [(row[0], row[1].partition(":")[0]) for row in rejects] == [
        ("4", "fills.csv!B4 symbol"), ("5", "fills.csv!E5 price"), ("6", "fills.csv!D6 qty"),
        ("8", "another fill has this execution id"),
    ]  # fmt: skip
    assert rejects[2][2:] == ["2026-11-20 09:00:04", "000660", "매수", "1,0", "120000", "0", "5"]
    held = positions(database_url)
    assert (held["005930"].qty, held["005930"].realized_pnl) == (Decimal(6), Decimal(2000))
    assert held["000660"].qty == 2

    again = qts_data("import", "csv", "ledger", "fills.csv", **environment)
    assert again.stdout.strip() == "read 7, written 0, unchanged 3, rejected 4"


def test_the_bad_rows_never_overwrite_the_file(qts_data: RunCommand, database_url: URL, tmp_path: Path) -> None:
    (tmp_path / "fills.csv").write_text(LEDGER, encoding="utf-8")
    environment = {"QTS_DATABASE_URL": url_of(database_url)}
    run = qts_data("import", "csv", "ledger", "fills.csv", "--rejects", "./fills.csv", **environment)
    assert (run.returncode, positions(database_url)) == (1, {})
    assert "would overwrite fills.csv" in run.stderr
    run = qts_data("import", "csv", "ledger", "fills.csv", "--rejects", "no/such/place.csv", **environment)
    assert run.returncode == 1
    assert "the import is done, but no/such/place.csv cannot be written" in run.stderr
    assert (tmp_path / "fills.csv").read_text(encoding="utf-8") == LEDGER


def test_all_or_nothing_imports_nothing_and_names_the_row(
    qts_data: RunCommand, database_url: URL, tmp_path: Path
) -> None:
    (tmp_path / "fills.csv").write_text(LEDGER, encoding="utf-8")
    environment = {"QTS_DATABASE_URL": url_of(database_url)}
    run = qts_data("import", "csv", "ledger", "fills.csv", "--all-or-nothing", **environment)
    assert run.returncode == 1
    assert "error: row 4: fills.csv: fills.csv!B4 symbol" in run.stderr
    lines = LEDGER.splitlines()
    (tmp_path / "fills.csv").write_text("\n".join([lines[0], lines[1], *lines[6:]]), encoding="utf-8")
    run = qts_data("import", "csv", "ledger", "fills.csv", "--all-or-nothing", **environment)
    assert run.returncode == 1
    assert "error: row 4: " in run.stderr
    assert "another fill has this execution id" in run.stderr
    assert positions(database_url) == {}


TAKEN_BACK = """\
timestamp,symbol,side,qty,price,fee,broker,execution_id,reverses
2026-11-20 09:00:00,005930,BUY,10,100,1,test,A,
2026-11-20 09:01:00,005930,BUY,10,200,1,test,B,
2026-11-20 09:02:00,005930,SELL,10,200,-1,test,C,B
"""


async def test_line_that_reverses_a_fill_is_booked_as_a_reversal(database_url: URL, tmp_path: Path) -> None:
    file = tmp_path / "fills.csv"
    file.write_text(TAKEN_BACK, encoding="utf-8")
    async with Database(database_url) as database:
        for written in (3, 0):
            report = await import_csv(database, file, "ledger", CsvMapping())
            assert (report.written, report.unchanged, report.rejects) == (written, 3 - written, ())
            async with database.reader(snapshot=True) as reader:
                held = await reader.positions.find_position("005930")
                assert held is not None
                assert (held.qty, held.avg_price, held.realized_pnl) == (Decimal(10), Decimal(100), Decimal(0))
                assert (await reader.positions.verify_positions()).mismatches == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("SELL,10,200,0,test,C,b", "reverses: no fill 'b' of test is booked"),
        ("SELL,5,200,0,test,C,B", "must be the opposite trade"),
        ("BUY,10,200,0,test,C,B", "must be the opposite trade"),
        ("SELL,10,200,0,test,A,B", "this execution id is booked, and does not reverse this fill"),
        ("SELL,10,200,0,test,,B", "execution_id: is empty"),
    ],
)
async def test_line_that_reverses_no_matching_fill_is_a_bad_row(
    database_url: URL, tmp_path: Path, line: str, reason: str
) -> None:
    """The fill that a reversal names is absent or differs. The other lines are booked."""
    file = tmp_path / "fills.csv"
    head = TAKEN_BACK.splitlines(keepends=True)[:3]
    file.write_text("".join(head) + f"2026-11-20 09:02:00,005930,{line}\n", encoding="utf-8")
    async with Database(database_url) as database:
        report = await import_csv(database, file, "ledger", CsvMapping())
        assert [one.line for one in report.rejects] == [4]
        assert reason in report.rejects[0].reason
        async with database.reader(snapshot=True) as reader:
            held = await reader.positions.find_position("005930")
            assert held is not None
            assert held.qty == 20
            assert (await reader.positions.verify_positions()).mismatches == ()
        with pytest.raises(InvalidRecord, match="row 4: "):
            await import_csv(database, file, "ledger", CsvMapping(), all_or_nothing=True)


async def test_lines_that_contradict_each_other_are_bad_rows(database_url: URL, tmp_path: Path) -> None:
    """Lines of one day or one position that differ are all bad rows. The others are stored."""
    file = tmp_path / "some.csv"
    async with Database(database_url) as database:
        file.write_text(
            "date,symbol,open,high,low,close,volume\n2026-11-19,005930,1,2,1,2,5\n2026-11-19,005930,1,2,1,1,5\n"
            "2026-11-20,005930,1,2,1,2,5\n2026-11-20,005930,1,2,1,2,5\n",
            encoding="utf-8",
        )
        report = await import_csv(database, file, "daily-bars", CsvMapping())
        assert (report.read, report.written, report.unchanged) == (4, 1, 1)
        assert [(one.line, one.reason) for one in report.rejects] == [
            (line, "the lines 2, 3 are of the same symbol and day; they differ: which of them is right?")
            for line in (2, 3)
        ]
        file.write_text(
            "symbol,qty,avg_price,cost_basis\n005930,10,100,\n000660,10,-5,\n000270,1,1,\n005930,10,100,\n"
            "000100,9999999999,9999999999,1\n",
            encoding="utf-8",
        )
        report = await import_csv(database, file, "positions", CsvMapping())
        assert (report.read, report.written) == (5, 1)
        assert [(one.line, one.reason.partition(":")[0]) for one in report.rejects] == [
            (2, "the lines 2, 5 are of the same position; it comes once"), (3, "some.csv!C3 avg_price"),
            (5, "the lines 2, 5 are of the same position; it comes once"), (6, "some.csv!D6 cost_basis"),
        ]  # fmt: skip


def test_mapping_names_columns_and_gives_missing_values(
    qts_data: RunCommand, database_url: URL, tmp_path: Path
) -> None:
    (tmp_path / "old.csv").write_text(
        "when;what;side;n;px;comm;id\n2026-11-20 09:30;BTCUSDT;BUY;0.00000001;60000.5;0;a\n"
        "2026-11-20 09:30;매수;BUY;1;1;0;b\n",
        encoding="cp949",
    )
    (tmp_path / "old.toml").write_text(
        'delimiter = ";"\nencoding = "cp949"\n[columns]\ntimestamp = "when"\nsymbol = "what"\nqty = "n"\nprice = "px"\n'
        'fee = "comm"\nexecution_id = "id"\n[defaults]\nmarket = "BINANCE"\ncurrency = "USDT"\nbroker = "binance"\n'
        'time_zone = "America/New_York"\n',
        encoding="utf-8",
    )
    environment = {"QTS_DATABASE_URL": url_of(database_url)}
    run = qts_data("import", "csv", "ledger", "old.csv", "--mapping", "old.toml", **environment)
    assert run.stdout.strip() == "read 2, written 2, unchanged 0, rejected 0", run.stderr
    held = positions(database_url)["BTCUSDT"]
    assert (held.qty, held.currency, held.market) == (Decimal("0.00000001"), "USDT", "BINANCE")
    plain = qts_data("import", "csv", "ledger", "old.csv", **environment)
    assert "error: old.csv is not utf-8-sig" in plain.stderr
    (tmp_path / "old.toml").write_text("[defaults]\nzone = 1\n", encoding="utf-8")
    wrong = qts_data("import", "csv", "ledger", "old.csv", "--mapping", "old.toml", **environment)
    assert "holds 'zone'; it may hold delimiter" in wrong.stderr


def test_a_position_becomes_the_fill_that_opens_it(qts_data: RunCommand, database_url: URL, tmp_path: Path) -> None:
    environment = {"QTS_DATABASE_URL": url_of(database_url)}
    (tmp_path / "held.csv").write_text("symbol,qty,average price\n005930,-3,71500.5\n000660,0,0\n", encoding="utf-8")
    run = qts_data("import", "csv", "positions", "held.csv", **environment)
    assert run.stdout.strip() == "read 2, written 1, unchanged 1, rejected 0", run.stderr
    held = positions(database_url)
    assert (list(held), held["005930"].qty, held["005930"].avg_price) == (
        ["005930"], Decimal(-3), Decimal("71500.5"),
    )  # fmt: skip
    (tmp_path / "held.csv").write_text("symbol,qty,average price\n005930,-4,71500.5\n", encoding="utf-8")
    run = qts_data("import", "csv", "positions", "held.csv", **environment)
    assert (run.returncode, positions(database_url)) == (3, held)
    assert "only fills change a position" in (tmp_path / "held.csv.rejects.csv").read_text(encoding="utf-8")


def test_daily_bars_are_inserted_and_corrected(qts_data: RunCommand, database_url: URL, tmp_path: Path) -> None:
    environment = {"QTS_DATABASE_URL": url_of(database_url)}
    file = tmp_path / "bars.csv"
    file.write_text("date,symbol,open,high,low,close,volume\n2026-11-20,005930,1,3,1,2,10\n", encoding="utf-8")
    for written, unchanged in ((1, 0), (0, 1)):
        run = qts_data("import", "csv", "daily-bars", "bars.csv", **environment)
        assert run.stdout.strip() == f"read 1, written {written}, unchanged {unchanged}, rejected 0", run.stderr
    file.write_text("date,symbol,open,high,low,close,volume\n2026-11-20,005930,1,3,1,2,11\n", encoding="utf-8")
    assert "written 1" in qts_data("import", "csv", "daily-bars", "bars.csv", **environment).stdout


def read(path: Path, text: str) -> list[Any]:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
    return list(read_csv(path, "ledger", CsvMapping(defaults=Defaults())))


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    found = read(
        tmp_path / "a.csv", 'timestamp,symbol,side,qty,price,order_id\n2026-11-20,A,BUY,1,1,"x\ny"\n\n?,A,BUY,1,1,\n'
    )
    assert [one.line for one in found] == [2, 5]
    assert isinstance(found[1], CsvReject)
    assert "a.csv!A5 timestamp" in found[1].reason


def test_file_that_is_not_a_table_is_refused(tmp_path: Path) -> None:
    for text, reason in (
        ("", "the column 'timestamp'"),
        ("timestamp,symbol,side,qty\n", "the column 'price'"),
        ('timestamp,symbol,side,qty,price\n"2026,A\n', "is not CSV"),
        ("timestamp,symbol,side,qty,price,Price\n", "mean the same"),
    ):
        with pytest.raises(InvalidRecord, match=reason):
            read(tmp_path / "a.csv", text)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        list(read_csv(tmp_path / "none.csv", "ledger", CsvMapping()))
    (wide,) = read(tmp_path / "a.csv", "timestamp,symbol,side,qty,price\n2026-11-20,A,BUY,1,1,000\n")
    assert "has 6 columns, the header 5" in wide.reason


def test_line_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    head = "timestamp,symbol,side,qty,price,execution_id\n"
    for cut in ("2026-11-20,005930,BUY,10,7150", "2026-11-20,005930,BUY,10", "2026-11-20,005930,BUY,10,71500"):
        whole, short = read(tmp_path / "a.csv", f"{head}2026-11-20,005930,BUY,10,71500,X0\n{cut}")
        assert not isinstance(whole, CsvReject)
        assert isinstance(short, CsvReject)
        assert (short.line, short.reason) == (3, f"the row has {cut.count(',') + 1} columns, the header 6")
    (empty,) = read(tmp_path / "a.csv", f"{head}2026-11-20,005930,BUY,10,71500,\n")
    assert not isinstance(empty, CsvReject)


CASES = amount(60, 200, "QTS_TEST_FUZZ_CASES")
cells = st.sampled_from(
    ["2026-11-20", "005930", "BUY", "10", "1,000", "71500.5", "", "#N/A", "₩5", "(3)", "12%", "x", '"', "\n", "1e400"]
) | st.text(max_size=6)


@settings(max_examples=CASES)
@given(st.lists(st.lists(cells, min_size=4, max_size=7), max_size=5), st.booleans())
def test_any_file_gives_right_fills_or_lines_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], quoted: bool
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerow(["timestamp", "symbol", "side", "qty", "price", "order_id"])
    clean = [[cell.encode("utf-8", "ignore").decode().replace("\0", "") for cell in row] for row in rows]
    writer.writerows(clean)
    path = tmp_path_factory.getbasetemp() / "any.csv"
    for one in read(path, text.getvalue()):
        if isinstance(one, CsvReject):
            assert "any.csv!" in one.reason or "columns" in one.reason
        else:
            assert one.record.qty == Decimal(one.cells[3].strip().replace(",", "").replace("₩", "").replace("(", "-"))
