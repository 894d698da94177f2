"""Does a cached position stay correct while Redis, PostgreSQL and their clients are killed?

    python -m scripts.soak.cache [--faults 150] [--seed 1] [--ttl-ms 250]

Three processes book fills of three symbols through a `CacheManager` and read the positions all the time; one of them
has a near cache. Meanwhile these faults happen:

* Redis is killed and comes back empty, is stopped for a while (SIGSTOP), is emptied, loses its connections and scripts;
* PostgreSQL is stopped or crashed and started again;
* a process is killed, perhaps between its COMMIT and its write to the cache.

Each process notes the versions that it knew and the time, on the clock shared by all processes of a machine. At the
end, for every read:

* it is not older than the newest version that its own process knew to be committed when the read began;
* it is not older than a version that another process knew to be committed one TTL and 2 ms before it began;
* quantity, price, cost and profit are those of the ledger, to the last digit;
* the cache raised no error, and the only other errors are those of a stopped database.

Then Redis hangs, and the reads are timed against those of the database alone. Exit code 0 if everything was right, 1 if
not; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import datetime as dt
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from qts_data import bootstrap
from qts_data.contracts import CacheConfig, CacheType, LedgerEntry
from qts_data.database import migrations
from qts_data.database.engine import parse_url
from qts_data.embedded import EmbeddedServer
from qts_data.errors import DatabaseError, DatabaseUnavailable, OutcomeUnknown
from qts_data.repositories import Database
from tests.fixtures.redis_process import RedisProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.context import ForkProcess

    from sqlalchemy.engine import URL

    from qts_data.cache import CacheManager
    from qts_data.contracts import Position

SYMBOLS: Final = ("S0", "S1", "S2")
WORKERS: Final = {"plain": 0, "second": 0, "near": 100}
"""Each process, and the number of its near values."""
READERS: Final = 4
GRANULARITY_SECONDS: Final = 0.002
NOW: Final = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
FAULTS: Final = (
    *("redis killed", "redis killed", "redis paused", "redis paused", "redis emptied", "connections cut"),
    *("scripts forgotten", "postgres stopped", "postgres crashed", "process killed"),
)


def cache_config(url: str, ttl_ms: int, near: int = 0, **values: Any) -> CacheConfig:
    """Make a config with breakers that retry soon, so that they open and close many times in a short run."""
    values = {"breaker_recovery_seconds": 0.2, "near_entries": near} | values
    return CacheConfig(url=url, ttl_ms={CacheType.POSITION: ttl_ms}, **values)


class Worker:
    """One process: a task that books, tasks that read, and a file of notes.

    Args:
        manager: The hot tier.
        log: Lines of `C symbol version time` (committed), `R symbol version time` (read), `P symbol version qty avg
            cost profit` (a position as read) and `E text` (an unexpected error).
        seed: Decides the actions.
    """

    def __init__(self, manager: CacheManager, log: IO[str], seed: str) -> None:
        self._manager = manager
        self._log = log
        self._choose = random.Random(seed)
        self._name = seed
        self._seen: set[tuple[str, int]] = set()
        self._ending = False

    async def run(self, stop: Path) -> None:
        """Run until the file exists."""
        tasks = [asyncio.create_task(self._book())]
        tasks += [asyncio.create_task(self._read()) for _ in range(READERS)]
        while not stop.exists():  # noqa: ASYNC240 - a file in memory, asked twenty times a second
            await asyncio.sleep(0.05)
            self._log.flush()
        self._ending = True
        await asyncio.gather(*tasks)

    async def _book(self) -> None:
        for number in itertools.count():
            if self._ending:
                return
            entry = LedgerEntry(
                timestamp=NOW, symbol=self._choose.choice(SYMBOLS), market="KRX",
                side=self._choose.choice(["BUY", "SELL"]), qty=Decimal(self._choose.randrange(1, 10**9)).scaleb(-8),
                price=Decimal(self._choose.randrange(1, 10**10)).scaleb(-8), currency="KRW", broker="soak",
                execution_id=f"{self._name}-{number}",
            )  # fmt: skip
            while not self._ending:
                try:
                    booked = await self._manager.update_position_on_fill(entry)
                except DatabaseError as error:
                    self._judge(error)
                    await asyncio.sleep(0.02)
                    continue
                except Exception as error:  # noqa: BLE001 - whatever it is, it is noted
                    self._log.write(f"E {error!r}\n")
                    break
                known_at = time.monotonic()
                position = booked.position
                self._log.write(f"C {position.symbol} {position.last_ledger_id} {known_at!r}\n")
                self._note(position)
                break
            await asyncio.sleep(self._choose.uniform(0, 0.03))

    async def _read(self) -> None:
        while not self._ending:
            symbol = self._choose.choice(SYMBOLS)
            together = self._choose.random() < 0.1
            began = time.monotonic()
            try:
                if together:
                    position = (await self._manager.precheck(symbol, "main", "none")).position
                else:
                    position = await self._manager.get_position(symbol)
            except DatabaseError as error:
                self._judge(error)
                await asyncio.sleep(0.02)
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, it is noted
                self._log.write(f"E {error!r}\n")
                continue
            self._log.write(f"R {symbol} {position.last_ledger_id if position else 0} {began!r}\n")
            if position is not None:
                self._note(position)
            await asyncio.sleep(self._choose.uniform(0, 0.004))

    def _judge(self, error: DatabaseError) -> None:
        if not isinstance(error, DatabaseUnavailable | OutcomeUnknown):
            self._log.write(f"E {error!r}\n")

    def _note(self, position: Position) -> None:
        key = position.symbol, position.last_ledger_id
        if key not in self._seen:
            self._seen.add(key)
            values = position.qty, position.avg_price, position.cost_basis, position.realized_pnl
            self._log.write(f"P {key[0]} {key[1]} {' '.join(map(str, values))}\n")


def work(name: str, folder: Path, url: URL, redis: str, ttl_ms: int) -> None:
    """Run a process of the soak."""
    asyncio.run(_work(name, folder, url, redis, ttl_ms))


async def _work(name: str, folder: Path, url: URL, redis: str, ttl_ms: int) -> None:
    kind = name.split("-", maxsplit=1)[0]
    async with Database(url) as database:
        manager = bootstrap.cache_manager(cache_config(redis, ttl_ms, WORKERS[kind]), database)
        async with manager:
            with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
                await Worker(manager, log, name).run(folder / "stop")
                stats = manager.get_stats()
                log.write(f"S {stats.hits} {stats.near_hits} {stats.misses} {stats.errors} {stats.skipped}\n")


@dataclass
class Notes:
    """The notes of one process.

    Attributes:
        commits: For each symbol: times, and the newest version known at each; times grow.
        reads: (symbol, version, time of the beginning).
        positions: The values read for a version.
        errors: Unexpected errors.
        stats: Hits, near hits, misses, errors, skipped calls.
    """

    commits: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    reads: list[tuple[str, int, float]] = field(default_factory=list)
    positions: dict[tuple[str, int], tuple[Decimal, ...]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    stats: tuple[int, ...] = (0, 0, 0, 0, 0)

    @classmethod
    def read(cls, path: Path) -> Notes:
        """Read the notes of a process, without a last line cut off by its death."""
        notes = cls()
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            kind, _, rest = line[:-1].partition(" ")
            words = rest.split(" ")
            match kind:
                case "C":
                    known = notes.commits[words[0]]
                    # A fill that was sent again is answered with the position after its first booking.
                    known.append((float(words[2]), max(int(words[1]), known[-1][1] if known else 0)))
                case "R":
                    notes.reads.append((words[0], int(words[1]), float(words[2])))
                case "P":
                    notes.positions[words[0], int(words[1])] = tuple(map(Decimal, words[2:]))
                case "S":
                    notes.stats = tuple(map(int, words))
                case _:
                    notes.errors.append(rest)
        return notes

    def known(self, symbol: str, until: float) -> int:
        """Return the newest version of a symbol known at that time. 0 before the first."""
        found = self.commits[symbol]
        place = bisect.bisect_right(found, until, key=lambda item: item[0])
        return found[place - 1][1] if place else 0


def check(notes: dict[str, Notes], ledger: Mapping[tuple[str, int], tuple[Decimal, ...]], ttl_ms: int) -> list[str]:
    """Return the errors, each as a sentence."""
    wrong = []
    patience = ttl_ms / 1000 + GRANULARITY_SECONDS
    for name, own in notes.items():
        wrong += [f"{name}: {error}" for error in own.errors]
        others = [other for another, other in notes.items() if another != name]
        for symbol, version, began in own.reads:
            if version < (needed := own.known(symbol, began)):
                wrong.append(f"{name} read {version} of {symbol}, and had committed {needed}")
            needed = max((other.known(symbol, began - patience) for other in others), default=0)
            if version < needed:
                wrong.append(f"{name} read {version} of {symbol} {patience} s after {needed} was committed elsewhere")
        for key, values in own.positions.items():
            if ledger.get(key) != values:
                wrong.append(f"{name} saw {values} as {key}; the ledger has {ledger.get(key)}")
    return wrong


class Soak:
    """Servers, processes and faults.

    Args:
        server: PostgreSQL.
        url: The database.
        redis: Redis.
        folder: Folder of the notes.
        ttl_ms: TTL of positions, in milliseconds.
        seed: Decides the faults.
    """

    def __init__(
        self, server: EmbeddedServer, url: URL, redis: RedisProcess, folder: Path, *, ttl_ms: int, seed: int
    ) -> None:
        self._server = server
        self._url = url
        self._redis = redis
        self._folder = folder
        self._ttl_ms = ttl_ms
        self._choose = random.Random(seed)
        self._processes: dict[str, ForkProcess] = {}
        self._started = itertools.count()
        self._kinds: list[str] = []
        self.faults: Counter[str] = Counter()

    def run(self, faults: int) -> dict[str, Notes]:
        """Let the processes work through that many faults. Return the notes of each."""
        for kind in WORKERS:
            self._start(kind)
        # A process takes seconds to start on a busy machine.
        while any(not (self._folder / f"{name}.log").exists() for name in self._processes):
            self._settle(0.05)
        self._settle(0.5)
        for number in range(1, faults + 1):
            self._settle(self._choose.uniform(0.1, 0.8))
            fault = self._next()
            self.faults[fault] += 1
            print(f"{number:4} {fault}", file=sys.stderr)
            self._do(fault)
        self._settle(1.0)
        (self._folder / "stop").touch()
        notes = {}
        for name, process in self._processes.items():
            process.join(60)
            if process.exitcode != 0:
                notes[f"{name} itself"] = Notes(errors=[f"ended with {process.exitcode}"])
        for path in self._folder.glob("*.log"):
            notes[path.stem] = Notes.read(path)
        return notes

    def _next(self) -> str:
        """Return the next fault. Each kind occurs once in a shuffled round."""
        if not self._kinds:
            self._kinds = list(FAULTS)
            self._choose.shuffle(self._kinds)
        return self._kinds.pop()

    def _settle(self, seconds: float) -> None:
        time.sleep(seconds)

    def _start(self, kind: str) -> None:
        name = f"{kind}-{next(self._started)}"
        # Forked, because its modules are imported already; this process has no threads and no running loop.
        given = name, self._folder, self._url, self._redis.url, self._ttl_ms
        self._processes[name] = multiprocessing.get_context("fork").Process(target=work, args=given)
        self._processes[name].start()

    def _do(self, fault: str) -> None:
        match fault:
            case "redis killed":
                self._redis.kill()
                self._settle(self._choose.uniform(0, 0.8))
                self._redis.start()
            case "redis paused":
                self._redis.pause()
                self._settle(self._choose.uniform(0.02, 0.8))
                self._redis.resume()
            case "redis emptied" | "scripts forgotten":
                with self._redis.client() as client:
                    client.flushall() if fault == "redis emptied" else client.script_flush()
            case "connections cut":
                self._redis.cut()
            case "process killed":
                name = self._choose.choice(list(self._processes))
                process = self._processes.pop(name)
                process.kill()
                process.join()
                self._start(name.split("-", maxsplit=1)[0])
            case _:
                self._restart(crash=fault == "postgres crashed")

    def _restart(self, *, crash: bool) -> None:
        info = self._server.info()
        if crash and info is not None:
            # Immediate shutdown: no process ends its work, the next start recovers from the log.
            os.kill(info.pid, signal.SIGQUIT)
            while self._server.info() is not None:
                time.sleep(0.01)
        else:
            self._server.stop()
        self._settle(self._choose.uniform(0, 0.3))
        self._server.start()

    def end(self) -> None:
        """End all processes."""
        for process in self._processes.values():
            process.kill()
            process.join()


async def ledger_of(url: URL) -> tuple[dict[tuple[str, int], tuple[Decimal, ...]], list[str]]:
    """Return the position after each entry, and the errors of the book itself."""
    found: dict[tuple[str, int], tuple[Decimal, ...]] = {}
    async with Database(url) as database, database.reader(snapshot=True) as reader:
        async for one in reader.ledger.stream_entries():
            values = one.position_qty, one.position_avg_price, one.position_cost_basis, one.position_realized_pnl
            found[one.entry.symbol, one.id] = values
        mismatches = (await reader.positions.verify_positions()).mismatches
    return found, [str(one) for one in mismatches]


async def hang(url: URL, redis: RedisProcess) -> dict[str, float]:
    """Return p99 of reads in milliseconds: by the database alone, while Redis hangs, and after the breaker opened."""

    async def timed(reads: int, manager: CacheManager) -> float:
        times = []
        for number in range(reads):
            began = time.perf_counter()
            await manager.get_position(SYMBOLS[number % len(SYMBOLS)])
            times.append((time.perf_counter() - began) * 1000)
        return round(sorted(times)[int(reads * 0.99)], 2)

    found = {}
    async with Database(url) as database:
        # One millisecond: every read is a miss.
        config = cache_config(redis.url, 1, breaker_recovery_seconds=60.0)
        patient = cache_config(redis.url, 1, breaker_threshold=10**9)
        async with (
            bootstrap.cache_manager(config, database) as short,
            bootstrap.cache_manager(patient, database) as long,
        ):
            redis.kill()
            await timed(50, short)
            found["database alone"] = await timed(500, short)
            redis.start()
            await timed(50, long)
            redis.pause()
            found["redis hangs"] = await timed(100, long)
            redis.resume()
        async with bootstrap.cache_manager(config, database) as opened:
            await timed(50, opened)
            redis.pause()
            await timed(5, opened)
            assert opened.is_circuit_open()
            found["after 5 failures"] = await timed(500, opened)
            redis.resume()
    return found


def soak(server: EmbeddedServer, url: URL, redis: RedisProcess, given: argparse.Namespace) -> int:
    """Run the soak and print the result. Return the exit code."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        made = Soak(server, url, redis, Path(folder), ttl_ms=given.ttl_ms, seed=given.seed)
        try:
            notes = made.run(given.faults)
        finally:
            made.end()
    ledger, wrong = asyncio.run(ledger_of(url))
    wrong += check(notes, ledger, given.ttl_ms)
    for one in wrong[:20]:
        print(one, file=sys.stderr)
    sums = [sum(column) for column in zip(*(one.stats for one in notes.values()), strict=True)]
    result = {
        "faults": made.faults,
        "fills": len(ledger),
        "reads": sum(len(one.reads) for one in notes.values()),
        "stats of the last processes": dict(
            zip(("hits", "near_hits", "misses", "errors", "skipped"), sums, strict=True)
        ),
        "wrong": len(wrong),
        "seconds": round(time.monotonic() - began, 1),
    }
    if given.latency:
        result["p99 ms"] = asyncio.run(hang(url, redis))
    print(json.dumps(result))
    return 1 if wrong else 0


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Faults of Redis, PostgreSQL and processes while positions are read.")
    parser.add_argument("--faults", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ttl-ms", type=int, default=250)
    parser.add_argument("--latency", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory) / "server")
        redis = RedisProcess(Path(directory))
        try:
            url = parse_url(server.start().url("postgres"))
            migrations.upgrade(url)
            redis.start()
            return soak(server, url, redis, given)
        finally:
            redis.stop()
            server.delete()


if __name__ == "__main__":
    sys.exit(main())
