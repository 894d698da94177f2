"""Rows that only an aggregate still has are deleted only with an explicit permission."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from qts_data.database.engine import engine
from qts_data.timescale import RefreshPolicy, dropped_continuous_aggregate, hypertable
from qts_data.timescale.adopt import adopt
from tests.fixtures.metrics import build, code, generate, levels, run, with_extension

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

pytestmark = pytest.mark.edition("community")

REFRESH = [RefreshPolicy.of(start="20 days", end="1 hour", every="1 hour")]


def execute(url: URL, *statements: str) -> None:
    with engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def count(url: URL, name: str) -> int:
    with engine(url).connect() as connection:
        found: int = connection.scalar(sa.text(f"SELECT count(*) FROM {name}")) or 0
    return found


def with_history(url: URL, *names: str, **settings: Any) -> None:
    """Twelve days of hours in each aggregate, five of them in the table."""
    build(url, levels(*names, **settings), data=False)
    execute(
        url,
        "INSERT INTO metrics (at, device, value) SELECT now() - i * INTERVAL '1 hour', 'd', i "
        "FROM generate_series(1, 300) AS i",
        *(f"CALL refresh_continuous_aggregate('{name}', NULL, NULL)" for name in names),
        "SELECT drop_chunks('metrics', INTERVAL '5 days')",
    )


def test_adopting_fills_no_aggregate_that_has_rows(empty_database: URL) -> None:
    with_history(empty_database, "minutes")
    before = count(empty_database, "minutes")
    with engine(empty_database).connect() as connection:
        done = adopt(connection, levels("minutes", refresh=REFRESH))
    assert done == [("add_refresh_policy", "minutes")]
    assert count(empty_database, "minutes") == before == 300


def test_adopting_fills_aggregates_that_an_earlier_call_left(empty_database: URL) -> None:
    build(empty_database, levels("minutes", materialized_only=True), data=False)
    execute(empty_database, "INSERT INTO metrics (at, device, value) VALUES (now() - INTERVAL '30 days', 'd', 1)")
    with engine(empty_database).connect() as connection:
        adopt(connection, levels("minutes", materialized_only=True, refresh=REFRESH))
    assert count(empty_database, "minutes") == 1


@pytest.mark.parametrize(
    "wanted",
    [
        {"first": "min"},
        {"refresh": [RefreshPolicy.of(start="3 days", end="2 hours", every="1 hour"),
                     RefreshPolicy.of(start="2 hours", end="0 seconds", every="1 hour")]},
    ],
)  # fmt: skip
def test_adopting_leaves_differing_objects_alone(empty_database: URL, wanted: dict[str, Any]) -> None:
    refresh = [RefreshPolicy.of(start="3 days", end="1 day", every="1 hour")]
    build(empty_database, levels("minutes", refresh=refresh), data=False)
    with engine(empty_database).connect() as connection:
        assert adopt(connection, levels("minutes", **({"refresh": refresh} | wanted))) == []


@pytest.mark.parametrize("late", ["40 days", "11 days"])
def test_a_late_row_does_not_disarm_the_guard(empty_database: URL, late: str) -> None:
    with_history(empty_database, "minutes")
    execute(empty_database, f"INSERT INTO metrics (at, device, value) VALUES (now() - INTERVAL '{late}', 'late', 1)")
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, levels("minutes", first="min")).upgrade_ops)
    with pytest.raises(CommandError, match=r"minutes holds history from .* that its source cannot give again"):
        run(empty_database, up)
    assert count(empty_database, "minutes") >= 300


def test_aggregate_with_a_whole_source_is_dropped_freely(empty_database: URL) -> None:
    """The source is also divided by a hash of another column."""
    build(empty_database, levels("minutes", "hours"), data=False)
    execute(
        empty_database,
        "SELECT add_dimension('metrics', by_hash('device', 2))",
        "INSERT INTO metrics (at, device, value) SELECT now() - i * INTERVAL '1 hour', 'd', i "
        "FROM generate_series(1, 30) AS i",
        "CALL refresh_continuous_aggregate('minutes', NULL, NULL)",
        "CALL refresh_continuous_aggregate('hours', NULL, NULL)",
    )
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, levels("minutes", "hours", first="min")).upgrade_ops)
    run(empty_database, up)
    assert count(empty_database, "hours") == 30


def test_history_on_top_needs_a_word_of_its_own(empty_database: URL) -> None:
    names = ("minutes", "hours", "days")
    with_history(empty_database, *names)
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, levels(*names, first="min")).upgrade_ops)
    lowest = up.replace("aggregate('minutes')", "aggregate('minutes', allow_data_loss=True)")
    with pytest.raises(CommandError, match="days, hours held history that only minutes could give again"):
        run(empty_database, lowest)
    assert count(empty_database, "hours") == 300
    both = lowest.replace("aggregate('hours')", "aggregate('hours', allow_data_loss=True)")
    with pytest.raises(CommandError, match=r"^days held history that only minutes could give again"):
        run(empty_database, both)
    run(empty_database, both.replace("aggregate('days')", "aggregate('days', allow_data_loss=True)"))


def by_numbers(url: URL) -> None:
    with_extension(url)
    execute(
        url,
        "CREATE TABLE counts (n bigint NOT NULL, v int)",
        "SELECT create_hypertable('counts', by_range('n', 10), create_default_indexes => false)",
        "CREATE FUNCTION latest() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT 100::bigint'",
        "SELECT set_integer_now_func('counts', 'latest')",
        "CREATE MATERIALIZED VIEW tens WITH (timescaledb.continuous) AS "
        "SELECT time_bucket(10::bigint, n) AS ten, max(v) AS top FROM counts GROUP BY 1 WITH NO DATA",
        "INSERT INTO counts SELECT n, n FROM generate_series(1, 100) AS n",
        "CALL refresh_continuous_aggregate('tens', NULL, NULL)",
    )


def test_aggregate_divided_by_numbers_is_guarded(empty_database: URL, caplog: pytest.LogCaptureFixture) -> None:
    by_numbers(empty_database)
    with engine(empty_database).connect() as connection, caplog.at_level("WARNING"):
        script = generate(connection, sa.MetaData())
    assert "tens is divided by numbers: the downgrade does not make it again" in caplog.text
    up = code(script.upgrade_ops)
    with pytest.raises(CommandError, match="counts has rows, and the next step drops it"):
        run(empty_database, up)
    execute(empty_database, "SELECT drop_chunks('counts', 50)")
    with pytest.raises(CommandError, match="tens holds history from 0 to 40 that its source cannot give again"):
        run(empty_database, up)
    run(empty_database, up, timescale_allow_data_loss=True)
    run(empty_database, code(script.downgrade_ops))


def test_an_aggregate_by_numbers_is_dropped_by_itself(empty_database: URL) -> None:
    by_numbers(empty_database)
    metadata = sa.MetaData()
    sa.Table("counts", metadata, sa.Column("n", sa.BigInteger, nullable=False), sa.Column("v", sa.Integer))
    dropped_continuous_aggregate(metadata, "tens")
    with engine(empty_database).connect() as connection:
        up = code(generate(connection, metadata).upgrade_ops)
    run(empty_database, up)
    assert count(empty_database, "counts") == 100


def test_drop_all_of_one_table_leaves_the_aggregates_of_another(empty_database: URL) -> None:
    metadata = levels("minutes", "hours")
    other = sa.Table("other", metadata, sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False))
    hypertable(other, time="at", chunk_interval="1 day")
    build(empty_database, metadata, data=False)
    with engine(empty_database).begin() as connection:
        metadata.drop_all(connection, tables=[other])
        assert sorted(sa.inspect(connection).get_view_names()) == ["hours", "minutes"]
        metadata.drop_all(connection)
        assert sa.inspect(connection).get_view_names() == []
