"""A database whose server can do more than when it was migrated, such as after a change of TimescaleDB's edition."""

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
    """Give a database the declared objects that its server can have and that are missing.

    Tables become hypertables with their rows, while they are locked; plain views that stand for continuous aggregates
    become these, with their privileges, and are filled from all that is there, up to a bucket before the running one.
    An aggregate with rows is not filled, for a refresh deletes those whose source is gone. Buckets that are
    materialized and not over are withdrawn, for they hide the rows that follow. Policies come last: none of them may
    drop a row before it is in its aggregate. If this ends early, the finished steps stay, and the next call goes on.
    Existing objects that differ from the declarations are left alone.

    Args:
        connection: In no transaction; several are made on it. No other migration may run meanwhile.
        metadata: With the declarations.
        allow_data_loss: Add a retention policy, too, that will drop chunks that are there.
        options: More for Alembic's comparison.

    Returns:
        Name of the operation and of what it changed, in order.

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
        # A call that ended early may have made it and not filled it; then it has no policy yet, and no rows.
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
    """Drop plain views where aggregates are declared; gives their privileges."""
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
    # What would have to go first is there and differs: a migration's work, and not only a half of it.
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
