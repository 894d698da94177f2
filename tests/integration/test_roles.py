"""The rights of each role, tried as that role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa

from qts_data.database import migrations
from qts_data.database.engine import engine
from qts_data.database.roles import ENGINE_ROLE, READONLY_ROLE, ROLES, role_statements
from qts_data.models import VIEWS, Base, LedgerEntry
from qts_data.operations import schema
from qts_data.settings import Settings
from qts_data.timescale import declarations_of
from tests.fixtures.catalog import difference, read_catalog
from tests.fixtures.fix_cli import ROOT
from tests.fixtures.rows import NOW, ledger_row

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from sqlalchemy.engine import URL

    from qts_data.timescale import Edition

VIEW_NAMES = [*declarations_of(Base.metadata).continuous_aggregates, *(view.name for view in VIEWS)]
RELATIONS = [*Base.metadata.tables, *VIEW_NAMES]

pytestmark = pytest.mark.usefixtures("roles")


def prepare(url: URL) -> None:
    schema.prepare_roles(Settings(database_url=url.render_as_string(hide_password=False)))


def run_as(url: URL, role: str, statement: str | sa.Executable) -> Any:
    with engine(url).begin() as connection:
        connection.exec_driver_sql(f"SET ROLE {role}")
        result = connection.execute(sa.text(statement) if isinstance(statement, str) else statement)
        return result.all() if result.returns_rows else None


def refused(url: URL, role: str, statement: str) -> None:
    with pytest.raises(sa.exc.ProgrammingError) as caught:
        run_as(url, role, statement)
    assert isinstance(caught.value.orig, psycopg.errors.InsufficientPrivilege), statement


@pytest.fixture(params=["roles before the schema", "roles after the schema"])
def prepared(request: pytest.FixtureRequest) -> URL:
    """Both orders end in the same rights."""
    url: URL
    if request.param == "roles before the schema":
        url = request.getfixturevalue("empty_database")
        prepare(url)
        migrations.upgrade(url)
    else:
        url = request.getfixturevalue("database_url")
        prepare(url)
    return url


def test_each_role_can_do_its_work_and_no_more(prepared: URL) -> None:
    run_as(prepared, ENGINE_ROLE, sa.insert(LedgerEntry).values(**ledger_row()))
    run_as(
        prepared,
        ENGINE_ROLE,
        sa.insert(Base.metadata.tables["tick_data"]).values(
            symbol="005930", time=NOW, source="", seq=0, price=1, volume=1
        ),
    )
    run_as(prepared, ENGINE_ROLE, "UPDATE tick_data SET price = 2")
    run_as(prepared, ENGINE_ROLE, "CREATE TEMPORARY TABLE stage (x int)")

    for statement in (
        "UPDATE t_ledger SET fee = 1",
        "DELETE FROM t_ledger",
        "TRUNCATE t_ledger",
        "ALTER TABLE t_ledger DISABLE TRIGGER ALL",
        "DROP TRIGGER t_ledger_append_only ON t_ledger",
        "DROP FUNCTION t_ledger_refuse_change() CASCADE",
        "CREATE TABLE mine (x int)",
        "ALTER TABLE positions ADD COLUMN x int",
        "DROP TABLE positions",
        "TRUNCATE tick_data",
        "CREATE INDEX mine ON tick_data (price)",
        "DROP VIEW daily_pnl",
        "UPDATE alembic_version SET version_num = '0001'",
        "DELETE FROM alembic_version",
    ):
        refused(prepared, ENGINE_ROLE, statement)


def test_readonly_role_reads_all_tables_and_writes_none(prepared: URL) -> None:
    """Tables and views that are made later are readable too."""
    run_as(prepared, migrations.OWNER_ROLE, "CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY, x int)")
    run_as(prepared, migrations.OWNER_ROLE, "CREATE VIEW later_view AS SELECT x FROM later")
    for name in [*RELATIONS, "alembic_version", "later", "later_view"]:
        run_as(prepared, READONLY_ROLE, f"SELECT * FROM {name} LIMIT 1")
    for name in [*Base.metadata.tables, "alembic_version", "later"]:
        refused(prepared, READONLY_ROLE, f"INSERT INTO {name} DEFAULT VALUES")
        refused(prepared, READONLY_ROLE, f"DELETE FROM {name}")
        refused(prepared, READONLY_ROLE, f"TRUNCATE {name}")
    refused(prepared, READONLY_ROLE, "CREATE TABLE mine (x int)")
    # The engine may use later tables too, with their sequences.
    run_as(prepared, ENGINE_ROLE, "INSERT INTO later (x) VALUES (1)")


def test_objects_and_policies_belong_to_the_owner_role(prepared: URL, edition: Edition) -> None:
    """Jobs of TimescaleDB run as the owner role."""
    with engine(prepared).connect() as connection:
        owners = connection.execute(
            sa.text(
                """
                SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class AS c
                 WHERE relnamespace = CAST('public' AS regnamespace) AND NOT EXISTS (
                       SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
                """
            )
        ).scalars()
        assert set(owners) == {migrations.OWNER_ROLE}
        if edition == "community":
            jobs = connection.scalars(
                sa.text("SELECT DISTINCT owner FROM timescaledb_information.jobs WHERE job_id >= 1000")
            )
            assert set(jobs) == {migrations.OWNER_ROLE}
    # The owner can take its schema down and up again.
    migrations.downgrade(prepared, "base")
    migrations.upgrade(prepared)


def test_both_orders_make_the_same_privileges(empty_database: URL, database_url: URL, edition: Edition) -> None:
    first, second = empty_database, database_url
    prepare(first)
    migrations.upgrade(first)
    prepare(second)
    prepare(second)  # harmless to repeat
    catalogs = []
    for url in (first, second):
        with engine(url).connect() as connection:
            catalogs.append(read_catalog(connection, edition))
    left, right = catalogs
    # A migration before the roles existed left default privileges of its own.
    for catalog in catalogs:
        del catalog["default privileges"]
    assert difference(left, right) == {}


@pytest.mark.usefixtures("changing_a_role")
def test_a_password_logs_in_and_is_never_in_the_statement(empty_database: URL) -> None:
    statements: list[str] = []

    def record(_c: Any, _cur: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", record)
    try:
        schema.prepare_roles(
            Settings(
                database_url=empty_database.render_as_string(hide_password=False),
                readonly_password="it's a : secret",
            )
        )
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", record)
    assert any("ALTER ROLE qts_readonly PASSWORD 'SCRAM-SHA-256$" in statement for statement in statements)
    assert not any("secret" in statement for statement in statements)


def test_administrators_script_equals_the_commands_output(
    qts_data: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    printed = qts_data("db", "roles", "--sql")
    assert printed.returncode == 0, printed.stderr
    script = (ROOT / "scripts" / "create_roles.sql").read_text(encoding="utf-8")
    assert script.endswith(printed.stdout)
    for role in ROLES:
        assert f"CREATE ROLE {role} LOGIN" in script
    assert all(statement in script for statement in role_statements())
