"""Operations on tables that are divided by time: create, change, release."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.util import CommandError

from qts_data.timescale import ddl
from qts_data.timescale.edition import Edition, Feature
from qts_data.timescale.intervals import Interval, IntervalLike
from qts_data.timescale.operations.base import (
    Group,
    Safety,
    TimescaleOp,
    known,
    log,
    may_lose_data,
    migration_server,
    on_op,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from alembic.operations import MigrateOperation, Operations

__all__ = ["CreateHypertableOp", "ReleaseHypertableOp", "RevertHypertableOp", "SetChunkIntervalOp"]


@on_op
class CreateHypertableOp(TimescaleOp):
    """`op.create_hypertable("tick_data", time="time", chunk_interval="1 day")`.

    The table must be empty unless `migrate_data` is set. Then its rows move into chunks, and the table is locked
    against all access meanwhile.
    """

    function = "create_hypertable"
    feature: Feature = Feature.HYPERTABLES

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
        self.chunk_interval: Interval = Interval.parse(chunk_interval)
        self.migrate_data = migrate_data
        self.new_table = new_table
        if migrate_data:
            self.safety = Safety.REBUILD
            self.reason = "the table is locked while all of its rows move into chunks"

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        given: dict[str, Any] = {"time": self.time, "chunk_interval": self.chunk_interval.text}
        return given | ({"migrate_data": True} if self.migrate_data else {})

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield the one call."""
        yield ddl.create_hypertable(
            self.name,
            time=self.time,
            chunk_interval=self.chunk_interval,
            schema=self.schema,
            migrate_data=self.migrate_data,
        )

    def run(self, operations: Operations) -> None:
        """Create the hypertable. Log the size of rows that move, and how long the table was locked for it."""
        if not self.migrate_data or operations.get_context().as_sql:
            super().run(operations)
            return
        name = ddl.qualified(self.name, self.schema)
        size = operations.get_bind().scalar(
            sa.text("SELECT pg_size_pretty(pg_total_relation_size(to_regclass(:name)))"), {"name": name}
        )
        log.info("%s: %s move into chunks, the table is locked meanwhile", name, size)
        begun = time.monotonic()
        super().run(operations)
        log.info("%s: locked for %.1f seconds, and until the migration commits", name, time.monotonic() - begun)

    def reverse(self) -> Group | RevertHypertableOp:
        """Return nothing if the table itself is dropped. Otherwise it cannot be reversed."""
        if self.new_table:
            return Group([])
        return RevertHypertableOp(self.name, schema=self.schema)


@on_op
class RevertHypertableOp(TimescaleOp):
    """`op.revert_hypertable("tick_data")`: raises, because the server cannot turn a hypertable back into a table."""

    function = "revert_hypertable"
    feature: Feature = Feature.HYPERTABLES
    safety = Safety.DESTROYS_DATA
    reason = "the server has no way back from a hypertable to a table"

    def run(self, operations: Operations) -> None:
        """Raise, because it is impossible.

        Raises:
            CommandError: The edition has hypertables, so the table stays one.
        """
        if not migration_server(operations).edition.has(Feature.HYPERTABLES):
            return
        raise CommandError(
            f"{ddl.qualified(self.name, self.schema)} stays a hypertable: copy its rows into a new table by hand, or "
            "take this operation out of the downgrade"
        )


@on_op
class SetChunkIntervalOp(TimescaleOp):
    """`op.set_chunk_interval("tick_data", "12 hours", existing="1 day")`."""

    function = "set_chunk_interval"
    feature: Feature = Feature.HYPERTABLES
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
        self.chunk_interval: Interval = Interval.parse(chunk_interval)
        self.existing: Interval | None = None if existing is None else Interval.parse(existing)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return {"chunk_interval": self.chunk_interval.text} | texts(existing=self.existing)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield the one call."""
        yield ddl.set_chunk_interval(self.name, self.chunk_interval, schema=self.schema)

    def reverse(self) -> SetChunkIntervalOp:
        """Return to the existing interval."""
        existing = known(self.existing, self)
        return SetChunkIntervalOp(self.name, existing, existing=self.chunk_interval, schema=self.schema)


@on_op
class ReleaseHypertableOp(TimescaleOp):
    """`op.release_hypertable("tick_data")`, before `op.drop_table("tick_data")`: raises while the table has rows.

    The downgrade makes the new table a hypertable again, with its columnstore and its policies.
    """

    function = "release_hypertable"
    safety = Safety.DESTROYS_DATA
    reason = "the table goes with all of its chunks; it raises here if it has rows"

    def __init__(
        self,
        name: str,
        *,
        allow_data_loss: bool = False,
        schema: str | None = None,
        was: Sequence[MigrateOperation] | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.allow_data_loss = allow_data_loss
        self.was = was

    def run(self, operations: Operations) -> None:
        """Check that the table is empty. There is nothing else to do."""
        if may_lose_data(operations, allowed=self.allow_data_loss):
            return
        name = ddl.qualified(self.name, self.schema)
        if operations.get_bind().scalar(sa.text(f"SELECT EXISTS (SELECT FROM {name})")):
            raise CommandError(
                f"{name} has rows, and the next step drops it: pass allow_data_loss=True in the migration, or run it "
                "with -x allow_data_loss=yes, if that is meant; a rename is op.rename_table, written by hand"
            )

    def reverse(self) -> Group:
        """Repeat the operations that made it a hypertable."""
        return Group(known(self.was, self))
