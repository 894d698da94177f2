"""The database as an engine uses it: transactions with repositories."""

from __future__ import annotations

import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from qts_data.database.engine import parse_url
from qts_data.database.scopes import Scope, WriteScope
from qts_data.database.transactions import Transactions
from qts_data.repositories.book.configs import (
    RiskConfigReader,
    RiskConfigRepository,
    StrategyReader,
    StrategyRepository,
)
from qts_data.repositories.book.ledger import LedgerReader, LedgerRepository
from qts_data.repositories.book.pnl import PnlReader
from qts_data.repositories.book.positions import PositionReader, PositionRepository
from qts_data.repositories.execution.logs import ExecutionLogReader, ExecutionLogRepository
from qts_data.repositories.market.bars.daily import DailyBarReads, DailyBarRepository
from qts_data.repositories.market.bars.vendor import MinuteBarReads, MinuteBarRepository
from qts_data.repositories.market.ticks.reads import TickReads
from qts_data.repositories.market.ticks.repository import TickRepository
from qts_data.repositories.moving.outbox import Outbox
from qts_data.rules.fill_identity import FillIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import BookedFill
    from qts_data.database.engine import DatabaseConfig

__all__ = ["BookedListener", "ChangedListener", "Database", "Reader", "UnitOfWork"]

BookedListener: TypeAlias = "Callable[[BookedFill, float], None]"
"""Called after a COMMIT with each booking, and a `time.monotonic()` at which no newer booking had been committed."""
ChangedListener: TypeAlias = "Callable[[str, str], None]"
"""Called with account and symbol of a position that may have changed."""


_L = TypeVar("_L")


class Reader(Scope):
    """Queries in one transaction that can only read."""

    @cached_property
    def ticks(self) -> TickReads:
        """Ticks and bars."""
        return TickReads(self.connection)

    @cached_property
    def tick_history(self) -> TickReads:
        """Ticks that are kept for ever, with their bars."""
        return TickReads(self.connection, "tick_history")

    @cached_property
    def daily_bars(self) -> DailyBarReads:
        """Official daily bars."""
        return DailyBarReads(self.connection)

    @cached_property
    def minute_bars(self) -> MinuteBarReads:
        """Minute bars of vendors, and longer bars made from them."""
        return MinuteBarReads(self.connection)

    @cached_property
    def ledger(self) -> LedgerReader:
        """Booked entries."""
        return LedgerReader(self.connection)

    @cached_property
    def positions(self) -> PositionReader:
        """Positions."""
        return PositionReader(self.connection)

    @cached_property
    def pnl(self) -> PnlReader:
        """Profit and activity."""
        return PnlReader(self.connection)

    @cached_property
    def strategies(self) -> StrategyReader:
        """Parameters of strategies."""
        return StrategyReader(self.connection)

    @cached_property
    def risk_configs(self) -> RiskConfigReader:
        """Risk limits."""
        return RiskConfigReader(self.connection)

    @cached_property
    def executions(self) -> ExecutionLogReader:
        """Stages of orders."""
        return ExecutionLogReader(self.connection)


class UnitOfWork(WriteScope):
    """Repositories in one transaction: either all of their writes happen, or none.

    Args:
        connection: In the transaction.
        booked: Called with each booking, after the commit.
        changed: Called with positions that changed otherwise, or may have changed because a commit got no answer.
        identity: The rules that recognise a redelivered fill.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        booked: Sequence[BookedListener] = (),
        changed: Sequence[ChangedListener] = (),
        identity: FillIdentity | None = None,
    ) -> None:
        super().__init__(connection)
        self._identity = identity
        self._booked_listeners = booked
        self._changed_listeners = changed

    @cached_property
    def ledger(self) -> LedgerRepository:
        """The ledger: book, reverse and correct fills."""
        return LedgerRepository(self.connection, self._booked, self._identity)

    def _booked(self, booked: BookedFill) -> None:
        held_at = time.monotonic()
        for listener in self._booked_listeners:
            self.after_commit(partial(listener, booked, held_at))
        for changed in self._changed_listeners:
            self.in_doubt(partial(changed, booked.position.account, booked.position.symbol))

    def _changed(self, account: str, symbol: str) -> None:
        for listener in self._changed_listeners:
            self.after_commit(partial(listener, account, symbol))
            self.in_doubt(partial(listener, account, symbol))

    @cached_property
    def positions(self) -> PositionRepository:
        """Positions and their valuation."""
        return PositionRepository(self.connection, self._changed)

    @cached_property
    def pnl(self) -> PnlReader:
        """Profit and activity."""
        return PnlReader(self.connection)

    @cached_property
    def strategies(self) -> StrategyRepository:
        """Parameters of strategies."""
        return StrategyRepository(self.connection)

    @cached_property
    def risk_configs(self) -> RiskConfigRepository:
        """Risk limits."""
        return RiskConfigRepository(self.connection)

    @cached_property
    def executions(self) -> ExecutionLogRepository:
        """Stages of orders."""
        return ExecutionLogRepository(self.connection)

    @cached_property
    def ticks(self) -> TickRepository:
        """Ticks: append ticks, read ticks and bars."""
        return TickRepository(self.connection)

    @cached_property
    def tick_history(self) -> TickRepository:
        """Ticks that are kept for ever: append ticks, read ticks and bars."""
        return TickRepository(self.connection, "tick_history")

    @cached_property
    def daily_bars(self) -> DailyBarRepository:
        """Official daily bars."""
        return DailyBarRepository(self.connection)

    @cached_property
    def minute_bars(self) -> MinuteBarRepository:
        """Minute bars of vendors, and longer bars made from them."""
        return MinuteBarRepository(self.connection)

    def outbox(self, destination: str) -> Outbox:
        """Return the outbox of another data source: the messages that it must still receive."""
        return Outbox(self.connection, destination)


class Database(Transactions[UnitOfWork, Reader]):
    """A database with our schema.

    `async with database.transaction() as uow:` commits when the block ends, `database.reader()` only reads, and
    `database.run(work)` runs a function again after a conflict.

    Args:
        url: The database, such as `postgresql://user:password@host:5432/database`, or a URL made by `parse_url`.
        config: Pool, timeouts and TLS.
        identity: The rules that recognise a redelivered fill. The default is `Asia/Seoul` without scopes.

    Attributes:
        identity: The same rules.

    Raises:
        ConfigurationError: The URL cannot be read, or is not of PostgreSQL over psycopg.
    """

    def __init__(
        self, url: str | URL, config: DatabaseConfig | None = None, *, identity: FillIdentity | None = None
    ) -> None:
        self.identity: FillIdentity = identity or FillIdentity()
        self._booked: list[BookedListener] = []
        self._changed: list[ChangedListener] = []
        super().__init__(parse_url(url), config, writer=self._unit_of_work, reader=Reader)

    def on_booked(self, listener: BookedListener) -> Callable[[], None]:
        """Call a listener with each booking of this database's transactions and fill writers, after its COMMIT.

        Args:
            listener: Called in the same turn of the event loop in which the commit is confirmed, before the caller
                that booked continues.

        Returns:
            A function that removes the listener. A second call of it does nothing.
        """
        return _add(self._booked, listener)

    def on_changed(self, listener: ChangedListener) -> Callable[[], None]:
        """Call a listener with positions that changed without a booking, or by a booking of unknown outcome.

        These are valuations and restorations by transactions of this database, after their COMMIT. Also all positions
        of a COMMIT that got no answer.

        Returns:
            A function that removes the listener. A second call of it does nothing.
        """
        return _add(self._changed, listener)

    @property
    def booked_listeners(self) -> Sequence[BookedListener]:
        """The functions given to `on_booked`, for writers that commit by themselves."""
        return self._booked

    @property
    def changed_listeners(self) -> Sequence[ChangedListener]:
        """The functions given to `on_changed`, for writers that commit by themselves."""
        return self._changed

    def _unit_of_work(self, connection: AsyncConnection) -> UnitOfWork:
        return UnitOfWork(connection, self._booked, self._changed, self.identity)


def _add(listeners: list[_L], listener: _L) -> Callable[[], None]:
    listeners.append(listener)
    left = [listener]

    def remove() -> None:
        if left:
            left.clear()
            place = next(place for place, one in enumerate(listeners) if one is listener)
            del listeners[place]

    return remove
