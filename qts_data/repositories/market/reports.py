"""Results of loads and refreshes, and the names of batches."""

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
"""Tables of ticks. `tick_data` has a retention policy, `tick_history` keeps all ticks."""

_DIGEST_BLOCK_BYTES = 1 << 20


_WHOLE = "#whole"


@dataclass(frozen=True, slots=True)
class BatchId:
    """The name of a batch. A loaded batch is recognised by it and not loaded again.

    Attributes:
        stream: Stream of the batch, such as the digest of a file or the name of a feed.
        part: Offset of the batch in the stream, at least 0.
    """

    stream: str
    part: int = 0

    @classmethod
    def of_whole(cls, stream: str) -> BatchId:
        """Return the name of a whole source, which differs from the names of its parts.

        `load_in_parts` records it when all parts are loaded. A source loaded in one transaction uses this name, too.

        Args:
            stream: Name of the source.
        """
        return cls(f"{stream}{_WHOLE}")

    @classmethod
    def of_file(cls, path: Path, *facts: object) -> BatchId:
        """Return the name of a file by its content and by facts. The file's own name does not matter.

        Args:
            path: The file.
            facts: Everything else that changes the ticks made from it, such as the layout, the symbol and the day.
        """
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_DIGEST_BLOCK_BYTES):
                digest.update(block)
        # The content's digest has a fixed length, so no content can look like a fact.
        whole = hashlib.sha256(digest.digest() + repr(facts).encode())
        return cls(f"sha256:{whole.hexdigest()}")


@dataclass(frozen=True, slots=True, order=True)
class TimeRange:
    """The instants of [start, end), in UTC.

    Raises:
        InvalidRecord: An instant has no time zone.
    """

    start: dt.datetime
    end: dt.datetime

    def __post_init__(self) -> None:
        """Convert both to UTC. Ranges are compared and sorted, and a zone would compare by the wall clock."""
        utc_fields(self, "start", "end")


def merged(ranges: Iterable[TimeRange]) -> list[TimeRange]:
    """Return the same instants in as few ranges as possible, in order. Empty ranges are left out."""
    found: list[TimeRange] = []
    for span in sorted(span for span in ranges if span.start < span.end):
        if found and span.start <= found[-1].end:
            found[-1] = TimeRange(found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


@dataclass(frozen=True, slots=True, order=True)
class BarRange:
    """Minutes of a symbol and feed that start in [start, end), in UTC."""

    symbol: str
    source: str
    start: dt.datetime
    end: dt.datetime

    def __post_init__(self) -> None:
        """Convert the instants to UTC."""
        utc_fields(self, "start", "end")


@dataclass(frozen=True, slots=True, order=True)
class Lead:
    """The last tick of a symbol and feed that lies ahead of the clock.

    Attributes:
        symbol: The instrument.
        source: The feed.
        last: Its time, in UTC.
        by: Its lead over the server's clock at the end of the load.
    """

    symbol: str
    source: str
    last: dt.datetime
    by: dt.timedelta

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "last")

    def __str__(self) -> str:
        """Return a phrase with symbol, feed, time and lead."""
        return f"{self.symbol} of feed {self.source!r} at {self.last.isoformat()}, {self.by} ahead"


@dataclass(frozen=True, slots=True)
class IngestReport:
    """The result of a load.

    Attributes:
        received: Rows that the caller gave.
        inserted: Ticks that are new in the table.
        duplicate: Ticks that the table held already, with the same key and the same content.
        first: Instant of the earliest tick; None without ticks.
        last: Instant of the latest tick; None without ticks.
        late: Inserted ticks of a bar that may have been given as closed. At the end of the load, the bar had ended by
            the server's clock. Before the load, its symbol and feed had a tick in it or after it. The bar may be of
            any length up to the day of the database's trading zone. The parts of a source that `load_in_parts` loads
            count as one load. A tick of a later bar is not late, even if that bar ended long ago.
        rejected: Rows that were refused.
        already_loaded: Whether an earlier load had loaded the batch. Then nothing was loaded now, and the counts are
            those of that load.
        cutoff: Instant before which the server drops ticks by itself; None if it keeps them.
        past_retention: Inserted ticks from before the cutoff, which retention drops at its next run.
        ahead: Inserted ticks of minutes that had not begun by the server's clock at the end of the load.
        leads: The last tick ahead of each symbol and feed. A tick ahead enters closed bars only after its own time.
        changed: The minutes of the late ticks. Every closed bar that holds one of them has changed.
        to_refresh: Hours that hold inserted ticks. Their bars are right after a refresh, by the policies or by
            `refresh_bars`. For an already loaded batch, all hours from its first tick to its last: the process that
            loaded it may have ended before the refresh.
    """

    received: int
    inserted: int
    duplicate: int
    first: dt.datetime | None
    last: dt.datetime | None
    late: int = 0
    rejected: int = 0
    already_loaded: bool = False
    cutoff: dt.datetime | None = None
    past_retention: int = 0
    ahead: int = 0
    leads: tuple[Lead, ...] = ()
    changed: tuple[BarRange, ...] = ()
    to_refresh: tuple[TimeRange, ...] = ()

    def __post_init__(self) -> None:
        """Convert the instants to UTC."""
        utc_fields(self, "first", "last", "cutoff")

    def __add__(self, other: IngestReport) -> IngestReport:
        """Add two loads into one report."""
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
            already_loaded=self.already_loaded and other.already_loaded,
            cutoff=other.cutoff or self.cutoff,
            past_retention=self.past_retention + other.past_retention,
            ahead=self.ahead + other.ahead,
            leads=tuple(
                sorted({(one.symbol, one.source): one for one in sorted((*self.leads, *other.leads))}.values())
            ),
            changed=tuple(sorted({*self.changed, *other.changed})),
            to_refresh=tuple(merged((*self.to_refresh, *other.to_refresh))),
        )


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """The result of a refresh of bars.

    Attributes:
        refreshed: Names of the refreshed continuous aggregates. The hours of the bars in `skipped` were not refreshed.
        skipped: For each aggregate, the number of its bars in the range with more data than their source still holds.
            Retention has dropped their ticks or minutes, and a refresh would have deleted or reduced the bars. Their
            hours were skipped in all aggregates, so these bars lack their late ticks.
    """

    refreshed: tuple[str, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
