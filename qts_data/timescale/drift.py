"""Drift: the differences of a live database from the declarations.

Every declared object is compared with the server's, defaults included: a retention policy on a table that is declared
without one is a difference. Undeclared objects are ignored. Definitions of aggregates are compared in the server's own
normal form, so this package needs no parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qts_data.timescale import ddl
from qts_data.timescale.declarations import declarations_of, order_item
from qts_data.timescale.edition import Edition, Feature, probe
from qts_data.timescale.normal_form import normal_forms
from qts_data.timescale.reflection import read_views, reflect
from qts_data.timescale.watermark import find_ahead

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import sqlalchemy as sa
    from sqlalchemy.engine import Connection

    from qts_data.timescale.declarations import ContinuousAggregate, Declarations, Hypertable, RefreshPolicy
    from qts_data.timescale.intervals import Interval
    from qts_data.timescale.reflection import (
        AgePolicy,
        Reflected,
        ReflectedAggregate,
        ReflectedHypertable,
        ReflectedRefresh,
        ReflectedView,
    )

__all__ = [
    "Difference",
    "find_drift",
    "index_changes",
    "normal_index",
    "same_window",
    "view_drift",
]

NOTHING = "-"
_UNREADABLE = "reads a missing column or table"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference from the declarations.

    Attributes:
        name: The object.
        what: The property that differs.
        declared: The declared value; '-' if nothing is declared.
        found: The value found; '-' if nothing was found.
    """

    name: str
    what: str
    declared: str
    found: str


def find_drift(connection: Connection, metadata: sa.MetaData) -> list[Difference]:
    """Compare the live catalog with the declarations of a MetaData, as far as the edition supports them.

    The connection needs the right to create temporary views. All of them are removed.
    """
    declared = declarations_of(metadata)
    edition = probe(connection).edition
    differences: list[Difference] = []
    aggregates = list(declared.continuous_aggregates.values())
    schemas = {item.schema for item in declared.hypertables.values()}
    schemas |= {item.schema for item in aggregates} | {item.schema for item in declared.dropped_aggregates.values()}
    found = {schema: reflect(connection, edition, schema=schema) for schema in schemas}
    views = {schema: _views(connection, declared, found[schema], schema) for schema in schemas}
    if edition.has(Feature.HYPERTABLES):
        for table in declared.hypertables.values():
            differences += _table(table, found[table.schema].hypertables.get(table.name), edition)
    there = [
        item for item in aggregates if item.name in found[item.schema].aggregates or item.name in views[item.schema]
    ]
    has_time_bucket = edition is not Edition.POSTGRESQL
    selects = [ddl.render_select(item.select, has_time_bucket=has_time_bucket) for item in there]
    definitions = {
        (item.schema, item.name): form for item, form in zip(there, normal_forms(connection, selects), strict=True)
    }
    for item in aggregates:
        definition = definitions.get((item.schema, item.name))
        view = views[item.schema].get(item.name)
        if edition.has(Feature.CONTINUOUS_AGGREGATES):
            differences += _aggregate(item, definition, found[item.schema].aggregates.get(item.name), view)
        else:
            differences += _view(item, definition, view)
    if edition.has(Feature.CONTINUOUS_AGGREGATES):
        differences += _ahead(connection, aggregates)
    for dropped in declared.dropped_aggregates.values():
        if dropped.name in found[dropped.schema].aggregates or dropped.name in views[dropped.schema]:
            differences.append(Difference(dropped.name, "continuous aggregate", NOTHING, "there"))
    return differences


def _views(
    connection: Connection, declared: Declarations, found: Reflected, schema: str | None
) -> dict[str, ReflectedView]:
    names = {item.name for item in declared.continuous_aggregates.values() if item.schema == schema}
    names |= {item.name for item in declared.dropped_aggregates.values() if item.schema == schema}
    return read_views(connection, names - found.aggregates.keys(), schema=schema)


def _table(wanted: Hypertable, found: ReflectedHypertable | None, edition: Edition) -> Iterator[Difference]:
    if found is None:
        yield Difference(wanted.name, "hypertable", f"by {wanted.time}", NOTHING)
        return
    if wanted.time != found.time:
        yield Difference(wanted.name, "time column", wanted.time, found.time)
    yield from _length(wanted.name, "chunk interval", wanted.chunk_interval, found.chunk_interval)
    if edition.has(Feature.COLUMNSTORE):
        yield from _columnstore(wanted, found, wanted.time)
    if edition.has(Feature.POLICIES):
        after = wanted.columnstore.after if wanted.columnstore else None
        yield from _policy(wanted.name, "columnstore policy", after, found.convert)
        yield from _policy(wanted.name, "retention policy", wanted.retention, found.retention)
        if wanted.reorder != found.reorder or not found.reorder_scheduled:
            paused = "" if found.reorder_scheduled else ", paused"
            yield Difference(
                wanted.name, "reorder policy", wanted.reorder or NOTHING, (found.reorder or NOTHING) + paused
            )


def _columnstore(
    wanted: Hypertable | ContinuousAggregate, found: ReflectedHypertable | ReflectedAggregate, time: str
) -> Iterator[Difference]:
    left, right = (
        NOTHING
        if columnstore is None
        else f"segment by {', '.join(columnstore.segment_by)} order by {', '.join(columnstore.normal_order(time))}"
        for columnstore in (wanted.columnstore, found.columnstore)
    )
    if left != right:
        yield Difference(wanted.name, "columnstore", left, right)


def _aggregate(
    wanted: ContinuousAggregate,
    definition: str | None,
    found: ReflectedAggregate | None,
    view: ReflectedView | None,
) -> Iterator[Difference]:
    if found is None:
        yield Difference(
            wanted.name, "continuous aggregate", f"buckets of {wanted.bucket}", "a plain view" if view else NOTHING
        )
        return
    if definition != found.definition:
        yield Difference(wanted.name, "definition", definition or _UNREADABLE, found.definition)
    if wanted.materialized_only != found.materialized_only:
        yield Difference(wanted.name, "materialized_only", str(wanted.materialized_only), str(found.materialized_only))
    yield from _length(wanted.name, "chunk interval", wanted.chunk_interval, found.chunk_interval)
    for declared, existing in index_changes(wanted, found):
        yield Difference(wanted.name, "index", declared or NOTHING, existing or NOTHING)
    for definition_of_other in found.other_indexes.values():
        yield Difference(wanted.name, "index", NOTHING, definition_of_other)
    yield from _comments(wanted, found)
    yield from _columnstore(wanted, found, wanted.bucket_column)
    after = wanted.columnstore.after if wanted.columnstore else None
    yield from _policy(wanted.name, "columnstore policy", after, found.convert)
    yield from _refresh(wanted, found)
    yield from _policy(wanted.name, "retention policy", wanted.retention, found.retention)


def _ahead(connection: Connection, aggregates: Iterable[ContinuousAggregate]) -> Iterator[Difference]:
    """Yield watermarks ahead of the clock, which hide rows that arrive later in buckets before them."""
    ahead: dict[str | None, dict[str, str]] = {}
    for one in aggregates:
        if one.schema not in ahead:
            ahead[one.schema] = find_ahead(connection, schema=one.schema)
        if one.name in ahead[one.schema]:
            found = f"up to {ahead[one.schema][one.name]} UTC; qts-data db adopt sets it back"
            yield Difference(one.name, "watermark", "not ahead of the server's clock", found)


def _view(wanted: ContinuousAggregate, definition: str | None, found: ReflectedView | None) -> Iterator[Difference]:
    """Compare the plain view that stands in for an aggregate."""
    if found is None:
        yield Difference(wanted.name, "view", f"buckets of {wanted.bucket}", NOTHING)
        return
    if definition != found.definition:
        yield Difference(wanted.name, "view", definition or _UNREADABLE, found.definition)
    yield from _comments(wanted, found)


def _comments(wanted: ContinuousAggregate, found: ReflectedAggregate | ReflectedView) -> Iterator[Difference]:
    if wanted.comment != found.comment:
        yield Difference(wanted.name, "comment", wanted.comment, found.comment or NOTHING)
    for column, text in wanted.column_comments.items():
        existing = found.column_comments.get(column, text)
        if text != existing:
            yield Difference(f"{wanted.name}.{column}", "comment", text, existing or NOTHING)


def index_changes(wanted: ContinuousAggregate, found: ReflectedAggregate) -> Iterator[tuple[str, str]]:
    """Yield indexes of an aggregate that differ, as declared and as found, with '' for a missing one."""
    declared = {index.name: ", ".join(normal_index(index.expressions)) for index in wanted.indexes}
    existing = {name: ", ".join(normal_index(expressions)) for name, expressions in found.indexes.items()}
    for name in sorted(declared.keys() | existing.keys()):
        left, right = declared.get(name), existing.get(name)
        if left != right:
            yield (f"{name} ({left})" if left else "", f"{name} ({right})" if right else "")


def normal_index(expressions: Iterable[str]) -> list[str]:
    """Return columns of an index without defaults such as ASC, quoted only where needed."""
    return [f"{ddl.qualified(column)} {direction}".rstrip() for column, direction in map(order_item, expressions)]


def view_drift(connection: Connection, name: str, select: str, *, schema: str | None = None) -> Iterator[Difference]:
    """Yield a difference unless a plain view has the definition of a SELECT."""
    (definition,) = normal_forms(connection, [select])
    found = read_views(connection, [name], schema=schema).get(name)
    if found is None or found.definition != definition:
        yield Difference(name, "view", definition or _UNREADABLE, found.definition if found else NOTHING)


def _refresh(wanted: ContinuousAggregate, found: ReflectedAggregate) -> Iterator[Difference]:
    declared = {
        (_key(policy.start), _key(policy.end), _key(policy.every)): (
            f"{policy.start} to {policy.end} ago every {policy.every}"
        )
        for policy in wanted.refresh
    }
    existing = {}
    for policy in found.refresh:
        key = (_key(policy.start), _key(policy.end), _key(policy.every))
        window = f"{policy.start or 'the beginning'} to {policy.end or '0'} ago every {policy.every}"
        existing[key] = window if policy.scheduled else f"{window}, paused"
        if key in declared and not policy.scheduled:
            yield Difference(wanted.name, "refresh policy", declared[key], existing[key])
    for key in sorted(declared.keys() - existing.keys(), key=repr):
        yield Difference(wanted.name, "refresh policy", declared[key], NOTHING)
    for key in sorted(existing.keys() - declared.keys(), key=repr):
        yield Difference(wanted.name, "refresh policy", NOTHING, existing[key])


def same_window(declared: RefreshPolicy, found: ReflectedRefresh) -> bool:
    """Return whether both refresh the same window at the same pace."""
    left, right = (declared.start, declared.end, declared.every), (found.start, found.end, found.every)
    return list(map(_key, left)) == list(map(_key, right))


def _key(interval: Interval | None) -> tuple[int, int] | None:
    return None if interval is None else (interval.months, interval.microseconds)


def _length(name: str, what: str, wanted: Interval, found: Interval | None) -> Iterator[Difference]:
    if found is None or wanted.as_chunk != found.as_chunk:
        yield Difference(name, what, str(wanted), NOTHING if found is None else str(found))


def _policy(name: str, what: str, wanted: Interval | None, found: AgePolicy | None) -> Iterator[Difference]:
    declared = NOTHING if wanted is None else str(wanted)
    if found is None:
        if wanted is not None:
            yield Difference(name, what, declared, NOTHING)
    elif wanted is None or _key(wanted) != _key(found.age) or not found.scheduled:
        age = "an age of another kind" if found.age is None else str(found.age)
        yield Difference(name, what, declared, age + ("" if found.scheduled else ", paused"))
