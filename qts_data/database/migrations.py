"""Alembic, called from code: where the migrations are, how they run, which revision the database has."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError

from qts_data.database.engine import DatabaseConfig, engine
from qts_data.database.errors import translated_errors
from qts_data.errors import ConfigurationError, QtsDataError, SchemaMismatch, TransactionConflict
from qts_data.timescale import ServerNotSupported, TimescaleError, probe, require_supported
from qts_data.timescale.adopt import adopt as timescale_adopt
from qts_data.timescale.drift import Difference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import URL, Connection

__all__ = [
    "AUTOGENERATE_OPTIONS",
    "MIGRATION_LOCK_KEY",
    "OWNER_ROLE",
    "Revision",
    "adopt",
    "alembic_config",
    "check_revision_known",
    "downgrade",
    "migration_connection",
    "revision_of",
    "script_location",
    "table_drift",
    "upgrade",
]

MIGRATION_LOCK_KEY: Final = 0x7174735F64617461
"""Advisory lock of this project's migrations: 'qts_data' in ASCII. Locks are local to one database."""
OWNER_ROLE: Final = "qts_owner"
"""Role that owns every object of ours, where the role exists. A migration switches to it first."""

AUTOGENERATE_OPTIONS: Final[dict[str, Any]] = {
    "compare_type": True,
    "compare_server_default": True,
    # CHECK constraints are compared by name, and only with this plugin.
    "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
}
"""Options for comparing the database with the models."""


@dataclass(frozen=True, slots=True)
class Revision:
    """The database's revision, compared with the code's.

    Attributes:
        database: Revision of the database, None before the first migration.
        code: Newest revision that the code knows, None before the first one is written.
        known: Whether the code knows the database's revision.
    """

    database: str | None
    code: str | None
    known: bool

    @property
    def current(self) -> bool:
        """Whether the database is at the code's revision."""
        return self.database == self.code


def script_location() -> Path:
    """Return the directory of env.py and versions. An installed wheel has it inside the package."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "migrations", package.parent / "alembic"):
        if (candidate / "env.py").is_file():
            return candidate
    raise ConfigurationError(f"the migrations are missing from {package}; install the package again")


def alembic_config(url: URL, **attributes: Any) -> Config:
    """Return the configuration for Alembic's commands. env.py reads the URL and the rest from its attributes."""
    config = Config()
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    config.attributes.update({"url": url, **attributes})
    return config


def upgrade(url: URL, revision: str = "head", **attributes: Any) -> None:
    """Migrate up. Wait while another process migrates the same database.

    Raises:
        QtsDataError: The migration failed; the message says in one sentence why, and the remedy.
    """
    if not revision or revision == "base" or revision.startswith("-"):
        raise ConfigurationError(
            f"{revision!r} is nothing to upgrade to: name a newer revision or head; qts-data db downgrade goes back"
        )
    with _sentences():
        command.upgrade(alembic_config(url, **attributes), revision)


def downgrade(url: URL, revision: str, **attributes: Any) -> None:
    """Migrate down to a revision, or to 'base'.

    Raises:
        QtsDataError: The migration failed; the message says in one sentence why, and the remedy.
    """
    if not revision or revision in ("head", "heads") or revision.startswith("+"):
        raise ConfigurationError(
            f"{revision!r} is nothing to downgrade to: name an older revision, -1 or base; qts-data db upgrade goes on"
        )
    with _sentences():
        command.downgrade(alembic_config(url, **attributes), revision)


def adopt(url: URL, metadata: sa.MetaData, *, allow_data_loss: bool = False, **limits: Any) -> list[tuple[str, str]]:
    """Apply the declarations that the database's server now supports. See `qts_data.timescale.adopt`.

    Args:
        url: The database, at the code's revision.
        metadata: The tables, with their declarations.
        allow_data_loss: Let a retention policy drop chunks that exist.
        limits: Passed on to `migration_connection`.

    Raises:
        QtsDataError: It failed; the message says in one sentence why, and the remedy.
    """
    with _sentences(), migration_connection(url, **limits) as connection:
        revision = revision_of(connection)
        if not revision.current:
            raise SchemaMismatch(
                f"the database is at revision {revision.database or 'none'}, the code needs {revision.code}; run "
                "qts-data db upgrade first"
            )
        # Moving a table's rows and filling an aggregate take as long as they need. Only waits for locks stay bounded.
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.commit()
        return timescale_adopt(connection, metadata, allow_data_loss=allow_data_loss, options=AUTOGENERATE_OPTIONS)


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        # env.py wraps our own errors in CommandError for Alembic's command line. Unwrap them here.
        if isinstance(error.__cause__, QtsDataError):
            raise error.__cause__ from error
        if isinstance(error.__cause__, RevisionError):
            head = ScriptDirectory(str(script_location())).get_current_head()
            raise ConfigurationError(f"{error.__cause__}: the revisions go from base to {head}") from error
        raise ConfigurationError(str(error)) from error
    except TimescaleError as error:
        raise ConfigurationError(str(error)) from error


def revision_of(connection: Connection) -> Revision:
    """Compare the database's revision with the code's.

    Raises:
        SchemaMismatch: The database has several revisions at once, which no migration of ours makes.
    """
    scripts = ScriptDirectory(str(script_location()))
    head = scripts.get_current_head()
    heads = MigrationContext.configure(connection).get_current_heads()
    if len(heads) > 1:
        raise SchemaMismatch(
            f"alembic_version has the revisions {', '.join(sorted(heads))}, where one is expected: delete those that "
            "were added by hand, so that only the revision to which the database was migrated is left"
        )
    found = heads[0] if heads else None
    return Revision(found, head, found is None or _is_known(scripts, found))


def table_drift(connection: Connection, metadata: sa.MetaData) -> list[Difference]:
    """Compare declared tables with the database, as Alembic's autogenerate does.

    It compares columns, indexes, constraints and comments. Tables that are not declared are left out.
    """

    def declared(_object: object, _name: str | None, kind: str, reflected: bool, model: object) -> bool:
        return not (kind == "table" and reflected and model is None)

    context = MigrationContext.configure(connection, opts=AUTOGENERATE_OPTIONS | {"include_object": declared})
    found = []
    for entry in compare_metadata(context, metadata):
        # Changes of one column come as a list, every other change as a single entry.
        for kind, *details in entry if isinstance(entry, list) else [entry]:
            found.append(_table_difference(str(kind), details))
    return found


def _table_difference(kind: str, details: list[Any]) -> Difference:
    if kind.startswith("modify_"):
        _schema, table, column, _existing, before, after = details
        return Difference(f"{table}.{column}", kind.removeprefix("modify_"), str(after), str(before))
    thing = details[-1]
    verb, _, what = kind.partition("_")
    name = getattr(thing, "name", None) or str(thing)
    owner = getattr(thing, "table", None)
    where = f"{owner.name}.{name}" if owner is not None and what != "table" else str(name)
    # Autogenerate names the change that would be needed: an object that it would add is declared and missing.
    declared, existing = ("-", "there") if verb == "remove" else ("there", "-")
    return Difference(where, what, declared, existing)


def _is_known(scripts: ScriptDirectory, revision: str) -> bool:
    try:
        return scripts.get_revision(revision) is not None
    except CommandError:
        return False


def check_revision_known(connection: Connection) -> None:
    """Refuse a database that a newer version of the code has migrated.

    Raises:
        SchemaMismatch: The code does not know the database's revision.
    """
    revision = revision_of(connection)
    if not revision.known:
        raise SchemaMismatch(
            f"the database is at revision {revision.database}, which this code does not know (it ends at "
            f"{revision.code}): a newer version has migrated it; deploy that version, or downgrade with it first"
        )


@contextlib.contextmanager
def migration_connection(
    url: URL,
    *,
    config: DatabaseConfig | None = None,
    wait_seconds: float = 600,
    lock_timeout_seconds: float = 5,
    statement_timeout_seconds: float = 900,
) -> Iterator[Connection]:
    """Open the one connection that migrates: check the server, take the lock, set the timeouts.

    The timeouts are set for the session, not by `SET LOCAL`: a migration that leaves its transaction
    (`autocommit_block`) would lose local ones. The lock is a session lock, too. It outlives each migration's
    transaction, and the server frees it when the connection ends, for whatever reason.

    Args:
        url: The database.
        config: TLS, and the longest wait for the connection.
        wait_seconds: Longest wait for another process that migrates.
        lock_timeout_seconds: `lock_timeout` of the migrations.
        statement_timeout_seconds: `statement_timeout` of the migrations.

    Raises:
        QtsDataError: It failed; the message says in one sentence why, and the remedy.
    """
    with (
        translated_errors(url),
        _server_errors(),
        engine(
            url, replace(config or DatabaseConfig(), application_name="qts_data migrations")
        ).connect() as connection,
    ):
        require_supported(probe(connection))
        _take_lock(connection, wait_seconds)
        for name, seconds in (
            ("lock_timeout", lock_timeout_seconds),
            ("statement_timeout", statement_timeout_seconds),
        ):
            connection.exec_driver_sql(f"SET {name} = {int(seconds * 1000)}")
        if _may_become_owner(connection):
            connection.exec_driver_sql(f"SET ROLE {OWNER_ROLE}")
        check_revision_known(connection)
        connection.commit()
        yield connection


@contextlib.contextmanager
def _server_errors() -> Iterator[None]:
    try:
        yield
    except ServerNotSupported as error:
        raise ConfigurationError(str(error)) from error


def _take_lock(connection: Connection, wait_seconds: float) -> None:
    connection.exec_driver_sql(f"SET lock_timeout = {int(wait_seconds * 1000)}")
    try:
        with translated_errors():
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({MIGRATION_LOCK_KEY})")
    except TransactionConflict as error:
        raise TransactionConflict(
            f"another process has been migrating this database for {wait_seconds:g} seconds; wait for it, or look "
            "for a session that holds an advisory lock in pg_locks",
            sqlstate=error.sqlstate,
        ) from error


def _may_become_owner(connection: Connection) -> bool:
    # Checks that the role was prepared for this database: roles belong to the cluster, grants to the database.
    return bool(
        connection.execute(
            sa.text(
                """
                SELECT count(*) > 0 FROM pg_catalog.pg_roles
                 WHERE rolname = :role AND pg_has_role(current_user, oid, 'MEMBER')
                   AND has_schema_privilege(oid, current_schema(), 'CREATE')
                """
            ),
            {"role": OWNER_ROLE},
        ).scalar_one()
    )
