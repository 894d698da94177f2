"""The works of `compare.py`, in the process of one checkout: reads lines with a name, writes lines with the times.

    PYTHONPATH=CHECKOUT python -P scripts/bench/works.py cache|book|market

It uses only parts of both checkouts: public names, and the functions of the checkout's own scripts/bench.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import gc
import importlib
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import sqlalchemy as sa

import qts_data

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

HOUSEKEEPERS = ("checkpointer", "background", "walwriter", "autovacuum", "logical replication", "archiver", "io worker")


@dataclass
class Work:
    """One measurement: a number of operations in one call of `run`, after `prepare`."""

    operations: int
    run: Callable[[], Awaitable[object]]
    prepare: Callable[[], object] = lambda: None


def named(module: str, old: str) -> Any:
    """Import a module that has moved since the oldest compared checkout."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return importlib.import_module(old)


def again(ask: Callable[[], Awaitable[object]], times: int) -> Work:
    """Make a work of calls one after the other."""

    async def run() -> None:
        for _ in range(times):
            await ask()

    return Work(times, run)


def step(function: Callable[[], object], times: int) -> Work:
    """Make a work of a function that is not a coroutine function."""

    async def run() -> None:
        for _ in range(times):
            function()

    return Work(times, run)


class Backends:
    """The client backends of a server of our own."""

    def __init__(self, url: Any) -> None:
        self._parent: psutil.Process | None = None
        if url is not None:
            admin = importlib.import_module("qts_data.database.engine").engine(url)
            with admin.connect() as connection:
                pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar()
                self._parent = psutil.Process(psutil.Process(pid).ppid())
            admin.dispose()

    def seconds(self) -> float:
        """Return the CPU seconds of the living backends."""
        total = 0
        for child in self._parent.children() if self._parent else ():
            with contextlib.suppress(psutil.Error, OSError):
                if not any(name in " ".join(child.cmdline()) for name in HOUSEKEEPERS):
                    total += int(Path(f"/proc/{child.pid}/schedstat").read_text(encoding="ascii").split()[0])
        return total / 1e9


# The parts


@contextlib.asynccontextmanager
async def cache(directory: Path) -> AsyncIterator[tuple[dict[str, Work], Any]]:
    """Prepare the works of the hot tier."""
    bench = importlib.import_module("scripts.bench.cache")
    process = importlib.import_module("tests.fixtures.redis_process").RedisProcess(directory)
    process.start()
    try:
        manager = bench.manager_of(bench.config_of(process))
        near = bench.manager_of(bench.config_of(process, near_entries=1000))
        await bench.fill(manager)
        await near.get_position(bench.SYMBOL)
        bare = bench.Repository(None)
        decorated = bench.Repository(bench.CacheAccess(near.aside))
        fields = bench.POSITION.encode(bench.HELD)

        async def thousand() -> None:
            await asyncio.gather(*(manager.get_position(f"S{number}") for number in range(1000)))

        def price() -> Awaitable[Any]:
            now = dt.datetime.now(dt.UTC)
            found: Awaitable[Any] = manager.push_price(
                bench.Quote(symbol="005930", price=bench.Decimal(71600), quoted_at=now)
            )
            return found

        reads = again(thousand, 5)
        reads.operations *= 1000
        yield (
            {
                "position": again(lambda: manager.get_position(bench.SYMBOL), 500),
                "precheck": again(lambda: manager.precheck(bench.SYMBOL, "main", "s1"), 300),
                "near hit": again(lambda: near.get_position(bench.SYMBOL), 10_000),
                "near hit, decorated": again(lambda: decorated.find_position(bench.SYMBOL), 10_000),
                "decorated, without a cache": again(lambda: bare.find_position(bench.SYMBOL), 10_000),
                "1,000 concurrent reads": reads,
                "push_price": again(price, 300),
                "position decoded": step(lambda: bench.POSITION.decode(fields), 10_000),
                "position encoded": step(lambda: bench.POSITION.encode(bench.HELD), 10_000),
            },
            None,
        )
        await manager.close()
        await near.close()
    finally:
        process.stop()


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[Any]:
    """Start a server of our own. Return the URL of a migrated database."""
    server = named("qts_data.embedded", "qts_data.database.embedded").EmbeddedServer(directory / "server")
    try:
        parse_url = importlib.import_module("qts_data.database.engine").parse_url
        url = parse_url(server.start().url("postgres"))
        importlib.import_module("qts_data.database.migrations").upgrade(url)
        yield url
    finally:
        server.delete()


def writer_of(database: Any) -> Any:
    """Make a writer of fills. Older databases make it themselves."""
    if hasattr(database, "fill_writer"):
        return database.fill_writer()
    return importlib.import_module("qts_data.writers").FillWriter(database)


@contextlib.asynccontextmanager
async def book(directory: Path) -> AsyncIterator[tuple[dict[str, Work], Any]]:
    """Prepare the works of fills."""
    bench = importlib.import_module("scripts.bench.book")
    repositories = importlib.import_module("qts_data.repositories")
    with postgres(directory) as url:
        async with repositories.Database(url) as database, writer_of(database) as writer:

            async def of_tasks(tasks: int, times: int) -> None:
                async def feed() -> None:
                    for _ in range(times):
                        await writer.record_fill(bench.fill())

                await asyncio.gather(*(feed() for _ in range(tasks)))

            async def empty() -> None:
                async with database.transaction():
                    pass

            async def one() -> None:
                async with database.transaction() as uow:
                    await uow.ledger.record_fill(bench.fill())

            async def batch() -> None:
                fills = [bench.fill() for _ in range(1000)]
                async with database.transaction() as uow:
                    await uow.ledger.record_fills(fills)

            yield (
                {
                    "a LedgerEntry made": step(bench.fill, 5_000),
                    "FillWriter, 1 task": Work(150, functools.partial(of_tasks, 1, 150)),
                    "FillWriter, 16 tasks": Work(1600, functools.partial(of_tasks, 16, 100)),
                    "transaction(), empty": again(empty, 150),
                    "transaction() + record_fill": again(one, 100),
                    "record_fills by 1,000": Work(1000, batch),
                },
                url,
            )


class Ticks:
    """Ticks in and out of a database of our own."""

    def __init__(self, url: Any, database: Any) -> None:
        self._bench = importlib.import_module("scripts.bench.market")
        self._writers = named("qts_data.writers", "qts_data.repositories")
        self._admin = importlib.import_module("qts_data.database.engine").engine(url)
        self._database = database
        self._table = self._bench.made(100_000, 5)
        self._ticks = self._bench.records(self._table.slice(0, 30_000))
        self._rows = self._table.slice(0, 2_000).to_pylist()

    def works(self) -> dict[str, Work]:
        """Return each work by its name."""
        table, ticks, partial = self._table, self._ticks, functools.partial
        return {
            "a TickData made": Work(len(self._rows), self._make),
            "ingest, Arrow table": Work(len(table), partial(self._ingest, table), self.empty),
            "ingest, records": Work(len(ticks), partial(self._ingest, ticks), self.empty),
            "TickWriter, QUEUED": Work(len(ticks), self._queued, self.empty),
            "as_arrow": Work(len(table), partial(self._read, "as_arrow"), self._filled),
            "as_records": Work(len(table), partial(self._read, "as_records"), self._filled),
        }

    def empty(self) -> None:
        """Delete all ticks."""
        with self._admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("TRUNCATE tick_data, tick_days, ingest_batches"))

    def dispose(self) -> None:
        """Close the connections."""
        self._admin.dispose()

    def _filled(self) -> Awaitable[None] | None:
        with self._admin.connect() as connection:
            count = connection.execute(sa.text("SELECT count(*) FROM tick_data")).scalar()
        if count == len(self._table):
            return None
        self.empty()
        return self._ingest(self._table)

    async def _ingest(self, given: Any) -> None:
        async with self._database.transaction() as uow:
            await uow.ticks.ingest(given)

    async def _read(self, form: str) -> None:
        count = 0
        async with self._database.reader() as reader:
            for number in range(5):
                query = reader.ticks.ticks(f"S{number}", self._bench.START, self._bench.END)
                count += len(await getattr(query, form)())
        if count != len(self._table):
            raise SystemExit(f"{form}: {count} rows")

    async def _queued(self) -> None:
        async with self._writers.TickWriter(self._database) as writer:
            for tick in self._ticks:
                await writer.write(tick)

    async def _make(self) -> None:
        made = self._bench.TickData
        for row in self._rows:
            made(**row)


@contextlib.asynccontextmanager
async def market(directory: Path) -> AsyncIterator[tuple[dict[str, Work], Any]]:
    """Prepare the works of ticks."""
    repositories = importlib.import_module("qts_data.repositories")
    with postgres(directory) as url:
        async with repositories.Database(url) as database:
            ticks = Ticks(url, database)
            yield ticks.works(), url
            ticks.dispose()


PARTS = {"cache": cache, "book": book, "market": market}


async def measured(work: Work, backends: Backends) -> dict[str, float]:
    """Return the microseconds per operation."""
    prepared = work.prepare()
    if asyncio.iscoroutine(prepared):
        await prepared
    gc.collect()
    gc.freeze()
    server = backends.seconds()
    cpu, wall = time.process_time(), time.perf_counter()
    await work.run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    server = backends.seconds() - server
    return {name: value / work.operations * 1e6 for name, value in (("cpu", cpu), ("wall", wall), ("server", server))}


async def serve(part: str) -> None:
    """Answer requests until the input ends."""
    if Path.cwd() not in Path(str(qts_data.__file__)).parents:
        raise SystemExit(f"{qts_data.__file__} is not in {Path.cwd()}")
    with tempfile.TemporaryDirectory() as directory:
        async with PARTS[part](Path(directory)) as (works, url):
            backends = Backends(url)
            print(json.dumps(list(works)), flush=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                print(json.dumps(await measured(works[json.loads(line)], backends)), flush=True)


if __name__ == "__main__":
    # Ctrl-C reaches this process too; its servers are removed on the way out.
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(sys.argv[1]))
