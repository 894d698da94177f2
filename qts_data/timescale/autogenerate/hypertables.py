"""Comparison of hypertables: chunks, columnstore and policies, and hypertables whose table is dropped."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from qts_data.timescale import operations as tso
from qts_data.timescale.autogenerate.policies import age_of, columnstore_ops, retention_ops, retention_pace
from qts_data.timescale.edition import Feature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.operations.ops import MigrateOperation

    from qts_data.timescale.autogenerate.run import Run
    from qts_data.timescale.declarations import Hypertable
    from qts_data.timescale.reflection import ReflectedHypertable

__all__ = ["compare_hypertable", "release_hypertable"]

_log = logging.getLogger("alembic.autogenerate.timescaledb")


def compare_hypertable(run: Run, wanted: Hypertable) -> None:
    """Compare a declared table. A table that the migration makes gets all operations, on every edition."""
    new = (wanted.schema, wanted.name) in run.new_tables
    found = None if new else run.reflected(wanted.schema).hypertables.get(wanted.name)
    if not (run.table_wanted(wanted.table) and run.wanted(wanted, "hypertable", exists=found is not None)):
        return
    if not new and not run.edition.has(Feature.HYPERTABLES):
        return
    schema = wanted.schema
    if found is None:
        _log.info("Detected new hypertable %s", wanted.name)
        run.last.append(
            tso.CreateHypertableOp(
                wanted.name,
                time=wanted.time,
                chunk_interval=wanted.chunk_interval,
                migrate_data=not new,
                new_table=new,
                schema=schema,
            )
        )
    elif found.chunk_interval is None or wanted.chunk_interval.as_chunk != found.chunk_interval.as_chunk:
        run.last.append(
            tso.SetChunkIntervalOp(wanted.name, wanted.chunk_interval, existing=found.chunk_interval, schema=schema)
        )
    if new or run.edition.has(Feature.COLUMNSTORE):
        run.last += columnstore_ops(wanted, found)
    if new or run.edition.has(Feature.POLICIES):
        run.last += retention_ops(wanted, found, new=new)
        run.last += _reorder_ops(wanted, found)


def _reorder_ops(wanted: Hypertable, found: ReflectedHypertable | None) -> Iterator[MigrateOperation]:
    name, schema, old = wanted.name, wanted.schema, found.reorder if found else None
    if wanted.reorder is None:
        if old is not None:
            every = found.reorder_every if found else None
            yield tso.RemoveReorderPolicyOp(name, existing=old, existing_every=every, schema=schema)
    elif old is None:
        yield tso.AddReorderPolicyOp(name, wanted.reorder, schema=schema)
    elif old != wanted.reorder or (found is not None and not found.reorder_scheduled):
        yield tso.AlterReorderPolicyOp(name, wanted.reorder, existing=old, schema=schema)


def release_hypertable(run: Run, name: str, schema: str | None) -> None:
    """Release a hypertable whose table is dropped. The downgrade makes it one again, with its present settings."""
    found = run.reflected(schema).hypertables.get(name)
    if found is None:
        return
    if found.chunk_interval is None:
        _log.warning("%s is divided by numbers: the downgrade makes it an ordinary table", name)
        # The downgrade makes nothing, but the operation still guards its rows.
        run.first.append(tso.ReleaseHypertableOp(name, schema=schema, was=[]))
        return
    if found.dimensions > 1:
        _log.warning("%s is divided by space, too: the downgrade divides it by time only", name)
    was: list[MigrateOperation] = [
        tso.CreateHypertableOp(
            name, time=found.time, chunk_interval=found.chunk_interval, new_table=True, schema=schema
        )
    ]
    if found.columnstore is not None:
        was.append(
            tso.EnableColumnstoreOp(
                name, segment_by=found.columnstore.segment_by, order_by=found.columnstore.order_by, schema=schema
            )
        )
    if found.convert is not None:
        after = age_of(name, found.convert)
        was.append(tso.AddColumnstorePolicyOp(name, after, every=found.convert.every, schema=schema))
    if found.retention is not None:
        after = age_of(name, found.retention)
        every = retention_pace(found.retention)
        was.append(tso.AddRetentionPolicyOp(name, after, every=every, schema=schema, new_object=True))
    if found.reorder is not None:
        was.append(tso.AddReorderPolicyOp(name, found.reorder, every=found.reorder_every, schema=schema))
    run.first.append(tso.ReleaseHypertableOp(name, schema=schema, was=was))
