"""The interface between an engine and its data source."""

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
    """A list of records with the name of its source.

    Attributes:
        source: Name of the adapter that answered.
        fallback: Whether the adapter answered in place of another one, and may be behind it.
    """

    def __init__(self, items: Iterable[_T] = (), *, source: str, fallback: bool = False) -> None:
        super().__init__(items)
        self.source = source
        self.fallback = fallback


class DataSourceAdapter(ABC):
    """A data source.

    One suite of tests holds all adapters to the same rules. A fill is booked once for each (broker, account, execution
    id). The position moves with the fill by average cost. Nothing else changes a quantity.

    Attributes:
        name: Name of the adapter in messages.
    """

    name: str

    @abstractmethod
    async def fetch_positions(self, account: str | None = None) -> Fetched[Position]:
        """Return positions ordered by account and symbol, closed ones included.

        Args:
            account: Only this account; None for all accounts.
        """

    @abstractmethod
    async def fetch_position(self, symbol: str, account: str = "main") -> Position | None:
        """Return the position of an account in a symbol. None if the account never traded the symbol."""

    @abstractmethod
    async def update_position(self, position: Position) -> Position:
        """Value a position by `mark_price`, `marked_at` and `exposure_pct`. The other figures are computed from these.

        A price older than the stored valuation changes nothing.

        Returns:
            The position as it is stored now.

        Raises:
            NotFound: The account never traded the symbol.
            StaleWrite: Quantity, cost or realized profit differ from the stored ones; only fills change these.
            InvalidRecord: `mark_price` or its `marked_at` is missing, or a figure cannot be stored.
        """

    @abstractmethod
    async def append_ledger(self, entry: LedgerEntry) -> BookedFill:
        """Book a fill once. A redelivery writes nothing, and the result has `duplicate` set.

        Raises:
            LedgerConflict: A different fill is booked under this execution id.
            InvalidRecord: The fill does not fit its position.
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
        """Return fills in the order of booking.

        Args:
            symbol: Only this instrument; None for all.
            start: Only fills at this instant or later.
            end: Only fills before this instant.
            limit: Largest number of fills; the first ones are returned.

        Raises:
            InvalidRecord: `start` or `end` has no time zone.
        """

    @abstractmethod
    async def fetch_ohlcv(
        self, symbol: str, start: dt.datetime, end: dt.datetime, interval: BarInterval
    ) -> Fetched[OHLCV]:
        """Return the bars that begin in [start, end), in order of time. `1d` are the official bars of trading days.

        Raises:
            NotSupported: The source has no bars of this length.
            InvalidRecord: `start` or `end` has no time zone.
        """

    @abstractmethod
    async def fetch_tick_data(self, symbol: str, start: dt.datetime, end: dt.datetime) -> Fetched[TickData]:
        """Return the ticks in [start, end), in order of time.

        Raises:
            NotSupported: The source has no ticks.
            InvalidRecord: `start` or `end` has no time zone.
        """

    @abstractmethod
    async def health_check(self) -> HealthStatus:
        """Return whether the source can be used. Never raises."""

    async def close(self) -> None:
        """Close connections."""
        return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
