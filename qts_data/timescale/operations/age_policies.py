"""Policies with one age: they convert chunks into columns, or drop them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.util import CommandError

from qts_data.timescale import ddl
from qts_data.timescale.edition import Edition, Feature
from qts_data.timescale.intervals import Interval, IntervalLike
from qts_data.timescale.operations.base import (
    Safety,
    TimescaleOp,
    known,
    may_lose_data,
    migration_server,
    on_op,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from alembic.operations import Operations

__all__ = [
    "AddColumnstorePolicyOp",
    "AddRetentionPolicyOp",
    "AlterColumnstorePolicyOp",
    "AlterRetentionPolicyOp",
    "RemoveColumnstorePolicyOp",
    "RemoveRetentionPolicyOp",
]


class _AgePolicyOp(TimescaleOp):
    """A policy with one age: its procedure, and the names of its age."""

    feature: Feature = Feature.POLICIES
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
    """Refuse a retention policy that would drop existing chunks at its next run."""
    if may_lose_data(operations, allowed=allowed):
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
        self.age: Interval = Interval.offset(age)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return {self.keyword: self.age.text}


class _AlterOp(_AgePolicyOp):
    def __init__(self, name: str, age: IntervalLike, *, existing: IntervalLike | None, schema: str | None) -> None:
        super().__init__(name, schema=schema)
        self.age: Interval = Interval.offset(age)
        self.existing: Interval | None = None if existing is None else Interval.offset(existing)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return {self.keyword: self.age.text} | texts(existing=self.existing)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield one change of the job, which stays the same job."""
        yield ddl.alter_age_policy(self.procedure, self.key, self.name, self.age, schema=self.schema)


class _RemoveOp(_AgePolicyOp):
    def __init__(
        self,
        name: str,
        *,
        existing: IntervalLike | None = None,
        existing_every: IntervalLike | None = None,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.existing: Interval | None = None if existing is None else Interval.offset(existing)
        self.existing_every: Interval | None = None if existing_every is None else Interval.parse(existing_every)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return texts(existing=self.existing, existing_every=self.existing_every)


@on_op
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
        self.every: Interval | None = None if every is None else Interval.parse(every)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return super().arguments() | texts(every=self.every)

    def summary(self) -> str:
        """Name the policy or setting that an edition without the feature leaves out."""
        return f"columnstore policy of {ddl.qualified(self.name, self.schema)} after {self.age}"

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield the one call."""
        yield ddl.add_columnstore_policy(self.name, self.age, every=self.every, schema=self.schema)

    def reverse(self) -> RemoveColumnstorePolicyOp:
        """Remove it."""
        return RemoveColumnstorePolicyOp(self.name, existing=self.age, existing_every=self.every, schema=self.schema)


@on_op
class AlterColumnstorePolicyOp(_Columnstore, _AlterOp):
    """`op.alter_columnstore_policy("tick_data", after="2 days", existing="1 day")`. A paused job runs again."""

    function = "alter_columnstore_policy"
    alters = "columnstore policy"

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
        """Return to the existing age."""
        return AlterColumnstorePolicyOp(self.name, known(self.existing, self), existing=self.age, schema=self.schema)


@on_op
class RemoveColumnstorePolicyOp(_Columnstore, _RemoveOp):
    """`op.remove_columnstore_policy("tick_data")`."""

    function = "remove_columnstore_policy"

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield the one call."""
        yield ddl.remove_columnstore_policy(self.name, schema=self.schema)

    def reverse(self) -> AddColumnstorePolicyOp:
        """Add it again."""
        existing = known(self.existing, self)
        return AddColumnstorePolicyOp(self.name, existing, every=self.existing_every, schema=self.schema)


class _DropsChunks(TimescaleOp):
    """Common part of the two operations that can shorten a retention."""

    age: Interval
    allow_data_loss: bool

    def costs(self, *, older: bool, why: str) -> None:
        """Set the safety class: whether chunks of that age can exist. If not, why."""
        self.safety = Safety.DESTROYS_DATA if older else Safety.ONLINE
        self.reason: str = (
            f"chunks older than {self.age}, at the policy's next run; it raises here if there are any" if older else why
        )

    def run(self, operations: Operations) -> None:
        """Raise if the policy would drop chunks without permission."""
        _refuse_to_drop_chunks(operations, self, self.age, allowed=self.allow_data_loss)
        super().run(operations)

    def summary(self) -> str:
        """Name the policy or setting that an edition without the feature leaves out."""
        return f"retention policy of {ddl.qualified(self.name, self.schema)} after {self.age}"


@on_op
class AddRetentionPolicyOp(_Retention, _DropsChunks, _AddOp):
    """`op.add_retention_policy("tick_data", drop_after="7 days")`. Raises if older chunks are there."""

    function = "add_retention_policy"

    def __init__(
        self,
        name: str,
        drop_after: IntervalLike,
        *,
        every: IntervalLike | None = None,
        allow_data_loss: bool = False,
        schema: str | None = None,
        new_object: bool = False,
    ) -> None:
        super().__init__(name, drop_after, schema=schema)
        self.every: Interval | None = None if every is None else Interval.parse(every)
        self.allow_data_loss = allow_data_loss
        self.new_object = new_object
        self.costs(older=not new_object, why="nothing is there yet")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return super().arguments() | texts(every=self.every)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield the one call."""
        yield ddl.add_retention_policy(self.name, self.age, every=self.every, schema=self.schema)

    def reverse(self) -> RemoveRetentionPolicyOp:
        """Remove it."""
        return RemoveRetentionPolicyOp(
            self.name,
            existing=self.age,
            existing_every=self.every,
            schema=self.schema,
            object_goes=self.new_object,
        )


@on_op
class AlterRetentionPolicyOp(_Retention, _DropsChunks, _AlterOp):
    """`op.alter_retention_policy("tick_data", drop_after="30 days", existing="7 days")`.

    The job stays the same one. A shorter age raises if older chunks are there. A paused job runs again.
    """

    function = "alter_retention_policy"
    alters = "retention policy"

    def __init__(
        self,
        name: str,
        drop_after: IntervalLike,
        *,
        existing: IntervalLike | None = None,
        allow_data_loss: bool = False,
        schema: str | None = None,
        paused: bool = False,
    ) -> None:
        super().__init__(name, drop_after, existing=existing, schema=schema)
        self.allow_data_loss = allow_data_loss
        longer = self.existing is not None and self.age.shortest > self.existing.longest
        self.costs(older=paused or not longer, why="more is kept")

    def reverse(self) -> AlterRetentionPolicyOp:
        """Return to the existing age."""
        return AlterRetentionPolicyOp(self.name, known(self.existing, self), existing=self.age, schema=self.schema)


@on_op
class RemoveRetentionPolicyOp(_Retention, _RemoveOp):
    """`op.remove_retention_policy("tick_data")`: everything is kept from now on."""

    function = "remove_retention_policy"

    def __init__(
        self,
        name: str,
        *,
        existing: IntervalLike | None = None,
        existing_every: IntervalLike | None = None,
        schema: str | None = None,
        object_goes: bool = False,
    ) -> None:
        super().__init__(name, existing=existing, existing_every=existing_every, schema=schema)
        self.object_goes = object_goes

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield the one call."""
        yield ddl.remove_retention_policy(self.name, schema=self.schema)

    def reverse(self) -> AddRetentionPolicyOp:
        """Add it again."""
        return AddRetentionPolicyOp(
            self.name,
            known(self.existing, self),
            every=self.existing_every,
            schema=self.schema,
            new_object=self.object_goes,
        )
