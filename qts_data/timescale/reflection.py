"""Reflection of TimescaleDB objects: hypertables, columnstores, policies and continuous aggregates.

They are read from `timescaledb_information`, for one schema. Intervals are read as their parts and compared as
intervals, independent of the session's IntervalStyle. Names that the server assigns (numbers of materialized
hypertables) are left out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.timescale.ddl import qualified as quoted
from qts_data.timescale.declarations import Columnstore
from qts_data.timescale.edition import Edition
from qts_data.timescale.intervals import Interval

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.engine import Connection, Row

__all__ = [
    "AgePolicy",
    "Reflected",
    "ReflectedAggregate",
    "ReflectedHypertable",
    "ReflectedRefresh",
    "ReflectedView",
    "read_views",
    "reflect",
]


@dataclass(frozen=True, slots=True)
class AgePolicy:
    """A policy with one age: columnstore or retention.

    Attributes:
        age: Age at which it acts, None for a policy that this package could not have made.
        every: Time between two runs.
        scheduled: False for a paused job.
        job: Number of the job.
    """

    age: Interval | None
    every: Interval
    scheduled: bool
    job: int


@dataclass(frozen=True, slots=True)
class ReflectedRefresh:
    """A refresh policy. `start` or `end` is None if the window is open.

    Attributes:
        start: Age of the window's older end.
        end: Age of the window's younger end.
        every: Time between two runs.
        scheduled: False for a paused job.
        job: Number of the job.
    """

    start: Interval | None
    end: Interval | None
    every: Interval
    scheduled: bool
    job: int


@dataclass(frozen=True, slots=True)
class ReflectedHypertable:
    """A hypertable as the server has it.

    Attributes:
        time: Name of its time column.
        dimensions: Number of columns by which it is divided. All but the first divide by space.
        chunk_interval: Length of future chunks; None if it is not a length of time.
        columnstore: Orders of the columnstore, without its policy; None where it is off.
        convert: The columnstore policy, if any.
        retention: The retention policy, if any.
        reorder: Index of the reorder policy, if any.
        reorder_every: Time between two runs of it.
        reorder_scheduled: False for a paused reorder job.
    """

    time: str
    dimensions: int
    chunk_interval: Interval | None
    columnstore: Columnstore | None
    convert: AgePolicy | None
    retention: AgePolicy | None
    reorder: str | None
    reorder_every: Interval | None
    reorder_scheduled: bool


@dataclass(frozen=True, slots=True)
class ReflectedAggregate:
    """A continuous aggregate as the server has it.

    Attributes:
        definition: Its SELECT in the server's normal form.
        materialized_only: Whether queries leave out buckets that are not materialized yet.
        bucket_column: Name of the column that holds a bucket's start.
        chunk_interval: Length of future chunks of materialized rows; None if it is not a length of time.
        refresh: Refresh policies, by age of the window.
        columnstore: Orders of the columnstore, without its policy; None where it is off.
        convert: The columnstore policy, if any.
        retention: The retention policy, if any.
        indexes: Indexes beside the server's own, with their expressions.
        other_indexes: Indexes that cannot be declared, such as partial ones, with their definitions.
        group_indexes: Whether the server made its own indexes for the grouping columns.
        comment: Comment on the view, empty without one.
        column_comments: The same for each column, in their order.
    """

    definition: str
    materialized_only: bool
    bucket_column: str
    chunk_interval: Interval | None
    refresh: tuple[ReflectedRefresh, ...]
    columnstore: Columnstore | None
    convert: AgePolicy | None
    retention: AgePolicy | None
    indexes: dict[str, list[str]]
    other_indexes: dict[str, str]
    group_indexes: bool
    comment: str
    column_comments: dict[str, str]


@dataclass(frozen=True, slots=True)
class ReflectedView:
    """A plain view, which stands in for an aggregate if the edition has none.

    Attributes:
        definition: Its SELECT in the server's normal form.
        comment: Comment on the view, empty without one.
        column_comments: The same for each column, in their order.
    """

    definition: str
    comment: str
    column_comments: dict[str, str]


@dataclass(frozen=True, slots=True)
class Reflected:
    """Everything found in one schema, by name."""

    hypertables: dict[str, ReflectedHypertable]
    aggregates: dict[str, ReflectedAggregate]


def _parts(interval: str) -> str:
    """Write SQL for months and microseconds of an interval, or NULL. It is exact, because extract() is numeric."""
    return (
        f"CASE WHEN {interval} IS NULL THEN NULL ELSE ARRAY["
        f"CAST(extract(year FROM {interval}) * 12 + extract(month FROM {interval}) AS bigint), "
        f"CAST(extract(day FROM {interval}) * 86400000000 + extract(hour FROM {interval}) * 3600000000 "
        f"+ extract(minute FROM {interval}) * 60000000 + extract(microseconds FROM {interval}) AS bigint)] END"
    )


def _age(key: str) -> str:
    # Integer hypertables have integer ages. This package never makes such hypertables.
    text = f"(config ->> '{key}')"
    return _parts(f"(CASE WHEN {text} !~ '^-?[0-9]+$' THEN CAST({text} AS interval) END)")


# Two queries instead of a join: the information view numbers all dimensions of the database anew for each row.
_DIMENSIONS: Final = f"""
    SELECT hypertable_schema AS schema, hypertable_name AS name, column_name AS time,
           {_parts("time_interval")} AS chunk_interval
      FROM timescaledb_information.dimensions
     WHERE dimension_number = 1
"""

_HYPERTABLES: Final = """
    SELECT h.hypertable_schema AS schema, h.hypertable_name AS name, h.compression_enabled AS columnstore,
           h.num_dimensions AS dimensions, s.segmentby, s.orderby, s.orderby_desc, s.orderby_nullsfirst
      FROM timescaledb_information.hypertables AS h
      -- The information view joins the names without quotes; a name with a comma would be two.
      LEFT JOIN _timescaledb_catalog.compression_settings AS s
        ON s.relid = CAST(format('%I.%I', h.hypertable_schema, h.hypertable_name) AS regclass)
     WHERE h.hypertable_schema = coalesce(:schema, current_schema())
"""

# Joins replace obj_description() and col_description(), which would be called once for each column.
_COMMENTS: Final = """
           (SELECT d.description FROM pg_catalog.pg_description AS d
             WHERE d.objoid = c.oid AND d.classoid = CAST('pg_class' AS regclass) AND d.objsubid = 0) AS comment,
           (SELECT json_agg(json_build_array(t.attname, d.description) ORDER BY t.attnum)
              FROM pg_catalog.pg_attribute AS t
              LEFT JOIN pg_catalog.pg_description AS d
                ON d.objoid = t.attrelid AND d.classoid = CAST('pg_class' AS regclass) AND d.objsubid = t.attnum
             WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped) AS column_comments
"""

_AGGREGATES: Final = f"""
    SELECT a.view_name AS name, a.view_definition AS definition, a.materialized_only,
           a.materialization_hypertable_schema AS rows_schema, a.materialization_hypertable_name AS rows_name,
           a.compression_enabled AS columnstore, s.segmentby, s.orderby, s.orderby_desc, s.orderby_nullsfirst,
           (SELECT coalesce(json_agg(json_build_array(
                       i.relname,
                       i.relname LIKE '\\_materialized\\_hypertable\\_%',
                       -- What CREATE INDEX has beyond columns and their directions.
                       x.indpred IS NULL AND x.indexprs IS NULL AND NOT x.indisunique AND x.indnatts = x.indnkeyatts
                           AND i.reloptions IS NULL AND m.amname = 'btree'
                           AND NOT EXISTS (SELECT FROM generate_series(0, x.indnkeyatts - 1) AS n
                                             JOIN pg_catalog.pg_opclass AS o ON o.oid = x.indclass[n]
                                             JOIN pg_catalog.pg_attribute AS t
                                               ON t.attrelid = x.indrelid AND t.attnum = x.indkey[n]
                                            WHERE NOT o.opcdefault OR x.indcollation[n] <> t.attcollation),
                       (SELECT json_agg(pg_get_indexdef(x.indexrelid, n, true) || CASE x.indoption[n - 1] & 3
                                            WHEN 1 THEN ' DESC NULLS LAST' WHEN 2 THEN ' NULLS FIRST'
                                            WHEN 3 THEN ' DESC' ELSE '' END ORDER BY n)
                          FROM generate_series(1, x.indnkeyatts) AS n),
                       pg_get_indexdef(x.indexrelid)) ORDER BY i.relname), '[]')
              FROM pg_catalog.pg_index AS x
              JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
              JOIN pg_catalog.pg_am AS m ON m.oid = i.relam
             WHERE x.indrelid = rows.oid) AS indexes,
           {_COMMENTS}
      FROM timescaledb_information.continuous_aggregates AS a
      CROSS JOIN LATERAL (SELECT CAST(CAST(format('%I.%I', a.materialization_hypertable_schema,
                                                  a.materialization_hypertable_name) AS regclass) AS oid)) AS rows (oid)
      CROSS JOIN LATERAL (SELECT CAST(CAST(format('%I.%I', a.view_schema, a.view_name) AS regclass) AS oid)) AS c (oid)
      LEFT JOIN _timescaledb_catalog.compression_settings AS s ON s.relid = rows.oid
     WHERE a.view_schema = coalesce(:schema, current_schema())
"""

_VIEWS: Final = f"""
    SELECT c.relname AS name, pg_get_viewdef(c.oid) AS definition, {_COMMENTS}
      FROM pg_catalog.pg_class AS c
     WHERE c.relkind = 'v' AND c.relname = ANY(:names)
       AND c.relnamespace = (SELECT n.oid FROM pg_catalog.pg_namespace AS n
                              WHERE n.nspname = coalesce(:schema, current_schema()))
"""

_JOBS: Final = f"""
    SELECT job_id AS job, proc_name, hypertable_name AS name, scheduled,
           {_parts("schedule_interval")} AS every, {_age("drop_after")} AS drop_after,
           {_age("compress_after")} AS compress_after,
           config ->> 'index_name' AS index_name,
           {_age("start_offset")} AS start_offset, {_age("end_offset")} AS end_offset
      FROM timescaledb_information.jobs
     WHERE hypertable_schema = coalesce(:schema, current_schema())
     ORDER BY job_id
"""


def reflect(connection: Connection, edition: Edition, *, schema: str | None = None) -> Reflected:
    """Read the catalog of one schema, the connection's current one by default. Empty on plain PostgreSQL."""
    if edition is Edition.POSTGRESQL:
        return Reflected({}, {})

    def rows(query: str) -> list[Row[tuple[object, ...]]]:
        # sa.text reads a colon as a parameter. Here only :schema is one.
        return list(connection.execute(sa.text(query), {"schema": schema} if ":schema" in query else {}))

    jobs: dict[tuple[str, str], list[Row[tuple[object, ...]]]] = defaultdict(list)
    for job in rows(_JOBS):
        jobs[job.proc_name, job.name].append(job)
    times = {(row.schema, row.name): (row.time, _interval(row.chunk_interval)) for row in rows(_DIMENSIONS)}

    def policy(procedure: str, name: str, key: str) -> AgePolicy | None:
        found = jobs.get((procedure, name), [])
        if not found:
            return None
        job = found[0]
        return AgePolicy(_interval(getattr(job, key)), Interval.of_parts(*job.every), bool(job.scheduled), int(job.job))

    return Reflected(
        {
            row.name: ReflectedHypertable(
                time=times[row.schema, row.name][0],
                dimensions=int(row.dimensions),
                chunk_interval=times[row.schema, row.name][1],
                columnstore=_columnstore(row),
                convert=policy("policy_compression", row.name, "compress_after"),
                retention=policy("policy_retention", row.name, "drop_after"),
                reorder=next((job.index_name for job in jobs.get(("policy_reorder", row.name), [])), None),
                reorder_every=next(
                    (Interval.of_parts(*job.every) for job in jobs.get(("policy_reorder", row.name), [])), None
                ),
                reorder_scheduled=all(job.scheduled for job in jobs.get(("policy_reorder", row.name), [])),
            )
            for row in rows(_HYPERTABLES)
        },
        {
            row.name: ReflectedAggregate(
                definition=row.definition.strip(),
                materialized_only=row.materialized_only,
                bucket_column=times[row.rows_schema, row.rows_name][0],
                chunk_interval=times[row.rows_schema, row.rows_name][1],
                refresh=tuple(
                    ReflectedRefresh(
                        start=_interval(job.start_offset),
                        end=_interval(job.end_offset),
                        every=Interval.of_parts(*job.every),
                        scheduled=bool(job.scheduled),
                        job=int(job.job),
                    )
                    for job in jobs.get(("policy_refresh_continuous_aggregate", row.name), [])
                ),
                columnstore=_columnstore(row),
                convert=policy("policy_compression", row.name, "compress_after"),
                retention=policy("policy_retention", row.name, "drop_after"),
                indexes={name: order for name, own, plain, order, _ in row.indexes if plain and not own},
                other_indexes={name: text for name, own, plain, _, text in row.indexes if not plain and not own},
                # Every aggregate has an index on the bucket alone.
                group_indexes=any(own and len(order) > 1 for _, own, _, order, _ in row.indexes),
                comment=row.comment or "",
                column_comments=_comments(row.column_comments),
            )
            for row in rows(_AGGREGATES)
        },
    )


def read_views(
    connection: Connection, names: Collection[str], *, schema: str | None = None
) -> dict[str, ReflectedView]:
    """Return the existing plain views of these names."""
    if not names:
        return {}
    rows = connection.execute(sa.text(_VIEWS), {"names": list(names), "schema": schema})
    return {
        row.name: ReflectedView(row.definition.strip(), row.comment or "", _comments(row.column_comments))
        for row in rows
    }


def _comments(columns: list[tuple[str, str | None]]) -> dict[str, str]:
    return {column: text or "" for column, text in columns}


def _interval(parts: list[int] | None) -> Interval | None:
    return None if parts is None else Interval.of_parts(*parts)


def _columnstore(row: Row[tuple[object, ...]]) -> Columnstore | None:
    if not row.columnstore:
        return None
    order = zip(row.orderby or (), row.orderby_desc or (), row.orderby_nullsfirst or (), strict=True)
    return Columnstore(tuple(row.segmentby or ()), tuple(_order_item(*item) for item in order))


def _order_item(name: str, descending: bool, nulls_first: bool) -> str:
    # PostgreSQL's defaults are left out: NULLS FIRST with DESC, NULLS LAST without.
    nulls = "" if descending == nulls_first else f" NULLS {'FIRST' if nulls_first else 'LAST'}"
    return f"{quoted(name)}{' DESC' if descending else ''}{nulls}"
