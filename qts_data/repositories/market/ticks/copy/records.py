"""Batches made from records, with the standard library alone."""

from __future__ import annotations

import datetime as dt
import itertools
from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeAlias

from qts_data.repositories.market.ticks.batch import MinuteCount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from decimal import Decimal

    from qts_data.contracts import TickData
    from qts_data.repositories.market.ticks.ordinals import Ordinals

__all__ = ["RecordBatch", "numbered"]

Row: TypeAlias = "tuple[str, dt.datetime, str, int, Decimal, Decimal, Decimal | None, Decimal | None]"

_key: Final = itemgetter(0, 1, 2, 3)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_MINUTE: Final = dt.timedelta(minutes=1)
# About half a millisecond of work.
_ROWS_OF_A_BLOCK: Final = 256


def numbered(ticks: Iterable[TickData], ordinals: Ordinals) -> Iterator[Row]:
    """Yield rows in the order of the ticks. A tick without a seq gets the next ordinal of its instant."""
    ordinal = ordinals.next
    for tick in ticks:
        seq, time = tick.seq, tick.time
        # In another zone, the two instants of an ambiguous wall clock would be equal.
        if time.tzinfo is not dt.UTC:
            time = time.astimezone(dt.UTC)
        if seq is None:
            seq = ordinal(tick.symbol, time, tick.source)
        yield (tick.symbol, time, tick.source, seq, tick.price, tick.volume, tick.bid, tick.ask)


class RecordBatch:
    """Rows, sorted by the key. COPY reads them as text.

    Attributes:
        size: Number of rows.
        options: Options for COPY.
        counted: Whether no row has a seq of the feed's own.
    """

    options = "FORMAT text"

    def __init__(self, rows: Sequence[Row], *, counted: bool) -> None:
        self._rows = sorted(rows, key=_key)
        self.size: int = len(rows)
        self.counted = counted

    def blocks(self) -> Iterator[bytes]:
        """Yield lines of COPY's text format."""
        iterator = iter(self._rows)
        while rows := tuple(itertools.islice(iterator, _ROWS_OF_A_BLOCK)):
            yield "".join(_lines(rows)).encode()

    def pairs(self) -> set[tuple[str, str]]:
        """Return each symbol and feed in it."""
        return {(row[0], row[2]) for row in self._rows}

    def minutes(self) -> list[MinuteCount]:
        """Count the ticks of each symbol, feed and minute."""
        runs: dict[tuple[str, str, dt.datetime], list[object]] = {}
        symbol = source = None
        start = end = _EPOCH
        run: list[object] = []
        for row in self._rows:
            time = row[1]
            if not (start <= time < end and row[0] == symbol and row[2] == source):
                symbol, source = row[0], row[2]
                start = time.astimezone(dt.UTC).replace(second=0, microsecond=0)
                # The last minute of a datetime has no end that a datetime can hold.
                end = start + _MINUTE if start < _LAST_MINUTE else dt.datetime.max.replace(tzinfo=dt.UTC)
                run = runs.setdefault((symbol, source, start), [0, time, time])
            run[0] += 1  # type: ignore[operator]
            # Sorted by time within a symbol, so the latest tick is the last.
            run[2] = time
        return [
            MinuteCount(symbol, source, (minute - _EPOCH) // _MINUTE, ticks, _microseconds(first), _microseconds(last))  # type: ignore[arg-type]
            for (symbol, source, minute), (ticks, first, last) in runs.items()
        ]


_LAST_MINUTE: Final = dt.datetime(9999, 12, 31, 23, 59, tzinfo=dt.UTC)


def _microseconds(time: dt.datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _lines(rows: Iterable[Row]) -> Iterator[str]:
    last_time: dt.datetime | None = None
    time_text = ""
    for symbol, time, source, seq, price, volume, bid, ask in rows:
        if time is not last_time:
            last_time, time_text = time, time.astimezone(dt.UTC).isoformat()
        yield (
            f"{_escaped(symbol)}\t{time_text}\t{_escaped(source)}\t{seq}\t{price!s}\t{volume!s}\t"
            f"{_NULL if bid is None else str(bid)}\t{_NULL if ask is None else str(ask)}\n"
        )


_NULL: Final = "\\N"
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _escaped(text: str) -> str:
    return text if text.isalnum() else text.translate(_ESCAPES)
