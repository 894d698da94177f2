"""A data source in memory, for tests and local work."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

from qts_data.adapters.port import DataSourceAdapter, Fetched
from qts_data.contracts import HealthStatus
from qts_data.contracts.identity import check_asked
from qts_data.contracts.instants import utc
from qts_data.errors import NotFound
from qts_data.rules.booking import book, entries_between, valued
from qts_data.rules.fill_identity import FillIdentity
from qts_data.rules.id_scopes import require_scope, scopes_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qts_data.contracts import OHLCV, BookedFill, LedgerEntry, Position, TickData
    from qts_data.repositories import BarInterval

__all__ = ["InMemoryAdapter"]


class InMemoryAdapter(DataSourceAdapter):
    """Keeps everything in dictionaries until the object is gone. Use it in one event loop.

    Args:
        identity: Rules that recognise a redelivered fill.
    """

    name = "memory"

    def __init__(self, identity: FillIdentity | None = None) -> None:
        self._identity = identity or FillIdentity()
        self._ledger: list[LedgerEntry] = []
        self._scopes: dict[str, str] = {}
        self._booked: dict[tuple[str, str, str], BookedFill] = {}
        self._positions: dict[tuple[str, str], Position] = {}
        self._ticks: list[TickData] = []
        self._bars: dict[BarInterval, dict[tuple[str, dt.datetime], OHLCV]] = {}

    def add_ticks(self, ticks: Iterable[TickData]) -> None:
        """Add ticks."""
        self._ticks = sorted([*self._ticks, *ticks], key=lambda tick: tick.time)

    def add_bars(self, interval: BarInterval, bars: Iterable[OHLCV]) -> None:
        """Add bars. A new bar replaces the bar of the same symbol and time."""
        self._bars.setdefault(interval, {}).update({(bar.symbol, bar.time): bar for bar in bars})

    async def fetch_positions(self, account: str | None = None) -> Fetched[Position]:
        """See `DataSourceAdapter`."""
        check_asked(account=account)
        held = [self._positions[key] for key in sorted(self._positions) if account in {None, key[0]}]
        return Fetched(held, source=self.name)

    async def fetch_position(self, symbol: str, account: str = "main") -> Position | None:
        """See `DataSourceAdapter`."""
        check_asked(symbol=symbol, account=account)
        return self._positions.get((account, symbol))

    async def update_position(self, position: Position) -> Position:
        """See `DataSourceAdapter`."""
        key = position.account, position.symbol
        if key not in self._positions:
            raise NotFound(f"{position.account} has no position in {position.symbol}")
        self._positions[key] = valued(self._positions[key], position, dt.datetime.now(dt.UTC))
        return self._positions[key]

    async def append_ledger(self, entry: LedgerEntry) -> BookedFill:
        """See `DataSourceAdapter`."""
        entry = self._identity.scoped(entry)
        known = self._booked.get(entry.key)
        if known is not None:
            self._identity.require_same_fill(self._ledger[known.ledger_id - 1], entry)
            return replace(known, duplicate=True)
        for other in self._identity.other_keys(entry):
            known = self._booked.get(other)
            if known is not None and self._identity.is_redelivery(self._ledger[known.ledger_id - 1], entry):
                return replace(known, duplicate=True)
        require_scope(entry, self._scopes)
        key = entry.account, entry.symbol
        result = book(self._positions.get(key), entry, len(self._ledger) + 1, dt.datetime.now(dt.UTC))
        self._ledger.append(entry)
        self._scopes |= scopes_of([entry])
        self._booked[entry.key] = result
        self._positions[key] = result.position
        return result

    async def fetch_ledger(
        self,
        symbol: str | None = None,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
        limit: int = 1000,
    ) -> Fetched[LedgerEntry]:
        """See `DataSourceAdapter`."""
        return Fetched(entries_between(self._ledger, symbol, start, end)[:limit], source=self.name)

    async def fetch_ohlcv(
        self, symbol: str, start: dt.datetime, end: dt.datetime, interval: BarInterval
    ) -> Fetched[OHLCV]:
        """See `DataSourceAdapter`."""
        check_asked(symbol=symbol)
        start, end = utc("start", start), utc("end", end)
        bars = self._bars.get(interval, {})
        found = [bars[key] for key in sorted(bars, key=lambda key: key[1]) if key[0] == symbol]
        return Fetched((bar for bar in found if start <= bar.time < end), source=self.name)

    async def fetch_tick_data(self, symbol: str, start: dt.datetime, end: dt.datetime) -> Fetched[TickData]:
        """See `DataSourceAdapter`."""
        check_asked(symbol=symbol)
        start, end = utc("start", start), utc("end", end)
        found = (tick for tick in self._ticks if tick.symbol == symbol and start <= tick.time < end)
        return Fetched(found, source=self.name)

    async def health_check(self) -> HealthStatus:
        """See `DataSourceAdapter`."""
        return HealthStatus(
            component=self.name,
            healthy=True,
            detail=f"{len(self._ledger)} fills, {len(self._positions)} positions",
            latency_seconds=0.0,
            checked_at=dt.datetime.now(dt.UTC),
        )
