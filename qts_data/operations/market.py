"""Import ticks and bars from files, list bars and gaps."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from qts_data.bootstrap import checked_database, database_url, patient_config, require_current
from qts_data.contracts import OHLCV
from qts_data.contracts.instants import MAX_AHEAD, utc_fields
from qts_data.contracts.leniency import any_time_allowed
from qts_data.database.engine import async_engine
from qts_data.database.errors import translated_errors
from qts_data.errors import InvalidRecord, NotFound
from qts_data.importers import ReadOptions, bar_length, read_file, with_symbol
from qts_data.repositories import (
    BarReads,
    Bars,
    BatchId,
    DailyBarReads,
    IngestReport,
    RefreshReport,
    TickReads,
    TickRepository,
    UpsertReport,
)
from qts_data.repositories.market.clock import server_time
from qts_data.writers import load_in_parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import TickData
    from qts_data.importers.rows import Refuse
    from qts_data.repositories import BarInterval, BarSource, Gap, StaleFeed, TickTable
    from qts_data.settings import Settings


__all__ = [
    "BarPage",
    "DailyOr",
    "ImportReport",
    "dry_run",
    "find_bars",
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
    """Open a tick repository in a transaction that commits at the end, or in autocommit mode."""
    async with _market_connection(settings, autocommit=autocommit) as connection:
        yield TickRepository(connection, table)


@contextlib.asynccontextmanager
async def _market_connection(settings: Settings, *, autocommit: bool = False) -> AsyncIterator[AsyncConnection]:
    # A load or a refresh may run for any length of time.
    url = database_url(settings)
    made = async_engine(url, patient_config(settings))
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
    """Result of an import.

    Attributes:
        ingest: Result of the load.
        refresh: The refreshed bars.
        cutoff: Instant before which retention will drop ticks by itself; None if it drops none.
    """

    ingest: IngestReport
    refresh: RefreshReport
    cutoff: dt.datetime | None

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "cutoff")


def _max_ahead_of(settings: Settings) -> dt.timedelta | None:
    """Return how far an imported tick may lie ahead of the clock. None if any time is allowed."""
    return None if any_time_allowed() else dt.timedelta(seconds=settings.tick_max_ahead_seconds)


async def import_ticks(
    settings: Settings, ticks: Iterable[TickData], progress: Callable[[int], None] | None = None
) -> ImportReport:
    """Load ticks in one transaction, all or nothing, then refresh their bars.

    Raises:
        InvalidRecord: Names the row, the field and the reason; nothing was loaded.
        QtsDataError: The database refused; nothing was loaded.
    """
    async with tick_repository(settings) as repository:
        ingest = await repository.ingest(ticks, progress=progress, max_ahead=_max_ahead_of(settings))
    async with tick_repository(settings, autocommit=True) as repository:
        refresh = await repository.refresh_bars(ingest.to_refresh)
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
    """Load a file of trades, once.

    A file loaded before is recognised by its content, even under another name. Exception: layouts that take the symbol
    from the name of the file.

    Args:
        settings: The environment.
        layout: A name of `FORMATS`.
        path: The file.
        options: Facts that the file does not contain.
        refuse: Receives each bad row, and the good ones are loaded in parts: after an interruption the same call
            continues. Without it the whole file is loaded in one transaction, or not at all.
        rejected: Returns the number of rows that `refuse` has received.
        keep: Load into `tick_history`, from which retention drops nothing.
        again: Load the file even if it was loaded before.
        progress: Called with the number of ticks so far.

    Raises:
        InvalidRecord: Without `refuse`: names the row, the field and the reason. With it: the file is missing, or the
            table contains another tick under the same key.
        QtsDataError: The database refused, or the connection was lost.
    """
    # The records depend on the name of the file where it contains the symbol.
    options = with_symbol(layout, path, options)
    try:
        # Rows refused for their time before must be read again.
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
            # Not the name of a part: the first part of an interrupted import may be loaded already.
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
        refresh = RefreshReport() if keep else await repository.refresh_bars(ingest.to_refresh)
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
        options: Facts that the file does not contain.
        refuse: Receives each bad row, and the good ones are loaded.
        progress: Called with the number of bars so far.

    Raises:
        InvalidRecord: The file is missing, or its bars have a length without a table. Without `refuse` also: names the
            row, the field and the reason. Nothing was loaded.
        QtsDataError: The database refused; nothing was loaded.
    """
    bars = cast("Iterator[OHLCV]", read_file(layout, path, options, refuse))
    of_minutes = bar_length(layout, path) == "1m"
    async with checked_database(settings) as database_, database_.transaction() as uow:
        repository = uow.minute_bars if of_minutes else uow.daily_bars
        return await repository.upsert(bars, progress=progress)


def dry_run(layout: str, path: Path, options: ReadOptions, refuse: Refuse | None) -> int:
    """Read a file without loading it. Return the number of good rows.

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
) -> Bars:
    """Return the bars of a symbol that start in [start, end), made from ticks or from vendors' minutes."""
    async with _market_connection(settings) as connection:
        return await BarReads(connection, of).bars(symbol, start, end, interval)


DailyOr: TypeAlias = 'Literal["ohlcv_1d"] | BarSource'
"""Official daily bars, or the source of bars of other lengths."""


@dataclass(frozen=True, slots=True)
class BarPage:
    """Bars that `qts-data bars` shows.

    Attributes:
        bars: The bars, in order of time.
        of: Table of the bars.
        known: Whether that table has any row of the symbol.
        asked_at: The server's clock at the time of reading; a bar that ends later is still open.
    """

    bars: Bars
    of: str
    known: bool
    asked_at: dt.datetime

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "asked_at")


async def find_bars(
    settings: Settings,
    symbol: str,
    start: dt.datetime,
    end: dt.datetime,
    interval: BarInterval,
    *,
    of: DailyOr = "tick_data",
    time_zone: str | None = None,
) -> BarPage:
    """Read the bars of a symbol that start in [start, end), and whether the symbol is known at all."""
    async with _market_connection(settings) as connection:
        asked_at = await server_time(connection)
        if of == "ohlcv_1d":
            daily = DailyBarReads(connection)
            bars = await daily.list_bars(symbol, start, end)
            return BarPage(bars, of, bool(bars) or symbol in await daily.list_symbols(), asked_at)
        bars = await BarReads(connection, of).bars(symbol, start, end, interval, time_zone=time_zone)
        if bars or of == "ohlcv_1m_vendor":
            return BarPage(bars, of, True, asked_at)
        return BarPage(bars, of, await TickReads(connection, of).has_symbol(symbol), asked_at)


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
    """List the trading minutes of [start, end) without a tick.

    Raises:
        NotFound: No gap was found, the table has no tick of the symbol at all, and no gap of it was signed off.
    """
    table: TickTable = "tick_history" if kept else "tick_data"
    async with _market_connection(settings) as connection:
        repository = TickRepository(connection, table)
        found = await repository.gaps(symbol, start, end, calendar, source=source, at_least=at_least)
        if found or await repository.has_symbol(symbol):
            return found
        if await repository.list_signed_off_gaps(symbol, start, end):
            return found
        elsewhere = "" if kept else "; --kept looks in tick_history"
        raise NotFound(f"{table} has no ticks of {symbol}: check the symbol{elsewhere}")


async def sign_off_gap(
    settings: Settings, symbol: str, start: dt.datetime, end: dt.datetime, reason: str, *, source: str | None
) -> None:
    """Store the reason of a gap."""
    async with tick_repository(settings) as repository:
        await repository.sign_off_gap(symbol, start, end, reason, source=source)


async def list_stale_feeds(settings: Settings, calendar: str, silent_for: dt.timedelta) -> list[StaleFeed]:
    """List the feeds that are silent while the exchange trades."""
    async with tick_repository(settings) as repository:
        return await repository.stale_feeds(calendar, silent_for=silent_for)
