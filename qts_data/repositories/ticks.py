"""Ticks in, bars out."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Literal

import psycopg
import sqlalchemy as sa

from qts_data.contracts import OHLCV
from qts_data.database.errors import translated_errors
from qts_data.errors import InvalidRecord
from qts_data.models import OHLCV_1H, OHLCV_1M

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator
    from decimal import Decimal
    from typing import TypeAlias

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import TickData

    _Row: TypeAlias = tuple[str, dt.datetime, str, int, Decimal, Decimal, Decimal | None, Decimal | None]

__all__ = ["BAR_INTERVALS", "BarInterval", "IngestReport", "RefreshReport", "TickRepository"]

BarInterval = Literal["1m", "1h"]
BAR_INTERVALS: Final = {"1m": OHLCV_1M, "1h": OHLCV_1H}
"""The aggregate behind each length of a bar."""

_COLUMNS: Final = "symbol, time, source, seq, price, volume, bid, ask"
_TIME: Final = 1
_key: Final = itemgetter(0, 1, 2, 3)


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of a load.

    Attributes:
        received: Ticks that were handed over.
        inserted: Ticks that are new in the table.
        duplicate: Ticks that were there already, with the same key and the same content.
        first: Instant of the earliest tick, None without any.
        last: Instant of the latest tick, None without any.
    """

    received: int
    inserted: int
    duplicate: int
    first: dt.datetime | None
    last: dt.datetime | None


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What became of a refresh of bars.

    Attributes:
        refreshed: Names of the continuous aggregates that were brought up to date.
        kept: For each aggregate that was left alone, the number of its bars in the range whose source rows
            retention has dropped; a refresh would have deleted them.
    """

    refreshed: tuple[str, ...]
    kept: dict[str, int]


class TickRepository:
    """Questions and writes about ticks, in the transaction of one connection; it never commits."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def ingest(
        self,
        ticks: Iterable[TickData],
        *,
        batch_size: int = 50_000,
        progress: Callable[[int], None] | None = None,
    ) -> IngestReport:
        """Load ticks by COPY; what is there already is not doubled.

        A tick without a `seq` gets its ordinal among the ticks of the same symbol, time and source, counted over
        this whole call in the order given: hand over a source whole, and the same file loaded twice makes the
        same keys. The counters take about 100 bytes for each distinct instant.

        Args:
            ticks: Any iterable; it is read once, lazily.
            batch_size: Ticks that are held and sorted by the key at a time.
            progress: Called after each batch with the number of ticks so far.

        Raises:
            InvalidRecord: The table holds another tick under the same key; names both.
            QtsDataError: The database refused. In both cases roll the transaction back; nothing is committed.
        """
        received = inserted = 0
        first: dt.datetime | None = None
        last: dt.datetime | None = None
        direct = True
        with translated_errors():
            for batch in _batches(_numbered(ticks), batch_size):
                # The key's index is the bottleneck of a load; sorted by it, a batch loads twice as fast.
                batch.sort(key=_key)
                # COPY straight into the table is the fastest; once a duplicate met it, expect more of them.
                new = await self._copy_direct(batch) if direct else None
                if new is None:
                    direct = False
                    new = await self._copy_by_staging(batch)
                received += len(batch)
                inserted += new
                times = [row[_TIME] for row in batch]
                first = min(times) if first is None else min(first, min(times))
                last = max(times) if last is None else max(last, max(times))
                if progress is not None:
                    progress(received)
        return IngestReport(received, inserted, received - inserted, first, last)

    async def bars(self, symbol: str, start: dt.datetime, end: dt.datetime, interval: BarInterval) -> list[OHLCV]:
        """Bars of a symbol that start in [start, end), in order of time and source.

        Args:
            symbol: The instrument.
            start: Aware instant; bars that start at it are included.
            end: Aware instant; bars that start at it are not.
            interval: `"1m"` or `"1h"`.

        Raises:
            InvalidRecord: `start` or `end` has no time zone.
        """
        for field, instant in (("start", start), ("end", end)):
            if instant.tzinfo is None:
                raise InvalidRecord(field=field, reason=f"{instant} has no time zone; give an aware instant")
        bar = BAR_INTERVALS[interval].c
        statement = (
            sa.select(*bar)
            .where(bar.symbol == symbol, bar.bucket >= start, bar.bucket < end)
            .order_by(bar.bucket, bar.source)
        )
        with translated_errors():
            rows = await self._connection.execute(statement)
        return [
            OHLCV(
                time=row.bucket,
                symbol=row.symbol,
                source=row.source,
                open=row.open,
                high=row.high,
                low=row.low,
                close=row.close,
                volume=row.volume,
                tick_count=row.tick_count,
            )
            for row in rows
        ]

    async def refresh_bars(self, start: dt.datetime, end: dt.datetime) -> RefreshReport:
        """Bring the bars of [start, end] up to date, for ticks older than the refresh policies reach.

        Where the server keeps no continuous aggregates this does nothing: views are always current. A refresh
        over ticks that retention has dropped would delete their bars, so an aggregate that has such bars in the
        range is left alone, and so is what is built on it.

        The connection must be in autocommit mode: the server refuses a refresh inside a transaction.
        """
        refreshed: list[str] = []
        kept: dict[str, int] = {}
        with translated_errors():
            found = await self._connection.scalar(
                sa.text("SELECT to_regclass('timescaledb_information.continuous_aggregates') IS NOT NULL")
            )
            for name, (width, orphans) in _ORPHANED.items() if found else ():
                is_aggregate = await self._connection.scalar(
                    sa.text(
                        "SELECT count(*) FROM timescaledb_information.continuous_aggregates "
                        "WHERE view_schema = current_schema() AND view_name = :name"
                    ),
                    {"name": name},
                )
                if not is_aggregate or kept:
                    continue
                window = {"start": start, "end": end}
                lost = await self._connection.scalar(sa.text(orphans), window)
                if lost:
                    kept[name] = lost
                    continue
                await self._connection.execute(
                    sa.text(
                        f"CALL refresh_continuous_aggregate('{name}', "
                        f"date_trunc('{width}', CAST(:start AS timestamptz), 'UTC'), "
                        f"date_trunc('{width}', CAST(:end AS timestamptz), 'UTC') + INTERVAL '1 {width}')"
                    ),
                    window,
                )
                refreshed.append(name)
        return RefreshReport(tuple(refreshed), kept)

    async def retention_cutoff(self) -> dt.datetime | None:
        """Instant before which the server will drop ticks by itself; None if it keeps them."""
        with translated_errors():
            found = await self._connection.scalar(
                sa.text("SELECT to_regclass('timescaledb_information.jobs') IS NOT NULL")
            )
            if not found:
                return None
            cutoff: dt.datetime | None = await self._connection.scalar(
                sa.text(
                    "SELECT now() - CAST(config ->> 'drop_after' AS interval) FROM timescaledb_information.jobs "
                    "WHERE proc_name = 'policy_retention' AND hypertable_schema = current_schema() "
                    "AND hypertable_name = 'tick_data' AND scheduled"
                )
            )
        return cutoff

    async def _copy_direct(self, batch: list[_Row]) -> int | None:
        """COPY into the table; None, and nothing written, if a key is there already."""
        savepoint = await self._connection.begin_nested()
        try:
            await self._copy("tick_data", batch)
        except psycopg.errors.UniqueViolation:
            await savepoint.rollback()
            return None
        await savepoint.commit()
        return len(batch)

    async def _copy_by_staging(self, batch: list[_Row]) -> int:
        """COPY into a temporary table, then insert what is new; returns how many were."""
        execute = self._connection.exec_driver_sql
        await execute(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS tick_stage ON COMMIT DROP AS "
            f"SELECT {_COLUMNS} FROM tick_data WITH NO DATA"
        )
        await execute("TRUNCATE tick_stage")
        await self._copy("tick_stage", batch)
        result = await execute(
            f"INSERT INTO tick_data ({_COLUMNS}) SELECT {_COLUMNS} FROM tick_stage "
            "ORDER BY symbol, time, source, seq ON CONFLICT (symbol, time, source, seq) DO NOTHING"
        )
        if result.rowcount < len(batch):
            await self._refuse_changed_ticks()
        return result.rowcount

    async def _refuse_changed_ticks(self) -> None:
        # Same key, other content: to skip it would lose a tick in silence.
        different = (
            await self._connection.exec_driver_sql(
                """
                SELECT s.symbol, s.time, s.source, s.seq, s.price AS given_price, t.price AS stored_price,
                       s.volume AS given_volume, t.volume AS stored_volume
                  FROM tick_stage AS s JOIN tick_data AS t USING (symbol, time, source, seq)
                 WHERE (s.price, s.volume, s.bid, s.ask) IS DISTINCT FROM (t.price, t.volume, t.bid, t.ask)
                 ORDER BY s.symbol, s.time, s.source, s.seq LIMIT 1
                """
            )
        ).first()
        if different is not None:
            raise InvalidRecord(
                field="symbol, time, source, seq",
                reason=(
                    f"tick_data already holds another tick as {different.symbol} {different.time.isoformat()} "
                    f"source {different.source!r} seq {different.seq}: stored {different.stored_price:f} x "
                    f"{different.stored_volume:f}, given {different.given_price:f} x {different.given_volume:f}; "
                    "load another feed under a source of its own"
                ),
            )

    async def _copy(self, table: str, batch: list[_Row]) -> None:
        driver = (await self._connection.get_raw_connection()).driver_connection
        if driver is None:
            raise sa.exc.InvalidRequestError("the connection is closed")
        async with (
            driver.cursor() as cursor,
            cursor.copy(f"COPY {table} ({_COLUMNS}) FROM STDIN") as copy,
        ):
            for row in batch:
                await copy.write_row(row)


def _orphaned(aggregate: str, width: str, source: str, time: str) -> str:
    return (
        f"SELECT count(*) FROM {aggregate} AS bar WHERE bar.bucket >= date_trunc('{width}', "
        f"CAST(:start AS timestamptz), 'UTC') AND bar.bucket <= CAST(:end AS timestamptz) AND NOT EXISTS ("
        f"SELECT FROM {source} AS row WHERE row.symbol = bar.symbol AND row.source = bar.source "
        f"AND row.{time} >= bar.bucket AND row.{time} < bar.bucket + INTERVAL '1 {width}')"
    )


_ORPHANED: Final = {
    "ohlcv_1m": ("minute", _orphaned("ohlcv_1m", "minute", "tick_data", "time")),
    "ohlcv_1h": ("hour", _orphaned("ohlcv_1h", "hour", "ohlcv_1m", "bucket")),
}


def _numbered(ticks: Iterable[TickData]) -> Iterator[_Row]:
    seen: Counter[tuple[str, dt.datetime, str]] = Counter()
    for tick in ticks:
        seq = tick.seq
        if seq is None:
            key = (tick.symbol, tick.time, tick.source)
            seq = seen[key]
            seen[key] = seq + 1
        yield (tick.symbol, tick.time, tick.source, seq, tick.price, tick.volume, tick.bid, tick.ask)


def _batches(rows: Iterable[_Row], size: int) -> Iterator[list[_Row]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
