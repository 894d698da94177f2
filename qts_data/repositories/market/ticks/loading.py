"""Loading of batches into a table of ticks: by COPY, or by a staging table if duplicates conflict with the table."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
import sqlalchemy as sa

from qts_data.database.driver import driver_of
from qts_data.errors import InvalidRecord, TransactionConflict
from qts_data.repositories.market.ticks.batch import COLUMNS, KEY, MinuteCount
from qts_data.repositories.market.ticks.tally import instant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.repositories.market.reports import TickTable
    from qts_data.repositories.market.ticks.batch import Batch

__all__ = ["Span", "append", "insert_new"]


class Span(NamedTuple):
    """A span of time of a symbol and feed.

    Attributes:
        symbol: The instrument.
        source: The feed.
        first: Its start, in microseconds since 1970 UTC.
        last: Its end, in microseconds since 1970 UTC; included.
    """

    symbol: str
    source: str
    first: int
    last: int


_STAGE: Final = "tick_stage"
_APPEND_ATTEMPTS: Final = 10
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_MINUTE: Final = dt.timedelta(minutes=1)

_COUNTED: Final = """
    WITH fresh AS ({insert} RETURNING symbol, source, time)
    SELECT symbol, source, date_bin('1 minute', time, TIMESTAMPTZ '1970-01-01 00:00:00+00') AS minute,
           count(*) AS ticks, min(time) AS first, max(time) AS last
      FROM fresh GROUP BY 1, 2, 3
"""

_INSERT_NEW: Final = _COUNTED.format(
    insert=(
        f"INSERT INTO {{relation}} ({COLUMNS}) SELECT {COLUMNS} FROM {_STAGE} ORDER BY {KEY} "
        f"ON CONFLICT ({KEY}) DO NOTHING"
    )
)

# Each tick is appended to the stored ticks of its instant, in the order of the batch. The statement has no ON CONFLICT,
# which would drop a tick if another transaction adds one meanwhile. Instead it fails, and runs again.
_INSERT_BEHIND: Final = _COUNTED.format(
    insert=f"""
        INSERT INTO {{relation}} ({COLUMNS})
        SELECT s.symbol, s.time, s.source,
               row_number() OVER (PARTITION BY s.symbol, s.time, s.source ORDER BY s.seq) - 1 + i.stored,
               s.price, s.volume, s.bid, s.ask
          FROM {_STAGE} AS s
          JOIN (SELECT d.symbol, d.time, d.source,
                       coalesce((SELECT max(t.seq) + 1 FROM {{relation}} AS t
                                  WHERE t.symbol = d.symbol AND t.time = d.time AND t.source = d.source), 0) AS stored
                  FROM (SELECT DISTINCT symbol, time, source FROM {_STAGE}) AS d) AS i
            ON (i.symbol, i.time, i.source) = (s.symbol, s.time, s.source)
         ORDER BY s.symbol, s.time, s.source, s.seq
    """
)

# The bounds of all spans limit the chunks that are read.
_HOLES: Final = """
    SELECT EXISTS (
        SELECT FROM unnest(CAST(:symbols AS text[]), CAST(:sources AS text[]), CAST(:firsts AS timestamptz[]),
                           CAST(:lasts AS timestamptz[])) AS s (symbol, source, first, last)
         CROSS JOIN LATERAL (SELECT FROM {relation} AS t
                              WHERE t.symbol = s.symbol AND t.source = s.source
                                AND t.time >= s.first AND t.time <= s.last
                                AND t.time >= CAST(:first AS timestamptz) AND t.time <= CAST(:last AS timestamptz)
                              GROUP BY t.time HAVING max(t.seq) <> count(*) - 1 LIMIT 1) AS hole)
"""

_CHANGED: Final = f"""
    SELECT s.symbol, s.time, s.source, s.seq, s.price AS given_price, t.price AS stored_price,
           s.volume AS given_volume, t.volume AS stored_volume, s.bid AS given_bid, t.bid AS stored_bid,
           s.ask AS given_ask, t.ask AS stored_ask
      FROM {_STAGE} AS s JOIN {{relation}} AS t USING (symbol, time, source, seq)
     WHERE (s.price, s.volume, s.bid, s.ask) IS DISTINCT FROM (t.price, t.volume, t.bid, t.ask)
     ORDER BY s.symbol, s.time, s.source, s.seq LIMIT 1
"""


async def insert_new(
    connection: AsyncConnection, relation: TickTable, batch: Batch, *, expect_duplicates: bool
) -> list[MinuteCount]:
    """Insert the ticks that the table does not hold yet, and count them.

    Args:
        connection: In a transaction.
        relation: The table.
        batch: The ticks.
        expect_duplicates: Skip the attempt of COPY directly into the table, which a duplicate rolls back.

    Raises:
        InvalidRecord: The table holds another tick under the same key.
    """
    if not expect_duplicates and await _copy_direct(connection, relation, batch):
        return batch.minutes()
    await _stage(connection, relation, batch)
    inserted = await _run(connection, _INSERT_NEW.format(relation=relation))
    if sum(count.ticks for count in inserted) < batch.size:
        await _refuse_changed_ticks(connection, relation)
    return inserted


async def append(
    connection: AsyncConnection, relation: TickTable, batch: Batch, shared: Sequence[Span]
) -> list[MinuteCount]:
    """Insert all ticks of a batch whose feed gives no seq, after the stored ticks of the same instants.

    Args:
        connection: In a transaction.
        relation: The table.
        batch: The ticks.
        shared: Spans in which stored ticks may exist; none in the usual case that the batch is the latest.

    Raises:
        TransactionConflict: Other transactions keep writing the same instants of the same feed.
    """
    # A free number follows all others only if those have no holes.
    if not await _has_holes(connection, relation, shared) and await _copy_direct(connection, relation, batch):
        return batch.minutes()
    await _stage(connection, relation, batch)
    for _ in range(_APPEND_ATTEMPTS):
        savepoint = await connection.begin_nested()
        try:
            inserted = await _run(connection, _INSERT_BEHIND.format(relation=relation))
        except sa.exc.IntegrityError:
            await savepoint.rollback()
        else:
            await savepoint.commit()
            return inserted
    raise TransactionConflict(f"other transactions keep adding ticks to the same instants of {relation}")


async def _has_holes(connection: AsyncConnection, relation: TickTable, spans: Sequence[Span]) -> bool:
    """Tell whether at some instant the seqs of the ticks are not 0, 1, 2 and so on."""
    if not spans:
        return False
    firsts, lasts = [instant(span.first) for span in spans], [instant(span.last) for span in spans]
    found: bool = await connection.scalar(
        sa.text(_HOLES.format(relation=relation)),
        {
            "symbols": [span.symbol for span in spans],
            "sources": [span.source for span in spans],
            "firsts": firsts,
            "lasts": lasts,
            "first": min(firsts),
            "last": max(lasts),
        },
    )
    return found


async def _copy_direct(connection: AsyncConnection, relation: TickTable, batch: Batch) -> bool:
    """COPY into the table. If a key exists already, write nothing and return False."""
    savepoint = await connection.begin_nested()
    try:
        await _copy(connection, relation, batch)
    except psycopg.errors.UniqueViolation:
        await savepoint.rollback()
        return False
    await savepoint.commit()
    return True


async def _stage(connection: AsyncConnection, relation: TickTable, batch: Batch) -> None:
    await connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {_STAGE} ON COMMIT DROP AS SELECT {COLUMNS} FROM {relation} WITH NO DATA"
    )
    await connection.exec_driver_sql(f"TRUNCATE {_STAGE}")
    await _copy(connection, _STAGE, batch)


async def _run(connection: AsyncConnection, statement: str) -> list[MinuteCount]:
    rows = await connection.exec_driver_sql(statement)
    return [
        MinuteCount(
            row.symbol,
            row.source,
            (row.minute - _EPOCH) // _MINUTE,
            row.ticks,
            (row.first - _EPOCH) // _MICROSECOND,
            (row.last - _EPOCH) // _MICROSECOND,
        )
        for row in rows
    ]


async def _copy(connection: AsyncConnection, table: str, batch: Batch) -> None:
    async with (
        driver_of(connection) as driver,
        driver.cursor() as cursor,
        cursor.copy(f"COPY {table} ({COLUMNS}) FROM STDIN WITH ({batch.options})") as copy,
    ):
        for block in batch.blocks():
            await copy.write(block)
            # Otherwise a server that is faster than this would give other tasks no turn.
            await asyncio.sleep(0)


async def _refuse_changed_ticks(connection: AsyncConnection, relation: TickTable) -> None:
    # Same key, different content: skipping it would lose a tick silently.
    found = (await connection.exec_driver_sql(_CHANGED.format(relation=relation))).first()
    if found is None:
        return

    def shown(which: str) -> str:
        price, volume, bid, ask = (getattr(found, f"{which}_{name}") for name in ("price", "volume", "bid", "ask"))
        quote = (
            ""
            if bid is None and ask is None
            else f" at {bid if bid is None else f'{bid:f}'}/{ask if ask is None else f'{ask:f}'}"
        )
        return f"{which} {price:f} x {volume:f}{quote}"

    raise InvalidRecord(
        field=KEY,
        reason=(
            f"{relation} already holds another tick as {found.symbol} {found.time.isoformat()} "
            f"source {found.source!r} seq {found.seq}: {shown('stored')}, {shown('given')}; "
            "load another feed under a source of its own"
        ),
    )
