"""Google Sheets as a data source."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from typing import TYPE_CHECKING

from qts_data.adapters.port import DataSourceAdapter, Fetched
from qts_data.adapters.sheets.sheets import Workbook
from qts_data.adapters.sheets.writer import BookWriter, Line
from qts_data.contracts import HealthStatus
from qts_data.contracts.identity import check_asked
from qts_data.contracts.instants import utc
from qts_data.errors import NotFound, NotSupported, QtsDataError
from qts_data.importers.tables import Defaults
from qts_data.rules.booking import book, entries_between, valued
from qts_data.rules.id_scopes import require_scope, scopes_of

if TYPE_CHECKING:
    from qts_data.adapters.sheets.client import SheetsClient
    from qts_data.contracts import OHLCV, BookedFill, LedgerEntry, Position, TickData
    from qts_data.repositories import BarInterval

__all__ = ["GoogleSheetsAdapter"]


class GoogleSheetsAdapter(DataSourceAdapter):
    """A book in a spreadsheet: sheets Position, T_Ledger and History, as `qts_data.importers.tables` describes them.

    Every read asks the sheet. A fill and its position are written in one request, which can be repeated.

    - An older request that the server carries out late may overwrite a position with earlier values. The adapter sees
      this by the row numbers and adds the missing fills to the position it reads. The next fill writes the right
      position.
    - A fill with an unknown outcome is written again, into the same row, before the next fill.

    Args:
        client: Calls of the API; closed with the adapter.
        defaults: Values for columns that the sheets lack; the time zone is the spreadsheet's.
    """

    name = "sheets"

    def __init__(self, client: SheetsClient, defaults: Defaults | None = None) -> None:
        self._client = client
        self.workbook: Workbook = Workbook(client, defaults or Defaults())
        self.writer: BookWriter = BookWriter(self.workbook)

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
            InvalidRecord: A row cannot be read; the message names the sheet, the cell and the reason.
        """
        check_asked(account=account)
        found: list[Position] = await self.workbook.records("positions")
        held = [position for position in found if account in {None, position.account}]
        if any(position.last_ledger_id for position in held):
            async with self.writer.turn:
                await self.writer.refresh_ledger()
            now = dt.datetime.now(dt.UTC)
            held = [self._with_all_fills(position, now) for position in held]
        return Fetched(sorted(held, key=lambda item: (item.account, item.symbol)), source=self.name)

    def _with_all_fills(self, held: Position, at: dt.datetime) -> Position:
        """Return a position, with the ledger's fills that the sheet's position lacks."""
        # A position that this package never wrote has no version: the sheet's figures hold.
        version = held.last_ledger_id
        for row, line in self.writer.lines(held.account, held.symbol) if version else []:
            if row > version:
                held = book(held, line, row, at).position
        return held

    async def fetch_position(self, symbol: str, account: str = "main") -> Position | None:
        """See `DataSourceAdapter`."""
        check_asked(symbol=symbol)
        for position in await self.fetch_positions(account):
            if position.symbol == symbol:
                return position
        return None

    async def update_position(self, position: Position) -> Position:
        """See `DataSourceAdapter`."""
        async with self.writer.turn:
            at = dt.datetime.now(dt.UTC)
            await self._catch_up(at)
            held = self.writer.position(position.account, position.symbol)
            if held is None:
                raise NotFound(f"{position.account} has no position in {position.symbol}")
            now = valued(self._with_all_fills(held, at), position, at)
            if now != held:
                await self.writer.write([], [now])
            return now

    async def append_ledger(self, entry: LedgerEntry) -> BookedFill:
        """See `DataSourceAdapter`. The sheet does not store realized profit, so it is computed again for a duplicate.

        Raises:
            SourceRefused: The sheet lacks a column that identifies the fill, or the fills in a position.
        """
        identity = self.workbook.identity
        entry = identity.scoped(entry)
        async with self.writer.turn:
            now = dt.datetime.now(dt.UTC)
            await self._catch_up(now)
            self.writer.require_versions()
            lines = self.writer.lines(entry.account, entry.symbol)
            stored = self.writer.position(entry.account, entry.symbol)
            held = self._position_after(lines, now) if stored is None else self._with_all_fills(stored, now)
            known = self.writer.row_of(entry.key)
            if known is not None:
                identity.require_same_fill(dict(lines)[known], entry)
            else:
                others = [self.writer.row_of(key) for key in identity.other_keys(entry)]
                alike = [row for row, line in lines if row in others and identity.is_redelivery(line, entry)]
                known = alike[0] if alike else None
            if known is None:
                require_scope(entry, scopes_of(line for _, line in lines))
                result = book(held, entry, self.writer.next_row, now)
                await self.writer.write([Line(entry)], [result.position])
                return result
            first: BookedFill | None = None
            for row, line in lines:
                if row <= known:
                    first = book(first.position if first else None, line, row, now)
            assert first is not None  # noqa: S101 - the row is one of them
            if held is not None and held != stored:
                await self.writer.write([], [held])
            return dataclasses.replace(first, duplicate=True)

    async def _catch_up(self, at: dt.datetime) -> None:
        """Read the sheets and write the fills whose outcome is unknown."""
        await self.writer.refresh()
        lines = self.writer.in_doubt()
        positions: dict[tuple[str, str], Position] = {}
        for row, (entry, _) in lines:
            key = entry.account, entry.symbol
            held = positions.get(key) or self.writer.position(*key)
            if key not in positions:
                before = self.writer.lines(*key)
                held = self._position_after(before, at) if held is None else self._with_all_fills(held, at)
            positions[key] = book(held, entry, row, at).position
        if lines:
            await self.writer.write([line for _, line in lines], positions.values())

    @staticmethod
    def _position_after(lines: list[tuple[int, LedgerEntry]], at: dt.datetime) -> Position | None:
        """Return the position that these fills make, starting from none."""
        held: Position | None = None
        for row, line in lines:
            held = book(held, line, row, at).position
        return held

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
        """See `DataSourceAdapter`. The sheet History has daily bars only."""
        check_asked(symbol=symbol)
        start, end = utc("start", start), utc("end", end)
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
