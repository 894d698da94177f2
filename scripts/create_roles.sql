-- The roles of qts_data and their rights in the current database; run by psql as an administrator, after
-- connecting to the database. The same as `qts-data db roles`, which can also set passwords and hand over what
-- was migrated before. Passwords: \password qts_engine

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'qts_owner') THEN
        CREATE ROLE qts_owner LOGIN;
        COMMENT ON ROLE qts_owner IS 'Owns and migrates the schema of qts_data; TimescaleDB runs its policies';
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL;  -- another database of this server was being prepared at the same moment
END
$$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'qts_engine') THEN
        CREATE ROLE qts_engine LOGIN;
        COMMENT ON ROLE qts_engine IS 'The trading engine: reads and writes, cannot change the schema nor the ledger''s past';
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL;  -- another database of this server was being prepared at the same moment
END
$$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'qts_readonly') THEN
        CREATE ROLE qts_readonly LOGIN;
        COMMENT ON ROLE qts_readonly IS 'Adminer and dashboards: reads everything, writes nothing';
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL;  -- another database of this server was being prepared at the same moment
END
$$;

DO $$
BEGIN
    EXECUTE format('GRANT CONNECT, CREATE, TEMPORARY ON DATABASE %I TO qts_owner', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO qts_engine', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO qts_readonly', current_database());
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO qts_owner', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO qts_engine, qts_readonly', current_schema());
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
END
$$;

