"""Listeners that make `metadata.create_all()` and `drop_all()` include the declarations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import event

from qts_data.timescale import ddl
from qts_data.timescale.catalog import is_continuous_aggregate
from qts_data.timescale.declarations import declarations_of
from qts_data.timescale.edition import probe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from qts_data.timescale.declarations import ContinuousAggregate, Hypertable

__all__: list[str] = []


@event.listens_for(sa.MetaData, "after_create")
def _create_declared(target: sa.MetaData, connection: Connection, tables: Sequence[sa.Table] = (), **_: object) -> None:
    """Build the declared objects for the tables that `metadata.create_all()` has just created."""
    declared = declarations_of(target)
    wanted: list[Hypertable | ContinuousAggregate] = [
        item for item in declared.hypertables.values() if item.table in tables
    ]
    built = {id(item) for item in wanted}
    for aggregate in declared.continuous_aggregates.values():
        if id(aggregate.source) in built:
            wanted.append(aggregate)
            built.add(id(aggregate))
    if wanted:
        edition = probe(connection).edition
        for item in wanted:
            for statement in ddl.statements_for(item, edition):
                connection.execute(ddl.verbatim(statement))


@event.listens_for(sa.MetaData, "before_drop")
def _drop_declared(target: sa.MetaData, connection: Connection, tables: Sequence[sa.Table] = (), **_: object) -> None:
    """Drop the aggregates before `metadata.drop_all()` drops the tables that they read."""
    declared = declarations_of(target)
    for aggregate in reversed(declared.continuous_aggregates.values()):
        if aggregate.table not in tables:
            continue
        name, schema = aggregate.name, aggregate.schema
        exists = connection.execute(
            sa.text("SELECT to_regclass(:name) IS NOT NULL"), {"name": ddl.qualified(name, schema)}
        ).scalar_one()
        if exists:
            continuous = is_continuous_aggregate(connection, name, schema=schema)
            connection.execute(ddl.verbatim(ddl.drop_view(name, continuous=continuous, schema=schema)))
