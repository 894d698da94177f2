"""Privileges of the roles on our objects, including objects that are created later.

`qts-data db roles` or `scripts/create_roles.sql` creates the roles, once for a server. If a role does not exist, these
statements grant nothing and raise a NOTICE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy import event

from qts_data.models.base import Base
from qts_data.models.history import ConfigChange
from qts_data.models.ledger import LedgerEntry
from qts_data.timescale.ddl import verbatim

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PRIVILEGE_STATEMENTS"]

# Default privileges cover later objects of the same role, and the loop covers existing ones. Both are needed:
# GRANT ... ON ALL TABLES misses every later table. Objects of extensions and of other owners are left alone.
_GRANT: Final = """\
DO $$
DECLARE
    target record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{role}') THEN
        RAISE NOTICE 'role {role} does not exist: no privileges granted; run qts-data db roles';
        RETURN;
    END IF;
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT {tables} ON TABLES TO {role}', current_schema());
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT {sequences} ON SEQUENCES TO {role}', current_schema());
    FOR target IN
        SELECT CAST(c.oid AS regclass) AS name, c.relkind = 'S' AS is_sequence, c.relname AS bare
          FROM pg_catalog.pg_class AS c
         WHERE c.relnamespace = CAST(current_schema() AS regnamespace)
           AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
           AND pg_has_role(c.relowner, 'USAGE')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                            WHERE d.classid = CAST('pg_class' AS regclass) AND d.objid = c.oid AND d.deptype = 'e')
    LOOP
        IF target.is_sequence THEN
            EXECUTE format('GRANT {sequences} ON SEQUENCE %s TO {role}', target.name);
        ELSE
            EXECUTE format('GRANT {tables} ON TABLE %s TO {role}', target.name);
            IF target.bare IN ({append_only}) THEN
                EXECUTE format('REVOKE UPDATE, DELETE ON TABLE %s FROM {role}', target.name);
            ELSIF target.bare = 'alembic_version' THEN
                EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON TABLE %s FROM {role}', target.name);
            END IF;
        END IF;
    END LOOP;
END
$$"""

_APPEND_ONLY: Final = f"'{LedgerEntry.__tablename__}', '{ConfigChange.__tablename__}'"

PRIVILEGE_STATEMENTS: Final = (
    _GRANT.format(
        role="qts_engine",
        tables="SELECT, INSERT, UPDATE, DELETE",
        sequences="USAGE, SELECT",
        append_only=_APPEND_ONLY,
    ),
    _GRANT.format(
        role="qts_readonly",
        tables="SELECT",
        sequences="SELECT",
        append_only=_APPEND_ONLY,
    ),
)


@event.listens_for(Base.metadata, "after_create")
def _grant(_target: sa.MetaData, connection: sa.Connection, tables: Sequence[sa.Table] = (), **_: object) -> None:
    # Registered after the views' own listener, so that the views exist here.
    if tables:
        for statement in PRIVILEGE_STATEMENTS:
            connection.execute(verbatim(statement))
