"""Declarations of TimescaleDB objects, written beside the models and checked when they are imported.

Declarations are stored in `MetaData.info`: Alembic renders `Table.info` into migrations, and a continuous aggregate
is not a table. Each declaration is checked against the table and the other declarations at once. So a policy that
would delete bars raises `DeclarationError` at import, on the developer's machine.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.sql import visitors

from qts_data.timescale.errors import DeclarationError
from qts_data.timescale.functions import time_bucket
from qts_data.timescale.intervals import Interval, IntervalLike

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "AggregateIndex",
    "Columnstore",
    "ContinuousAggregate",
    "Declarations",
    "DroppedAggregate",
    "Hypertable",
    "RefreshPolicy",
    "column_name",
    "continuous_aggregate",
    "declarations_of",
    "dropped_continuous_aggregate",
    "hypertable",
    "order_item",
]

_LONGEST_NAME: Final = 63
"""Most bytes of a name in PostgreSQL. It cuts longer ones."""

_INFO_KEY: Final = "qts_data.timescale"


@dataclass(frozen=True, slots=True)
class Columnstore:
    """Settings for the conversion of old chunks into columns.

    Attributes:
        segment_by: Columns with a single value in each compressed batch: the columns that queries filter by.
        order_by: Order inside a batch, such as `"time DESC"`; with a unique key, name its other columns.
        after: Age at which a chunk is converted, or None for no policy.
    """

    segment_by: tuple[str, ...]
    order_by: tuple[str, ...]
    after: Interval | None = None

    @classmethod
    def of(
        cls, *, segment_by: Sequence[str], order_by: Sequence[str], after: IntervalLike | None = None
    ) -> Columnstore:
        """Build one from plain values. Both orders are explicit, because the server's guesses vary."""
        if isinstance(segment_by, str) or isinstance(order_by, str):
            raise DeclarationError("segment_by and order_by take sequences of names, not one string")
        if not order_by:
            raise DeclarationError("a columnstore needs an explicit order_by")
        return cls(tuple(segment_by), tuple(order_by), None if after is None else Interval.parse(after))

    def columns(self) -> Iterator[str]:
        """Yield the names of the columns that it uses."""
        yield from self.segment_by
        for item in self.order_by:
            yield order_item(item)[0]

    def normal_order(self, time: str) -> tuple[str, ...]:
        """Return the order without defaults such as ASC, so that equivalent orders are equal.

        Args:
            time: Column by which the rows are divided; the server adds it at the end where neither order has it.
        """
        order = tuple(" ".join(filter(None, order_item(item))) for item in self.order_by)
        return order if not order or time in self.columns() else (*order, f"{time} DESC")


_DIRECTIONS: Final = {
    "": "",
    "ASC": "",
    "ASC NULLS LAST": "",
    "NULLS LAST": "",
    "ASC NULLS FIRST": "NULLS FIRST",
    "NULLS FIRST": "NULLS FIRST",
    "DESC": "DESC",
    "DESC NULLS FIRST": "DESC",
    "DESC NULLS LAST": "DESC NULLS LAST",
}


def order_item(item: str) -> tuple[str, str]:
    """Return column and normal direction of one item of an order, of a columnstore or an index.

    The column may be quoted.

    Raises:
        DeclarationError: The item has another part, such as a collation.
    """
    text = item.strip()
    quoted = re.match(r'"((?:[^"]|"")+)"', text)
    if quoted:
        name, rest = quoted[1].replace('""', '"'), text[quoted.end() :]
    else:
        name, _, rest = text.partition(" ")
    direction = _DIRECTIONS.get(" ".join(rest.upper().split()))
    if direction is None:
        raise DeclarationError(f"order {item!r}: write a column, ASC or DESC, and NULLS FIRST or LAST")
    return name, direction


@dataclass(frozen=True, slots=True)
class Hypertable:
    """A table that is divided into chunks by time.

    Attributes:
        table: The SQLAlchemy table.
        time: Name of its time column.
        chunk_interval: Length of a chunk.
        columnstore: How old chunks are compressed, or None.
        retention: Age at which chunks are dropped, or None to keep them for ever.
        reorder: Name of the index by which rows of older chunks are sorted on disk, or None.
    """

    table: sa.Table
    time: str
    chunk_interval: Interval
    columnstore: Columnstore | None = None
    retention: Interval | None = None
    reorder: str | None = None

    @property
    def name(self) -> str:
        """Name of the table."""
        return self.table.name

    @property
    def schema(self) -> str | None:
        """Database schema, None for the search path's first."""
        return self.table.schema


@dataclass(frozen=True, slots=True)
class RefreshPolicy:
    """A job that refreshes the window from `start` ago to `end` ago.

    Attributes:
        start: Age of the window's older end. Never open: a refresh that reaches ticks which retention has
            dropped deletes their bars.
        end: Age of the window's younger end; `"0 seconds"` is now, a negative age lies ahead. A real-time aggregate
            refuses a negative age: a materialized bucket that is not over would hide the rows that follow.
        every: Time between two runs.
    """

    start: Interval
    end: Interval
    every: Interval

    @classmethod
    def of(cls, *, start: IntervalLike, end: IntervalLike, every: IntervalLike) -> RefreshPolicy:
        """Build one from plain values."""
        return cls(Interval.offset(start), Interval.offset(end), Interval.parse(every))


@dataclass(frozen=True, slots=True)
class AggregateIndex:
    """An index on a continuous aggregate.

    Attributes:
        name: Its name, unique in the database: TimescaleDB keeps all of them in one schema.
        expressions: Columns with an optional direction, such as `("symbol", "bucket DESC")`; one may be quoted.
    """

    name: str
    expressions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContinuousAggregate:
    """A view that TimescaleDB materializes. If the edition has no aggregates, it is a plain view.

    Attributes:
        name: Its name.
        schema: Database schema, None for the search path's first.
        select: The definition; one of its columns is a `time_bucket`, and it reads one source.
        bucket: Length of a bucket.
        bucket_column: Name of the column that holds the bucket's start.
        source: The hypertable or the continuous aggregate that it reads.
        chunk_interval: Length of a chunk of the materialized rows.
        refresh: Refresh policies with windows that do not overlap.
        columnstore: How old chunks of the materialized rows are compressed, or None.
        retention: Age at which materialized rows are dropped, or None to keep them for ever.
        materialized_only: False: a query adds buckets that are not materialized yet.
        indexes: Indexes on the materialized rows; TimescaleDB's own default ones are not created.
        comment: Its purpose, for readers of the database.
        column_comments: The purpose of each column.
    """

    name: str
    schema: str | None
    select: sa.Select[Any]
    bucket: Interval
    bucket_column: str
    source: Hypertable | ContinuousAggregate
    chunk_interval: Interval
    refresh: tuple[RefreshPolicy, ...]
    columnstore: Columnstore | None
    retention: Interval | None
    materialized_only: bool
    indexes: tuple[AggregateIndex, ...]
    comment: str
    column_comments: Mapping[str, str]
    view: sa.TableClause = field(compare=False)

    @property
    def table(self) -> sa.Table:
        """The table that it reads, directly or through other aggregates."""
        return self.source.table

    @property
    def c(self) -> Any:
        """Columns, for queries and for aggregates on top of this one."""
        return self.view.c


@dataclass(frozen=True, slots=True)
class DroppedAggregate:
    """A continuous aggregate that must be dropped where it still exists.

    Attributes:
        name: Its name.
        schema: Database schema, None for the search path's first.
    """

    name: str
    schema: str | None


@dataclass(slots=True)
class Declarations:
    """Everything that one MetaData declares, in the order of declaration, which is a build order."""

    hypertables: dict[str, Hypertable] = field(default_factory=dict)
    continuous_aggregates: dict[str, ContinuousAggregate] = field(default_factory=dict)
    dropped_aggregates: dict[str, DroppedAggregate] = field(default_factory=dict)

    def update(self, other: Declarations) -> None:
        """Add the declarations of another MetaData."""
        self.hypertables |= other.hypertables
        self.continuous_aggregates |= other.continuous_aggregates
        self.dropped_aggregates |= other.dropped_aggregates


def declarations_of(metadata: sa.MetaData) -> Declarations:
    """Return the declarations of a MetaData. Empty ones if nothing was declared."""
    declared: Declarations = metadata.info.setdefault(_INFO_KEY, Declarations())
    return declared


def hypertable(
    table: sa.Table | sa.FromClause,
    *,
    time: str | None = None,
    chunk_interval: IntervalLike | None = None,
    columnstore: Columnstore | None = None,
    retention: IntervalLike | None = None,
    reorder: str | None = None,
) -> Hypertable:
    """Declare that a table is a hypertable.

    Args:
        table: The table, or a model's `__table__`.
        time: Name of the time column; may be left out where the table carries sqlalchemy-timescaledb's
            argument `timescaledb_hypertable={"time_column_name": ..., "chunk_time_interval": ...}`.
        chunk_interval: Length of a chunk; may be left out likewise.
        columnstore: How old chunks are compressed.
        retention: Age at which chunks are dropped.
        reorder: Name of the index by which rows of older chunks are sorted on disk.

    Raises:
        DeclarationError: The declaration contradicts the table or another one; the message names both values.
    """
    if not isinstance(table, sa.Table):
        raise DeclarationError(f"{table!r} is not a table")
    argument = _table_argument(table)
    time = time or argument.get("time_column_name")
    chunk = chunk_interval or argument.get("chunk_time_interval")
    if time is None or chunk is None:
        raise DeclarationError(f"hypertable {table.fullname}: name the time column and the chunk interval")
    declared = Hypertable(
        table,
        time,
        Interval.parse(chunk),
        columnstore,
        None if retention is None else Interval.parse(retention),
        reorder,
    )
    for key, value in (("time_column_name", declared.time), ("chunk_time_interval", declared.chunk_interval)):
        given = argument.get(key)
        same = (
            given in (None, value)
            if isinstance(value, str)
            else given is None or Interval.parse(given).same_length(value)
        )
        if not same:
            raise DeclarationError(
                f"hypertable {table.fullname}: timescaledb_hypertable says {key} {given!r}, "
                f"the declaration says {str(value)!r}"
            )
    _check_hypertable(declared)
    declarations_of(table.metadata).hypertables[table.key] = declared
    return declared


def continuous_aggregate(
    metadata: sa.MetaData,
    name: str,
    select: sa.Select[Any],
    *,
    chunk_interval: IntervalLike,
    refresh: Iterable[RefreshPolicy] = (),
    columnstore: Columnstore | None = None,
    retention: IntervalLike | None = None,
    materialized_only: bool = False,
    indexes: Iterable[AggregateIndex] = (),
    comment: str,
    column_comments: Mapping[str, str],
    schema: str | None = None,
) -> ContinuousAggregate:
    """Declare a continuous aggregate over a hypertable or over another continuous aggregate.

    Args:
        metadata: Where it belongs; its source must be declared there.
        name: Name of the view.
        select: `select(time_bucket("1 minute", table.c.time).label("bucket"), ...)` from one source, grouped
            by the bucket. Read a parent aggregate through its `c`.
        chunk_interval: Length of a chunk of the materialized rows.
        refresh: Refresh policies.
        columnstore: How old chunks of the materialized rows are compressed.
        retention: Age at which materialized rows are dropped.
        materialized_only: True leaves out buckets that are not materialized yet.
        indexes: Indexes on the materialized rows.
        comment: Its purpose.
        column_comments: The purpose of each column; every column needs one.
        schema: Database schema; the metadata's by default.

    Raises:
        DeclarationError: The declaration contradicts the table or another one; the message names both values.
    """
    declared = declarations_of(metadata)
    schema = schema if schema is not None else metadata.schema
    key = f"{schema}.{name}" if schema else name
    if key in declared.continuous_aggregates or key in metadata.tables or key in declared.dropped_aggregates:
        raise DeclarationError(f"continuous aggregate {key}: the name is taken")
    indexes = tuple(indexes)
    for taken in (name, *(index.name for index in indexes)):
        if len(taken.encode()) > _LONGEST_NAME:
            raise DeclarationError(
                f"continuous aggregate {key}: the name {taken} has {len(taken.encode())} bytes, the server keeps "
                f"{_LONGEST_NAME}"
            )
    bucket_column, bucket = _find_bucket(key, select)
    columns = [sa.column(column_name(column), column.type) for column in select.selected_columns]
    aggregate = ContinuousAggregate(
        name=name,
        schema=schema,
        select=select,
        bucket=bucket.width,
        bucket_column=bucket_column,
        source=_find_source(key, select, bucket, declared),
        chunk_interval=Interval.parse(chunk_interval),
        refresh=tuple(refresh),
        columnstore=columnstore,
        retention=None if retention is None else Interval.parse(retention),
        materialized_only=materialized_only,
        indexes=indexes,
        comment=comment,
        column_comments=dict(column_comments),
        view=sa.table(name, *columns, schema=schema),
    )
    _check_aggregate(key, aggregate)
    declared.continuous_aggregates[key] = aggregate
    return aggregate


def dropped_continuous_aggregate(metadata: sa.MetaData, name: str, *, schema: str | None = None) -> DroppedAggregate:
    """Declare that a continuous aggregate has been dropped. Write this in place of its declaration.

    Undeclared objects are left unchanged, so deleting a declaration drops nothing. Once every database is migrated,
    this declaration can be deleted, too.

    Args:
        metadata: The metadata in which it was declared.
        name: Name of the view.
        schema: Database schema; the metadata's by default.

    Raises:
        DeclarationError: The name is declared as an existing object.
    """
    declared = declarations_of(metadata)
    schema = schema if schema is not None else metadata.schema
    key = f"{schema}.{name}" if schema else name
    if key in declared.continuous_aggregates or key in metadata.tables:
        raise DeclarationError(f"dropped continuous aggregate {key}: it is declared, too")
    dropped = DroppedAggregate(name, schema)
    declared.dropped_aggregates[key] = dropped
    return dropped


def _table_argument(table: sa.Table) -> Mapping[str, Any]:
    # The spelling of sqlalchemy-timescaledb; {} if the table does not use it.
    argument: Mapping[str, Any] = table.dialect_options["timescaledb"]["hypertable"]
    unknown = set(argument) - {"time_column_name", "chunk_time_interval"}
    if unknown:
        raise DeclarationError(
            f"hypertable {table.fullname}: timescaledb_hypertable does not know {', '.join(sorted(unknown))}"
        )
    return argument


@event.listens_for(sa.Table, "after_parent_attach")
def _declare_from_argument(table: sa.Table, parent: sa.MetaData) -> None:
    """Declare and check a table that carries only sqlalchemy-timescaledb's argument."""
    if isinstance(parent, sa.MetaData) and any(key.startswith("timescaledb_") for key in table.kwargs):
        argument = _table_argument(table)
        if argument:
            # The library's own default for a chunk.
            hypertable(table, chunk_interval=argument.get("chunk_time_interval", "7 days"))


def column_name(column: sa.ColumnElement[Any]) -> str:
    """Return the server's name of a column of a SELECT or a table. Its key is the name in Python."""
    return str(getattr(column, "name", None) or column.key)


def _check_hypertable(declared: Hypertable) -> None:
    table, name = declared.table, f"hypertable {declared.table.fullname}"
    columns = {column.name: column for column in table.columns}
    if declared.time not in columns:
        raise DeclarationError(f"{name}: the time column {declared.time!r} does not exist")
    if columns[declared.time].nullable:
        raise DeclarationError(f"{name}: the time column {declared.time!r} must be NOT NULL")
    for key, what in _unique_keys(table):
        if declared.time not in key:
            raise DeclarationError(
                f"{name}: {what} on ({', '.join(key)}) lacks the time column {declared.time!r}; "
                "a unique key of a hypertable must contain it"
            )
    for constraint in table.foreign_key_constraints:
        target = constraint.elements[0].target_fullname.rpartition(".")[0]
        if target in declarations_of(table.metadata).hypertables:
            raise DeclarationError(f"{name}: a foreign key to {target} is impossible, that is a hypertable too")
    indexes = {index.name for index in table.indexes} | {constraint.name for constraint in table.constraints}
    if declared.reorder is not None and declared.reorder not in indexes:
        raise DeclarationError(f"{name}: the index {declared.reorder!r} to reorder by does not exist")
    if declared.columnstore is not None:
        _check_columnstore(name, declared.columnstore, set(columns), declared.retention)
    if declared.retention is not None and declared.retention.shortest < declared.chunk_interval.longest:
        raise DeclarationError(
            f"{name}: a retention of {declared.retention} is shorter than one chunk of {declared.chunk_interval}"
        )


def _unique_keys(table: sa.Table) -> Iterator[tuple[list[str], str]]:
    for constraint in table.constraints:
        if isinstance(constraint, sa.PrimaryKeyConstraint | sa.UniqueConstraint) and constraint.columns:
            kind = "the primary key" if isinstance(constraint, sa.PrimaryKeyConstraint) else "a unique key"
            yield [column.name for column in constraint.columns], kind
    for index in table.indexes:
        if index.unique:
            yield [column.name for column in index.columns], f"the unique index {index.name}"


def _check_columnstore(name: str, columnstore: Columnstore, columns: set[str], retention: Interval | None) -> None:
    used = list(columnstore.columns())
    for column in used:
        if column not in columns:
            raise DeclarationError(f"{name}: the columnstore names {column!r}, which is not a column")
        if used.count(column) > 1:
            raise DeclarationError(f"{name}: the columnstore names {column!r} twice")
    if retention and columnstore.after and columnstore.after.longest >= retention.shortest:
        raise DeclarationError(
            f"{name}: converting chunks after {columnstore.after} and dropping them after {retention} is work "
            "for nothing"
        )


def _find_bucket(name: str, select: sa.Select[Any]) -> tuple[str, time_bucket]:
    found = []
    for column in select.selected_columns:
        inner = column.element if isinstance(column, sa.Label) else column
        if isinstance(inner, time_bucket):
            found.append((column_name(column), inner))
    if len(found) != 1:
        raise DeclarationError(f"continuous aggregate {name}: one column must be a time_bucket(...), {len(found)} are")
    return found[0]


def _find_source(
    name: str, select: sa.Select[Any], bucket: time_bucket, declared: Declarations
) -> Hypertable | ContinuousAggregate:
    sources = select.get_final_froms()
    if len(sources) != 1:
        raise DeclarationError(f"continuous aggregate {name}: it must read one source, it reads {len(sources)}")
    source = sources[0]
    time_columns = {c.name for c in visitors.iterate(bucket.clauses) if isinstance(c, sa.ColumnClause)}
    if isinstance(source, sa.Table):
        parent = declared.hypertables.get(source.key)
        if parent is None:
            raise DeclarationError(
                f"continuous aggregate {name}: its source {source.fullname} is not declared as a hypertable"
            )
        if parent.time not in time_columns:
            raise DeclarationError(
                f"continuous aggregate {name}: time_bucket must take {source.fullname}'s time column {parent.time!r}"
            )
        return parent
    for candidate in declared.continuous_aggregates.values():
        if candidate.view is source:
            if candidate.bucket_column not in time_columns:
                raise DeclarationError(
                    f"continuous aggregate {name}: time_bucket must take {candidate.name}'s bucket "
                    f"{candidate.bucket_column!r}"
                )
            return candidate
    raise DeclarationError(f"continuous aggregate {name}: its source {source} is not declared")


def _check_aggregate(key: str, declared: ContinuousAggregate) -> None:
    name = f"continuous aggregate {key}"
    columns = {column.name for column in declared.view.columns}
    if declared.column_comments.keys() != columns:
        wrong = sorted(declared.column_comments.keys() ^ columns)
        raise DeclarationError(f"{name}: every column needs one comment; look at {', '.join(wrong)}")
    for index in declared.indexes:
        for expression in index.expressions:
            if order_item(expression)[0] not in columns:
                raise DeclarationError(f"{name}: index {index.name} names {expression!r}, which is not a column")
    if declared.columnstore is not None:
        _check_columnstore(name, declared.columnstore, columns, declared.retention)
    source = declared.source
    if isinstance(source, ContinuousAggregate) and (
        not declared.bucket.is_multiple_of(source.bucket) or declared.bucket.same_length(source.bucket)
    ):
        raise DeclarationError(
            f"{name}: its bucket of {declared.bucket} is not a multiple of {source.name}'s bucket of {source.bucket}"
        )
    for policy in declared.refresh:
        _check_refresh(name, policy, declared)
    windows = sorted((policy.end.longest, policy.start.longest, policy) for policy in declared.refresh)
    for (_, older_end, first), (younger_end, _, second) in itertools.pairwise(windows):
        if younger_end < older_end:
            raise DeclarationError(
                f"{name}: the refresh window from {first.start} to {first.end} ago overlaps the one from "
                f"{second.start} to {second.end} ago"
            )


def _check_refresh(name: str, policy: RefreshPolicy, declared: ContinuousAggregate) -> None:
    window = policy.start.shortest - policy.end.longest
    if window < 2 * declared.bucket.longest:
        raise DeclarationError(
            f"{name}: the refresh window from {policy.start} to {policy.end} ago is shorter than two buckets "
            f"of {declared.bucket}"
        )
    if policy.end.shortest < 0 and not declared.materialized_only:
        raise DeclarationError(
            f"{name}: the refresh window from {policy.start} to {policy.end} ago ends ahead of the clock; a "
            "materialized bucket that is not over hides the rows that follow in it"
        )
    source = declared.source
    # A refresh over rows that retention has dropped deletes their buckets without an error. Chunks are dropped
    # whole, so the margin is the length of one chunk.
    if source.retention is not None and (
        policy.start.longest + source.chunk_interval.longest > source.retention.shortest
    ):
        raise DeclarationError(
            f"{name}: a refresh from {policy.start} ago plus a chunk of {source.chunk_interval} reaches beyond "
            f"the retention of {source.retention} of {source.name}, and would delete buckets whose rows are gone"
        )
    if declared.retention is not None and policy.start.longest > declared.retention.shortest:
        raise DeclarationError(
            f"{name}: a refresh from {policy.start} ago would build again what its own retention of "
            f"{declared.retention} has dropped"
        )
