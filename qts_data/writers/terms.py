"""Options and counters of a live feed: its durability, its bound, its statistics."""

from __future__ import annotations

import enum
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qts_data.repositories.market.reports import IngestReport

__all__ = ["AtBound", "Counters", "Durability", "WriterStats"]

_REMEMBERED_LAGS: Final = 10_000


class Durability(enum.StrEnum):
    """The guarantee that holds when `write` has returned.

    QUEUED: The tick is in this process's memory. A crash of the process loses its uncommitted ticks, at most
        the bound of the queue. This is the default: the disk does not slow the feed.
    SPOOLED: The tick is in a file on this machine, flushed to the disk. A crash of the process or of the machine
        loses nothing. Needs `spool`.
    COMMITTED: The tick is in the database, as durable as its synchronous_commit setting. `write` waits for the group.
    """

    QUEUED = "queued"
    SPOOLED = "spooled"
    COMMITTED = "committed"


class AtBound(enum.StrEnum):
    """The reaction of `write` to a full queue. It never drops a tick.

    WAIT: Wait for room, which slows the feed.
    RAISE: Raise `TickQueueFull`; the tick was not accepted.
    """

    WAIT = "wait"
    RAISE = "raise"


@dataclass(frozen=True, slots=True)
class WriterStats:
    """Counters of a writer. `committed` is always `inserted + duplicate + known`.

    Attributes:
        accepted: Ticks that `write` accepted, and those found in the spool.
        committed: Of these, ticks that are in the database.
        inserted: Of these, new ones.
        duplicate: Of these, ticks with a seq that were stored already.
        known: Of these, ticks that an earlier attempt had stored: of a commit of unknown outcome, or of an earlier
            writer of the spool.
        late: Of the inserted ones, ticks of a bar that may have been given as closed: the bar was over at the end of
            their group's load, and before the load their symbol and feed had a tick in the bar or after it.
        ahead: Of the inserted ones, ticks of minutes that had not begun on the server's clock at the end of their
            group's load.
        depth: Ticks that are accepted and not committed.
        groups: Groups that were committed.
        resent: Groups that were sent more than once, because the database was unavailable or an outcome unknown.
        found: Groups that were found committed when their outcome was unknown.
        damaged: Places of the spool that could not be read or are missing; `TickWriter.damages` names them.
        position: Ticks that were accepted since the spool was last empty, by this writer and earlier ones. A source
            that can be read from any tick resumes there. If a spool was damaged, read it after `flush` and
            before the first `write`.
        lag_seconds: Age of the oldest waiting tick, since `write` accepted it; 0 without any.
        p50_lag_seconds: Median time from `write` to commit, of the oldest ticks of the last 10,000 groups.
        p99_lag_seconds: The 99th percentile of the same times.
    """

    accepted: int
    committed: int
    inserted: int
    duplicate: int
    late: int
    depth: int
    groups: int
    resent: int
    found: int
    lag_seconds: float
    p50_lag_seconds: float
    p99_lag_seconds: float
    known: int = 0
    damaged: int = 0
    position: int = 0
    ahead: int = 0


@dataclass(slots=True)
class Counters:
    """The counts behind `WriterStats`."""

    accepted: int = 0
    committed: int = 0
    inserted: int = 0
    duplicate: int = 0
    known: int = 0
    late: int = 0
    ahead: int = 0
    groups: int = 0
    resent: int = 0
    found: int = 0
    lags: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_LAGS))

    def find(self, ticks: int) -> None:
        """Count ticks that an earlier writer had stored."""
        self.known += ticks
        self.committed += ticks

    def add_group(self, ticks: int, report: IngestReport | None) -> None:
        """Count a group. Without a report, an earlier attempt had stored it."""
        self.committed += ticks
        self.groups += 1
        if report is None:
            self.found += 1
            self.known += ticks
        else:
            self.inserted += report.inserted
            self.duplicate += report.duplicate
            self.known += ticks - report.inserted - report.duplicate
            self.late += report.late
            self.ahead += report.ahead

    def stats(self, oldest: float | None, *, damaged: int, position: int) -> WriterStats:
        """Return the counts in their public form.

        Args:
            oldest: `time.monotonic()` at which the oldest waiting tick was accepted.
            damaged: Places of the spool that could not be read.
            position: Ticks since the spool was last empty.
        """
        lags = sorted(self.lags)
        return WriterStats(
            accepted=self.accepted,
            committed=self.committed,
            inserted=self.inserted,
            duplicate=self.duplicate,
            known=self.known,
            late=self.late,
            ahead=self.ahead,
            depth=self.accepted - self.committed,
            groups=self.groups,
            resent=self.resent,
            found=self.found,
            damaged=damaged,
            position=position,
            lag_seconds=0.0 if oldest is None else time.monotonic() - oldest,
            p50_lag_seconds=lags[len(lags) // 2] if lags else 0.0,
            p99_lag_seconds=lags[len(lags) * 99 // 100] if lags else 0.0,
        )
