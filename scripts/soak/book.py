"""Does the book stay right while its writers are killed and its server crashes?

    python -m scripts.soak.book [--faults 200] [--seed 1] [--url postgresql://...]

Three processes book fills, busts and corrections: one by a `FillWriter` with 16 tasks, one by single transactions, one
by batches. The first two send the same fills. Meanwhile writers are killed with SIGKILL, connections are terminated,
and the server is stopped and crashed. A writer notes each answer in a file; after a fault it sends everything without
an answer again. After every fault, in one snapshot of the database:

* every answered entry is in the ledger, once, as it was sent;
* every position equals the result of the tests' reference (tests/fixtures/reference_book.py, whole numbers and
  fractions) for the ledger.

At the end every sent entry is in the ledger, and `verify_positions` finds nothing. Without --url it starts an embedded
server, with fsync on. A given server is not stopped, so its faults are those of writers and connections. Exit code 0 if
the book was right all the time, 1 if not; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qts_data.contracts import Correction, LedgerEntry, Reversal
from qts_data.database import migrations
from qts_data.database.engine import engine, parse_url
from qts_data.embedded import EmbeddedServer
from qts_data.errors import DatabaseError
from qts_data.repositories import Database
from qts_data.writers.fills import FillWriter
from tests.fixtures.reference_book import ReferenceBook, Trade, units

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sqlalchemy.engine import URL

    from qts_data.contracts import BookedEntry
    from qts_data.repositories import UnitOfWork

SYMBOLS = 8
BATCH = 150
NOW = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)


def fill(stream: str, number: int, *, suffix: str = "") -> LedgerEntry:
    """Return the fill of this number. Every caller gets the same one."""
    choose = random.Random(f"{stream}{number}{suffix}")
    return LedgerEntry(
        timestamp=NOW + dt.timedelta(milliseconds=number),
        symbol=f"S{number % SYMBOLS}",
        market="KRX",
        side=choose.choice(["BUY", "SELL"]),
        qty=Decimal(choose.choice([choose.randrange(1, 10**6), choose.randrange(1, 20) * 10**8])).scaleb(-8),
        price=Decimal(choose.randrange(1, 10**10)).scaleb(-8),
        currency="KRW",
        broker="soak",
        execution_id=f"{stream}{number}{suffix}",
    )


def report(number: int) -> Reversal | Correction | None:
    """Return the later report about a fill of the batches: a bust, a correction, or none."""
    if number % 50 == 7:
        return Reversal(timestamp=NOW, broker="soak", execution_id=f"C{number}x", reverses=f"C{number}")
    if number % 50 == 9:
        return Correction(entry=fill("C", number, suffix="r"), corrects=f"C{number}")
    return None


def sent(name: str) -> LedgerEntry:
    """Return the fill that was sent under an execution id."""
    suffix = name[-1] if name[-1] == "r" else ""
    return fill(name[0], int(name[1:].removesuffix(suffix or " ")), suffix=suffix)


class Answers:
    """The answered execution ids of a writer, in a file that survives the writer."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR)
        self.known = set(path.read_text(encoding="utf-8").split())

    def add(self, *names: str) -> None:
        """Note answers."""
        # One write: a killed process has written all of it, or nothing.
        os.write(self._file, "".join(f"{name}\n" for name in names).encode())
        self.known |= set(names)


async def answered(work: Callable[[], Awaitable[Any]]) -> None:
    """Retry until there is an answer, as a client of the book should."""
    while True:
        try:
            await work()
        except DatabaseError:
            await asyncio.sleep(random.uniform(0.01, 0.1))
        else:
            return


def waiting(answers: Answers, stream: str, stop: Path) -> Iterator[int]:
    """Yield numbers of fills without an answer, until a file names the last one."""
    for number in itertools.count():
        if stop.exists() and number >= int(stop.read_text(encoding="utf-8")):
            return
        if f"{stream}{number}" not in answers.known:
            yield number


async def write_by_tasks(database: Database, answers: Answers, stop: Path) -> None:
    """Book by sixteen tasks that share a FillWriter."""
    source = waiting(answers, "A", stop)

    async def work(writer: FillWriter) -> None:
        for number in source:
            await answered(partial(writer.record_fill, fill("A", number)))
            answers.add(f"A{number}")

    async with FillWriter(database) as writer, asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(work(writer))


async def record(fills: list[LedgerEntry], uow: UnitOfWork) -> None:
    """Book them."""
    await uow.ledger.record_fills(fills)


async def write_singly(database: Database, answers: Answers, stop: Path) -> None:
    """Book the same fills, each in a transaction of its own."""
    for number in waiting(answers, "A", stop):
        await answered(partial(database.run, partial(record, [fill("A", number)])))
        answers.add(f"A{number}")


async def write_batches(database: Database, answers: Answers, stop: Path) -> None:
    """Book batches of other fills, and a broker's later reports about them, which sometimes come first."""

    async def send(one: Reversal | Correction, uow: UnitOfWork) -> None:
        await (uow.ledger.reverse_fill(one) if isinstance(one, Reversal) else uow.ledger.correct_fill(one))

    source = waiting(answers, "C", stop)
    while batch := list(itertools.islice(source, BATCH)):
        reports = [one for number in batch if (one := report(number)) is not None]
        early = len(reports) // 2
        for one in reports[:early]:
            await answered(partial(database.run, partial(send, one)))
        await answered(partial(database.run, partial(record, [fill("C", number) for number in batch])))
        for one in reports[early:]:
            await answered(partial(database.run, partial(send, one)))
        answers.add(*(f"C{number}" for number in batch), *(one.key[2] for one in reports))


WRITERS: Final = {"tasks": write_by_tasks, "single": write_singly, "batches": write_batches}


async def write(name: str, url: URL, folder: Path) -> None:
    """Run a writer's process."""
    answers = Answers(folder / name)
    async with Database(url) as database:
        await WRITERS[name](database, answers, folder / f"{name}.stop")


class Checker:
    """Follows the ledger, entry by entry, and keeps the reference's book beside it.

    Args:
        database: The database.
        folder: Folder of the writers' answers.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._books: dict[str, ReferenceBook] = defaultdict(ReferenceBook)
        self._last: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self.booked: set[str] = set()

    async def check(self) -> list[str]:
        """Return the errors of the book. Empty if it is right."""
        # First the answers, then the snapshot: it must contain everything answered by then.
        known = set().union(*((self._folder / name).read_text(encoding="utf-8").split() for name in WRITERS))
        async with self._database.reader(snapshot=True) as reader:
            after = min(self._last.values(), default=0) if len(self._last) == SYMBOLS else 0
            while entries := await reader.ledger.list_entries(after_id=after, limit=5000):
                after = entries[-1].id
                for one in entries:
                    if one.id > self._last.get(one.entry.symbol, 0):
                        self._follow(one)
            positions = {one.symbol: one async for one in reader.positions.stream()}
        wrong = [f"{name} got an answer and is not in the ledger" for name in sorted(known - self.booked)]
        for symbol, book in self._books.items():
            state, position = book.state, positions[symbol]
            figures = position.qty, position.cost_basis, position.realized_pnl, position.avg_price
            if tuple(map(units, figures)) != (state.qty, state.cost, state.realized, state.average):
                wrong.append(f"{symbol} is {position}, the reference has {state}")
            if position.last_ledger_id != self._last[symbol]:
                wrong.append(f"{symbol} is at {position.last_ledger_id}, its last entry is {self._last[symbol]}")
        return wrong

    def _follow(self, one: BookedEntry) -> None:
        entry, name = one.entry, one.entry.execution_id or ""
        self._last[entry.symbol] = one.id
        self._names[one.id] = name
        book = self._books[entry.symbol]
        trade = Trade(units(entry.qty) * (1 if entry.side == "BUY" else -1), units(entry.price))
        if one.reverses_id is not None:
            # The reversal before a corrected fill is not a report of its own.
            if not name.endswith("/reversal"):
                self._once(name)
                assert book.report(name, self._names[one.reverses_id], None)
            return
        self._once(name)
        assert str(entry) == str(sent(name)), f"{entry} was sent as {sent(name)}"
        if one.corrects_id is None:
            book.fill(name, trade)
        else:
            assert book.report(name, self._names[one.corrects_id], trade)

    def _once(self, name: str) -> None:
        assert name not in self.booked, f"{name} is in the ledger twice"
        self.booked.add(name)


class Soak:
    """Writers, faults, checks.

    Args:
        url: The database.
        server: The server, if it may be stopped.
        folder: A folder for the answers.
        seed: Decides the faults and their times.
    """

    def __init__(self, url: URL, server: EmbeddedServer | None, folder: Path, seed: int) -> None:
        self._url = url
        self._server = server
        self._folder = folder
        self._choose = random.Random(seed)
        self._writers: dict[str, subprocess.Popen[bytes]] = {}
        self.faults: Counter[str] = Counter()

    async def run(self, faults: int) -> tuple[list[str], int]:
        """Run the faults. Return the errors and the number of checked entries."""
        for name in WRITERS:
            (self._folder / name).touch()
            self._start(name)
        wrong: list[str] = []
        async with Database(self._url) as database:
            checker = Checker(database, self._folder)
            while not all((self._folder / name).stat().st_size for name in WRITERS):  # noqa: ASYNC110 - other processes write them
                await asyncio.sleep(0.05)
            for number in range(1, faults + 1):
                await asyncio.sleep(self._choose.uniform(0.1, 0.6))
                fault = self._fault()
                self.faults[fault] += 1
                wrong += [f"after fault {number} ({fault}): {one}" for one in await self._checked(checker)]
                print(f"{number:4} {fault:24} {len(checker.booked):7} entries, {len(wrong)} wrong", file=sys.stderr)
            ends = self._finish()
            for name, process in self._writers.items():
                if process.wait(timeout=120):
                    wrong.append(f"the writer {name} ended with {process.returncode}")
            wrong += await checker.check()
            everything = {f"A{number}" for number in range(max(ends["tasks"], ends["single"]))}
            everything |= {f"C{number}" for number in range(ends["batches"])}
            everything |= {one.key[2] for number in range(ends["batches"]) if (one := report(number)) is not None}
            wrong += [f"{name} was sent and is not in the ledger" for name in sorted(everything - checker.booked)]
            async with database.reader(snapshot=True) as reader:
                wrong += map(str, (await reader.positions.verify_positions()).mismatches)
        return wrong, len(checker.booked)

    async def _checked(self, checker: Checker) -> list[str]:
        wrong: list[str] = []

        async def check() -> None:
            wrong[:] = await checker.check()

        await answered(check)
        return wrong

    def _start(self, name: str) -> None:
        url = self._url.render_as_string(hide_password=False)
        command = [sys.executable, "-m", "scripts.soak.book", "--writer", name, "--folder", str(self._folder)]
        self._writers[name] = subprocess.Popen([*command, "--url", url])

    def _finish(self) -> dict[str, int]:
        """Give each writer its last number, after everything that it had sent before a fault."""
        ends = {}
        for name in WRITERS:
            answers = (self._folder / name).read_text(encoding="utf-8").split()
            ends[name] = 2 * BATCH + max(int(one.strip("ACxr")) for one in answers)
            written = self._folder / "stop.new"
            written.write_text(str(ends[name]), encoding="utf-8")
            written.rename(self._folder / f"{name}.stop")
        return ends

    def _fault(self) -> str:
        kinds = ["writer killed", "connections terminated"]
        if self._server is not None:
            kinds += ["server stopped", "server crashed"]
        kind = self._choose.choice(kinds)
        match kind:
            case "writer killed":
                name = self._choose.choice(list(self._writers))
                self._writers[name].kill()
                self._writers[name].wait()
                self._start(name)
            case "connections terminated":
                terminate(self._url)
            case _:
                assert self._server is not None
                self._restart(self._server, crash=kind == "server crashed")
        return kind

    def _restart(self, server: EmbeddedServer, *, crash: bool) -> None:
        info = server.info()
        assert info is not None
        if crash:
            # Immediate shutdown: no process ends its work, the next start recovers from the log.
            os.kill(info.pid, signal.SIGQUIT)
            while server.info() is not None:
                time.sleep(0.01)
        else:
            server.stop()
        time.sleep(self._choose.uniform(0, 0.3))
        server.start()

    def end(self) -> None:
        """End all processes."""
        for process in self._writers.values():
            process.kill()
            process.wait()


def terminate(url: URL) -> None:
    """End all other connections to the database."""
    with engine(url).connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )


def soak(url: URL, server: EmbeddedServer | None, faults: int, seed: int) -> int:
    """Run the soak and print the result. Return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        made = Soak(url, server, Path(folder), seed)
        began = time.monotonic()
        try:
            wrong, entries = asyncio.run(made.run(faults))
        finally:
            made.end()
    for one in wrong:
        print(one, file=sys.stderr)
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"faults": made.faults, "entries": entries, "wrong": len(wrong), "seconds": seconds}))
    return 1 if wrong else 0


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Faults of writers, connections and server while fills are booked.")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", help="a migrated database of its own, on a server that is not stopped")
    parser.add_argument("--writer", choices=WRITERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.writer:
        asyncio.run(write(given.writer, parse_url(given.url), given.folder))
        return 0
    if given.url:
        return soak(parse_url(given.url), None, given.faults, given.seed)
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory) / "server")
        try:
            url = parse_url(server.start().url("postgres"))
            migrations.upgrade(url)
            return soak(url, server, given.faults, given.seed)
        finally:
            server.delete()


if __name__ == "__main__":
    sys.exit(main())
