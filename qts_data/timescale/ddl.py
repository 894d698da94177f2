"""The statements that create TimescaleDB objects: from arguments to SQL, one function for each kind.

Values are rendered as literals, since psycopg sends bound parameters that this DDL refuses; identifiers and
strings are quoted here and nowhere else. Functions of the extension are called by name: it installs them
into a schema on the search path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from qts_data.timescale.declarations import (
    AggregateIndex,
    Columnstore,
    ContinuousAggregate,
    Hypertable,
    RefreshPolicy,
    declarations_of,
)
from qts_data.timescale.edition import Edition, Feature, probe

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.engine import Connection

    from qts_data.timescale.intervals import Interval

__all__ = [
    "add_columnstore_policy",
    "add_refresh_policy",
    "add_reorder_policy",
    "add_retention_policy",
    "alter_age_policy",
    "alter_continuous_aggregate",
    "alter_refresh_policy",
    "alter_reorder_policy",
    "append_aggregate_column",
    "comment_on_columns",
    "comment_on_view",
    "create_continuous_aggregate",
    "create_hypertable",
    "disable_columnstore",
    "drop_view",
    "enable_columnstore",
    "grant_on_view",
    "history_beyond_source",
    "is_continuous_aggregate",
    "literal",
    "qualified",
    "relation",
    "remove_columnstore_policy",
    "remove_refresh_policy",
    "remove_reorder_policy",
    "remove_retention_policy",
    "render_expression",
    "render_select",
    "set_chunk_interval",
    "statements_for",
    "verbatim",
    "view_comments",
    "view_grants",
]


class _Dialect(PGDialect_psycopg):
    """Renders statements as text; no connection ever uses it."""

    supports_statement_cache = False

    def __init__(self, *, has_time_bucket: bool = True) -> None:
        super().__init__(paramstyle="named")  # type: ignore[no-untyped-call] # SQLAlchemy leaves it untyped
        # What the rendering of time_bucket asks for; see functions.py.
        self.has_time_bucket = has_time_bucket


_PREPARER: Final = _Dialect().identifier_preparer


def qualified(name: str, schema: str | None = None) -> str:
    """A quoted name, with its schema where one is given."""
    quoted = _PREPARER.quote(name)
    return f"{_PREPARER.quote_schema(schema)}.{quoted}" if schema else quoted


def literal(value: str) -> str:
    """A string as an SQL literal, whatever standard_conforming_strings says."""
    quoted = "'" + value.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in value else quoted


def verbatim(sql: str) -> sa.TextClause:
    """SQL text whose colons are colons; `text()` alone would take them for bind parameters."""
    return sa.text(sql.replace(":", "\\:"))


def relation(name: str, schema: str | None = None) -> str:
    """A name as the REGCLASS argument of the extension's functions."""
    return literal(qualified(name, schema))


def create_hypertable(
    name: str, *, time: str, chunk_interval: Interval, schema: str | None = None, migrate_data: bool = False
) -> str:
    """Divide a table by time, without the index on time that the extension would add by itself."""
    options = ", migrate_data => true" if migrate_data else ""
    return (
        f"SELECT create_hypertable({relation(name, schema)}, "
        f"by_range({literal(time)}, {chunk_interval.sql}), create_default_indexes => false{options})"
    )


def enable_columnstore(name: str, columnstore: Columnstore, *, schema: str | None = None) -> str:
    """Let chunks be converted, both orders explicit."""
    return (
        f"ALTER TABLE {qualified(name, schema)} SET (timescaledb.enable_columnstore = true, "
        f"timescaledb.segmentby = {literal(', '.join(map(_PREPARER.quote, columnstore.segment_by)))}, "
        f"timescaledb.orderby = {literal(', '.join(columnstore.order_by))})"
    )


def disable_columnstore(name: str, *, schema: str | None = None) -> Iterator[str]:
    """Back to rows: the server refuses to switch it off while a chunk is compressed."""
    yield f"SELECT decompress_chunk(chunk, true) FROM show_chunks({relation(name, schema)}) AS chunk"
    yield f"ALTER TABLE {qualified(name, schema)} SET (timescaledb.enable_columnstore = false)"


def add_columnstore_policy(
    name: str, after: Interval, *, every: Interval | None = None, schema: str | None = None
) -> str:
    """Convert chunks of that age; a procedure, so CALL. Without a pace the server chooses one by the chunks."""
    pace = f", schedule_interval => {every.sql}" if every else ""
    return f"CALL add_columnstore_policy({relation(name, schema)}, after => {after.sql}{pace})"


def remove_columnstore_policy(name: str, *, schema: str | None = None) -> str:
    """Convert no more."""
    return _delete_jobs("policy_compression", name, schema)


def add_retention_policy(name: str, drop_after: Interval, *, schema: str | None = None) -> str:
    """Drop chunks of that age, of a hypertable or a continuous aggregate."""
    return f"SELECT add_retention_policy({relation(name, schema)}, drop_after => {drop_after.sql})"


def remove_retention_policy(name: str, *, schema: str | None = None) -> str:
    """Drop no more."""
    return _delete_jobs("policy_retention", name, schema)


def add_refresh_policy(name: str, policy: RefreshPolicy, *, schema: str | None = None) -> str:
    """Refresh that window at that pace."""
    return (
        f"SELECT add_continuous_aggregate_policy({relation(name, schema)}, "
        f"start_offset => {policy.start.sql}, end_offset => {policy.end.sql}, "
        f"schedule_interval => {policy.every.sql})"
    )


def remove_refresh_policy(name: str, policy: RefreshPolicy, *, schema: str | None = None) -> str:
    """Remove the policy with that window; the extension's own function refuses where there are several."""
    return _delete_jobs("policy_refresh_continuous_aggregate", name, schema) + _window(policy)


def _window(policy: RefreshPolicy) -> str:
    return (
        f" AND CAST(config ->> 'start_offset' AS interval) = {policy.start.sql}"
        f" AND CAST(config ->> 'end_offset' AS interval) = {policy.end.sql}"
    )


def _jobs(procedure: str, name: str, schema: str | None) -> str:
    where = literal(schema) if schema else "current_schema()"
    return (
        f"FROM timescaledb_information.jobs WHERE proc_name = {literal(procedure)} "
        f"AND hypertable_schema = {where} AND hypertable_name = {literal(name)}"
    )


def _delete_jobs(procedure: str, name: str, schema: str | None) -> str:
    # By the catalog and not by remove_..._policy(): those fail where the object is a plain view, as it is in a
    # database that was migrated before the server's edition changed.
    return f"SELECT delete_job(job_id) {_jobs(procedure, name, schema)}"


def set_chunk_interval(name: str, chunk_interval: Interval, *, schema: str | None = None) -> str:
    """Length of the chunks that come next; those that are there stay as they are."""
    return f"SELECT set_chunk_time_interval({relation(name, schema)}, {chunk_interval.sql})"


def add_reorder_policy(name: str, index: str, *, every: Interval | None = None, schema: str | None = None) -> str:
    """Sort the rows of older chunks by an index. Without a pace the server chooses one by the chunks."""
    added = f"add_reorder_policy({relation(name, schema)}, {literal(index)})"
    return f"SELECT alter_job({added}, schedule_interval => {every.sql})" if every else f"SELECT {added}"


def alter_reorder_policy(name: str, index: str, *, schema: str | None = None) -> str:
    """Another index for the policy's job, which stays the same job."""
    change = f"jsonb_build_object('index_name', {literal(index)})"
    return (
        f"SELECT alter_job(job_id, config => config || {change}, scheduled => true) "
        f"{_jobs('policy_reorder', name, schema)}"
    )


def remove_reorder_policy(name: str, *, schema: str | None = None) -> str:
    """Sort no more."""
    return _delete_jobs("policy_reorder", name, schema)


def alter_age_policy(procedure: str, key: str, name: str, age: Interval, *, schema: str | None = None) -> str:
    """Another age for a policy's job, which keeps its number, history and next start; a paused one runs again."""
    change = f"jsonb_build_object({literal(key)}, CAST({age.sql} AS text))"
    return f"SELECT alter_job(job_id, config => config || {change}, scheduled => true) {_jobs(procedure, name, schema)}"


def alter_refresh_policy(name: str, policy: RefreshPolicy, *, was: RefreshPolicy, schema: str | None = None) -> str:
    """Another window or pace for the policy that has the old window."""
    change = (
        f"jsonb_build_object('start_offset', CAST({policy.start.sql} AS text), "
        f"'end_offset', CAST({policy.end.sql} AS text))"
    )
    return (
        f"SELECT alter_job(job_id, schedule_interval => {policy.every.sql}, config => config || {change}, "
        f"scheduled => true) {_jobs('policy_refresh_continuous_aggregate', name, schema)}{_window(was)}"
    )


def create_continuous_aggregate(
    name: str,
    *,
    select: str,
    edition: Edition,
    chunk_interval: Interval,
    materialized_only: bool = False,
    indexes: Sequence[AggregateIndex] = (),
    schema: str | None = None,
) -> Iterator[str]:
    """The aggregate, or a plain view with the same columns where the edition has none.

    Nothing is computed here (`WITH NO DATA`): that cannot run in a transaction and is the policies' work.
    """
    view = qualified(name, schema)
    if not edition.has(Feature.CONTINUOUS_AGGREGATES):
        yield f"CREATE VIEW {view} AS {select}"
        return
    # One CREATE INDEX for every grouping column is the extension's default; a declaration says which it wants.
    yield (
        f"CREATE MATERIALIZED VIEW {view} WITH (timescaledb.continuous, "
        f"timescaledb.materialized_only = {str(materialized_only).lower()}, "
        f"timescaledb.create_group_indexes = false, "
        f"timescaledb.chunk_interval = {literal(chunk_interval.text)}) AS {select} WITH NO DATA"
    )
    for index in indexes:
        yield create_index_on_view(name, index, schema=schema)


def drop_view(name: str, *, continuous: bool, schema: str | None = None) -> str:
    """Drop the aggregate, or the plain view that stands for it."""
    return f"DROP {'MATERIALIZED VIEW' if continuous else 'VIEW'} {qualified(name, schema)}"


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
            {"name": qualified(name, schema)},
        ).scalar_one()
    )


def alter_continuous_aggregate(
    name: str,
    *,
    materialized_only: bool | None = None,
    chunk_interval: Interval | None = None,
    add_indexes: Sequence[AggregateIndex] = (),
    drop_indexes: Sequence[AggregateIndex] = (),
    schema: str | None = None,
) -> Iterator[str]:
    """What of an aggregate changes in place; None leaves it as it is."""
    view = qualified(name, schema)
    if materialized_only is not None:
        yield f"ALTER MATERIALIZED VIEW {view} SET (timescaledb.materialized_only = {str(materialized_only).lower()})"
    if chunk_interval is not None:
        where = literal(schema) if schema else "current_schema()"
        yield (
            "SELECT set_chunk_time_interval(CAST(format('%I.%I', materialization_hypertable_schema, "
            f"materialization_hypertable_name) AS regclass), {chunk_interval.sql}) "
            f"FROM timescaledb_information.continuous_aggregates WHERE view_schema = {where} "
            f"AND view_name = {literal(name)}"
        )
    for index in drop_indexes:
        # Indexes lie beside the materialized rows.
        yield f"DROP INDEX _timescaledb_internal.{_PREPARER.quote(index.name)}"
    for index in add_indexes:
        yield create_index_on_view(name, index, schema=schema)


def append_aggregate_column(name: str, column: str, kind: str, expression: str, *, schema: str | None = None) -> str:
    """One more aggregate at the end of a continuous aggregate's columns, in place."""
    return (
        f"ALTER MATERIALIZED VIEW {qualified(name, schema)} ADD COLUMN {_PREPARER.quote(column)} {kind} "
        f"GENERATED ALWAYS AS ({expression}) STORED"
    )


def render_expression(column: sa.ColumnElement[Any]) -> str:
    """A column of a SELECT, without its name."""
    inner = column.element if isinstance(column, sa.Label) else column
    return str(inner.compile(dialect=_Dialect(), compile_kwargs={"literal_binds": True}))


def create_index_on_view(name: str, index: AggregateIndex, *, schema: str | None = None) -> str:
    """An index on the materialized rows of an aggregate."""
    return f"CREATE INDEX {_PREPARER.quote(index.name)} ON {qualified(name, schema)} ({', '.join(index.expressions)})"


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
        {"name": qualified(name, schema)},
    ).one()
    bucket, time = _PREPARER.quote(row.bucket), _PREPARER.quote(row.time)
    first, source, lost = connection.execute(
        verbatim(
            f"SELECT a, s, a IS NOT NULL AND (s IS NULL OR a + INTERVAL {literal(row.bucket_width)} <= s) "
            f"FROM (SELECT min({bucket}) AS a FROM {row.rows}) AS x, (SELECT min({time}) AS s FROM {row.source}) AS y"
        )
    ).one()
    return (first, source) if lost else None


def view_comments(connection: Connection, name: str, *, schema: str | None = None) -> tuple[str, dict[str, str]]:
    """Comment of a view and of each of its columns, '' where there is none."""
    rows = connection.execute(
        sa.text(
            """
            SELECT a.attnum, a.attname, obj_description(c.oid, 'pg_class') AS comment,
                   col_description(c.oid, a.attnum) AS of_column
              FROM pg_catalog.pg_class AS c
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             WHERE c.oid = to_regclass(:name) ORDER BY a.attnum
            """
        ),
        {"name": qualified(name, schema)},
    ).all()
    return (rows[0].comment or "" if rows else ""), {row.attname: row.of_column or "" for row in rows}


def view_grants(connection: Connection, name: str, *, schema: str | None = None) -> dict[str, list[str]]:
    """Privileges on a view by role, the owner's left out; nothing where there is no such view."""
    rows = connection.execute(
        sa.text(
            """
            SELECT coalesce(r.rolname, 'PUBLIC') AS role, acl.privilege_type
              FROM pg_catalog.pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
              LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = acl.grantee
             WHERE c.oid = to_regclass(:name) AND acl.grantee <> c.relowner
             ORDER BY role, acl.privilege_type
            """
        ),
        {"name": qualified(name, schema)},
    )
    grants: dict[str, list[str]] = {}
    for role, privilege in rows:
        grants.setdefault(role, []).append(privilege)
    return grants


def grant_on_view(name: str, role: str, privileges: Sequence[str], *, schema: str | None = None) -> str:
    """GRANT, where the role exists: a role is the server's, and another server need not have it."""
    grant = f"GRANT {', '.join(privileges)} ON {qualified(name, schema)} TO "
    if role == "PUBLIC":
        return f"{grant}PUBLIC"
    grant += _PREPARER.quote(role)
    return (
        f"DO $qts$ BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(role)}) "
        f"THEN {grant}; END IF; END $qts$"
    )


def comment_on_view(name: str, *, comment: str, columns: Mapping[str, str], schema: str | None = None) -> Iterator[str]:
    """Comments on a view and its columns; a continuous aggregate is a view to COMMENT."""
    yield f"COMMENT ON VIEW {qualified(name, schema)} IS {literal(comment)}"
    yield from comment_on_columns(name, columns, schema=schema)


def comment_on_columns(name: str, columns: Mapping[str, str], *, schema: str | None = None) -> Iterator[str]:
    """Comments on columns of a view."""
    for column, text in columns.items():
        yield f"COMMENT ON COLUMN {qualified(name, schema)}.{_PREPARER.quote(column)} IS {literal(text)}"


def render_select(select: sa.Select[Any], *, has_time_bucket: bool) -> str:
    """A declared SELECT as text with literals, for a view.

    Args:
        select: The declared definition.
        has_time_bucket: False for plain PostgreSQL, where `date_bin` stands for `time_bucket`.
    """
    dialect = _Dialect(has_time_bucket=has_time_bucket)
    return str(select.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def statements_for(declared: Hypertable | ContinuousAggregate, edition: Edition) -> Iterator[str]:
    """Everything that one declaration needs in this edition, in order."""
    schema = declared.schema
    if isinstance(declared, Hypertable):
        if edition.has(Feature.HYPERTABLES):
            yield create_hypertable(
                declared.name, time=declared.time, chunk_interval=declared.chunk_interval, schema=schema
            )
        if declared.columnstore and edition.has(Feature.COLUMNSTORE):
            yield enable_columnstore(declared.name, declared.columnstore, schema=schema)
            if declared.columnstore.after:
                yield add_columnstore_policy(declared.name, declared.columnstore.after, schema=schema)
        if declared.reorder and edition.has(Feature.POLICIES):
            yield add_reorder_policy(declared.name, declared.reorder, schema=schema)
    else:
        yield from create_continuous_aggregate(
            declared.name,
            select=render_select(declared.select, has_time_bucket=edition is not Edition.POSTGRESQL),
            edition=edition,
            chunk_interval=declared.chunk_interval,
            materialized_only=declared.materialized_only,
            indexes=declared.indexes,
            schema=schema,
        )
        yield from comment_on_view(
            declared.name, comment=declared.comment, columns=declared.column_comments, schema=schema
        )
        if edition.has(Feature.POLICIES):
            for policy in declared.refresh:
                yield add_refresh_policy(declared.name, policy, schema=schema)
    if declared.retention and edition.has(Feature.POLICIES):
        yield add_retention_policy(declared.name, declared.retention, schema=schema)


@event.listens_for(sa.MetaData, "after_create")
def _create_declared(target: sa.MetaData, connection: Connection, tables: Sequence[sa.Table] = (), **_: object) -> None:
    """`metadata.create_all()` builds what the declarations say, too, for the tables it has just created."""
    declared = declarations_of(target)
    wanted: list[Hypertable | ContinuousAggregate] = [
        item for item in declared.hypertables.values() if item.table in tables
    ]
    built = {id(item) for item in wanted}
    for aggregate in declared.continuous_aggregates.values():
        if id(aggregate.source) in built:
            wanted.append(aggregate)
            built.add(id(aggregate))
    if wanted:
        edition = probe(connection).edition
        for item in wanted:
            for statement in statements_for(item, edition):
                connection.execute(verbatim(statement))


@event.listens_for(sa.MetaData, "before_drop")
def _drop_declared(target: sa.MetaData, connection: Connection, tables: Sequence[sa.Table] = (), **_: object) -> None:
    """`metadata.drop_all()` takes the aggregates first, which the tables cannot go without."""
    declared = declarations_of(target)
    if not any(item.table in tables for item in declared.hypertables.values()):
        return
    for aggregate in reversed(declared.continuous_aggregates.values()):
        name, schema = aggregate.name, aggregate.schema
        exists = connection.execute(
            sa.text("SELECT to_regclass(:name) IS NOT NULL"), {"name": qualified(name, schema)}
        ).scalar_one()
        if exists:
            continuous = is_continuous_aggregate(connection, name, schema=schema)
            connection.execute(verbatim(drop_view(name, continuous=continuous, schema=schema)))
