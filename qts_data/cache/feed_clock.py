"""Feeds whose clocks are ahead of this machine's: a bound, and a guard against pushes that rejuvenate a record."""

from __future__ import annotations

import datetime as dt
from typing import Final, TypeAlias

from qts_data.cache.port import now
from qts_data.contracts.live import OrderBook, Quote

__all__ = ["FeedClock"]

_Live: TypeAlias = Quote | OrderBook
_MANY: Final = 10_000
"""Number of remembered records at which expired ones are removed."""


class FeedClock:
    """Compares `quoted_at` with this machine's clock.

    Args:
        most_ahead_ms: Milliseconds by which `quoted_at` may be ahead of this machine's clock.
    """

    def __init__(self, most_ahead_ms: int) -> None:
        self._most_ahead_seconds = most_ahead_ms / 1000
        self._pushed: dict[tuple[type[_Live], str], tuple[_Live, float]] = {}

    def is_too_far_ahead(self, quoted_at: dt.datetime) -> bool:
        """Return whether a record's time is further ahead than the configured bound."""
        return _ahead(quoted_at) > self._most_ahead_seconds

    def is_repeated(self, record: _Live) -> bool:
        """Return whether this record was pushed while its time was ahead. Another push would make it look younger."""
        return self._pushed.get((type(record), record.symbol), (None,))[0] == record

    def pushed(self, record: _Live) -> None:
        """Remember a pushed record whose time is ahead."""
        ahead = _ahead(record.quoted_at)
        if ahead <= 0:
            self._pushed.pop((type(record), record.symbol), None)
            return
        time = now()
        # Once the record's time has passed, its age counts from it. So it is remembered until then.
        if len(self._pushed) >= _MANY:
            self._pushed = {key: one for key, one in self._pushed.items() if one[1] > time}
        self._pushed[type(record), record.symbol] = record, time + ahead


def _ahead(quoted_at: dt.datetime) -> float:
    return (quoted_at - dt.datetime.now(dt.UTC)).total_seconds()
