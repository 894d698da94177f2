"""Policies that sort chunks, and policies that refresh a window of an aggregate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qts_data.timescale import ddl
from qts_data.timescale.declarations import RefreshPolicy
from qts_data.timescale.edition import Edition, Feature
from qts_data.timescale.intervals import Interval, IntervalLike
from qts_data.timescale.operations.base import TimescaleOp, known, on_op, texts

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AddRefreshPolicyOp",
    "AddReorderPolicyOp",
    "AlterRefreshPolicyOp",
    "AlterReorderPolicyOp",
    "RemoveRefreshPolicyOp",
    "RemoveReorderPolicyOp",
]


class _ReorderPolicyOp(TimescaleOp):
    feature: Feature = Feature.POLICIES

    def summary(self) -> str:
        """Name the policy or setting that an edition without the feature leaves out."""
        return f"reorder policy of {ddl.qualified(self.name, self.schema)}"


@on_op
class AddReorderPolicyOp(_ReorderPolicyOp):
    """`op.add_reorder_policy("metrics", index="ix_metrics_room")`."""

    function = "add_reorder_policy"

    def __init__(self, name: str, index: str, *, every: IntervalLike | None = None, schema: str | None = None) -> None:
        super().__init__(name, schema=schema)
        self.index = index
        self.every: Interval | None = None if every is None else Interval.parse(every)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return {"index": self.index} | texts(every=self.every)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield the one call."""
        yield ddl.add_reorder_policy(self.name, self.index, every=self.every, schema=self.schema)

    def reverse(self) -> RemoveReorderPolicyOp:
        """Remove it."""
        return RemoveReorderPolicyOp(self.name, existing=self.index, existing_every=self.every, schema=self.schema)


@on_op
class AlterReorderPolicyOp(_ReorderPolicyOp):
    """`op.alter_reorder_policy("metrics", index="uq_metrics", existing="ix_metrics_room")`. The job stays the same."""

    function = "alter_reorder_policy"
    alters = "reorder policy"

    def __init__(self, name: str, index: str, *, existing: str | None = None, schema: str | None = None) -> None:
        super().__init__(name, schema=schema)
        self.index = index
        self.existing = existing

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return {"index": self.index} | ({"existing": self.existing} if self.existing else {})

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield one change of the job."""
        yield ddl.alter_reorder_policy(self.name, self.index, schema=self.schema)

    def reverse(self) -> AlterReorderPolicyOp:
        """Return to the existing index."""
        return AlterReorderPolicyOp(self.name, known(self.existing, self), existing=self.index, schema=self.schema)


@on_op
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
        self.existing_every: Interval | None = None if existing_every is None else Interval.parse(existing_every)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        given = {"existing": self.existing} if self.existing else {}
        return given | texts(existing_every=self.existing_every)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield the one call."""
        yield ddl.remove_reorder_policy(self.name, schema=self.schema)

    def reverse(self) -> AddReorderPolicyOp:
        """Add it again."""
        existing = known(self.existing, self)
        return AddReorderPolicyOp(self.name, existing, every=self.existing_every, schema=self.schema)


class _RefreshPolicyOp(TimescaleOp):
    feature: Feature = Feature.POLICIES

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
        self.policy: RefreshPolicy = RefreshPolicy.of(start=start, end=end, every=every)

    def summary(self) -> str:
        """Name the policy or setting that an edition without the feature leaves out."""
        return f"refresh policy of {ddl.qualified(self.name, self.schema)} every {self.policy.every}"

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        return texts(start=self.policy.start, end=self.policy.end, every=self.policy.every)


@on_op
class AddRefreshPolicyOp(_RefreshPolicyOp):
    """`op.add_refresh_policy("ohlcv_1m", start="6 days", end="1 hour", every="1 hour")`."""

    function = "add_refresh_policy"

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield the one call."""
        yield ddl.add_refresh_policy(self.name, self.policy, schema=self.schema)

    def reverse(self) -> RemoveRefreshPolicyOp:
        """Remove it."""
        return RemoveRefreshPolicyOp(self.name, **self.arguments(), schema=self.schema)


@on_op
class AlterRefreshPolicyOp(_RefreshPolicyOp):
    """Another window or pace for the policy with the existing window. The job stays the same."""

    function = "alter_refresh_policy"
    alters = "refresh policy with the existing window"

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
        self.existing: RefreshPolicy = RefreshPolicy.of(start=existing_start, end=existing_end, every=existing_every)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        old = self.existing
        return super().arguments() | texts(existing_start=old.start, existing_end=old.end, existing_every=old.every)

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield one change of the job."""
        yield ddl.alter_refresh_policy(self.name, self.policy, was=self.existing, schema=self.schema)

    def reverse(self) -> AlterRefreshPolicyOp:
        """Return the opposite change."""
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


@on_op
class RemoveRefreshPolicyOp(_RefreshPolicyOp):
    """`op.remove_refresh_policy("ohlcv_1m", start="6 days", end="1 hour", every="1 hour")`.

    The window identifies the policy, because an aggregate can have several.
    """

    function = "remove_refresh_policy"

    def statements(self, _edition: Edition, /) -> Iterable[str]:
        """Yield the one call."""
        yield ddl.remove_refresh_policy(self.name, self.policy, schema=self.schema)

    def reverse(self) -> AddRefreshPolicyOp:
        """Add it again."""
        return AddRefreshPolicyOp(self.name, **self.arguments(), schema=self.schema)
