"""Rows written in the transaction of the ticks: the batch, and the number of ticks of each day."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from qts_data.models import IngestBatch, TickDay
from qts_data.repositories.market.reports import IngestReport
from qts_data.repositories.market.ticks.tally import hours_of, instant

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.repositories.market.reports import BatchId, TickTable
    from qts_data.repositories.market.ticks.tally import Tally

__all__ = [
    "add_days",
    "add_to_stream",
    "advance",
    "claim",
    "find",
    "find_parts",
    "finish",
    "last_stored",
    "recount",
    "stood",
]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EPOCH_DAY: Final = dt.date(1970, 1, 1)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
# Fewer than half of the 65,535 parameters that a statement may have.
_DAYS_OF_A_STATEMENT: Final = 2_000
_batches: Final = cast("sa.Table", IngestBatch.__table__)
_days: Final = cast("sa.Table", TickDay.__table__)


def _is(relation: TickTable, batch: BatchId) -> sa.ColumnElement[bool]:
    c = _batches.c
    return sa.and_(c.relation == relation, c.stream == batch.stream, c.part == batch.part)


async def claim(
    connection: AsyncConnection, relation: TickTable, batch: BatchId, *, again: bool
) -> IngestReport | None:
    """Write the batch's row first. A concurrent load of the same batch waits here, and then finds the row.

    Returns:
        None if the batch is to be loaded, else the report of its earlier load.
    """
    new = insert(_batches).values(
        relation=relation, stream=batch.stream, part=batch.part, received=0, inserted=0, duplicate=0, late=0, rejected=0
    )
    claimed = await connection.execute(new.on_conflict_do_nothing().returning(_batches.c.part))
    if claimed.first() is not None:
        return None
    if again:
        return None
    return await find(connection, relation, batch)


async def find(connection: AsyncConnection, relation: TickTable, batch: BatchId) -> IngestReport | None:
    """Return the report of an already loaded batch, or None."""
    row = (await connection.execute(sa.select(_batches).where(_is(relation, batch)))).one_or_none()
    return None if row is None else _report_of(row)


async def find_parts(connection: AsyncConnection, relation: TickTable, stream: str) -> dict[int, IngestReport]:
    """Return the reports of a stream's already loaded batches, by offset."""
    rows = await connection.execute(
        sa.select(_batches).where(_batches.c.relation == relation, _batches.c.stream == stream)
    )
    return {row.part: _report_of(row) for row in rows}


def _report_of(row: sa.Row[Any]) -> IngestReport:
    # It is unknown whether its bars were refreshed: the process that loaded it may have been killed before.
    known = row.first_time is not None and row.last_time is not None
    return IngestReport(
        received=row.received,
        inserted=0,
        duplicate=row.received - row.rejected,
        first=row.first_time,
        last=row.last_time,
        rejected=row.rejected,
        already_loaded=True,
        to_refresh=(hours_of(row.first_time, row.last_time),) if known else (),
    )


async def finish(connection: AsyncConnection, relation: TickTable, batch: BatchId, report: IngestReport) -> None:
    """Write the result of a claimed batch."""
    await connection.execute(
        sa.update(_batches)
        .where(_is(relation, batch))
        .values(
            received=report.received,
            inserted=report.inserted,
            duplicate=report.duplicate,
            late=report.late,
            rejected=report.rejected,
            first_time=report.first,
            last_time=report.last,
            recorded_at=sa.func.now(),
        )
    )


async def advance(connection: AsyncConnection, relation: TickTable, stream: str, *, before: int, after: int) -> int:
    """Move a stream of groups from `before` ticks to `after`. Return its former position.

    A position above `before` means that an earlier attempt is committed although its answer was lost. Call this first
    for each group: if the COMMIT of an earlier attempt is still running on the server, it holds the row. This call
    then waits for its outcome.
    """
    c = _batches.c
    new = insert(_batches).values(
        relation=relation, stream=stream, part=0, received=after, inserted=0, duplicate=0, late=0, rejected=0
    )
    moved = await connection.execute(
        new.on_conflict_do_update(
            index_elements=["relation", "stream", "part"],
            set_={"received": after, "recorded_at": sa.func.now()},
            where=c.received == before,
        ).returning(c.part)
    )
    if moved.first() is not None:
        return before
    row = sa.and_(c.relation == relation, c.stream == stream, c.part == 0)
    stood: int = (await connection.execute(sa.select(c.received).where(row).with_for_update())).scalar_one()
    if stood < after:
        await connection.execute(sa.update(_batches).where(row).values(received=after, recorded_at=sa.func.now()))
    return stood


async def stood(connection: AsyncConnection, relation: TickTable, stream: str) -> int:
    """Return the number of stored ticks of a stream of groups."""
    c = _batches.c
    row = sa.and_(c.relation == relation, c.stream == stream, c.part == 0)
    found: int | None = await connection.scalar(sa.select(c.received).where(row))
    return found or 0


async def add_to_stream(connection: AsyncConnection, relation: TickTable, stream: str, report: IngestReport) -> None:
    """Add the counts of a group to those of its stream."""
    c = _batches.c
    await connection.execute(
        sa.update(_batches)
        .where(c.relation == relation, c.stream == stream, c.part == 0)
        .values(
            inserted=c.inserted + report.inserted,
            duplicate=c.duplicate + report.duplicate,
            late=c.late + report.late,
            first_time=sa.func.least(c.first_time, report.first),
            last_time=sa.func.greatest(c.last_time, report.last),
        )
    )


async def last_stored(
    connection: AsyncConnection, relation: TickTable, pairs: set[tuple[str, str]]
) -> dict[tuple[str, str], int | None]:
    """Return the time of the last stored tick of each symbol and feed, in microseconds since 1970. None without any."""
    found: dict[tuple[str, str], int | None] = dict.fromkeys(pairs)
    c = _days.c
    wanted = sorted(pairs)
    given = (
        sa.func.unnest(
            sa.cast([symbol for symbol, _ in wanted], sa.ARRAY(sa.Text)),
            sa.cast([source for _, source in wanted], sa.ARRAY(sa.Text)),
        )
        .table_valued("symbol", "source", name="wanted")
        .render_derived()
    )
    rows = await connection.execute(
        sa.select(c.symbol, c.source, sa.func.max(c.last_time).label("last"))
        .join(given, sa.and_(given.c.symbol == c.symbol, given.c.source == c.source))
        .where(c.relation == relation)
        .group_by(c.symbol, c.source)
    )
    for row in rows:
        found[row.symbol, row.source] = (row.last - _EPOCH) // _MICROSECOND
    return found


# The chunk is read from one of its ticks. If a chunk was dropped and created again, the old count is of dropped
# ticks. All loads write the rows in one order, so two loads never wait for each other in a circle.
_ADD_DAYS: Final = """
    INSERT INTO tick_days AS d (relation, symbol, source, day, chunk, ticks, first_time, last_time)
    SELECT CAST(:relation AS text), n.symbol, n.source, n.day, c.relname, n.ticks, n.first_time, n.last_time
      FROM unnest(CAST(:symbols AS text[]), CAST(:sources AS text[]), CAST(:days AS date[]), CAST(:ticks AS bigint[]),
                  CAST(:firsts AS timestamptz[]), CAST(:lasts AS timestamptz[]))
           AS n (symbol, source, day, ticks, first_time, last_time)
     CROSS JOIN LATERAL (SELECT t.tableoid FROM {relation} AS t
                          WHERE t.symbol = n.symbol AND t.time = n.first_time AND t.source = n.source LIMIT 1) AS t
      JOIN pg_catalog.pg_class AS c ON c.oid = t.tableoid
     ORDER BY n.symbol, n.source, n.day
    ON CONFLICT (relation, symbol, source, day) DO UPDATE SET
        chunk = excluded.chunk,
        ticks = excluded.ticks + CASE WHEN d.chunk = excluded.chunk THEN d.ticks ELSE 0 END,
        first_time = CASE WHEN d.chunk = excluded.chunk THEN least(d.first_time, excluded.first_time)
                          ELSE excluded.first_time END,
        last_time = CASE WHEN d.chunk = excluded.chunk THEN greatest(d.last_time, excluded.last_time)
                         ELSE excluded.last_time END
    RETURNING clock_timestamp() AS now, qts_trading_zone() AS zone
"""


async def add_days(connection: AsyncConnection, relation: TickTable, tally: Tally) -> None:
    """Add the inserted ticks of a load to those of their days, and give the server's clock to the tally.

    Call it at the end of the load, so that other loads wait for the rows as briefly as possible.
    """
    clock: sa.Row[Any] | None = None
    statement = sa.text(_ADD_DAYS.format(relation=relation))
    keys = sorted(tally.days)
    for start in range(0, len(keys), _DAYS_OF_A_STATEMENT):
        some = keys[start : start + _DAYS_OF_A_STATEMENT]
        counts = [tally.days[key] for key in some]
        found = await connection.execute(
            statement,
            {
                "relation": relation,
                "symbols": [symbol for symbol, _, _ in some],
                "sources": [source for _, source, _ in some],
                "days": [_EPOCH_DAY + dt.timedelta(days=day) for _, _, day in some],
                "ticks": [ticks for ticks, _, _ in counts],
                "firsts": [instant(first) for _, first, _ in counts],
                "lasts": [instant(last) for _, _, last in counts],
            },
        )
        clock = found.first()
    if clock is not None:
        tally.at(clock.now, clock.zone)


_RECOUNT: Final = """
    INSERT INTO tick_days (relation, symbol, source, day, chunk, ticks, first_time, last_time)
    SELECT CAST(:relation AS text), t.symbol, t.source, CAST(t.time AT TIME ZONE 'UTC' AS date), c.relname,
           count(*), min(t.time), max(t.time)
      FROM {relation} AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tableoid
     GROUP BY t.symbol, t.source, CAST(t.time AT TIME ZONE 'UTC' AS date), c.relname
"""


async def recount(connection: AsyncConnection, relation: TickTable) -> None:
    """Count the table again, while no load commits."""
    # Loads write tick_days at their end. Under this lock, none of them commits.
    await connection.exec_driver_sql("LOCK TABLE tick_days IN EXCLUSIVE MODE")
    await connection.execute(sa.delete(_days).where(_days.c.relation == relation))
    await connection.execute(sa.text(_RECOUNT.format(relation=relation)), {"relation": relation})
