"""Adopt: upgrade a database whose server supports more features than when it was migrated.

That is the case after a change of TimescaleDB's edition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations

from qts_data.timescale import ddl, watermark
from qts_data.timescale.autogenerate import PLUGIN_NAME
from qts_data.timescale.catalog import first_bucket, is_continuous_aggregate, view_grants
from qts_data.timescale.declarations import declarations_of
from qts_data.timescale.edition import Feature, create_extension, probe
from qts_data.timescale.operations.age_policies import AddColumnstorePolicyOp, AddRetentionPolicyOp
from qts_data.timescale.operations.aggregates import CreateContinuousAggregateOp
from qts_data.timescale.operations.base import TimescaleOp
from qts_data.timescale.operations.policies import AddRefreshPolicyOp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from alembic.operations import MigrateOperation
    from sqlalchemy.engine import Connection

    from qts_data.timescale.declarations import ContinuousAggregate

__all__ = ["adopt"]

_POLICIES = (AddRefreshPolicyOp, AddRetentionPolicyOp, AddColumnstorePolicyOp)


def adopt(
    connection: Connection,
    metadata: sa.MetaData,
    *,
    allow_data_loss: bool = False,
    options: Mapping[str, Any] | None = None,
) -> list[tuple[str, str]]:
    """Create the declared objects that are missing in a database and that its server supports.

    Tables become hypertables with their rows, and are locked meanwhile. Plain views that stand in for continuous
    aggregates become aggregates, with the same privileges. They are filled from all existing rows, up to one bucket
    before the running one. An aggregate with rows is not filled, because a refresh deletes rows whose source is gone.
    Materialized buckets that are not over are withdrawn, because they hide the rows that follow. Policies come last, so
    that none drops a row before it is in its aggregate. If this ends early, the finished steps stay, and the next call
    continues. Existing objects that differ from the declarations are left unchanged.

    Args:
        connection: In no transaction; this function opens several. No other migration may run meanwhile.
        metadata: The metadata with the declarations.
        allow_data_loss: Also add a retention policy that will drop existing chunks.
        options: Further options for Alembic's comparison.

    Returns:
        Name of each operation and of the object that it changed, in order.

    Raises:
        CommandError: A retention policy would drop chunks without permission; all but the policies is done.
    """
    context = MigrationContext.configure(
        connection,
        opts={
            **(options or {}),
            "autogenerate_plugins": ["alembic.autogenerate.*", PLUGIN_NAME],
            "timescale_allow_data_loss": allow_data_loss,
            "target_metadata": metadata,
        },
    )
    done: list[tuple[str, str]] = []

    def run(operations: Iterable[TimescaleOp]) -> None:
        for operation in operations:
            Operations(context).invoke(operation)
            done.append((operation.function, operation.name))

    with connection.begin():
        create_extension(connection)
        continuous = probe(connection).edition.has(Feature.CONTINUOUS_AGGREGATES)
        grants = _drop_stand_ins(connection, metadata) if continuous else {}
        missing = list(_missing(context, metadata))
        for operation in missing:
            if isinstance(operation, CreateContinuousAggregateOp):
                operation.grants = grants.get((operation.schema, operation.name), {})
        run(operation for operation in missing if not isinstance(operation, _POLICIES))
    made = {(one.schema, one.name) for one in missing if isinstance(one, CreateContinuousAggregateOp)}
    with connection.begin():
        policies = [operation for operation in _missing(context, metadata) if isinstance(operation, _POLICIES)]
        # An earlier call may have made an aggregate without filling it. Such an aggregate has no policy and no rows.
        started = {(one.schema, one.name) for one in policies if isinstance(one, AddRefreshPolicyOp)} - made
        made |= {(schema, name) for schema, name in started if first_bucket(connection, name, schema=schema) is None}
    aggregates = list(declarations_of(metadata).continuous_aggregates.values()) if continuous else []
    _fill(connection, [one for one in aggregates if (one.schema, one.name) in made])
    with connection.begin():
        done += [("set_back_watermark", name) for name in watermark.set_back(connection, aggregates)]
    with connection.begin():
        run(policies)
    return done


def _drop_stand_ins(
    connection: Connection, metadata: sa.MetaData
) -> dict[tuple[str | None, str], dict[str, list[str]]]:
    """Drop plain views where aggregates are declared, and return their privileges."""
    grants = {}
    for aggregate in reversed(declarations_of(metadata).continuous_aggregates.values()):
        name, schema = aggregate.name, aggregate.schema
        exists = connection.execute(
            sa.text("SELECT to_regclass(:name) IS NOT NULL"), {"name": ddl.qualified(name, schema)}
        ).scalar_one()
        if exists and not is_continuous_aggregate(connection, name, schema=schema):
            grants[schema, name] = view_grants(connection, name, schema=schema)
            connection.execute(ddl.verbatim(ddl.drop_view(name, continuous=False, schema=schema)))
    return grants


def _fill(connection: Connection, aggregates: list[ContinuousAggregate]) -> None:
    if not aggregates:
        return
    # The server refuses to refresh inside a transaction.
    connection.execution_options(isolation_level="AUTOCOMMIT")
    try:
        for one in aggregates:
            watermark.fill(connection, one)
    finally:
        connection.rollback()
        connection.execution_options(isolation_level=connection.default_isolation_level)


def _missing(context: MigrationContext, metadata: sa.MetaData) -> Iterator[TimescaleOp]:
    def flat(operations: Iterable[MigrateOperation]) -> Iterator[MigrateOperation]:
        for operation in operations:
            yield from flat(operation.ops) if hasattr(operation, "ops") else [operation]

    upgrades = produce_migrations(context, metadata).upgrade_ops
    operations = [one for one in flat([] if upgrades is None else upgrades.ops) if isinstance(one, TimescaleOp)]
    # An object that would have to be dropped first exists and differs. Replacing it is the work of a migration.
    rebuilt = {(one.schema, one.name) for one in operations if one.function == "drop_continuous_aggregate"}
    replaced = {
        (one.schema, one.name, f"add_{one.function.removeprefix('remove_')}")
        for one in operations
        if one.function.startswith("remove_")
    }
    for operation in operations:
        schema, name, function = operation.schema, operation.name, operation.function
        if (schema, name) in rebuilt or (schema, name, function) in replaced:
            continue
        if function.startswith(("create_", "enable_", "add_")):
            yield operation
