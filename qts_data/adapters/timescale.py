"""The database as a data source."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qts_data.adapters.port import DataSourceAdapter, Fetched
from qts_data.rules.booking import check_valuation
from qts_data.writers import FillWriter

if TYPE_CHECKING:
    import datetime as dt

    from qts_data.contracts import OHLCV, BookedFill, HealthStatus, LedgerEntry, Position, TickData
    from qts_data.repositories import BarInterval, Database, UnitOfWork

__all__ = ["TimescaleDBAdapter"]

_PAGE: Final = 5_000


class TimescaleDBAdapter(DataSourceAdapter):
    """Reads and writes through the repositories.

    Fills go through a `FillWriter`, which the first fill opens. Fills that come at the same time share a transaction; a
    lone fill takes a single round trip.

    Args:
        database: The database; it stays open when the adapter closes.
    """

    name = "database"

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer: FillWriter | None = None

    @property
    def database(self) -> Database:
        """The database."""
        return self._database

    async def close(self) -> None:
        """Book the waiting fills."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    async def fetch_positions(self, account: str | None = None) -> Fetched[Position]:
        """See `DataSourceAdapter`."""
        found: Fetched[Position] = Fetched(source=self.name)
        async with self._database.reader() as reader:
            async for position in reader.positions.stream(account=account):
                found.append(position)
        return found

    async def fetch_position(self, symbol: str, account: str = "main") -> Position | None:
        """See `DataSourceAdapter`."""
        async with self._database.reader() as reader:
            return await reader.positions.find_position(symbol, account)

    async def update_position(self, position: Position) -> Position:
        """See `DataSourceAdapter`."""

        async def work(uow: UnitOfWork) -> Position:
            return await self.update_position_in(uow, position)

        return await self._database.run(work)

    @staticmethod
    async def update_position_in(uow: UnitOfWork, position: Position) -> Position:
        """Value a position as `update_position` does, in the caller's transaction."""
        held = await uow.positions.get_position(position.symbol, position.account)
        check_valuation(held, position)
        assert position.mark_price is not None  # noqa: S101 - checked
        assert position.marked_at is not None  # noqa: S101 - checked
        marked = await uow.positions.mark(
            position.symbol, position.mark_price, position.marked_at, account=position.account
        )
        if not marked:
            return held
        if position.exposure_pct is None:
            return marked[0]
        await uow.positions.set_exposure_pct(position.symbol, position.account, position.exposure_pct)
        return replace(marked[0], exposure_pct=position.exposure_pct)

    async def append_ledger(self, entry: LedgerEntry) -> BookedFill:
        """See `DataSourceAdapter`."""
        if self._writer is None:
            self._writer = await FillWriter(self._database).__aenter__()
        return await self._writer.record_fill(entry)

    async def fetch_ledger(
        self,
        symbol: str | None = None,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
        limit: int = 1000,
    ) -> Fetched[LedgerEntry]:
        """See `DataSourceAdapter`."""
        found: Fetched[LedgerEntry] = Fetched(source=self.name)
        async with self._database.reader() as reader:
            last = 0
            while len(found) < limit:
                page = await reader.ledger.list_entries(
                    symbol=symbol, start=start, end=end, after_id=last, limit=min(_PAGE, limit - len(found))
                )
                if not page:
                    break
                found += [booked.entry for booked in page]
                last = page[-1].id
        return found

    async def fetch_ohlcv(
        self, symbol: str, start: dt.datetime, end: dt.datetime, interval: BarInterval
    ) -> Fetched[OHLCV]:
        """See `DataSourceAdapter`."""
        async with self._database.reader() as reader:
            if interval == "1d":
                bars = await reader.daily_bars.list_bars(symbol, start, end)
            else:
                bars = await reader.ticks.bars(symbol, start, end, interval)
        return Fetched(bars, source=self.name)

    async def fetch_tick_data(self, symbol: str, start: dt.datetime, end: dt.datetime) -> Fetched[TickData]:
        """See `DataSourceAdapter`."""
        async with self._database.reader() as reader:
            return Fetched(await reader.ticks.ticks(symbol, start, end), source=self.name)

    async def health_check(self) -> HealthStatus:
        """See `DataSourceAdapter`."""
        return await self._database.health()
