"""Numbered and sorted batches of columns."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qts_data.extras import require
from qts_data.repositories.market.ticks.batch import MinuteCount
from qts_data.repositories.market.ticks.copy.encoding import HEADER, TRAILER, encode_rows
from qts_data.repositories.market.ticks.ordinals import forgotten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qts_data.repositories.market.ticks.copy.columns import Columns

    Array = Any

__all__ = ["ColumnBatch", "ColumnOrdinals"]

_REMEMBERED_INSTANTS: Final = 2_000_000
# Forgetting drops the oldest instants in parts: this is the number of parts.
_PARTS: Final = 16
_BLOCK_BYTES: Final = 1 << 18
_MICROSECONDS_OF_A_MINUTE: Final = 60_000_000


class _Generation(NamedTuple):
    """Instants of one symbol and feed, in order, with the number of ticks of each so far.

    Attributes:
        times: Microseconds since 1970 UTC.
        counts: Number of ticks at each.
        met: Number of the last batch that had any of them.
    """

    times: Array
    counts: Array
    met: int


class ColumnOrdinals:
    """Counters over a whole source: `qts_data.repositories.market.ticks.ordinals` for columns.

    Args:
        remembered: Most instants to remember, 16 bytes each; two million by default.
        strict: Refuse a tick whose instant may have been forgotten. False if the ordinal is only a guess, as for a
            tick that is appended to the stored ticks of its instant.
    """

    def __init__(self, remembered: int | None = None, *, strict: bool = True) -> None:
        self._remembered = remembered or _REMEMBERED_INSTANTS
        self._strict = strict
        self._size = 0
        self._batches = 0
        self._known: dict[tuple[str, str], list[_Generation]] = {}
        self._forgotten: dict[tuple[str, str], tuple[int, int]] = {}

    @property
    def instants(self) -> int:
        """Number of remembered instants."""
        return self._size

    @property
    def generations(self) -> int:
        """Number of pieces that hold them."""
        return sum(map(len, self._known.values()))

    def number(self, columns: Columns) -> None:
        """Set the seq of the ticks that have none.

        Raises:
            InvalidRecord: A tick comes so late that its instant may have been forgotten.
        """
        numpy = require("numpy")
        rows = numpy.flatnonzero(columns.counted)
        if not len(rows):
            return
        pair = columns.symbol[rows].astype(numpy.int64) * len(columns.sources) + columns.source[rows]
        time = columns.time[rows]
        if not (_ascending(pair) and (len(pair) < 2 or (pair[0] == pair[-1] and _ascending(time)))):
            order = numpy.lexsort((time, pair))
            rows, pair, time = rows[order], pair[order], time[order]
        starts = numpy.flatnonzero(numpy.concatenate(([True], (time[1:] != time[:-1]) | (pair[1:] != pair[:-1]))))
        counts = numpy.diff(numpy.append(starts, len(rows)))
        carried = numpy.zeros(len(starts), dtype=numpy.int64)
        instants, pairs = time[starts], pair[starts]
        borders = numpy.flatnonzero(numpy.concatenate(([True], pairs[1:] != pairs[:-1]))).tolist()
        for begin, end in zip(borders, [*borders[1:], len(starts)], strict=True):
            key = (
                columns.symbols[int(pairs[begin]) // len(columns.sources)],
                columns.sources[int(pairs[begin]) % len(columns.sources)],
            )
            carried[begin:end] = self._carry(key, instants[begin:end], counts[begin:end])
        ordinals = numpy.arange(len(rows)) - numpy.repeat(starts - carried, counts)
        columns.seq[rows] = ordinals
        self._forget()
        self._batches += 1

    def _carry(self, key: tuple[str, str], times: Array, counts: Array) -> Array:
        """Return the earlier number of ticks at each instant, and remember the new number."""
        numpy = require("numpy")
        carried = numpy.zeros(len(times), dtype=numpy.int64)
        known = self._known.setdefault(key, [])
        for generation in known:
            if generation.times[-1] < times[0] or generation.times[0] > times[-1]:
                continue
            places = numpy.searchsorted(generation.times, times)
            inside = places < len(generation.times)
            met = inside.copy()
            met[inside] = generation.times[places[inside]] == times[inside]
            carried[met] = generation.counts[places[met]]
        gone = self._forgotten.get(key)
        if gone is not None:
            lost = (carried == 0) & (times >= gone[0]) & (times <= gone[1])
            if lost.any():
                raise forgotten(key[0], f"{int(times[lost][0])} us since 1970", key[1], self._remembered)
        known.append(_Generation(times, carried + counts, self._batches))
        self._size += len(times)
        # Otherwise a feed in small groups would make more and more generations to search.
        most = max(2, self._remembered // _PARTS)
        while len(known) > 1 and len(known[-2].times) <= 2 * len(known[-1].times):
            if len(known[-2].times) + len(known[-1].times) > most:
                break
            last = known.pop()
            before = known.pop()
            merged = _merged(before, last)
            self._size += len(merged.times) - len(before.times) - len(last.times)
            known.append(merged)
        return carried

    def _forget(self) -> None:
        """Forget the oldest instants, and some more, so that the next calls need not forget any."""
        if self._size <= self._remembered:
            return
        oldest_first = sorted(
            ((generation.met, key) for key, known in self._known.items() for generation in known),
            key=itemgetter(0),
        )
        for met, key in oldest_first:
            if self._size <= self._remembered * (_PARTS - 1) // _PARTS or met == self._batches:
                return
            times = self._known[key].pop(0).times
            self._size -= len(times)
            if not self._known[key]:
                del self._known[key]
            if self._strict:
                first, last = self._forgotten.get(key, (int(times[0]), int(times[-1])))
                self._forgotten[key] = (min(first, int(times[0])), max(last, int(times[-1])))


def _merged(before: _Generation, last: _Generation) -> _Generation:
    """Merge both, with the later counts."""
    numpy = require("numpy")
    if before.times[-1] < last.times[0]:
        return _Generation(
            numpy.concatenate((before.times, last.times)), numpy.concatenate((before.counts, last.counts)), last.met
        )
    times = numpy.union1d(before.times, last.times)
    counts = numpy.zeros(len(times), dtype=numpy.int64)
    counts[numpy.searchsorted(times, before.times)] = before.counts
    counts[numpy.searchsorted(times, last.times)] = last.counts
    return _Generation(times, counts, last.met)


def _ascending(values: Array) -> bool:
    return bool((values[1:] >= values[:-1]).all())


class ColumnBatch:
    """Columns with their seq, sorted by the key. COPY reads them as binary.

    Attributes:
        size: Number of rows.
        options: Options for COPY.
        counted: Whether no row has a seq of the feed's own.
    """

    options = "FORMAT binary"

    def __init__(self, columns: Columns) -> None:
        self._columns = _sorted(columns)
        self.size: int = len(columns)
        self.counted: bool = bool(columns.counted.all())
        # Encoded here, in a thread, while the batch before is being sent.
        self._body = memoryview(encode_rows(self._columns))

    def blocks(self) -> Iterator[bytes | memoryview]:
        """Yield pieces of COPY's binary format."""
        yield HEADER
        for start in range(0, len(self._body), _BLOCK_BYTES):
            yield self._body[start : start + _BLOCK_BYTES]
        yield TRAILER

    def pairs(self) -> set[tuple[str, str]]:
        """Return each symbol and feed in it."""
        return {(count.symbol, count.source) for count in self.minutes()}

    def minutes(self) -> list[MinuteCount]:
        """Count the ticks of each symbol, feed and minute."""
        numpy = require("numpy")
        columns = self._columns
        if not len(columns):
            return []
        minute = columns.time // _MICROSECONDS_OF_A_MINUTE
        symbol, source, time = columns.symbol, columns.source, columns.time
        if len(columns.sources) > 1:
            # Sorted by symbol and time: within a minute, the feeds alternate.
            order = numpy.lexsort((time, source, minute, symbol))
            minute, symbol, source, time = minute[order], symbol[order], source[order], time[order]
        starts = numpy.flatnonzero(
            numpy.concatenate(
                (
                    [True],
                    (minute[1:] != minute[:-1]) | (symbol[1:] != symbol[:-1]) | (source[1:] != source[:-1]),
                )
            )
        )
        ends = numpy.append(starts[1:], len(time))
        return [
            MinuteCount(columns.symbols[of], columns.sources[feed], *rest)
            for of, feed, *rest in zip(
                symbol[starts].tolist(),
                source[starts].tolist(),
                minute[starts].tolist(),
                (ends - starts).tolist(),
                time[starts].tolist(),
                time[ends - 1].tolist(),
                strict=True,
            )
        ]


def _sorted(columns: Columns) -> Columns:
    numpy = require("numpy")
    if len(columns.symbols) == 1 and len(columns.sources) == 1 and _ascending(columns.time):
        same = columns.time[1:] == columns.time[:-1]
        if not (same & (columns.seq[1:] < columns.seq[:-1])).any():
            return columns
    rank = numpy.empty(len(columns.symbols), dtype=numpy.int64)
    rank[sorted(range(len(columns.symbols)), key=columns.symbols.__getitem__)] = numpy.arange(len(columns.symbols))
    feed = numpy.empty(len(columns.sources), dtype=numpy.int64)
    feed[sorted(range(len(columns.sources)), key=columns.sources.__getitem__)] = numpy.arange(len(columns.sources))
    return columns.take(numpy.lexsort((columns.seq, feed[columns.source], columns.time, rank[columns.symbol])))
