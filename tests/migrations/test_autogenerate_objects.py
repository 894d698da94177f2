"""Objects that are created, dropped, renamed or rebuilt keep everything that they had, or the migration raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from qts_data.database.engine import engine
from qts_data.timescale import Columnstore, Edition, continuous_aggregate, dropped_continuous_aggregate, time_bucket
from qts_data.timescale.drift import find_drift
from tests.fixtures.catalog import difference
from tests.fixtures.metrics import build, catalog_of, clean, code, generate, migrate_and_back, run, run_jobs, schema

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


COLUMNS = Columnstore.of(segment_by=["device"], order_by=["minute DESC"], after="20 days")


def nothing() -> sa.MetaData:
    """Declarations without tables, whose aggregates are dropped."""
    metadata = sa.MetaData()
    for name in ("per_hour", "per_minute"):
        dropped_continuous_aggregate(metadata, name)
    return metadata


def execute(url: URL, *statements: str) -> None:
    with engine(url).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


RENAMES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "table": (
        "op.rename_table('metrics', 'readings')",
        "op.rename_table('readings', 'metrics')",
        {"table": "readings"},
    ),
    "column": (
        "op.alter_column('metrics', 'value', new_column_name='reading')",
        "op.alter_column('metrics', 'reading', new_column_name='value')",
        {"value_name": "reading"},
    ),
    "column of the columnstore and of the groups": (
        "op.alter_column('metrics', 'device', new_column_name='unit')",
        "op.alter_column('metrics', 'unit', new_column_name='device')",
        {"device_name": "unit", "segment": ("unit",)},
    ),
}


@pytest.mark.parametrize("what", RENAMES)
def test_a_rename_under_aggregates_goes_up_and_down(empty_database: URL, what: str) -> None:
    up, down, renamed = RENAMES[what]
    build(empty_database, schema())
    before = catalog_of(empty_database)
    for step, wanted in ((up, schema(**renamed)), (down, schema())):
        run(empty_database, step)
        clean(empty_database, wanted)
        run_jobs(empty_database)
        clean(empty_database, wanted)
    assert difference(before, catalog_of(empty_database)) == {}


@pytest.mark.edition("community")
def test_rename_not_written_by_hand_drops_no_rows(empty_database: URL) -> None:
    build(empty_database, schema(hour=False))
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, schema(table="readings", hour=False)).upgrade_ops)
    before = catalog_of(empty_database)
    with pytest.raises(CommandError, match=r"metrics has rows, and the next step drops it: .* op\.rename_table"):
        run(empty_database, up)
    assert difference(before, catalog_of(empty_database)) == {}


@pytest.mark.parametrize("data", [True, False])
def test_dropped_table_comes_back_with_its_aggregates(empty_database: URL, edition: Edition, data: bool) -> None:
    """The downgrade restores the table, its aggregates, policies and grants."""
    build(empty_database, schema(reorder="uq_metrics"), data=data)
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, nothing()).upgrade_ops)
        differences = [(item.name, item.what) for item in find_drift(connection, nothing())]
    assert differences == [("per_hour", "continuous aggregate"), ("per_minute", "continuous aggregate")]
    if data and edition is not Edition.POSTGRESQL:
        with pytest.raises(CommandError, match="metrics has rows, and the next step drops it"):
            run(empty_database, up)
    migrate_and_back(empty_database, nothing(), allow_data_loss=data)


@pytest.mark.edition("community")
def test_aggregates_of_a_dropped_table_are_dropped_first(empty_database: URL) -> None:
    """No declaration drops the aggregates. The migration drops them from the top down, then the table."""
    build(empty_database, schema(minute_columnstore=COLUMNS), data=False)
    execute(
        empty_database,
        "SELECT alter_job(job_id, schedule_interval => INTERVAL '7 hours') "
        "FROM timescaledb_information.jobs WHERE proc_name IN ('policy_retention', 'policy_compression')",
    )
    up, _ = migrate_and_back(empty_database, sa.MetaData())
    wanted = ["('per_hour')", "('per_minute')", "release_hypertable('metrics')", "drop_table('metrics')"]
    places = [up.index(text) for text in wanted]
    assert places == sorted(places)


def test_an_aggregate_whose_declaration_is_deleted_is_left_alone(empty_database: URL) -> None:
    build(empty_database, schema())
    clean(empty_database, schema(hour=False))


@pytest.mark.edition("community")
def test_declarations_in_two_metadatas_are_one_schema(empty_database: URL) -> None:
    build(empty_database, schema(), data=False)
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, [sa.MetaData(), schema()]).upgrade_ops)
        gone = code(generate(connection, [sa.MetaData(), sa.MetaData()]).upgrade_ops)
    assert "\n    pass\n" in up
    assert gone.count("op.drop_continuous_aggregate(") == 2
    assert gone.count("op.release_hypertable(") == 1


@pytest.mark.edition("community")
def test_aggregate_with_a_new_parent_is_built_again(empty_database: URL) -> None:
    """Its old parent is dropped by the same migration."""

    def hours_on_the_table() -> sa.MetaData:
        metadata = schema(hour=False, minute_dropped=True)
        c = metadata.tables["metrics"].c
        hour = time_bucket("1 hour", c.at)
        continuous_aggregate(
            metadata,
            "per_hour",
            sa.select(hour.label("hour"), c.device, sa.func.max(c.value).label("top")).group_by(hour, c.device),
            chunk_interval="100 days",
            comment="Hours",
            column_comments={"hour": "h", "device": "d", "top": "t"},
        )
        return metadata

    build(empty_database, schema())
    up, _ = migrate_and_back(empty_database, hours_on_the_table())
    assert up.index("op.drop_continuous_aggregate('per_hour')") < up.index("op.drop_continuous_aggregate('per_minute')")


def test_a_rebuild_gives_back_grants_with_their_options(empty_database: URL) -> None:
    build(empty_database, schema(average=True))
    execute(
        empty_database,
        "GRANT SELECT ON per_minute TO pg_monitor WITH GRANT OPTION",
        "GRANT INSERT ON per_minute TO pg_monitor",
        "GRANT SELECT (device, mean) ON per_minute TO pg_signal_backend",
        "GRANT SELECT ON per_minute TO PUBLIC",
    )
    before = catalog_of(empty_database)
    migrate_and_back(empty_database, schema())
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, schema()).upgrade_ops)
    run(empty_database, up)
    after = catalog_of(empty_database)
    assert after["privileges"] == before["privileges"]
    # The column is dropped. The privilege on the other one stays.
    assert [row for row in before["column privileges"] if row[1] != "mean"] == after["column privileges"]
    assert after["column privileges"]


def test_a_view_on_an_aggregate_is_named_before_anything_happens(empty_database: URL) -> None:
    build(empty_database, schema(average=True))
    execute(empty_database, "CREATE VIEW theirs AS SELECT * FROM per_minute")
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, schema()).upgrade_ops)
    assert "# theirs must be dropped before and made again after: it raises until then\n" in up
    with pytest.raises(CommandError, match=r"per_minute cannot be dropped, for public\.theirs reads it"):
        run(empty_database, up)
    execute(empty_database, "DROP VIEW theirs")
    run(empty_database, up)
    clean(empty_database, schema())


@pytest.mark.edition("community")
def test_undeclared_aggregate_on_a_declared_one_is_named(empty_database: URL) -> None:
    """The error names the aggregate that keeps another one from being rebuilt."""
    build(empty_database, schema(average=True))
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, schema(hour=False)).upgrade_ops)
    with pytest.raises(CommandError, match=r"per_minute cannot be dropped, for public\.per_hour reads it"):
        run(empty_database, up)


def test_a_connection_in_autocommit_mode_compares_as_well(empty_database: URL) -> None:
    build(empty_database, schema())
    with engine(empty_database).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert find_drift(connection, schema()) == []
        assert "\n    pass\n" in code(generate(connection, schema()).upgrade_ops)
        # A definition that reads a column that does not exist yet fails, and leaves nothing behind.
        up = code(generate(connection, schema(extra_column=True, extra_in_minute=True)).upgrade_ops)
        assert "'per_minute'" in up
        assert connection.scalar(sa.text("SELECT to_regclass('pg_temp.qts_normal_form_1')")) is None
    run(empty_database, up)
    clean(empty_database, schema(extra_column=True, extra_in_minute=True))


def test_other_comments_on_an_aggregate_are_drift(empty_database: URL) -> None:
    build(empty_database, schema(), data=False)
    execute(empty_database, "COMMENT ON VIEW per_minute IS 'x'", "COMMENT ON COLUMN per_hour.top IS NULL")
    with engine(empty_database).connect() as connection:
        found = {(item.name, item.what, item.declared, item.found) for item in find_drift(connection, schema())}
    assert found == {("per_minute", "comment", "Minutes", "x"), ("per_hour.top", "comment", "t", "-")}


@pytest.mark.edition("community")
def test_a_columnstore_on_an_aggregate_by_hand_is_drift(empty_database: URL) -> None:
    build(empty_database, schema(), data=False)
    execute(
        empty_database,
        "ALTER MATERIALIZED VIEW per_minute SET (timescaledb.enable_columnstore = true, "
        "timescaledb.segmentby = 'device', timescaledb.orderby = 'minute')",
        "CALL add_columnstore_policy('per_minute', after => INTERVAL '15 days')",
    )
    with engine(empty_database).connect() as connection:
        found = {(item.name, item.what) for item in find_drift(connection, schema())}
    assert found == {("per_minute", "columnstore"), ("per_minute", "columnstore policy")}
    migrate_and_back(empty_database, schema())
