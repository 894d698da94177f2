"""How much time does the plugin add to `alembic check`?

    QTS_DATABASE_URL=... python scripts/bench/alembic_check.py [hypertables] [repeats]

Checks a schema that matches its declarations: every hypertable has a columnstore with its policy and one continuous
aggregate with a refresh policy. The peer is Alembic's own check of the same database with the options of this project's
env.py. Both take turns; less is better. There are three pairs of figures:

* the command `alembic check` as a process;
* the comparison alone, on a new connection each time, as in the command;
* the comparison alone on one connection that has compared before.

Needs a server with TimescaleDB's Community edition. It works in a database of its own, which it drops.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from qts_data import bootstrap
from qts_data.database.engine import engine
from qts_data.database.migrations import AUTOGENERATE_OPTIONS
from qts_data.settings import load_settings
from qts_data.timescale import Columnstore, RefreshPolicy, continuous_aggregate, hypertable, time_bucket
from qts_data.timescale.autogenerate import PLUGIN_NAME
from qts_data.timescale.edition import create_extension

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection

TARGET = 1.5
WARM_UP = 3
PLUGINS: dict[str, list[str]] = {
    "without the plugin": AUTOGENERATE_OPTIONS["autogenerate_plugins"],
    "with the plugin": [*AUTOGENERATE_OPTIONS["autogenerate_plugins"], PLUGIN_NAME],
}


def declare(hypertables: int) -> sa.MetaData:
    """Return a schema with two policies for each hypertable: one converts its chunks, one refreshes its aggregate."""
    metadata = sa.MetaData()
    for number in range(hypertables):
        table = sa.Table(
            f"readings_{number}",
            metadata,
            sa.Column("sensor", sa.Text, primary_key=True),
            sa.Column("time", sa.TIMESTAMP(timezone=True), primary_key=True),
            sa.Column("value", sa.Float),
            sa.Index(f"ix_readings_{number}_time", sa.text("time DESC")),
        )
        hypertable(
            table,
            time="time",
            chunk_interval="1 day",
            columnstore=Columnstore.of(segment_by=["sensor"], order_by=["time DESC"], after="7 days"),
        )
        bucket = time_bucket("1 hour", table.c.time)
        continuous_aggregate(
            metadata,
            f"hourly_{number}",
            sa.select(
                bucket.label("bucket"),
                table.c.sensor,
                sa.func.avg(table.c.value).label("mean"),
                sa.func.count().label("samples"),
            ).group_by(bucket, table.c.sensor),
            chunk_interval="10 days",
            refresh=[RefreshPolicy.of(start="3 days", end="1 hour", every="1 hour")],
            comment="Means by hour",
            column_comments={"bucket": "Start", "sensor": "Sensor", "mean": "Mean", "samples": "Rows"},
        )
    return metadata


def compare(connection: Connection, metadata: sa.MetaData, plugins: list[str]) -> float:
    """Return the milliseconds of one comparison, which must find nothing."""
    with connection.begin():
        context = MigrationContext.configure(connection, opts=AUTOGENERATE_OPTIONS | {"autogenerate_plugins": plugins})
        begun = time.perf_counter()
        differences = compare_metadata(context, metadata)
        elapsed = (time.perf_counter() - begun) * 1000
    if differences:
        raise SystemExit(f"the schema was built as declared, yet it differs: {differences}")
    return elapsed


ENV = """
import json, os, sys
import sqlalchemy as sa
from alembic import context

sys.path.insert(0, os.environ["BENCH_FOLDER"])
from alembic_check import declare

options = json.loads(os.environ["BENCH_OPTIONS"])
with sa.create_engine(os.environ["BENCH_URL"]).connect() as connection:
    context.configure(connection=connection, target_metadata=declare(int(os.environ["BENCH_TABLES"])), **options)
    with context.begin_transaction():
        context.run_migrations()
"""


def measure_command(url: URL, hypertables: int, repeats: int) -> None:
    """Print both medians of the whole process, from its start to its exit code, and their ratio."""
    times: dict[str, list[float]] = {label: [] for label in PLUGINS}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "env.py").write_text(ENV, encoding="utf-8")
        Path(folder, "versions").mkdir()
        Path(folder, "alembic.ini").write_text(f"[alembic]\nscript_location = {folder}\n", encoding="utf-8")
        for turn in range(1 + repeats):
            for label, plugins in PLUGINS.items():
                environment = os.environ | {
                    "BENCH_FOLDER": str(Path(__file__).parent),
                    "BENCH_OPTIONS": json.dumps(AUTOGENERATE_OPTIONS | {"autogenerate_plugins": plugins}),
                    "BENCH_URL": url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False),
                    "BENCH_TABLES": str(hypertables),
                }
                begun = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "alembic", "check"],
                    cwd=folder,
                    env=environment,
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                if turn:
                    times[label].append((time.perf_counter() - begun) * 1000)
    report("alembic check, the whole process", times)


def measure(url: URL, metadata: sa.MetaData, repeats: int, *, new_connections: bool) -> None:
    """Print both medians and their ratio."""
    times: dict[str, list[float]] = {label: [] for label in PLUGINS}
    server = engine(url)
    kept = server.connect()
    for turn in range(WARM_UP + repeats):
        for label, plugins in PLUGINS.items():
            connection = server.connect() if new_connections else kept
            elapsed = compare(connection, metadata, plugins)
            if new_connections:
                connection.close()
            if turn >= WARM_UP:
                times[label].append(elapsed)
    kept.close()
    report(f"the comparison alone, {'a new connection each time' if new_connections else 'one connection'}", times)


def report(what: str, times: dict[str, list[float]]) -> None:
    """Print both medians and their ratio."""
    medians = {label: statistics.median(values) for label, values in times.items()}
    print(what)
    for label, median in medians.items():
        print(f"  {label:20}{median:>10.1f} ms")
    without, with_plugin = medians.values()
    print(f"  {'ratio':20}{with_plugin / without:>10.2f}    target: under {TARGET}")


def main() -> None:
    """Build the schema and measure."""
    hypertables = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 15
    url = bootstrap.database_url(load_settings())
    admin = engine(url).connect().execution_options(isolation_level="AUTOCOMMIT")
    name = f"bench_check_{time.time_ns()}"
    admin.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        metadata = declare(hypertables)
        with engine(url.set(database=name)).begin() as connection:
            create_extension(connection)
            metadata.create_all(connection)
            # Only jobs of policies, not the extension's own ones.
            policies = connection.scalar(
                sa.text("SELECT count(*) FROM timescaledb_information.jobs WHERE hypertable_name IS NOT NULL")
            )
        print(
            f"{hypertables} hypertables, {hypertables} continuous aggregates, {policies} policies; median of {repeats}"
        )
        measure_command(url.set(database=name), hypertables, repeats)
        for new_connections in (True, False):
            measure(url.set(database=name), metadata, repeats, new_connections=new_connections)
    finally:
        admin.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        admin.close()


if __name__ == "__main__":
    main()
