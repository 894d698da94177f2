"""Declarations are checked when they are made, and the error names both sides of a contradiction."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from qts_data.models import Base
from qts_data.timescale import (
    AggregateIndex,
    Columnstore,
    ContinuousAggregate,
    DeclarationError,
    Hypertable,
    Interval,
    RefreshPolicy,
    continuous_aggregate,
    declarations_of,
    dropped_continuous_aggregate,
    hypertable,
    time_bucket,
)
from qts_data.timescale.ddl import create_index_on_view, enable_columnstore, literal, qualified, render_select, verbatim

NAMED = sa.create_engine("postgresql://", paramstyle="named").dialect


def table(metadata: sa.MetaData | None = None, *items: Any, name: str = "metrics", **options: Any) -> sa.Table:
    return sa.Table(
        name,
        metadata if metadata is not None else sa.MetaData(),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("value", sa.Numeric),
        *items,
        **options,
    )


def declared(**options: Any) -> Hypertable:
    values: dict[str, Any] = {"time": "at", "chunk_interval": "1 day", "retention": "7 days"}
    return hypertable(table(), **(values | options))


def aggregate(source: Hypertable | ContinuousAggregate | None = None, **options: Any) -> ContinuousAggregate:
    source = source or declared()
    if isinstance(source, Hypertable):
        metadata, time, value = source.table.metadata, source.table.c.at, source.table.c.value
        name = "per_minute"
    else:
        assert isinstance(source.source, Hypertable)
        metadata, time, value = source.source.table.metadata, source.c.bucket, source.c.highest
        name = "per_hour"
    width = options.pop("width", "1 minute" if isinstance(source, Hypertable) else "1 hour")
    select = sa.select(time_bucket(width, time).label("bucket"), sa.func.max(value).label("highest")).group_by(
        time_bucket(width, time)
    )
    values: dict[str, Any] = {
        "select": select,
        "chunk_interval": "10 days",
        "comment": "c",
        "column_comments": {"bucket": "b", "highest": "h"},
    }
    return continuous_aggregate(metadata, name, **(values | options))


def refresh(start: str, end: str, every: str = "1 hour") -> RefreshPolicy:
    return RefreshPolicy.of(start=start, end=end, every=every)


def test_the_projects_own_declarations_are_the_schemas() -> None:
    ours = declarations_of(Base.metadata)
    assert {name: str(item.chunk_interval) for name, item in ours.hypertables.items()} == {
        "tick_data": "1 day",
        "tick_history": "7 days",
        "ohlcv_1d": "365 days",
        "ohlcv_1m_vendor": "30 days",
        "execution_logs": "1 day",
    }
    assert {name: str(item.retention) for name, item in (ours.hypertables | ours.continuous_aggregates).items()} == {
        "tick_data": "7 days",
        "tick_history": "None",
        "ohlcv_1d": "None",
        "ohlcv_1m_vendor": "None",
        "execution_logs": "90 days",
        "ohlcv_1m": "30 days",
        "ohlcv_1h": "None",
        "hourly_execution_metrics": "180 days",
    }


def test_every_refresh_stays_inside_the_source_retention() -> None:
    """The start of each policy plus one chunk is within the retention of the source."""
    policies = [
        (item, policy)
        for item in declarations_of(Base.metadata).continuous_aggregates.values()
        for policy in item.refresh
    ]
    assert len(policies) == 4
    for item, policy in policies:
        assert item.source.retention is not None
        assert policy.start.longest + item.source.chunk_interval.longest <= item.source.retention.shortest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time": "when"}, ["hypertable metrics", "the time column 'when' does not exist"]),
        ({"retention": "12 hours"}, ["hypertable metrics", "retention of 12 hours", "one chunk of 1 day"]),
        (
            {"columnstore": Columnstore.of(segment_by=["nothing"], order_by=["at"])},
            ["hypertable metrics", "'nothing', which is not a column"],
        ),
        (
            {"columnstore": Columnstore.of(segment_by=["device"], order_by=["at", "device"])},
            ["'device' twice"],
        ),
        (
            {"columnstore": Columnstore.of(segment_by=["device"], order_by=["at DESK"])},
            ["'at DESK'", "ASC or DESC"],
        ),
        (
            {"columnstore": Columnstore.of(segment_by=["device"], order_by=["at DESC"], after="7 days")},
            ["after 7 days", "dropping them after 7 days", "work for nothing"],
        ),
        ({"chunk_interval": "0 days"}, ["'0 days' is not a length of time"]),
        ({"chunk_interval": "soon"}, ["'soon' is not a length of time"]),
    ],
)
def test_a_wrong_hypertable_is_refused(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DeclarationError) as caught:
        declared(**options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        sa.PrimaryKeyConstraint("device"),
        sa.UniqueConstraint("device"),
        sa.Index("ux_device", "device", unique=True),
    ],
)
def test_a_unique_key_without_the_time_column_is_refused(key: Any) -> None:
    with pytest.raises(DeclarationError, match=r"hypertable metrics: .* on \(device\) lacks the time column 'at'"):
        hypertable(table(None, key), time="at", chunk_interval="1 day")


def test_a_nullable_time_column_is_refused() -> None:
    metadata = sa.MetaData()
    loose = sa.Table("loose", metadata, sa.Column("at", sa.TIMESTAMP(timezone=True)))
    with pytest.raises(DeclarationError, match="'at' must be NOT NULL"):
        hypertable(loose, time="at", chunk_interval="1 day")


def test_a_foreign_key_between_hypertables_is_refused() -> None:
    metadata = sa.MetaData()
    hypertable(table(metadata, sa.PrimaryKeyConstraint("at")), time="at", chunk_interval="1 day")
    child = table(metadata, sa.ForeignKeyConstraint(["at"], ["metrics.at"]), name="child")
    with pytest.raises(DeclarationError, match="hypertable child: a foreign key to metrics is impossible"):
        hypertable(child, time="at", chunk_interval="1 day")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"refresh": [refresh("6 days 1 hour", "1 hour")]},
            ["per_minute", "6 days 1 hour", "chunk of 1 day", "retention of 7 days of metrics", "would delete buckets"],
        ),
        (
            {"refresh": [refresh("2 minutes", "1 minute")]},
            ["per_minute", "from 2 minutes to 1 minute", "shorter than two buckets of 1 minute"],
        ),
        (
            {"refresh": [refresh("5 days", "1 hour"), refresh("2 hours", "1 minute")]},
            ["per_minute", "from 2 hours to 1 minute ago overlaps the one from 5 days to 1 hour ago"],
        ),
        (
            {"refresh": [refresh("5 days", "1 hour")], "retention": "2 days"},
            ["per_minute", "5 days", "its own retention of 2 days"],
        ),
        ({"column_comments": {"bucket": "b"}}, ["per_minute", "every column needs one comment", "highest"]),
        (
            {"indexes": [AggregateIndex("ix", ("nothing DESC",))]},
            ["per_minute", "index ix names 'nothing DESC', which is not a column"],
        ),
        ({"indexes": [AggregateIndex("ix", ('bucket COLLATE "C"',))]}, ["order 'bucket COLLATE", "write a column"]),
        ({"indexes": [AggregateIndex("\N{LATIN SMALL LETTER E WITH ACUTE}" * 32, ("bucket",))]}, ["has 64 bytes"]),
    ],
)
def test_a_wrong_aggregate_is_refused(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DeclarationError) as caught:
        aggregate(**options)
    for word in words:
        assert word in str(caught.value)


def test_the_longest_refresh_that_retention_allows_is_accepted() -> None:
    assert aggregate(refresh=[refresh("6 days", "1 hour"), refresh("1 hour", "1 minute", "1 minute")])


@pytest.mark.parametrize("width", ["90 seconds", "1 minute", "30 seconds"])
def test_a_bucket_that_is_no_multiple_of_its_parents_is_refused(width: str) -> None:
    with pytest.raises(DeclarationError, match=f"per_hour: its bucket of {width} is not a multiple of per_minute's"):
        aggregate(aggregate(), width=width)


def test_hierarchy_is_checked_by_the_parent_retention() -> None:
    """An aggregate on an aggregate refreshes only ranges that its parent still has."""
    parent = aggregate(retention="30 days")
    assert aggregate(parent, refresh=[refresh("20 days", "1 hour")]).source is parent
    parent = aggregate(retention="30 days")
    with pytest.raises(DeclarationError, match=r"21 days ago plus a chunk of 10 days .* 30 days of per_minute"):
        aggregate(parent, refresh=[refresh("21 days", "1 hour")])


def test_a_hierarchy_must_stand_on_its_parents_buckets() -> None:
    parent = aggregate()
    hour = time_bucket("1 hour", parent.c.highest)
    with pytest.raises(DeclarationError, match="per_hour: time_bucket must take per_minute's bucket 'bucket'"):
        aggregate(parent, select=sa.select(hour.label("bucket"), sa.func.max(parent.c.highest).label("highest")))


def test_aggregate_over_a_plain_table_is_refused() -> None:
    """The source must be declared as a hypertable."""
    plain = table()
    select = sa.select(time_bucket("1 minute", plain.c.at).label("bucket"))
    with pytest.raises(DeclarationError, match="its source metrics is not declared as a hypertable"):
        continuous_aggregate(
            plain.metadata, "x", select, chunk_interval="1 day", comment="c", column_comments={"bucket": "b"}
        )


def test_an_aggregate_without_a_bucket_is_refused() -> None:
    source = declared().table
    with pytest.raises(DeclarationError, match="one column must be a time_bucket"):
        continuous_aggregate(
            source.metadata,
            "x",
            sa.select(sa.func.max(source.c.value).label("m")),
            chunk_interval="1 day",
            comment="c",
            column_comments={"m": "m"},
        )


def test_an_aggregate_over_a_join_is_refused() -> None:
    source = declared().table
    other = sa.Table("devices", source.metadata, sa.Column("device", sa.Text))
    select = sa.select(time_bucket("1 hour", source.c.at).label("bucket"), other.c.device)
    with pytest.raises(DeclarationError, match="it must read one source, it reads 2"):
        continuous_aggregate(
            source.metadata,
            "x",
            select,
            chunk_interval="1 day",
            comment="c",
            column_comments={"bucket": "b", "device": "d"},
        )


def test_a_name_is_taken_once() -> None:
    source = declared()
    aggregate(source)
    with pytest.raises(DeclarationError, match="per_minute: the name is taken"):
        aggregate(source)


def test_sqlalchemy_timescaledb_argument_is_checked() -> None:
    """The table argument `timescaledb_hypertable` declares a hypertable and must agree with `hypertable()`."""
    metadata = sa.MetaData()
    table(metadata, timescaledb_hypertable={"time_column_name": "at"})
    assert str(declarations_of(metadata).hypertables["metrics"].chunk_interval) == "7 days"
    with pytest.raises(DeclarationError, match="the time column 'when' does not exist"):
        table(timescaledb_hypertable={"time_column_name": "when"})
    with pytest.raises(DeclarationError, match="does not know chunks"):
        table(timescaledb_hypertable={"time_column_name": "at", "chunks": 4})
    both = table(timescaledb_hypertable={"time_column_name": "at", "chunk_time_interval": "24 hours"})
    assert hypertable(both, chunk_interval="1 day").chunk_interval.same_length(Interval.parse("1 day"))
    with pytest.raises(DeclarationError, match="says chunk_time_interval '24 hours', the declaration says '2 days'"):
        hypertable(both, chunk_interval="2 days")


def test_bucket_renders_for_both_kinds_of_server() -> None:
    """TimescaleDB gets `time_bucket`, plain PostgreSQL `date_bin` or `date_trunc`."""
    select = aggregate().select
    assert "time_bucket(INTERVAL '1 minute', metrics.at)" in render_select(select, has_time_bucket=True)
    plain = render_select(select, has_time_bucket=False)
    assert "date_bin(INTERVAL '1 minute', metrics.at, TIMESTAMPTZ '2000-01-03 00:00:00+00')" in plain
    month = sa.select(time_bucket("1 month", sa.column("at")))
    assert "date_trunc('month', at, 'UTC')" in render_select(month, has_time_bucket=False)
    quarter = sa.select(time_bucket("3 months", sa.column("at")))
    assert "date_trunc('quarter', at, 'UTC')" in render_select(quarter, has_time_bucket=False)
    with pytest.raises(sa.exc.CompileError, match="no bucket of 2 months"):
        render_select(sa.select(time_bucket("2 months", sa.column("at"))), has_time_bucket=False)


def test_a_bucket_is_of_its_columns_type_on_plain_postgresql() -> None:
    def rendered(width: str, kind: Any) -> str:
        return render_select(sa.select(time_bucket(width, sa.column("at", kind))), has_time_bucket=False)

    assert "date_bin(INTERVAL '1 day', at, TIMESTAMP '2000-01-03 00:00:00')" in rendered("1 day", sa.TIMESTAMP())
    assert "date_trunc('year', at)" in rendered("1 year", sa.DateTime())
    assert "CAST(date_bin(INTERVAL '1 day', at, TIMESTAMP '2000-01-03 00:00:00') AS date)" in rendered(
        "1 day", sa.Date()
    )
    assert isinstance(time_bucket("1 day", sa.column("at", sa.Date())).type, sa.Date)


@given(st.timedeltas(min_value=dt.timedelta(microseconds=1), max_value=dt.timedelta(days=40_000)))
def test_every_timedelta_is_read_exactly(delta: dt.timedelta) -> None:
    interval = Interval.parse(delta)
    assert (interval.months, interval.microseconds) == (0, delta // dt.timedelta(microseconds=1))
    assert Interval.parse(interval.text).same_length(interval)


@pytest.mark.parametrize(
    ("text", "months", "seconds"),
    [
        ("1 day", 0, 86_400),
        ("1 hour 30 minutes", 0, 5_400),
        ("2 weeks", 0, 1_209_600),
        ("1 YEAR 2 mons", 14, 0),
        ("1.5 hours", 0, 5_400),
        ("10s", 0, 10),
    ],
)
def test_an_interval_is_read_as_postgresql_reads_it(text: str, months: int, seconds: int) -> None:
    interval = Interval.parse(text)
    assert (interval.months, interval.microseconds) == (months, seconds * 1_000_000)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "day",
        "1",
        "-1 day",
        "1 day-2 hours",
        "+1 day",
        "1 day ago",
        "1.5 months",
        "1 fortnight",
        "1 day, 2 hours",
        "1 day'; DROP TABLE x; --",
    ],
)
def test_text_that_is_not_an_interval_is_refused(text: str) -> None:
    with pytest.raises(DeclarationError, match="is not a length of time"):
        Interval.parse(text)


@given(st.integers(-500, 500), st.integers(-(10**15), 10**15))
def test_interval_of_a_server_is_read_back_exactly(months: int, microseconds: int) -> None:
    interval = Interval.of_parts(months, microseconds)
    assert interval.text
    assert Interval.offset(interval.text).same_length(interval)


def test_a_window_may_end_now_or_ahead() -> None:
    assert RefreshPolicy.of(start="1 day", end="0 seconds", every="1 hour").end.microseconds == 0
    assert RefreshPolicy.of(start="1 day", end="-1 hour", every="1 hour").end.microseconds == -3_600_000_000
    with pytest.raises(DeclarationError, match="is not a length of time"):
        RefreshPolicy.of(start="1 day", end="0 seconds", every="0 seconds")


def test_names_of_columns_are_the_servers_and_not_pythons() -> None:
    metadata = sa.MetaData()
    readings = sa.Table(
        "readings",
        metadata,
        sa.Column("At", sa.TIMESTAMP(timezone=True), key="time", nullable=False),
        sa.Column("dev", sa.Text, key="device"),
    )
    hypertable(
        readings,
        time="At",
        chunk_interval="1 day",
        columnstore=Columnstore.of(segment_by=["dev"], order_by=["At DESC"]),
    )
    bucket = time_bucket("1 day", readings.c.time)
    daily = continuous_aggregate(
        metadata,
        "daily",
        sa.select(bucket.label("Day"), readings.c.device).group_by(bucket, readings.c.device),
        chunk_interval="10 days",
        indexes=[AggregateIndex("ix_a", ("Day DESC", "dev")), AggregateIndex("ix_b", ('"Day"  desc nulls last',))],
        comment="c",
        column_comments={"Day": "d", "dev": "v"},
    )
    assert list(daily.c.keys()) == ["Day", "dev"]
    assert 'ON daily ("Day" DESC, dev)' in create_index_on_view("daily", daily.indexes[0])
    assert 'ON daily ("Day" DESC NULLS LAST)' in create_index_on_view("daily", daily.indexes[1])
    columnstore = declarations_of(metadata).hypertables["readings"].columnstore
    assert columnstore is not None
    assert """timescaledb.orderby = '"At" DESC'""" in enable_columnstore("readings", columnstore)


def test_an_order_without_the_time_column_has_it_at_the_end() -> None:
    order = Columnstore.of(segment_by=["device"], order_by=["room"])
    assert order.normal_order("at") == ("room", "at DESC")
    assert Columnstore.of(segment_by=["at"], order_by=["room ASC"]).normal_order("at") == ("room",)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0")))
def test_names_and_literals_are_quoted(text: str) -> None:
    quoted = literal(text)
    assert quoted.startswith(("'", "E'"))
    if "\\" not in text:
        assert quoted[1:-1].replace("''", "") == text.replace("'", "")
    assert qualified(text or "x", "a b").startswith('"a b".')
    # SQLAlchemy's text keeps the names and literals unchanged, also their colons.
    compiled = verbatim(f"SELECT {quoted}").compile(dialect=NAMED)
    assert str(compiled) == f"SELECT {quoted}"


def test_an_aggregate_is_declared_or_dropped_and_not_both() -> None:
    there = aggregate()
    assert isinstance(there.source, Hypertable)
    metadata = there.source.table.metadata
    with pytest.raises(DeclarationError, match="dropped continuous aggregate per_minute: it is declared, too"):
        dropped_continuous_aggregate(metadata, "per_minute")
    dropped_continuous_aggregate(metadata, "per_hour")
    with pytest.raises(DeclarationError, match="continuous aggregate per_hour: the name is taken"):
        aggregate(there)


def test_a_columnstore_of_an_aggregate_is_checked_like_a_tables() -> None:
    with pytest.raises(DeclarationError, match="per_minute: the columnstore names 'device', which is not a column"):
        aggregate(columnstore=Columnstore.of(segment_by=["device"], order_by=["bucket"]))
    with pytest.raises(DeclarationError, match="is work for nothing"):
        aggregate(columnstore=Columnstore.of(segment_by=[], order_by=["bucket"], after="9 days"), retention="8 days")
