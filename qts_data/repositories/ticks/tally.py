"""Counts of one load, as its batches go in."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from qts_data.repositories.ticks.reports import BarRange, IngestReport, TimeRange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qts_data.repositories.ticks.batch import MinuteCount

__all__ = ["Tally", "hours_of", "instant"]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LATEST: Final = dt.datetime.max.replace(tzinfo=dt.UTC)
_NEVER: Final = (_LATEST - _EPOCH) // dt.timedelta(minutes=1) + 1
_MINUTES_OF_AN_HOUR: Final = 60
_MINUTES_OF_A_DAY: Final = 1440
_MICROSECONDS_OF_A_MINUTE: Final = 60_000_000


def instant(microseconds: int) -> dt.datetime:
    """The instant so many microseconds after 1970."""
    return _EPOCH + dt.timedelta(microseconds=microseconds)


def hours_of(first: dt.datetime, last: dt.datetime) -> TimeRange:
    """The hours from that of one instant to that of another."""
    start, end = ((each - _EPOCH) // dt.timedelta(hours=1) for each in (first, last))
    return TimeRange(_minute(start * _MINUTES_OF_AN_HOUR), _minute((end + 1) * _MINUTES_OF_AN_HOUR))


def _minute(minutes: int) -> dt.datetime:
    """The minute so many after 1970; the end of the last one there is, is the last instant there is."""
    return _LATEST if minutes >= _NEVER else _EPOCH + dt.timedelta(minutes=minutes)


def _ranges(members: Iterable[int]) -> list[tuple[int, int]]:
    """Neighbouring numbers as half-open ranges."""
    found: list[tuple[int, int]] = []
    for member in sorted(members):
        if found and found[-1][1] == member:
            found[-1] = (found[-1][0], member + 1)
        else:
            found.append((member, member + 1))
    return found


class Tally:
    """What a load has put into a table so far.

    Attributes:
        received: Rows taken.
        inserted: Ticks that were new.
        duplicate: Ticks that were there.
        rejected: Rows refused.
        days: For each symbol, feed and UTC day (days since 1970): inserted ticks, time of the earliest and of the
            latest in microseconds since 1970.
        stored: Time of the last tick stored of each symbol and feed before this load, None without any.
    """

    def __init__(self, cutoff: dt.datetime | None) -> None:
        self.received = 0
        self.inserted = 0
        self.duplicate = 0
        self.rejected = 0
        self.days: dict[tuple[str, str, int], tuple[int, int, int]] = {}
        self.stored: dict[tuple[str, str], int | None] = {}
        self._latest: dict[tuple[str, str], int] = {}
        self._late = 0
        self._beside: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._doomed = 0
        self._first: int | None = None
        self._last: int | None = None
        self._hours: set[int] = set()
        self._changed: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        self._cutoff = cutoff
        self._cutoff_minute = None if cutoff is None else (cutoff - _EPOCH) // dt.timedelta(minutes=1)

    def take(self, received: Iterable[MinuteCount]) -> None:
        """Batch by batch: what was handed over."""
        for count in received:
            self.received += count.ticks
            self._first = count.first if self._first is None else min(self._first, count.first)
            self._last = count.last if self._last is None else max(self._last, count.last)

    def insert(self, inserted: Iterable[MinuteCount]) -> None:
        """Batch by batch: what of it was new."""
        for count in inserted:
            symbol, source, minute, ticks, first, last = count
            self.inserted += ticks
            self._hours.add(minute // _MINUTES_OF_AN_HOUR)
            if self._cutoff_minute is not None and minute < self._cutoff_minute:
                self._doomed += ticks
            stored = self.stored.get((symbol, source))
            if stored is not None and minute <= (last_minute := stored // _MICROSECONDS_OF_A_MINUTE):
                if minute < last_minute:
                    self._late += ticks
                    self._changed[symbol, source].add(minute)
                else:
                    self._beside[symbol, source] += ticks
            self._latest[symbol, source] = max(last, self._latest.get((symbol, source), last))
            key = (symbol, source, minute // _MINUTES_OF_A_DAY)
            before = self.days.get(key)
            if before is not None:
                ticks, first, last = ticks + before[0], min(first, before[1]), max(last, before[2])
            self.days[key] = (ticks, first, last)

    def latest(self, pair: tuple[str, str]) -> int | None:
        """Time of the last tick in the table of a symbol and feed, in microseconds since 1970; None without any."""
        inserted, stored = self._latest.get(pair), self.stored.get(pair)
        if inserted is None or stored is None:
            return stored if inserted is None else inserted
        return max(inserted, stored)

    def at(self, now: dt.datetime) -> None:
        """Once, at the end: ticks of the very minute that was the last are late if it is over by now."""
        current = (now - _EPOCH) // dt.timedelta(minutes=1)
        for pair, ticks in self._beside.items():
            minute = (self.stored[pair] or 0) // _MICROSECONDS_OF_A_MINUTE
            if minute < current:
                self._late += ticks
                self._changed[pair].add(minute)

    def report(self) -> IngestReport:
        """The counts so far."""
        return IngestReport(
            received=self.received + self.rejected,
            inserted=self.inserted,
            duplicate=self.duplicate,
            first=None if self._first is None else instant(self._first),
            last=None if self._last is None else instant(self._last),
            late=self._late,
            rejected=self.rejected,
            cutoff=self._cutoff,
            doomed=self._doomed,
            changed=tuple(
                BarRange(symbol, source, _minute(start), _minute(end))
                for (symbol, source), minutes in sorted(self._changed.items())
                for start, end in _ranges(minutes)
            ),
            stale=tuple(
                TimeRange(_minute(start * _MINUTES_OF_AN_HOUR), _minute(end * _MINUTES_OF_AN_HOUR))
                for start, end in _ranges(self._hours)
            ),
        )
