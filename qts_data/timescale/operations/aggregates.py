"""Operations on continuous aggregates. On an edition without them, they work on the plain views in their place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from alembic.util import CommandError

from qts_data.timescale import catalog, ddl
from qts_data.timescale.declarations import AggregateIndex
from qts_data.timescale.edition import Edition, Feature
from qts_data.timescale.intervals import Interval, IntervalLike
from qts_data.timescale.operations.base import (
    DroppedView,
    Group,
    Safety,
    TimescaleOp,
    known,
    may_lose_data,
    memory_of,
    migration_server,
    on_op,
    say,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from alembic.operations import MigrateOperation, Operations
    from sqlalchemy.engine import Connection

__all__ = [
    "AlterContinuousAggregateOp",
    "AppendAggregateColumnsOp",
    "CommentOnAggregateOp",
    "CreateContinuousAggregateOp",
    "DropContinuousAggregateOp",
]


_WHERE_IT_RUNS = {
    False: "as TimescaleDB wrote the definition down, which does not run on plain PostgreSQL",
    True: "as plain PostgreSQL wrote the definition down, which makes no continuous aggregate on TimescaleDB",
}

_TIME_BUCKET: Final = re.compile(r"\btime_bucket\(")


def _key(connection: Connection, name: str, schema: str | None) -> tuple[str | None, str]:
    return schema or connection.dialect.default_schema_name, name


@on_op
class CreateContinuousAggregateOp(TimescaleOp):
    """A continuous aggregate, or a plain view with the same columns if the edition has no aggregates.

    `select` is the definition; `fallback_select` replaces it on plain PostgreSQL, which has no `time_bucket`.
    `grants` are privileges by role, such as `"SELECT"`, `"SELECT (minute)"` or `"SELECT WITH GRANT OPTION"`. They are
    granted if the role exists. If the same run has dropped the aggregate, it gets the privileges that it had in this
    database, and of `grants` only those on new columns. Offline mode cannot check this.
    `group_indexes=True` lets the server make its own indexes for the grouping columns.
    """

    function = "create_continuous_aggregate"

    def __init__(
        self,
        name: str,
        *,
        select: str,
        fallback_select: str | None = None,
        chunk_interval: IntervalLike,
        materialized_only: bool = False,
        indexes: Mapping[str, Sequence[str]] | None = None,
        group_indexes: bool = False,
        comment: str,
        column_comments: Mapping[str, str],
        grants: Mapping[str, Sequence[str]] | None = None,
        schema: str | None = None,
        found_on: Edition | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        if found_on is not None:
            self.reason: str = _WHERE_IT_RUNS[found_on is Edition.POSTGRESQL]
        self.select = select
        self.fallback_select = fallback_select
        self.chunk_interval: Interval = Interval.parse(chunk_interval)
        self.materialized_only = materialized_only
        self.indexes: tuple[AggregateIndex, ...] = tuple(
            AggregateIndex(key, tuple(value)) for key, value in (indexes or {}).items()
        )
        self.group_indexes = group_indexes
        self.comment = comment
        self.column_comments: dict[str, str] = dict(column_comments)
        self.grants: dict[str, list[str]] = {role: list(privileges) for role, privileges in (grants or {}).items()}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        given: dict[str, Any] = {"select": self.select}
        if self.fallback_select is not None:
            given["fallback_select"] = self.fallback_select
        given["chunk_interval"] = self.chunk_interval.text
        if self.materialized_only:
            given["materialized_only"] = True
        if self.indexes:
            given["indexes"] = {index.name: list(index.expressions) for index in self.indexes}
        if self.group_indexes:
            given["group_indexes"] = True
        given["comment"] = self.comment
        given["column_comments"] = self.column_comments
        if self.grants:
            given["grants"] = self.grants
        return given

    def run(self, operations: Operations) -> None:
        """Create the aggregate, report if it is only a view, and restore the privileges of a dropped predecessor."""
        edition = migration_server(operations).edition
        name = ddl.qualified(self.name, self.schema)
        if edition is Edition.POSTGRESQL and not self.fallback_select and _TIME_BUCKET.search(self.select):
            raise CommandError(
                f"{name} cannot be made on plain PostgreSQL, which has no time_bucket: write a fallback_select with "
                "date_bin or date_trunc in the migration"
            )
        if not edition.has(Feature.CONTINUOUS_AGGREGATES):
            say(operations, f"continuous aggregate {name}: a plain view on the {edition} edition")
        super().run(operations)
        if not operations.get_context().as_sql:
            connection = operations.get_bind()
            before = memory_of(operations).dropped.pop(_key(connection, self.name, self.schema), None)
            if before is not None:
                self._give_back(operations, before)

    def _give_back(self, operations: Operations, before: DroppedView) -> None:
        """Grant exactly the privileges of the dropped aggregate, independent of default privileges."""
        connection = operations.get_bind()
        columns = catalog.view_columns(connection, self.name, schema=self.schema)
        wanted = {
            (grant.role, grant.privilege) for grant in before.grants if grant.column is None or grant.column in columns
        }
        new = tuple(f" ({ddl.qualified(column)})" for column in columns - before.columns)
        wanted |= {
            (role, privilege)
            for role, privileges in self.grants.items()
            for privilege in privileges
            if privilege.removesuffix(ddl.WITH_GRANT_OPTION).endswith(new)
        }
        given = {
            (grant.role, grant.privilege) for grant in catalog.live_grants(connection, self.name, schema=self.schema)
        }
        for role, privilege in sorted(given - wanted):
            operations.execute(ddl.verbatim(ddl.revoke_on_view(self.name, role, privilege, schema=self.schema)))
        # Grant all of them, because revoking a privilege on the view revokes those on its columns, too.
        for role, privilege in sorted(wanted if given != wanted else ()):
            for statement in ddl.grant_on_view(self.name, role, [privilege], schema=self.schema):
                operations.execute(ddl.verbatim(statement))

    def statements(self, edition: Edition, /) -> Iterable[str]:
        """Yield the statements for the view, its indexes, its comments and its grants."""
        plain = edition is Edition.POSTGRESQL
        yield from ddl.create_continuous_aggregate(
            self.name,
            select=self.fallback_select if plain and self.fallback_select else self.select,
            edition=edition,
            chunk_interval=self.chunk_interval,
            materialized_only=self.materialized_only,
            indexes=self.indexes,
            group_indexes=self.group_indexes,
            schema=self.schema,
        )
        yield from ddl.comment_on_view(
            self.name, comment=self.comment, columns=self.column_comments, schema=self.schema
        )
        for role, privileges in self.grants.items():
            yield from ddl.grant_on_view(self.name, role, privileges, schema=self.schema)

    def reverse(self) -> DropContinuousAggregateOp:
        """Drop it, and remember it."""
        return DropContinuousAggregateOp(self.name, schema=self.schema, was=[self])


@on_op
class AlterContinuousAggregateOp(TimescaleOp):
    """A change of an aggregate in place: real-time or not, the length of its chunks, its indexes.

    `op.alter_continuous_aggregate("ohlcv_1m", materialized_only=True, existing_materialized_only=False)`; indexes
    are given as in `create_continuous_aggregate`. Those to drop need their expressions for the downgrade.
    """

    function = "alter_continuous_aggregate"
    feature: Feature = Feature.CONTINUOUS_AGGREGATES

    def __init__(
        self,
        name: str,
        *,
        materialized_only: bool | None = None,
        existing_materialized_only: bool | None = None,
        chunk_interval: IntervalLike | None = None,
        existing_chunk_interval: IntervalLike | None = None,
        add_indexes: Mapping[str, Sequence[str]] | None = None,
        drop_indexes: Mapping[str, Sequence[str]] | None = None,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.materialized_only = materialized_only
        self.existing_materialized_only = existing_materialized_only
        self.chunk_interval: Interval | None = None if chunk_interval is None else Interval.parse(chunk_interval)
        self.existing_chunk_interval: Interval | None = (
            None if existing_chunk_interval is None else Interval.parse(existing_chunk_interval)
        )
        self.add_indexes: dict[str, list[str]] = {key: list(value) for key, value in (add_indexes or {}).items()}
        self.drop_indexes: dict[str, list[str]] = {key: list(value) for key, value in (drop_indexes or {}).items()}
        if self.chunk_interval is not None:
            self.safety = Safety.FUTURE_CHUNKS_ONLY
            self.reason = "chunks that are there keep their length"

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        given: dict[str, Any] = {
            "materialized_only": self.materialized_only,
            "existing_materialized_only": self.existing_materialized_only,
            **texts(chunk_interval=self.chunk_interval, existing_chunk_interval=self.existing_chunk_interval),
            "add_indexes": self.add_indexes or None,
            "drop_indexes": self.drop_indexes or None,
        }
        return {key: value for key, value in given.items() if value is not None}

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Return one statement for each change."""
        return ddl.alter_continuous_aggregate(
            self.name,
            materialized_only=self.materialized_only,
            chunk_interval=self.chunk_interval,
            add_indexes=[AggregateIndex(key, tuple(value)) for key, value in self.add_indexes.items()],
            drop_indexes=[AggregateIndex(key, tuple(value)) for key, value in self.drop_indexes.items()],
            schema=self.schema,
        )

    def reverse(self) -> AlterContinuousAggregateOp:
        """Return the opposite change."""
        return AlterContinuousAggregateOp(
            self.name,
            materialized_only=self.existing_materialized_only,
            existing_materialized_only=self.materialized_only,
            chunk_interval=self.existing_chunk_interval,
            existing_chunk_interval=self.chunk_interval,
            add_indexes=self.drop_indexes,
            drop_indexes=self.add_indexes,
            schema=self.schema,
        )


@on_op
class CommentOnAggregateOp(TimescaleOp):
    """`op.comment_on_aggregate("ohlcv_1m", comment="Bars", columns={"open": "First price"}, existing_...)`.

    The comment is on the view itself, so it works on a plain view, too. An empty text removes the comment.
    """

    function = "comment_on_aggregate"

    def __init__(
        self,
        name: str,
        *,
        comment: str | None = None,
        columns: Mapping[str, str] | None = None,
        existing_comment: str | None = None,
        existing_columns: Mapping[str, str] | None = None,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.comment: str | None = comment
        self.existing_comment: str | None = existing_comment
        self.columns: dict[str, str] = dict(columns or {})
        self.existing_columns: dict[str, str] = dict(existing_columns or {})

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        given: dict[str, Any] = {
            "comment": self.comment,
            "columns": self.columns or None,
            "existing_comment": self.existing_comment,
            "existing_columns": self.existing_columns or None,
        }
        return {key: value for key, value in given.items() if value is not None}

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Return one statement for each text."""
        return ddl.comment_on_view(self.name, comment=self.comment, columns=self.columns, schema=self.schema)

    def reverse(self) -> CommentOnAggregateOp:
        """Return the opposite change."""
        return CommentOnAggregateOp(
            self.name,
            comment=self.existing_comment,
            columns=self.existing_columns,
            existing_comment=self.comment,
            existing_columns=self.columns,
            schema=self.schema,
        )


@on_op
class AppendAggregateColumnsOp(TimescaleOp):
    """More aggregates at the end, in place: `op.append_aggregate_columns("per_minute", columns={"mean": [...]})`.

    Each column is a type and an expression. Rows that are materialized already hold NULL in it until they are
    refreshed; none of them is lost. It needs TimescaleDB 2.28 or newer. The server cannot remove a column, so the
    downgrade rebuilds the aggregate.
    """

    function = "append_aggregate_columns"
    feature: Feature = Feature.CONTINUOUS_AGGREGATES
    reason = "rows that are materialized already hold NULL in the new columns until they are refreshed by force"

    def __init__(
        self,
        name: str,
        *,
        columns: Mapping[str, Sequence[str]],
        comments: Mapping[str, str] | None = None,
        schema: str | None = None,
        undo: Sequence[MigrateOperation] = (),
    ) -> None:
        super().__init__(name, schema=schema)
        self.columns: dict[str, list[str]] = {key: list(value) for key, value in columns.items()}
        self.comments: dict[str, str] = dict(comments or {})
        self.undo: list[MigrateOperation] = list(undo)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return {"columns": self.columns} | ({"comments": self.comments} if self.comments else {})

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield one ALTER for each column, and its comment."""
        for column, (kind, expression) in self.columns.items():
            yield ddl.append_aggregate_column(self.name, column, kind, expression, schema=self.schema)
        yield from ddl.comment_on_columns(self.name, self.comments, schema=self.schema)

    def reverse(self) -> Group:
        """Drop the aggregate with all aggregates on it, and build them as they were."""
        return Group(known(self.undo or None, self))


@on_op
class DropContinuousAggregateOp(TimescaleOp):
    """`op.drop_continuous_aggregate("ohlcv_1m")`: removes its policies, indexes and materialized rows, too.

    It raises if the aggregate has buckets whose rows its source no longer has, or if a view reads it. With
    `allow_data_loss=True` on this operation only, it also raises if an aggregate that read it had such buckets and was
    dropped before without that argument.
    """

    function = "drop_continuous_aggregate"
    safety = Safety.REBUILD

    def __init__(
        self,
        name: str,
        *,
        allow_data_loss: bool = False,
        schema: str | None = None,
        was: Sequence[MigrateOperation] | None = None,
        for_good: bool = False,
        readers: Sequence[str] = (),
    ) -> None:
        super().__init__(name, schema=schema)
        self.allow_data_loss = allow_data_loss
        self.was = was
        rows = "its rows go with it" if for_good else "its rows are computed again from its source"
        self.reason = f"{rows}; it raises here where the source no longer has them"
        if readers:
            self.reason += f"\n{', '.join(readers)} must be dropped before and made again after: it raises until then"

    def run(self, operations: Operations) -> None:
        """Drop the existing object. Offline, the kind of object that the edition has."""
        if operations.get_context().as_sql:
            continuous = migration_server(operations).edition.has(Feature.CONTINUOUS_AGGREGATES)
        else:
            connection = operations.get_bind()
            continuous = catalog.is_continuous_aggregate(connection, self.name, schema=self.schema)
            readers = catalog.views_on(connection, self.name, schema=self.schema)
            if readers:
                names = ", ".join(ddl.qualified(view, schema) for schema, view in readers)
                raise CommandError(
                    f"{ddl.qualified(self.name, self.schema)} cannot be dropped, for {names} reads it: in the "
                    'migration, drop that before (op.execute("DROP VIEW ...")) and create it again, with its grants '
                    "and comments, after the last step"
                )
            if continuous and not may_lose_data(operations, allowed=False):
                self._refuse_to_lose_history(operations)
            key = _key(connection, self.name, self.schema)
            memory_of(operations).dropped[key] = DroppedView(
                frozenset(catalog.view_columns(connection, self.name, schema=self.schema)),
                tuple(catalog.live_grants(connection, self.name, schema=self.schema)),
            )
        operations.execute(ddl.verbatim(ddl.drop_view(self.name, continuous=continuous, schema=self.schema)))

    def _refuse_to_lose_history(self, operations: Operations) -> None:
        connection, name = operations.get_bind(), ddl.qualified(self.name, self.schema)
        memory = memory_of(operations).stood_on
        stood_on_it = memory.pop(_key(connection, self.name, self.schema), {})
        if not self.allow_data_loss:
            # Its parent may be dropped next. The check of the parent then also covers the aggregates that read it.
            first = catalog.first_bucket(connection, self.name, schema=self.schema)
            for parent in catalog.parents_of(connection, self.name, schema=self.schema) if first is not None else ():
                memory.setdefault(parent, {})[name] = first
        elif not stood_on_it:
            return
        lost = catalog.history_beyond_source(connection, self.name, schema=self.schema)
        if lost is None:
            return
        meant = "pass allow_data_loss=True in the migration, or run it with -x allow_data_loss=yes, if that is meant"
        if not self.allow_data_loss:
            raise CommandError(
                f"{name} holds history from {lost[0]} to {lost[1]} that its source cannot give again: to drop it loses "
                f"those buckets; {meant}"
            )
        losers = sorted(child for child, first in stood_on_it.items() if first <= lost[1])
        if losers:
            raise CommandError(
                f"{', '.join(losers)} held history that only {name} could give again, and not after this step, for its "
                f"own source has no rows from {lost[0]} to {lost[1]}; for the drop of {', '.join(losers)}, too, {meant}"
            )

    def reverse(self) -> Group:
        """Create it again with everything that it had, if that is known."""
        return Group(known(self.was, self))
