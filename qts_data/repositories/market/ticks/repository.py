"""Loading of ticks: exactly once, at the speed of COPY."""

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
    """Queries and writes about one table of ticks, in the transaction of one connection. It never commits."""

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
        """Load ticks by COPY. Ticks that the table already holds are not stored twice.

        A tick without a `seq` gets its ordinal among the ticks of the same symbol, time and source. The call counts
        them over all ticks in the order given. So give a source whole: loading it twice makes the same keys, with any
        batch size. For a source in several calls, use one `numbering` for all of them, or `continues`.

        Args:
            ticks: Records, or columns with Arrow's C stream interface: an Arrow table or reader, a Polars or pandas
                frame. Columns are `time` (with a zone), `symbol`, `price`, `volume` (decimals or integers) and, if
                known, `source`, `seq`, `bid` and `ask`. Read once, lazily.
            batch: Name of this load. If a batch of that name is already loaded, the call loads nothing. It then reads
                no tick either, except with `numbering`. The batch's row is written first in this transaction: of two
                concurrent loads, one waits and then finds the row.
            again: Load an already loaded batch once more, for example after retention has dropped its ticks.
            continues: The ticks continue a feed: a tick without a `seq` is appended to the stored ticks of its
                instant. Needs `batch`, because only the name tells a repetition from more ticks.
            numbering: Counters that an earlier call for the same source has used. They also count the ticks of an
                already loaded batch. After a failed call, they have counted ticks that are not stored: start again
                with new counters, at the beginning of the source.
            source: Feed of columns without a column `source`.
            reject: Called with the error of each bad row of columns, while valid rows are loaded. Without it, the first
                bad row ends the load.
            batch_size: Number of rows that are held and sorted by the key at a time.
            progress: Called after each batch with the number of rows so far.
            max_ahead: A tick with a larger lead over the server's clock is a bad row; None accepts any lead. The report
                counts ticks ahead, and no closed bar holds them before their time.
            baseline: Shared by the parts of one source, so that no tick is late because of an earlier part.

        Raises:
            InvalidRecord: A row is bad, or the table holds another tick under the same key. The message names both.
            ConfigurationError: The ticks are columns, and the extra `arrow` is not installed.
            QtsDataError: The database refused a statement. After any error, roll the transaction back.
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
                # Ticks of a loaded batch were checked by the clock of that load.
                latest=None if known is not None or max_ahead is None else LatestTime(now, max_ahead),
            )
            if known is not None:
                # Later ticks of the same instants are numbered after these.
                await _count(following)
                return known
            tally = Tally(cutoff, baseline)
            duplicates = False
            async with contextlib.aclosing(ahead(following)) as following_ones:
                async for batches, rejected in following_ones:
                    tally.rejected += rejected
                    for each in batches:
                        # COPY directly into the table is the fastest. After a first duplicate, expect more.
                        missing = await self._load(each, tally, behind=continues, expect_duplicates=duplicates)
                        duplicates = duplicates or missing > 0
                    if progress is not None:
                        progress(tally.received + tally.rejected)
            return await self._close(tally, batch)

    async def ingest_group(self, group: Group, *, stream: str, before: int, at_most: int) -> IngestReport | None:
        """Load the next ticks of a stream. Leave out those that are already stored.

        A tick without a `seq` is appended to the stored ticks of its instant. `TickWriter` commits by this method.

        Args:
            group: The ticks.
            stream: Name of the stream. `ingest_batches` holds its position.
            before: Number of the stream's ticks before this group.
            at_most: Number of the stream's ticks that may have been sent so far.

        Returns:
            The report; None if all ticks were already stored.

        Raises:
            ConfigurationError: More than `at_most` ticks are stored: another sender uses the name, such as a copy of
                the process.
            InvalidRecord: The table holds another tick under the same key.
            QtsDataError: The database refused a statement. Roll the transaction back.
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
        """Record why no tick exists in [start, end). `gaps` does not report it any more.

        Args:
            symbol: The instrument.
            start: Start of the gap. A signed-off gap with the same start is replaced.
            end: End of the gap.
            reason: Such as "trading halt" or "feed down, ticket 4711".
            source: The feed that has the gap; None for all feeds.

        Raises:
            InvalidRecord: The reason is empty, or the range is empty or naive.
        """
        with translated_errors():
            await sign_off(self._connection, symbol, start, end, reason, source=source)

    async def recount(self) -> None:
        """Correct `overview` after another program has changed the table. Scans the table, and loads wait meanwhile.

        Each UTC day must be in one chunk, as with the chunk intervals of the migrations. With chunks of hours, neither
        this count nor `overview` is right.
        """
        with translated_errors():
            await bookkeeping.recount(self._connection, self._table)

    async def refresh_bars(
        self, start: dt.datetime | Iterable[TimeRange], end: dt.datetime | None = None
    ) -> RefreshReport:
        """Refresh the bars of [start, end], or of several ranges, now instead of by the next policy.

        On editions without continuous aggregates this does nothing: views are always current.

        A refresh over dropped ticks would delete their bars, or make them from the late ticks alone. So the refresh
        skips and reports each hour with a bar that holds more data than its source. It refreshes the other hours. It
        cannot tell a tick deleted by hand from one that retention dropped. After a deletion by hand, run `CALL
        refresh_continuous_aggregate` yourself.

        A bar that has not ended by the server's clock is not materialized: its row in a continuous aggregate would
        hide later ticks. Queries compute such bars from the ticks.

        The connection must be in autocommit mode: the server refuses a refresh inside a transaction.

        Args:
            start: Aware instant, or the ranges, such as `IngestReport.to_refresh`. The end of a range is not included.
            end: Aware instant; its bar is refreshed too.
        """
        ranges = [TimeRange(start, _just_after(utc("end", end)))] if end is not None else start  # type: ignore[arg-type]
        with translated_errors():
            return await refresh_aggregates(self._connection, ranges)  # type: ignore[arg-type]

    async def _load(self, batch: Batch, tally: Tally, *, behind: bool, expect_duplicates: bool) -> int:
        """Load a batch and count it. Return the number of its ticks that the table already held."""
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
    """Return the span of each symbol and feed from a batch's first tick to the table's last, unless that is earlier."""
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
    """Assign ordinals to ticks without loading them."""
    while await following() is not None:
        pass
