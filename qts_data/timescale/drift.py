"""Where a live database differs from the declarations.

Every declared object is compared with what the server has, defaults included: a retention policy on a table that is
declared without one is a difference. What is not declared is left alone. Definitions of aggregates compare in the
server's own normal form, so no parser of ours has to be right.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from qts_data.timescale import ddl
from qts_data.timescale.declarations import declarations_of
from qts_data.timescale.edition import Edition, Feature, probe
from qts_data.timescale.reflection import reflect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy.engine import Connection

    from qts_data.timescale.declarations import ContinuousAggregate, Hypertable, RefreshPolicy
    from qts_data.timescale.intervals import Interval
    from qts_data.timescale.reflection import AgePolicy, ReflectedAggregate, ReflectedHypertable, ReflectedRefresh

__all__ = [
    "Difference",
    "column_types",
    "find_drift",
    "index_changes",
    "normal_form",
    "normal_index",
    "same_window",
    "view_definition",
    "view_drift",
]

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as declared.

    Attributes:
        name: The object.
        what: What of it.
        declared: As declared; '-' for not at all.
        found: As found; '-' for not at all.
    """

    name: str
    what: str
    declared: str
    found: str


def find_drift(connection: Connection, metadata: sa.MetaData) -> list[Difference]:
    """Compare the live catalog with what a MetaData declares, as far as the edition has it.

    The connection needs a transaction that may create a temporary view; nothing of it stays.
    """
    declared = declarations_of(metadata)
    edition = probe(connection).edition
    differences: list[Difference] = []
    schemas = {item.schema for item in declared.hypertables.values()}
    schemas |= {item.schema for item in declared.continuous_aggregates.values()}
    found = {schema: reflect(connection, schema=schema) for schema in schemas}
    if edition.has(Feature.HYPERTABLES):
        for table in declared.hypertables.values():
            differences += _table(table, found[table.schema].hypertables.get(table.name), edition)
    for aggregate in declared.continuous_aggregates.values():
        differences += _aggregate(
            connection, aggregate, found[aggregate.schema].aggregates.get(aggregate.name), edition
        )
    return differences


@contextlib.contextmanager
def _temporary_view(connection: Connection, select: str) -> Iterator[None]:
    savepoint = connection.begin_nested()
    try:
        connection.execute(ddl.verbatim(f"CREATE TEMPORARY VIEW qts_normal_form AS {select}"))
        yield
    finally:
        savepoint.rollback()


def normal_form(connection: Connection, select: str) -> str:
    """A SELECT as the server would write it: a temporary view of it, read back and forgotten."""
    with _temporary_view(connection, select):
        text: str = connection.execute(
            sa.text("SELECT pg_get_viewdef(to_regclass('pg_temp.qts_normal_form'))")
        ).scalar_one()
    return text.strip()


def column_types(connection: Connection, select: str) -> dict[str, str]:
    """Types of a SELECT's columns as the server writes them."""
    with _temporary_view(connection, select):
        rows = connection.execute(
            sa.text(
                "SELECT attname, format_type(atttypid, atttypmod) AS kind FROM pg_catalog.pg_attribute "
                "WHERE attrelid = to_regclass('pg_temp.qts_normal_form') AND attnum > 0"
            )
        ).all()
    return {row.attname: row.kind for row in rows}


def view_definition(connection: Connection, name: str, *, schema: str | None = None) -> str | None:
    """A plain view's SELECT in normal form; None if there is no such view."""
    text: str | None = connection.execute(
        sa.text("SELECT pg_get_viewdef(oid) FROM pg_catalog.pg_class WHERE oid = to_regclass(:name) AND relkind = 'v'"),
        {"name": ddl.qualified(name, schema)},
    ).scalar_one_or_none()
    return None if text is None else text.strip()


def _table(wanted: Hypertable, found: ReflectedHypertable | None, edition: Edition) -> Iterator[Difference]:
    if found is None:
        yield Difference(wanted.name, "hypertable", f"by {wanted.time}", NOTHING)
        return
    if wanted.time != found.time:
        yield Difference(wanted.name, "time column", wanted.time, found.time)
    yield from _length(wanted.name, "chunk interval", wanted.chunk_interval, found.chunk_interval)
    if edition.has(Feature.COLUMNSTORE):
        yield from _columnstore(wanted, found)
    if edition.has(Feature.POLICIES):
        after = wanted.columnstore.after if wanted.columnstore else None
        yield from _policy(wanted.name, "columnstore policy", after, found.convert)
        yield from _policy(wanted.name, "retention policy", wanted.retention, found.retention)
        if wanted.reorder != found.reorder or not found.reorder_scheduled:
            paused = "" if found.reorder_scheduled else ", paused"
            yield Difference(
                wanted.name, "reorder policy", wanted.reorder or NOTHING, (found.reorder or NOTHING) + paused
            )


def _columnstore(wanted: Hypertable, found: ReflectedHypertable) -> Iterator[Difference]:
    left, right = (
        NOTHING
        if columnstore is None
        else f"segment by {', '.join(columnstore.segment_by)} order by {', '.join(columnstore.normal_order)}"
        for columnstore in (wanted.columnstore, found.columnstore)
    )
    if left != right:
        yield Difference(wanted.name, "columnstore", left, right)


def _aggregate(
    connection: Connection, wanted: ContinuousAggregate, found: ReflectedAggregate | None, edition: Edition
) -> Iterator[Difference]:
    select = ddl.render_select(wanted.select, has_time_bucket=edition is not Edition.POSTGRESQL)
    if not edition.has(Feature.CONTINUOUS_AGGREGATES):
        yield from view_drift(connection, wanted.name, select, schema=wanted.schema)
        return
    if found is None:
        plain = view_definition(connection, wanted.name, schema=wanted.schema)
        yield Difference(
            wanted.name, "continuous aggregate", f"buckets of {wanted.bucket}", "a plain view" if plain else NOTHING
        )
        return
    definition = normal_form(connection, select)
    if definition != found.definition:
        yield Difference(wanted.name, "definition", definition, found.definition)
    if wanted.materialized_only != found.materialized_only:
        yield Difference(wanted.name, "materialized_only", str(wanted.materialized_only), str(found.materialized_only))
    yield from _length(wanted.name, "chunk interval", wanted.chunk_interval, found.chunk_interval)
    for declared, existing in index_changes(wanted, found):
        yield Difference(wanted.name, "index", declared or NOTHING, existing or NOTHING)
    yield from _refresh(wanted, found)
    yield from _policy(wanted.name, "retention policy", wanted.retention, found.retention)


def index_changes(wanted: ContinuousAggregate, found: ReflectedAggregate) -> Iterator[tuple[str, str]]:
    """Indexes of an aggregate that differ, as declared and as found; '' for not at all."""
    declared = {index.name: ", ".join(normal_index(index.expressions)) for index in wanted.indexes}
    existing = {name: ", ".join(normal_index(expressions)) for name, expressions in found.indexes.items()}
    for name in sorted(declared.keys() | existing.keys()):
        left, right = declared.get(name), existing.get(name)
        if left != right:
            yield (f"{name} ({left})" if left else "", f"{name} ({right})" if right else "")


def normal_index(expressions: Iterable[str]) -> list[str]:
    """Expressions of an index without what is understood: quotes that are not needed, ASC."""
    return [re.sub(r'^"([a-z_][a-z0-9_]*)"', r"\1", item.removesuffix(" ASC")) for item in expressions]


def view_drift(connection: Connection, name: str, select: str, *, schema: str | None = None) -> Iterator[Difference]:
    """Whether a plain view is what a SELECT says."""
    definition = normal_form(connection, select)
    found = view_definition(connection, name, schema=schema)
    if found != definition:
        yield Difference(name, "view", definition, found or NOTHING)


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
    """Whether both refresh the same window at the same pace."""
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
