"""The seq of ticks whose feed gives none: their ordinal among the ticks of one symbol, time and source."""

from __future__ import annotations

import datetime as dt
import itertools

from qts_data.errors import InvalidRecord

__all__ = ["Ordinals", "forgotten"]

_REMEMBERED_INSTANTS = 200_000


def forgotten(symbol: str, time: object, source: str, remembered: int) -> InvalidRecord:
    """Return the error for a tick whose instant may have been forgotten, so that its ordinal is unknown."""
    return InvalidRecord(
        field="seq",
        reason=(
            f"{symbol} {time} of source {source!r} comes out of order, more than {remembered:,} instants "
            "after its neighbours, so that its ordinal is not known; sort the source by time, or give seq"
        ),
    )


class Ordinals:
    """Counters over a whole source, in bounded memory.

    A tick out of order is counted right as long as its instant is among the last ones. A tick whose instant may have
    been forgotten is refused: a guess would store it twice, or lose another.

    Args:
        remembered: Most instants to remember, about 200 bytes each.
        strict: Refuse a tick whose instant may have been forgotten. False if the ordinal is only a guess, as for a
            tick that is appended to the stored ticks of its instant.
    """

    def __init__(self, remembered: int = _REMEMBERED_INSTANTS, *, strict: bool = True) -> None:
        self._remembered = remembered
        self._strict = strict
        self._counts: dict[tuple[str, dt.datetime, str], int] = {}
        self._forgotten: dict[tuple[str, str], tuple[dt.datetime, dt.datetime]] = {}

    def next(self, symbol: str, time: dt.datetime, source: str) -> int:
        """Return the ordinal of the next tick of this symbol, time and source.

        Raises:
            InvalidRecord: The tick comes so late that its instant may have been forgotten.
        """
        # In one zone, the two instants of a repeated wall clock would be equal.
        if time.tzinfo is not dt.UTC:
            time = time.astimezone(dt.UTC)
        key = (symbol, time, source)
        count = self._counts.get(key, 0)
        if count == 0 and self._forgotten:
            gone = self._forgotten.get((symbol, source))
            if gone is not None and gone[0] <= time <= gone[1]:
                raise forgotten(symbol, time.isoformat(), source, self._remembered)
        self._counts[key] = count + 1
        if len(self._counts) > self._remembered:
            self._forget()
        return count

    def _forget(self) -> None:
        # A dict keeps the order of insertion, so the first half holds the oldest instants.
        for key in list(itertools.islice(self._counts, len(self._counts) // 2)):
            del self._counts[key]
            if not self._strict:
                continue
            symbol, time, source = key
            first, last = self._forgotten.get((symbol, source), (time, time))
            self._forgotten[symbol, source] = (min(first, time), max(last, time))
