"""Queries about ticks and bars."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from qts_data.contracts.identity import check_asked, names_of
from qts_data.contracts.instants import utc, utc_fields
from qts_data.contracts.market import stored_tick
from qts_data.database.errors import translated_errors
from qts_data.repositories.market.bars.reads import BarReads
from qts_data.repositories.market.bars.refresh import retention_cutoff
from qts_data.repositories.market.gaps import find_gaps, find_stale, list_signed_off
from qts_data.repositories.market.ticks.query import TickQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import TickData
    from qts_data.database.streaming import Stream
    from qts_data.repositories.market.gaps import Gap, SignedOff, StaleFeed
    from qts_data.repositories.market.reports import TickTable

__all__ = ["SymbolSummary", "TickReads"]

_MINUTE: Final = dt.timedelta(minutes=1)
_MONTH: Final = dt.timedelta(days=30)

_LATEST: Final = """
    SELECT t.* FROM unnest(CAST(:symbols AS text[])) WITH ORDINALITY AS wanted (symbol, place)
     CROSS JOIN LATERAL (
        SELECT symbol, time, source, seq, price, volume, bid, ask FROM {table} AS t
         WHERE t.symbol = wanted.symbol AND (CAST(:feed AS text) IS NULL OR t.source = :feed)
         ORDER BY t.time DESC, t.source DESC, t.seq DESC LIMIT 1) AS t
     ORDER BY wanted.place
"""

# Retention drops ticks, but keeps their bars and the rows of their days.
_HAS_SYMBOL: Final = """
    SELECT EXISTS (SELECT FROM tick_days WHERE relation = :relation AND symbol = :symbol)
        OR EXISTS (SELECT FROM {table} WHERE symbol = :symbol)
"""

# Retention has dropped the ticks of a day whose chunk does not exist any more.
_OVERVIEW: Final = """
    SELECT d.symbol, d.source, CAST(sum(d.ticks) AS bigint) AS ticks, min(d.first_time) AS first,
           max(d.last_time) AS last
      FROM tick_days AS d
     WHERE d.relation = :relation AND EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.relname = d.chunk)
     GROUP BY d.symbol, d.source ORDER BY d.symbol, d.source
"""


@dataclass(frozen=True, slots=True)
class SymbolSummary:
    """The stored ticks of one symbol and feed.

    Attributes:
        symbol: The instrument.
        source: The feed.
        ticks: Number of ticks.
        first: Instant of the earliest tick.
        last: Instant of the latest tick.
    """

    symbol: str
    source: str
    ticks: int
    first: dt.datetime
    last: dt.datetime

    def __post_init__(self) -> None:
        """Convert the instants to UTC."""
        utc_fields(self, "first", "last")


class TickReads(BarReads):
    """Queries about one table of ticks, in the transaction of one connection.

    Args:
        connection: In a transaction.
        table: `tick_data`, or `tick_history` for ticks that are kept for ever.
    """

    def __init__(self, connection: AsyncConnection, table: TickTable = "tick_data") -> None:
        super().__init__(connection, table)
        self._table: TickTable = table

    def ticks(self, symbol: str, start: dt.datetime, end: dt.datetime, *, source: str | None = None) -> TickQuery:
        """Return a query for the ticks of a symbol in [start, end), in order of time, source and seq.

        Args:
            symbol: The instrument.
            start: Aware instant; ticks at it are included.
            end: Aware instant; ticks at it are not included.
            source: Only ticks of this feed.

        Returns:
            The query. It gives records (`as_records`), Arrow (`as_arrow`), Polars (`as_polars`), pandas
            (`as_pandas`), or a stream.

        Raises:
            InvalidRecord: `start` or `end` has no time zone, or a name is invalid.
        """
        start, end = utc("start", start), utc("end", end)
        check_asked(symbol=symbol, source=source)
        return TickQuery(self._connection, self._table, symbol, start, end, source)

    def stream_ticks(
        self, symbol: str, start: dt.datetime, end: dt.datetime, *, source: str | None = None
    ) -> Stream[TickData]:
        """Stream the ticks of a symbol in [start, end) one by one. See `TickQuery.stream_records`."""
        return self.ticks(symbol, start, end, source=source).stream_records()

    async def latest(self, symbols: str | Sequence[str], *, source: str | None = None) -> dict[str, TickData]:
        """Return the last tick of each symbol that has one, in one round trip.

        Args:
            symbols: One instrument or several.
            source: Only ticks of this feed. Without it, of two feeds at the same instant the later name wins.
        """
        asked = names_of("symbol", symbols)
        check_asked(source=source)
        statement = sa.text(_LATEST.format(table=self._table))
        with translated_errors():
            rows = await self._connection.execute(statement, {"symbols": asked, "feed": source})
        return {
            row.symbol: stored_tick(
                utc("time", row.time), row.symbol, row.price, row.volume, row.source, row.seq, row.bid, row.ask
            )
            for row in rows
        }

    async def has_symbol(self, symbol: str) -> bool:
        """Tell whether the table holds, or once held, a tick of the symbol."""
        check_asked(symbol=symbol)
        statement = sa.text(_HAS_SYMBOL.format(table=self._table))
        with translated_errors():
            return bool(await self._connection.scalar(statement, {"relation": self._table, "symbol": symbol}))

    async def overview(self) -> list[SymbolSummary]:
        """Return first, last and number of the ticks of every symbol and feed, without a scan of the table.

        Every load counts its ticks in its own transaction, by symbol, feed and UTC day. So the counts are exact under
        concurrent loads, duplicates and rollbacks. A day whose chunk retention has dropped does not count. Changes by
        statements of other programs are visible after `TickRepository.recount`.
        """
        with translated_errors():
            rows = await self._connection.execute(sa.text(_OVERVIEW), {"relation": self._table})
        return [SymbolSummary(row.symbol, row.source, row.ticks, row.first, row.last) for row in rows]

    async def gaps(
        self,
        symbol: str,
        start: dt.datetime,
        end: dt.datetime,
        calendar: str = "XKRX",
        *,
        source: str | None = None,
        at_least: dt.timedelta = _MINUTE,
    ) -> list[Gap]:
        """Return the trading minutes of [start, end) without a tick, as stretches within a session, in order.

        A session without any tick is one gap of kind `day`. The current minute and signed-off gaps are not reported.
        For `tick_data`, the minutes come from `ohlcv_1m`, which is kept longer than its ticks.

        Args:
            symbol: The instrument.
            start: Aware instant.
            end: Aware instant.
            calendar: Name of an exchange in `exchange_calendars`, such as XKRX or XNYS, or 24/7.
            source: Only ticks of this feed. Without it, a minute counts as present if any feed has a tick in it.
            at_least: Shortest stretch to report. A share with few trades has empty minutes.

        Raises:
            InvalidRecord: The range is empty or naive, begins before the retention cutoff, or lies outside the years of
                the calendar.
            ConfigurationError: The calendar is unknown, or the extra `calendars` is not installed.
        """
        with translated_errors():
            return await find_gaps(
                self._connection,
                self._table,
                symbol,
                start,
                end,
                calendar=calendar,
                source=source,
                at_least=at_least,
            )

    async def stale_feeds(
        self,
        calendar: str = "XKRX",
        *,
        silent_for: dt.timedelta = _MINUTE,
        alive_within: dt.timedelta = _MONTH,
        as_of: dt.datetime | None = None,
    ) -> list[StaleFeed]:
        """Return the feeds of symbols that have sent nothing for longer than this while the exchange was trading.

        Args:
            calendar: Name of the exchange in `exchange_calendars`.
            silent_for: Whole minutes of trading time without a tick that are normal.
            alive_within: A feed whose last tick is older than this has ended, and is not reported.
            as_of: Instant of the check; the server's clock by default.

        Raises:
            InvalidRecord: `as_of` has no time zone, or the range lies outside the years of the calendar.
            ConfigurationError: The calendar is unknown, or the extra `calendars` is not installed.
        """
        feeds = [(item.symbol, item.source, item.last) for item in await self.overview()]
        with translated_errors():
            return await find_stale(
                self._connection,
                feeds,
                calendar=calendar,
                silent_for=silent_for,
                alive_within=alive_within,
                as_of=as_of,
            )

    async def list_signed_off_gaps(self, symbol: str, start: dt.datetime, end: dt.datetime) -> list[SignedOff]:
        """List the signed-off gaps of a symbol that overlap [start, end), in order."""
        with translated_errors():
            return await list_signed_off(self._connection, symbol, start, end)

    async def retention_cutoff(self) -> dt.datetime | None:
        """Return the instant before which the server drops ticks by itself. None if it keeps them."""
        with translated_errors():
            return await retention_cutoff(self._connection, self._table)
