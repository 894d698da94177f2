"""From one set of declarations to another: the generated migration is right, complete and reversible."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

import qts_data.timescale.autogenerate
from qts_data.database.engine import engine
from qts_data.models import Base
from qts_data.timescale import (
    Columnstore,
    Edition,
    continuous_aggregate,
    dropped_continuous_aggregate,
    hypertable,
    time_bucket,
)
from qts_data.timescale.drift import find_drift
from tests.fixtures.catalog import difference
from tests.fixtures.foreign_schema import foreign_schema
from tests.fixtures.metrics import (
    build,
    catalog_of,
    clean,
    code,
    generate,
    migrate_and_back,
    run,
    schema,
    with_extension,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection


COLUMNS = Columnstore.of(segment_by=["device"], order_by=["minute DESC"], after="20 days")
OTHER_COLUMNS = Columnstore.of(segment_by=[], order_by=["device", "minute"])

CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "nothing": ({}, {}, ["pass"]),
    "chunk interval": ({}, {"chunk": "12 hours"}, ["# future chunks only", "set_chunk_interval('metrics', chunk"]),
    "segment by": ({}, {"segment": ("device", "room")}, ["# needs recompress", "op.alter_columnstore("]),
    "order by": ({}, {"order": ("at", "room")}, ["op.alter_columnstore("]),
    "columnstore policy": ({}, {"columnstore_after": "3 days"}, ["op.alter_columnstore_policy("]),
    "reorder policy": (
        {},
        {"reorder": "ix_metrics_room"},
        ["op.add_reorder_policy('metrics', index='ix_metrics_room')"],
    ),
    "other reorder policy": (
        {"reorder": "ix_metrics_room"},
        {"reorder": "uq_metrics"},
        ["op.alter_reorder_policy('metrics', index='uq_metrics', existing='ix_metrics_room')"],
    ),
    "reorder policy removed": ({"reorder": "uq_metrics"}, {}, ["op.remove_reorder_policy('metrics'"]),
    "columnstore policy removed": ({}, {"columnstore_after": None}, ["op.remove_columnstore_policy("]),
    "columnstore removed": ({}, {"segment": None}, ["# rebuild", "op.disable_columnstore("]),
    "columnstore added": ({"segment": None}, {}, ["op.enable_columnstore(", "op.add_columnstore_policy("]),
    "longer retention": ({}, {"retention": "40 days"}, ["# online: more is kept", "op.alter_retention_policy("]),
    "retention removed": ({}, {"retention": None}, ["op.remove_retention_policy('metrics', existing='20 days')"]),
    "retention added": ({"minute_retention": None}, {}, ["op.add_retention_policy('per_minute'"]),
    "refresh window": (
        {},
        {"refresh": (("9 days", "2 hours", "1 hour"),)},
        ["op.alter_refresh_policy(", "existing_start='10 days'"],
    ),
    "second refresh": (
        {},
        {"refresh": (("10 days", "1 hour", "1 hour"), ("1 hour", "1 minute", "1 minute"))},
        ["op.add_refresh_policy('per_minute', start='1 hour'"],
    ),
    "refresh removed": ({}, {"refresh": ()}, ["op.remove_refresh_policy("]),
    "one of two refreshes removed": (
        {"refresh": (("10 days", "1 hour", "1 hour"), ("1 hour", "1 minute", "1 minute"))},
        {},
        ["op.remove_refresh_policy('per_minute', start='1 hour'"],
    ),
    "materialized only": ({}, {"materialized_only": True}, ["op.alter_continuous_aggregate('per_minute'"]),
    "chunks of an aggregate": ({}, {"minute_chunk": "5 days"}, ["op.alter_continuous_aggregate('per_minute'"]),
    "index removed": ({}, {"hour_index": False}, ["drop_indexes={'ix_per_hour_top': ['top DESC', 'device']}"]),
    "index added": ({"hour_index": False}, {}, ["add_indexes={'ix_per_hour_top': ['top DESC', 'device']}"]),
    "parent of a hierarchy": (
        {"average": True},
        {},
        ["# rebuild", "op.drop_continuous_aggregate('per_hour')", "grants={'pg_monitor': ['SELECT']}"],
    ),
    "column appended in place": (
        {},
        {"average": True},
        [
            "# online: rows",
            "op.append_aggregate_columns(",
            "{'mean': ['numeric', 'avg(metrics.value)']}",
        ],
    ),
    "columnstore of an aggregate added": (
        {},
        {"minute_columnstore": COLUMNS},
        ["op.enable_columnstore('per_minute', segment_by=['device'], order_by=['minute DESC'], aggregate=True)"],
    ),
    "columnstore of an aggregate changed": (
        {"minute_columnstore": COLUMNS},
        {"minute_columnstore": OTHER_COLUMNS},
        ["op.remove_columnstore_policy('per_minute'", "op.alter_columnstore("],
    ),
    "columnstore of an aggregate removed": (
        {"minute_columnstore": COLUMNS},
        {},
        ["op.disable_columnstore(\n        'per_minute'", "aggregate=True"],
    ),
    "aggregate with a columnstore": (
        {"minute_columnstore": COLUMNS, "average": True},
        {"minute_columnstore": COLUMNS},
        ["op.drop_continuous_aggregate('per_minute')", "op.enable_columnstore('per_minute'"],
    ),
    "comments": (
        {},
        {"minute_comment": "It's 1 %: a", "top_comment": ""},
        ["op.comment_on_aggregate(", "existing_comment='Minutes'"],
    ),
    "aggregate dropped": (
        {},
        {"hour_dropped": True},
        ["# rebuild: its rows go with it", "op.drop_continuous_aggregate('per_hour')"],
    ),
    "hierarchy dropped": ({}, {"hour_dropped": True, "minute_dropped": True}, ["op.drop_continuous_aggregate('per_h"]),
    "aggregate added": (
        {"hour": False},
        {},
        [
            (
                'op.create_continuous_aggregate(\n        \'per_hour\',\n        select="""\n'
                "    SELECT time_bucket(INTERVAL '1 hour', per_minute.minute) AS hour,\n        per_minute.device,\n"
                "        max(per_minute.top) AS top\n    FROM per_minute\n    GROUP BY time_bucket(INTERVAL '1 hour',"
            ),
            'fallback_select="""\n    SELECT date_bin(INTERVAL \'1 hour\', ',
        ],
    ),
    "type under an aggregate": (
        {},
        {"value": "float", "segment": None},
        ["op.drop_continuous_aggregate('per_minute')", "op.alter_column('metrics', 'value'"],
    ),
    "new column in an aggregate": (
        {},
        {"extra_column": True, "extra_in_minute": True},
        ["op.add_column('metrics'", "op.create_continuous_aggregate(\n        'per_minute'"],
    ),
}


@pytest.mark.edition("community")
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_goes_up_and_down(empty_database: URL, change: str) -> None:
    before, after, expected = CHANGES[change]
    if change == "type under an aggregate":
        before = before | {"segment": None}  # the server alters no column of a compressed chunk
    build(empty_database, schema(**before))
    up, _down = migrate_and_back(empty_database, schema(**after))
    for text in expected:
        assert text in up


@pytest.mark.edition("community")
def test_a_policy_changes_in_place_and_keeps_its_job(empty_database: URL) -> None:
    def jobs(connection: Connection) -> list[int]:
        return list(
            connection.scalars(
                sa.text("SELECT job_id FROM timescaledb_information.jobs WHERE job_id >= 1000 ORDER BY 1")
            )
        )

    build(empty_database, schema(), data=False)
    wanted = schema(retention="40 days", columnstore_after="3 days", refresh=(("9 days", "2 hours", "2 hours"),))
    with engine(empty_database).connect() as connection:
        before = jobs(connection)
        up = code(generate(connection, wanted).upgrade_ops)
    run(empty_database, up)
    with engine(empty_database).connect() as connection:
        assert jobs(connection) == before
    clean(empty_database, wanted)


@pytest.mark.edition("community")
def test_a_column_appended_in_place_loses_no_history(empty_database: URL) -> None:
    build(empty_database, schema())
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql("SELECT drop_chunks('metrics', INTERVAL '5 days')")
        before = connection.scalar(sa.text("SELECT count(*) FROM per_minute"))
    with engine(empty_database).connect() as connection:
        script = generate(connection, schema(average=True))
    run(empty_database, code(script.upgrade_ops))
    clean(empty_database, schema(average=True))
    with engine(empty_database).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM per_minute")) == before
    # The downgrade would have to compute bars of dropped rows.
    with pytest.raises(CommandError, match=r"per_minute holds history .* that its source cannot give again"):
        run(empty_database, code(script.downgrade_ops))


@pytest.mark.edition("community")
def test_windows_that_trade_places_are_removed_and_added(empty_database: URL) -> None:
    build(empty_database, schema(refresh=(("3 days", "1 hour", "1 hour"), ("10 days", "3 days", "1 hour"))))
    migrate_and_back(
        empty_database, schema(refresh=(("10 days", "3 days", "2 hours"), ("15 days", "10 days", "1 hour")))
    )


@pytest.mark.edition("community")
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "SELECT add_continuous_aggregate_policy('per_minute', NULL, INTERVAL '11 days', INTERVAL '1 hour')",
            "per_minute has a refresh policy with an open window",
        ),
        (
            "SELECT add_retention_policy('metrics', drop_created_before => INTERVAL '9 days')",
            "metrics has a policy by the chunks' time of creation",
        ),
    ],
)
def test_a_policy_that_no_declaration_can_say_is_named(empty_database: URL, statement: str, words: str) -> None:
    build(empty_database, schema(retention=None), data=False)
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql(statement)
    with engine(empty_database).connect() as connection, pytest.raises(CommandError, match=words):
        generate(connection, schema(retention=None))


def test_a_literal_stands_in_the_migration_as_it_was_declared(empty_database: URL) -> None:
    def odd() -> sa.MetaData:
        metadata = sa.MetaData()
        c = sa.Table(
            "metrics",
            metadata,
            sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
            sa.Column("device", sa.Text, nullable=False),
        ).c
        hypertable(metadata.tables["metrics"], time="at", chunk_interval="1 day")
        columns: list[Any] = [time_bucket("1 hour", c.at).label("hour"), sa.func.count().label("n")]
        continuous_aggregate(
            metadata,
            "odd",
            sa.select(*columns)
            .where(c.device != "a  b, FROM (c", c.device != "two\nlines", c.device != 'q"u')
            .group_by(time_bucket("1 hour", c.at)),
            chunk_interval="10 days",
            comment="50 % of 'it': a:b",
            column_comments={"hour": "h", "n": "n"},
        )
        return metadata

    with_extension(empty_database)
    migrate_and_back(empty_database, odd())


@pytest.mark.edition("community")
def test_a_paused_policy_runs_again(empty_database: URL) -> None:
    build(empty_database, schema(), data=False)
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql(
            "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE job_id >= 1000"
        )
    with engine(empty_database).connect() as connection:
        assert find_drift(connection, schema())
        up = code(generate(connection, schema()).upgrade_ops)
    run(empty_database, up)
    clean(empty_database, schema())


@pytest.mark.edition("community")
def test_a_shorter_retention_raises_where_it_would_drop_data(empty_database: URL) -> None:
    build(empty_database, schema())
    wanted = schema(retention="12 days", refresh=(), minute_retention=None)
    with engine(empty_database).connect() as connection:
        script = generate(connection, wanted)
    up = code(script.upgrade_ops)
    assert "# destroys data" in up
    # 300 hours of data: nothing is older than 13 days, chunks of the 13th day are.
    wanted_shorter = schema(retention="5 days", refresh=(("3 days", "1 hour", "1 hour"),))
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, wanted_shorter).upgrade_ops)
    before = catalog_of(empty_database)
    with pytest.raises(CommandError, match=r"a retention of 5 days for metrics would drop \d+ chunks"):
        run(empty_database, up)
    assert difference(before, catalog_of(empty_database)) == {}
    run(empty_database, up, timescale_allow_data_loss=True)
    clean(empty_database, wanted_shorter)


@pytest.mark.edition("community")
def test_new_retention_names_the_rows_it_could_destroy(empty_database: URL) -> None:
    build(empty_database, schema(retention=None, minute_retention="60 days"), data=False)
    with engine(empty_database).connect() as connection:
        added = code(generate(connection, schema(minute_retention="60 days")).upgrade_ops)
        script = generate(connection, schema(retention=None, minute_retention=None, average=True))
        whole = code(generate(connection, sa.MetaData()).downgrade_ops)
    older = "# destroys data: chunks older than {}, at the policy's next run; it raises here if there are any"
    assert older.format("20 days") in added
    assert older.format("60 days") in code(script.downgrade_ops)
    # An object that the migration itself makes has no old chunks.
    assert "# online: nothing is there yet\n    op.add_retention_policy('per_minute', drop_after='60 days')" in whole


@pytest.mark.edition("community")
def test_an_aggregate_whose_ticks_are_gone_is_not_dropped(empty_database: URL) -> None:
    build(empty_database, schema())
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql("SELECT drop_chunks('metrics', INTERVAL '5 days')")
    wanted = schema(value="float", segment=None)
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql("SELECT decompress_chunk(chunk, true) FROM show_chunks('metrics') AS chunk")
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, wanted).upgrade_ops)
    # The hours are made of the minutes, which are whole. The minutes are made of rows that are dropped.
    with pytest.raises(CommandError, match=r"per_minute holds history .* that its source cannot give again"):
        run(empty_database, up)
    # Dropping the minutes also loses the hours made of them: they could not be computed again.
    minutes = "op.drop_continuous_aggregate('per_minute'"
    with pytest.raises(CommandError, match="per_hour held history that only per_minute could give again"):
        run(empty_database, up.replace(minutes, f"{minutes}, allow_data_loss=True"))
    run(empty_database, re.sub(r"(op\.drop_continuous_aggregate\('\w+')", r"\1, allow_data_loss=True", up))
    clean(empty_database, wanted)


@pytest.mark.edition("community", "apache")
def test_table_with_rows_becomes_a_hypertable_for_good(empty_database: URL, caplog: pytest.LogCaptureFixture) -> None:
    """The migration moves the rows, logs the lock, and its downgrade raises."""
    build(empty_database, schema(metrics_is_hypertable=False))
    with engine(empty_database).connect() as connection:
        script = generate(connection, schema())
        before = connection.scalar(sa.text("SELECT count(*) FROM metrics"))
    up = code(script.upgrade_ops)
    assert "# rebuild: the table is locked while all of its rows move into chunks" in up
    assert "migrate_data=True" in up
    with caplog.at_level("INFO"):
        run(empty_database, up)
    assert "kB move into chunks, the table is locked meanwhile" in caplog.text
    assert "metrics: locked for " in caplog.text
    clean(empty_database, schema())
    with engine(empty_database).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM metrics")) == before
    with pytest.raises(CommandError, match="metrics stays a hypertable"):
        run(empty_database, code(script.downgrade_ops))


def test_an_empty_database_becomes_the_schema_and_empty_again(empty_database: URL) -> None:
    with_extension(empty_database)
    migrate_and_back(empty_database, schema())


def test_the_same_declarations_compare_clean_on_every_edition(empty_database: URL) -> None:
    build(empty_database, schema())
    clean(empty_database, schema())


def test_a_changed_definition_is_found_on_every_edition(empty_database: URL) -> None:
    build(empty_database, schema())
    up, down = migrate_and_back(empty_database, schema(average=True))
    assert "'per_minute'" in up
    assert "op.drop_continuous_aggregate('per_minute')" in down


def test_restored_definition_names_its_edition(empty_database: URL, edition: Edition) -> None:
    build(empty_database, schema(average=True), data=False)
    with engine(empty_database).connect() as connection:
        down = code(generate(connection, schema()).downgrade_ops)
    wrote = "plain PostgreSQL" if edition is Edition.POSTGRESQL else "TimescaleDB"
    assert f"# online: as {wrote} wrote the definition down" in down


def test_filters_are_asked_with_type_names_of_their_own(empty_database: URL) -> None:
    build(empty_database, schema(), data=False)
    asked = set()

    def include_object(_item: object, name: str | None, kind: str, _reflected: bool, _to: object) -> bool:
        asked.add((kind, name))
        return kind != "continuous_aggregate"

    with engine(empty_database).connect() as connection:
        script = generate(connection, schema(average=True), include_object=include_object)
    assert ("hypertable", "metrics") in asked
    assert ("continuous_aggregate", "per_minute") in asked
    assert script.upgrade_ops is not None
    assert script.upgrade_ops.as_diffs() == []


def test_foreign_project_in_a_schema_of_its_own(empty_database: URL) -> None:
    with_extension(empty_database)
    with engine(empty_database).begin() as connection:
        metadata = foreign_schema(connection)
    options = {
        "include_schemas": True,
        "include_name": qts_data.timescale.autogenerate.hide_internal_schemas,
    }
    with engine(empty_database).connect() as connection:
        script = generate(connection, metadata, **options)
    up = code(script.upgrade_ops)
    assert "op.create_hypertable('Readings', time='At', chunk_interval='1 week', schema='Plant 1')" in up
    run(empty_database, up)
    with engine(empty_database).connect() as connection:
        rest = generate(connection, metadata, **options).upgrade_ops
        assert rest is not None
        assert rest.as_diffs() == []
        assert find_drift(connection, metadata) == []
    gone = sa.MetaData(schema="Plant 1")
    dropped_continuous_aggregate(gone, "Daily")
    with engine(empty_database).connect() as connection:
        closing = generate(connection, gone, **options)
    assert "op.drop_continuous_aggregate('Daily', schema='Plant 1')" in code(closing.upgrade_ops)
    run(empty_database, code(closing.upgrade_ops))
    with engine(empty_database).connect() as connection:
        assert find_drift(connection, gone) == []
    run(empty_database, code(closing.downgrade_ops))
    with engine(empty_database).connect() as connection:
        assert find_drift(connection, metadata) == []
    run(empty_database, code(script.downgrade_ops))
    with engine(empty_database).connect() as connection:
        assert sa.inspect(connection).get_table_names(schema="Plant 1") == []
        assert sa.inspect(connection).get_view_names(schema="Plant 1") == []


@pytest.mark.usefixtures("roles")
def test_generated_schema_equals_the_reviewed_migrations(database_url: URL, empty_database: URL) -> None:
    """Objects that are written by hand are left out of the comparison."""
    reviewed, generated = database_url, empty_database
    with_extension(generated)
    with engine(generated).connect() as connection:
        up = code(generate(connection, Base.metadata).upgrade_ops)
    run(generated, up)
    left, right = catalog_of(reviewed), catalog_of(generated)
    # Ledger views, functions, triggers and privileges are written by hand in the migrations.
    by_hand = {"daily_pnl", "hourly_pnl", "strategy_performance", "daily_metrics"}
    for catalog in (left, right):
        for kind in ("triggers", "functions", "privileges", "column privileges", "default privileges"):
            catalog[kind] = []
        for kind, rows in catalog.items():
            catalog[kind] = [row for row in rows if row[0] not in by_hand]
    assert difference(left, right) == {}
