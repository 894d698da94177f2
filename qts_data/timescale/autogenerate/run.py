"""The state of one run of the comparison."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import MigrateOperation
from sqlalchemy.engine import Connection

from qts_data.timescale.edition import Edition, Feature, Server
from qts_data.timescale.reflection import Reflected, ReflectedAggregate, ReflectedView, read_views, reflect

if TYPE_CHECKING:
    import sqlalchemy as sa

    from qts_data.timescale.declarations import ContinuousAggregate, DroppedAggregate, Hypertable

__all__ = ["Run"]

TableKey = tuple[str | None, str]


@dataclass(slots=True)
class Run:
    """One run of autogenerate.

    Attributes:
        context: Alembic's context.
        connection: The database.
        server: Its edition and versions.
        new_tables: Tables that the migration makes.
        dropped_tables: Tables that it drops.
        changed_tables: Tables with a dropped column or a changed type. The server refuses both under an aggregate.
        first: Operations before those on tables, because an aggregate blocks changes of the columns that it reads.
        last: Operations after those on tables.
    """

    context: AutogenContext
    connection: Connection
    server: Server
    new_tables: Collection[TableKey]
    dropped_tables: Sequence[TableKey]
    changed_tables: Collection[TableKey]
    first: list[MigrateOperation] = field(default_factory=list)
    last: list[MigrateOperation] = field(default_factory=list)
    _found: dict[str | None, Reflected] = field(default_factory=dict)
    _views: dict[str | None, dict[str, ReflectedView]] = field(default_factory=dict)

    @property
    def edition(self) -> Edition:
        """The server's edition."""
        return self.server.edition

    @property
    def appends(self) -> bool:
        """Whether the server can append columns to an aggregate."""
        return self.edition.has(Feature.CONTINUOUS_AGGREGATES) and (self.server.timescaledb or ()) >= (2, 28)

    def plain(self, schema: str | None) -> str | None:
        """Return a schema as Alembic writes it: None for the default one."""
        return None if schema == self.connection.dialect.default_schema_name else schema

    def reflected(self, schema: str | None) -> Reflected:
        """Return the TimescaleDB objects of a schema."""
        schema = self.plain(schema)
        if schema not in self._found:
            self._found[schema] = reflect(self.connection, self.edition, schema=schema)
        return self._found[schema]

    def look_for_views(self, schema: str | None, names: Collection[str]) -> None:
        """Read the plain views of these names, all at once, where no aggregate is."""
        schema = self.plain(schema)
        missing = [name for name in names if name not in self.reflected(schema).aggregates]
        self._views.setdefault(schema, {}).update(read_views(self.connection, missing, schema=schema))

    def existing(self, name: str, schema: str | None) -> ReflectedAggregate | ReflectedView | None:
        """Return the aggregate of that name, or the plain view if `look_for_views` has read it."""
        found = self.reflected(schema).aggregates.get(name)
        return found or self._views.get(self.plain(schema), {}).get(name)

    def table_wanted(self, table: sa.Table) -> bool:
        """Return whether the environment's filters let a declared table through. Others have no settings."""
        return self.context.run_object_filters(table, table.name, "table", False, None)

    def wanted(self, item: Hypertable | ContinuousAggregate | DroppedAggregate, kind: str, *, exists: bool) -> bool:
        """Return whether the environment's filters let an object through."""
        return self.named(item.name, kind, item.schema, exists=exists) and self.context.run_object_filters(
            item,  # type: ignore[arg-type] # Alembic knows only objects of SQLAlchemy
            item.name,
            kind,  # type: ignore[arg-type]
            False,
            None,
        )

    def named(self, name: str, kind: str, schema: str | None, *, exists: bool) -> bool:
        """Return whether the filter by name lets an object through. It applies to existing objects only."""
        return not exists or self.context.run_name_filters(name, kind, {"schema_name": schema})  # type: ignore[arg-type]
