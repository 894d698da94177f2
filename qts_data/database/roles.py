"""The three roles: qts_owner migrates, qts_engine reads and writes, qts_readonly reads.

A role belongs to the server, its rights to one database. This module makes both, and may be run repeatedly. The
migrations grant the roles' rights on our tables. For a database that was migrated before the roles existed,
`prepare_roles` grants them once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.database.errors import translated_errors
from qts_data.database.migrations import OWNER_ROLE
from qts_data.timescale.ddl import literal, qualified, verbatim

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy.engine import Connection

__all__ = ["ENGINE_ROLE", "READONLY_ROLE", "ROLES", "existing_roles", "prepare_roles", "role_statements"]

ENGINE_ROLE: Final = "qts_engine"
READONLY_ROLE: Final = "qts_readonly"
ROLES: Final[Mapping[str, str]] = {
    OWNER_ROLE: "Owns and migrates the schema of qts_data; TimescaleDB runs its policies",
    ENGINE_ROLE: "The trading engine: reads and writes, cannot change the schema nor the ledger's past",
    READONLY_ROLE: "Adminer and dashboards: reads everything, writes nothing",
}

_CREATE: Final = """\
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{role}') THEN
        CREATE ROLE {role} LOGIN;
        COMMENT ON ROLE {role} IS {comment};
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL;  -- another database of this server was being prepared at the same moment
END
$$"""

_DATABASE: Final = """\
DO $$
BEGIN
    EXECUTE format('GRANT CONNECT, CREATE, TEMPORARY ON DATABASE %I TO {owner}', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO {engine}', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO {readonly}', current_database());
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO {owner}', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO {engine}, {readonly}', current_schema());
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
END
$$"""

# Takes over objects that another role created before our roles existed: a migration run as qts_owner could not change
# them. Extensions' objects are not in the list, nor indexes, sequences and chunks, which follow their table.
_TAKE_OVER: Final = """\
DO $$
DECLARE
    target record;
    aggregates text[] := '{{}}';
BEGIN
    -- To ALTER TABLE a continuous aggregate is a view, and its materialized rows stay with the old owner.
    IF to_regclass('timescaledb_information.continuous_aggregates') IS NOT NULL THEN
        EXECUTE 'SELECT coalesce(array_agg(view_name), $1) FROM timescaledb_information.continuous_aggregates '
                'WHERE view_schema = current_schema()' INTO aggregates USING aggregates;
    END IF;
    FOR target IN
        SELECT CAST(c.oid AS regclass) AS name,
               CASE WHEN c.relname = ANY (aggregates) THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END AS kind
          FROM pg_catalog.pg_class AS c
         WHERE c.relnamespace = CAST(current_schema() AS regnamespace)
           AND c.relname IN ({relations})
           AND c.relkind IN ('r', 'p', 'v')
           AND c.relowner <> CAST('{owner}' AS regrole)
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO {owner}', target.kind, target.name);
    END LOOP;
    FOR target IN
        SELECT CAST(p.oid AS regprocedure) AS name
          FROM pg_catalog.pg_proc AS p
         WHERE p.pronamespace = CAST(current_schema() AS regnamespace)
           AND p.proname IN ({functions})
           AND p.proowner <> CAST('{owner}' AS regrole)
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO {owner}', target.name);
    END LOOP;
END
$$"""


def role_statements() -> Iterator[str]:
    """Yield the SQL that makes the roles and grants their rights in the current database, without passwords."""
    for role, comment in ROLES.items():
        yield _CREATE.format(role=role, comment=literal(comment))
    yield _DATABASE.format(owner=OWNER_ROLE, engine=ENGINE_ROLE, readonly=READONLY_ROLE)


def existing_roles(connection: Connection) -> set[str]:
    """Return the names of our roles that exist on the server."""
    asked = sa.text("SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY(:roles)")
    return set(connection.scalars(asked, {"roles": list(ROLES)}))


def prepare_roles(
    connection: Connection,
    *,
    relations: Iterable[str],
    functions: Iterable[str],
    privileges: Iterable[str],
    passwords: Mapping[str, str | None],
) -> None:
    """Make the roles, give our objects to the owner role, and grant.

    Args:
        connection: Of a superuser, or of a role that may create roles and owns the database.
        relations: Names of our tables and views, in the current schema.
        functions: Names of our functions, in the current schema.
        privileges: Statements that grant on our objects; run as the owner.
        passwords: Password of each role; None keeps its present one.

    Raises:
        QtsDataError: The connection's role may not do this, or no server answers.
    """
    with translated_errors():
        for statement in role_statements():
            connection.execute(verbatim(statement))
        for role, password in passwords.items():
            if password is not None:
                hashed = _hashed(connection, role, password)
                connection.execute(verbatim(f"ALTER ROLE {qualified(role)} PASSWORD {hashed}"))
        connection.execute(
            verbatim(
                _TAKE_OVER.format(
                    owner=OWNER_ROLE,
                    relations=", ".join(map(literal, relations)),
                    functions=", ".join(map(literal, functions)),
                )
            )
        )
        connection.exec_driver_sql(f"SET LOCAL ROLE {OWNER_ROLE}")
        for statement in privileges:
            connection.execute(verbatim(statement))
        connection.exec_driver_sql("RESET ROLE")


def _hashed(connection: Connection, role: str, password: str) -> str:
    # The password is hashed on the client, so that the server's log never shows it.
    driver = connection.connection.driver_connection
    if driver is None:
        raise sa.exc.InvalidRequestError("the connection is closed")
    hashed: bytes = driver.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    return literal(hashed.decode())
