"""What a load says about itself."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from qts_data.contracts.instants import utc_fields

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["BarRange", "BatchId", "IngestReport", "Lead", "RefreshReport", "TickTable", "TimeRange", "merged"]

TickTable = Literal["tick_data", "tick_history"]
"""Where ticks are: `tick_data` keeps what its retention leaves, `tick_history` keeps all."""

_DIGEST_BLOCK_BYTES = 1 << 20


_WHOLE = "#whole"


@dataclass(frozen=True, slots=True)
class BatchId:
    """The name of a batch, by which a finished one is known before it is loaded again.

    Attributes:
        stream: What the batch is a part of: the digest of a file, the name of a feed.
        part: Offset of the batch in the stream, at least 0.
    """

    stream: str
    part: int = 0

    @classmethod
    def of_whole(cls, stream: str) -> BatchId:
        """The name of a whole source, which none of its parts has.

        `load_in_parts` writes it when all parts are in; a source loaded in one transaction is known to it by this name.

        Args:
            stream: Name of the source.
        """
        return cls(f"{stream}{_WHOLE}")

    @classmethod
    def of_file(cls, path: Path, *facts: object) -> BatchId:
        """The digest of a file's content, whatever its name, and of the facts that change what is made of it.

        Args:
            path: The file.
            facts: Such as the layout, the symbol and the day.
        """
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_DIGEST_BLOCK_BYTES):
                digest.update(block)
        # The content's digest has a fixed length, so that no content can look like a fact.
        whole = hashlib.sha256(digest.digest() + repr(facts).encode())
        return cls(f"sha256:{whole.hexdigest()}")


@dataclass(frozen=True, slots=True, order=True)
class TimeRange:
    """The instants of [start, end), kept in UTC.

    Raises:
        InvalidRecord: An instant has no time zone.
    """

    start: dt.datetime
    end: dt.datetime

    def __post_init__(self) -> None:
        """Ranges are compared and sorted: in a zone, the wall clock would decide."""
        utc_fields(self, "start", "end")


def merged(ranges: Iterable[TimeRange]) -> list[TimeRange]:
    """The same instants in as few ranges as can be, in order; those without an instant are left out."""
    found: list[TimeRange] = []
    for span in sorted(span for span in ranges if span.start < span.end):
        if found and span.start <= found[-1].end:
            found[-1] = TimeRange(found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


@dataclass(frozen=True, slots=True, order=True)
class BarRange:
    """Minutes of a symbol and feed that start in [start, end), kept in UTC."""

    symbol: str
    source: str
    start: dt.datetime
    end: dt.datetime

    def __post_init__(self) -> None:
        """Keep instants in UTC."""
        utc_fields(self, "start", "end")


@dataclass(frozen=True, slots=True, order=True)
class Lead:
    """The last tick of a symbol and feed that lies ahead of the clock.

    Attributes:
        symbol: The instrument.
        source: The feed.
        last: Its time, kept in UTC.
        by: How far it was ahead of the server's clock at the end of the load.
    """

    symbol: str
    source: str
    last: dt.datetime
    by: dt.timedelta

    def __post_init__(self) -> None:
        """Keep the instant in UTC."""
        utc_fields(self, "last")

    def __str__(self) -> str:
        """A phrase that names symbol, feed, time and distance."""
        return f"{self.symbol} of feed {self.source!r} at {self.last.isoformat()}, {self.by} ahead"


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of a load.

    Attributes:
        received: Rows that were handed over.
        inserted: Ticks that are new in the table.
        duplicate: Ticks that were there already, with the same key and the same content.
        first: Instant of the earliest tick, None without any.
        last: Instant of the latest tick, None without any.
        late: Inserted ticks of a bar that may have been given as closed. At the end of the load, the bar was over on
            the server's clock; before the load, its symbol and feed had a tick in it or after it. The bar may be of
            any length up to the day of the database's trading zone. The parts of a source that `load_in_parts`
            loads count as one load. A tick of a later bar is not late, however long ago that bar was.
        rejected: Rows that were refused.
        known: Whether the batch was in already; then nothing was loaded, and the counts are those of that time.
        cutoff: Instant before which the server drops ticks by itself; None if it keeps them.
        doomed: Inserted ticks from before the cutoff, which retention drops at its next run.
        ahead: Inserted ticks of minutes that had not begun on the server's clock at the end of the load.
        leads: Of each symbol and feed with ticks ahead, the last one. Closed bars take each of them when its time has
            come.
        changed: The minutes of the late ticks; every closed bar that holds one of them has changed.
        stale: Hours that hold inserted ticks; their bars are right once they are refreshed, by the policies
            or by `refresh_bars`. Of a batch that was in: all from its first tick to its last, for whoever loaded it
            may have ended before the refresh.
    """

    received: int
    inserted: int
    duplicate: int
    first: dt.datetime | None
    last: dt.datetime | None
    late: int = 0
    rejected: int = 0
    known: bool = False
    cutoff: dt.datetime | None = None
    doomed: int = 0
    ahead: int = 0
    leads: tuple[Lead, ...] = ()
    changed: tuple[BarRange, ...] = ()
    stale: tuple[TimeRange, ...] = ()

    def __post_init__(self) -> None:
        """Keep instants in UTC."""
        utc_fields(self, "first", "last", "cutoff")

    def __add__(self, other: IngestReport) -> IngestReport:
        """Both loads as one."""
        firsts = [report.first for report in (self, other) if report.first is not None]
        lasts = [report.last for report in (self, other) if report.last is not None]
        return IngestReport(
            received=self.received + other.received,
            inserted=self.inserted + other.inserted,
            duplicate=self.duplicate + other.duplicate,
            first=min(firsts, default=None),
            last=max(lasts, default=None),
            late=self.late + other.late,
            rejected=self.rejected + other.rejected,
            known=self.known and other.known,
            cutoff=other.cutoff or self.cutoff,
            doomed=self.doomed + other.doomed,
            ahead=self.ahead + other.ahead,
            leads=tuple(
                sorted({(one.symbol, one.source): one for one in sorted((*self.leads, *other.leads))}.values())
            ),
            changed=tuple(sorted({*self.changed, *other.changed})),
            stale=tuple(merged((*self.stale, *other.stale))),
        )


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What became of a refresh of bars.

    Attributes:
        refreshed: Names of the continuous aggregates that were brought up to date, but for the hours of the bars
            in `kept`.
        kept: For each aggregate, the number of its bars in the range that hold more than what there is to make them
            of: retention has dropped their ticks or minutes, and a refresh would have deleted or diminished them.
            Their hours were left alone, in all aggregates; ticks that came late are not in these bars.
    """

    refreshed: tuple[str, ...] = ()
    kept: dict[str, int] = field(default_factory=dict)
