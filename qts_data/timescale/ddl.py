"""The statements that create TimescaleDB objects, one function for each kind of statement.

Values are rendered as literals, because this DDL refuses the bound parameters that psycopg sends. Identifiers and
strings are quoted only in this module. Functions of the extension are called by name, because it installs them into a
schema on the search path.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from qts_data.timescale.declarations import (
    AggregateIndex,
    Columnstore,
    ContinuousAggregate,
    Hypertable,
    RefreshPolicy,
    order_item,
)
from qts_data.timescale.edition import Edition, Feature

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from qts_data.timescale.intervals import Interval

__all__ = [
    "WITH_GRANT_OPTION",
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
    "literal",
    "qualified",
    "relation",
    "remove_columnstore_policy",
    "remove_refresh_policy",
    "remove_reorder_policy",
    "remove_retention_policy",
    "render_expression",
    "render_select",
    "revoke_on_view",
    "set_chunk_interval",
    "statements_for",
    "verbatim",
]


class _Dialect(PGDialect_psycopg):
    """A dialect that renders statements as text. No connection uses it."""

    supports_statement_cache = False

    def __init__(self, *, has_time_bucket: bool = True) -> None:
        super().__init__(paramstyle="named")  # type: ignore[no-untyped-call] # SQLAlchemy leaves it untyped
        # The rendering of time_bucket reads this; see functions.py.
        self.has_time_bucket = has_time_bucket


@functools.cache
def _dialect(*, has_time_bucket: bool) -> _Dialect:
    return _Dialect(has_time_bucket=has_time_bucket)


_PREPARER: Final = _dialect(has_time_bucket=True).identifier_preparer

WITH_GRANT_OPTION: Final = " WITH GRANT OPTION"
"""Suffix of a privilege that its holder may grant to others."""


def qualified(name: str, schema: str | None = None) -> str:
    """Quote a name, with its schema if one is given."""
    quoted = _PREPARER.quote(name)
    return f"{_PREPARER.quote_schema(schema)}.{quoted}" if schema else quoted


def literal(value: str) -> str:
    """Write a string as an SQL literal that is valid under any setting of standard_conforming_strings."""
    quoted = "'" + value.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in value else quoted


def verbatim(sql: str) -> sa.TextClause:
    """Return SQL text whose colons are plain colons. `text()` alone would read them as bind parameters."""
    return sa.text(sql.replace(":", "\\:"))


def relation(name: str, schema: str | None = None) -> str:
    """Write a name as the REGCLASS argument of the extension's functions."""
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


def enable_columnstore(
    name: str, columnstore: Columnstore, *, aggregate: bool = False, schema: str | None = None
) -> str:
    """Enable the columnstore with explicit orders. A columnstore made by hand may lack an order."""
    given = literal(", ".join(map(_ordered, columnstore.order_by)))
    order = f", timescaledb.orderby = {given}" if columnstore.order_by else ""
    return (
        f"ALTER {_kind(aggregate=aggregate)} {qualified(name, schema)} SET (timescaledb.enable_columnstore = true, "
        f"timescaledb.segmentby = {literal(', '.join(map(_PREPARER.quote, columnstore.segment_by)))}{order})"
    )


def _ordered(item: str) -> str:
    column, direction = order_item(item)
    return f"{_PREPARER.quote(column)} {direction}".rstrip()


def disable_columnstore(name: str, *, aggregate: bool = False, schema: str | None = None) -> Iterator[str]:
    """Convert chunks back to rows, then disable: the server refuses to disable while a chunk is compressed."""
    yield f"SELECT decompress_chunk(chunk, true) FROM show_chunks({relation(name, schema)}) AS chunk"
    yield (f"ALTER {_kind(aggregate=aggregate)} {qualified(name, schema)} SET (timescaledb.enable_columnstore = false)")


def _kind(*, aggregate: bool) -> str:
    return "MATERIALIZED VIEW" if aggregate else "TABLE"


def add_columnstore_policy(
    name: str, after: Interval, *, every: Interval | None = None, schema: str | None = None
) -> str:
    """Convert chunks of that age, by a CALL of a procedure. Without a pace the server chooses one by the chunks."""
    pace = f", schedule_interval => {every.sql}" if every else ""
    return f"CALL add_columnstore_policy({relation(name, schema)}, after => {after.sql}{pace})"


def remove_columnstore_policy(name: str, *, schema: str | None = None) -> str:
    """Stop converting chunks."""
    return _delete_jobs("policy_compression", name, schema)


def add_retention_policy(
    name: str, drop_after: Interval, *, every: Interval | None = None, schema: str | None = None
) -> str:
    """Drop chunks of that age, of a hypertable or a continuous aggregate. Without a pace, once a day."""
    pace = f", schedule_interval => {every.sql}" if every else ""
    return f"SELECT add_retention_policy({relation(name, schema)}, drop_after => {drop_after.sql}{pace})"


def remove_retention_policy(name: str, *, schema: str | None = None) -> str:
    """Stop dropping chunks."""
    return _delete_jobs("policy_retention", name, schema)


def add_refresh_policy(name: str, policy: RefreshPolicy, *, schema: str | None = None) -> str:
    """Refresh that window at that pace."""
    return (
        f"SELECT add_continuous_aggregate_policy({relation(name, schema)}, "
        f"start_offset => {policy.start.sql}, end_offset => {policy.end.sql}, "
        f"schedule_interval => {policy.every.sql})"
    )


def remove_refresh_policy(name: str, policy: RefreshPolicy, *, schema: str | None = None) -> str:
    """Remove the policy with that window. The extension's own function refuses if there are several policies."""
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
    # By the catalog, not by remove_..._policy(): those fail if the object is a plain view, as in a database that was
    # migrated before the server's edition changed.
    return f"SELECT delete_job(job_id) {_jobs(procedure, name, schema)}"


def set_chunk_interval(name: str, chunk_interval: Interval, *, schema: str | None = None) -> str:
    """Set the length of future chunks. Existing chunks keep their length."""
    return f"SELECT set_chunk_time_interval({relation(name, schema)}, {chunk_interval.sql})"


def add_reorder_policy(name: str, index: str, *, every: Interval | None = None, schema: str | None = None) -> str:
    """Sort the rows of older chunks by an index. Without a pace the server chooses one by the chunks."""
    added = f"add_reorder_policy({relation(name, schema)}, {literal(index)})"
    return f"SELECT alter_job({added}, schedule_interval => {every.sql})" if every else f"SELECT {added}"


def alter_reorder_policy(name: str, index: str, *, schema: str | None = None) -> str:
    """Set another index for the policy's job, which stays the same job."""
    change = f"jsonb_build_object('index_name', {literal(index)})"
    return (
        f"SELECT alter_job(job_id, config => config || {change}, scheduled => true) "
        f"{_jobs('policy_reorder', name, schema)}"
    )


def remove_reorder_policy(name: str, *, schema: str | None = None) -> str:
    """Stop sorting chunks."""
    return _delete_jobs("policy_reorder", name, schema)


def alter_age_policy(procedure: str, key: str, name: str, age: Interval, *, schema: str | None = None) -> str:
    """Set another age for a policy's job. It keeps its number, history and next start. A paused job runs again."""
    change = f"jsonb_build_object({literal(key)}, CAST({age.sql} AS text))"
    return f"SELECT alter_job(job_id, config => config || {change}, scheduled => true) {_jobs(procedure, name, schema)}"


def alter_refresh_policy(name: str, policy: RefreshPolicy, *, was: RefreshPolicy, schema: str | None = None) -> str:
    """Set another window or pace for the policy that has the old window."""
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
    group_indexes: bool = False,
    schema: str | None = None,
) -> Iterator[str]:
    """Create the aggregate, or a plain view with the same columns if the edition has no aggregates.

    Nothing is computed here (`WITH NO DATA`): that cannot run in a transaction, and the policies do it later.
    """
    view = qualified(name, schema)
    if not edition.has(Feature.CONTINUOUS_AGGREGATES):
        yield f"CREATE VIEW {view} AS {select}"
        return
    # By default the extension makes an index for every grouping column. A declaration lists its indexes instead.
    yield (
        f"CREATE MATERIALIZED VIEW {view} WITH (timescaledb.continuous, "
        f"timescaledb.materialized_only = {str(materialized_only).lower()}, "
        f"timescaledb.create_group_indexes = {str(group_indexes).lower()}, "
        f"timescaledb.chunk_interval = {literal(chunk_interval.text)}) AS {select} WITH NO DATA"
    )
    for index in indexes:
        yield create_index_on_view(name, index, schema=schema)


def drop_view(name: str, *, continuous: bool, schema: str | None = None) -> str:
    """Drop the aggregate, or the plain view that stands in for it."""
    return f"DROP {'MATERIALIZED VIEW' if continuous else 'VIEW'} {qualified(name, schema)}"


def alter_continuous_aggregate(
    name: str,
    *,
    materialized_only: bool | None = None,
    chunk_interval: Interval | None = None,
    add_indexes: Sequence[AggregateIndex] = (),
    drop_indexes: Sequence[AggregateIndex] = (),
    schema: str | None = None,
) -> Iterator[str]:
    """Change an aggregate in place. None leaves a setting unchanged."""
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
        # The indexes are in the schema of the materialized rows.
        yield f"DROP INDEX _timescaledb_internal.{_PREPARER.quote(index.name)}"
    for index in add_indexes:
        yield create_index_on_view(name, index, schema=schema)


def append_aggregate_column(name: str, column: str, kind: str, expression: str, *, schema: str | None = None) -> str:
    """Append a column to a continuous aggregate, in place."""
    return (
        f"ALTER MATERIALIZED VIEW {qualified(name, schema)} ADD COLUMN {_PREPARER.quote(column)} {kind} "
        f"GENERATED ALWAYS AS ({expression}) STORED"
    )


def render_expression(column: sa.ColumnElement[Any]) -> str:
    """Render a column of a SELECT, without its name."""
    inner = column.element if isinstance(column, sa.Label) else column
    return str(inner.compile(dialect=_dialect(has_time_bucket=True), compile_kwargs={"literal_binds": True}))


def create_index_on_view(name: str, index: AggregateIndex, *, schema: str | None = None) -> str:
    """Create an index on the materialized rows of an aggregate."""
    order = ", ".join(map(_ordered, index.expressions))
    return f"CREATE INDEX {_PREPARER.quote(index.name)} ON {qualified(name, schema)} ({order})"


def grant_on_view(name: str, role: str, privileges: Iterable[str], *, schema: str | None = None) -> Iterator[str]:
    """Grant if the role exists. A role belongs to the server, and another server may not have it.

    A privilege may name columns, `SELECT (minute)`, and may end in `WITH GRANT OPTION`.
    """
    for option in ("", WITH_GRANT_OPTION):
        given = [p.removesuffix(option) for p in privileges if p.endswith(WITH_GRANT_OPTION) == bool(option)]
        if not given:
            continue
        grant = f"GRANT {', '.join(given)} ON {qualified(name, schema)} TO "
        if role == "PUBLIC":
            yield f"{grant}PUBLIC"
        else:
            yield (
                f"DO $qts$ BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(role)}) "
                f"THEN {grant}{_PREPARER.quote(role)}{option}; END IF; END $qts$"
            )


def revoke_on_view(name: str, role: str, privilege: str, *, schema: str | None = None) -> str:
    """Revoke one privilege, written as for a grant."""
    given = privilege.removesuffix(WITH_GRANT_OPTION)
    return f"REVOKE {given} ON {qualified(name, schema)} FROM {role if role == 'PUBLIC' else _PREPARER.quote(role)}"


def comment_on_view(
    name: str, *, comment: str | None, columns: Mapping[str, str], schema: str | None = None
) -> Iterator[str]:
    """Comment on a view and its columns. For COMMENT an aggregate is a view. None leaves the comment unchanged."""
    if comment is not None:
        yield f"COMMENT ON VIEW {qualified(name, schema)} IS {literal(comment)}"
    yield from comment_on_columns(name, columns, schema=schema)


def comment_on_columns(name: str, columns: Mapping[str, str], *, schema: str | None = None) -> Iterator[str]:
    """Comment on columns of a view."""
    for column, text in columns.items():
        yield f"COMMENT ON COLUMN {qualified(name, schema)}.{_PREPARER.quote(column)} IS {literal(text)}"


def render_select(select: sa.Select[Any], *, has_time_bucket: bool) -> str:
    """Render a declared SELECT as text with literals, for a view.

    Args:
        select: The declared definition.
        has_time_bucket: False for plain PostgreSQL, where `date_bin` stands for `time_bucket`.
    """
    dialect = _dialect(has_time_bucket=has_time_bucket)
    return str(select.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def statements_for(declared: Hypertable | ContinuousAggregate, edition: Edition) -> Iterator[str]:
    """Yield all statements that one declaration needs in this edition, in order."""
    schema = declared.schema
    if isinstance(declared, Hypertable):
        if edition.has(Feature.HYPERTABLES):
            yield create_hypertable(
                declared.name, time=declared.time, chunk_interval=declared.chunk_interval, schema=schema
            )
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
    if declared.columnstore and edition.has(Feature.COLUMNSTORE):
        aggregate = isinstance(declared, ContinuousAggregate)
        yield enable_columnstore(declared.name, declared.columnstore, aggregate=aggregate, schema=schema)
        if declared.columnstore.after:
            yield add_columnstore_policy(declared.name, declared.columnstore.after, schema=schema)
    if declared.retention and edition.has(Feature.POLICIES):
        yield add_retention_policy(declared.name, declared.retention, schema=schema)
