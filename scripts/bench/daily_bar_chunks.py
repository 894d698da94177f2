"""How long should a chunk of ohlcv_1d be? Loads and queries of the same bars at several lengths.

    QTS_DATABASE_URL=... python scripts/bench/daily_bar_chunks.py [symbols] [years]

The figures are ratios to an ordinary table with the same key in the same run; less is better. Needs a server with
TimescaleDB. It works in a database of its own, which it drops.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import TYPE_CHECKING

from qts_data import bootstrap
from qts_data.database.engine import engine
from qts_data.settings import load_settings

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

LENGTHS = [None, "30 days", "90 days", "365 days", "3650 days"]
REPEATS = 15
QUERIES = {
    "one symbol, all years": "SELECT * FROM bars WHERE symbol = 'S0007' ORDER BY time",
    "one symbol, last year": "SELECT * FROM bars WHERE symbol = 'S0007' AND time >= now() - INTERVAL '1 year'",
    "all symbols, one day": "SELECT * FROM bars WHERE time = date_trunc('day', now(), 'UTC') - INTERVAL '400 days'",
    "last bar of a symbol": "SELECT * FROM bars WHERE symbol = 'S0007' ORDER BY time DESC LIMIT 1",
}


def measure(connection: Connection, length: str | None, symbols: int, years: int) -> dict[str, float]:
    """Return the milliseconds of the load and of each query, planning included."""
    run = connection.exec_driver_sql
    run("DROP TABLE IF EXISTS bars")
    run(
        "CREATE TABLE bars (symbol text, time timestamptz, open numeric(18,8), high numeric(18,8), "
        "low numeric(18,8), close numeric(18,8), volume numeric(28,8), PRIMARY KEY (symbol, time))"
    )
    if length:
        run(f"SELECT create_hypertable('bars', by_range('time', INTERVAL '{length}'), create_default_indexes => false)")
    begun = time.perf_counter()
    run(
        "INSERT INTO bars SELECT 'S' || to_char(s, 'FM0000'), d, 100, 110, 90, 105, 1000 "
        f"FROM generate_series(date_trunc('day', now(), 'UTC') - INTERVAL '{years} years', now(), "
        f"INTERVAL '1 day') AS d, generate_series(1, {symbols}) AS s WHERE extract(isodow FROM d) < 6"
    )
    found = {"load": (time.perf_counter() - begun) * 1000}
    run("ANALYZE bars")
    for name, query in QUERIES.items():
        times = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            run(query).all()
            times.append((time.perf_counter() - begun) * 1000)
        found[name] = statistics.median(times)
    return found


def main() -> None:
    """Print a table of ratios."""
    symbols = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    years = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    url = bootstrap.database_url(load_settings())
    admin = engine(url).connect().execution_options(isolation_level="AUTOCOMMIT")
    name = f"bench_chunks_{time.time_ns()}"
    admin.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        with engine(url.set(database=name)).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("CREATE EXTENSION timescaledb")
            results = {length: measure(connection, length, symbols, years) for length in LENGTHS}
    finally:
        admin.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        admin.close()
    floor = results[None]
    print(f"{symbols} symbols, {years} years; ordinary table in ms, then ratios to it by length of a chunk")
    print(f"{'':24}{'table':>10}" + "".join(f"{length:>12}" for length in LENGTHS if length))
    for key, value in floor.items():
        ratios = "".join(f"{results[length][key] / value:>12.2f}" for length in LENGTHS if length)
        print(f"{key:24}{value:>10.2f}{ratios}")


if __name__ == "__main__":
    main()
