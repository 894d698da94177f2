"""What an engine asks of a data source, whichever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable

    from qts_data.contracts import OHLCV, BookedFill, HealthStatus, LedgerEntry, Position, TickData
    from qts_data.repositories import BarInterval

__all__ = ["DataSourceAdapter", "Fetched"]

_T = TypeVar("_T")


class Fetched(list[_T], Generic[_T]):
    """What was read, and from where.

    Attributes:
        source: Name of the adapter that answered.
        fallback: Whether it stood in for another one, and may be behind it.
    """

    def __init__(self, items: Iterable[_T] = (), *, source: str, fallback: bool = False) -> None:
        super().__init__(items)
        self.source = source
        self.fallback = fallback


class DataSourceAdapter(ABC):
    """A data source.

    All of them follow the same rules, which one suite of tests holds: a fill is booked once for each (broker, account,
    execution id), the position moves with it by average cost, and nothing else changes a quantity.

    Attributes:
        name: For messages.
    """

    name: str

    @abstractmethod
    async def fetch_positions(self, account: str | None = None) -> Fetched[Position]:
        """Positions in order of account and symbol, closed ones too.

        Args:
            account: Only this account's.
        """

    @abstractmethod
    async def fetch_position(self, symbol: str, account: str = "main") -> Position | None:
        """The position of an account in a symbol; None if it never traded it."""

    @abstractmethod
    async def update_position(self, position: Position) -> Position:
        """Value a position: `mark_price`, `marked_at` and `exposure_pct` are taken, what follows from them is computed.

        A price older than the one it is valued at changes nothing.

        Returns:
            The position as it is stored now.

        Raises:
            NotFound: The account never traded the symbol.
            StaleWrite: Quantity, cost or realized profit are not the stored ones; only fills change these.
            InvalidRecord: There is no `mark_price` with its `marked_at`, or it cannot be stored.
        """

    @abstractmethod
    async def append_ledger(self, entry: LedgerEntry) -> BookedFill:
        """Book a fill, once; the same fill again changes nothing and says so.

        Raises:
            LedgerConflict: Something else is booked under this execution id.
            InvalidRecord: The fill does not go with its position.
            OutcomeUnknown: The connection was lost on the way; send the fill again.
            SourceUnavailable: The source does not answer; send the fill again.
        """

    @abstractmethod
    async def fetch_ledger(
        self,
        symbol: str | None = None,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
        limit: int = 1000,
    ) -> Fetched[LedgerEntry]:
        """Fills in the order of booking.

        Args:
            symbol: Only this instrument's.
            start: Only fills at this instant or later.
            end: Only fills before this instant.
            limit: At most so many, the first ones.

        Raises:
            InvalidRecord: `start` or `end` has no time zone.
        """

    @abstractmethod
    async def fetch_ohlcv(
        self, symbol: str, start: dt.datetime, end: dt.datetime, interval: BarInterval
    ) -> Fetched[OHLCV]:
        """Bars that begin in [start, end), in order of time; `1d` are the official bars of trading days.

        Raises:
            NotSupported: The source has no bars of this length.
            InvalidRecord: `start` or `end` has no time zone.
        """

    @abstractmethod
    async def fetch_tick_data(self, symbol: str, start: dt.datetime, end: dt.datetime) -> Fetched[TickData]:
        """Ticks in [start, end), in order of time.

        Raises:
            NotSupported: The source has no ticks.
            InvalidRecord: `start` or `end` has no time zone.
        """

    @abstractmethod
    async def health_check(self) -> HealthStatus:
        """Whether the source can be used; never raises."""

    async def close(self) -> None:
        """Let go of connections."""
        return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
