"""Rebuilds, comparisons and changes in place: their output, the objects that they keep, and refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from qts_data.database.engine import engine
from qts_data.timescale import (
    AggregateIndex,
    Columnstore,
    DeclarationError,
    RefreshPolicy,
    continuous_aggregate,
    dropped_continuous_aggregate,
    hypertable,
    time_bucket,
)
from qts_data.timescale.catalog import is_continuous_aggregate
from qts_data.timescale.drift import find_drift
from tests.fixtures.metrics import (
    build,
    catalog_of,
    clean,
    code,
    generate,
    levels,
    migrate_and_back,
    run,
    schema,
    with_extension,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import URL

community = pytest.mark.edition("community")


def execute(url: URL, *statements: str) -> None:
    with engine(url).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@community
@pytest.mark.parametrize("lows", [("minutes",), ("minutes", "hours"), ("minutes", "hours", "days")])
def test_columns_appended_at_any_level_have_a_way_back(empty_database: URL, lows: tuple[str, ...]) -> None:
    names = ("minutes", "hours", "days")
    build(empty_database, levels(*names), data=False)
    up, _ = migrate_and_back(empty_database, levels(*names, lows=lows))
    assert "op.append_aggregate_columns(" in up


def long_buckets(width: str) -> sa.MetaData:
    metadata = sa.MetaData()
    readings = sa.Table("readings", metadata, sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False))
    hypertable(readings, time="at", chunk_interval="1 day")
    bucket = time_bucket(width, readings.c.at)
    columns: list[Any] = [bucket.label("bucket"), sa.func.count().label("n")]
    continuous_aggregate(
        metadata,
        "long",
        sa.select(*columns).group_by(bucket),
        chunk_interval="1 year",
        comment="c",
        column_comments={"bucket": "b", "n": "n"},
    )
    return metadata


@pytest.mark.parametrize("width", ["3 months", "1 year"])
def test_quarters_and_years_on_every_edition(empty_database: URL, width: str) -> None:
    with_extension(empty_database)
    migrate_and_back(empty_database, long_buckets(width))


@community
def test_bucket_without_a_plain_form_has_no_fallback(empty_database: URL) -> None:
    """The generated migration has no definition for plain PostgreSQL."""
    with_extension(empty_database)
    up, _ = migrate_and_back(empty_database, long_buckets("2 months"))
    assert "fallback_select" not in up


@pytest.mark.edition("postgresql")
def test_plain_postgresql_refuses_a_missing_fallback(empty_database: URL) -> None:
    """The error names the aggregate and the missing `time_bucket`."""
    call = (
        "op.create_continuous_aggregate('q', select='SELECT time_bucket(INTERVAL \\'2 months\\', at) AS b FROM t', "
        "chunk_interval='1 day', comment='', column_comments={})"
    )
    with pytest.raises(CommandError, match="q cannot be made on plain PostgreSQL, which has no time_bucket"):
        run(empty_database, call)


@community
def test_an_order_without_the_time_column_compares_clean(empty_database: URL) -> None:
    wanted = schema(order=("room",), minute_columnstore=Columnstore.of(segment_by=[], order_by=["device"]))
    build(empty_database, wanted, data=False)
    clean(empty_database, wanted)


@community
@pytest.mark.parametrize("order", ["top DESC NULLS LAST", "top desc", "top  DESC", "top NULLS FIRST", '"top" ASC'])
def test_every_order_of_an_index_compares_clean(empty_database: URL, order: str) -> None:
    wanted = levels("minutes", indexes=[AggregateIndex("ix_top", (order, "device"))])
    build(empty_database, wanted, data=False)
    clean(empty_database, wanted)
    migrate_and_back(empty_database, levels("minutes"))


@community
@pytest.mark.parametrize(
    "index",
    ["(top) WHERE device = 'x'", "USING brin (bucket)", "(device) INCLUDE (top)", "(lower(device))",
     '(device COLLATE "POSIX")', "(device text_pattern_ops)"],
)  # fmt: skip
def test_an_index_that_no_declaration_can_say_is_not_lost(empty_database: URL, index: str) -> None:
    build(empty_database, levels("minutes"), data=False)
    execute(empty_database, f"CREATE INDEX by_hand ON minutes {index}")
    for wanted in (levels("minutes"), levels("minutes", first="min")):
        with (
            engine(empty_database).connect() as connection,
            pytest.raises(CommandError, match="minutes has the index by_hand, which no declaration can say"),
        ):
            generate(connection, wanted)
    with engine(empty_database).connect() as connection:
        (found,) = find_drift(connection, levels("minutes"))
    assert (found.name, found.what, found.declared) == ("minutes", "index", "-")
    assert "by_hand" in found.found


@community
def test_the_servers_own_indexes_come_back(empty_database: URL) -> None:
    build(empty_database, levels(), data=False)
    execute(
        empty_database,
        "CREATE MATERIALIZED VIEW minutes WITH (timescaledb.continuous) AS SELECT time_bucket('10 minutes', at) "
        "AS bucket, device, max(value) AS top FROM metrics GROUP BY 1, 2 WITH NO DATA",
    )
    _, down = migrate_and_back(empty_database, levels("minutes", first="min"))
    assert "group_indexes=True" in down


@community
@pytest.mark.parametrize("end", ["0 seconds", "-1 day"])
def test_a_window_that_ends_now_or_ahead_is_reflected(empty_database: URL, end: str) -> None:
    build(empty_database, levels("minutes"), data=False)
    execute(
        empty_database,
        f"SELECT add_continuous_aggregate_policy('minutes', INTERVAL '3 days', INTERVAL '{end}', INTERVAL '1 hour')",
    )
    _, down = migrate_and_back(empty_database, levels("minutes"))
    assert f"end='{end}'" in down
    migrate_and_back(
        empty_database, levels("minutes", refresh=[RefreshPolicy.of(start="3 days", end="1 minute", every="1 hour")])
    )
    refresh = [RefreshPolicy.of(start="3 days", end=end, every="1 hour")]
    if end.startswith("-"):
        with pytest.raises(DeclarationError, match="ends ahead of the clock"):
            levels("minutes", refresh=refresh)
    else:
        clean(empty_database, levels("minutes", refresh=refresh))


ALTERS = {
    "op.alter_retention_policy('minutes', drop_after='5 days', existing='6 days')": "no retention policy",
    "op.alter_columnstore_policy('metrics', after='5 days', existing='6 days')": "no columnstore policy",
    "op.alter_reorder_policy('metrics', index='x', existing='y')": "no reorder policy",
    (
        "op.alter_refresh_policy('minutes', start='5 days', end='1 day', every='1 hour', existing_start='4 days', "
        "existing_end='1 day', existing_every='1 hour')"
    ): "no refresh policy with the existing window",
}


@community
@pytest.mark.parametrize("call", ALTERS)
def test_a_change_of_a_policy_that_is_not_there_raises(empty_database: URL, call: str) -> None:
    refresh = [RefreshPolicy.of(start="3 days", end="1 day", every="1 hour")]
    build(empty_database, levels("minutes", refresh=refresh), data=False)
    with pytest.raises(CommandError, match=f"has {ALTERS[call]}, so nothing was changed"):
        run(empty_database, call)


@community
def test_other_types_under_a_hierarchy_are_a_change_and_no_error(empty_database: URL) -> None:
    build(empty_database, levels("minutes", "hours"), data=False)
    execute(empty_database, "DROP MATERIALIZED VIEW hours", "DROP MATERIALIZED VIEW minutes")
    execute(
        empty_database,
        "CREATE MATERIALIZED VIEW minutes WITH (timescaledb.continuous) AS SELECT time_bucket('10 minutes', at) "
        "AS bucket, device, max(device) AS top FROM metrics GROUP BY 1, 2 WITH NO DATA",
        "CREATE MATERIALIZED VIEW hours WITH (timescaledb.continuous) AS SELECT time_bucket('1 hour', bucket) "
        "AS bucket, device, max(top) AS top FROM minutes GROUP BY 1, 2 WITH NO DATA",
    )
    wanted = levels("minutes")
    minutes = wanted.info["qts_data.timescale"].continuous_aggregates["minutes"]
    bucket = time_bucket("1 hour", minutes.c.bucket)
    continuous_aggregate(
        wanted,
        "hours",
        sa.select(bucket.label("bucket"), sa.func.sum(minutes.c.top).label("top")).group_by(bucket),
        chunk_interval="10 days",
        comment="hours",
        column_comments={"bucket": "b", "top": "t"},
    )
    migrate_and_back(empty_database, wanted)


@community
def test_foreign_aggregates_do_not_disturb_a_migration(empty_database: URL) -> None:
    build(empty_database, levels("minutes"), data=False)
    execute(
        empty_database,
        "CREATE SCHEMA secret",
        "CREATE TABLE secret.x (at timestamptz NOT NULL, v int)",
        "SELECT create_hypertable('secret.x', by_range('at'))",
        "CREATE MATERIALIZED VIEW secret.theirs WITH (timescaledb.continuous) AS "
        "SELECT time_bucket('1 hour', at) AS b, max(v) FROM secret.x GROUP BY 1 WITH NO DATA",
        "GRANT SELECT ON metrics TO pg_monitor",
    )
    with engine(empty_database).connect() as connection:
        connection.exec_driver_sql("SET ROLE pg_monitor")
        assert is_continuous_aggregate(connection, "minutes")
        assert find_drift(connection, levels("minutes")) == []


def test_comment_that_looks_like_sql_keeps_its_blanks(empty_database: URL) -> None:
    """Only definitions are normalised for the comparison."""
    with_extension(empty_database)
    migrate_and_back(empty_database, levels("minutes", comment="SELECT a,  b FROM c"))


def test_rebuild_keeps_the_privileges_of_its_own_database(
    new_database: Callable[[], URL],
) -> None:
    """The migration was generated on a database with other grants."""
    developers, production = new_database(), new_database()
    for url in (developers, production):
        build(url, levels("minutes"), data=False)
    execute(developers, "GRANT SELECT ON minutes TO pg_monitor")
    execute(
        production,
        "GRANT SELECT ON minutes TO pg_signal_backend",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_read_all_stats",
    )
    with engine(developers).connect() as connection:
        script = generate(connection, levels("minutes", first="min"))
    before = catalog_of(production)["privileges"]
    assert before
    for body in (code(script.upgrade_ops), code(script.downgrade_ops)):
        run(production, body)
        assert catalog_of(production)["privileges"] == before


def test_a_dropped_aggregate_in_the_default_schema_by_its_name(empty_database: URL) -> None:
    build(empty_database, levels("minutes"), data=False)
    gone = levels()
    dropped_continuous_aggregate(gone, "minutes", schema="public")
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, gone).upgrade_ops)
    assert "op.drop_continuous_aggregate('minutes'" in up
    run(empty_database, up)
    clean(empty_database, gone)


def test_a_bucket_without_a_time_zone_begins_at_its_own_midnight(empty_database: URL) -> None:
    metadata = sa.MetaData()
    local = sa.Table("local", metadata, sa.Column("at", sa.TIMESTAMP(), nullable=False))
    hypertable(local, time="at", chunk_interval="1 day")
    bucket = time_bucket("1 day", local.c.at)
    columns: list[Any] = [bucket.label("day"), sa.func.count().label("n")]
    continuous_aggregate(
        metadata,
        "daily",
        sa.select(*columns).group_by(bucket),
        chunk_interval="1 year",
        comment="c",
        column_comments={"day": "d", "n": "n"},
    )
    with_extension(empty_database)
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql("SET timezone = 'Asia/Seoul'")
        metadata.create_all(connection)
        connection.exec_driver_sql("INSERT INTO local VALUES ('2026-01-01 03:00')")
        assert str(connection.scalar(sa.text("SELECT day FROM daily"))) == "2026-01-01 00:00:00"
    clean(empty_database, metadata)


@pytest.mark.parametrize(
    ("metadata", "kind", "absent"),
    [
        (levels("minutes", first="min"), "table", "op."),
        (sa.MetaData(), "continuous_aggregate", "op.drop_continuous_aggregate"),
    ],
)
def test_objects_that_a_filter_leaves_out_are_left_alone(
    empty_database: URL, metadata: sa.MetaData, kind: str, absent: str
) -> None:
    build(empty_database, levels("minutes"), data=False)

    def include(_item: object, _name: str | None, asked: str, _reflected: bool, _to: object) -> bool:
        return asked != kind

    with engine(empty_database).connect() as connection:
        assert absent not in code(generate(connection, metadata, include_object=include).upgrade_ops)


def test_name_of_an_existing_table_is_refused_beforehand(empty_database: URL) -> None:
    build(empty_database, levels(), data=False)
    execute(empty_database, "CREATE TABLE minutes (x int)")

    def ours(_item: Any, name: str | None, _kind: str, _reflected: bool, _to: object) -> bool:
        return name != "minutes" or not isinstance(_item, sa.Table)

    with (
        engine(empty_database).connect() as connection,
        pytest.raises(CommandError, match="minutes cannot be made, for a table has that name"),
    ):
        generate(connection, levels("minutes"), include_object=ours)
