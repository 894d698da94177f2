"""TimescaleDB operations for Alembic migrations.

Importing this module gives `op` the operations below, in every migration of the process. Each one does what
the server's edition has and says what it leaves out: a line in Alembic's log, and a comment in offline SQL.
Offline (`alembic upgrade --sql`) the edition comes from `context.configure(timescale_edition=...)`.

The interval arguments are texts such as `"7 days"`; a table's schema is the keyword `schema`. What an argument
`existing...` says is only for the way back.

An operation that would destroy data raises, unless the migration passes `allow_data_loss=True` or the whole run is
configured with `timescale_allow_data_loss=True`. Offline nobody can look, so nothing raises there.
"""

from __future__ import annotations

import enum
import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import ModifyTableOps
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
    "AddReorderPolicyOp",
    "AddRetentionPolicyOp",
    "AlterColumnstoreOp",
    "AlterColumnstorePolicyOp",
    "AlterContinuousAggregateOp",
    "AlterRefreshPolicyOp",
    "AlterReorderPolicyOp",
    "AlterRetentionPolicyOp",
    "AppendAggregateColumnsOp",
    "CreateContinuousAggregateOp",
    "CreateExtensionOp",
    "CreateHypertableOp",
    "DisableColumnstoreOp",
    "DropContinuousAggregateOp",
    "EnableColumnstoreOp",
    "RemoveColumnstorePolicyOp",
    "RemoveRefreshPolicyOp",
    "RemoveReorderPolicyOp",
    "RemoveRetentionPolicyOp",
    "RevertHypertableOp",
    "Safety",
    "SetChunkIntervalOp",
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


class Safety(enum.StrEnum):
    """What running an operation on a database in use costs."""

    ONLINE = "online"
    FUTURE_CHUNKS_ONLY = "future chunks only"
    NEEDS_RECOMPRESS = "needs recompress"
    REBUILD = "rebuild"
    DESTROYS_DATA = "destroys data"


class TimescaleOp(MigrateOperation):
    """Base of the operations: what they need, what they send, what they cost, how they are written."""

    feature: Feature | None = None
    function: str = ""
    """Name on `op`."""
    safety: Safety = Safety.ONLINE
    reason: str = ""
    """Why it is of that class; stands above it in a migration."""

    def __init__(self, name: str, *, schema: str | None = None) -> None:
        self.name = name
        self.schema = schema

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the call on `op` as plain values, without the schema."""
        return {}

    def statements(self, edition: Edition, /) -> Iterable[str]:
        """SQL for this edition, in order; nothing for an operation with a `run` of its own."""
        del edition
        return ()

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check` and `compare_metadata`."""
        return (self.function, self.schema, self.name, self.arguments())

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


_OpType = TypeVar("_OpType", bound=type[TimescaleOp])


def _on_op(operation: _OpType) -> _OpType:
    """Give `op` a function of the operation's name."""
    Operations.register_operation(operation.function, "invoke")(operation)
    return operation


def _say(operations: Operations, message: str) -> None:
    context = operations.get_context()
    if context.as_sql and context.impl.output_buffer is not None:
        context.impl.static_output(f"-- {message}")
    _log.info(message)


def _may_lose_data(operations: Operations, *, allowed: bool) -> bool:
    context = operations.get_context()
    return allowed or context.as_sql or bool(context.opts.get("timescale_allow_data_loss"))


@_on_op
class CreateExtensionOp(TimescaleOp):
    """Install the extension where the server offers it; plain PostgreSQL stays plain.

    There is no reverse: the extension may serve other schemas of the database.
    """

    function = "create_timescaledb_extension"

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


@_on_op
class CreateHypertableOp(TimescaleOp):
    """`op.create_hypertable("tick_data", time="time", chunk_interval="1 day")`.

    The table must be empty unless `migrate_data` is set; then its rows move into chunks while the table is locked
    against everybody.
    """

    function = "create_hypertable"
    feature = Feature.HYPERTABLES

    def __init__(
        self,
        name: str,
        *,
        time: str,
        chunk_interval: IntervalLike,
        migrate_data: bool = False,
        schema: str | None = None,
        new_table: bool = False,
    ) -> None:
        super().__init__(name, schema=schema)
        self.time = time
        self.chunk_interval = Interval.parse(chunk_interval)
        self.migrate_data = migrate_data
        self.new_table = new_table
        if migrate_data:
            self.safety = Safety.REBUILD
            self.reason = "the table is locked while all of its rows move into chunks"

    def arguments(self) -> dict[str, Any]:
        """As given."""
        given: dict[str, Any] = {"time": self.time, "chunk_interval": self.chunk_interval.text}
        return given | ({"migrate_data": True} if self.migrate_data else {})

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.create_hypertable(
            self.name,
            time=self.time,
            chunk_interval=self.chunk_interval,
            schema=self.schema,
            migrate_data=self.migrate_data,
        )

    def run(self, operations: Operations) -> None:
        """As the base; rows that move are announced before and timed after, for they are out of reach meanwhile."""
        if not self.migrate_data or operations.get_context().as_sql:
            super().run(operations)
            return
        name = ddl.qualified(self.name, self.schema)
        size = operations.get_bind().scalar(
            sa.text("SELECT pg_size_pretty(pg_total_relation_size(to_regclass(:name)))"), {"name": name}
        )
        _log.info("%s: %s move into chunks, the table is locked meanwhile", name, size)
        begun = time.monotonic()
        super().run(operations)
        _log.info("%s: locked for %.1f seconds, and until the migration commits", name, time.monotonic() - begun)

    def reverse(self) -> MigrateOperation:
        """Nothing where the table itself goes; else there is no way back."""
        if self.new_table:
            return ModifyTableOps(self.name, [], schema=self.schema)
        return RevertHypertableOp(self.name, schema=self.schema)


@_on_op
class RevertHypertableOp(TimescaleOp):
    """`op.revert_hypertable("tick_data")`: raises, for the server has no way back from a hypertable to a table."""

    function = "revert_hypertable"
    feature = Feature.HYPERTABLES
    safety = Safety.DESTROYS_DATA
    reason = "the server has no way back from a hypertable to a table"

    def run(self, operations: Operations) -> None:
        """Say so, instead of pretending."""
        if not migration_server(operations).edition.has(Feature.HYPERTABLES):
            return
        raise CommandError(
            f"{ddl.qualified(self.name, self.schema)} stays a hypertable: copy its rows into a new table by hand, or "
            "take this operation out of the downgrade"
        )


@_on_op
class SetChunkIntervalOp(TimescaleOp):
    """`op.set_chunk_interval("tick_data", "12 hours", existing="1 day")`."""

    function = "set_chunk_interval"
    feature = Feature.HYPERTABLES
    safety = Safety.FUTURE_CHUNKS_ONLY
    reason = "chunks that are there keep their length"

    def __init__(
        self,
        name: str,
        chunk_interval: IntervalLike,
        *,
        existing: IntervalLike | None = None,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.chunk_interval = Interval.parse(chunk_interval)
        self.existing = None if existing is None else Interval.parse(existing)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"chunk_interval": self.chunk_interval.text} | _texts(existing=self.existing)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.set_chunk_interval(self.name, self.chunk_interval, schema=self.schema)

    def reverse(self) -> SetChunkIntervalOp:
        """Back to the existing one."""
        existing = _known(self.existing, self)
        return SetChunkIntervalOp(self.name, existing, existing=self.chunk_interval, schema=self.schema)


def _texts(**intervals: Interval | None) -> dict[str, Any]:
    return {name: interval.text for name, interval in intervals.items() if interval is not None}


_Known = TypeVar("_Known")


def _known(existing: _Known | None, operation: TimescaleOp) -> _Known:
    if existing is None:
        raise ValueError(f"{operation.function}({operation.name!r}): not known how it was, cannot be reversed")
    return existing


def _orders(columnstore: Columnstore, prefix: str = "") -> dict[str, Any]:
    return {
        f"{prefix}segment_by": list(columnstore.segment_by),
        f"{prefix}order_by": list(columnstore.order_by),
    }


@_on_op
class EnableColumnstoreOp(TimescaleOp):
    """`op.enable_columnstore("tick_data", segment_by=["symbol"], order_by=["time DESC", "source", "seq"])`."""

    function = "enable_columnstore"
    feature = Feature.COLUMNSTORE

    def __init__(
        self, name: str, *, segment_by: Sequence[str], order_by: Sequence[str], schema: str | None = None
    ) -> None:
        super().__init__(name, schema=schema)
        self.columnstore = Columnstore.of(segment_by=segment_by, order_by=order_by)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return _orders(self.columnstore)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One ALTER TABLE."""
        yield ddl.enable_columnstore(self.name, self.columnstore, schema=self.schema)

    def reverse(self) -> DisableColumnstoreOp:
        """Back to rows, remembering the orders."""
        return DisableColumnstoreOp(
            self.name,
            existing_segment_by=self.columnstore.segment_by,
            existing_order_by=self.columnstore.order_by,
            schema=self.schema,
        )


@_on_op
class DisableColumnstoreOp(TimescaleOp):
    """`op.disable_columnstore("tick_data")`: converts every chunk back to rows first."""

    function = "disable_columnstore"
    feature = Feature.COLUMNSTORE
    safety = Safety.REBUILD
    reason = "every compressed chunk is written again as rows"

    def __init__(
        self,
        name: str,
        *,
        existing_segment_by: Sequence[str] | None = None,
        existing_order_by: Sequence[str] | None = None,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.existing = (
            None
            if existing_order_by is None
            else Columnstore.of(segment_by=existing_segment_by or (), order_by=existing_order_by)
        )

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {} if self.existing is None else _orders(self.existing, "existing_")

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Convert, then switch off."""
        return ddl.disable_columnstore(self.name, schema=self.schema)

    def reverse(self) -> EnableColumnstoreOp:
        """Only where it is known how it was."""
        existing = _known(self.existing, self)
        return EnableColumnstoreOp(
            self.name, segment_by=existing.segment_by, order_by=existing.order_by, schema=self.schema
        )


@_on_op
class AlterColumnstoreOp(TimescaleOp):
    """Other orders: `op.alter_columnstore("tick_data", segment_by=[...], order_by=[...], existing_...)`."""

    function = "alter_columnstore"
    feature = Feature.COLUMNSTORE
    safety = Safety.NEEDS_RECOMPRESS
    reason = "compressed chunks keep the old orders until they are converted again"

    def __init__(
        self,
        name: str,
        *,
        segment_by: Sequence[str],
        order_by: Sequence[str],
        existing_segment_by: Sequence[str],
        existing_order_by: Sequence[str],
        schema: str | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.columnstore = Columnstore.of(segment_by=segment_by, order_by=order_by)
        self.existing = Columnstore.of(segment_by=existing_segment_by, order_by=existing_order_by)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return _orders(self.columnstore) | _orders(self.existing, "existing_")

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One ALTER TABLE."""
        yield ddl.enable_columnstore(self.name, self.columnstore, schema=self.schema)

    def reverse(self) -> AlterColumnstoreOp:
        """The other way round."""
        return AlterColumnstoreOp(
            self.name, **_orders(self.existing), **_orders(self.columnstore, "existing_"), schema=self.schema
        )


class _AgePolicyOp(TimescaleOp):
    """A policy with one age: which procedure it is, and what its age is called."""

    feature = Feature.POLICIES
    procedure: str
    key: str
    """Name of the age in the job's configuration."""
    keyword: str
    """Name of the age on `op`."""


class _Columnstore:
    procedure = "policy_compression"
    key = "compress_after"
    keyword = "after"


class _Retention:
    procedure = "policy_retention"
    key = "drop_after"
    keyword = "drop_after"


def _refuse_to_drop_chunks(operations: Operations, operation: TimescaleOp, age: Interval, *, allowed: bool) -> None:
    """A retention policy drops what is older at its next run."""
    if _may_lose_data(operations, allowed=allowed):
        return
    if not migration_server(operations).edition.has(Feature.POLICIES):
        return
    name = ddl.relation(operation.name, operation.schema)
    chunks = operations.get_bind().scalar(sa.text(f"SELECT count(*) FROM show_chunks({name}, older_than => {age.sql})"))
    if chunks:
        raise CommandError(
            f"a retention of {age} for {ddl.qualified(operation.name, operation.schema)} would drop {chunks} chunks "
            "that are there: pass allow_data_loss=True in the migration, or run it with -x allow_data_loss=yes, if "
            "that is meant"
        )


class _AddOp(_AgePolicyOp):
    def __init__(self, name: str, age: IntervalLike, *, schema: str | None) -> None:
        super().__init__(name, schema=schema)
        self.age = Interval.parse(age)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {self.keyword: self.age.text}


class _AlterOp(_AgePolicyOp):
    def __init__(self, name: str, age: IntervalLike, *, existing: IntervalLike | None, schema: str | None) -> None:
        super().__init__(name, schema=schema)
        self.age = Interval.parse(age)
        self.existing = None if existing is None else Interval.parse(existing)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {self.keyword: self.age.text} | _texts(existing=self.existing)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One change of the job, which stays the same job."""
        yield ddl.alter_age_policy(self.procedure, self.key, self.name, self.age, schema=self.schema)


class _RemoveOp(_AgePolicyOp):
    def __init__(self, name: str, *, existing: IntervalLike | None = None, schema: str | None = None) -> None:
        super().__init__(name, schema=schema)
        self.existing = None if existing is None else Interval.parse(existing)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return _texts(existing=self.existing)


@_on_op
class AddColumnstorePolicyOp(_Columnstore, _AddOp):
    """`op.add_columnstore_policy("tick_data", after="1 day")`."""

    function = "add_columnstore_policy"

    def __init__(
        self,
        name: str,
        after: IntervalLike,
        *,
        every: IntervalLike | None = None,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, after, schema=schema)
        self.every = None if every is None else Interval.parse(every)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return super().arguments() | _texts(every=self.every)

    def summary(self) -> str:
        """What is left out."""
        return f"columnstore policy of {ddl.qualified(self.name, self.schema)} after {self.age}"

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.add_columnstore_policy(self.name, self.age, every=self.every, schema=self.schema)

    def reverse(self) -> RemoveColumnstorePolicyOp:
        """Remove it."""
        return RemoveColumnstorePolicyOp(self.name, existing=self.age, existing_every=self.every, schema=self.schema)


@_on_op
class AlterColumnstorePolicyOp(_Columnstore, _AlterOp):
    """`op.alter_columnstore_policy("tick_data", after="2 days", existing="1 day")`; a paused job runs again."""

    function = "alter_columnstore_policy"

    def __init__(
        self,
        name: str,
        after: IntervalLike,
        *,
        existing: IntervalLike | None = None,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, after, existing=existing, schema=schema)

    def reverse(self) -> AlterColumnstorePolicyOp:
        """Back to the existing age."""
        return AlterColumnstorePolicyOp(self.name, _known(self.existing, self), existing=self.age, schema=self.schema)


@_on_op
class RemoveColumnstorePolicyOp(_Columnstore, _RemoveOp):
    """`op.remove_columnstore_policy("tick_data")`."""

    function = "remove_columnstore_policy"

    def __init__(
        self,
        name: str,
        *,
        existing: IntervalLike | None = None,
        existing_every: IntervalLike | None = None,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, existing=existing, schema=schema)
        self.existing_every = None if existing_every is None else Interval.parse(existing_every)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return super().arguments() | _texts(existing_every=self.existing_every)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.remove_columnstore_policy(self.name, schema=self.schema)

    def reverse(self) -> AddColumnstorePolicyOp:
        """Add it again."""
        existing = _known(self.existing, self)
        return AddColumnstorePolicyOp(self.name, existing, every=self.existing_every, schema=self.schema)


class _DropsChunks(TimescaleOp):
    """What the two operations that can make a retention shorter share."""

    safety = Safety.DESTROYS_DATA
    reason = "the policy drops what is older at its next run; it raises here if there is such data"
    age: Interval
    allow_data_loss: bool

    def run(self, operations: Operations) -> None:
        """Raise if chunks would go that nobody said may go."""
        _refuse_to_drop_chunks(operations, self, self.age, allowed=self.allow_data_loss)
        super().run(operations)

    def summary(self) -> str:
        """What is left out."""
        return f"retention policy of {ddl.qualified(self.name, self.schema)} after {self.age}"


@_on_op
class AddRetentionPolicyOp(_Retention, _DropsChunks, _AddOp):
    """`op.add_retention_policy("tick_data", drop_after="7 days")`; raises if older chunks are there."""

    function = "add_retention_policy"

    def __init__(
        self,
        name: str,
        drop_after: IntervalLike,
        *,
        allow_data_loss: bool = False,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, drop_after, schema=schema)
        self.allow_data_loss = allow_data_loss

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.add_retention_policy(self.name, self.age, schema=self.schema)

    def reverse(self) -> RemoveRetentionPolicyOp:
        """Remove it."""
        return RemoveRetentionPolicyOp(self.name, existing=self.age, schema=self.schema)


@_on_op
class AlterRetentionPolicyOp(_Retention, _DropsChunks, _AlterOp):
    """`op.alter_retention_policy("tick_data", drop_after="30 days", existing="7 days")`.

    The job stays the same one. A shorter age raises if older chunks are there. A paused job runs again.
    """

    function = "alter_retention_policy"

    def __init__(
        self,
        name: str,
        drop_after: IntervalLike,
        *,
        existing: IntervalLike | None = None,
        allow_data_loss: bool = False,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, drop_after, existing=existing, schema=schema)
        self.allow_data_loss = allow_data_loss
        if self.existing is not None and self.age.shortest > self.existing.longest:
            self.safety = Safety.ONLINE
            self.reason = "more is kept"

    def reverse(self) -> AlterRetentionPolicyOp:
        """Back to the existing age."""
        return AlterRetentionPolicyOp(self.name, _known(self.existing, self), existing=self.age, schema=self.schema)


@_on_op
class RemoveRetentionPolicyOp(_Retention, _RemoveOp):
    """`op.remove_retention_policy("tick_data")`: everything is kept from now on."""

    function = "remove_retention_policy"

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.remove_retention_policy(self.name, schema=self.schema)

    def reverse(self) -> AddRetentionPolicyOp:
        """Add it again."""
        return AddRetentionPolicyOp(self.name, _known(self.existing, self), schema=self.schema)


class _ReorderPolicyOp(TimescaleOp):
    feature = Feature.POLICIES

    def summary(self) -> str:
        """What is left out."""
        return f"reorder policy of {ddl.qualified(self.name, self.schema)}"


@_on_op
class AddReorderPolicyOp(_ReorderPolicyOp):
    """`op.add_reorder_policy("metrics", index="ix_metrics_room")`."""

    function = "add_reorder_policy"

    def __init__(self, name: str, index: str, *, every: IntervalLike | None = None, schema: str | None = None) -> None:
        super().__init__(name, schema=schema)
        self.index = index
        self.every = None if every is None else Interval.parse(every)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"index": self.index} | _texts(every=self.every)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.add_reorder_policy(self.name, self.index, every=self.every, schema=self.schema)

    def reverse(self) -> RemoveReorderPolicyOp:
        """Remove it."""
        return RemoveReorderPolicyOp(self.name, existing=self.index, existing_every=self.every, schema=self.schema)


@_on_op
class AlterReorderPolicyOp(_ReorderPolicyOp):
    """`op.alter_reorder_policy("metrics", index="uq_metrics", existing="ix_metrics_room")`; the job stays the same."""

    function = "alter_reorder_policy"

    def __init__(self, name: str, index: str, *, existing: str | None = None, schema: str | None = None) -> None:
        super().__init__(name, schema=schema)
        self.index = index
        self.existing = existing

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"index": self.index} | ({"existing": self.existing} if self.existing else {})

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One change of the job."""
        yield ddl.alter_reorder_policy(self.name, self.index, schema=self.schema)

    def reverse(self) -> AlterReorderPolicyOp:
        """Back to the existing index."""
        return AlterReorderPolicyOp(self.name, _known(self.existing, self), existing=self.index, schema=self.schema)


@_on_op
class RemoveReorderPolicyOp(_ReorderPolicyOp):
    """`op.remove_reorder_policy("metrics")`."""

    function = "remove_reorder_policy"

    def __init__(
        self,
        name: str,
        *,
        existing: str | None = None,
        existing_every: IntervalLike | None = None,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.existing = existing
        self.existing_every = None if existing_every is None else Interval.parse(existing_every)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        given = {"existing": self.existing} if self.existing else {}
        return given | _texts(existing_every=self.existing_every)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.remove_reorder_policy(self.name, schema=self.schema)

    def reverse(self) -> AddReorderPolicyOp:
        """Add it again."""
        existing = _known(self.existing, self)
        return AddReorderPolicyOp(self.name, existing, every=self.existing_every, schema=self.schema)


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

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return _texts(start=self.policy.start, end=self.policy.end, every=self.policy.every)


@_on_op
class AddRefreshPolicyOp(_RefreshPolicyOp):
    """`op.add_refresh_policy("ohlcv_1m", start="6 days", end="1 hour", every="1 hour")`."""

    function = "add_refresh_policy"

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.add_refresh_policy(self.name, self.policy, schema=self.schema)

    def reverse(self) -> RemoveRefreshPolicyOp:
        """Remove it."""
        return RemoveRefreshPolicyOp(self.name, **self.arguments(), schema=self.schema)


@_on_op
class AlterRefreshPolicyOp(_RefreshPolicyOp):
    """Another window or pace for the policy with the existing window; the job stays the same one."""

    function = "alter_refresh_policy"

    def __init__(
        self,
        name: str,
        *,
        start: IntervalLike,
        end: IntervalLike,
        every: IntervalLike,
        existing_start: IntervalLike,
        existing_end: IntervalLike,
        existing_every: IntervalLike,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, start=start, end=end, every=every, schema=schema)
        self.existing = RefreshPolicy.of(start=existing_start, end=existing_end, every=existing_every)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        old = self.existing
        return super().arguments() | _texts(existing_start=old.start, existing_end=old.end, existing_every=old.every)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One change of the job."""
        yield ddl.alter_refresh_policy(self.name, self.policy, was=self.existing, schema=self.schema)

    def reverse(self) -> AlterRefreshPolicyOp:
        """The other way round."""
        new, old = self.policy, self.existing
        return AlterRefreshPolicyOp(
            self.name,
            start=old.start,
            end=old.end,
            every=old.every,
            existing_start=new.start,
            existing_end=new.end,
            existing_every=new.every,
            schema=self.schema,
        )


@_on_op
class RemoveRefreshPolicyOp(_RefreshPolicyOp):
    """`op.remove_refresh_policy("ohlcv_1m", start="6 days", end="1 hour", every="1 hour")`.

    The window says which one, for an aggregate can have several.
    """

    function = "remove_refresh_policy"

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One call."""
        yield ddl.remove_refresh_policy(self.name, self.policy, schema=self.schema)

    def reverse(self) -> AddRefreshPolicyOp:
        """Add it again."""
        return AddRefreshPolicyOp(self.name, **self.arguments(), schema=self.schema)


@_on_op
class CreateContinuousAggregateOp(TimescaleOp):
    """A continuous aggregate, or a plain view with the same columns where the edition has none.

    `select` is the definition; `fallback_select` replaces it on plain PostgreSQL, which has no `time_bucket`.
    `grants` are privileges by role, given where the role exists.
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
        comment: str,
        column_comments: Mapping[str, str],
        grants: Mapping[str, Sequence[str]] | None = None,
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
        self.grants = {role: list(privileges) for role, privileges in (grants or {}).items()}

    def arguments(self) -> dict[str, Any]:
        """As given."""
        given: dict[str, Any] = {"select": self.select}
        if self.fallback_select is not None:
            given["fallback_select"] = self.fallback_select
        given["chunk_interval"] = self.chunk_interval.text
        if self.materialized_only:
            given["materialized_only"] = True
        if self.indexes:
            given["indexes"] = {index.name: list(index.expressions) for index in self.indexes}
        given["comment"] = self.comment
        given["column_comments"] = self.column_comments
        if self.grants:
            given["grants"] = self.grants
        return given

    def run(self, operations: Operations) -> None:
        """As the base, and say when it is only a view."""
        edition = migration_server(operations).edition
        if not edition.has(Feature.CONTINUOUS_AGGREGATES):
            name = ddl.qualified(self.name, self.schema)
            _say(operations, f"continuous aggregate {name}: a plain view on the {edition} edition")
        super().run(operations)

    def statements(self, edition: Edition, /) -> Iterable[str]:
        """The view, its indexes, its comments, its grants."""
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
        for role, privileges in self.grants.items():
            yield ddl.grant_on_view(self.name, role, privileges, schema=self.schema)

    def reverse(self) -> DropContinuousAggregateOp:
        """Drop it, remembering it."""
        return DropContinuousAggregateOp(self.name, schema=self.schema, was=self)


@_on_op
class AlterContinuousAggregateOp(TimescaleOp):
    """What of an aggregate changes in place: real-time or not, the length of its chunks, its indexes.

    `op.alter_continuous_aggregate("ohlcv_1m", materialized_only=True, existing_materialized_only=False)`; indexes
    are given as in `create_continuous_aggregate`, those to drop with their expressions, for the way back.
    """

    function = "alter_continuous_aggregate"
    feature = Feature.CONTINUOUS_AGGREGATES

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
        self.chunk_interval = None if chunk_interval is None else Interval.parse(chunk_interval)
        self.existing_chunk_interval = (
            None if existing_chunk_interval is None else Interval.parse(existing_chunk_interval)
        )
        self.add_indexes = {key: list(value) for key, value in (add_indexes or {}).items()}
        self.drop_indexes = {key: list(value) for key, value in (drop_indexes or {}).items()}
        if self.chunk_interval is not None:
            self.safety = Safety.FUTURE_CHUNKS_ONLY
            self.reason = "chunks that are there keep their length"

    def arguments(self) -> dict[str, Any]:
        """As given."""
        given: dict[str, Any] = {
            "materialized_only": self.materialized_only,
            "existing_materialized_only": self.existing_materialized_only,
            **_texts(chunk_interval=self.chunk_interval, existing_chunk_interval=self.existing_chunk_interval),
            "add_indexes": self.add_indexes or None,
            "drop_indexes": self.drop_indexes or None,
        }
        return {key: value for key, value in given.items() if value is not None}

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One statement for each change."""
        return ddl.alter_continuous_aggregate(
            self.name,
            materialized_only=self.materialized_only,
            chunk_interval=self.chunk_interval,
            add_indexes=[AggregateIndex(key, tuple(value)) for key, value in self.add_indexes.items()],
            drop_indexes=[AggregateIndex(key, tuple(value)) for key, value in self.drop_indexes.items()],
            schema=self.schema,
        )

    def reverse(self) -> AlterContinuousAggregateOp:
        """The other way round."""
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


@_on_op
class AppendAggregateColumnsOp(TimescaleOp):
    """More aggregates at the end, in place: `op.append_aggregate_columns("per_minute", columns={"mean": [...]})`.

    Each column is a type and an expression. Rows that are materialized already hold NULL in it until they are
    refreshed; nothing of them is lost. Needs TimescaleDB 2.28 or newer. The server cannot take a column away again,
    so the way back builds the aggregate anew.
    """

    function = "append_aggregate_columns"
    feature = Feature.CONTINUOUS_AGGREGATES
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
        self.columns = {key: list(value) for key, value in columns.items()}
        self.comments = dict(comments or {})
        self.undo = list(undo)

    def arguments(self) -> dict[str, Any]:
        """As given."""
        return {"columns": self.columns} | ({"comments": self.comments} if self.comments else {})

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """One ALTER for each column, and its comment."""
        for column, (kind, expression) in self.columns.items():
            yield ddl.append_aggregate_column(self.name, column, kind, expression, schema=self.schema)
        yield from ddl.comment_on_columns(self.name, self.comments, schema=self.schema)

    def reverse(self) -> MigrateOperation:
        """Drop the aggregate with all that stands on it, and build them as they were."""
        return ModifyTableOps(self.name, _known(self.undo or None, self), schema=self.schema)


@_on_op
class DropContinuousAggregateOp(TimescaleOp):
    """`op.drop_continuous_aggregate("ohlcv_1m")`: its policies, indexes and materialized rows go with it.

    Raises where its history reaches back further than the rows that it could be computed from again.
    """

    function = "drop_continuous_aggregate"
    safety = Safety.REBUILD
    reason = "its rows are computed again from its source; it raises here where the source no longer has them"

    def __init__(
        self,
        name: str,
        *,
        allow_data_loss: bool = False,
        schema: str | None = None,
        was: CreateContinuousAggregateOp | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.allow_data_loss = allow_data_loss
        self.was = was

    def run(self, operations: Operations) -> None:
        """Drop what is there; offline, what the edition has."""
        if operations.get_context().as_sql:
            continuous = migration_server(operations).edition.has(Feature.CONTINUOUS_AGGREGATES)
        else:
            connection = operations.get_bind()
            continuous = ddl.is_continuous_aggregate(connection, self.name, schema=self.schema)
            if continuous and not _may_lose_data(operations, allowed=self.allow_data_loss):
                lost = ddl.history_beyond_source(connection, self.name, schema=self.schema)
                if lost is not None:
                    raise CommandError(
                        f"{ddl.qualified(self.name, self.schema)} holds history from {lost[0]} on, its source only "
                        f"from {lost[1] or 'nowhere'}: to drop it loses what is in between; pass "
                        "allow_data_loss=True in the migration, or run it with -x allow_data_loss=yes, if that is "
                        "meant"
                    )
        operations.execute(ddl.verbatim(ddl.drop_view(self.name, continuous=continuous, schema=self.schema)))

    def reverse(self) -> CreateContinuousAggregateOp:
        """Only where it is known how it was."""
        return _known(self.was, self)


@Operations.implementation_for(TimescaleOp)
def _run(operations: Operations, operation: TimescaleOp) -> None:
    operation.run(operations)
