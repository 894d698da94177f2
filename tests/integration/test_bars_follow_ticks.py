"""A model of ticks and bars: after each step, bars of every length are those of the stored ticks.

The clock is the test's own (`tests/fixtures/clock.py`), and crosses minutes, hours and days. `QTS_MODEL_EXAMPLES`
sets the number of histories; a few are always tried.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from qts_data.contracts import TickData
from qts_data.database import migrations
from qts_data.errors import InvalidRecord
from qts_data.models import Base
from qts_data.repositories import BAR_INTERVALS, Database, TickRepository, TimeRange
from qts_data.writers import load_in_parts
from tests.fixtures.clock import ServerClock

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator

    from sqlalchemy.engine import URL

    from qts_data.contracts import OHLCV
    from qts_data.repositories import BarInterval, Bars, IngestReport
    from qts_data.timescale import Edition

EXAMPLES: Final = int(os.environ.get("QTS_MODEL_EXAMPLES", "3"))
STEPS: Final = int(os.environ.get("QTS_MODEL_STEPS", "10"))
ZONE: Final = "Asia/Seoul"
MINUTE: Final = dt.timedelta(minutes=1)
HOUR: Final = dt.timedelta(hours=1)
DAY: Final = dt.timedelta(days=1)
# Hours in Seoul begin with hours of UTC; the histories follow each other, as time does.
FIRST: Final = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
LENGTHS: Final[tuple[BarInterval, ...]] = ("1m", "5m", "1h", "4h", "1d")

symbols = st.sampled_from(["A", "B"])
seconds = st.integers(0, 59)
steps_of_time = st.one_of(
    st.integers(1, 90).map(lambda each: each * dt.timedelta(seconds=1)),
    st.integers(1, 90).map(lambda each: each * MINUTE),
    st.integers(1, 30).map(lambda each: each * HOUR),
)


class Bar(NamedTuple):
    open: int
    high: int
    low: int
    close: int
    volume: int
    ticks: int


class World:
    """One database for all histories, so that its watermarks only move forward, as in production."""

    def __init__(self, url: URL, edition: Edition) -> None:
        self.clock = ServerClock(url)
        self.runner = asyncio.Runner()
        self.database = Database(self.clock.url)
        self.continuous = edition == "community"
        self.histories = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def close(self) -> None:
        self.run(self.database.dispose())
        self.runner.close()

    async def watermarks(self) -> dict[str, dt.datetime]:
        if not self.continuous:
            return {}
        async with self.database.reader() as reader:
            rows = await reader.connection.execute(
                sa.text(
                    "SELECT user_view_name, greatest(TIMESTAMPTZ '1970-01-01Z', _timescaledb_functions.to_timestamp("
                    "_timescaledb_functions.cagg_watermark(mat_hypertable_id))) "
                    "FROM _timescaledb_catalog.continuous_agg"
                )
            )
            return {name: watermark for name, watermark in rows}  # noqa: C416 - typed rows

    async def refresh(self, ranges: Iterable[TimeRange]) -> None:
        autocommit = self.database.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with autocommit.connect() as connection:
            report = await TickRepository(connection).refresh_bars(ranges)
            assert report.skipped == {}

    async def materialize_all(self, end: dt.datetime) -> None:
        """Materialize without regard to the clock, as older versions did."""
        autocommit = self.database.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with autocommit.connect() as connection:
            for name in ("ohlcv_1m", "ohlcv_1h"):
                await connection.execute(
                    sa.text(f"CALL refresh_continuous_aggregate('{name}', :start, :end)"),
                    {"start": end - 30 * DAY, "end": end},
                )


class BarsFollowTicks(RuleBasedStateMachine):
    world: World

    @initialize(hour=st.integers(0, 23), minute=st.integers(0, 59), second=st.integers(0, 50))
    def begin(self, hour: int, minute: int, second: int) -> None:
        self.world.histories += 1
        self.tag = f"{self.world.histories}"
        start = FIRST + self.world.histories * 12 * DAY
        self.now = start + hour * HOUR + minute * MINUTE + second * dt.timedelta(seconds=1)
        self.begun = self.now
        self.world.clock.set(self.now)
        self.ticks: list[TickData] = []
        self.files = 0
        # Hours whose bars a refresh has to make: their ticks came when the hour was materialized already.
        self.pending: set[dt.datetime] = set()
        self.given: dict[tuple[BarInterval, str, dt.datetime], Bar] = {}
        self.marks = self.world.run(self.world.watermarks())

    # Steps

    @rule(step=steps_of_time)
    def time_goes_on(self, step: dt.timedelta) -> None:
        if self.now + step < self.begun + 4 * DAY:
            self.now += step
            self.world.clock.set(self.now)

    @rule(symbol=symbols, ages=st.lists(st.integers(0, 150), min_size=1, max_size=4), price=st.integers(1, 999))
    def ticks_come(self, symbol: str, ages: list[int], price: int) -> None:
        self.load([self.tick(symbol, self.now - age * dt.timedelta(seconds=1), price) for age in ages])

    @rule(symbol=symbols, age=st.integers(1, 3 * 24 * 60), second=seconds, price=st.integers(1, 999))
    def a_tick_comes_late(self, symbol: str, age: int, second: int, price: int) -> None:
        time = self.now - age * MINUTE - second * dt.timedelta(seconds=1)
        report = self.load([self.tick(symbol, time, price)])
        over = time.replace(second=0, microsecond=0) + MINUTE <= self.now
        later = any(one.symbol == self.name(symbol) and one.time >= time for one in self.ticks[:-1])
        # Exactly in the clear cases; the model compares the bars in all others.
        if not over or not any(one.symbol == self.name(symbol) for one in self.ticks[:-1]):
            assert report.late == 0
        elif later:
            assert report.late == 1

    @rule(symbol=symbols, ahead=st.integers(0, 60), price=st.integers(1, 999))
    def a_clock_is_fast(self, symbol: str, ahead: int, price: int) -> None:
        self.load([self.tick(symbol, self.now + ahead * dt.timedelta(seconds=1), price)])

    @rule(symbol=symbols, hours=st.integers(1, 30), price=st.integers(1, 999))
    def a_clock_is_wrong(self, symbol: str, hours: int, price: int) -> None:
        tick = self.tick(symbol, self.now + hours * HOUR, price)
        with pytest.raises(InvalidRecord, match="ahead of the server's clock"):
            self.world.run(self.ingest([tick]))
        report = self.load([tick], max_ahead=None)
        assert (report.ahead, report.late) == (1, 0)

    @precondition(lambda self: self.ticks)
    @rule(data=st.data())
    def a_correction_is_refused(self, data: st.DataObject) -> None:
        tick = data.draw(st.sampled_from(self.ticks))
        other = TickData(
            time=tick.time, symbol=tick.symbol, seq=tick.seq, price=tick.price + 1000, volume=tick.volume, source=""
        )
        with pytest.raises(InvalidRecord, match="already holds another tick"):
            self.world.run(self.ingest([other], max_ahead=None))

    @precondition(lambda self: self.ticks)
    @rule(data=st.data())
    def the_owner_corrects_a_tick(self, data: st.DataObject) -> None:
        """Store ticks by hand, without a report.

        Their bars are not compared with the closed ones, and a refresh follows.
        """
        index = data.draw(st.integers(0, len(self.ticks) - 1))
        old = self.ticks[index]
        self.ticks[index] = TickData(
            time=old.time, symbol=old.symbol, seq=old.seq, price=old.price, volume=old.volume + 1, source=""
        )
        self.world.run(self.update_volume(self.ticks[index]))
        self.forget(old.symbol, old.time, old.time)
        self.note_pending([old])

    @rule(symbol=symbols, age=st.integers(0, 36 * 60), length=st.integers(2, 300), count=st.integers(1, 9))
    def a_sorted_file_is_imported(self, symbol: str, age: int, length: int, count: int) -> None:
        last = self.now - age * MINUTE
        name = f"{symbol}{'f' if length % 2 else ''}"
        times = [last - length * MINUTE + (each + 1) * length * MINUTE / count for each in range(count)]
        ticks = [self.tick(name, time.replace(microsecond=0), 100 + each) for each, time in enumerate(times)]
        first = not any(one.symbol == ticks[0].symbol for one in self.ticks)
        self.files += 1
        report = self.world.run(
            load_in_parts(self.world.database, ticks, stream=f"{self.tag}/{self.files}", part_size=2)
        )
        assert report.inserted == len(ticks)
        if first:
            assert report.late == 0
        self.stored(ticks, report)
        self.world.run(self.world.refresh(report.to_refresh))
        self.refreshed(report.to_refresh)

    @rule(first=st.integers(-40, 80), length=st.integers(0, 80))
    def bars_are_refreshed(self, first: int, length: int) -> None:
        """The range may hold the running hour, and hours ahead of it."""
        start = self.now - first * HOUR
        span = TimeRange(start, start + length * HOUR + MINUTE)
        self.world.run(self.world.refresh([span]))
        self.refreshed([span])

    @precondition(lambda self: self.world.continuous)
    @rule()
    def the_policies_run(self) -> None:
        self.world.clock.run_refresh_policies()
        # The part that every window holds, however its ends cut through buckets.
        self.refreshed([TimeRange(self.now - 5 * DAY, self.now - 2 * HOUR)])

    @precondition(lambda self: self.world.continuous)
    @rule(ahead=st.sampled_from([dt.timedelta(0), HOUR, 40 * HOUR]))
    def an_older_version_did_damage_and_adopt_repairs_it(self, ahead: dt.timedelta) -> None:
        self.world.run(self.world.materialize_all(self.now + HOUR + ahead))
        self.refreshed([TimeRange(self.now - 10 * DAY, self.now)])
        migrations.adopt(self.world.clock.url, Base.metadata)

    # Invariants after each step

    @invariant()
    def nothing_is_materialized_that_is_not_over(self) -> None:
        self.marks = self.world.run(self.world.watermarks())
        for name, watermark in self.marks.items():
            assert watermark <= self.now, name

    @invariant()
    def bars_are_those_of_the_ticks(self) -> None:
        self.world.run(self.compare())

    async def compare(self) -> None:
        found = [self.name(one) for one in ("A", "B", "Af", "Bf")]
        span = (self.now - 9 * DAY, self.now + 5 * DAY)
        async with self.world.database.reader() as reader:
            for length in LENGTHS:
                expected = dict(bars_of_polars(self.ticks, length))
                every = {key_of(one): bar_of(one) for one in await reader.ticks.bars(found, *span, length)}
                sure = {key for key in expected.keys() | every.keys() if not self.is_pending(length, key[1])}
                assert {key: every.get(key) for key in sure} == {key: expected.get(key) for key in sure}, length
                closed = await reader.ticks.bars(found, *span, length, closed_only=True)
                self.check_closed(length, closed, sure)

    def check_closed(self, length: BarInterval, closed: Bars, sure: set[tuple[str, dt.datetime]]) -> None:
        """A closed bar stays as it was given, unless a later report named it."""
        bars = {key_of(one): bar_of(one) for one in closed}
        for (symbol, time), bar in bars.items():
            assert end_of(length, time) <= self.now
            if (symbol, time) in sure:
                given = self.given.setdefault((length, symbol, time), bar)
                assert given == bar, (length, symbol, time)
        assert {(symbol, time) for kind, symbol, time in self.given if kind == length} <= bars.keys()

    # The model's own

    def name(self, symbol: str) -> str:
        return f"{symbol}{self.tag}"

    def tick(self, symbol: str, time: dt.datetime, price: int) -> TickData:
        self.seq = getattr(self, "seq", 0) + 1
        return TickData(
            time=time, symbol=self.name(symbol), seq=self.seq, price=Decimal(price), volume=Decimal(1), source=""
        )

    def load(self, ticks: list[TickData], **options: Any) -> IngestReport:
        report: IngestReport = self.world.run(self.ingest(ticks, **options))
        assert report.inserted == len(ticks)
        self.stored(ticks, report)
        self.note_pending(ticks)
        return report

    async def ingest(self, ticks: list[TickData], **options: Any) -> IngestReport:
        async with self.world.database.transaction() as uow:
            return await uow.ticks.ingest(ticks, **options)

    async def update_volume(self, tick: TickData) -> None:
        async with self.world.database.transaction() as uow:
            await uow.connection.execute(
                sa.text("UPDATE tick_data SET volume = :volume WHERE symbol = :symbol AND time = :time AND seq = :seq"),
                {"volume": tick.volume, "symbol": tick.symbol, "time": tick.time, "seq": tick.seq},
            )

    def stored(self, ticks: list[TickData], report: IngestReport) -> None:
        self.ticks += ticks
        for changed in report.changed:
            self.forget(changed.symbol, changed.start, changed.end - dt.timedelta(microseconds=1))

    def forget(self, symbol: str, first: dt.datetime, last: dt.datetime) -> None:
        """Allow bars that cover an instant of that time to differ from the ones that were given."""
        for key in [
            (length, name, time)
            for length, name, time in self.given
            if name == symbol and time <= last and first < end_of(length, time)
        ]:
            del self.given[key]

    def note_pending(self, ticks: list[TickData]) -> None:
        """Note that a query does not see a tick below a watermark before a refresh."""
        for tick in ticks:
            if any(tick.time < self.marks[name] for name in self.marks if name.startswith("ohlcv")):
                self.pending.add(tick.time.replace(minute=0, second=0, microsecond=0))

    def refreshed(self, spans: Iterable[TimeRange]) -> None:
        for span in spans:
            # A refresh covers each hour that holds any instant of the span.
            self.pending = {hour for hour in self.pending if hour + HOUR <= span.start or span.end <= hour}

    def is_pending(self, length: BarInterval, time: dt.datetime) -> bool:
        return any(hour < end_of(length, time) and time < hour + HOUR for hour in self.pending)


def key_of(bar: OHLCV) -> tuple[str, dt.datetime]:
    return bar.symbol, bar.time


def bar_of(bar: OHLCV) -> Bar:
    assert bar.tick_count is not None
    return Bar(int(bar.open), int(bar.high), int(bar.low), int(bar.close), int(bar.volume), bar.tick_count)


def end_of(length: BarInterval, time: dt.datetime) -> dt.datetime:
    return time + (DAY if length == "1d" else BAR_INTERVALS[length].length)


def bars_of_polars(ticks: list[TickData], length: str) -> Iterator[tuple[tuple[str, dt.datetime], Bar]]:
    if not ticks:
        return
    frame = pl.DataFrame(
        [(one.symbol, one.time, one.seq, int(one.price), int(one.volume)) for one in ticks],
        schema={"symbol": pl.String, "time": pl.Datetime("us", "UTC"), "seq": pl.Int64, "p": pl.Int64, "v": pl.Int64},
        orient="row",
    )
    local = pl.col("time").dt.convert_time_zone(ZONE if length == "1d" else "UTC")
    bars = (
        frame.sort("time", "seq")
        .group_by("symbol", local.dt.truncate(length).dt.convert_time_zone("UTC").alias("bucket"), maintain_order=True)
        .agg(
            pl.col("p").first().alias("open"), pl.col("p").max().alias("high"), pl.col("p").min().alias("low"),
            pl.col("p").last().alias("close"), pl.col("v").sum(), pl.len(),
        )
    )  # fmt: skip
    for symbol, bucket, *values in bars.iter_rows():
        yield (symbol, bucket), Bar(*values)


@pytest.fixture
def world(database_url: URL, edition: Edition) -> Iterator[World]:
    made = World(database_url, edition)
    yield made
    made.close()


def test_bars_equal_the_ticks_and_closed_bars_stay(world: World) -> None:
    """Ticks in order, late, ahead and corrected, with imports, refreshes, adopt and policies in any order."""

    class Machine(BarsFollowTicks):
        pass

    Machine.world = world
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            # Shrinking takes minutes, and the steps that failed are printed anyway.
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
