"""Instants of records: converted to UTC from any zone, and plausible unless any time is allowed."""

from __future__ import annotations

import datetime as dt
import importlib
import inspect
import pkgutil
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import qts_data
from qts_data.contracts import OHLCV, LedgerEntry, Reversal, TickData, allow_any_time, any_time
from qts_data.contracts.instants import plausible, plausible_bar, start_of_day, utc, utc_of_local
from qts_data.contracts.leniency import as_stored
from qts_data.errors import InvalidRecord
from qts_data.importers import ReadOptions, read_file
from qts_data.repositories.moving.outbox import OutboxStatus
from tests.fixtures.factories import FillFactory, TickFactory
from tests.fixtures.repeated_hours import REPEATED, twice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
_FILL = FillFactory.build()
_OUTBOX = OutboxStatus(
    active=True, until=None, pending=0, dead=0, delivered=0, delivered_at=None, lag=None, failures=0, last_error=None
)
_BY_NAME: dict[str, object] = {
    "side": "BUY", "currency": "KRW", "fee_currency": "KRW", "amount": None, "idempotency_key": None,
    "execution_id": "E1", "reverses": "E0", "bids": (), "asks": (), "kind": "day", "entry": _FILL, "outbox": _OUTBOX,
    "id_scope": "",
}  # fmt: skip
_BY_TYPE: dict[str, object] = {"str": "X1", "Decimal": Decimal(1), "int": 1, "bool": True, "float": 1.0, "Any": None}


def records_with_instants() -> Iterator[type[Any]]:
    """Every public dataclass of the package that holds an instant."""
    for found in pkgutil.walk_packages(qts_data.__path__, "qts_data."):
        module = importlib.import_module(found.name)
        for name in getattr(module, "__all__", ()):
            made = getattr(module, name, None)
            if inspect.isclass(made) and made.__module__ == found.name and is_dataclass(made) and instants_of(made):
                yield made


def instants_of(record: type[Any]) -> list[str]:
    return [field.name for field in fields(record) if "datetime" in str(field.type)]


def made(record: type[Any], instant: dt.datetime) -> Any:
    """Build a record whose instants are all this one."""
    values: dict[str, object] = {}
    for field in fields(record):
        kind = str(field.type)
        if "datetime" in kind:
            values[field.name] = instant
        elif field.name in _BY_NAME:
            values[field.name] = _BY_NAME[field.name]
        else:
            empty: object = () if kind.startswith("tuple") else {} if kind.startswith("dict") else None
            values[field.name] = _BY_TYPE.get(kind, empty)
    return record(**values)


# In UTC -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", REPEATED)
@pytest.mark.parametrize("record", list(records_with_instants()), ids=lambda record: record.__name__)
def test_a_record_of_a_zone_is_that_of_utc(record: type[Any], zone: str) -> None:
    """Equal to the record in UTC, with the same hash. The two instants of a repeated hour differ."""
    both = twice(zone)
    in_zone, in_utc = ([made(record, moment) for moment in each] for each in (both, [utc("t", one) for one in both]))
    assert in_zone == in_utc
    assert in_zone[0] != in_zone[1]
    for one in in_zone:
        assert {getattr(one, name).tzinfo for name in instants_of(record)} == {dt.UTC}
        with pytest.raises(InvalidRecord, match="no time zone"):
            made(record, both[0].replace(tzinfo=None))


def test_the_walk_finds_the_records_that_there_are() -> None:
    found = {record.__name__ for record in records_with_instants()}
    assert {"TickData", "OHLCV", "LedgerEntry", "Reversal", "Position", "Quote", "TimeRange", "Gap"} <= found
    assert len(found) >= 20


@given(
    zone=st.timezones(),
    local=st.datetimes(dt.datetime(1800, 1, 1), dt.datetime(2200, 1, 1)),  # noqa: DTZ001
    fold=st.sampled_from([0, 1]),
)
def test_utc_keeps_the_instant_of_any_zone(zone: ZoneInfo, local: dt.datetime, fold: int) -> None:
    aware = local.replace(tzinfo=zone, fold=fold)
    found = utc("t", aware)
    assert (found.tzinfo, found.timestamp()) == (dt.UTC, aware.timestamp())
    assert found - dt.datetime(1970, 1, 1, tzinfo=dt.UTC) == aware - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize("zone", REPEATED)
def test_a_local_time_that_came_twice_or_never_is_refused(zone: str) -> None:
    with pytest.raises(InvalidRecord, match=r"--from: .* twice; write its offset"):
        utc_of_local("--from", REPEATED[zone], ZoneInfo(zone))
    with pytest.raises(InvalidRecord, match="leapt over"):
        utc_of_local("--from", dt.datetime(2024, 3, 10, 2, 30), ZoneInfo("America/New_York"))  # noqa: DTZ001


# Days -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "day", "start"),
    [
        ("Asia/Seoul", "2026-11-20", "2026-11-19T15:00"),
        ("America/Havana", "2024-11-03", "2024-11-03T04:00"),  # two midnights: the first
        ("America/Havana", "2024-03-10", "2024-03-10T05:00"),  # none: clocks leap from 00:00 to 01:00
        ("America/Toronto", "1919-03-31", "1919-03-31T04:30"),  # none: from 23:30 to 00:30
        ("America/St_Johns", "2006-10-29", "2006-10-29T02:30"),  # 00:01 goes back to 23:01: the first
    ],
)
def test_a_day_begins_at_its_first_instant(zone: str, day: str, start: str) -> None:
    found = start_of_day("date", dt.date.fromisoformat(day), ZoneInfo(zone))
    assert found.isoformat() == f"{start}:00+00:00"


def test_a_day_that_no_clock_showed_is_refused() -> None:
    with pytest.raises(InvalidRecord, match="date: the clocks of Pacific/Apia never showed 2011-12-30"):
        start_of_day("date", dt.date(2011, 12, 30), ZoneInfo("Pacific/Apia"))


@given(zone=st.timezones(), day=st.dates(dt.date(1850, 1, 1), dt.date(2150, 1, 1)))
@example(zone=ZoneInfo("America/Toronto"), day=dt.date(1919, 3, 31))
def test_the_start_of_a_day_is_its_first_instant(zone: ZoneInfo, day: dt.date) -> None:
    try:
        start = start_of_day("date", day, zone)
    except InvalidRecord:
        return
    assert start.astimezone(zone).date() == day
    assert (start - dt.timedelta(seconds=1)).astimezone(zone).date() < day


# Plausible --------------------------------------------------------------------------------------------------

UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@given(
    moment=st.datetimes(dt.datetime(1980, 1, 1), NOW.replace(tzinfo=None)),  # noqa: DTZ001
    written=st.sampled_from([*UNITS]),
    read=st.sampled_from([*UNITS]),
)
def test_a_number_read_in_another_unit_is_refused(moment: dt.datetime, written: str, read: str) -> None:
    """Any time from 1980 until now, by the checks of events and of bars."""
    number = int(moment.replace(tzinfo=dt.UTC).timestamp()) * UNITS[written]
    micros = number * 1_000_000 // UNITS[read]
    try:
        found = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=micros)
    except OverflowError:
        return  # no datetime at all
    for check in (plausible, plausible_bar):
        if written == read:
            assert check("time", found) == found
        else:
            with pytest.raises(InvalidRecord, match=r"time: .* another of these units; .* any_time\(\)"):
                check("time", found)


@pytest.mark.parametrize(
    ("instant", "event", "bar"),
    [
        (dt.datetime(1980, 1, 1, tzinfo=dt.UTC), True, True),
        (dt.datetime(1979, 12, 31, 23, 59, 59, tzinfo=dt.UTC), False, True),
        (dt.datetime(1970, 3, 1, tzinfo=dt.UTC), False, True),
        (dt.datetime(1970, 2, 28, tzinfo=dt.UTC), False, False),
        (dt.datetime(1970, 1, 1, tzinfo=dt.UTC), False, False),
        (dt.datetime(1969, 12, 31, tzinfo=dt.UTC), False, True),
        (dt.datetime(1900, 1, 1, tzinfo=dt.UTC), False, True),
        (dt.datetime(1899, 12, 30, tzinfo=dt.UTC), False, False),
        (NOW + DAY, True, True),
        (NOW + 2 * DAY, False, False),
    ],
    ids=range(10),
)
def test_the_bounds_of_events_and_of_bars(instant: dt.datetime, *, event: bool, bar: bool) -> None:
    figures: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close", "volume"), Decimal(1))
    for right, make in (
        (event, lambda: TickFactory.build(time=instant)),
        (event, lambda: FillFactory.build(timestamp=instant)),
        (event, lambda: Reversal(timestamp=instant, broker="b", execution_id="1", reverses="2")),
        (bar, lambda: OHLCV(time=instant, symbol="A", source="", tick_count=0, **figures)),
    ):
        if right:
            make()
            continue
        with pytest.raises(InvalidRecord, match=r"(time|timestamp): .* is (before|more than|in the first)"):
            make()
        with any_time():
            make()
    with as_stored():
        assert OHLCV(time=instant, symbol="A", source="", tick_count=0, **figures).time == instant


def test_any_time_ends_with_its_block() -> None:
    old = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    with any_time():
        assert plausible("time", old) == old
    with pytest.raises(InvalidRecord):
        plausible("time", old)
    allow_any_time()
    try:
        assert plausible("time", old) == old
    finally:
        allow_any_time(False)
    with pytest.raises(InvalidRecord):
        plausible("time", old)


def test_record_made_of_a_stored_fill_needs_no_permission() -> None:
    with any_time():
        fill: LedgerEntry = FillFactory.build(timestamp=dt.datetime(1970, 1, 20, tzinfo=dt.UTC))
    bust = Reversal(timestamp=NOW, broker="test", execution_id="R", reverses=fill.stored_execution_id)
    assert bust.reversal_of(fill).side == "SELL"
    assert fill.same_content(fill)


@pytest.mark.parametrize(("unit", "says"), [("ms", "before 1980"), ("us", "before 1980"), ("ns", "before 1980")])
def test_a_file_of_seconds_read_as_less_is_refused_row_by_row(tmp_path: Path, unit: str, says: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("time,price,volume\n1767312000,1,1\n1767313000,1,1\n")
    bad: list[InvalidRecord] = []
    options = ReadOptions(symbol="A", time_format=unit)
    assert not list(read_file("csv", path, options, lambda error, _: bad.append(error)))
    assert [(one.row, one.field) for one in bad] == [(2, "time"), (3, "time")]
    assert all(says in one.reason and "--any-time" in one.reason for one in bad)
    with any_time():
        ticks = list(read_file("csv", path, options, None))
    assert [tick.time.year for tick in ticks if isinstance(tick, TickData)] == [1970, 1970]


def test_a_file_of_milliseconds_read_as_seconds_names_the_units(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("time,price,volume\n1767312000000,1,1\n")
    with pytest.raises(InvalidRecord, match=r"row 2: time: .* outside the years 1 to 9999; a number in seconds"):
        list(read_file("csv", path, ReadOptions(symbol="A", time_format="s"), None))
