"""The database as an engine sees it: transactions that hand out repositories."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from qts_data.database.transactions import Scope, Transactions, WriteScope
from qts_data.repositories.daily_bars import DailyBarReads, DailyBarRepository
from qts_data.repositories.ticks import TickReads, TickRepository

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from qts_data.database.engine import DatabaseConfig

__all__ = ["Database", "Reader", "UnitOfWork"]


class Reader(Scope):
    """Questions in one transaction that can only read."""

    @cached_property
    def ticks(self) -> TickReads:
        """Ticks and bars."""
        return TickReads(self.connection)

    @cached_property
    def tick_history(self) -> TickReads:
        """Ticks that are kept for ever, and their bars."""
        return TickReads(self.connection, "tick_history")

    @cached_property
    def daily_bars(self) -> DailyBarReads:
        """Official daily bars."""
        return DailyBarReads(self.connection)


class UnitOfWork(WriteScope):
    """Repositories in one transaction: all of their writes happen, or none."""

    @cached_property
    def ticks(self) -> TickRepository:
        """Ticks in, bars out."""
        return TickRepository(self.connection)

    @cached_property
    def tick_history(self) -> TickRepository:
        """The same for ticks that are kept for ever."""
        return TickRepository(self.connection, "tick_history")

    @cached_property
    def daily_bars(self) -> DailyBarRepository:
        """Official daily bars."""
        return DailyBarRepository(self.connection)


class Database(Transactions[UnitOfWork, Reader]):
    """A database of ours.

    `async with database.transaction() as uow:` commits when the block ends, `database.reader()` only reads, and
    `database.run(work)` runs a function again after a conflict.

    Args:
        url: The database, as `qts_data.database.engine.parse_url` reads it.
        config: Pool, timeouts and TLS.
    """

    def __init__(self, url: URL, config: DatabaseConfig | None = None) -> None:
        super().__init__(url, config, writer=UnitOfWork, reader=Reader)
