"""The base of every operation: its needs, its statements, its cost, its reverse."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary

from alembic.operations import MigrateOperation, Operations
from alembic.util import CommandError

from qts_data.timescale import ddl
from qts_data.timescale.catalog import Grant
from qts_data.timescale.edition import Edition, Feature, create_extension, offline_server, probe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from alembic.runtime.migration import MigrationContext

    from qts_data.timescale.edition import Server
    from qts_data.timescale.intervals import Interval

__all__ = [
    "CreateExtensionOp",
    "DroppedView",
    "Group",
    "Memory",
    "Safety",
    "TimescaleOp",
    "known",
    "log",
    "may_lose_data",
    "memory_of",
    "migration_server",
    "on_op",
    "say",
    "texts",
]

log: logging.Logger = logging.getLogger("alembic.runtime.migration")


def migration_server(operations: Operations) -> Server:
    """Return the server that the running migration works on.

    Raises:
        CommandError: Offline, and the script's edition was not given.
    """
    context = operations.get_context()
    if not context.as_sql:
        return probe(operations.get_bind())
    edition = context.opts.get("timescale_edition")
    if edition is None:
        raise CommandError(
            f"offline SQL needs an edition: pass -x edition={'|'.join(edition.value for edition in Edition)}"
        )
    try:
        return offline_server(Edition(edition))
    except ValueError as error:
        raise CommandError(
            f"{edition!r} is not an edition; it must be one of {', '.join(edition.value for edition in Edition)}"
        ) from error


@dataclass(frozen=True, slots=True)
class DroppedView:
    """The properties of an aggregate that was dropped in this run, for the one that is made in its place.

    Attributes:
        columns: Names of its columns.
        grants: Privileges on it and on its columns.
    """

    columns: frozenset[str]
    grants: tuple[Grant, ...]


@dataclass(slots=True)
class Memory:
    """Notes of the operations of one run for its later operations.

    Attributes:
        dropped: Views that are gone, by schema and name.
        stood_on: By an aggregate's schema and name, aggregates on top of it that were dropped before without
            `allow_data_loss`: name, and the oldest bucket that it had.
    """

    dropped: dict[tuple[str | None, str], DroppedView] = field(default_factory=dict)
    stood_on: dict[tuple[str | None, str], dict[str, Any]] = field(default_factory=dict)


_MEMORIES: Final[WeakKeyDictionary[MigrationContext, Memory]] = WeakKeyDictionary()


def memory_of(operations: Operations) -> Memory:
    """Return the memory of the run that these operations belong to."""
    return _MEMORIES.setdefault(operations.get_context(), Memory())


class Safety(enum.StrEnum):
    """The cost of running an operation on a database in use."""

    ONLINE = "online"
    FUTURE_CHUNKS_ONLY = "future chunks only"
    NEEDS_RECOMPRESS = "needs recompress"
    REBUILD = "rebuild"
    DESTROYS_DATA = "destroys data"


class TimescaleOp(MigrateOperation):
    """Base of the operations: their needs, their statements, their cost, their arguments."""

    feature: Feature | None = None
    function: str = ""
    """Name on `op`."""
    safety: Safety = Safety.ONLINE
    reason: str = ""
    """Why the operation is of that class. Written above it in a migration."""
    alters: str = ""
    """The object, such as a policy, for which each statement must return a row. Empty if none is needed."""

    def __init__(self, name: str, *, schema: str | None = None) -> None:
        self.name = name
        self.schema = schema

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the call on `op` as plain values, without the schema."""
        return {}

    def statements(self, edition: Edition, /) -> Iterable[str]:
        """Return the SQL for this edition, in order. Nothing for an operation with its own `run`."""
        del edition
        return ()

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the operation as a tuple for `alembic check` and `compare_metadata`."""
        return (self.function, self.schema, self.name, self.arguments())

    def summary(self) -> str:
        """Name the policy or setting that an edition without the feature leaves out."""
        return f"{self.feature} of {ddl.qualified(self.name, self.schema)}"

    def run(self, operations: Operations) -> None:
        """Send the statements, or report why not."""
        server = migration_server(operations)
        if self.feature is not None and not server.edition.has(self.feature):
            say(operations, f"{self.summary()}: not on the {server.edition} edition, left out")
            return
        for statement in self.statements(server.edition):
            if self.alters and not operations.get_context().as_sql:
                self._alter(operations, statement)
            else:
                operations.execute(ddl.verbatim(statement))

    def _alter(self, operations: Operations, statement: str) -> None:
        if operations.get_bind().execute(ddl.verbatim(statement)).first() is None:
            raise CommandError(
                f"{self.function}: {ddl.qualified(self.name, self.schema)} has no {self.alters}, so nothing was "
                "changed: look at timescaledb_information.jobs, and correct the migration or add the policy"
            )

    @classmethod
    def invoke(cls, operations: Operations, *args: Any, **kw: Any) -> None:
        """Run the operation, called through `op`."""
        operations.invoke(cls(*args, **kw))


_OpType = TypeVar("_OpType", bound=type[TimescaleOp])


def on_op(operation: _OpType) -> _OpType:
    """Give `op` a function of the operation's name."""
    Operations.register_operation(operation.function, "invoke")(operation)
    return operation


def say(operations: Operations, message: str) -> None:
    """Write a line in Alembic's log, and a comment in offline SQL."""
    context = operations.get_context()
    if context.as_sql and context.impl.output_buffer is not None:
        context.impl.static_output(f"-- {message}")
    log.info(message)


def may_lose_data(operations: Operations, *, allowed: bool) -> bool:
    """Return whether the caller allowed it, or the mode is offline, which cannot check."""
    context = operations.get_context()
    return allowed or context.as_sql or bool(context.opts.get("timescale_allow_data_loss"))


def texts(**intervals: Interval | None) -> dict[str, Any]:
    """Return the given intervals as arguments."""
    return {name: interval.text for name, interval in intervals.items() if interval is not None}


_Known = TypeVar("_Known")


def known(existing: _Known | None, operation: TimescaleOp) -> _Known:
    """Return the former value.

    Raises:
        ValueError: It was not given, so the operation cannot be reversed.
    """
    if existing is None:
        raise ValueError(f"{operation.function}({operation.name!r}): not known how it was, cannot be reversed")
    return existing


class Group(MigrateOperation):
    """Several operations in order, in place of the one that Alembic expects: a reverse of more than one step."""

    def __init__(self, operations: Sequence[MigrateOperation]) -> None:
        self.ops: list[MigrateOperation] = list(operations)

    def reverse(self) -> Group:
        """Reverse each operation, the last one first."""
        return Group([operation.reverse() for operation in reversed(self.ops)])


@Operations.implementation_for(TimescaleOp)
def _run(operations: Operations, operation: TimescaleOp) -> None:
    operation.run(operations)


@Operations.implementation_for(Group)
def _run_group(operations: Operations, group: Group) -> None:
    for operation in group.ops:
        operations.invoke(operation)


@on_op
class CreateExtensionOp(TimescaleOp):
    """Install the extension if the server offers it. Plain PostgreSQL stays plain.

    It cannot be reversed: the extension may serve other schemas of the database.
    """

    function = "create_timescaledb_extension"

    def __init__(self) -> None:
        super().__init__("timescaledb")

    def run(self, operations: Operations) -> None:
        """Create the extension, unless the migration runs with `timescaledb_off`."""
        context = operations.get_context()
        if context.as_sql:
            if migration_server(operations).edition is not Edition.POSTGRESQL:
                operations.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            return
        if context.opts.get("timescaledb_off"):
            server = probe(operations.get_bind())
        else:
            server = create_extension(operations.get_bind())
        log.info(
            "Server: %s edition, PostgreSQL %s, TimescaleDB %s",
            server.edition,
            server.postgres,
            server.timescaledb_text,
        )
