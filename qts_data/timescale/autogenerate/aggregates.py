"""Comparison of continuous aggregates: changes in place, and rebuilds of the others with all aggregates on them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic.util import CommandError

from qts_data.timescale import ddl, drift
from qts_data.timescale import operations as tso
from qts_data.timescale.autogenerate.policies import (
    age_of,
    columnstore_ops,
    refresh_ops,
    retention_ops,
    retention_pace,
    window,
)
from qts_data.timescale.catalog import relation_kind, view_grants, views_on
from qts_data.timescale.declarations import DroppedAggregate, Hypertable, column_name
from qts_data.timescale.edition import Edition, Feature
from qts_data.timescale.normal_form import column_types, normal_forms
from qts_data.timescale.reflection import ReflectedAggregate, ReflectedView

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from alembic.operations.ops import MigrateOperation

    from qts_data.timescale.autogenerate.run import Run
    from qts_data.timescale.declarations import ContinuousAggregate, Declarations

    Key = tuple[str | None, str]

__all__ = ["compare_aggregates"]

_log = logging.getLogger("alembic.autogenerate.timescaledb")


def compare_aggregates(run: Run, declared: Declarations, schemas: Collection[str | None]) -> None:
    """Drop changed and removed aggregates with all that read them, children first. Rebuild the changed ones."""
    known: list[ContinuousAggregate | DroppedAggregate] = []
    known += [item for item in declared.continuous_aggregates.values() if item.schema in schemas]
    known += [item for item in declared.dropped_aggregates.values() if item.schema in schemas]
    for schema in {item.schema for item in known}:
        run.look_for_views(schema, [item.name for item in known if item.schema == schema])
    known = [item for item in known if _let_through(run, item)]
    wanted = [item for item in declared.continuous_aggregates.values() if item in known]
    changed = _changed(run, wanted)
    rebuilt: list[ContinuousAggregate] = []
    created: list[ContinuousAggregate] = []
    appends: list[tuple[ContinuousAggregate, tso.AppendAggregateColumnsOp]] = []
    for item in wanted:
        existing = run.existing(item.name, item.schema)
        stands_on = item.source in rebuilt or item.source in created
        if existing is None:
            _refuse_a_taken_name(run, item)
            created.append(item)
        elif not (stands_on or item in changed):
            run.last += _settings_ops(item, existing)
        elif not stands_on and (appended := _appended(run, item, existing)) is not None:
            _log.info("Detected new columns of continuous aggregate %s", item.name)
            run.last.append(appended)
            appends.append((item, appended))
            run.last += _settings_ops(item, existing)
        else:
            _log.info("Detected changed continuous aggregate %s", item.name)
            rebuilt.append(item)
    for item, appended in appends:
        appended.undo = _undo_of(run, item, [other for other in wanted if other not in rebuilt])
    gone = [(item.schema, item.name) for item in known if item not in wanted and _exists(run, item)]
    still = {(run.plain(item.schema), item.name) for item in known}
    gone += [key for key in _on_tables(run, run.dropped_tables) if key not in still]
    for schema, name in gone:
        _log.info("Detected dropped continuous aggregate %s", ddl.qualified(name, schema))
    run.first += _drop_all(run, gone=gone, rebuilt=rebuilt)
    # In the order of declaration, which is a build order.
    for item in wanted:
        if item in rebuilt or item in created:
            run.last += _build_ops(run, item)


def _exists(run: Run, item: ContinuousAggregate | DroppedAggregate) -> bool:
    return run.existing(item.name, item.schema) is not None


def _let_through(run: Run, item: ContinuousAggregate | DroppedAggregate) -> bool:
    """Return whether the filters let an aggregate and its underlying table through."""
    table_wanted = isinstance(item, DroppedAggregate) or run.table_wanted(item.table)
    return table_wanted and run.wanted(item, "continuous_aggregate", exists=_exists(run, item))


def _refuse_a_taken_name(run: Run, item: ContinuousAggregate) -> None:
    kind = relation_kind(run.connection, item.name, schema=item.schema)
    dropped = (item.schema, item.name) in run.dropped_tables
    if kind is not None and not dropped:
        raise CommandError(
            f"continuous aggregate {ddl.qualified(item.name, item.schema)} cannot be made, for {kind} has that name: "
            "rename or drop that, or declare the aggregate by another name"
        )


def _changed(run: Run, wanted: Iterable[ContinuousAggregate]) -> list[ContinuousAggregate]:
    """Return those that exist and differ from their declaration."""
    changed, unsure = [], []
    for item in wanted:
        existing = run.existing(item.name, item.schema)
        if existing is None:
            continue
        source = item.source
        # It was made before the server's edition changed, or the migration changes the table that it reads.
        other_kind = isinstance(existing, ReflectedView) == run.edition.has(Feature.CONTINUOUS_AGGREGATES)
        if other_kind or (isinstance(source, Hypertable) and (source.schema, source.name) in run.changed_tables):
            changed.append(item)
        else:
            unsure.append((item, existing.definition))
    has_time_bucket = run.edition is not Edition.POSTGRESQL
    selects = [ddl.render_select(item.select, has_time_bucket=has_time_bucket) for item, _ in unsure]
    # Without a normal form, it reads a column that this migration has yet to make.
    for (item, definition), form in zip(unsure, normal_forms(run.connection, selects), strict=True):
        if form != definition:
            changed.append(item)
    return changed


def _on_tables(run: Run, tables: Sequence[Key]) -> Iterator[Key]:
    """Yield the aggregates that read these tables, directly or through others. None can stay without its source."""
    waiting, seen = list(tables), set()
    while waiting and run.edition.has(Feature.CONTINUOUS_AGGREGATES):
        schema, name = waiting.pop()
        for found_in, view in views_on(run.connection, name, schema=schema):
            key = (run.plain(found_in), view)
            there = view in run.reflected(key[0]).aggregates
            found = DroppedAggregate(view, key[0])
            if there and key not in seen and run.wanted(found, "continuous_aggregate", exists=True):
                seen.add(key)
                waiting.append(key)
                yield key


def _drop_all(run: Run, *, gone: Iterable[Key], rebuilt: Iterable[ContinuousAggregate]) -> Iterator[MigrateOperation]:
    """Drop aggregates, children first. The order is the database's, as a declaration may have a new source."""
    default = run.connection.dialect.default_schema_name
    all_of_them: dict[Key, ContinuousAggregate | None] = {(schema or default, name): None for schema, name in gone}
    all_of_them |= {(item.schema or default, item.name): item for item in rebuilt}
    readers = {(schema, name): views_on(run.connection, name, schema=schema) for schema, name in all_of_them}
    done: list[Key] = []

    def visit(key: Key) -> Iterator[MigrateOperation]:
        if key in done:
            return
        done.append(key)
        others = []
        for schema, view in readers[key]:
            if (schema, view) in all_of_them:
                yield from visit((schema, view))
            else:
                others.append(ddl.qualified(view, run.plain(schema)))
        found_in, name = key
        rebuilt_as = all_of_them[key]
        written = rebuilt_as.schema if rebuilt_as else run.plain(found_in)
        yield _drop_op(run, written, name, rebuilt_as=rebuilt_as, readers=others)

    for key in all_of_them:
        yield from visit(key)


def _appended(
    run: Run, item: ContinuousAggregate, existing: ReflectedAggregate | ReflectedView
) -> tso.AppendAggregateColumnsOp | None:
    """Return the change if it only adds columns at the end. The server can do that in place, but not undo it."""
    columns, there = list(item.select.selected_columns), len(existing.column_comments)
    if not run.appends or isinstance(existing, ReflectedView) or not 0 < there < len(columns):
        return None
    if isinstance(item.source, Hypertable) and (item.source.schema, item.source.name) in run.changed_tables:
        return None
    shorter = item.select.with_only_columns(*columns[:there], maintain_column_froms=True)
    selects = [ddl.render_select(select, has_time_bucket=True) for select in (shorter, item.select)]
    form, whole = normal_forms(run.connection, selects)
    if form != existing.definition or whole is None:
        return None
    kinds = column_types(run.connection, selects[1])
    new = {column_name(column): column for column in columns[there:]}
    return tso.AppendAggregateColumnsOp(
        item.name,
        columns={key: (kinds[key], ddl.render_expression(column)) for key, column in new.items()},
        comments={key: item.column_comments[key] for key in new},
        schema=item.schema,
    )


def _undo_of(run: Run, item: ContinuousAggregate, kept: Iterable[ContinuousAggregate]) -> list[MigrateOperation]:
    """Drop an aggregate with all aggregates on it, and build them as they are now.

    `kept` leaves out aggregates that the migration rebuilds: the downgrade has already dropped those.
    """
    subtree = [item]
    for other in kept:
        if other.source in subtree and _exists(run, other):
            subtree.append(other)
    undo: list[MigrateOperation] = list(_drop_all(run, gone=(), rebuilt=subtree))
    return [*undo, *(op.reverse() for op in reversed(undo))]


def _settings_ops(item: ContinuousAggregate, found: ReflectedAggregate | ReflectedView) -> Iterator[MigrateOperation]:
    """Yield the changes in place."""
    yield from _comment_ops(item, found)
    if isinstance(found, ReflectedAggregate):
        _refuse_other_indexes(item.name, found)
        yield from _alter_ops(item, found)
        yield from columnstore_ops(item, found)
        yield from refresh_ops(item, found.refresh)
        yield from retention_ops(item, found, new=False)


def _refuse_other_indexes(name: str, found: ReflectedAggregate) -> None:
    for index, definition in found.other_indexes.items():
        raise CommandError(
            f"{name} has the index {index}, which no declaration can say ({definition}), and which a rebuild would "
            f"lose: drop it with DROP INDEX _timescaledb_internal.{ddl.qualified(index)}, then generate again"
        )


def _comment_ops(item: ContinuousAggregate, found: ReflectedAggregate | ReflectedView) -> Iterator[MigrateOperation]:
    other = item.comment != found.comment
    columns = {
        column: text
        for column, text in item.column_comments.items()
        if column in found.column_comments and text != found.column_comments[column]
    }
    if other or columns:
        yield tso.CommentOnAggregateOp(
            item.name,
            comment=item.comment if other else None,
            columns=columns,
            existing_comment=found.comment if other else None,
            existing_columns={column: found.column_comments[column] for column in columns},
            schema=item.schema,
        )


def _alter_ops(item: ContinuousAggregate, found: ReflectedAggregate) -> Iterator[MigrateOperation]:
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


def _drop_op(
    run: Run, schema: str | None, name: str, *, rebuilt_as: ContinuousAggregate | None, readers: Sequence[str]
) -> MigrateOperation:
    """Return the operation that drops an aggregate and remembers everything that it removes."""
    found = run.existing(name, schema)
    if found is None:
        raise LookupError(name)
    aggregate = found if isinstance(found, ReflectedAggregate) else None
    if aggregate is not None and aggregate.chunk_interval is None:
        _log.warning("%s is divided by numbers: the downgrade does not make it again", name)
        return tso.DropContinuousAggregateOp(name, schema=schema, was=[], for_good=True, readers=readers)
    if aggregate is not None:
        _refuse_other_indexes(name, aggregate)
    # A plain view has no chunks. If a downgrade makes it an aggregate, it gets the declared chunk length.
    chunk = (aggregate and aggregate.chunk_interval) or (rebuilt_as.chunk_interval if rebuilt_as else "1 day")
    was: list[MigrateOperation] = [
        tso.CreateContinuousAggregateOp(
            name,
            select=found.definition.rstrip(";"),
            chunk_interval=chunk,
            materialized_only=bool(aggregate and aggregate.materialized_only),
            indexes=aggregate.indexes if aggregate else None,
            group_indexes=bool(aggregate and aggregate.group_indexes),
            comment=found.comment,
            column_comments=found.column_comments,
            grants=view_grants(run.connection, name, schema=schema),
            schema=schema,
            found_on=run.edition,
        )
    ]
    if aggregate is not None:
        was += _settings_of(name, schema, aggregate)
    return tso.DropContinuousAggregateOp(name, schema=schema, was=was, for_good=rebuilt_as is None, readers=readers)


def _settings_of(name: str, schema: str | None, found: ReflectedAggregate) -> Iterator[MigrateOperation]:
    if found.columnstore is not None:
        segment_by, order_by = found.columnstore.segment_by, found.columnstore.order_by
        yield tso.EnableColumnstoreOp(name, segment_by=segment_by, order_by=order_by, aggregate=True, schema=schema)
    if found.convert is not None:
        after = age_of(name, found.convert)
        yield tso.AddColumnstorePolicyOp(name, after, every=found.convert.every, schema=schema)
    for policy in found.refresh:
        yield tso.AddRefreshPolicyOp(name, **window(name, policy), schema=schema)
    if found.retention is not None:
        age, every = age_of(name, found.retention), retention_pace(found.retention)
        yield tso.AddRetentionPolicyOp(name, age, every=every, schema=schema, new_object=True)


def _fallback(item: ContinuousAggregate) -> str | None:
    """Return the definition for plain PostgreSQL, or None. The operation reports it on that edition."""
    try:
        return ddl.render_select(item.select, has_time_bucket=False)
    except sa.exc.CompileError as error:
        _log.warning("%s has no definition for plain PostgreSQL: %s", item.name, error)
        return None


def _build_ops(run: Run, item: ContinuousAggregate) -> Iterator[MigrateOperation]:
    name, schema = item.name, item.schema
    yield tso.CreateContinuousAggregateOp(
        name,
        select=ddl.render_select(item.select, has_time_bucket=True),
        fallback_select=_fallback(item),
        chunk_interval=item.chunk_interval,
        materialized_only=item.materialized_only,
        indexes={index.name: index.expressions for index in item.indexes},
        comment=item.comment,
        column_comments=item.column_comments,
        grants=view_grants(run.connection, name, schema=schema, columns=item.column_comments),
        schema=schema,
    )
    yield from columnstore_ops(item, None)
    for policy in item.refresh:
        yield tso.AddRefreshPolicyOp(name, start=policy.start, end=policy.end, every=policy.every, schema=schema)
    yield from retention_ops(item, None, new=True)
