"""Ticks in: exactly once, at the speed of COPY."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING

from qts_data.contracts.identity import check_asked
from qts_data.contracts.instants import utc
from qts_data.database.errors import translated_errors
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.repositories.market.bars.refresh import clock_and_cutoff, refresh_aggregates
from qts_data.repositories.market.gaps import sign_off
from qts_data.repositories.market.reports import TimeRange
from qts_data.repositories.market.ticks import bookkeeping
from qts_data.repositories.market.ticks.groups import live_numbering, prepared
from qts_data.repositories.market.ticks.latest import MAX_AHEAD, LatestTime
from qts_data.repositories.market.ticks.loading import Span, append, insert_new
from qts_data.repositories.market.ticks.reads import TickReads
from qts_data.repositories.market.ticks.sources import Numbering, ahead, batches_of
from qts_data.repositories.market.ticks.tally import Baseline, Tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from qts_data.contracts import TickData
    from qts_data.repositories.market.reports import BatchId, IngestReport, RefreshReport
    from qts_data.repositories.market.ticks.batch import Batch
    from qts_data.repositories.market.ticks.groups import Group
    from qts_data.repositories.market.ticks.sources import ArrowStream

__all__ = ["TickRepository"]


class TickRepository(TickReads):
    """Questions and writes about one table of ticks, in the transaction of one connection; it never commits."""

    async def ingest(
        self,
        ticks: Iterable[TickData] | ArrowStream,
        *,
        batch: BatchId | None = None,
        again: bool = False,
        continues: bool = False,
        numbering: Numbering | None = None,
        source: str | None = None,
        reject: Callable[[InvalidRecord], None] | None = None,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
        max_ahead: dt.timedelta | None = MAX_AHEAD,
        baseline: Baseline | None = None,
    ) -> IngestReport:
        """Load ticks by COPY; what is there already is not doubled.

        A tick without a `seq` gets its ordinal among the ticks of the same symbol, time and source, counted over
        this whole call in the order given: hand over a source whole, and the same source loaded twice makes the
        same keys, whatever the batch size. A source in several calls shares one `numbering`, or `continues`.

        Args:
            ticks: Records, or columns: an Arrow table or reader, a Polars or pandas frame, whatever has Arrow's
                C stream. Columns are `time` (with a zone), `symbol`, `price`, `volume` (decimals or integers) and,
                where known, `source`, `seq`, `bid` and `ask`. Read once, lazily.
            batch: Name of this load. If a load of that name is in, nothing is loaded, nor is anything read, unless
                with `numbering`. Its row is written in this transaction, first, so that of two loads at the same
                time one waits and then knows.
            again: Load a batch that is in once more, for example after retention has dropped its ticks.
            continues: This is a further piece of a feed: a tick without a `seq` goes behind those that are stored
                of its instant. Needs `batch`, for nothing else tells a repetition from more of the same.
            numbering: Counters that an earlier call for the same source has used; they count the ticks of a batch
                that is in, too. After a call that failed they have counted ticks that are not stored: begin again
                with new ones, at the beginning of the source.
            source: Feed of columns that do not name one.
            reject: Takes the complaint about each bad row of columns, and the good ones are loaded; without it the
                first bad row ends the load.
            batch_size: Rows that are held and sorted by the key at a time.
            progress: Called after each batch with the number of rows so far.
            max_ahead: A tick further ahead of the server's clock is a bad row; None takes any. What lies ahead is
                counted in the report, and in no closed bar before its time.
            baseline: Shared by the parts of one source, so that none counts as late for ticks of the part before.

        Raises:
            InvalidRecord: A row is bad, or the table holds another tick under the same key; names both.
            ConfigurationError: Columns, and the extra `arrow` is not installed.
            QtsDataError: The database refused. In every case roll the transaction back; nothing is committed.
        """
        if continues and batch is None:
            raise InvalidRecord(field="batch", reason="a piece of a feed needs the name of the batch")
        check_asked(source=source)
        with translated_errors():
            known: IngestReport | None = None
            if batch is not None:
                known = await bookkeeping.claim(self._connection, self._table, batch, again=again)
                if known is not None and numbering is None:
                    return known
            now, cutoff = await clock_and_cutoff(self._connection, self._table)
            following = batches_of(
                ticks,
                batch_size=batch_size,
                numbering=numbering or Numbering(),
                split=continues,
                source=source,
                reject=reject,
                # Ticks that are in were taken at their time.
                latest=None if known is not None or max_ahead is None else LatestTime(now, max_ahead),
            )
            if known is not None:
                # What follows in the same instants goes behind it.
                await _count(following)
                return known
            tally = Tally(cutoff, baseline)
            duplicates = False
            async with contextlib.aclosing(ahead(following)) as following_ones:
                async for batches, rejected in following_ones:
                    tally.rejected += rejected
                    for each in batches:
                        # COPY straight into the table is the fastest; once a duplicate met it, expect more.
                        missing = await self._load(each, tally, behind=continues, expect_duplicates=duplicates)
                        duplicates = duplicates or missing > 0
                    if progress is not None:
                        progress(tally.received + tally.rejected)
            return await self._close(tally, batch)

    async def ingest_group(self, group: Group, *, stream: str, before: int, at_most: int) -> IngestReport | None:
        """Load the next ticks of a stream, of which `before` were sent earlier; those that are in are left out.

        A tick without a `seq` goes behind what is stored of its instant. This is what `TickWriter` commits.

        Args:
            group: The ticks.
            stream: Name of the stream, whose position is kept in `ingest_batches`.
            before: Number of the stream's ticks before this group.
            at_most: Number of the stream's ticks that may have been sent so far.

        Returns:
            None if all of them were in.

        Raises:
            ConfigurationError: More than that are stored: another sender uses the name, such as a copy of the process.
            InvalidRecord: The table holds another tick under the same key.
            QtsDataError: The database refused; roll the transaction back.
        """
        with translated_errors():
            stood = await bookkeeping.advance(
                self._connection, self._table, stream, before=before, after=before + len(group.ticks)
            )
            if stood > at_most:
                raise ConfigurationError(
                    f"{stood:,} ticks of {stream} are in {self._table}, and this writer has sent {at_most:,}: another "
                    "process sends under the same name, such as a copy of this machine; stop one, and start again"
                )
            known = max(0, stood - before)
            if known >= len(group.ticks):
                return None
            if known:
                group = await prepared(group.ticks[known:], live_numbering())
            tally = Tally(None)
            for batch in group.batches:
                await self._load(batch, tally, behind=True, expect_duplicates=False)
            await bookkeeping.add_days(self._connection, self._table, tally)
            report = tally.report()
            await bookkeeping.add_to_stream(self._connection, self._table, stream, report)
            return report

    async def sign_off_gap(
        self, symbol: str, start: dt.datetime, end: dt.datetime, reason: str, *, source: str | None = None
    ) -> None:
        """Say why nothing is there in [start, end); `gaps` does not report it any more.

        Args:
            symbol: The instrument.
            start: Start of the gap; one that is signed off already and starts there is replaced.
            end: End of the gap.
            reason: Such as "trading halt" or "feed down, ticket 4711".
            source: The feed that has the gap; None for all feeds.

        Raises:
            InvalidRecord: The reason is empty, or the range is empty or naive.
        """
        with translated_errors():
            await sign_off(self._connection, symbol, start, end, reason, source=source)

    async def recount(self) -> None:
        """Make `overview` right after somebody else has changed the table; scans it, and loads wait meanwhile.

        Each UTC day has to be in one chunk, as it is with the chunk intervals that the migrations give the tables:
        with chunks of hours, neither this nor `overview` is right.
        """
        with translated_errors():
            await bookkeeping.recount(self._connection, self._table)

    async def refresh_bars(
        self, start: dt.datetime | Iterable[TimeRange], end: dt.datetime | None = None
    ) -> RefreshReport:
        """Bring the bars of [start, end], or of several ranges, up to date, now and not by the next policy.

        Where the server keeps no continuous aggregates this does nothing: views are always current. A refresh
        over ticks that retention has dropped would delete their bars, or make them of the ticks that came late
        alone. So each hour with a bar that holds more than what there is to make it of is left alone and reported;
        the other hours are refreshed. Nothing tells a tick that somebody deleted by hand from one that retention
        dropped: after that, `CALL refresh_continuous_aggregate` yourself.

        Nothing is made of a bar that is not over on the server's clock: what a continuous aggregate holds of it
        would hide the ticks that follow. Queries compute such bars from the ticks.

        The connection must be in autocommit mode: the server refuses a refresh inside a transaction.

        Args:
            start: Aware instant, or the ranges, such as `IngestReport.stale`; the end of a range is not in it.
            end: Aware instant; its bar is refreshed too.
        """
        ranges = [TimeRange(start, _just_after(utc("end", end)))] if end is not None else start  # type: ignore[arg-type]
        with translated_errors():
            return await refresh_aggregates(self._connection, ranges)  # type: ignore[arg-type]

    async def _load(self, batch: Batch, tally: Tally, *, behind: bool, expect_duplicates: bool) -> int:
        """Load a batch and count it; returns how many of it were there already."""
        unseen = batch.pairs() - tally.stored.keys()
        if unseen:
            tally.meet(await bookkeeping.last_stored(self._connection, self._table, unseen))
        before = tally.inserted
        if behind and batch.counted:
            inserted = await append(self._connection, self._table, batch, _shared(batch, tally))
        else:
            inserted = await insert_new(self._connection, self._table, batch, expect_duplicates=expect_duplicates)
        tally.take(batch.minutes())
        tally.insert(inserted)
        missing = batch.size - (tally.inserted - before)
        tally.duplicate += missing
        return missing

    async def _close(self, tally: Tally, batch: BatchId | None) -> IngestReport:
        await bookkeeping.add_days(self._connection, self._table, tally)
        report = tally.report()
        if batch is not None:
            await bookkeeping.finish(self._connection, self._table, batch, report)
        return report


def _shared(batch: Batch, tally: Tally) -> list[Span]:
    """Of each symbol and feed, from the first tick of a batch to the last in the table, where that is not earlier."""
    spans: dict[tuple[str, str], tuple[int, int]] = {}
    for symbol, source, _, _, first, last in batch.minutes():
        begin, end = spans.get((symbol, source), (first, last))
        spans[symbol, source] = (min(begin, first), max(end, last))
    return [
        Span(*pair, first, min(last, latest))
        for pair, (first, last) in spans.items()
        if (latest := tally.latest(pair)) is not None and first <= latest
    ]


def _just_after(instant: dt.datetime) -> dt.datetime:
    latest = dt.datetime.max.replace(tzinfo=dt.UTC)
    return instant + dt.datetime.resolution if instant < latest else latest


async def _count(following: Callable[[], Awaitable[tuple[list[Batch], int] | None]]) -> None:
    """Number ticks without loading them."""
    while await following() is not None:
        pass
