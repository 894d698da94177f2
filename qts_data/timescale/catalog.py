"""Questions to a live database about one object, for an operation that is about to change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from qts_data.timescale import ddl
from qts_data.timescale.edition import Edition, probe

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Container

    from sqlalchemy.engine import Connection

__all__ = ["history_beyond_source", "is_continuous_aggregate", "view_grants", "views_on"]


def is_continuous_aggregate(connection: Connection, name: str, *, schema: str | None = None) -> bool:
    """Whether the view is one; on a server whose edition has changed, it need not be what the edition suggests."""
    if probe(connection).edition is Edition.POSTGRESQL:
        return False
    return bool(
        connection.execute(
            sa.text(
                "SELECT count(*) FROM timescaledb_information.continuous_aggregates "
                "WHERE CAST(format('%I.%I', view_schema, view_name) AS regclass) = to_regclass(:name)"
            ),
            {"name": ddl.qualified(name, schema)},
        ).scalar_one()
    )


def history_beyond_source(
    connection: Connection, name: str, *, schema: str | None = None
) -> tuple[dt.datetime, dt.datetime | None] | None:
    """Since when an aggregate has rows, and its source, where the aggregate's reach back further; else None."""
    row = connection.execute(
        sa.text(
            """
            SELECT format('%I.%I', a.materialization_hypertable_schema, a.materialization_hypertable_name) AS rows,
                   m.column_name AS bucket, format('%I.%I', a.hypertable_schema, a.hypertable_name) AS source,
                   s.column_name AS time, b.bucket_width
              FROM timescaledb_information.continuous_aggregates AS a
              JOIN timescaledb_information.dimensions AS m
                ON (m.hypertable_schema, m.hypertable_name)
                   = (a.materialization_hypertable_schema, a.materialization_hypertable_name)
              JOIN timescaledb_information.dimensions AS s
                ON (s.hypertable_schema, s.hypertable_name) = (a.hypertable_schema, a.hypertable_name)
              JOIN _timescaledb_catalog.hypertable AS h
                ON (h.schema_name, h.table_name)
                   = (a.materialization_hypertable_schema, a.materialization_hypertable_name)
              JOIN _timescaledb_catalog.continuous_aggs_bucket_function AS b ON b.mat_hypertable_id = h.id
             WHERE CAST(format('%I.%I', a.view_schema, a.view_name) AS regclass) = to_regclass(:name)
            """
        ),
        {"name": ddl.qualified(name, schema)},
    ).one()
    bucket, time = ddl.qualified(row.bucket), ddl.qualified(row.time)
    first, source, lost = connection.execute(
        ddl.verbatim(
            f"SELECT a, s, a IS NOT NULL AND (s IS NULL OR a + INTERVAL {ddl.literal(row.bucket_width)} <= s) "
            f"FROM (SELECT min({bucket}) AS a FROM {row.rows}) AS x, (SELECT min({time}) AS s FROM {row.source}) AS y"
        )
    ).one()
    return (first, source) if lost else None


def view_grants(
    connection: Connection, name: str, *, schema: str | None = None, columns: Container[str] | None = None
) -> dict[str, list[str]]:
    """Privileges on a view by role, the owner's left out; nothing where there is no such view.

    Args:
        connection: The database.
        name: The view.
        schema: Its schema.
        columns: Leave out privileges on other columns than these; None keeps them all.
    """
    rows = connection.execute(
        sa.text(
            """
            SELECT coalesce(r.rolname, 'PUBLIC') AS role, g.privilege_type, g.is_grantable, g.attname
              FROM pg_catalog.pg_class AS c
             CROSS JOIN LATERAL (
                   SELECT acl.*, NULL AS attname FROM aclexplode(c.relacl) AS acl
                   UNION ALL
                   SELECT acl.*, a.attname FROM pg_catalog.pg_attribute AS a, aclexplode(a.attacl) AS acl
                    WHERE a.attrelid = c.oid AND NOT a.attisdropped
                   ) AS g
              LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = g.grantee
             WHERE c.oid = to_regclass(:name) AND g.grantee <> c.relowner
             ORDER BY role, g.attname NULLS FIRST, g.privilege_type
            """
        ),
        {"name": ddl.qualified(name, schema)},
    )
    grants: dict[str, list[str]] = {}
    for role, privilege, grantable, column in rows:
        if column is not None and columns is not None and column not in columns:
            continue
        on = "" if column is None else f" ({ddl.qualified(column)})"
        grants.setdefault(role, []).append(privilege + on + (ddl.WITH_GRANT_OPTION if grantable else ""))
    return grants


_VIEWS_ON = """
    SELECT DISTINCT {schema} AS schema, {name} AS name
      FROM pg_catalog.pg_depend AS d
      JOIN pg_catalog.pg_rewrite AS r ON d.classid = CAST('pg_rewrite' AS regclass) AND r.oid = d.objid
      JOIN pg_catalog.pg_class AS c ON c.oid = r.ev_class
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      {join}
     WHERE d.refclassid = CAST('pg_class' AS regclass) AND d.refobjid = to_regclass(:name)
       AND r.ev_class <> d.refobjid
     ORDER BY 1, 2
"""

# What reads it may be the view inside of an aggregate; its own is the one that people know.
_VIEWS_ON_TIMESCALE = _VIEWS_ON.format(
    schema="coalesce(a.user_view_schema, n.nspname)",
    name="coalesce(a.user_view_name, c.relname)",
    join="""LEFT JOIN _timescaledb_catalog.continuous_agg AS a
        ON (n.nspname, c.relname) IN ((a.direct_view_schema, a.direct_view_name),
                                      (a.partial_view_schema, a.partial_view_name))""",
)
_VIEWS_ON_POSTGRESQL = _VIEWS_ON.format(schema="n.nspname", name="c.relname", join="")


def views_on(connection: Connection, name: str, *, schema: str | None = None) -> list[tuple[str, str]]:
    """Schema and name of each view and continuous aggregate that reads a table or view itself."""
    plain = probe(connection).edition is Edition.POSTGRESQL
    rows = connection.execute(
        sa.text(_VIEWS_ON_POSTGRESQL if plain else _VIEWS_ON_TIMESCALE), {"name": ddl.qualified(name, schema)}
    )
    return [(row.schema, row.name) for row in rows]
