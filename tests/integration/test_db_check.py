"""`qts-data db check` finds changes of declared objects, and leaves undeclared objects alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from qts_data.database.engine import engine
from qts_data.models import Base
from qts_data.timescale import Edition
from qts_data.timescale.drift import find_drift
from qts_data.timescale.edition import create_extension
from tests.fixtures.fix_cli import HEAD
from tests.fixtures.foreign_schema import foreign_schema

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from sqlalchemy.engine import URL, Engine

    Run = Callable[..., subprocess.CompletedProcess[str]]


def text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def job(procedure: str, name: str, change: str) -> str:
    return (
        f"SELECT alter_job(job_id, {change}) FROM timescaledb_information.jobs "
        f"WHERE proc_name = '{procedure}' AND hypertable_name = '{name}'"
    )


def test_migrated_database_is_clean_with_notes_on_retention(qts_data: Run, database_url: URL, edition: Edition) -> None:
    """The check of a migrated database is clean. On editions without retention it notes that."""
    run = qts_data("db", "check", QTS_DATABASE_URL=text(database_url))
    assert (run.returncode, run.stdout.strip()) == (0, f"as declared, on the {edition} edition"), run.stdout
    enforced = "note: tick_data: retention 7 days is not enforced here" not in run.stderr
    assert enforced == (edition is Edition.COMMUNITY)


CHANGES_EVERYWHERE = {
    "ALTER TABLE positions DROP CONSTRAINT ck_positions_qty_finite": (
        "positions.ck_positions_qty_finite",
        "constraint",
        "there",
        "-",
    ),
    "ALTER TABLE t_ledger DROP CONSTRAINT uq_t_ledger_execution": (
        "t_ledger.uq_t_ledger_execution",
        "constraint",
        "there",
        "-",
    ),
    "ALTER TABLE strategies DROP COLUMN description": ("strategies.description", "column", "there", "-"),
    "ALTER TABLE positions ALTER currency DROP NOT NULL": ("positions.currency", "nullable", "False", "True"),
    "CREATE INDEX by_hand ON positions (qty)": ("positions.by_hand", "index", "-", "there"),
    "COMMENT ON COLUMN positions.qty IS 'x'": ("positions.qty", "comment", None, "x"),
    "CREATE OR REPLACE VIEW daily_metrics AS SELECT trading_day, account, currency, realized_pnl, fees, net_pnl, "
    "net_cash_flow, trade_count, trade_count AS win_count, realized_pnl AS notional FROM daily_pnl": (
        "daily_metrics",
        "view",
        None,
        None,
    ),
    "DROP VIEW daily_pnl": ("daily_pnl", "view", None, "-"),
}


@pytest.mark.parametrize("statement", CHANGES_EVERYWHERE)
def test_a_change_of_a_table_or_view_is_found(qts_data: Run, database: Engine, statement: str) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql(statement)
    run = qts_data("db", "check", "--json", QTS_DATABASE_URL=text(database.url))
    assert run.returncode == 1, run.stderr
    (found,) = json.loads(run.stdout)["differences"]
    for value, wanted in zip(found.values(), CHANGES_EVERYWHERE[statement], strict=True):
        assert wanted is None or value == wanted


CHANGES_ON_COMMUNITY = {
    job("policy_retention", "tick_data", "config => jsonb_set(config, '{drop_after}', '\"3 days\"')"): (
        "tick_data",
        "retention policy",
        "7 days",
        "3 days",
    ),
    job("policy_retention", "tick_data", "scheduled => false"): (
        "tick_data",
        "retention policy",
        "7 days",
        "7 days, paused",
    ),
    "SELECT remove_retention_policy('tick_data')": ("tick_data", "retention policy", "7 days", "-"),
    "SELECT add_retention_policy('ohlcv_1d', INTERVAL '30 days')": ("ohlcv_1d", "retention policy", "-", "30 days"),
    "SELECT add_retention_policy('ohlcv_1h', INTERVAL '1 year')": ("ohlcv_1h", "retention policy", "-", "12 months"),
    job("policy_compression", "tick_data", "config => jsonb_set(config, '{compress_after}', '\"26 hours\"')"): (
        "tick_data",
        "columnstore policy",
        "1 day",
        "1 day 2 hours",
    ),
    "SELECT set_chunk_time_interval('tick_data', INTERVAL '12 hours')": (
        "tick_data",
        "chunk interval",
        "1 day",
        "12 hours",
    ),
    "ALTER TABLE tick_data SET (timescaledb.orderby = 'time, source DESC NULLS LAST, seq')": (
        "tick_data",
        "columnstore",
        "segment by symbol order by time DESC, source, seq",
        "segment by symbol order by time, source DESC NULLS LAST, seq",
    ),
    "ALTER MATERIALIZED VIEW ohlcv_1m SET (timescaledb.materialized_only = true)": (
        "ohlcv_1m",
        "materialized_only",
        "False",
        "True",
    ),
    "DROP INDEX _timescaledb_internal.ix_ohlcv_1m_symbol_bucket": (
        "ohlcv_1m",
        "index",
        "ix_ohlcv_1m_symbol_bucket (symbol, bucket DESC)",
        "-",
    ),
    "CREATE INDEX by_hand ON ohlcv_1m (source)": ("ohlcv_1m", "index", "-", "by_hand (source)"),
    job("policy_refresh_continuous_aggregate", "ohlcv_1h", "schedule_interval => INTERVAL '1 day'"): None,
    job("policy_refresh_continuous_aggregate", "ohlcv_1h", "scheduled => false"): (
        "ohlcv_1h",
        "refresh policy",
        "7 days to 1 hour ago every 30 minutes",
        "7 days to 1 hour ago every 30 minutes, paused",
    ),
}


@pytest.mark.edition("community")
@pytest.mark.parametrize("statement", CHANGES_ON_COMMUNITY)
def test_a_change_at_three_in_the_morning_is_found(qts_data: Run, database: Engine, statement: str) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql(statement)
    run = qts_data("db", "check", "--json", QTS_DATABASE_URL=text(database.url))
    assert run.returncode == 1, run.stdout + run.stderr
    differences = [tuple(item.values()) for item in json.loads(run.stdout)["differences"]]
    wanted = CHANGES_ON_COMMUNITY[statement]
    if wanted is None:  # a policy with another interval is another policy: one is missing, one is undeclared
        assert [(what, declared == "-", found == "-") for _, what, declared, found in differences] == [
            ("refresh policy", False, True),
            ("refresh policy", True, False),
        ]
    else:
        assert differences == [wanted]


@pytest.mark.edition("community")
def test_another_definition_of_an_aggregate_is_found(database: Engine) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("DROP MATERIALIZED VIEW hourly_execution_metrics")
        connection.exec_driver_sql(
            "CREATE MATERIALIZED VIEW hourly_execution_metrics WITH (timescaledb.continuous) AS "
            "SELECT time_bucket('1 hour', time) AS hour, stage, avg(latency_ms) AS avg_latency_ms "
            "FROM execution_logs GROUP BY 1, 2 WITH NO DATA"
        )
    with database.connect() as connection:
        found = {(item.name, item.what) for item in find_drift(connection, Base.metadata)}
    assert ("hourly_execution_metrics", "definition") in found
    assert ("hourly_execution_metrics", "materialized_only") in found
    # Its columns lost their comments, too.
    assert {name.partition(".")[0] for name, _ in found} == {"hourly_execution_metrics"}


def test_undeclared_objects_are_left_alone(qts_data: Run, database: Engine, edition: Edition) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (at timestamptz NOT NULL, x int)")
        connection.exec_driver_sql("CREATE INDEX theirs_x ON theirs (x)")
        if edition is not Edition.POSTGRESQL:
            connection.exec_driver_sql("SELECT create_hypertable('theirs', by_range('at'))")
        connection.exec_driver_sql("CREATE VIEW their_view AS SELECT x FROM theirs")
    run = qts_data("db", "check", QTS_DATABASE_URL=text(database.url))
    assert run.returncode == 0, run.stdout


def test_a_schema_that_is_behind_is_drift(qts_data: Run, empty_database: URL) -> None:
    run = qts_data("db", "check", QTS_DATABASE_URL=text(empty_database))
    assert (run.returncode, run.stdout.strip()) == (1, f"revision: database empty, code {HEAD}")


def test_check_without_a_connection_is_not_drift(qts_data: Run, empty_database: URL) -> None:
    run = qts_data("db", "check", QTS_DATABASE_URL=text(empty_database.set(database="qts_nowhere")))
    assert run.returncode == 2
    assert "the server refused the connection" in run.stderr


def test_a_check_leaves_nothing_behind(database: Engine) -> None:
    with database.connect() as connection:
        find_drift(connection, Base.metadata)
        connection.commit()
        assert connection.scalar(sa.text("SELECT to_regclass('pg_temp.qts_normal_form')")) is None


def test_foreign_schema_is_built_and_compares_clean(empty_database: URL, edition: Edition) -> None:
    with engine(empty_database).begin() as connection:
        create_extension(connection)
        metadata = foreign_schema(connection)
        metadata.create_all(connection)
        assert find_drift(connection, metadata) == []
        if edition is Edition.COMMUNITY:
            (difference,) = find_drift(connection, foreign_schema(connection, retention="60 days"))
            assert (difference.name, difference.what) == ("Readings", "retention policy")
            assert (difference.declared, difference.found) == ("60 days", "30 days")
        metadata.drop_all(connection)
        assert (
            connection.scalar(
                sa.text("SELECT count(*) FROM pg_class WHERE relnamespace = CAST(:name AS regnamespace)"),
                {"name": '"Plant 1"'},
            )
            == 0
        )
