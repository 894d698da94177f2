"""Queries about one object of a live database, for an operation that is about to change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from qts_data.timescale import ddl
from qts_data.timescale.edition import Edition, probe

if TYPE_CHECKING:
    from collections.abc import Container

    from sqlalchemy.engine import Connection

__all__ = [
    "Grant",
    "first_bucket",
    "history_beyond_source",
    "is_continuous_aggregate",
    "live_grants",
    "parents_of",
    "relation_kind",
    "view_columns",
    "view_grants",
    "views_on",
]

# By name, not as regclass: casting the catalog's other names would need rights on the schemas of other owners.
_ITS_NAME: Final = """(SELECT n.nspname, c.relname FROM pg_catalog.pg_class AS c
                JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(:name))"""


def is_continuous_aggregate(connection: Connection, name: str, *, schema: str | None = None) -> bool:
    """Return whether a view is a continuous aggregate. After a change of edition, the edition does not imply it."""
    if probe(connection).edition is Edition.POSTGRESQL:
        return False
    return bool(
        connection.execute(
            sa.text(
                "SELECT count(*) FROM timescaledb_information.continuous_aggregates "
                f"WHERE (view_schema, view_name) = {_ITS_NAME}"
            ),
            {"name": ddl.qualified(name, schema)},
        ).scalar_one()
    )


def _materialization(connection: Connection, name: str, schema: str | None) -> tuple[str, str, str]:
    """Return an aggregate's table of rows, its bucket column, and the view that computes the rows from the source."""
    row = connection.execute(
        sa.text(
            f"""
            SELECT format('%I.%I', h.schema_name, h.table_name) AS rows, d.column_name AS bucket,
                   format('%I.%I', a.direct_view_schema, a.direct_view_name) AS computed
              FROM _timescaledb_catalog.continuous_agg AS a
              JOIN _timescaledb_catalog.hypertable AS h ON h.id = a.mat_hypertable_id
              JOIN timescaledb_information.dimensions AS d
                ON (d.hypertable_schema, d.hypertable_name, d.dimension_number) = (h.schema_name, h.table_name, 1)
             WHERE (a.user_view_schema, a.user_view_name) = {_ITS_NAME}
            """
        ),
        {"name": ddl.qualified(name, schema)},
    ).one()
    return row.rows, ddl.qualified(row.bucket), row.computed


def first_bucket(connection: Connection, name: str, *, schema: str | None = None) -> Any:
    """Return the oldest materialized bucket of an aggregate. None without any."""
    rows, bucket, _ = _materialization(connection, name, schema)
    return connection.execute(ddl.verbatim(f"SELECT min({bucket}) FROM {rows}")).scalar_one()


def history_beyond_source(connection: Connection, name: str, *, schema: str | None = None) -> tuple[Any, Any] | None:
    """Return the oldest and the youngest bucket that an aggregate's source cannot compute again. None without any.

    A bucket is lost if the source has none of its rows, or only rows for fewer groups, as after a late row. The source
    is read once, so the call takes the time of counting its rows.
    """
    rows, bucket, computed = _materialization(connection, name, schema)
    # The computation reads the source's rows. An aggregate that was never filled has nothing to lose.
    if not connection.execute(ddl.verbatim(f"SELECT EXISTS (SELECT FROM {rows})")).scalar_one():
        return None
    groups = f"SELECT {bucket} AS bucket, count(*) AS groups FROM"
    first, last = connection.execute(
        ddl.verbatim(
            f"SELECT min(there.bucket), max(there.bucket) FROM ({groups} {rows} GROUP BY 1) AS there "
            f"LEFT JOIN ({groups} {computed} GROUP BY 1) AS again ON again.bucket = there.bucket "
            "WHERE there.groups > coalesce(again.groups, 0)"
        )
    ).one()
    return None if first is None else (first, last)


def parents_of(connection: Connection, name: str, *, schema: str | None = None) -> list[tuple[str, str]]:
    """Return schema and name of each aggregate that an aggregate reads, directly or through others."""
    rows = connection.execute(
        sa.text(
            f"""
            WITH RECURSIVE below AS (
                SELECT parent_mat_hypertable_id AS id FROM _timescaledb_catalog.continuous_agg
                 WHERE (user_view_schema, user_view_name) = {_ITS_NAME}
                UNION ALL
                SELECT a.parent_mat_hypertable_id FROM _timescaledb_catalog.continuous_agg AS a
                  JOIN below ON below.id = a.mat_hypertable_id
            )
            SELECT a.user_view_schema, a.user_view_name
              FROM below JOIN _timescaledb_catalog.continuous_agg AS a ON a.mat_hypertable_id = below.id
            """
        ),
        {"name": ddl.qualified(name, schema)},
    )
    return [(row[0], row[1]) for row in rows]


@dataclass(frozen=True, slots=True)
class Grant:
    """One privilege of one role on a view.

    Attributes:
        role: Its grantee, or PUBLIC.
        privilege: In the form of `create_continuous_aggregate`, such as `SELECT (minute) WITH GRANT OPTION`.
        column: The column of the privilege, or None for the view.
    """

    role: str
    privilege: str
    column: str | None


def live_grants(connection: Connection, name: str, *, schema: str | None = None) -> list[Grant]:
    """Return privileges on a view and its columns without the owner's. None if the view does not exist."""
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
    return [
        Grant(
            role,
            privilege
            + ("" if column is None else f" ({ddl.qualified(column)})")
            + (ddl.WITH_GRANT_OPTION if grantable else ""),
            column,
        )
        for role, privilege, grantable, column in rows
    ]


def view_grants(
    connection: Connection, name: str, *, schema: str | None = None, columns: Container[str] | None = None
) -> dict[str, list[str]]:
    """Return privileges on a view by role, as `live_grants` reads them.

    Args:
        connection: The database.
        name: The view.
        schema: Its schema.
        columns: Leave out privileges on other columns than these; None keeps them all.
    """
    grants: dict[str, list[str]] = {}
    for grant in live_grants(connection, name, schema=schema):
        if grant.column is None or columns is None or grant.column in columns:
            grants.setdefault(grant.role, []).append(grant.privilege)
    return grants


_KINDS: Final = {"r": "a table", "p": "a table", "m": "a materialized view", "f": "a foreign table", "S": "a sequence"}


def relation_kind(connection: Connection, name: str, *, schema: str | None = None) -> str | None:
    """Return the kind of relation with this name in the schema (default: current). None for a view or nothing."""
    kind = connection.scalar(
        sa.text(
            "SELECT relkind FROM pg_catalog.pg_class WHERE relname = :name AND relnamespace = "
            "(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = coalesce(:schema, current_schema()))"
        ),
        {"name": name, "schema": schema},
    )
    return None if kind in (None, "v") else _KINDS.get(str(kind), "another object")


def view_columns(connection: Connection, name: str, *, schema: str | None = None) -> set[str]:
    """Return the names of a view's columns."""
    return set(
        connection.scalars(
            sa.text(
                "SELECT attname FROM pg_catalog.pg_attribute "
                "WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped"
            ),
            {"name": ddl.qualified(name, schema)},
        )
    )


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

# The reading view may be an internal view of an aggregate. Then the aggregate's own view is named.
_VIEWS_ON_TIMESCALE = _VIEWS_ON.format(
    schema="coalesce(a.user_view_schema, n.nspname)",
    name="coalesce(a.user_view_name, c.relname)",
    join="""LEFT JOIN _timescaledb_catalog.continuous_agg AS a
        ON (n.nspname, c.relname) IN ((a.direct_view_schema, a.direct_view_name),
                                      (a.partial_view_schema, a.partial_view_name))""",
)
_VIEWS_ON_POSTGRESQL = _VIEWS_ON.format(schema="n.nspname", name="c.relname", join="")


def views_on(connection: Connection, name: str, *, schema: str | None = None) -> list[tuple[str, str]]:
    """Return schema and name of each view and continuous aggregate that directly reads a table or view."""
    plain = probe(connection).edition is Edition.POSTGRESQL
    rows = connection.execute(
        sa.text(_VIEWS_ON_POSTGRESQL if plain else _VIEWS_ON_TIMESCALE), {"name": ddl.qualified(name, schema)}
    )
    return [(row.schema, row.name) for row in rows]
