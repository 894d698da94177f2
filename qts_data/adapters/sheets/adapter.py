"""Google Sheets as a data source."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import time
from typing import TYPE_CHECKING

from qts_data.adapters.book import book, entries_between, valued
from qts_data.adapters.port import DataSourceAdapter, Fetched
from qts_data.adapters.sheets.sheets import Workbook
from qts_data.adapters.sheets.writer import BookWriter, Line
from qts_data.contracts import HealthStatus
from qts_data.contracts.checks import check_aware
from qts_data.errors import NotFound, NotSupported, QtsDataError
from qts_data.importers.book import Defaults
from qts_data.repositories.booking import require_same_fill

if TYPE_CHECKING:
    from qts_data.adapters.sheets.client import SheetsClient
    from qts_data.contracts import OHLCV, BookedFill, LedgerEntry, Position, TickData
    from qts_data.repositories import BarInterval

__all__ = ["GoogleSheetsAdapter"]


class GoogleSheetsAdapter(DataSourceAdapter):
    """A book in a spreadsheet: sheets Position, T_Ledger and History, as `qts_data.importers.book` describes them.

    Every read asks the sheet. A fill and its position are written in one request, which can be repeated; if it is lost
    half way, or an older one arrives late, the next fill of the position finds out by the row numbers and books what is
    missing.

    Args:
        client: Calls of the API; closed with the adapter.
        defaults: What the sheets do not say; the time zone is the spreadsheet's.
    """

    name = "sheets"

    def __init__(self, client: SheetsClient, defaults: Defaults | None = None) -> None:
        self._client = client
        self.workbook = Workbook(client, defaults or Defaults())
        self.writer = BookWriter(self.workbook)
        self._turn = asyncio.Lock()

    @property
    def client(self) -> SheetsClient:
        """Calls of the API, with their counts."""
        return self._client

    async def close(self) -> None:
        """See `DataSourceAdapter`."""
        await self._client.close()

    async def fetch_positions(self, account: str | None = None) -> Fetched[Position]:
        """See `DataSourceAdapter`.

        Raises:
            InvalidRecord: A row cannot be read; names the sheet, the cell and the reason.
        """
        found: list[Position] = await self.workbook.records("positions")
        held = sorted(
            (position for position in found if account in {None, position.account}),
            key=lambda position: (position.account, position.symbol),
        )
        return Fetched(held, source=self.name)

    async def fetch_position(self, symbol: str, account: str = "main") -> Position | None:
        """See `DataSourceAdapter`."""
        for position in await self.fetch_positions(account):
            if position.symbol == symbol:
                return position
        return None

    async def update_position(self, position: Position) -> Position:
        """See `DataSourceAdapter`."""
        async with self._turn:
            await self.writer.refresh()
            held = self.writer.position(position.account, position.symbol)
            if held is None:
                raise NotFound(f"{position.account} has no position in {position.symbol}")
            now = valued(held, position, dt.datetime.now(dt.UTC))
            if now != held:
                await self.writer.write([], [now])
            return now

    async def append_ledger(self, entry: LedgerEntry) -> BookedFill:
        """See `DataSourceAdapter`; what a fill realized is not in the sheet, and is computed anew for a duplicate.

        Raises:
            SourceRefused: The sheet has no column for execution ids.
        """
        async with self._turn:
            await self.writer.refresh()
            lines = self.writer.lines(entry.account, entry.symbol)
            held = self.writer.position(entry.account, entry.symbol)
            now = dt.datetime.now(dt.UTC)
            version = 0
            if held is not None:
                # A sheet that was never written by us has no versions: then what it says of the position holds.
                version = held.last_ledger_id or self.writer.next_row
            behind = [line for line in lines if line[0] > version]
            for row, line in behind:
                held = book(held, line, row, now).position
            known = self.writer.row_of(entry.key)
            if known is None:
                result = book(held, entry, self.writer.next_row, now)
                await self.writer.write([Line(entry)], [result.position])
                return result
            first: BookedFill | None = None
            for row, line in lines:
                if row <= known:
                    first = book(first.position if first else None, line, row, now)
            assert first is not None  # noqa: S101 - the row is one of them
            require_same_fill(dict(lines)[known], entry)
            if behind and held is not None:
                await self.writer.write([], [held])
            return dataclasses.replace(first, duplicate=True)

    async def fetch_ledger(
        self,
        symbol: str | None = None,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
        limit: int = 1000,
    ) -> Fetched[LedgerEntry]:
        """See `DataSourceAdapter`."""
        entries: list[LedgerEntry] = await self.workbook.records("ledger")
        return Fetched(entries_between(entries, symbol, start, end)[:limit], source=self.name)

    async def fetch_ohlcv(
        self, symbol: str, start: dt.datetime, end: dt.datetime, interval: BarInterval
    ) -> Fetched[OHLCV]:
        """See `DataSourceAdapter`; the sheet History has days only."""
        check_aware("start", start)
        check_aware("end", end)
        if interval != "1d":
            raise NotSupported(f"a spreadsheet has bars of 1d, not of {interval}")
        bars: list[OHLCV] = await self.workbook.records("daily_bars")
        found = sorted((bar for bar in bars if bar.symbol == symbol and start <= bar.time < end), key=_time)
        return Fetched(found, source=self.name)

    async def fetch_tick_data(self, symbol: str, start: dt.datetime, end: dt.datetime) -> Fetched[TickData]:
        """See `DataSourceAdapter`."""
        raise NotSupported(f"a spreadsheet has no ticks ({symbol}, {start} to {end})")

    async def health_check(self) -> HealthStatus:
        """See `DataSourceAdapter`."""
        started = time.monotonic()
        latency: float | None = None
        try:
            found = await self.workbook.metadata(again=True)
            latency = time.monotonic() - started
            detail = f"{len(found.sheets)} sheets, time zone {found.time_zone}"
        except QtsDataError as error:
            detail = str(error)
        return HealthStatus(
            component=self.name,
            healthy=latency is not None,
            detail=detail,
            latency_seconds=latency,
            checked_at=dt.datetime.now(dt.UTC),
        )


def _time(bar: OHLCV) -> dt.datetime:
    return bar.time
