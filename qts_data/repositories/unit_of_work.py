"""The database as an engine sees it: transactions that hand out repositories."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from qts_data.database.transactions import Scope, Transactions, WriteScope
from qts_data.repositories.configs import (
    RiskConfigReader,
    RiskConfigRepository,
    StrategyReader,
    StrategyRepository,
)
from qts_data.repositories.executions import ExecutionLogReader, ExecutionLogRepository
from qts_data.repositories.fill_writer import FillWriter
from qts_data.repositories.ledger import LedgerReader, LedgerRepository
from qts_data.repositories.pnl import PnlReader
from qts_data.repositories.positions import PositionReader, PositionRepository
from qts_data.repositories.ticks import TickRepository

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from qts_data.database.engine import DatabaseConfig

__all__ = ["Database", "Reader", "UnitOfWork"]


class Reader(Scope):
    """Questions in one transaction that can only read."""

    @cached_property
    def ledger(self) -> LedgerReader:
        """What was booked."""
        return LedgerReader(self.connection)

    @cached_property
    def positions(self) -> PositionReader:
        """What is held."""
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
    """Repositories in one transaction: all of their writes happen, or none."""

    @cached_property
    def ledger(self) -> LedgerRepository:
        """Fills in."""
        return LedgerRepository(self.connection)

    @cached_property
    def positions(self) -> PositionRepository:
        """What is held, and what it is worth."""
        return PositionRepository(self.connection)

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
        """Ticks in, bars out."""
        return TickRepository(self.connection)


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

    def fill_writer(self, *, max_group: int = 500, max_waiting: int = 10_000) -> FillWriter:
        """Books fills of many tasks together; use it as an async context manager.

        Args:
            max_group: Most fills in one transaction.
            max_waiting: Most fills that may wait for their turn.
        """
        return FillWriter(self.engine, max_group=max_group, max_waiting=max_waiting)
