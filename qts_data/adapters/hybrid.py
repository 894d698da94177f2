"""Two data sources at once: the database decides, an outbox carries its writes to the other source."""

from __future__ import annotations

import datetime as dt
import logging
import math
import time
from typing import TYPE_CHECKING, Final, TypeVar

from qts_data.adapters.feed import Feed
from qts_data.adapters.port import DataSourceAdapter, Fetched
from qts_data.contracts import HealthStatus
from qts_data.errors import ConfigurationError, DatabaseUnavailable, QtsDataError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qts_data.adapters.timescale import TimescaleDBAdapter
    from qts_data.contracts import OHLCV, BookedFill, LedgerEntry, Position, TickData
    from qts_data.repositories import BarInterval, UnitOfWork

__all__ = ["HybridAdapter"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_TRUSTED_SECONDS: Final = 5.0
"""How long the adapter relies on its last check that the outbox is enabled."""


class HybridAdapter(DataSourceAdapter):
    """Writes to the database and, through its outbox, to a second source.

    The database puts each write into its outbox in the same transaction, and a worker delivers it. A slow or
    unreachable second source therefore delays no trade.

    Reads come from the database. If it does not answer, bars and the ledger are read from the second source, and
    `Fetched.fallback` is set. Positions are read from there only where the caller asks for it: an order must
    not depend on a copy that may be behind.

    Args:
        primary: The database. `close` closes the adapter's writer of fills, not the `Database` itself.
        secondary: The other source; `close` closes it, too.
        destination: Name of the other source in the outbox.
    """

    name = "hybrid"

    def __init__(
        self, primary: TimescaleDBAdapter, secondary: DataSourceAdapter, *, destination: str = "sheets"
    ) -> None:
        self.primary = primary
        self.secondary = secondary
        self.outbox: Feed = Feed(primary.database, destination)
        self._fed_at = -math.inf

    async def close(self) -> None:
        """Book the waiting fills and close both adapters. The owner of the `Database` closes that one."""
        try:
            await self.primary.close()
        finally:
            await self.secondary.close()

    async def fetch_positions(self, account: str | None = None, *, allow_fallback: bool = False) -> Fetched[Position]:
        """See `DataSourceAdapter`.

        Args:
            account: Only this account; None for all accounts.
            allow_fallback: Read the second source if the database does not answer.
        """

        async def here() -> Fetched[Position]:
            return await self.primary.fetch_positions(account)

        async def there() -> Fetched[Position]:
            return await self.secondary.fetch_positions(account)

        return await self._read(here, there if allow_fallback else None)

    async def fetch_position(self, symbol: str, account: str = "main") -> Position | None:
        """See `DataSourceAdapter`. Reads the database only."""
        return await self.primary.fetch_position(symbol, account)

    async def update_position(self, position: Position) -> Position:
        """See `DataSourceAdapter`."""
        await self._require_fed()

        async def work(uow: UnitOfWork) -> Position:
            stored = await self.primary.update_position_in(uow, position)
            await uow.outbox(self.outbox.destination).add_position(position.account, position.symbol)
            return stored

        return await self.primary.database.run(work)

    async def append_ledger(self, entry: LedgerEntry) -> BookedFill:
        """See `DataSourceAdapter`. A trigger of the ledger puts the fill into the outbox."""
        await self._require_fed()
        return await self.primary.append_ledger(entry)

    async def fetch_ledger(
        self,
        symbol: str | None = None,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
        limit: int = 1000,
    ) -> Fetched[LedgerEntry]:
        """See `DataSourceAdapter`."""

        async def here() -> Fetched[LedgerEntry]:
            return await self.primary.fetch_ledger(symbol, start, end, limit)

        async def there() -> Fetched[LedgerEntry]:
            return await self.secondary.fetch_ledger(symbol, start, end, limit)

        return await self._read(here, there)

    async def fetch_ohlcv(
        self, symbol: str, start: dt.datetime, end: dt.datetime, interval: BarInterval
    ) -> Fetched[OHLCV]:
        """See `DataSourceAdapter`."""

        async def here() -> Fetched[OHLCV]:
            return await self.primary.fetch_ohlcv(symbol, start, end, interval)

        async def there() -> Fetched[OHLCV]:
            return await self.secondary.fetch_ohlcv(symbol, start, end, interval)

        return await self._read(here, there)

    async def fetch_tick_data(self, symbol: str, start: dt.datetime, end: dt.datetime) -> Fetched[TickData]:
        """See `DataSourceAdapter`. Reads the database only."""
        return await self.primary.fetch_tick_data(symbol, start, end)

    async def health_check(self) -> HealthStatus:
        """Return the health of the database. The detail names the second source and the outbox as well."""
        own = await self.primary.health_check()
        other = await self.secondary.health_check()
        try:
            status = await self.outbox.status()
            lag = 0.0 if status.lag is None else status.lag.total_seconds()
            waiting = f"outbox: {status.pending} pending, {status.dead} dead, lag {lag:.1f} s"
        except QtsDataError as error:
            waiting = f"outbox: {error}"
        return HealthStatus(
            component=self.name,
            healthy=own.healthy,
            detail=f"{own.detail}; {other.component}: {other.detail}; {waiting}",
            latency_seconds=own.latency_seconds,
            checked_at=dt.datetime.now(dt.UTC),
        )

    async def _require_fed(self) -> None:
        """Refuse to book while the outbox does not carry new fills to the second source."""
        now = time.monotonic()
        if now - self._fed_at < _TRUSTED_SECONDS:
            return
        if not await self.outbox.is_enabled():
            raise ConfigurationError(
                f"the outbox does not feed {self.outbox.destination}: run qts-data migrate shadow, or set "
                "QTS_DATA_SOURCE_MODE=DB_ONLY"
            )
        self._fed_at = now

    @staticmethod
    async def _read(
        here: Callable[[], Awaitable[Fetched[_T]]], there: Callable[[], Awaitable[Fetched[_T]]] | None
    ) -> Fetched[_T]:
        try:
            return await here()
        except DatabaseUnavailable as error:
            if there is None:
                raise
            found = await there()
            _log.warning("the database does not answer (%s): read from %s instead", error, found.source)
            return Fetched(found, source=found.source, fallback=True)
