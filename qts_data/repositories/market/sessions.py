"""When exchanges trade, minute by minute, as `exchange_calendars` knows it."""

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
# A calendar of days without a session is none: the longest holidays are shorter than this.
_MARGIN: Final = dt.timedelta(days=20)
# Whole years that pandas counts in nanoseconds.
_FIRST_YEAR, _LAST_YEAR = 1678, 2261


@dataclass(frozen=True, slots=True)
class Session:
    """A trading day of an exchange.

    Attributes:
        day: Its date at the exchange.
        minutes: Minutes since 1970 UTC in which it trades, in order; breaks are left out.
    """

    day: dt.date
    minutes: tuple[int, ...]


def minute_of(instant: dt.datetime) -> int:
    """Minutes since 1970 UTC, rounded down."""
    return (instant - _EPOCH) // _MINUTE


def minute_after(instant: dt.datetime) -> int:
    """Minutes since 1970 UTC, rounded up."""
    return -((_EPOCH - instant) // _MINUTE)


def sessions_between(calendar: str, start: dt.datetime, end: dt.datetime) -> list[Session]:
    """The sessions that trade in some minute of [start, end), whole.

    Raises:
        ConfigurationError: There is no such calendar, or the extra `calendars` is not installed.
        InvalidRecord: The calendar does not reach so far.
    """
    start, end = utc("start", start), utc("end", end)
    if start >= end:
        return []
    known = _calendar(calendar, start, end)
    pandas = require("pandas")
    # A session's date is at most a day away from the dates in UTC that it trades on.
    first, last = (pandas.Timestamp(moment.date()) for moment in (_earlier(start, _DAY), _later(end, _DAY)))
    found = []
    for label, hours in known.schedule.loc[first:last].to_dict("index").items():
        minutes = _minutes_of(hours)
        if minutes[-1] >= minute_of(start) and minutes[0] < minute_after(end):
            found.append(Session(label.date(), minutes))
    return found


def _minutes_of(hours: dict[str, Any]) -> tuple[int, ...]:
    opened, closed, pause, resumed = (hours[name] for name in ("open", "close", "break_start", "break_end"))
    # Not a time compares unlike itself.
    if pause != pause:  # noqa: PLR0124
        return tuple(range(minute_of(opened), minute_after(closed)))
    return (*range(minute_of(opened), minute_after(pause)), *range(minute_of(resumed), minute_after(closed)))


def trading_minutes(calendar: str, start: dt.datetime, end: dt.datetime) -> list[int]:
    """The minutes of sessions that lie in [start, end) from their start to their end, in order.

    Raises:
        ConfigurationError: There is no such calendar, or the extra `calendars` is not installed.
        InvalidRecord: The calendar does not reach so far.
    """
    whole = range(minute_after(start), minute_of(end))
    return [
        minute for session in sessions_between(calendar, start, end) for minute in session.minutes if minute in whole
    ]


def _calendar(name: str, start: dt.datetime, end: dt.datetime) -> Any:
    # Whole years: a calendar takes seconds to make, and the same one serves many questions.
    return _calendar_of_years(name, _earlier(start, _MARGIN).year, _later(end, _MARGIN).year)


@functools.lru_cache(maxsize=8)
def _calendar_of_years(name: str, first: int, last: int) -> Any:
    calendars = require("exchange_calendars")
    if not _FIRST_YEAR <= first <= last <= _LAST_YEAR:
        reason = f"the calendar {name} cannot tell before {_FIRST_YEAR} or after {_LAST_YEAR}"
        raise InvalidRecord(field="start" if first < _FIRST_YEAR else "end", reason=reason)
    try:
        with warnings.catch_warnings():
            # It asks pandas in the manner of earlier versions.
            warnings.simplefilter("ignore", DeprecationWarning)
            return calendars.get_calendar(name, start=f"{first}-01-01", end=f"{last}-12-31")
    except calendars.errors.InvalidCalendarName as error:
        raise ConfigurationError(
            f"there is no calendar {name!r}; exchanges have the names of ISO 10383, such as XKRX, and 24/7 never closes"
        ) from error
    except ValueError as error:
        raise InvalidRecord(field="start", reason=f"the calendar {name} cannot tell: {error}") from error


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
