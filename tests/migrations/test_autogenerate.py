"""From one set of declarations to another: the generated migration is right, complete and reversible."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qts_data.timescale.autogenerate
from qts_data.database import migrations
from qts_data.database.engine import engine
from qts_data.models import Base
from qts_data.timescale import (
    AggregateIndex,
    Columnstore,
    Edition,
    RefreshPolicy,
    continuous_aggregate,
    hypertable,
    time_bucket,
)
from qts_data.timescale.drift import find_drift
from qts_data.timescale.edition import create_extension
from tests.fixtures.catalog import Catalog, difference, read_catalog
from tests.fixtures.fix_server import stop_background_workers
from tests.fixtures.somebody_else import somebody_else

if TYPE_CHECKING:
    from collections.abc import Callable

    from alembic.operations.ops import MigrationScript
    from sqlalchemy.engine import URL, Connection

    from tests.fixtures.fix_server import ServerUnderTest

OPTIONS: dict[str, Any] = {
    "compare_type": True,
    "autogenerate_plugins": ["alembic.autogenerate.*", qts_data.timescale.autogenerate.PLUGIN_NAME],
}
CASES = int(os.environ.get("QTS_TEST_AUTOGENERATE_CASES", "12"))

BASE: dict[str, Any] = {
    "chunk": "1 day",
    "segment": ("device",),
    "order": ("at DESC",),
    "columnstore_after": "2 days",
    "retention": "20 days",
    "refresh": (("10 days", "1 hour", "1 hour"),),
    "minute_retention": "60 days",
    "average": False,
    "hour": True,
    "hour_index": True,
    "materialized_only": False,
    "minute_chunk": "10 days",
    "value": "numeric",
    "extra_column": False,
    "extra_in_minute": False,
    "metrics_is_hypertable": True,
    "reorder": None,
}


def schema(**changes: Any) -> sa.MetaData:
    """A hypertable, minutes on it, hours on the minutes; as BASE says, but for the changes."""
    want = BASE | changes
    metadata = sa.MetaData()
    types: dict[str, Any] = {"numeric": sa.Numeric(18, 8), "float": sa.Double()}
    table = sa.Table(
        "metrics",
        metadata,
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("room", sa.Text, nullable=False, server_default=""),
        sa.Column("value", types[want["value"]]),
        *([sa.Column("extra", sa.Integer)] if want["extra_column"] else []),
        sa.UniqueConstraint("device", "at", name="uq_metrics"),
        sa.Index("ix_metrics_room", "room", "at"),
    )
    if not want["metrics_is_hypertable"]:
        return metadata
    hypertable(
        table,
        time="at",
        chunk_interval=want["chunk"],
        columnstore=Columnstore.of(segment_by=want["segment"], order_by=want["order"], after=want["columnstore_after"])
        if want["segment"] is not None
        else None,
        retention=want["retention"],
        reorder=want["reorder"],
    )
    c = table.c
    columns: list[Any] = [
        time_bucket("1 minute", c.at).label("minute"),
        c.device,
        sa.func.max(c.value).label("top"),
    ]
    if want["average"]:
        columns.append(sa.func.avg(c.value).label("mean"))
    if want["extra_in_minute"]:
        columns.append(sa.func.max(c.extra).label("extra"))
    minutes = continuous_aggregate(
        metadata,
        "per_minute",
        sa.select(*columns).group_by(time_bucket("1 minute", c.at), c.device),
        chunk_interval=want["minute_chunk"],
        refresh=[RefreshPolicy.of(start=s, end=e, every=every) for s, e, every in want["refresh"]],
        retention=want["minute_retention"],
        materialized_only=want["materialized_only"],
        comment="Minutes",
        column_comments={column.key: f"the {column.key}" for column in columns},
    )
    if want["hour"]:
        m = minutes.c
        continuous_aggregate(
            metadata,
            "per_hour",
            sa.select(
                time_bucket("1 hour", m.minute).label("hour"), m.device, sa.func.max(m.top).label("top")
            ).group_by(time_bucket("1 hour", m.minute), m.device),
            chunk_interval="100 days",
            refresh=[RefreshPolicy.of(start="20 days", end="1 hour", every="1 hour")],
            indexes=[AggregateIndex("ix_per_hour_top", ("top DESC", "device"))] if want["hour_index"] else [],
            comment="Hours",
            column_comments={"hour": "h", "device": "d", "top": "t"},
        )
    return metadata


def build(url: URL, metadata: sa.MetaData, *, data: bool = True) -> None:
    """The schema, with data in it: old chunks compressed, aggregates refreshed, grants given."""
    with_extension(url)
    with engine(url).begin() as connection:
        metadata.create_all(connection)
        # The default privileges are another matter; these are grants that somebody gave by hand.
        for view in ("per_minute", "per_hour"):
            if connection.scalar(sa.text("SELECT to_regclass(:view) IS NOT NULL"), {"view": view}):
                connection.exec_driver_sql(f"GRANT SELECT ON {view} TO pg_monitor")
        if data:
            connection.exec_driver_sql(
                "INSERT INTO metrics (at, device, value) SELECT now() - i * INTERVAL '1 hour', 'd' || mod(i, 3), i "
                "FROM generate_series(1, 300) AS i"
            )
    if data:
        run_jobs(url)


def with_extension(url: URL) -> None:
    """The extension where the server has it, and nobody who runs jobs but the test."""
    with engine(url).connect() as connection:
        edition = create_extension(connection).edition
        connection.commit()
        stop_background_workers(connection, edition)


def run_jobs(url: URL) -> None:
    with engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.scalar(sa.text("SELECT to_regclass('timescaledb_information.jobs') IS NOT NULL")):
            return
        for job in connection.scalars(
            sa.text("SELECT job_id FROM timescaledb_information.jobs WHERE job_id >= 1000 ORDER BY proc_name DESC")
        ).all():
            connection.execute(sa.text(f"CALL run_job({job})"))


def generate(connection: Connection, metadata: sa.MetaData, **options: Any) -> MigrationScript:
    return produce_migrations(MigrationContext.configure(connection, opts=OPTIONS | options), metadata)


def code(operations: Any) -> str:
    """As it stands in a migration's file."""
    return str(render_python_code(operations))


def run(url: URL, body: str, **options: Any) -> None:
    """Run generated code as Alembic runs a migration: in one transaction."""
    with engine(url).begin() as connection:
        context = MigrationContext.configure(connection, opts=OPTIONS | options)
        scope: dict[str, Any] = {"op": Operations(context), "sa": sa}
        exec(f"def step():\n    {body}\n", scope)
        scope["step"]()


def catalog_of(url: URL) -> Catalog:
    with engine(url).connect() as connection:
        edition = Edition.POSTGRESQL
        if connection.scalar(sa.text("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'")):
            edition = Edition.APACHE
        return read_catalog(connection, edition)


def migrate_and_back(
    url: URL, wanted: sa.MetaData, *, allow_data_loss: bool = False, down_loses: bool = True
) -> tuple[str, str]:
    """Up: nothing is left to do. Down: everything is as before."""
    before = catalog_of(url)
    with engine(url).connect() as connection:
        script = generate(connection, wanted)
    assert script.upgrade_ops is not None
    assert script.downgrade_ops is not None
    up, down = code(script.upgrade_ops), code(script.downgrade_ops)
    run(url, up, timescale_allow_data_loss=allow_data_loss)
    clean(url, wanted)
    run_jobs(url)
    clean(url, wanted)
    run(url, down, timescale_allow_data_loss=down_loses)
    left = difference(unordered(before), unordered(catalog_of(url)))
    assert left == {}, f"{left}\n{up}\n{down}"
    return up, down


def unordered(catalog: Catalog) -> Catalog:
    """Without the places of columns: one that is dropped and added again comes last."""
    return catalog | {"columns": [(*row[:2], *row[3:]) for row in catalog["columns"]]}


def clean(url: URL, wanted: sa.MetaData) -> None:
    with engine(url).connect() as connection:
        rest = generate(connection, wanted).upgrade_ops
        assert rest is not None
        assert rest.as_diffs() == []
        assert find_drift(connection, wanted) == []


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
    "aggregate added": ({"hour": False}, {}, ["op.create_continuous_aggregate(\n        'per_hour'"]),
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
    # The way back would have to compute what is gone.
    with pytest.raises(CommandError, match=r"per_minute holds history from .* its source only from"):
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
def test_an_aggregate_whose_ticks_are_gone_is_not_dropped(empty_database: URL) -> None:
    build(empty_database, schema())
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql("SELECT drop_chunks('metrics', INTERVAL '5 days')")
    wanted = schema(value="float", segment=None)
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql("SELECT decompress_chunk(chunk, true) FROM show_chunks('metrics') AS chunk")
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, wanted).upgrade_ops)
    # The hours stand on the minutes, which are whole; the minutes stand on what is gone.
    with pytest.raises(CommandError, match=r"per_minute holds history from .* its source only from"):
        run(empty_database, up)
    run(empty_database, up.replace("op.drop_continuous_aggregate('per_minute')",
                                   "op.drop_continuous_aggregate('per_minute', allow_data_loss=True)"))  # fmt: skip
    clean(empty_database, wanted)


@pytest.mark.edition("community", "apache")
def test_a_table_with_rows_becomes_a_hypertable_and_says_that_there_is_no_way_back(
    empty_database: URL, caplog: pytest.LogCaptureFixture
) -> None:
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


def test_a_project_of_somebody_else_in_a_schema_of_its_own(empty_database: URL) -> None:
    with_extension(empty_database)
    with engine(empty_database).begin() as connection:
        metadata = somebody_else(connection)
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
    run(empty_database, code(script.downgrade_ops))
    with engine(empty_database).connect() as connection:
        assert sa.inspect(connection).get_table_names(schema="Plant 1") == []
        assert sa.inspect(connection).get_view_names(schema="Plant 1") == []


@pytest.mark.usefixtures("roles")
def test_the_generated_migration_of_the_whole_schema_equals_the_reviewed_ones(
    new_database: Callable[[], URL],
) -> None:
    reviewed, generated = new_database(), new_database()
    migrations.upgrade(reviewed, "0007")
    with_extension(generated)
    with engine(generated).connect() as connection:
        up = code(generate(connection, Base.metadata).upgrade_ops)
    run(generated, up)
    left, right = catalog_of(reviewed), catalog_of(generated)
    # What is no table and no TimescaleDB object is written by hand: ledger views, their functions, the trigger.
    by_hand = {"daily_pnl", "hourly_pnl", "strategy_performance", "daily_metrics"}
    for catalog in (left, right):
        for kind in ("triggers", "functions"):
            catalog[kind] = []
        for kind, rows in catalog.items():
            catalog[kind] = [row for row in rows if row[0] not in by_hand]
    assert difference(left, right) == {}


days = st.integers(min_value=1, max_value=30).map(lambda n: f"{n} day{'s' * (n > 1)}")


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Declarations that are right: windows inside the retention, and so on."""
    retention = draw(st.sampled_from([None, "15 days", "20 days", "360 hours"]))
    segment = draw(st.sampled_from([None, ("device",), ("device", "room"), ("room",)]))
    order = (
        ("at DESC",)
        if segment and "device" in segment
        else draw(st.sampled_from([("at", "device"), ("device", "at DESC")]))
    )
    cold = draw(st.sampled_from([(), (("10 days", "1 hour", "1 hour"),), (("9 days", "2 hours", "30 minutes"),)]))
    hot = draw(st.sampled_from([(), (("1 hour", "1 minute", "1 minute"),)]))
    return {
        "chunk": draw(st.sampled_from(["1 day", "24 hours", "12 hours", "2 days"])),
        "segment": segment,
        "order": order,
        "columnstore_after": draw(st.sampled_from([None, "2 days", "3 days"])),
        "retention": retention,
        "refresh": cold + hot,
        "minute_retention": draw(st.sampled_from([None, "60 days", "50 days"])),
        "average": draw(st.booleans()),
        "hour": draw(st.booleans()),
        "hour_index": draw(st.booleans()),
        "materialized_only": draw(st.booleans()),
        "minute_chunk": draw(st.sampled_from(["10 days", "5 days"])),
        "extra_column": draw(st.booleans()),
        "reorder": draw(st.sampled_from([None, "ix_metrics_room", "uq_metrics"])),
    }


@settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(before=configurations(), after=configurations())
def test_any_declarations_become_any_others_and_back(
    server: ServerUnderTest, before: dict[str, Any], after: dict[str, Any]
) -> None:
    if before["hour"] and not after["hour"]:
        after["hour"] = True  # an aggregate that is no longer declared is left alone
    url, direct = server.create_database(), server.create_database()
    try:
        build(url, schema(**before), data=False)
        migrate_and_back(url, schema(**after), allow_data_loss=True)
        # The migrated database is the one that is built at once.
        with engine(url).connect() as connection:
            up = code(generate(connection, schema(**after)).upgrade_ops)
        run(url, up, timescale_allow_data_loss=True)
        build(direct, schema(**after), data=False)
        left, right = catalog_of(url), catalog_of(direct)
        paced = {"policy_compression", "policy_reorder"}
        for catalog in (left, right):
            del catalog["privileges"]  # a grant by hand is on what was there
            # Their pace is the server's choice, by the chunks that there were when they were made.
            # A server without the extension has no jobs at all.
            catalog["jobs"] = [row[:2] + row[3:] if row[0] in paced else row for row in catalog.get("jobs", [])]
        assert difference(unordered(left), unordered(right)) == {}
    finally:
        server.drop_database(url)
        server.drop_database(direct)
