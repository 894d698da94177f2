"""Counts of one load, updated with each batch."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from qts_data.repositories.market.reports import BarRange, IngestReport, Lead, TimeRange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qts_data.repositories.market.ticks.batch import MinuteCount

__all__ = ["Baseline", "Tally", "hours_of", "instant"]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LATEST: Final = dt.datetime.max.replace(tzinfo=dt.UTC)
_NEVER: Final = (_LATEST - _EPOCH) // dt.timedelta(minutes=1) + 1
_MINUTES_OF_AN_HOUR: Final = 60
_MINUTES_OF_A_DAY: Final = 1440
_MICROSECONDS_OF_A_MINUTE: Final = 60_000_000
# Lengths of the bars below a day, in minutes. Each divides a day, so bars begin at multiples of it since 1970.
_BAR_MINUTES: Final = (1, 5, 15, 30, 60, 240)
# The longest day of the wall clock, and so the longest bar.
_LONGEST_BAR_MINUTES: Final = 26 * 60


def instant(microseconds: int) -> dt.datetime:
    """Return the instant at these microseconds after 1970."""
    return _EPOCH + dt.timedelta(microseconds=microseconds)


def hours_of(first: dt.datetime, last: dt.datetime) -> TimeRange:
    """Return the hours from that of one instant to that of another."""
    start, end = ((each - _EPOCH) // dt.timedelta(hours=1) for each in (first, last))
    return TimeRange(_minute(start * _MINUTES_OF_AN_HOUR), _minute((end + 1) * _MINUTES_OF_AN_HOUR))


def _minute(minutes: int) -> dt.datetime:
    """Return the start of a minute after 1970. The end of the last possible minute is the last possible instant."""
    return _LATEST if minutes >= _NEVER else _EPOCH + dt.timedelta(minutes=minutes)


def _ranges(members: Iterable[int]) -> list[tuple[int, int]]:
    """Return neighbouring numbers as half-open ranges."""
    found: list[tuple[int, int]] = []
    for member in sorted(members):
        if found and found[-1][1] == member:
            found[-1] = (found[-1][0], member + 1)
        else:
            found.append((member, member + 1))
    return found


class Baseline:
    """Time of the last stored tick of each symbol and feed, before a source was loaded.

    The parts of one source share one baseline. So a part is not late because of ticks of an earlier part.

    Attributes:
        stored: In microseconds since 1970; None if nothing was stored.
    """

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], int | None] = {}


class Tally:
    """Counts of the ticks that a load has put into a table so far.

    Args:
        cutoff: Instant before which the server drops ticks by itself; None if it keeps them.
        baseline: Shared by the parts of a source; None for a load of its own.

    Attributes:
        received: Rows given.
        inserted: New ticks.
        duplicate: Ticks that were already stored.
        rejected: Rows refused.
        days: For each symbol, feed and UTC day (days since 1970): number of inserted ticks, time of the earliest and
            of the latest in microseconds since 1970.
        stored: Time of the last tick of each symbol and feed that was stored before this load; None without any.
    """

    def __init__(self, cutoff: dt.datetime | None, baseline: Baseline | None = None) -> None:
        self.received: int = 0
        self.inserted: int = 0
        self.duplicate = 0
        self.rejected = 0
        self.days: dict[tuple[str, str, int], tuple[int, int, int]] = {}
        self.stored: dict[tuple[str, str], int | None] = {}
        self._baseline = (baseline or Baseline()).stored
        self._latest: dict[tuple[str, str], int] = {}
        self._late = 0
        self._ahead = 0
        self._leads: list[Lead] = []
        # Ticks of each minute whose bars may have been given as closed. The clock at the end of the load decides.
        self._suspects: defaultdict[tuple[str, str], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._past_retention = 0
        self._first: int | None = None
        self._last: int | None = None
        self._hours: set[int] = set()
        self._of_minute: defaultdict[int, int] = defaultdict(int)
        self._changed: dict[tuple[str, str], set[int]] = {}
        self._cutoff = cutoff
        self._cutoff_minute = None if cutoff is None else (cutoff - _EPOCH) // dt.timedelta(minutes=1)

    def meet(self, stored: dict[tuple[str, str], int | None]) -> None:
        """Add the last stored times of symbols and feeds that are new to this load."""
        self.stored |= stored
        for pair, last in stored.items():
            self._baseline.setdefault(pair, last)

    def take(self, received: Iterable[MinuteCount]) -> None:
        """Count the ticks of a batch that the caller gave."""
        for count in received:
            self.received += count.ticks
            self._first = count.first if self._first is None else min(self._first, count.first)
            self._last = count.last if self._last is None else max(self._last, count.last)

    def insert(self, inserted: Iterable[MinuteCount]) -> None:
        """Count the ticks of a batch that were new."""
        for count in inserted:
            symbol, source, minute, ticks, first, last = count
            self.inserted += ticks
            self._hours.add(minute // _MINUTES_OF_AN_HOUR)
            if self._cutoff_minute is not None and minute < self._cutoff_minute:
                self._past_retention += ticks
            before = self._baseline.get((symbol, source))
            if before is not None and minute < before // _MICROSECONDS_OF_A_MINUTE + _LONGEST_BAR_MINUTES:
                self._suspects[symbol, source][minute] += ticks
            self._of_minute[minute] += ticks
            self._latest[symbol, source] = max(last, self._latest.get((symbol, source), last))
            key = (symbol, source, minute // _MINUTES_OF_A_DAY)
            day = self.days.get(key)
            if day is not None:
                ticks, first, last = ticks + day[0], min(first, day[1]), max(last, day[2])
            self.days[key] = (ticks, first, last)

    def latest(self, pair: tuple[str, str]) -> int | None:
        """Return the time of the last tick of a symbol and feed in the table, in microseconds since 1970, or None."""
        inserted, stored = self._latest.get(pair), self.stored.get(pair)
        if inserted is None or stored is None:
            return stored if inserted is None else inserted
        return max(inserted, stored)

    def at(self, now: dt.datetime, zone: str) -> None:
        """Call once, after all batches. Decide which ticks are late, and which are ahead.

        Args:
            now: The server's clock.
            zone: Time zone of the trading days.
        """
        current = (now - _EPOCH) // dt.timedelta(minutes=1)
        self._ahead = sum(ticks for minute, ticks in self._of_minute.items() if minute > current)
        if self._ahead:
            begun = (current + 1) * _MICROSECONDS_OF_A_MINUTE
            leads = sorted((pair, instant(last)) for pair, last in self._latest.items() if last >= begun)
            self._leads = [Lead(*pair, last, last - now) for pair, last in leads]
        for pair, minutes in self._suspects.items():
            before = self._baseline[pair] or 0
            end = min(_closed_until(before, current, zone), current)
            changed = {minute for minute in minutes if minute < end}
            if changed:
                self._changed[pair] = changed
                self._late += sum(minutes[minute] for minute in changed)

    def report(self) -> IngestReport:
        """Return the counts so far."""
        return IngestReport(
            received=self.received + self.rejected,
            inserted=self.inserted,
            duplicate=self.duplicate,
            first=None if self._first is None else instant(self._first),
            last=None if self._last is None else instant(self._last),
            late=self._late,
            rejected=self.rejected,
            cutoff=self._cutoff,
            past_retention=self._past_retention,
            ahead=self._ahead,
            leads=tuple(self._leads),
            changed=tuple(
                BarRange(symbol, source, _minute(start), _minute(end))
                for (symbol, source), minutes in sorted(self._changed.items())
                for start, end in _ranges(minutes)
            ),
            to_refresh=tuple(
                TimeRange(_minute(start * _MINUTES_OF_AN_HOUR), _minute(end * _MINUTES_OF_AN_HOUR))
                for start, end in _ranges(self._hours)
            ),
        )


def _closed_until(last: int, current: int, zone: str) -> int:
    """Return the end of the longest closed bar with this tick, at least the end of the tick's own minute.

    Args:
        last: Time of the tick, in microseconds since 1970.
        current: The current minute; in minutes since 1970, like the result.
        zone: Time zone of the trading days.
    """
    minute = last // _MICROSECONDS_OF_A_MINUTE
    ends = [(minute // length + 1) * length for length in _BAR_MINUTES]
    closed = max((end for end in ends if end <= current), default=minute + 1)
    first_end, last_end = _ends_of_day(instant(last), zone)
    return max(closed, last_end) if first_end <= current else max(closed, minute + 1)


def _ends_of_day(time: dt.datetime, zone: str) -> tuple[int, int]:
    """Return both ends of the wall clock's day, in minutes since 1970. They differ only if midnight comes twice."""
    where = _zone(zone)
    try:
        midnight = dt.datetime.combine(time.astimezone(where).date() + dt.timedelta(days=1), dt.time(), where)
        ends = [(midnight.replace(fold=fold) - _EPOCH) // dt.timedelta(minutes=1) for fold in (0, 1)]
    except OverflowError:
        return _NEVER, _NEVER
    return min(ends), max(ends)


def _zone(name: str) -> dt.tzinfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        # The server knows the zone, but this machine does not. A load must not fail because of its report.
        return dt.UTC
