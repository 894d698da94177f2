"""Clocks of feeds that go ahead of this machine's: by how much at most, and that no push makes a reading younger."""

from __future__ import annotations

import datetime as dt
from typing import Final, TypeAlias

from qts_data.cache.port import now
from qts_data.contracts.live import OrderBook, Quote

__all__ = ["FeedClock"]

_Live: TypeAlias = Quote | OrderBook
_MANY: Final = 10_000
"""So many records are remembered before those that have ended are removed."""


class FeedClock:
    """Compares `quoted_at` with this machine's clock.

    Args:
        most_ahead_ms: Milliseconds by which `quoted_at` may be ahead of this machine's clock.
    """

    def __init__(self, most_ahead_ms: int) -> None:
        self._most_ahead_seconds = most_ahead_ms / 1000
        self._pushed: dict[tuple[type[_Live], str], tuple[_Live, float]] = {}

    def is_too_far_ahead(self, quoted_at: dt.datetime) -> bool:
        """Tell whether a record is stamped further ahead than a clock may be."""
        return _ahead(quoted_at) > self._most_ahead_seconds

    def is_repeated(self, record: _Live) -> bool:
        """Tell whether this very record was pushed while its stamp was ahead: a second push would make it younger."""
        return self._pushed.get((type(record), record.symbol), (None,))[0] == record

    def pushed(self, record: _Live) -> None:
        """Remember a record that was pushed, if its stamp is ahead."""
        ahead = _ahead(record.quoted_at)
        if ahead <= 0:
            self._pushed.pop((type(record), record.symbol), None)
            return
        time = now()
        # Once the stamp has passed, the age counts from it, and so long a memory is enough.
        if len(self._pushed) >= _MANY:
            self._pushed = {key: one for key, one in self._pushed.items() if one[1] > time}
        self._pushed[type(record), record.symbol] = record, time + ahead


def _ahead(quoted_at: dt.datetime) -> float:
    return (quoted_at - dt.datetime.now(dt.UTC)).total_seconds()
