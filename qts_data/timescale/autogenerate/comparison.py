"""Comparison of a MetaData with a database, as operations that lead from one to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic.operations import ops
from alembic.util import PriorityDispatchResult

from qts_data.timescale.autogenerate.aggregates import compare_aggregates
from qts_data.timescale.autogenerate.hypertables import compare_hypertable, release_hypertable
from qts_data.timescale.autogenerate.run import Run
from qts_data.timescale.declarations import Declarations, declarations_of
from qts_data.timescale.edition import probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.autogenerate.api import AutogenContext

__all__ = ["compare"]


def compare(context: AutogenContext, upgrade_ops: ops.UpgradeOps, schemas: set[str | None]) -> PriorityDispatchResult:
    """Add our operations before and after Alembic's operations on tables."""
    metadatas = context.metadata if isinstance(context.metadata, list | tuple) else [context.metadata]
    connection = context.connection
    if connection is None:
        return PriorityDispatchResult.CONTINUE
    run = Run(
        context,
        connection,
        probe(connection),
        {(op.schema, op.table_name) for op in upgrade_ops.ops if isinstance(op, ops.CreateTableOp)},
        [(op.schema, op.table_name) for op in upgrade_ops.ops if isinstance(op, ops.DropTableOp)],
        set(_changed_tables(upgrade_ops)),
    )
    default = connection.dialect.default_schema_name
    compared = schemas | ({default} if None in schemas else set())
    declared = Declarations()
    for metadata in metadatas:
        if isinstance(metadata, sa.MetaData):
            declared.update(declarations_of(metadata))
    for table in declared.hypertables.values():
        if table.schema in compared:
            compare_hypertable(run, table)
    compare_aggregates(run, declared, compared)
    for schema, name in run.dropped_tables:
        release_hypertable(run, name, schema)
    upgrade_ops.ops[:] = [*run.first, *upgrade_ops.ops, *run.last]
    return PriorityDispatchResult.CONTINUE


def _changed_tables(upgrade_ops: ops.UpgradeOps) -> Iterator[tuple[str | None, str]]:
    for table in upgrade_ops.ops:
        if isinstance(table, ops.ModifyTableOps) and any(
            isinstance(change, ops.DropColumnOp)
            or (isinstance(change, ops.AlterColumnOp) and change.modify_type is not None)
            for change in table.ops
        ):
            yield table.schema, table.table_name
