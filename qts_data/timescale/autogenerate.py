"""Alembic's autogenerate for TimescaleDB: from changed declarations to operations, and from operations to Python.

Import it in env.py and name the plugin in `context.configure`:

    import qts_data.timescale.autogenerate

    context.configure(..., autogenerate_plugins=["alembic.autogenerate.*", "qts_data.timescale"])

What an edition does not have compares as what stands in for it there: a continuous aggregate as its plain view, the
rest not at all. A new table gets its operations on every edition, because the migration will run on others, too.

Filters: `include_name` and `include_object` are asked with the type names "hypertable" and "continuous_aggregate" and
the declaration as the object.
"""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from alembic.autogenerate import renderers
from alembic.operations import ops
from alembic.runtime.plugins import Plugin
from alembic.util import CommandError, DispatchPriority, PriorityDispatchResult

from qts_data.timescale import ddl, drift
from qts_data.timescale import operations as tso
from qts_data.timescale.declarations import (
    Columnstore,
    ContinuousAggregate,
    Declarations,
    Hypertable,
    declarations_of,
)
from qts_data.timescale.edition import Edition, Feature, probe
from qts_data.timescale.reflection import Reflected, reflect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from alembic.autogenerate.api import AutogenContext
    from sqlalchemy.engine import Connection

    from qts_data.timescale.intervals import Interval
    from qts_data.timescale.reflection import AgePolicy, ReflectedAggregate, ReflectedHypertable, ReflectedRefresh

__all__ = ["PLUGIN_NAME", "hide_internal_schemas", "setup"]

PLUGIN_NAME: Final = "qts_data.timescale"

_UNFIT: Final = re.compile(r"""\"{3}|\\|'[^']*\n[^']*'""")
"""What cannot stand between three quotes, or not over several lines."""

_log = logging.getLogger("alembic.autogenerate.timescaledb")


def setup(plugin: Plugin) -> None:
    """Alembic's hook: compare after the tables were compared, for aggregates stand on tables."""
    plugin.add_autogenerate_comparator(_compare, "schema", priority=DispatchPriority.LAST)


def hide_internal_schemas(name: str | None, kind: str, _parents: object) -> bool:
    """An `include_name` for `include_schemas=True`, which else proposes to drop the extension's own tables."""
    return not (kind == "schema" and name is not None and name.startswith(("_timescaledb_", "timescaledb_")))


@dataclass(slots=True)
class _Comparison:
    """One run of autogenerate: what is there, what is wanted, and the operations so far."""

    context: AutogenContext
    connection: Connection
    edition: Edition
    new_tables: set[tuple[str | None, str]]
    changed_tables: set[tuple[str | None, str]]
    appends: bool
    """Whether the server can append columns to an aggregate."""
    found: dict[str | None, Reflected] = field(default_factory=dict)
    first: list[ops.MigrateOperation] = field(default_factory=list)
    """Operations before those on tables: an aggregate blocks changes of the columns that it reads."""
    last: list[ops.MigrateOperation] = field(default_factory=list)
    """Operations after those on tables."""

    def reflected(self, schema: str | None) -> Reflected:
        if schema not in self.found:
            self.found[schema] = reflect(self.connection, schema=schema)
        return self.found[schema]

    def wanted(self, item: Hypertable | ContinuousAggregate, kind: str, *, exists: bool) -> bool:
        """Whether the environment's filters let it through."""
        parents = {"schema_name": item.schema}
        if exists and not self.context.run_name_filters(item.name, kind, parents):  # type: ignore[arg-type]
            return False
        return self.context.run_object_filters(item, item.name, kind, False, None)  # type: ignore[arg-type]


def _compare(context: AutogenContext, upgrade_ops: ops.UpgradeOps, schemas: set[str | None]) -> PriorityDispatchResult:
    metadatas = context.metadata if isinstance(context.metadata, list | tuple) else [context.metadata]
    connection = context.connection
    if connection is None:
        return PriorityDispatchResult.CONTINUE
    server = probe(connection)
    run = _Comparison(
        context,
        connection,
        server.edition,
        {(op.schema, op.table_name) for op in upgrade_ops.ops if isinstance(op, ops.CreateTableOp)},
        set(_changed_tables(upgrade_ops)),
        server.edition.has(Feature.CONTINUOUS_AGGREGATES) and (server.timescaledb or ()) >= (2, 28),
    )
    default = connection.dialect.default_schema_name
    for metadata in metadatas:
        if not isinstance(metadata, sa.MetaData):
            continue
        declared = declarations_of(metadata)
        for table in declared.hypertables.values():
            if table.schema in schemas or (table.schema == default and None in schemas):
                _compare_hypertable(run, table)
        _compare_aggregates(run, declared, schemas)
    upgrade_ops.ops[:] = [*run.first, *upgrade_ops.ops, *run.last]
    return PriorityDispatchResult.CONTINUE


def _changed_tables(upgrade_ops: ops.UpgradeOps) -> Iterator[tuple[str | None, str]]:
    """Tables with a column of another type or less: the server refuses both under an aggregate."""
    for table in upgrade_ops.ops:
        if isinstance(table, ops.ModifyTableOps) and any(
            isinstance(change, ops.DropColumnOp)
            or (isinstance(change, ops.AlterColumnOp) and change.modify_type is not None)
            for change in table.ops
        ):
            yield table.schema, table.table_name


def _compare_hypertable(run: _Comparison, wanted: Hypertable) -> None:
    new = (wanted.schema, wanted.name) in run.new_tables
    found = None if new else run.reflected(wanted.schema).hypertables.get(wanted.name)
    if not run.wanted(wanted, "hypertable", exists=found is not None):
        return
    if not new and not run.edition.has(Feature.HYPERTABLES):
        return
    schema = wanted.schema
    if found is None:
        _log.info("Detected new hypertable %s", wanted.name)
        run.last.append(
            tso.CreateHypertableOp(
                wanted.name,
                time=wanted.time,
                chunk_interval=wanted.chunk_interval,
                migrate_data=not new,
                new_table=new,
                schema=schema,
            )
        )
    elif found.chunk_interval is None or wanted.chunk_interval.as_chunk != found.chunk_interval.as_chunk:
        run.last.append(
            tso.SetChunkIntervalOp(wanted.name, wanted.chunk_interval, existing=found.chunk_interval, schema=schema)
        )
    if new or run.edition.has(Feature.COLUMNSTORE):
        run.last += _columnstore_ops(wanted, found)
    if new or run.edition.has(Feature.POLICIES):
        run.last += _retention_ops(wanted, found)
        run.last += _reorder_ops(wanted, found)


def _reorder_ops(wanted: Hypertable, found: ReflectedHypertable | None) -> Iterator[ops.MigrateOperation]:
    name, schema, old = wanted.name, wanted.schema, found.reorder if found else None
    if wanted.reorder is None:
        if old is not None:
            every = found.reorder_every if found else None
            yield tso.RemoveReorderPolicyOp(name, existing=old, existing_every=every, schema=schema)
    elif old is None:
        yield tso.AddReorderPolicyOp(name, wanted.reorder, schema=schema)
    elif old != wanted.reorder or (found is not None and not found.reorder_scheduled):
        yield tso.AlterReorderPolicyOp(name, wanted.reorder, existing=old, schema=schema)


def _columnstore_ops(wanted: Hypertable, found: ReflectedHypertable | None) -> Iterator[ops.MigrateOperation]:
    name, schema = wanted.name, wanted.schema
    new, old = wanted.columnstore, found.columnstore if found else None
    policy = found.convert if found else None
    after = new.after if new else None
    if policy is not None and after is None:
        yield tso.RemoveColumnstorePolicyOp(
            name, existing=_age_of(name, policy), existing_every=policy.every, schema=schema
        )
    if new is not None and old is None:
        yield tso.EnableColumnstoreOp(name, segment_by=new.segment_by, order_by=new.order_by, schema=schema)
    elif new is None and old is not None:
        yield tso.DisableColumnstoreOp(
            name, existing_segment_by=old.segment_by, existing_order_by=old.order_by, schema=schema
        )
    elif new is not None and old is not None and _orders(new) != _orders(old):
        yield tso.AlterColumnstoreOp(
            name,
            segment_by=new.segment_by,
            order_by=new.order_by,
            existing_segment_by=old.segment_by,
            existing_order_by=old.order_by,
            schema=schema,
        )
    if after is not None and policy is None:
        yield tso.AddColumnstorePolicyOp(name, after, schema=schema)
    elif after is not None and policy is not None and not _same_policy(after, policy.age, policy.scheduled):
        yield tso.AlterColumnstorePolicyOp(name, after, existing=_age_of(name, policy), schema=schema)


def _orders(columnstore: Columnstore) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return columnstore.segment_by, columnstore.normal_order


def _same_policy(wanted: Interval, found: Interval | None, scheduled: bool) -> bool:
    return scheduled and found is not None and wanted.same_length(found)


def _retention_ops(
    wanted: Hypertable | ContinuousAggregate, found: ReflectedHypertable | ReflectedAggregate | None
) -> Iterator[ops.MigrateOperation]:
    name, schema, policy = wanted.name, wanted.schema, found.retention if found else None
    if policy is None:
        if wanted.retention is not None:
            yield tso.AddRetentionPolicyOp(name, wanted.retention, schema=schema)
    elif wanted.retention is None:
        yield tso.RemoveRetentionPolicyOp(name, existing=_age_of(name, policy), schema=schema)
    elif not _same_policy(wanted.retention, policy.age, policy.scheduled):
        yield tso.AlterRetentionPolicyOp(name, wanted.retention, existing=_age_of(name, policy), schema=schema)


def _compare_aggregates(run: _Comparison, declared: Declarations, schemas: set[str | None]) -> None:
    """Drop what changed, with all that stands on it, children first; build it again, parents first."""
    default = run.connection.dialect.default_schema_name
    allowed = [
        item
        for item in declared.continuous_aggregates.values()
        if (item.schema in schemas or (item.schema == default and None in schemas))
        and run.wanted(item, "continuous_aggregate", exists=_existing(run, item) is not None)
    ]
    rebuilt: list[ContinuousAggregate] = []
    created: list[ContinuousAggregate] = []
    for item in allowed:
        existing = _existing(run, item)
        stands_on = item.source in rebuilt or item.source in created
        if existing is None:
            created.append(item)
            continue
        must = stands_on or _must_be_rebuilt(run, item, existing)
        if must and not stands_on and not isinstance(existing, str) and run.appends:
            appended = _appended(run, item, existing, allowed)
            if appended is not None:
                _log.info("Detected new columns of continuous aggregate %s", item.name)
                run.last.append(appended)
                must = False
        if must:
            rebuilt.append(item)
        elif not isinstance(existing, str):
            run.last += _settings_ops(item, existing)
    for item in reversed(rebuilt):
        _log.info("Detected changed continuous aggregate %s", item.name)
        run.first += _drop_ops(run, item)
    # In the order of declaration, which is a build order.
    for item in allowed:
        if item in rebuilt or item in created:
            run.last += _build_ops(run, item)


def _existing(run: _Comparison, item: ContinuousAggregate) -> ReflectedAggregate | str | None:
    """The aggregate, or a plain view's definition, or None."""
    found = run.reflected(item.schema).aggregates.get(item.name)
    if found is not None:
        return found
    return drift.view_definition(run.connection, item.name, schema=item.schema)


def _must_be_rebuilt(run: _Comparison, item: ContinuousAggregate, existing: ReflectedAggregate | str) -> bool:
    is_view = isinstance(existing, str)
    if is_view == run.edition.has(Feature.CONTINUOUS_AGGREGATES):
        return True  # the edition changed since it was made
    source = item.source
    if isinstance(source, Hypertable) and (source.schema, source.name) in run.changed_tables:
        return True
    select = ddl.render_select(item.select, has_time_bucket=run.edition is not Edition.POSTGRESQL)
    try:
        wanted = drift.normal_form(run.connection, select)
    except sa.exc.ProgrammingError as error:
        if _is_missing(error):
            return True  # it reads a column that this migration has yet to make
        raise
    return wanted != (existing if isinstance(existing, str) else existing.definition)


def _appended(
    run: _Comparison, item: ContinuousAggregate, existing: ReflectedAggregate, allowed: list[ContinuousAggregate]
) -> tso.AppendAggregateColumnsOp | None:
    """The change, if all of it is more aggregates at the end; the server can do that in place."""
    if isinstance(item.source, Hypertable) and (item.source.schema, item.source.name) in run.changed_tables:
        return None
    wanted = list(item.select.selected_columns)
    _, there = ddl.view_comments(run.connection, item.name, schema=item.schema)
    if not 0 < len(there) < len(wanted):
        return None
    shorter = item.select.with_only_columns(*wanted[: len(there)], maintain_column_froms=True)
    try:
        if drift.normal_form(run.connection, ddl.render_select(shorter, has_time_bucket=True)) != existing.definition:
            return None
        kinds = drift.column_types(run.connection, ddl.render_select(item.select, has_time_bucket=True))
    except sa.exc.ProgrammingError as error:
        if _is_missing(error):
            return None  # it reads a column that this migration has yet to make
        raise
    subtree = [item]
    subtree += [other for other in allowed if other.source in subtree and _existing(run, other) is not None]
    undo: list[ops.MigrateOperation] = []
    for other in reversed(subtree):
        undo += _drop_ops(run, other)
    undo += [op.reverse() for op in reversed(undo)]
    new = {str(column.key): column for column in wanted[len(there) :]}
    return tso.AppendAggregateColumnsOp(
        item.name,
        columns={key: (kinds[key], ddl.render_expression(column)) for key, column in new.items()},
        comments={key: item.column_comments[key] for key in new},
        schema=item.schema,
        undo=undo,
    )


def _is_missing(error: sa.exc.ProgrammingError) -> bool:
    # undefined_column, undefined_table; anything else, such as a missing right, is no news about the schema.
    return getattr(error.orig, "sqlstate", None) in {"42703", "42P01"}


def _settings_ops(item: ContinuousAggregate, found: ReflectedAggregate) -> Iterator[ops.MigrateOperation]:
    real_time = item.materialized_only != found.materialized_only
    longer = found.chunk_interval is None or item.chunk_interval.as_chunk != found.chunk_interval.as_chunk
    wanted = {index.name: list(index.expressions) for index in item.indexes}
    changed = {
        name
        for name in wanted.keys() | found.indexes.keys()
        if drift.normal_index(wanted.get(name, [])) != drift.normal_index(found.indexes.get(name, []))
    }
    change = tso.AlterContinuousAggregateOp(
        item.name,
        materialized_only=item.materialized_only if real_time else None,
        existing_materialized_only=found.materialized_only if real_time else None,
        chunk_interval=item.chunk_interval if longer else None,
        existing_chunk_interval=found.chunk_interval if longer else None,
        add_indexes={name: wanted[name] for name in sorted(changed & wanted.keys())},
        drop_indexes={name: found.indexes[name] for name in sorted(changed & found.indexes.keys())},
        schema=item.schema,
    )
    if change.arguments():
        yield change
    yield from _refresh_ops(item, found.refresh)
    yield from _retention_ops(item, found)


def _refresh_ops(item: ContinuousAggregate, found: Iterable[ReflectedRefresh]) -> Iterator[ops.MigrateOperation]:
    name, schema = item.name, item.schema
    missing = sorted(item.refresh, key=lambda policy: policy.start.longest)
    extra: list[ReflectedRefresh] = []
    for existing in found:
        same = next((p for p in missing if drift.same_window(p, existing) and existing.scheduled), None)
        if same is not None:
            missing.remove(same)
        else:
            extra.append(existing)
    if len(missing) == len(extra) == 1:
        # The same job with another window. With more of them, one's new window can be another's old one.
        yield tso.AlterRefreshPolicyOp(
            name,
            start=missing[0].start,
            end=missing[0].end,
            every=missing[0].every,
            **{f"existing_{key}": value for key, value in _window(item.name, extra[0]).items()},
            schema=schema,
        )
        return
    for existing in extra:
        yield tso.RemoveRefreshPolicyOp(name, **_window(item.name, existing), schema=schema)
    for policy in missing:
        yield tso.AddRefreshPolicyOp(name, start=policy.start, end=policy.end, every=policy.every, schema=schema)


def _window(name: str, policy: ReflectedRefresh) -> dict[str, Interval]:
    if policy.start is None or policy.end is None:
        raise CommandError(
            f"{name} has a refresh policy with an open window (job {policy.job}), which no declaration can say: an "
            "open start deletes the bars of dropped rows; remove it with SELECT delete_job("
            f"{policy.job}), then generate again"
        )
    return {"start": policy.start, "end": policy.end, "every": policy.every}


def _age_of(name: str, policy: AgePolicy) -> Interval:
    if policy.age is None:
        raise CommandError(
            f"{name} has a policy by the chunks' time of creation (job {policy.job}), which no declaration can say; "
            f"remove it with SELECT delete_job({policy.job}), then generate again"
        )
    return policy.age


def _drop_ops(run: _Comparison, item: ContinuousAggregate) -> Iterator[ops.MigrateOperation]:
    """Each policy by itself, so that the way back adds each of them again."""
    name, schema = item.name, item.schema
    existing = _existing(run, item)
    if isinstance(existing, str) or existing is None:
        definition, found = str(existing), None
    else:
        definition, found = existing.definition, existing
        if found.retention is not None:
            yield tso.RemoveRetentionPolicyOp(name, existing=_age_of(name, found.retention), schema=schema)
        for policy in found.refresh:
            yield tso.RemoveRefreshPolicyOp(name, **_window(name, policy), schema=schema)
    comment, columns = ddl.view_comments(run.connection, name, schema=schema)
    yield tso.DropContinuousAggregateOp(
        name,
        schema=schema,
        was=tso.CreateContinuousAggregateOp(
            name,
            select=definition.rstrip(";"),
            chunk_interval=(found and found.chunk_interval) or item.chunk_interval,
            materialized_only=bool(found and found.materialized_only),
            indexes=found.indexes if found else None,
            comment=comment,
            column_comments=columns,
            grants=ddl.view_grants(run.connection, name, schema=schema),
            schema=schema,
        ),
    )


def _build_ops(run: _Comparison, item: ContinuousAggregate) -> Iterator[ops.MigrateOperation]:
    name, schema = item.name, item.schema
    yield tso.CreateContinuousAggregateOp(
        name,
        select=ddl.render_select(item.select, has_time_bucket=True),
        fallback_select=ddl.render_select(item.select, has_time_bucket=False),
        chunk_interval=item.chunk_interval,
        materialized_only=item.materialized_only,
        indexes={index.name: index.expressions for index in item.indexes},
        comment=item.comment,
        column_comments=item.column_comments,
        grants=ddl.view_grants(run.connection, name, schema=schema),
        schema=schema,
    )
    for policy in item.refresh:
        yield tso.AddRefreshPolicyOp(name, start=policy.start, end=policy.end, every=policy.every, schema=schema)
    yield from _retention_ops(item, None)


@renderers.dispatch_for(tso.TimescaleOp)
def _render(context: AutogenContext, op: tso.TimescaleOp) -> list[str]:
    """A comment with the cost, and the call."""
    prefix = context.opts["alembic_module_prefix"] or ""
    arguments = [repr(op.name)]
    arguments += [f"{key}={_python(value)}" for key, value in op.arguments().items()]
    if op.schema is not None:
        arguments.append(f"schema={op.schema!r}")
    lines = [f"# {op.safety}" + (f": {op.reason}" if op.reason else "")]
    if len(", ".join(arguments)) < 80 and not any("\n" in argument for argument in arguments):
        return [*lines, f"{prefix}{op.function}({', '.join(arguments)})"]
    body = "".join(f"    {argument},\n" for argument in arguments)
    return [*lines, f"{prefix}{op.function}(\n{body})"]


def _python(value: object) -> str:
    # Alembic indents what it writes, inside of quotes as well: a literal with a line break stays in one line.
    if isinstance(value, str) and value.startswith("SELECT ") and not _UNFIT.search(value):
        return f'"""\n{_one_column_a_line(value)}\n"""'
    return repr(value)


def _one_column_a_line(select: str) -> str:
    """The same SELECT with a line for each column, so that a review sees what changed; quotes stay as they are."""
    text, depth, quote = "", 0, ""
    for character in select:
        if quote:
            quote = "" if character == quote else quote
            text += character
            continue
        if character.isspace():
            text += "" if text.endswith((" ", "\n")) else " "
        else:
            text += character
        if character in "'\"":
            quote = character
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            text += "\n    "
        for word in (" FROM ", " GROUP BY ", " WHERE ", " HAVING "):
            if not depth and text.endswith(word):
                text = f"{text[: -len(word)]}\n{word.strip()} "
    return text


def _register() -> None:
    # One import does it; a second one, of a module that was reloaded, changes nothing.
    try:
        Plugin.setup_plugin_from_module(sys.modules[__name__], PLUGIN_NAME)
    except ValueError:
        _log.debug("plugin %s is registered already", PLUGIN_NAME)


_register()
