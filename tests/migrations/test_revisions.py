"""The revisions: up, down, offline, at once, and equal to the models."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from qts_data.database import migrations
from qts_data.database.engine import engine
from qts_data.errors import ConfigurationError, SchemaMismatch
from qts_data.models import VIEWS, Base
from qts_data.timescale import declarations_of
from qts_data.timescale.edition import create_extension
from qts_data.timescale.status import State, feature_states
from tests.fixtures.added_column import copy_with_revision
from tests.fixtures.added_field import run_copy
from tests.fixtures.catalog import Catalog, difference, is_empty, read_catalog
from tests.fixtures.fix_cli import ROOT, clean_environment, runner, wheel_program
from tests.fixtures.fix_server import stop_background_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import URL

    from qts_data.timescale import Edition

VERSIONS = ROOT / "alembic" / "versions"
SCRIPTS = ScriptDirectory(str(migrations.script_location()))
REVISIONS = [script.revision for script in SCRIPTS.walk_revisions()][::-1]

pytestmark = pytest.mark.usefixtures("roles")


def catalog_of(url: URL, edition: Edition) -> Catalog:
    with engine(url).connect() as connection:
        return read_catalog(connection, edition)


def test_upgrade_passes_alembic_check(database_url: URL) -> None:
    # Raises when autogenerate would write anything.
    command.check(migrations.alembic_config(database_url))


def test_alembic_check_finds_a_dropped_column(database_url: URL) -> None:
    with engine(database_url).begin() as connection:
        connection.exec_driver_sql("ALTER TABLE risk_configs DROP COLUMN description")
    with pytest.raises(Exception, match="New upgrade operations detected"):
        command.check(migrations.alembic_config(database_url))


def test_downgrade_to_base_and_upgrade_give_the_same_catalog(database_url: URL, edition: Edition) -> None:
    """After the downgrade the catalog is empty."""
    first = catalog_of(database_url, edition)
    migrations.downgrade(database_url, "base")
    after = catalog_of(database_url, edition)
    assert is_empty(after), after
    migrations.upgrade(database_url)
    assert difference(first, catalog_of(database_url, edition)) == {}


def test_every_revision_steps_down_and_up_to_the_same_catalog(empty_database: URL, edition: Edition) -> None:
    with engine(empty_database).begin() as connection:
        create_extension(connection)
    before = catalog_of(empty_database, edition)
    for revision in REVISIONS:
        migrations.upgrade(empty_database, revision)
        at_revision = catalog_of(empty_database, edition)
        migrations.downgrade(empty_database, "-1")
        assert difference(before, catalog_of(empty_database, edition)) == {}, f"below {revision}"
        migrations.upgrade(empty_database, revision)
        assert difference(at_revision, catalog_of(empty_database, edition)) == {}, f"at {revision}"
        before = at_revision


def test_models_and_migrations_make_the_same_database(database_url: URL, empty_database: URL, edition: Edition) -> None:
    from_migrations, from_models = database_url, empty_database
    with engine(from_models).begin() as connection:
        create_extension(connection)
        Base.metadata.create_all(connection)
    left, right = catalog_of(from_migrations, edition), catalog_of(from_models, edition)
    assert difference(left, right) == {}
    # The comparison has rows of each kind, so an empty difference is meaningful.
    for kind in ("relations", "columns", "constraints", "indexes", "views", "triggers", "functions", "privileges"):
        assert left[kind], kind


def test_a_column_in_the_middle_of_a_model_is_migrated(
    database_url: URL, empty_database: URL, edition: Edition, tmp_path: Path
) -> None:
    """ADD COLUMN appends the column, and the model has it in the middle: both count as the same schema."""
    copy_with_revision(tmp_path, REVISIONS[-1])
    said = run_copy(tmp_path, "added_column", database_url, empty_database)
    assert said.splitlines()[-1] == f"{edition} {tmp_path}"


def test_drop_all_leaves_nothing_behind(empty_database: URL, edition: Edition) -> None:
    with engine(empty_database).begin() as connection:
        create_extension(connection)
        Base.metadata.create_all(connection)
        Base.metadata.drop_all(connection)
    catalog = catalog_of(empty_database, edition)
    # Default privileges are for later tables, and dropping tables does not change them.
    del catalog["default privileges"]
    assert is_empty(catalog), catalog


@pytest.mark.parametrize(
    "statement",
    [
        "COMMENT ON COLUMN tick_data.price IS 'something else'",
        "ALTER TABLE t_ledger DISABLE TRIGGER ALL; DROP TRIGGER t_ledger_append_only ON t_ledger",
        "ALTER TABLE positions DROP CONSTRAINT ck_positions_qty_finite",
        "GRANT DELETE ON t_ledger TO qts_engine",
        "DROP INDEX ix_t_ledger_timestamp",
        "CREATE OR REPLACE FUNCTION qts_trading_zone() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE RETURN 'UTC'",
        "DROP VIEW daily_metrics",
    ],
)
def test_the_catalog_comparison_sees_a_change(database_url: URL, edition: Edition, statement: str) -> None:
    before = catalog_of(database_url, edition)
    with engine(database_url).begin() as connection:
        connection.exec_driver_sql(statement)
    assert difference(before, catalog_of(database_url, edition)) != {}


@pytest.mark.edition("community")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT remove_retention_policy('tick_data')",
        """
        SELECT alter_job(job_id, config => jsonb_set(config, '{drop_after}', '"6 days"'))
          FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention' AND hypertable_name = 'tick_data'
        """,
        "SELECT set_chunk_time_interval('tick_data', INTERVAL '2 days')",
        "ALTER TABLE tick_data SET (timescaledb.orderby = 'time ASC, source, seq')",
        "ALTER MATERIALIZED VIEW ohlcv_1m SET (timescaledb.materialized_only = true)",
        "CREATE INDEX extra ON ohlcv_1m (source)",
    ],
)
def test_the_catalog_comparison_sees_a_timescaledb_change(database_url: URL, edition: Edition, statement: str) -> None:
    test_the_catalog_comparison_sees_a_change(database_url, edition, statement)


def test_two_concurrent_upgrades_succeed_and_migrate_once(empty_database: URL) -> None:
    """Both processes succeed. One of them finds nothing to do."""
    url = empty_database.render_as_string(hide_password=False)
    command_line = [str(Path(sys.executable).parent / "alembic"), "upgrade", "head"]
    processes = [
        subprocess.Popen(
            command_line,
            env=clean_environment(QTS_DATABASE_URL=url),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    logs = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], logs
    steps = Counter(
        line.split("Running upgrade")[1] for log in logs for line in log.splitlines() if "Running up" in line
    )
    assert len(steps) == len(REVISIONS)
    assert set(steps.values()) == {1}
    with engine(empty_database).connect() as connection:
        assert migrations.revision_of(connection).current


def test_offline_sql_run_by_psql_makes_the_same_catalog(
    database_url: URL,
    empty_database: URL,
    edition: Edition,
    alembic: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    online, offline = database_url, empty_database
    made = alembic("-x", f"edition={edition}", "upgrade", "head", "--sql")
    run_offline(offline, made)
    assert difference(catalog_of(online, edition), catalog_of(offline, edition)) == {}
    with engine(offline).connect() as connection:
        assert migrations.revision_of(connection).current


def run_offline(url: URL, made: subprocess.CompletedProcess[str]) -> None:
    assert made.returncode == 0, made.stderr
    run = subprocess.run(
        [wheel_program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", _libpq(url)],
        input=made.stdout,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr


def test_offline_sql_goes_down_too(
    database_url: URL, edition: Edition, alembic: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run_offline(database_url, alembic("-x", f"edition={edition}", "downgrade", "head:base", "--sql"))
    catalog = catalog_of(database_url, edition)
    assert is_empty(catalog), catalog


TICKS = """
    INSERT INTO tick_data (symbol, time, source, seq, price, volume)
    SELECT 'A', now() - n * INTERVAL '97 minutes', 'x', 0, n, 1 FROM generate_series(1, {count}) AS n
"""
ROWS = {
    "ohlcv_1m": "bucket, symbol, source, open, high, low, close, volume, tick_count",
    "ohlcv_1h": "bucket, symbol, source, open, high, low, close, volume, tick_count",
    "hourly_execution_metrics": "hour, stage, avg_latency_ms, p99_latency_ms, success_count, failure_count",
    "tick_data": "*", "tick_history": "*", "ohlcv_1m_vendor": "*", "ohlcv_1d": "*", "execution_logs": "*",
}  # fmt: skip


def fill(url: URL, *, ticks: int) -> None:
    with engine(url).begin() as connection:
        connection.exec_driver_sql(TICKS.format(count=ticks))
        connection.exec_driver_sql("INSERT INTO tick_history SELECT * FROM tick_data")
        connection.exec_driver_sql(
            "INSERT INTO execution_logs (time, order_id, symbol, stage, latency_ms, success) "
            "SELECT time, seq::text, symbol, 'sent', price, true FROM tick_data"
        )
        for table, time in (("ohlcv_1m_vendor", "date_trunc('minute', time)"), ("ohlcv_1d", "time")):
            connection.exec_driver_sql(
                f"INSERT INTO {table} (symbol, time, open, high, low, close, volume) "
                f"SELECT symbol, {time}, price, price, price, price, volume FROM tick_data"
            )
        connection.exec_driver_sql("GRANT SELECT ON ohlcv_1m TO PUBLIC")


def rows_of(url: URL) -> dict[str, list[sa.Row[tuple[object, ...]]]]:
    with engine(url).connect() as connection:
        return {
            name: list(connection.exec_driver_sql(f"SELECT {columns} FROM {name} ORDER BY 1, 2"))
            for name, columns in ROWS.items()
        }


@pytest.mark.edition("community")
@pytest.mark.parametrize("before", ["apache", "postgresql"])
def test_database_with_data_adopts_newer_features(
    database_url: URL,
    empty_database: URL,
    edition: Edition,
    alembic: Callable[..., subprocess.CompletedProcess[str]],
    before: str,
) -> None:
    """Its schema was made for an edition with fewer features. `adopt` adds the missing ones and keeps the rows."""
    wanted, moved = database_url, empty_database
    if before == "apache":
        with engine(moved).begin() as connection:
            create_extension(connection)
    run_offline(moved, alembic("-x", f"edition={before}", "upgrade", "head", "--sql"))
    if before == "apache":
        with engine(moved).connect() as connection:
            states = feature_states(connection, Base.metadata)
        assert {state.name for state in states if state.state is State.MISSING} == {
            "tick_data", "tick_history", "ohlcv_1m_vendor", "execution_logs",
            "ohlcv_1m", "ohlcv_1h", "hourly_execution_metrics",
        }  # fmt: skip
    fill(moved, ticks=80)
    rows = rows_of(moved)
    assert len(rows["ohlcv_1m"]) == 80
    done = migrations.adopt(moved, Base.metadata)
    with engine(moved).connect() as connection:
        stop_background_workers(connection, edition)
    assert ("create_continuous_aggregate", "ohlcv_1h") in done
    assert rows_of(moved) == rows
    with engine(moved).begin() as connection:
        # Privileges of the views are kept. Buckets are stored: a policy's first run would hide older ones otherwise.
        assert connection.scalar(sa.text("SELECT has_table_privilege('qts_readonly', 'ohlcv_1m', 'SELECT')"))
        connection.exec_driver_sql("REVOKE SELECT ON ohlcv_1m FROM PUBLIC")
        for aggregate in ("ohlcv_1m", "ohlcv_1h", "hourly_execution_metrics"):
            connection.exec_driver_sql(
                f"ALTER MATERIALIZED VIEW {aggregate} SET (timescaledb.materialized_only = true)"
            )
        stored = connection.scalar(sa.text("SELECT sum(tick_count) FROM ohlcv_1h"))
        assert stored is not None
        assert stored >= 75
        for aggregate in ("ohlcv_1m", "ohlcv_1h", "hourly_execution_metrics"):
            connection.exec_driver_sql(
                f"ALTER MATERIALIZED VIEW {aggregate} SET (timescaledb.materialized_only = false)"
            )
    assert difference(catalog_of(wanted, edition), catalog_of(moved, edition)) == {}
    assert migrations.adopt(moved, Base.metadata) == []


@pytest.mark.edition("community")
def test_adopting_drops_no_old_ticks_unasked(
    new_database: Callable[[], URL], edition: Edition, alembic: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """`adopt` refuses to drop ticks without `allow_data_loss`. Their bars stay."""
    moved = new_database()
    with engine(moved).begin() as connection:
        create_extension(connection)
    with engine(moved).connect() as connection:
        # The server's own workers would run the same jobs at the same time.
        stop_background_workers(connection, edition)
    run_offline(moved, alembic("-x", "edition=apache", "upgrade", "head", "--sql"))
    fill(moved, ticks=200)
    with pytest.raises(ConfigurationError, match="tick_data"):
        migrations.adopt(moved, Base.metadata)
    bars = rows_of(moved)["ohlcv_1m"]
    assert len(bars) == 200
    done = migrations.adopt(moved, Base.metadata, allow_data_loss=True)
    assert {function for function, _ in done} == {
        "add_refresh_policy", "add_retention_policy", "add_columnstore_policy",
    }  # fmt: skip
    with engine(moved).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for job in connection.scalars(sa.text("SELECT job_id FROM timescaledb_information.jobs WHERE job_id >= 1000")):
            connection.exec_driver_sql(f"CALL run_job({job})")
    after = rows_of(moved)
    assert len(after["tick_data"]) < 200
    assert after["ohlcv_1m"] == bars


def test_a_database_that_has_everything_has_nothing_to_adopt(
    empty_database: URL, database_url: URL, edition: Edition
) -> None:
    with pytest.raises(SchemaMismatch, match="run qts-data db upgrade first"):
        migrations.adopt(empty_database, Base.metadata)
    before = catalog_of(database_url, edition)
    assert migrations.adopt(database_url, Base.metadata) == []
    assert difference(before, catalog_of(database_url, edition)) == {}


def test_offline_sql_names_features_an_edition_leaves_out(
    alembic: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    made = alembic("-x", "edition=postgresql", "upgrade", "head", "--sql")
    assert "-- retention policy of tick_data after 7 days: not on the postgresql edition, left out" in made.stdout
    assert "-- continuous aggregate ohlcv_1m: a plain view on the postgresql edition" in made.stdout
    assert "create_hypertable" not in made.stdout


def test_offline_sql_without_an_edition_is_refused(alembic: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    made = alembic("upgrade", "head", "--sql")
    assert made.returncode != 0
    assert "pass -x edition=community, apache or postgresql" in made.stderr
    assert "Traceback" not in made.stderr


def _libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def test_revisions_import_nothing_of_ours() -> None:
    for path in VERSIONS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            assert not [name for name in names if name.split(".")[0] == "qts_data"], path.name


def test_revision_numbers_are_unique_and_in_one_line() -> None:
    numbers = Counter(path.name.split("_")[0] for path in VERSIONS.glob("*.py"))
    assert set(numbers.values()) == {1}
    assert sorted(numbers) == REVISIONS
    assert len(SCRIPTS.get_heads()) == 1


def test_a_new_migration_begins_with_the_safety_rules(tmp_path: Path, database_url: URL) -> None:
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    made = runner("alembic", cwd=tmp_path)(
        "-x", f"url={database_url.render_as_string(hide_password=False)}",
        "revision", "--autogenerate", "-m", "nothing to do", "--rev-id", "9999",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "alembic" / "versions" / "9999_nothing_to_do.py").read_text(encoding="utf-8")
    assert "Before merging:" in text
    assert "would delete bars silently" in text
    body = text.split("def upgrade()")[1]
    assert body.count("pass") == 2, "autogenerate found a difference"


def test_every_table_column_and_view_has_a_comment(database_url: URL, edition: Edition) -> None:
    catalog = catalog_of(database_url, edition)
    relations = [row for row in catalog["relations"] if row[1] in {"r", "p", "v", "m"}]
    aggregates = declarations_of(Base.metadata).continuous_aggregates
    assert len(relations) == len(Base.metadata.tables) + len(aggregates) + len(VIEWS)
    assert [row for row in relations if not row[2]] == []
    assert [row[:2] for row in catalog["columns"] if not row[6]] == []


def test_every_check_has_a_name_of_ours(database_url: URL) -> None:
    with engine(database_url).connect() as connection:
        names = connection.scalars(
            sa.text(
                "SELECT conname FROM pg_constraint "
                "WHERE contype = 'c' AND connamespace = CAST('public' AS regnamespace)"
            )
        ).all()
    assert names
    assert [name for name in names if not name.startswith("ck_")] == []
