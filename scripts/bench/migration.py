"""How long does a move take, and how much does HYBRID delay a trade?

    python scripts/bench/migration.py [fills of the sheet, 0 to leave the copy out] [fills in HYBRID]

Starts an embedded PostgreSQL of its own, with fsync on, and a stand-in for Google Sheets.

1. `qts-data migrate copy` copies a spreadsheet with 3,000 positions and 50,000 fills. It is killed (SIGKILL) at five
   random points and started again each time; then both sides are compared. The stand-in allows 300 reads a minute.
2. Fills are booked one after the other, in blocks that take turns: DB_ONLY, HYBRID. Meanwhile another process (nice 10)
   delivers the outbox to a stand-in that answers 429 and 500, times out, drops connections after having written, and
   writes late. At the end both sides are compared.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from qts_data.adapters import GoogleSheetsAdapter, HybridAdapter, InMemoryAdapter, TimescaleDBAdapter
from qts_data.adapters.sheets.client import SheetsClient, SheetsConfig
from qts_data.contracts import LedgerEntry
from qts_data.database import migrations
from qts_data.database.engine import parse_url
from qts_data.demo.sheets_server import SheetsStandIn, faults_at_random, fill_book
from qts_data.embedded import EmbeddedServer
from qts_data.importers.tables import LAYOUTS, Defaults
from qts_data.moving import Move
from qts_data.moving.consistency import verify_data_consistency
from qts_data.moving.delivery import DeliveryConfig, OutboxWorker
from qts_data.repositories import Database

if TYPE_CHECKING:
    from qts_data.adapters.port import DataSourceAdapter
    from qts_data.demo.sheets_server import Workbook

POSITIONS = 3_000
KILLS = 5
BLOCK = 250
DEFAULTS = Defaults(broker="test")
dice = random.Random(11)  # noqa: S311


def sheets_of(standin: SheetsStandIn, workbook: Workbook, config: SheetsConfig | None = None) -> GoogleSheetsAdapter:
    """Make the real client for the stand-in."""
    made = config or SheetsConfig(
        spreadsheet_id=workbook.spreadsheet_id,
        credentials=standin.credentials(),
        base_url=standin.url,
        reads_per_minute=300,
        writes_per_minute=300,
    )
    return GoogleSheetsAdapter(SheetsClient(made), DEFAULTS)


def environment(url: str, standin: SheetsStandIn, workbook: Workbook, key_file: Path) -> dict[str, str]:
    """Return the environment of `qts-data`."""
    key_file.write_text(json.dumps(standin.credentials()), encoding="utf-8")
    return os.environ | {
        "QTS_DATABASE_URL": url,
        "QTS_SHEETS_SPREADSHEET_ID": workbook.spreadsheet_id,
        "QTS_SHEETS_CREDENTIALS_FILE": str(key_file),
        "QTS_SHEETS_URL": standin.url,
        "QTS_SHEETS_READS_PER_MINUTE": "300",
        "QTS_BOOK_BROKER": DEFAULTS.broker,
    }


def copy_until_killed(command: list[str], given: dict[str, str], after_lines: int) -> bool:
    """Run the copy. Return True if it was killed, False if it ended before."""
    with subprocess.Popen(command, env=given, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        for _ in range(after_lines):
            if not process.stderr.readline():
                return False
        process.send_signal(signal.SIGKILL)
        process.stderr.read()
    return True


def measure_copy(server_url: str, fills: int, folder: Path) -> None:
    """Measure a copy killed five times, and compare both sides."""
    with SheetsStandIn(reads_per_minute=300) as standin:
        workbook = standin.workbook()
        fill_book(workbook, positions=POSITIONS, fills=fills)
        given = environment(server_url, standin, workbook, folder / "key.json")
        command = [str(Path(sys.executable).parent / "qts-data"), "migrate", "copy", "--chunk", "1000"]
        started = time.perf_counter()
        killed = 0
        for _ in range(KILLS):
            killed += copy_until_killed(command, given, dice.randrange(3, max(4, fills // 1000 // KILLS + 6)))
        subprocess.run(command, env=given, check=True, capture_output=True)
        seconds = time.perf_counter() - started
        calls = standin.calls["read"]

        async def proof() -> None:
            async with Database(parse_url(server_url)) as database, sheets_of(standin, workbook) as sheets:
                report = await Move(database, sheets).verify()
                async with database.reader(snapshot=True) as reader:
                    folded = await reader.positions.verify_positions()
                rows = {table.table: (table.rows_here, table.rows_there) for table in report.tables}
                print(f"   rows here and there: {rows}")
                print(f"   differences: {len(report.findings)}; the ledger folded again: {len(folded.mismatches)}")
                print(f"   compared in {report.seconds:.1f} s")
                report.require_consistent()

        print(f"1. {POSITIONS:,} positions, {fills:,} fills: copied in {seconds:.1f} s, killed {killed} times")
        print(f"   {calls} reads of the API in {KILLS + 1} runs, {standin.calls['refused']} refused by the quota (300)")
        asyncio.run(proof())


def fill(number: int) -> LedgerEntry:
    """Make a fill of one of 50 symbols."""
    return LedgerEntry(
        timestamp=dt.datetime(2026, 11, 20, tzinfo=dt.UTC) + dt.timedelta(milliseconds=number),
        symbol=f"{number % 50:06d}",
        market="KRX",
        side="BUY" if number % 3 else "SELL",
        qty=Decimal(1 + number % 997).scaleb(-2),
        price=Decimal(70_000 + number % 100),
        currency="KRW",
        broker="test",
        execution_id=f"H{number}",
    )


async def other_side(url: str) -> None:
    """Run the other process: stand-in with faults, and worker. It ends when stdin ends, and prints its results."""
    os.nice(10)
    with SheetsStandIn() as standin:
        workbook = standin.workbook()
        for layout in LAYOUTS.values():
            workbook.put(layout.title, [list(layout.fields)])
        standin.faults = faults_at_random(5, 0.2, weights=[3, 3, 2, 2, 2, 3, 0.3, 0.3])
        standin.delay_seconds = 4.0
        config = SheetsConfig(
            spreadsheet_id=workbook.spreadsheet_id, credentials=standin.credentials(), base_url=standin.url,
            timeout_seconds=2.0, reads_per_minute=10**6, writes_per_minute=10**6, first_pause_seconds=0.02, attempts=3,
        )  # fmt: skip
        async with Database(parse_url(url)) as database, sheets_of(standin, workbook, config) as sheets:
            delivery = DeliveryConfig(batch=200, first_pause_seconds=0.05, idle_seconds=0.05, settle_seconds=2.0)
            worker = OutboxWorker(database, sheets.writer, config=delivery)
            stop = asyncio.Event()
            running = asyncio.create_task(worker.run(stop))
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)
            async with TimescaleDBAdapter(database) as primary:
                hybrid = HybridAdapter(primary, InMemoryAdapter())
                while not (await hybrid.outbox.status()).empty:  # noqa: ASYNC110 - another process fills it
                    await asyncio.sleep(0.1)
            stop.set()
            await running
            standin.faults = lambda _method: None
            await asyncio.sleep(2 * standin.delay_seconds)
            await worker.settle()
            async with sheets_of(standin, workbook) as patient:
                report = await verify_data_consistency(database, patient.workbook, tables=["ledger", "positions"])
            found = {
                "rows": {table.table: (table.rows_here, table.rows_there) for table in report.tables},
                "findings": [dataclasses.asdict(finding) for finding in report.findings[:5]],
                "failures": worker.failures,
                "calls": dict(standin.calls),
            }
            print(json.dumps(found), flush=True)


async def measure_hybrid(url: str, fills: int) -> None:
    """Measure both modes in turns. Print p50 and p99 of each."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--other-side", url, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None  # noqa: S101 - they are pipes
    assert process.stdout is not None  # noqa: S101
    took: dict[str, list[float]] = {"DB_ONLY": [], "HYBRID": []}
    async with Database(parse_url(url)) as database, TimescaleDBAdapter(database) as primary:
        hybrid = HybridAdapter(primary, InMemoryAdapter())
        await hybrid.outbox.enable()
        await process.stdout.readline()
        numbers = iter(range(10**9))
        skipped: list[int] = []
        while len(took["HYBRID"]) < fills:
            for mode, times in took.items():
                adapter: DataSourceAdapter = hybrid
                if mode == "DB_ONLY":
                    await hybrid.outbox.disable()
                    adapter = primary
                else:
                    await hybrid.outbox.enable()
                for _ in range(BLOCK):
                    number = next(numbers)
                    started = time.perf_counter()
                    booked = await adapter.append_ledger(fill(number))
                    times.append(time.perf_counter() - started)
                    if mode == "DB_ONLY":
                        skipped.append(booked.ledger_id)
        # Fills booked while the outbox was disabled are delivered, too, so that both sides can be compared.
        async with database.transaction() as uow:
            await uow.outbox("sheets").enable()
            await uow.outbox("sheets").add_fills(skipped)
    process.stdin.close()
    found = json.loads(await process.stdout.read())
    await process.wait()

    def at(mode: str, share: float) -> float:
        return sorted(took[mode])[int(len(took[mode]) * share)] * 1e3

    print(f"2. {fills:,} fills in HYBRID, {len(took['DB_ONLY']):,} in DB_ONLY, in turns of {BLOCK}")
    for mode in took:
        print(f"   {mode:8} p50 {at(mode, 0.5):.3f} ms, p99 {at(mode, 0.99):.3f} ms")
    ratios = [f"p{share * 100:.0f} {at('HYBRID', share) / at('DB_ONLY', share):.2f}" for share in (0.5, 0.99)]
    print(f"   HYBRID / DB_ONLY: {', '.join(ratios)}")
    print(f"   rows here and there: {found['rows']}; differences: {found['findings'] or 'none'}")
    print(f"   {found['failures']} deliveries failed; requests {found['calls']}")
    if found["findings"]:
        sys.exit(1)


def main() -> None:
    """Run both measurements, each in a database of its own."""
    if sys.argv[1:2] == ["--other-side"]:
        asyncio.run(other_side(sys.argv[2]))
        return
    sheet_fills = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    hybrid_fills = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "data")
        running = server.start()
        try:
            for name in ("copied", "hybrid"):
                server.ensure_database(name)
                migrations.upgrade(parse_url(running.url(name)))
            if sheet_fills:
                measure_copy(running.url("copied"), sheet_fills, Path(folder))
            asyncio.run(measure_hybrid(running.url("hybrid"), hybrid_fills))
        finally:
            server.delete()


if __name__ == "__main__":
    main()
