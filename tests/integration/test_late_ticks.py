"""A late tick is in its bar after the policies ran, or at once where bars are views."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from qts_data.models import OHLCV_1H, OHLCV_1M, Base, Tick
from qts_data.timescale import declarations_of
from qts_data.timescale.status import State, feature_states

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine, Row

    from qts_data.timescale import Edition


def add_tick(database: Engine, time: dt.datetime, price: int) -> None:
    with database.begin() as connection:
        connection.execute(
            sa.insert(Tick).values(symbol="005930", time=time, source="", seq=0, price=Decimal(price), volume=1)
        )


def bar(database: Engine, aggregate: sa.TableClause, bucket: dt.datetime) -> Row[tuple[object, ...]] | None:
    with database.connect() as connection:
        return connection.execute(sa.select(aggregate).where(aggregate.c.bucket == bucket)).one_or_none()


def run_policies(database: Engine, procedure: str) -> None:
    """Run each job once, in the order of their creation, as the scheduler would."""
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        jobs = connection.scalars(
            sa.text("SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = :name ORDER BY job_id"),
            {"name": procedure},
        ).all()
        assert jobs
        for job in jobs:
            connection.execute(sa.text(f"CALL run_job({job})"))


@pytest.fixture
def minute() -> dt.datetime:
    """A minute three hours ago, far enough from the border of an hour."""
    return (dt.datetime.now(dt.UTC) - dt.timedelta(hours=3)).replace(minute=30, second=0, microsecond=0)


@pytest.mark.edition("community")
def test_tick_three_hours_late_is_in_its_bars_after_policies(database: Engine, minute: dt.datetime) -> None:
    """Its bars were materialized before the tick came."""
    hour = minute.replace(minute=0)
    add_tick(database, minute + dt.timedelta(seconds=1), 100)
    # A newer tick, so that the first run materializes the minute and real-time queries begin after it.
    add_tick(database, dt.datetime.now(dt.UTC) - dt.timedelta(seconds=90), 100)
    run_policies(database, "policy_refresh_continuous_aggregate")
    add_tick(database, minute + dt.timedelta(seconds=2), 90)
    before = bar(database, OHLCV_1M.view, minute)
    assert before is not None
    assert before.low == 100, "the minute was materialized, so the late tick is not in it yet"

    run_policies(database, "policy_refresh_continuous_aggregate")
    for aggregate, bucket in ((OHLCV_1M.view, minute), (OHLCV_1H.view, hour)):
        after = bar(database, aggregate, bucket)
        assert after is not None
        assert (after.open, after.low, after.close, after.tick_count) == (100, 90, 90, 2)


@pytest.mark.edition("apache", "postgresql")
def test_a_late_tick_is_in_its_bars_at_once_where_bars_are_views(database: Engine, minute: dt.datetime) -> None:
    add_tick(database, minute + dt.timedelta(seconds=1), 100)
    add_tick(database, minute + dt.timedelta(seconds=2), 90)
    for aggregate, bucket in ((OHLCV_1M.view, minute), (OHLCV_1H.view, minute.replace(minute=0))):
        found = bar(database, aggregate, bucket)
        assert found is not None
        assert (found.open, found.low, found.close, found.tick_count) == (100, 90, 90, 2)


@pytest.mark.edition("community")
def test_every_job_runs_on_ticks_of_its_age(database: Engine) -> None:
    """Old ticks become columns, and older ones are dropped by retention."""
    now = dt.datetime.now(dt.UTC)
    for days, price in ((0, 100), (3, 97), (20, 80)):
        add_tick(database, now - dt.timedelta(days=days), price)
    run_policies(database, "policy_refresh_continuous_aggregate")
    run_policies(database, "policy_compression")
    with database.connect() as connection:
        compressed = connection.scalar(
            sa.text(
                "SELECT count(*) FROM timescaledb_information.chunks "
                "WHERE hypertable_name = 'tick_data' AND is_compressed"
            )
        )
    assert compressed == 2
    run_policies(database, "policy_retention")
    with database.connect() as connection:
        prices = connection.scalars(sa.select(Tick.price).order_by(Tick.time)).all()
    assert prices == [Decimal(97), Decimal(100)]
    # Bars of dropped ticks stay. The policies may run again without harm to the bars in their windows.
    run_policies(database, "policy_refresh_continuous_aggregate")
    assert bar(database, OHLCV_1M.view, (now - dt.timedelta(days=3)).replace(second=0, microsecond=0)) is not None


def test_status_finds_declared_features_active_or_degraded(database: Engine, edition: Edition) -> None:
    """A degraded feature has a reason."""
    with database.connect() as connection:
        states = feature_states(connection, Base.metadata)
    found = {state.state for state in states}
    assert State.MISSING not in found
    if edition == "community":
        assert found == {State.ACTIVE}
    else:
        hypertables = {state.state for state in states if state.feature.startswith("hypertable")}
        assert hypertables == {State.ACTIVE if edition == "apache" else State.DEGRADED}
        assert all(state.reason for state in states if state.state is State.DEGRADED)
    names = {state.name for state in states}
    assert names == {*declarations_of(Base.metadata).hypertables, *declarations_of(Base.metadata).continuous_aggregates}


@pytest.mark.edition("community")
def test_status_finds_a_removed_policy(database: Engine) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("SELECT remove_retention_policy('tick_data')")
    with database.connect() as connection:
        missing = [s for s in feature_states(connection, Base.metadata) if s.state is State.MISSING]
    assert [(state.name, state.feature) for state in missing] == [("tick_data", "retention 7 days")]
