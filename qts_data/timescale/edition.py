"""The server's edition and its features, read from the server and never configured."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.timescale.errors import ServerNotSupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection

__all__ = [
    "MINIMUM_POSTGRES_MAJOR",
    "MINIMUM_TIMESCALEDB",
    "SAFE_TIMESCALEDB",
    "Edition",
    "Feature",
    "Server",
    "create_extension",
    "offline_server",
    "probe",
    "require_supported",
]

MINIMUM_POSTGRES_MAJOR: Final = 16
"""TimescaleDB 2.29 runs on PostgreSQL 16 to 18. Older majors are not tested here."""
MINIMUM_TIMESCALEDB: Final = (2, 18, 0)
"""First release with the columnstore's names (`add_columnstore_policy`, `enable_columnstore`)."""
SAFE_TIMESCALEDB: Final = (2, 29, 1)
"""First release with the known security fixes."""


class Feature(enum.StrEnum):
    """A feature that an edition may lack."""

    HYPERTABLES = "hypertables"
    CONTINUOUS_AGGREGATES = "continuous aggregates"
    COLUMNSTORE = "columnstore"
    POLICIES = "refresh and retention policies"


class Edition(enum.StrEnum):
    """TimescaleDB under the Timescale License, under the Apache License, or PostgreSQL alone."""

    COMMUNITY = "community"
    APACHE = "apache"
    POSTGRESQL = "postgresql"

    def has(self, feature: Feature) -> bool:
        """Return whether this edition offers the feature."""
        return feature in _FEATURES[self]


_FEATURES: Final[Mapping[Edition, frozenset[Feature]]] = {
    Edition.COMMUNITY: frozenset(Feature),
    Edition.APACHE: frozenset({Feature.HYPERTABLES}),
    Edition.POSTGRESQL: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Server:
    """Edition and versions of a server.

    Attributes:
        edition: The edition in force in this database.
        postgres: Server version as the server prints it.
        postgres_major: Major version.
        timescaledb: Installed version of the extension in this database, or None.
        available: Version that `CREATE EXTENSION timescaledb` would install, or None.
        preloaded: Whether the server loaded the extension's library at its start.
    """

    edition: Edition
    postgres: str
    postgres_major: int
    timescaledb: tuple[int, ...] | None
    available: str | None
    preloaded: bool

    @property
    def timescaledb_text(self) -> str:
        """Version of the extension as text, '-' without one."""
        return ".".join(map(str, self.timescaledb)) if self.timescaledb else "-"


_PROBE: Final = sa.text(
    """
    SELECT current_setting('server_version') AS postgres,
           current_setting('server_version_num')::int / 10000 AS postgres_major,
           (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb') AS timescaledb,
           (SELECT default_version FROM pg_catalog.pg_available_extensions
             WHERE name = 'timescaledb') AS available,
           current_setting('timescaledb.license', true) AS license,
           current_setting('timescaledb.disable_load', true) IS NOT NULL AS preloaded
    """
)


def probe(connection: Connection) -> Server:
    """Read the server's edition, by one statement.

    The license is the server's setting `timescaledb.license`: `timescale` or `apache`.
    """
    row = connection.execute(_PROBE).one()
    if row.timescaledb is None:
        edition = Edition.POSTGRESQL
    elif row.license == "timescale":
        edition = Edition.COMMUNITY
    else:
        edition = Edition.APACHE
    version = row.timescaledb and tuple(int(part) for part in row.timescaledb.split("-")[0].split("."))
    return Server(edition, row.postgres, row.postgres_major, version or None, row.available, bool(row.preloaded))


def offline_server(edition: Edition) -> Server:
    """Return the server for which a script is generated: the oldest supported one of that edition."""
    timescaledb = None if edition is Edition.POSTGRESQL else MINIMUM_TIMESCALEDB
    return Server(
        edition,
        f"{MINIMUM_POSTGRES_MAJOR}.0",
        MINIMUM_POSTGRES_MAJOR,
        timescaledb,
        timescaledb and ".".join(map(str, timescaledb)),
        timescaledb is not None,
    )


def require_supported(server: Server) -> None:
    """Refuse a server that is too old.

    Raises:
        ServerNotSupported: PostgreSQL or TimescaleDB is older than the oldest supported version.
    """
    if server.postgres_major < MINIMUM_POSTGRES_MAJOR:
        raise ServerNotSupported(
            f"PostgreSQL {server.postgres} is too old: version {MINIMUM_POSTGRES_MAJOR} or newer is needed; "
            "upgrade the server"
        )
    if server.timescaledb is not None and server.timescaledb < MINIMUM_TIMESCALEDB:
        raise ServerNotSupported(
            f"TimescaleDB {server.timescaledb_text} is too old: version "
            f"{'.'.join(map(str, MINIMUM_TIMESCALEDB))} or newer is needed; install it and run "
            "ALTER EXTENSION timescaledb UPDATE"
        )


def create_extension(connection: Connection) -> Server:
    """Install the extension if the server offers it, and return the server's state afterwards.

    A server without the extension stays plain PostgreSQL, which is an edition of its own. A server that has the
    extension on disk is meant to use it. So any obstacle is an error, not a silent fallback.

    Raises:
        ServerNotSupported: The extension is installed but not preloaded, or this role may not create it.
    """
    server = probe(connection)
    if server.timescaledb is not None or server.available is None:
        return server
    if not server.preloaded:
        raise ServerNotSupported(
            f"TimescaleDB {server.available} is installed on the server but not loaded: set "
            "shared_preload_libraries = 'timescaledb' and restart it (or migrate with -x timescaledb=off)"
        )
    allowed, user, database = connection.execute(
        sa.text(
            """
            SELECT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
                   OR (has_database_privilege(current_database(), 'CREATE')
                       AND (SELECT bool_or(trusted) FROM pg_catalog.pg_available_extension_versions
                             WHERE name = 'timescaledb' AND version = :version)),
                   current_user, current_database()
            """
        ),
        {"version": server.available},
    ).one()
    if not allowed:
        raise ServerNotSupported(
            f"TimescaleDB {server.available} is available but not installed in database {database!r}, and role "
            f"{user!r} may not install it: ask an administrator to run CREATE EXTENSION timescaledb there "
            "(or migrate with -x timescaledb=off)"
        )
    connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS timescaledb"))
    return probe(connection)
