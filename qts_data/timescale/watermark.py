"""Watermarks: the end of an aggregate's materialized rows, and how to set it back.

A query reads buckets before the watermark of an aggregate from its materialized rows, and computes only the others.
So a watermark ahead of the server's clock hides rows that come later. These are the later rows of a bucket that was
materialized before it was over; or, after one row with a wrong clock, those of all groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.timescale import ddl
from qts_data.timescale.declarations import ContinuousAggregate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection

__all__ = ["fill", "find_ahead", "set_back"]

# Read as text, because the server's last instants are beyond the range of a datetime.
# The server refuses the watermark of an aggregate that the role may not read, such as one of another owner.
_AHEAD: Final = """
    SELECT name, CAST(watermark AT TIME ZONE 'UTC' AS text) AS watermark
      FROM (SELECT a.user_view_name AS name,
                   CASE WHEN has_table_privilege(format('%I.%I', a.user_view_schema, a.user_view_name), 'SELECT')
                        THEN _timescaledb_functions.to_timestamp(
                                 _timescaledb_functions.cagg_watermark(a.mat_hypertable_id))
                   END AS watermark
              FROM _timescaledb_catalog.continuous_agg AS a
              JOIN _timescaledb_catalog.hypertable AS h ON h.id = a.mat_hypertable_id
              JOIN timescaledb_information.dimensions AS d
                ON (d.hypertable_schema, d.hypertable_name, d.dimension_number) = (h.schema_name, h.table_name, 1)
             WHERE a.user_view_schema = {schema} AND NOT a.materialized_only
               AND d.column_type = CAST('timestamptz' AS regtype)) AS aggregates
     WHERE watermark > now()
"""
_ROWS: Final = """
    SELECT format('%I.%I', h.schema_name, h.table_name), d.column_name
      FROM _timescaledb_catalog.continuous_agg AS a
      JOIN _timescaledb_catalog.hypertable AS h ON h.id = a.mat_hypertable_id
      JOIN timescaledb_information.dimensions AS d
        ON (d.hypertable_schema, d.hypertable_name, d.dimension_number) = (h.schema_name, h.table_name, 1)
     WHERE a.user_view_schema = {schema} AND a.user_view_name = :name
"""
# Earlier than every chunk, so that no chunk is dropped, but the watermark is computed anew.
_BEFORE_ALL: Final = "TIMESTAMPTZ '4713-01-01 00:00:00+00 BC'"


def fill(connection: Connection, aggregate: ContinuousAggregate) -> None:
    """Materialize an aggregate that has no rows, from all existing rows but those of the last bucket's length.

    Call it in autocommit mode, and only for an aggregate without rows: its open start deletes buckets whose source is
    gone.
    """
    name = ddl.literal(ddl.qualified(aggregate.name, aggregate.schema))
    end = f"now() - {aggregate.bucket.sql}"
    if _is_local(aggregate):
        end = f"CAST({end} AS timestamp)"
    connection.exec_driver_sql(f"CALL refresh_continuous_aggregate({name}, NULL, {end})")


def find_ahead(connection: Connection, *, schema: str | None = None) -> dict[str, str]:
    """Return the aggregates of a schema whose watermark is ahead of the server's clock, and the watermark in UTC.

    Aggregates with `materialized_only` are left out, because they hide no row that they showed before. Aggregates
    whose buckets have no time zone are left out, too, and so are those that the role may not read.
    """
    where = ddl.literal(schema) if schema else "current_schema()"
    return {row.name: row.watermark for row in connection.execute(sa.text(_AHEAD.format(schema=where)))}


def set_back(connection: Connection, aggregates: Iterable[ContinuousAggregate]) -> list[str]:
    """Withdraw the materialized rows of buckets that are not over, if the watermark is ahead of the clock.

    Queries compute these buckets again, and the policies materialize them when they are over. Rows of buckets that
    are over stay unchanged. Call it in a transaction, as the owner.

    Args:
        connection: In a transaction.
        aggregates: In the order of the hierarchy, the lowest first.

    Returns:
        Names of the aggregates whose watermark was set back.
    """
    changed = []
    ahead: dict[str | None, dict[str, str]] = {}
    for one in aggregates:
        if one.schema not in ahead:
            ahead[one.schema] = find_ahead(connection, schema=one.schema)
        if one.name in ahead[one.schema]:
            _withdraw(connection, one)
            changed.append(one.name)
    return changed


def _withdraw(connection: Connection, aggregate: ContinuousAggregate) -> None:
    rows, bucket = _rows_of(connection, aggregate)
    running = connection.execute(
        ddl.verbatim(f"SELECT CAST(time_bucket({aggregate.bucket.sql}, now()) AS text)")
    ).scalar_one()
    running = f"CAST({ddl.literal(running)} AS timestamptz)"
    connection.exec_driver_sql(f"DELETE FROM {rows} WHERE {bucket} >= {running}")
    # A refresh computes only buckets whose source has changed since the last refresh. Updating the first and the last
    # row, without a change of values, marks all rows between them.
    if isinstance(aggregate.source, ContinuousAggregate):
        source, time = _rows_of(connection, aggregate.source)
    else:
        source = ddl.qualified(aggregate.source.name, aggregate.source.schema)
        time = ddl.qualified(aggregate.source.time)
    recent = f"FROM {source} WHERE {time} >= {running}"
    connection.exec_driver_sql(
        f"UPDATE {source} SET {time} = {time} WHERE {time} >= {running} "
        f"AND {time} IN ((SELECT min({time}) {recent}), (SELECT max({time}) {recent}))"
    )
    name = ddl.literal(ddl.qualified(aggregate.name, aggregate.schema))
    connection.exec_driver_sql(f"SELECT drop_chunks({name}, older_than => {_BEFORE_ALL})")


def _rows_of(connection: Connection, aggregate: ContinuousAggregate) -> tuple[str, str]:
    """Return the table of an aggregate's materialized rows, and its bucket column."""
    where = ddl.literal(aggregate.schema) if aggregate.schema else "current_schema()"
    rows, bucket = connection.execute(sa.text(_ROWS.format(schema=where)), {"name": aggregate.name}).one()
    return rows, ddl.qualified(bucket)


def _is_local(aggregate: ContinuousAggregate) -> bool:
    """Return whether an aggregate's buckets have no time zone."""
    table = aggregate.table
    source = aggregate.source
    while isinstance(source, ContinuousAggregate):
        source = source.source
    return not getattr(table.c[source.time].type, "timezone", False)
