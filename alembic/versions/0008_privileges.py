"""Privileges of qts_engine and qts_readonly, also on later tables.

Revision ID: 0008
Revises: 0007
Create Date: 2026-11-21

Roles belong to the server, not to the database: `qts-data db roles` creates them. If they do not exist, nothing is
granted, and a NOTICE reports it.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


GRANT = """\
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
            IF target.bare = 't_ledger' THEN
                EXECUTE format('REVOKE UPDATE, DELETE ON TABLE %s FROM {role}', target.name);
            ELSIF target.bare = 'alembic_version' THEN
                EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON TABLE %s FROM {role}', target.name);
            END IF;
        END IF;
    END LOOP;
END
$$"""

REVOKE = """\
DO $$
DECLARE
    target record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{role}') THEN
        RETURN;
    END IF;
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I REVOKE ALL ON TABLES FROM {role}', current_schema());
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I REVOKE ALL ON SEQUENCES FROM {role}', current_schema());
    FOR target IN
        SELECT CAST(c.oid AS regclass) AS name, c.relkind = 'S' AS is_sequence
          FROM pg_catalog.pg_class AS c
         WHERE c.relnamespace = CAST(current_schema() AS regnamespace)
           AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
           AND pg_has_role(c.relowner, 'USAGE')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                            WHERE d.classid = CAST('pg_class' AS regclass) AND d.objid = c.oid AND d.deptype = 'e')
    LOOP
        IF target.is_sequence THEN
            EXECUTE format('REVOKE ALL ON SEQUENCE %s FROM {role}', target.name);
        ELSE
            EXECUTE format('REVOKE ALL ON TABLE %s FROM {role}', target.name);
        END IF;
    END LOOP;
END
$$"""

# Rights of each role on tables and views, and on sequences.
ROLES = {
    "qts_engine": ("SELECT, INSERT, UPDATE, DELETE", "USAGE, SELECT"),
    "qts_readonly": ("SELECT", "SELECT"),
}


def upgrade() -> None:
    for role, (tables, sequences) in ROLES.items():
        op.execute(GRANT.format(role=role, tables=tables, sequences=sequences))


def downgrade() -> None:
    for role in ROLES:
        op.execute(REVOKE.format(role=role))
