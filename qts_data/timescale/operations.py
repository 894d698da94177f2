"""TimescaleDB operations for Alembic migrations.

Importing this module gives `op` the operations below, in every migration of the process. Each one does what
the server's edition has and says what it leaves out: a line in Alembic's log, and a comment in offline SQL.
Offline (`alembic upgrade --sql`) the edition comes from `context.configure(timescale_edition=...)`.

The interval arguments are texts such as `"7 days"`; a table's schema is the keyword `schema`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from alembic.operations import MigrateOperation, Operations
from alembic.util import CommandError

from qts_data.timescale import ddl
from qts_data.timescale.declarations import AggregateIndex, Columnstore, RefreshPolicy
from qts_data.timescale.edition import Edition, Feature, create_extension, offline_server, probe
from qts_data.timescale.intervals import Interval, IntervalLike

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qts_data.timescale.edition import Server

__all__ = [
    "AddColumnstorePolicyOp",
    "AddRefreshPolicyOp",
    "AddRetentionPolicyOp",
    "CreateContinuousAggregateOp",
    "CreateExtensionOp",
    "CreateHypertableOp",
    "DisableColumnstoreOp",
    "DropContinuousAggregateOp",
    "EnableColumnstoreOp",
    "RemoveColumnstorePolicyOp",
    "RemoveRefreshPolicyOp",
    "RemoveRetentionPolicyOp",
    "TimescaleOp",
    "migration_server",
]

_log = logging.getLogger("alembic.runtime.migration")


def migration_server(operations: Operations) -> Server:
    """The server that the running migration works on.

    Raises:
        CommandError: Offline, and nobody said which edition the script is for.
    """
    context = operations.get_context()
    if not context.as_sql:
        return probe(operations.get_bind())
    edition = context.opts.get("timescale_edition")
    if edition is None:
        raise CommandError(
            f"offline SQL needs an edition: pass -x edition={'|'.join(edition.value for edition in Edition)}"
        )
    return offline_server(Edition(edition))


class TimescaleOp(MigrateOperation):
    """Base of the operations: what they need, what they send, what they say where it is missing."""

    feature: Feature | None = None

    def __init__(self, name: str, *, schema: str | None = None) -> None:
        self.name = name
        self.schema = schema

    def statements(self, edition: Edition, /) -> Iterable[str]:
        """SQL for this edition, in order; nothing for an operation with a `run` of its own."""
        del edition
        return ()

    def summary(self) -> str:
        """What is left out on an edition without the feature."""
        return f"{self.feature} of {ddl.qualified(self.name, self.schema)}"

    def run(self, operations: Operations) -> None:
        """Send the statements, or say why not."""
        server = migration_server(operations)
        if self.feature is not None and not server.edition.has(self.feature):
            _say(operations, f"{self.summary()}: not on the {server.edition} edition, left out")
            return
        for statement in self.statements(server.edition):
            operations.execute(ddl.verbatim(statement))

    @classmethod
    def invoke(cls, operations: Operations, *args: Any, **kw: Any) -> None:
        """Called through `op`."""
        operations.invoke(cls(*args, **kw))


def _say(operations: Operations, message: str) -> None:
    context = operations.get_context()
    if context.as_sql and context.impl.output_buffer is not None:
        context.impl.static_output(f"-- {message}")
    _log.info(message)


@Operations.register_operation("create_timescaledb_extension", "invoke")
class CreateExtensionOp(TimescaleOp):
    """Install the extension where the server offers it; plain PostgreSQL stays plain.

    There is no reverse: the extension may serve other schemas of the database.
    """

    def __init__(self) -> None:
        super().__init__("timescaledb")

    def run(self, operations: Operations) -> None:
        """Create the extension, unless the migration runs with `timescaledb_off`."""
        context = operations.get_context()
        if context.as_sql:
            if migration_server(operations).edition is not Edition.POSTGRESQL:
                operations.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            return
        if context.opts.get("timescaledb_off"):
            server = probe(operations.get_bind())
        else:
            server = create_extension(operations.get_bind())
        _log.info(
            "Server: %s edition, PostgreSQL %s, TimescaleDB %s",
            server.edition,
            server.postgres,
            server.timescaledb_text,
        )


@Operations.register_operation("create_hypertable", "invoke")
class CreateHypertableOp(TimescaleOp):
    """`op.create_hypertable("tick_data", time="time", chunk_interval="1 day")`.

    The table must be empty unless `migrate_data` is set. Drop the table to undo it.
    """

    feature = Feature.HYPERTABLES

    def __init__(
        self,
        name: str,
        *,
        time: str,
        chunk_interval: IntervalLike,
        migrate_data: bool = False,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.time = time
        self.chunk_interval = Interval.parse(chunk_interval)
        self.migrate_data = migrate_data

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.create_hypertable(
            self.name,
            time=self.time,
            chunk_interval=self.chunk_interval,
            schema=self.schema,
            migrate_data=self.migrate_data,
        )


@Operations.register_operation("enable_columnstore", "invoke")
class EnableColumnstoreOp(TimescaleOp):
    """`op.enable_columnstore("tick_data", segment_by=["symbol"], order_by=["time DESC", "source", "seq"])`."""

    feature = Feature.COLUMNSTORE

    def __init__(
        self, name: str, *, segment_by: Sequence[str], order_by: Sequence[str], schema: str | None = None
    ) -> None:
        super().__init__(name, schema=schema)
        self.columnstore = Columnstore.of(segment_by=segment_by, order_by=order_by)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One ALTER TABLE."""
        yield ddl.enable_columnstore(self.name, self.columnstore, schema=self.schema)

    def reverse(self) -> DisableColumnstoreOp:
        """Back to rows, remembering the orders."""
        return DisableColumnstoreOp(self.name, schema=self.schema, was=self.columnstore)


@Operations.register_operation("disable_columnstore", "invoke")
class DisableColumnstoreOp(TimescaleOp):
    """`op.disable_columnstore("tick_data")`: converts every chunk back to rows first."""

    feature = Feature.COLUMNSTORE

    def __init__(self, name: str, *, schema: str | None = None, was: Columnstore | None = None) -> None:
        super().__init__(name, schema=schema)
        self.was = was

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Convert, then switch off."""
        return ddl.disable_columnstore(self.name, schema=self.schema)

    def reverse(self) -> EnableColumnstoreOp:
        """Only where it is known how it was."""
        if self.was is None:
            raise ValueError(f"disable_columnstore({self.name!r}): not known how it was, cannot be reversed")
        return EnableColumnstoreOp(
            self.name, segment_by=self.was.segment_by, order_by=self.was.order_by, schema=self.schema
        )


class _AgePolicyOp(TimescaleOp):
    """A policy with one age."""

    feature = Feature.POLICIES

    def __init__(self, name: str, age: IntervalLike, *, schema: str | None = None) -> None:
        super().__init__(name, schema=schema)
        self.age = Interval.parse(age)


@Operations.register_operation("add_columnstore_policy", "invoke")
class AddColumnstorePolicyOp(_AgePolicyOp):
    """`op.add_columnstore_policy("tick_data", after="1 day")`."""

    def __init__(self, name: str, after: IntervalLike, *, schema: str | None = None) -> None:
        super().__init__(name, after, schema=schema)

    def summary(self) -> str:
        """What is left out."""
        return f"columnstore policy of {ddl.qualified(self.name, self.schema)} after {self.age}"

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.add_columnstore_policy(self.name, self.age, schema=self.schema)

    def reverse(self) -> RemoveColumnstorePolicyOp:
        """Remove it."""
        return RemoveColumnstorePolicyOp(self.name, schema=self.schema, was=self.age)


@Operations.register_operation("add_retention_policy", "invoke")
class AddRetentionPolicyOp(_AgePolicyOp):
    """`op.add_retention_policy("tick_data", drop_after="7 days")`."""

    def __init__(self, name: str, drop_after: IntervalLike, *, schema: str | None = None) -> None:
        super().__init__(name, drop_after, schema=schema)

    def summary(self) -> str:
        """What is left out."""
        return f"retention policy of {ddl.qualified(self.name, self.schema)} after {self.age}"

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.add_retention_policy(self.name, self.age, schema=self.schema)

    def reverse(self) -> RemoveRetentionPolicyOp:
        """Remove it."""
        return RemoveRetentionPolicyOp(self.name, schema=self.schema, was=self.age)


class _RemoveAgePolicyOp(TimescaleOp):
    feature = Feature.POLICIES

    def __init__(self, name: str, *, schema: str | None = None, was: IntervalLike | None = None) -> None:
        super().__init__(name, schema=schema)
        self.was = None if was is None else Interval.parse(was)

    def _old_age(self) -> Interval:
        if self.was is None:
            raise ValueError(f"removing a policy of {self.name!r}: not known how it was, cannot be reversed")
        return self.was


@Operations.register_operation("remove_columnstore_policy", "invoke")
class RemoveColumnstorePolicyOp(_RemoveAgePolicyOp):
    """`op.remove_columnstore_policy("tick_data")`."""

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.remove_columnstore_policy(self.name, schema=self.schema)

    def reverse(self) -> AddColumnstorePolicyOp:
        """Add it again."""
        return AddColumnstorePolicyOp(self.name, self._old_age(), schema=self.schema)


@Operations.register_operation("remove_retention_policy", "invoke")
class RemoveRetentionPolicyOp(_RemoveAgePolicyOp):
    """`op.remove_retention_policy("tick_data")`."""

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.remove_retention_policy(self.name, schema=self.schema)

    def reverse(self) -> AddRetentionPolicyOp:
        """Add it again."""
        return AddRetentionPolicyOp(self.name, self._old_age(), schema=self.schema)


class _RefreshPolicyOp(TimescaleOp):
    feature = Feature.POLICIES

    def __init__(
        self,
        name: str,
        *,
        start: IntervalLike,
        end: IntervalLike,
        every: IntervalLike,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.policy = RefreshPolicy.of(start=start, end=end, every=every)

    def summary(self) -> str:
        """What is left out."""
        return f"refresh policy of {ddl.qualified(self.name, self.schema)} every {self.policy.every}"

    def _arguments(self) -> dict[str, Any]:
        policy = self.policy
        return {"start": policy.start, "end": policy.end, "every": policy.every, "schema": self.schema}


@Operations.register_operation("add_refresh_policy", "invoke")
class AddRefreshPolicyOp(_RefreshPolicyOp):
    """`op.add_refresh_policy("ohlcv_1m", start="6 days", end="1 hour", every="1 hour")`."""

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.add_refresh_policy(self.name, self.policy, schema=self.schema)

    def reverse(self) -> RemoveRefreshPolicyOp:
        """Remove it."""
        return RemoveRefreshPolicyOp(self.name, **self._arguments())


@Operations.register_operation("remove_refresh_policy", "invoke")
class RemoveRefreshPolicyOp(_RefreshPolicyOp):
    """`op.remove_refresh_policy("ohlcv_1m", start="6 days", end="1 hour", every="1 hour")`.

    The window says which one, for an aggregate can have several.
    """

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.remove_refresh_policy(self.name, self.policy, schema=self.schema)

    def reverse(self) -> AddRefreshPolicyOp:
        """Add it again."""
        return AddRefreshPolicyOp(self.name, **self._arguments())


@Operations.register_operation("create_continuous_aggregate", "invoke")
class CreateContinuousAggregateOp(TimescaleOp):
    """A continuous aggregate, or a plain view with the same columns where the edition has none.

    `select` is the definition; `fallback_select` replaces it on plain PostgreSQL, which has no `time_bucket`.
    """

    def __init__(
        self,
        name: str,
        *,
        select: str,
        fallback_select: str | None = None,
        chunk_interval: IntervalLike,
        materialized_only: bool = False,
        indexes: Mapping[str, Sequence[str]] | None = None,
        comment: str,
        column_comments: Mapping[str, str],
        schema: str | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.select = select
        self.fallback_select = fallback_select
        self.chunk_interval = Interval.parse(chunk_interval)
        self.materialized_only = materialized_only
        self.indexes = tuple(AggregateIndex(key, tuple(value)) for key, value in (indexes or {}).items())
        self.comment = comment
        self.column_comments = dict(column_comments)

    def run(self, operations: Operations) -> None:
        """As the base, and say when it is only a view."""
        edition = migration_server(operations).edition
        if not edition.has(Feature.CONTINUOUS_AGGREGATES):
            name = ddl.qualified(self.name, self.schema)
            _say(operations, f"continuous aggregate {name}: a plain view on the {edition} edition")
        super().run(operations)

    def statements(self, edition: Edition, /) -> Iterable[str]:
        """The view, its indexes, its comments."""
        plain = edition is Edition.POSTGRESQL
        yield from ddl.create_continuous_aggregate(
            self.name,
            select=self.fallback_select if plain and self.fallback_select else self.select,
            edition=edition,
            chunk_interval=self.chunk_interval,
            materialized_only=self.materialized_only,
            indexes=self.indexes,
            schema=self.schema,
        )
        yield from ddl.comment_on_view(
            self.name, comment=self.comment, columns=self.column_comments, schema=self.schema
        )

    def reverse(self) -> DropContinuousAggregateOp:
        """Drop it, remembering it."""
        return DropContinuousAggregateOp(self.name, schema=self.schema, was=self)


@Operations.register_operation("drop_continuous_aggregate", "invoke")
class DropContinuousAggregateOp(TimescaleOp):
    """`op.drop_continuous_aggregate("ohlcv_1m")`: its policies, indexes and materialized rows go with it."""

    def __init__(self, name: str, *, schema: str | None = None, was: CreateContinuousAggregateOp | None = None) -> None:
        super().__init__(name, schema=schema)
        self.was = was

    def run(self, operations: Operations) -> None:
        """Drop what is there; offline, what the edition has."""
        if operations.get_context().as_sql:
            continuous = migration_server(operations).edition.has(Feature.CONTINUOUS_AGGREGATES)
        else:
            continuous = ddl.is_continuous_aggregate(operations.get_bind(), self.name, schema=self.schema)
        operations.execute(ddl.verbatim(ddl.drop_view(self.name, continuous=continuous, schema=self.schema)))

    def reverse(self) -> CreateContinuousAggregateOp:
        """Only where it is known how it was."""
        if self.was is None:
            raise ValueError(f"drop_continuous_aggregate({self.name!r}): not known how it was, cannot be reversed")
        return self.was


@Operations.implementation_for(TimescaleOp)
def _run(operations: Operations, operation: TimescaleOp) -> None:
    operation.run(operations)
