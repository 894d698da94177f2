"""The move from a spreadsheet: phase by phase, killed and resumed, and back again."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import fcntl
import json
import os
import signal
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from pydantic import SecretStr

from qts_data import bootstrap
from qts_data.adapters import HybridAdapter, TimescaleDBAdapter
from qts_data.adapters.sheets.quota import Quota
from qts_data.contracts import Reversal
from qts_data.demo.sheets_server import Fault, faults_in_order, fill_book
from qts_data.errors import ConfigurationError, InvalidRecord, LedgerConflict, SourceUnavailable
from qts_data.importers.tables import LAYOUTS
from qts_data.moving import CutoverGates, Move
from qts_data.moving.delivery import DeliveryConfig
from qts_data.repositories import Database
from qts_data.settings import Settings
from tests.fixtures.effort import amount
from tests.fixtures.factories import FillFactory
from tests.fixtures.fix_cli import clean_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL

    from qts_data.adapters import GoogleSheetsAdapter
    from qts_data.demo.sheets_server import SheetsStandIn, Workbook
    from tests.fixtures.fix_cli import RunCommand
    from tests.fixtures.fix_sheets import MakeSheets

FAST = DeliveryConfig(idle_seconds=0.01, first_pause_seconds=0.01, settle_seconds=0.0)
GATES = CutoverGates(clean_verifications=2)


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
    return Move(database, sheets, delivery=FAST)


@pytest.fixture
def environment(database_url: URL, standin: SheetsStandIn, workbook: Workbook, tmp_path: Path) -> dict[str, str]:
    key_file = tmp_path / "key.json"
    key_file.write_text(json.dumps(standin.credentials()), encoding="utf-8")
    return {
        "QTS_DATABASE_URL": database_url.render_as_string(hide_password=False),
        "QTS_SHEETS_SPREADSHEET_ID": workbook.spreadsheet_id,
        "QTS_SHEETS_CREDENTIALS_FILE": str(key_file),
        "QTS_SHEETS_URL": standin.url,
        "QTS_SHEETS_READS_PER_MINUTE": "100000",
        "QTS_SHEETS_WRITES_PER_MINUTE": "100000",
        "QTS_BOOK_BROKER": "test",
    }


def put(workbook: Workbook, kind: str, *rows: dict[str, Any], without: str = "") -> None:
    """A sheet with these rows, and without a column."""
    fields = [name for name in LAYOUTS[kind].fields if name != without]
    workbook.put(LAYOUTS[kind].title, [fields, *([row.get(name) for name in fields] for row in rows)])


TRADE = {
    "timestamp": "2026-11-20 09:00:00", "symbol": "005930", "side": "BUY", "qty": 10, "price": 100, "fee": 0,
    "broker": "test",
}  # fmt: skip
HELD = {"symbol": "005930", "qty": 10, "avg_price": 100}


async def quantity(database: Database, symbol: str = "005930") -> Decimal | None:
    async with database.reader() as reader:
        held = await reader.positions.find_position(symbol)
    return None if held is None else held.qty


class Stopped(Exception):
    pass


async def shadowing(move: Move, workbook: Workbook) -> None:
    fill_book(workbook, positions=10, fills=40)
    await move.copy()
    await move.shadow()


async def test_a_plan_names_every_bad_cell_and_writes_nothing(
    move: Move, workbook: Workbook, standin: SheetsStandIn
) -> None:
    fill_book(workbook, positions=10, fills=40)
    good = await move.plan()
    assert good.ready
    assert (good.openings, {one.kind: one.rows for one in good.tables}) == (
        1,
        {"ledger": 40, "positions": 10, "daily_bars": 15, "strategies": 3, "system": 2, "risk_limits": 2},
    )
    cells = workbook.sheets["T_Ledger"].cells
    cells[1][1], cells[2][3], cells[3][7] = 5930, "#REF!", cells[4][7]
    workbook.sheets["Position"].cells[2][2] = 99
    found = await move.plan()
    assert not found.ready
    problems = [problem for one in found.tables for problem in one.problems]
    assert [problem.partition(":")[0] for problem in problems] == ["row 2", "row 3", "row 5"]
    assert "T_Ledger!B2 symbol" in problems[0]
    assert "T_Ledger!D3 qty" in problems[1]
    assert "is in row 4, too" in problems[2]
    with pytest.raises(InvalidRecord, match=r"T_Ledger!B2 symbol.*and 2 more"):
        await move.copy()
    assert (await move.status()).copied == {}
    assert standin.calls["write"] == 0


async def test_position_unequal_to_its_fills_stops_the_copy(move: Move, workbook: Workbook) -> None:
    """The plan names the position, and `copy` raises."""
    fill_book(workbook, positions=10, fills=40)
    workbook.sheets["Position"].cells[2][2] = "1,000,000"
    assert "its fills add up to" in (await move.plan()).disagreements[0]
    with pytest.raises(InvalidRecord, match="add the fills that are missing"):
        await move.copy()


async def test_fills_after_an_opening_are_copied_without_a_second(
    move: Move, workbook: Workbook, database: Database, sheets: GoogleSheetsAdapter
) -> None:
    """A position without fills gets one opening fill. An opening entered by hand later is refused."""
    put(workbook, "positions", HELD)
    await move.copy()
    await move.copy()
    await sheets.append_ledger(FillFactory.build(execution_id="T1", qty=Decimal(5)))
    assert (await move.plan()).ready
    await move.copy()
    assert await quantity(database) == 15
    assert (await move.verify()).consistent
    # A user enters the opening by hand, and the database has it already.
    cells = workbook.sheets["T_Ledger"].cells
    given = TRADE | {"timestamp": "2026-11-19 09:00:00", "execution_id": "OPEN"}
    cells.append([given.get(name) for name in LAYOUTS["ledger"].fields])
    assert "take the fill that opens it out of the sheet" in (await move.plan()).disagreements[0]
    with pytest.raises(InvalidRecord, match="opened it in the database with 10, and its fills add up to 15"):
        await move.copy()
    cells.pop()
    cells[1][LAYOUTS["ledger"].fields.index("qty")] = 4
    cells[1][LAYOUTS["ledger"].fields.index("amount")] = None
    with pytest.raises(InvalidRecord, match="add the fills that are missing since, but none that opens it"):
        await move.copy()
    assert await quantity(database) == 15


async def test_position_with_an_opening_moves_there_and_back(
    move: Move, workbook: Workbook, database: Database, sheets: GoogleSheetsAdapter
) -> None:
    """Copy, shadow, rollback and another copy keep the position exact, whose first fill is an opening."""
    put(workbook, "positions", HELD, HELD | {"symbol": "000660"})
    await move.copy()
    await move.shadow()
    async with database.transaction() as uow:
        await uow.ledger.record_fills([FillFactory.build(qty=Decimal(5))])
    await move.rollback()
    await sheets.append_ledger(FillFactory.build(symbol="000660", side="SELL", qty=Decimal(10)))
    await move.copy()
    assert await quantity(database) == 15
    assert await quantity(database, "000660") == 0
    assert (await move.verify()).consistent
    put(workbook, "positions", HELD | {"qty": 15})
    await move.copy()
    put(workbook, "positions")
    with pytest.raises(InvalidRecord, match="main 005930: the fills add up to 15, and the position is missing"):
        await move.copy()


async def test_a_copy_that_is_refused_leaves_the_phase_as_it_was(
    move: Move, workbook: Workbook, database: Database
) -> None:
    await shadowing(move, workbook)
    await move.rollback()
    good = list(workbook.sheets["Position"].cells[2])
    workbook.sheets["Position"].cells[2][2] = "1,000,000"
    with pytest.raises(InvalidRecord):
        await move.copy()
    assert (await move.status()).phase == "rolled_back"
    workbook.sheets["Position"].cells[2] = good
    await move.copy()
    assert (await move.status()).phase == "copied"
    assert await database.health()


async def test_reversal_unnamed_by_the_sheet_is_known_to_the_book(
    move: Move, workbook: Workbook, database: Database
) -> None:
    """The sheet has no column for reversals. The copy recognises the reversal that the database booked."""
    await move.copy()
    entries = [FillFactory.build(execution_id=name) for name in ("A", "B")]
    async with database.transaction() as uow:
        await uow.ledger.record_fills(entries)
        await uow.ledger.reverse_fill(
            Reversal(timestamp=entries[1].timestamp, broker="test", execution_id="C", reverses="B")
        )
    await move.shadow()
    await move.rollback()
    cells = workbook.sheets["T_Ledger"].cells
    place = cells[0].index("reverses")
    for row in cells:
        del row[place:]
    await move.copy()
    assert (await move.verify()).consistent
    cells[3][cells[0].index("price")] = 99
    cells[3][cells[0].index("amount")] = None
    with pytest.raises(LedgerConflict, match="another fill has this execution id"):
        await move.copy()


async def test_reversal_named_after_the_copy_is_a_conflict(move: Move, workbook: Workbook, database: Database) -> None:
    """A row that was copied as a fill becomes a reversal in the sheet. The next copy refuses it."""
    rows: list[dict[str, Any]] = [
        TRADE | {"execution_id": "A"},
        TRADE | {"execution_id": "B"},
        TRADE | {"execution_id": "C", "side": "SELL"},
    ]
    put(workbook, "ledger", *rows)
    put(workbook, "positions", HELD)
    await move.copy()
    put(workbook, "ledger", *rows[:2], rows[2] | {"reverses": "B"})
    with pytest.raises(LedgerConflict, match=r"is booked, and does not reverse this fill.*given: .* reverses B"):
        await move.copy()
    assert await quantity(database) == 10


async def test_a_copy_that_is_cancelled_anywhere_goes_on_where_it_was(
    move: Move, workbook: Workbook, database: Database
) -> None:
    fill_book(workbook, positions=20, fills=300)
    reached: list[tuple[str, int]] = []

    def stop_at(number: int) -> Any:
        def progress(kind: str, done: int, _total: int) -> None:
            reached.append((kind, done))
            if len(reached) == number:
                raise Stopped

        return progress

    for number in (2, 6, 9):
        reached.clear()
        with pytest.raises(Stopped):
            await move.copy(chunk=20, progress=stop_at(number))
    assert (await move.status()).phase == "copy"
    before = (await move.status()).copied["ledger"]
    assert 0 < before[0] < before[1]
    reached.clear()
    await move.copy(chunk=20, progress=stop_at(10_000))
    assert next(done for kind, done in reached if kind == "ledger") == before[0] + 20
    assert (await move.verify()).consistent
    async with database.reader(snapshot=True) as reader:
        assert (await reader.positions.verify_positions()).mismatches == ()
    workbook.sheets["T_Ledger"].cells[1:] = workbook.sheets["T_Ledger"].cells[:0:-1]
    await move.copy()
    assert (await move.verify()).consistent


@pytest.mark.soak
async def test_a_copy_that_is_killed_goes_on_and_both_sides_agree(
    workbook: Workbook, environment: dict[str, str], move: Move
) -> None:
    fills = amount(1_200, 2_000)
    fill_book(workbook, positions=50, fills=fills)
    command = [str(Path(sys.executable).parent / "qts-data"), "migrate", "copy", "--chunk", "5"]
    seen = []
    for lines in (7, 25):
        # The command gets at most a page of output ahead of its reader, however slow the reader is.
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        process = await asyncio.create_subprocess_exec(*command, env=clean_environment(**environment), stderr=writing)
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as said:
            left = lines
            while left:
                line = await asyncio.to_thread(said.readline)
                assert line, "it ended before it was killed"
                left -= b"ledger" in line
            process.send_signal(signal.SIGKILL)
            assert await process.wait() == -signal.SIGKILL
        seen.append((await move.status()).copied["ledger"][0])
    assert 0 < seen[0] < seen[1] < fills
    copied = await move.copy()
    assert copied["ledger"] == fills
    report = await move.verify()
    assert report.consistent, report.findings[:3]


async def test_a_sheet_that_grows_while_it_is_copied_is_copied_again(move: Move, workbook: Workbook) -> None:
    fill_book(workbook, positions=10, fills=40)
    await move.copy()
    fill_book(workbook, positions=10, fills=40)
    cells = workbook.sheets["T_Ledger"].cells
    cells.append([*cells[-1][:3], 1, 1000, 0, "grid", "X-new"])
    row = next(row for row in workbook.sheets["Position"].cells if row[0] == cells[-1][1])
    signed = Decimal(1) if cells[-1][2] == "매수" else Decimal(-1)
    row[2] = f"{Decimal(str(row[2])) + signed:f}"
    await move.copy()
    report = await move.verify(tolerances={"positions.avg_price": Decimal(10**9)})
    assert report.consistent, report.findings


async def test_cutover_names_its_gates_and_can_be_rolled_back(
    move: Move, workbook: Workbook, database: Database, sheets: GoogleSheetsAdapter
) -> None:
    """A refused cutover names every gate. The rollback brings the later bookings into the sheet."""
    with pytest.raises(ConfigurationError, match="the phase is none, not shadow"):
        await move.cutover(GATES)
    with pytest.raises(ConfigurationError, match="no shadow in the phase none: it comes after copied"):
        await move.shadow()
    await shadowing(move, workbook)
    async with TimescaleDBAdapter(database) as primary:
        hybrid = HybridAdapter(primary, sheets)
        await hybrid.append_ledger(FillFactory.build(symbol="000007", broker="test"))
        with pytest.raises(ConfigurationError, match=r"0 of 2 comparisons.*1 messages are still in the outbox"):
            await move.cutover(GATES)
        await move.worker.drain()
        for _ in range(2):
            report = await move.verify()
            assert report.consistent, report.findings
        until = await move.cutover(GATES)
        assert dt.timedelta(days=13) < until - dt.datetime.now(dt.UTC) < dt.timedelta(days=15)

        booked = [await primary.append_ledger(FillFactory.build(symbol="000008", broker="test")) for _ in range(3)]
        async with database.transaction() as uow:
            await uow.ledger.reverse_fill(
                Reversal(
                    timestamp=dt.datetime.now(dt.UTC), broker="test", execution_id="BUST",
                    reverses=(await uow.ledger.get_entry(booked[1].ledger_id)).entry.stored_execution_id,
                )
            )  # fmt: skip
        with pytest.raises(ConfigurationError, match="no copy in the phase cutover"):
            await move.copy()
        assert await move.rollback() == 4
        assert (await move.verify()).consistent
        assert (await move.status()).phase == "rolled_back"
        await primary.append_ledger(FillFactory.build(symbol="000008", broker="test"))
        assert not (await move.status()).outbox.active


async def test_rollback_after_its_time_is_refused_with_the_date(
    move: Move, workbook: Workbook, database: Database
) -> None:
    """The time for a rollback after the cutover has passed."""
    await shadowing(move, workbook)
    for _ in range(2):
        await move.verify()
    await move.cutover(CutoverGates(clean_verifications=2, rollback=dt.timedelta(0)))
    with pytest.raises(ConfigurationError, match=r"no rollback: since .* UTC the sheet no longer receives"):
        await move.rollback()
    async with database.transaction() as uow:
        await uow.ledger.record_fill(FillFactory.build())
    assert (await move.status()).outbox.empty


async def test_difference_resets_the_clean_comparisons(move: Move, workbook: Workbook) -> None:
    await shadowing(move, workbook)
    await move.verify()
    workbook.sheets["Position"].cells[3][2] = 1
    await move.verify()
    status = await move.status()
    assert (status.clean_verifications, status.mismatches) == (0, 1)
    with pytest.raises(ConfigurationError, match="0 of 2 comparisons"):
        await move.cutover(GATES)


async def test_a_comparison_with_tolerances_opens_no_gate(move: Move, workbook: Workbook) -> None:
    await shadowing(move, workbook)
    workbook.sheets["Position"].cells[3][2] = 1
    for _ in range(2):
        assert (await move.verify(tolerances={"positions.qty": Decimal(10**9)})).consistent
    status = await move.status()
    assert (status.clean_verifications, status.verified_at) == (0, None)
    with pytest.raises(ConfigurationError, match="0 of 2 comparisons"):
        await move.cutover(GATES)


async def test_dead_or_held_up_message_is_a_difference(move: Move, workbook: Workbook, database: Database) -> None:
    await shadowing(move, workbook)
    async with database.transaction() as uow:
        await uow.ledger.record_fills(
            FillFactory.build(symbol=symbol, execution_id=name)
            for symbol, name in (("DEAD", "D1"), ("DEAD", "D2"), ("NEW", "N1"))
        )
        await uow.connection.execute(
            sa.text("UPDATE outbox SET state = 'dead', attempts = 5 WHERE id = (SELECT min(id) FROM outbox)")
        )
    found = {(one.table, one.key) for one in (await move.verify()).findings}
    assert found == {("positions", "main DEAD"), ("ledger", "test main D1"), ("ledger", "test main D2")}
    await move.feed.revive()
    assert (await move.verify()).consistent


async def test_fill_committed_behind_a_later_one_is_not_a_difference(
    move: Move, workbook: Workbook, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison runs while a transaction with a lower id is still open."""
    await shadowing(move, workbook)
    real = move._sheets.workbook.read  # noqa: SLF001 - between the two sides

    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(database.transaction())
        await first.ledger.record_fill(FillFactory.build(symbol="A"))
        async with database.transaction() as second:
            await second.ledger.record_fill(FillFactory.build(symbol="B"))
        await move.worker.drain()
        late = [first]

        async def read(*args: Any, **values: Any) -> Any:
            found = await real(*args, **values)
            if late and args == ("ledger",):
                late.clear()
                await stack.aclose()
                await move.worker.drain()
            return found

        monkeypatch.setattr(move._sheets.workbook, "read", read)  # noqa: SLF001
        report = await move.verify()
    assert not late
    assert report.consistent, report.findings


async def test_a_shadow_goes_on_when_the_sheet_comes_back(
    move: Move, workbook: Workbook, standin: SheetsStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    await shadowing(move, workbook)
    standin.faults = faults_in_order([Fault.UNAVAILABLE] * 6)  # as often as the client tries
    stop = asyncio.Event()
    async with asyncio.timeout(300):
        await move.watch(stop, every_seconds=0.01, looked=lambda *_: stop.set())
    assert "the two sides could not be compared: APIError: [503]" in caplog.text


async def test_fills_that_are_under_way_are_no_difference(move: Move, workbook: Workbook, database: Database) -> None:
    await shadowing(move, workbook)
    async with database.transaction() as uow:
        await uow.ledger.record_fills([FillFactory.build(symbol="000005"), FillFactory.build(symbol="NEW")])
    report = await move.verify()
    assert report.consistent, report.findings
    assert "2 positions were under way to the spreadsheet and are not compared" in report.tables[0].notes
    workbook.sheets["Position"].cells[3][2] = 1
    assert [one.key for one in (await move.verify()).findings] == [f"main {workbook.sheets['Position'].cells[3][0]}"]


async def test_shadow_delivers_fills_booked_before_its_start(
    move: Move, workbook: Workbook, database: Database
) -> None:
    """Fills booked between the copy and the shadow phase reach the sheet once."""
    fill_book(workbook, positions=10, fills=40)
    await move.copy()
    async with database.transaction() as uow:
        await uow.ledger.record_fill(FillFactory.build(symbol="EARLY"))
    assert await move.shadow() == 1
    assert await move.shadow() == 0
    looks: list[int] = []
    stop = asyncio.Event()

    def looked(report: Any, _status: Any) -> None:
        looks.append(len(report.findings))
        if len(looks) == 2:
            stop.set()

    async with asyncio.timeout(300):
        await move.watch(stop, every_seconds=0.01, looked=looked)
    assert looks == [0, 0]


async def test_rollback_without_an_answering_sheet_changes_nothing(
    database: Database, make_sheets: MakeSheets, workbook: Workbook, standin: SheetsStandIn
) -> None:
    """The phase stays, and the message stays in the outbox."""
    async with make_sheets(attempts=1) as sheets:
        move = Move(database, sheets, delivery=FAST)
        await shadowing(move, workbook)
        async with database.transaction() as uow:
            await uow.ledger.record_fill(FillFactory.build())
        standin.faults = lambda _method: Fault.DROP
        with pytest.raises(SourceUnavailable):
            await move.rollback()
        assert (await move.status()).phase == "shadow"
        assert (await move.status()).outbox.pending == 1


async def test_a_rollback_that_fails_half_way_strands_nothing(
    database: Database, make_sheets: MakeSheets, workbook: Workbook, standin: SheetsStandIn
) -> None:
    async with make_sheets(attempts=1) as sheets:
        move = Move(database, sheets, delivery=FAST)
        await shadowing(move, workbook)

        async def book() -> None:
            async with database.transaction() as uow:
                await uow.ledger.record_fill(FillFactory.build(symbol="000007"))

        disable = move.feed.disable

        async def late() -> None:
            await book()  # at the last moment
            await disable()
            standin.faults = lambda _method: Fault.UNAVAILABLE

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(move.feed, "disable", late)
            with pytest.raises(SourceUnavailable):
                await move.rollback()
        standin.faults = lambda _method: None
        status = await move.status()
        assert (status.phase, status.outbox.pending, status.outbox.active) == ("shadow", 1, False)
        await book()  # the outbox is inactive and gets no message of it
        assert await move.rollback() == 2
        assert (await move.status()).phase == "rolled_back"
        assert (await move.verify()).consistent
        async with database.transaction() as uow:
            # A booking that had begun before the feed ended.
            (booked,) = await uow.ledger.record_fills([FillFactory.build(symbol="000007")])
            await uow.outbox("sheets").add_fills([booked.ledger_id])
        assert await move.rollback() == 1
        assert (await move.verify()).consistent


async def test_the_mode_of_an_engine_must_be_that_of_the_phase(
    environment: dict[str, str], move: Move, workbook: Workbook
) -> None:
    def settings(mode: str) -> Settings:
        return Settings(
            data_source_mode=mode,
            database_url=SecretStr(environment["QTS_DATABASE_URL"]),
            sheets_spreadsheet_id=environment["QTS_SHEETS_SPREADSHEET_ID"],
            sheets_credentials_file=Path(environment["QTS_SHEETS_CREDENTIALS_FILE"]),
            sheets_url=environment["QTS_SHEETS_URL"],
        )

    fill_book(workbook, positions=10, fills=40)
    for mode, name in (("SHEETS_ONLY", "sheets"), ("HYBRID", "hybrid"), ("DB_ONLY", "database")):
        async with bootstrap.data_source(settings(mode)) as source:
            assert source.name == name
    await move.copy()
    await move.shadow()
    with pytest.raises(ConfigurationError, match="the database decides: run with QTS_DATA_SOURCE_MODE=HYBRID"):
        async with bootstrap.data_source(settings("SHEETS_ONLY")):
            pass
    without = settings("HYBRID").model_copy(update={"sheets_credentials_file": None})
    with pytest.raises(ConfigurationError, match="QTS_SHEETS_CREDENTIALS_FILE"):
        async with bootstrap.data_source(without):
            pass


async def test_a_quota_lets_so_many_calls_through_in_any_minute() -> None:
    now = 0.0
    taken: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    quota = Quota(300, clock=lambda: now, sleep=sleep)
    for _ in range(1000):
        await quota.take()
        taken.append(now)
        now += 0.01
    assert all(later - earlier > 59.999 for earlier, later in zip(taken, taken[300:], strict=False))
    assert quota.calls == 1000


def test_commands_run_a_whole_move(
    qts_data: RunCommand, environment: dict[str, str], workbook: Workbook, tmp_path: Path
) -> None:
    fill_book(workbook, positions=10, fills=40)
    assert "phase     not begun" in qts_data("migrate", "status", **environment).stdout
    planned = qts_data("migrate", "plan", **environment)
    assert planned.returncode == 0, planned.stderr
    assert "1 positions have no fills and will be opened" in planned.stdout
    copied = qts_data("migrate", "copy", **environment)
    assert copied.stdout.strip().endswith("ledger 40"), copied.stderr
    assert "ledger: 40 of 40 rows" in copied.stderr
    refused = qts_data("migrate", "cutover", **environment)
    assert refused.returncode == 1
    assert "no cutover: the phase is copied, not shadow" in refused.stderr
    shadow = qts_data("migrate", "shadow", "--seconds", "0.6", "--every", "0.1", **environment)
    assert "0 differences" in shadow.stdout, shadow.stderr
    page = tmp_path / "proof.html"
    verified = qts_data("migrate", "verify", "--html", str(page), **environment)
    assert verified.returncode == 0, verified.stderr
    assert "both sides agree, to the last digit" in verified.stdout
    assert "Both sides agree" in page.read_text(encoding="utf-8")
    assert "way back  open: rollback" in qts_data("migrate", "status", **environment).stdout
    done = qts_data("migrate", "cutover", "--clean", "1", **environment)
    assert "QTS_DATA_SOURCE_MODE=DB_ONLY" in done.stdout, done.stderr
    assert "way back  open until" in qts_data("migrate", "status", "--retry", **environment).stdout
    workbook.sheets["Position"].cells[3][2] = "1,5"
    differs = qts_data("migrate", "verify", "--json", **environment)
    assert (differs.returncode, json.loads(differs.stdout)["consistent"]) == (1, False)
    assert qts_data("migrate", "verify", "--tolerance", "x", **environment).returncode == 2
    environment["QTS_SHEETS_SPREADSHEET_ID"] = "another"
    gone = qts_data("migrate", "verify", **environment)
    assert gone.returncode == 2
    assert "Requested entity was not found" in gone.stderr


async def test_state_of_a_move_is_in_three_tables(move: Move, workbook: Workbook, database: Database) -> None:
    """The move, its checkpoints and its comparisons are rows of three tables."""
    await shadowing(move, workbook)
    await move.verify()
    async with database.reader() as reader:
        for table, rows in (("source_moves", 1), ("source_move_checkpoints", 6), ("source_move_verifications", 1)):
            assert await reader.connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) == rows
