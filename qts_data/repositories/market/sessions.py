"""Trading sessions of exchanges, minute by minute, from `exchange_calendars`."""

from __future__ import annotations

import datetime as dt
import functools
import warnings
from dataclasses import dataclass
from typing import Any, Final

from qts_data.contracts.instants import utc
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.extras import require

__all__ = ["Session", "minute_after", "minute_of", "sessions_between", "trading_minutes"]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MINUTE: Final = dt.timedelta(minutes=1)
_DAY: Final = dt.timedelta(days=1)
# A calendar of days without a session raises. The longest holidays are shorter than this.
_MARGIN: Final = dt.timedelta(days=20)
# Whole years within the range of pandas' nanoseconds.
_FIRST_YEAR, _LAST_YEAR = 1678, 2261


@dataclass(frozen=True, slots=True)
class Session:
    """A trading day of an exchange.

    Attributes:
        day: Its date at the exchange.
        minutes: Minutes since 1970 UTC in which it trades, in order, without breaks.
    """

    day: dt.date
    minutes: tuple[int, ...]


def minute_of(instant: dt.datetime) -> int:
    """Return the minutes since 1970 UTC, rounded down."""
    return (instant - _EPOCH) // _MINUTE


def minute_after(instant: dt.datetime) -> int:
    """Return the minutes since 1970 UTC, rounded up."""
    return -((_EPOCH - instant) // _MINUTE)


def sessions_between(calendar: str, start: dt.datetime, end: dt.datetime) -> list[Session]:
    """Return the whole sessions that trade in some minute of [start, end).

    Raises:
        ConfigurationError: The calendar is unknown, or the extra `calendars` is not installed.
        InvalidRecord: The range lies outside the years of the calendar.
    """
    start, end = utc("start", start), utc("end", end)
    if start >= end:
        return []
    known = _calendar(calendar, start, end)
    pandas = require("pandas")
    # The date of a session differs by at most a day from the UTC dates on which it trades.
    first, last = (pandas.Timestamp(moment.date()) for moment in (_earlier(start, _DAY), _later(end, _DAY)))
    found = []
    for label, hours in known.schedule.loc[first:last].to_dict("index").items():
        minutes = _minutes_of(hours)
        if minutes[-1] >= minute_of(start) and minutes[0] < minute_after(end):
            found.append(Session(label.date(), minutes))
    return found


def _minutes_of(hours: dict[str, Any]) -> tuple[int, ...]:
    opened, closed, pause, resumed = (hours[name] for name in ("open", "close", "break_start", "break_end"))
    # NaT: it differs from itself.
    if pause != pause:  # noqa: PLR0124
        return tuple(range(minute_of(opened), minute_after(closed)))
    return (*range(minute_of(opened), minute_after(pause)), *range(minute_of(resumed), minute_after(closed)))


def trading_minutes(calendar: str, start: dt.datetime, end: dt.datetime) -> list[int]:
    """Return the minutes of sessions that lie in [start, end) with their start and end, in order.

    Raises:
        ConfigurationError: The calendar is unknown, or the extra `calendars` is not installed.
        InvalidRecord: The range lies outside the years of the calendar.
    """
    whole = range(minute_after(start), minute_of(end))
    return [
        minute for session in sessions_between(calendar, start, end) for minute in session.minutes if minute in whole
    ]


def _calendar(name: str, start: dt.datetime, end: dt.datetime) -> Any:
    # Whole years: it takes seconds to make a calendar, and one calendar serves many queries.
    return _calendar_of_years(name, _earlier(start, _MARGIN).year, _later(end, _MARGIN).year)


@functools.lru_cache(maxsize=8)
def _calendar_of_years(name: str, first: int, last: int) -> Any:
    calendars = require("exchange_calendars")
    if not _FIRST_YEAR <= first <= last <= _LAST_YEAR:
        reason = f"the calendar {name} covers only the years {_FIRST_YEAR} to {_LAST_YEAR}"
        raise InvalidRecord(field="start" if first < _FIRST_YEAR else "end", reason=reason)
    try:
        with warnings.catch_warnings():
            # The library calls pandas in a deprecated way.
            warnings.simplefilter("ignore", DeprecationWarning)
            return calendars.get_calendar(name, start=f"{first}-01-01", end=f"{last}-12-31")
    except calendars.errors.InvalidCalendarName as error:
        raise ConfigurationError(
            f"no calendar {name!r} exists; exchanges have the names of ISO 10383, such as XKRX, and 24/7 never closes"
        ) from error
    except ValueError as error:
        raise InvalidRecord(field="start", reason=f"the calendar {name} does not cover it: {error}") from error


def _earlier(instant: dt.datetime, span: dt.timedelta) -> dt.datetime:
    try:
        return instant.astimezone(dt.UTC) - span
    except OverflowError:
        return dt.datetime.min.replace(tzinfo=dt.UTC)


def _later(instant: dt.datetime, span: dt.timedelta) -> dt.datetime:
    try:
        return instant.astimezone(dt.UTC) + span
    except OverflowError:
        return dt.datetime.max.replace(tzinfo=dt.UTC)
