"""The demo of a move: from a spreadsheet with typical faults to the same book in the database."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from qts_data import bootstrap
from qts_data.contracts import LedgerEntry
from qts_data.database import migrations
from qts_data.database.engine import parse_url
from qts_data.demo.sheets_server import Fault, SheetsStandIn, faults_in_order, fill_book
from qts_data.embedded import EmbeddedServer
from qts_data.moving import CutoverGates, Move
from qts_data.moving.delivery import DeliveryConfig
from qts_data.settings import load_settings
from qts_data.terminal.console import console, heading
from qts_data.terminal.moving import print_plan, print_report, print_status

if TYPE_CHECKING:
    from qts_data.demo.sheets_server import Workbook
    from qts_data.embedded import ServerInfo
    from qts_data.settings import Settings

__all__ = ["run_demo"]

_DATABASE: Final = "qts_move"
_POSITIONS: Final = 30
_FILLS: Final = 500


def run_demo(directory: Path) -> None:
    """Show spreadsheet, plan, repair, copy, shadow with failures, proof, cutover, rollback.

    If this call starts the server, it stops it at the end.
    """
    server = EmbeddedServer(directory)
    ran_before = server.info() is not None
    heading("1. Start PostgreSQL and a stand-in for Google Sheets")
    try:
        _run(server.start(), server)
    finally:
        if not ran_before:
            server.stop()


def _run(running: ServerInfo, server: EmbeddedServer) -> None:
    server.drop_database(_DATABASE)
    server.ensure_database(_DATABASE)
    migrations.upgrade(parse_url(running.url(_DATABASE)))
    with SheetsStandIn(reads_per_minute=300) as standin, tempfile.TemporaryDirectory() as folder:
        workbook = standin.workbook("demo-book")
        fill_book(workbook, positions=_POSITIONS, fills=_FILLS)
        key_file = Path(folder) / "service-account.json"
        key_file.write_text(json.dumps(standin.credentials()), encoding="utf-8")
        settings = load_settings().model_copy(
            update={
                "database_url": SecretStr(running.url(_DATABASE)),
                "sheets_spreadsheet_id": workbook.spreadsheet_id,
                "sheets_credentials_file": key_file,
                "sheets_url": standin.url,
                "sheets_reads_per_minute": 300,
                "sheets_writes_per_minute": 300,
                "book_broker": "demo",
            }
        )
        console.print(f"   {_FILLS} fills and {_POSITIONS} positions, headers in Korean, at {standin.url}")
        asyncio.run(_move(settings, standin, workbook))
    console.print(
        "\nThe same commands move a real spreadsheet: QTS_SHEETS_SPREADSHEET_ID, QTS_SHEETS_CREDENTIALS_FILE,\n"
        "then qts-data migrate plan, copy, shadow, verify, cutover",
    )


async def _move(settings: Settings, standin: SheetsStandIn, workbook: Workbook) -> None:
    async with bootstrap.google_sheets(settings) as sheets, bootstrap.database(settings) as database:
        move = Move(database, sheets, delivery=DeliveryConfig(first_pause_seconds=0.2, settle_seconds=0.0))

        console.print()
        heading("2. Plan", ": the sheet has two typing mistakes")
        cells = workbook.sheets["T_Ledger"].cells
        good = cells[3][1], cells[5][3]
        cells[3][1], cells[5][3] = int(good[0]), "1,23"
        print_plan(await move.plan())
        cells[3][1], cells[5][3] = good
        print_plan(await move.plan())

        console.print()
        heading("3. Copy")
        copied = await move.copy()
        console.print("   " + ", ".join(f"{kind} {rows}" for kind, rows in copied.items()))

        console.print()
        heading("4. Shadow", ": 40 fills are booked while the sheet answers 429 and 500 and drops a connection")
        await move.shadow()
        standin.faults = faults_in_order([Fault.QUOTA, Fault.DROP_AFTER, Fault.ERROR_AFTER], method="POST")
        for number in range(40):
            async with database.transaction() as uow:
                await uow.ledger.record_fill(_fill(number))
        delivered = await move.worker.drain()
        console.print(f"   {delivered} delivered, {sheets.client.retries} requests sent again")

        console.print()
        heading("5. The proof")
        for _ in range(3):
            report = await move.verify()
        print_report(report)

        console.print()
        heading("6. Cut over, trade, and go back")
        until = await move.cutover(CutoverGates(clean_verifications=3))
        console.print(f"   on the database alone; the way back is open until {until:%Y-%m-%d %H:%M} UTC")
        async with database.transaction() as uow:
            await uow.ledger.record_fill(_fill(40))
        console.print(f"   rollback: {await move.rollback()} message was booked since, and is in the sheet")
        (await move.verify()).require_consistent()
        print_status(await move.status())
        console.print(
            f"   calls of the API: {sheets.client.reads.calls} reads, {sheets.client.writes.calls} writes "
            f"(quota 300 a minute, {standin.calls['refused']} refused)"
        )


def _fill(number: int) -> LedgerEntry:
    return LedgerEntry(
        timestamp=dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=number),
        symbol=f"{number % 7 + 10:06d}",
        market="KRX",
        side="SELL" if number % 3 else "BUY",
        qty=Decimal(number + 1).scaleb(-1),
        price=Decimal(50_000 + number),
        currency="KRW",
        broker="demo",
        execution_id=f"L{number}",
    )
