"""Import ticks and bars from files, list bars and gaps."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from qts_data.bootstrap import checked_database, database_url, require_current
from qts_data.contracts.instants import MAX_AHEAD, utc_fields
from qts_data.contracts.leniency import any_time_allowed
from qts_data.database.engine import DatabaseConfig, async_engine
from qts_data.database.errors import translated_errors
from qts_data.errors import InvalidRecord
from qts_data.importers import ReadOptions, bar_length, read_file, with_symbol
from qts_data.repositories import BarReads, BatchId, IngestReport, RefreshReport, TickRepository, UpsertReport
from qts_data.writers import load_in_parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import OHLCV, TickData
    from qts_data.importers.rows import Refuse
    from qts_data.repositories import BarInterval, BarSource, Gap, StaleFeed, TickTable
    from qts_data.settings import Settings


__all__ = [
    "ImportReport",
    "dry_run",
    "import_bars",
    "import_tick_file",
    "import_ticks",
    "list_bars",
    "list_gaps",
    "list_stale_feeds",
    "sign_off_gap",
    "tick_repository",
]


@contextlib.asynccontextmanager
async def tick_repository(
    settings: Settings, *, autocommit: bool = False, table: TickTable = "tick_data"
) -> AsyncIterator[TickRepository]:
    """A tick repository in a transaction that commits at the end, or in autocommit mode."""
    async with _market_connection(settings, autocommit=autocommit) as connection:
        yield TickRepository(connection, table)


@contextlib.asynccontextmanager
async def _market_connection(settings: Settings, *, autocommit: bool = False) -> AsyncIterator[AsyncConnection]:
    # A load and a refresh take as long as they take.
    config = DatabaseConfig(
        connect_timeout_seconds=settings.connect_timeout_seconds,
        statement_timeout_seconds=0,
        idle_transaction_timeout_seconds=0,
    )
    url = database_url(settings)
    made = async_engine(url, config)
    if autocommit:
        made = made.execution_options(isolation_level="AUTOCOMMIT")
    try:
        with translated_errors(url):
            async with made.begin() as connection:
                await connection.run_sync(require_current)
                yield connection
    finally:
        await made.dispose()


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of an import.

    Attributes:
        ingest: The load.
        refresh: The bars that were brought up to date.
        cutoff: Instant before which retention will drop ticks by itself; None if it keeps them.
    """

    ingest: IngestReport
    refresh: RefreshReport
    cutoff: dt.datetime | None

    def __post_init__(self) -> None:
        """Keep the instant in UTC."""
        utc_fields(self, "cutoff")


def _max_ahead_of(settings: Settings) -> dt.timedelta | None:
    """Tell how far an imported tick may lie ahead of the clock; None where times of any kind are allowed."""
    return None if any_time_allowed() else dt.timedelta(seconds=settings.tick_max_ahead_seconds)


async def import_ticks(
    settings: Settings, ticks: Iterable[TickData], progress: Callable[[int], None] | None = None
) -> ImportReport:
    """Load ticks in one transaction, all or nothing, then bring their bars up to date.

    Raises:
        InvalidRecord: Names the row, the field and the reason; nothing was loaded.
        QtsDataError: The database refused; nothing was loaded.
    """
    async with tick_repository(settings) as repository:
        ingest = await repository.ingest(ticks, progress=progress, max_ahead=_max_ahead_of(settings))
    async with tick_repository(settings, autocommit=True) as repository:
        refresh = await repository.refresh_bars(ingest.stale)
        return ImportReport(ingest, refresh, ingest.cutoff)


async def import_tick_file(
    settings: Settings,
    layout: str,
    path: Path,
    options: ReadOptions,
    *,
    refuse: Refuse | None,
    rejected: Callable[[], int],
    keep: bool,
    again: bool,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Load a file of trades; a file that is in is not read again, whatever its name, unless that says the symbol.

    Args:
        settings: The environment.
        layout: A name of `FORMATS`.
        path: The file.
        options: What the file does not say.
        refuse: Takes each bad row, and the good ones are loaded part by part: after an interruption the same call
            goes on. Without it the file is loaded in one transaction, or not at all.
        rejected: How many rows `refuse` has taken.
        keep: Load into `tick_history`, which retention leaves alone.
        again: Load it even if it is in.
        progress: Called with the number of ticks so far.

    Raises:
        InvalidRecord: Without `refuse`: names the row, the field and the reason. With it: the file is missing, or
            the table holds another tick under the same key.
        QtsDataError: The database refused, or went away.
    """
    # What is made of the content depends on the name where that says the symbol.
    options = with_symbol(layout, path, options)
    try:
        # What was refused for its time before is to be read again.
        max_ahead = _max_ahead_of(settings)
        options = replace(options, max_ahead=max_ahead)
        facts: tuple[str, ...] = () if max_ahead == MAX_AHEAD else (f"up to {max_ahead} ahead",)
        facts = ("any time",) if any_time_allowed() else facts
        batch = BatchId.of_file(path, layout, replace(options, quotes=None), *facts)
        if options.quotes is not None:
            batch = BatchId.of_file(options.quotes, batch.stream)
    except OSError as error:
        raise InvalidRecord(field="file", reason=f"{error.filename}: {error.strerror}") from error
    table: TickTable = "tick_history" if keep else "tick_data"
    ticks = cast("Iterator[TickData]", read_file(layout, path, options, refuse))
    if refuse is None:
        async with tick_repository(settings, table=table) as repository:
            # Not the name of a part: the first one may be in, of an import that was interrupted.
            whole = BatchId.of_whole(batch.stream)
            ingest = await repository.ingest(ticks, batch=whole, again=again, progress=progress, max_ahead=max_ahead)
    else:
        async with checked_database(settings) as database_:
            ingest = await load_in_parts(
                database_,
                ticks,
                stream=batch.stream,
                table=table,
                again=again,
                rejected=rejected,
                progress=progress,
                max_ahead=max_ahead,
            )
    async with tick_repository(settings, autocommit=True, table=table) as repository:
        refresh = RefreshReport() if keep else await repository.refresh_bars(ingest.stale)
        return ImportReport(ingest, refresh, ingest.cutoff)


async def import_bars(
    settings: Settings,
    layout: str,
    path: Path,
    options: ReadOptions,
    *,
    refuse: Refuse | None,
    progress: Callable[[int], None] | None = None,
) -> UpsertReport:
    """Insert and correct the bars of a file, minutes or days, in one transaction.

    Args:
        settings: The environment.
        layout: A name of `FORMATS`.
        path: The file.
        options: What the file does not say.
        refuse: Takes each bad row, and the good ones are loaded.
        progress: Called with the number of bars so far.

    Raises:
        InvalidRecord: The file is missing, or its bars are of a length that has no table; without `refuse` also: names
            the row, the field and the reason. Nothing was loaded.
        QtsDataError: The database refused; nothing was loaded.
    """
    bars = cast("Iterator[OHLCV]", read_file(layout, path, options, refuse))
    of_minutes = bar_length(layout, path) == "1m"
    async with checked_database(settings) as database_, database_.transaction() as uow:
        repository = uow.minute_bars if of_minutes else uow.daily_bars
        return await repository.upsert(bars, progress=progress)


def dry_run(layout: str, path: Path, options: ReadOptions, refuse: Refuse | None) -> int:
    """Read a file and load nothing; returns the number of good rows.

    Raises:
        InvalidRecord: Without `refuse`: names the row, the field and the reason.
    """
    return sum(1 for _ in read_file(layout, path, options, refuse))


async def list_bars(
    settings: Settings,
    symbol: str,
    start: dt.datetime,
    end: dt.datetime,
    interval: BarInterval,
    *,
    of: BarSource = "tick_data",
) -> list[OHLCV]:
    """Bars of a symbol that start in [start, end), of ticks or of vendors' minutes."""
    async with _market_connection(settings) as connection:
        return await BarReads(connection, of).bars(symbol, start, end, interval)


async def list_gaps(
    settings: Settings,
    symbol: str,
    start: dt.datetime,
    end: dt.datetime,
    calendar: str,
    *,
    source: str | None,
    at_least: dt.timedelta,
    kept: bool = False,
) -> list[Gap]:
    """Trading minutes of [start, end) without a tick."""
    async with tick_repository(settings, table="tick_history" if kept else "tick_data") as repository:
        return await repository.gaps(symbol, start, end, calendar, source=source, at_least=at_least)


async def sign_off_gap(
    settings: Settings, symbol: str, start: dt.datetime, end: dt.datetime, reason: str, *, source: str | None
) -> None:
    """Say why nothing is there."""
    async with tick_repository(settings) as repository:
        await repository.sign_off_gap(symbol, start, end, reason, source=source)


async def list_stale_feeds(settings: Settings, calendar: str, silent_for: dt.timedelta) -> list[StaleFeed]:
    """Feeds from which nothing comes while the exchange trades."""
    async with tick_repository(settings) as repository:
        return await repository.stale_feeds(calendar, silent_for=silent_for)
