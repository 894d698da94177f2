"""Instants: public methods convert them to UTC first, and refuse times at which no market was open.

Python compares, subtracts and hashes two aware datetimes of one zone by the wall clock, without `fold`. In the hour
that clocks show twice, a later instant may then stand before an earlier one, and two bars may share a key. So every
public method converts its instants with `utc` before it compares or computes.

`plausible` does the same for the time of an event. It also refuses times outside the range in which events are
recorded. Such a time is mostly a number in another unit: seconds read as milliseconds give January 1970. `any_time`
lifts this for a block, `allow_any_time` for the process; see `qts_data.contracts.leniency`.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from qts_data.contracts.leniency import any_time_allowed
from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

__all__ = [
    "EARLIEST",
    "EARLIEST_BAR",
    "LARGEST_LEAD",
    "MAX_AHEAD",
    "UNIT_HINT",
    "Confirmed",
    "end_of_day",
    "latest_plausible",
    "local_time",
    "plausible",
    "plausible_bar",
    "start_of_day",
    "utc",
    "utc_fields",
    "utc_of_local",
    "utc_or_none",
]

EARLIEST: Final = dt.datetime(1980, 1, 1, tzinfo=dt.UTC)
"""First plausible time of an event: trades, fills, quotes, orders, bars of a minute."""
EARLIEST_BAR: Final = dt.datetime(1900, 1, 1, tzinfo=dt.UTC)
"""First plausible start of a bar. Histories of daily bars reach back to the 1920s."""
LARGEST_LEAD: Final = dt.timedelta(days=1)
"""Longest lead of a plausible time over this machine's clock. Clocks and zones differ by less."""
MAX_AHEAD: Final = dt.timedelta(minutes=1)
"""Longest lead of a tick over the clock, unless a caller or a setting gives another. Clocks under NTP differ by less
than a second, and a wrong time zone is off by at least 15 minutes."""
_SECOND: Final = dt.timedelta(seconds=1)
UNIT_HINT: Final = (
    "a number in seconds, milliseconds, microseconds or nanoseconds may have been read in another of these units"
)

# A number of seconds of the years up to 2100 gives a time in this range if it is read as milliseconds. The same holds
# for milliseconds read as microseconds, and so on.
_WRONG_UNITS: Final = (dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.datetime(1970, 3, 1, tzinfo=dt.UTC))


class Confirmed:
    """The last plausible time that the clock has confirmed. For earlier times the clock is not read."""

    latest = EARLIEST


def utc(field: str, value: dt.datetime) -> dt.datetime:
    """Return the same instant in UTC, as a plain `datetime.datetime`.

    Args:
        field: Name for the message.
        value: An aware instant in any zone; `fold` counts.

    Raises:
        InvalidRecord: The value has no time zone, lies outside the years 1 to 9999 in UTC, or has a fraction of a
            microsecond.
    """
    if value.__class__ is dt.datetime and value.tzinfo is dt.UTC:
        return value
    if not isinstance(value, dt.datetime):
        raise InvalidRecord(field=field, reason=f"must be a datetime, is {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidRecord(field=field, reason=f"{value!s} has no time zone; give an aware instant")
    try:
        found = value.astimezone(dt.UTC)
    except OverflowError as error:
        raise InvalidRecord(field=field, reason=f"{value!s} is outside the years 1 to 9999 in UTC") from error
    if found.__class__ is dt.datetime:
        return found
    # A pandas.Timestamp is a datetime with more digits than the table stores.
    if getattr(value, "nanosecond", None):
        raise InvalidRecord(field=field, reason=f"{value!s} has a fraction of a microsecond")
    return dt.datetime(
        found.year, found.month, found.day, found.hour, found.minute, found.second, found.microsecond, tzinfo=dt.UTC
    )


def utc_or_none(field: str, value: dt.datetime | None) -> dt.datetime | None:
    """Return the instant in UTC, or None for None.

    Raises:
        InvalidRecord: See `utc`.
    """
    return None if value is None else utc(field, value)


def utc_fields(record: object, *fields: str) -> None:
    """Convert fields of a frozen record under construction to UTC. None stays None.

    Raises:
        InvalidRecord: See `utc`.
    """
    for field in fields:
        value = getattr(record, field)
        if value is not None and (value.__class__ is not dt.datetime or value.tzinfo is not dt.UTC):
            object.__setattr__(record, field, utc(field, value))


def utc_of_local(field: str, local: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """Return the instant at which the clocks of a zone showed a time.

    Args:
        field: Name for the message.
        local: Without a zone.
        zone: The zone of the clocks.

    Raises:
        InvalidRecord: The clocks leapt over the time, or showed it twice: a guess could be wrong by an hour. Or it is
            outside the years 1 to 9999 in UTC.
    """
    aware = local.replace(tzinfo=zone, fold=0)
    try:
        found = aware.astimezone(dt.UTC)
    except OverflowError as error:
        raise InvalidRecord(
            field=field, reason=f"{local} in {zone.key} is outside the years 1 to 9999 in UTC"
        ) from error
    if found.astimezone(zone).replace(tzinfo=None, fold=0) != local:
        raise InvalidRecord(field=field, reason=f"the clocks of {zone.key} leapt over {local}")
    if aware.replace(fold=1).utcoffset() != aware.utcoffset():
        raise InvalidRecord(field=field, reason=f"the clocks of {zone.key} showed {local} twice; write its offset")
    return found


def local_time(field: str, instant: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """Return the time that the clocks of a zone show at an instant.

    Raises:
        InvalidRecord: That time is outside the years 1 to 9999.
    """
    try:
        return instant.astimezone(zone)
    except OverflowError as error:
        raise InvalidRecord(
            field=field, reason=f"{instant.isoformat()} is outside the years 1 to 9999 in {zone.key}"
        ) from error


def end_of_day(field: str, day: dt.date, zone: ZoneInfo) -> dt.datetime:
    """Return the first instant after a day of a zone, in UTC.

    Raises:
        InvalidRecord: See `start_of_day`. Also for the last day of the year 9999.
    """
    if day == dt.date.max:
        raise InvalidRecord(field=field, reason=f"the end of {day} is outside the years 1 to 9999")
    return start_of_day(field, day + dt.timedelta(days=1), zone)


def start_of_day(field: str, day: dt.date, zone: ZoneInfo) -> dt.datetime:
    """Return the first instant at which the clocks of a zone showed a date, in UTC.

    If midnight comes twice (Havana, in autumn), the result is the first one. If clocks leap over midnight (Havana, in
    spring), the day begins at the leap.

    Args:
        field: Name for the message.
        day: The date.
        zone: The zone of the clocks.

    Raises:
        InvalidRecord: The clocks never showed the date (Samoa, 30 December 2011), or it is outside the years 1 to 9999.
    """
    midnight = dt.datetime.combine(day, dt.time(), zone)
    try:
        first, after = midnight.replace(fold=1).astimezone(dt.UTC), midnight.astimezone(dt.UTC)
        if first < after:
            # In a gap, the offset after it gives the earlier of the two instants, and the leap lies between them.
            while after - first > _SECOND:
                middle = first + (after - first) // 2
                first, after = (first, middle) if middle.astimezone(zone).date() >= day else (middle, after)
            after = after.replace(microsecond=0)
        shown = after.astimezone(zone).date()
    except OverflowError as error:
        raise InvalidRecord(field=field, reason=f"{day} in {zone.key} is outside the years 1 to 9999 in UTC") from error
    if shown != day:
        raise InvalidRecord(field=field, reason=f"the clocks of {zone.key} never showed {day}")
    return after


def plausible(field: str, value: dt.datetime) -> dt.datetime:
    """Return the time of an event in UTC.

    Args:
        field: Name for the message.
        value: An aware instant.

    Raises:
        InvalidRecord: See `utc`. Also if the time lies before 1980 or more than a day after this machine's clock,
            unless `any_time` is in force.
    """
    value = utc(field, value)
    if not EARLIEST <= value <= Confirmed.latest and (value < EARLIEST or _is_ahead(value)) and not any_time_allowed():
        raise _implausible(field, value, EARLIEST)
    return value


def plausible_bar(field: str, value: dt.datetime) -> dt.datetime:
    """Return the start of a bar in UTC.

    Daily bars from before 1980 are history. Times in January and February 1970 are refused all the same: numbers in a
    wrong unit give such times.

    Raises:
        InvalidRecord: See `utc`. Also if the time lies before 1900, in those two months, or more than a day after this
            machine's clock, unless `any_time` is in force.
    """
    value = utc(field, value)
    if EARLIEST <= value <= Confirmed.latest:
        return value
    wrong = value < EARLIEST_BAR or _WRONG_UNITS[0] <= value < _WRONG_UNITS[1] or _is_ahead(value)
    if wrong and not any_time_allowed():
        raise _implausible(field, value, EARLIEST_BAR)
    return value


def latest_plausible() -> dt.datetime:
    """Return the last plausible time by this machine's clock."""
    Confirmed.latest = dt.datetime.now(dt.UTC) + LARGEST_LEAD
    return Confirmed.latest


def _is_ahead(value: dt.datetime) -> bool:
    """Compare with the clock. It is read only for a time after the last one that it confirmed."""
    return value > Confirmed.latest and value > latest_plausible()


def _implausible(field: str, value: dt.datetime, earliest: dt.datetime) -> InvalidRecord:
    if value > Confirmed.latest:
        where = f"more than {LARGEST_LEAD.days} day after the clock of this machine"
    elif value < earliest:
        where = f"before {earliest.year}"
    else:
        where = "in the first two months of 1970"
    return InvalidRecord(
        field=field,
        reason=f"{value.isoformat()} is {where}; {UNIT_HINT}; if it is right, allow it: any_time() in a program, "
        "--any-time for an import, QTS_ALLOW_IMPLAUSIBLE_TIMES for every command",
    )
