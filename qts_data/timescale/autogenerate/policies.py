"""Columnstores and policies, which both tables and aggregates can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alembic.util import CommandError

from qts_data.timescale import operations as tso
from qts_data.timescale.declarations import Columnstore, ContinuousAggregate
from qts_data.timescale.drift import same_window
from qts_data.timescale.intervals import Interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from alembic.operations.ops import MigrateOperation

    from qts_data.timescale.declarations import Hypertable
    from qts_data.timescale.reflection import AgePolicy, ReflectedAggregate, ReflectedHypertable, ReflectedRefresh

__all__ = ["age_of", "columnstore_ops", "refresh_ops", "retention_ops", "retention_pace", "window"]

_RETENTION_PACE: Final = Interval.parse("1 day")
"""The server's default time between two runs of a retention policy."""


def columnstore_ops(
    wanted: Hypertable | ContinuousAggregate, found: ReflectedHypertable | ReflectedAggregate | None
) -> Iterator[MigrateOperation]:
    """Yield changes of a columnstore and its policy. The policy is removed before it and added after it."""
    name, schema, aggregate = wanted.name, wanted.schema, isinstance(wanted, ContinuousAggregate)
    new, old = wanted.columnstore, found.columnstore if found else None
    policy = found.convert if found else None
    after = new.after if new else None
    time = wanted.bucket_column if isinstance(wanted, ContinuousAggregate) else wanted.time
    if policy is not None and after is None:
        yield tso.RemoveColumnstorePolicyOp(
            name, existing=age_of(name, policy), existing_every=policy.every, schema=schema
        )
    if new is not None and old is None:
        yield tso.EnableColumnstoreOp(
            name, segment_by=new.segment_by, order_by=new.order_by, aggregate=aggregate, schema=schema
        )
    elif new is None and old is not None:
        yield tso.DisableColumnstoreOp(
            name, existing_segment_by=old.segment_by, existing_order_by=old.order_by, aggregate=aggregate, schema=schema
        )
    elif new is not None and old is not None and _orders(new, time) != _orders(old, time):
        yield tso.AlterColumnstoreOp(
            name,
            segment_by=new.segment_by,
            order_by=new.order_by,
            existing_segment_by=old.segment_by,
            existing_order_by=old.order_by,
            aggregate=aggregate,
            schema=schema,
        )
    if after is not None and policy is None:
        yield tso.AddColumnstorePolicyOp(name, after, schema=schema)
    elif after is not None and policy is not None and not _same_policy(after, policy.age, policy.scheduled):
        yield tso.AlterColumnstorePolicyOp(name, after, existing=age_of(name, policy), schema=schema)


def _orders(columnstore: Columnstore, time: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return columnstore.segment_by, columnstore.normal_order(time)


def _same_policy(wanted: Interval, found: Interval | None, scheduled: bool) -> bool:
    return scheduled and found is not None and wanted.same_length(found)


def retention_ops(
    wanted: Hypertable | ContinuousAggregate,
    found: ReflectedHypertable | ReflectedAggregate | None,
    *,
    new: bool,
) -> Iterator[MigrateOperation]:
    """Yield changes of the retention policy. An object that the migration makes is `new`, and has none yet."""
    name, schema, policy = wanted.name, wanted.schema, found.retention if found else None
    if policy is None:
        if wanted.retention is not None:
            yield tso.AddRetentionPolicyOp(name, wanted.retention, schema=schema, new_object=new)
    elif wanted.retention is None:
        yield tso.RemoveRetentionPolicyOp(
            name, existing=age_of(name, policy), existing_every=retention_pace(policy), schema=schema
        )
    elif not _same_policy(wanted.retention, policy.age, policy.scheduled):
        yield tso.AlterRetentionPolicyOp(
            name, wanted.retention, existing=age_of(name, policy), schema=schema, paused=not policy.scheduled
        )


def retention_pace(policy: AgePolicy) -> Interval | None:
    """Return the time between two runs. None for the server's default."""
    return None if policy.every.same_length(_RETENTION_PACE) else policy.every


def refresh_ops(item: ContinuousAggregate, found: Iterable[ReflectedRefresh]) -> Iterator[MigrateOperation]:
    """Yield changes of the refresh policies. A single changed policy stays the same job."""
    name, schema = item.name, item.schema
    missing = sorted(item.refresh, key=lambda policy: policy.start.longest)
    extra: list[ReflectedRefresh] = []
    for existing in found:
        same = next((p for p in missing if same_window(p, existing) and existing.scheduled), None)
        if same is not None:
            missing.remove(same)
        else:
            extra.append(existing)
    if len(missing) == len(extra) == 1:
        # Change the window of the same job. With several jobs, one job's new window can be another job's old one.
        yield tso.AlterRefreshPolicyOp(
            name,
            start=missing[0].start,
            end=missing[0].end,
            every=missing[0].every,
            **{f"existing_{key}": value for key, value in window(item.name, extra[0]).items()},
            schema=schema,
        )
        return
    for existing in extra:
        yield tso.RemoveRefreshPolicyOp(name, **window(item.name, existing), schema=schema)
    for policy in missing:
        yield tso.AddRefreshPolicyOp(name, start=policy.start, end=policy.end, every=policy.every, schema=schema)


def window(name: str, policy: ReflectedRefresh) -> dict[str, Interval]:
    """Return a refresh policy as arguments.

    Raises:
        CommandError: Its window is open at an end.
    """
    if policy.start is None or policy.end is None:
        raise CommandError(
            f"{name} has a refresh policy with an open window (job {policy.job}), which no declaration can say: an "
            "open start deletes the bars of dropped rows; remove it with SELECT delete_job("
            f"{policy.job}), then generate again"
        )
    return {"start": policy.start, "end": policy.end, "every": policy.every}


def age_of(name: str, policy: AgePolicy) -> Interval:
    """Return the age of a policy.

    Raises:
        CommandError: The policy does not go by an age.
    """
    if policy.age is None:
        raise CommandError(
            f"{name} has a policy by the chunks' time of creation (job {policy.job}), which no declaration can say; "
            f"remove it with SELECT delete_job({policy.job}), then generate again"
        )
    return policy.age
