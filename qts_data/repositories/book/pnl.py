"""Profit and activity by trading day, hour and strategy: typed queries to the views on the ledger."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa

from qts_data.contracts import DailyMetrics, DailyPnl, HourlyPnl, StrategyPerformance
from qts_data.contracts.identity import check_asked
from qts_data.contracts.instants import utc
from qts_data.database.errors import translated_errors
from qts_data.errors import InvalidRecord
from qts_data.models import VIEWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["PnlReader"]

_VIEWS: Final = {view.name: view.table for view in VIEWS}
_Record = TypeVar("_Record")


class PnlReader:
    """Queries in the transaction of one connection.

    Days are days in the database's trading time zone (`qts-data db trading-zone`). No sum mixes currencies: each
    currency has a record of its own.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def pnl(
        self,
        day: dt.date,
        *,
        until: dt.date | None = None,
        account: str | None = None,
        symbol: str | None = None,
        currency: str | None = None,
    ) -> list[DailyPnl]:
        """Return the profit of a trading day, or of the days from `day` to `until`, both included.

        Returns:
            One record for each day, account, symbol and currency, in this order.

        Raises:
            InvalidRecord: `until` is before `day`, or one of them is not a date. The day of an instant depends on a
                zone, so a datetime is refused.
        """
        return await self._days("daily_pnl", DailyPnl, day, until, account=account, symbol=symbol, currency=currency)

    async def hourly_pnl(
        self,
        start: dt.datetime,
        end: dt.datetime,
        *,
        account: str | None = None,
        symbol: str | None = None,
        currency: str | None = None,
    ) -> list[HourlyPnl]:
        """Return the profit of the hours that begin in [start, end).

        Raises:
            InvalidRecord: `start` or `end` has no time zone.
        """
        start, end = utc("start", start), utc("end", end)
        hour = _VIEWS["hourly_pnl"].c.hour
        return await self._ask(
            "hourly_pnl", HourlyPnl, hour >= start, hour < end, account=account, symbol=symbol, currency=currency
        )

    async def strategy_performance(
        self,
        day: dt.date,
        *,
        until: dt.date | None = None,
        account: str | None = None,
        strategy_tag: str | None = None,
        currency: str | None = None,
    ) -> list[StrategyPerformance]:
        """Return profit and activity of each strategy on a trading day, or on the days from `day` to `until`."""
        return await self._days(
            "strategy_performance",
            StrategyPerformance,
            day,
            until,
            account=account,
            strategy_tag=strategy_tag,
            currency=currency,
        )

    async def daily_metrics(
        self,
        day: dt.date,
        *,
        until: dt.date | None = None,
        account: str | None = None,
        currency: str | None = None,
    ) -> list[DailyMetrics]:
        """Return profit and activity of each account on a trading day, or on the days from `day` to `until`."""
        return await self._days("daily_metrics", DailyMetrics, day, until, account=account, currency=currency)

    async def _days(
        self, view: str, record: Callable[..., _Record], day: dt.date, until: dt.date | None, **equal: str | None
    ) -> list[_Record]:
        for field, value in (("day", day), ("until", until or day)):
            # In Python a datetime is a date, but it is not a trading day of the database.
            if isinstance(value, dt.datetime) or not isinstance(value, dt.date):
                raise InvalidRecord(field=field, reason=f"must be a date, is {type(value).__name__}")
        if until is not None and until < day:
            raise InvalidRecord(field="until", reason=f"{until} is before {day}")
        column = _VIEWS[view].c.trading_day
        return await self._ask(view, record, column.between(day, until or day), **equal)

    async def _ask(
        self, view: str, record: Callable[..., _Record], *where: sa.ColumnElement[Any], **equal: str | None
    ) -> list[_Record]:
        check_asked(**equal)
        table = _VIEWS[view]
        keys = [column for column in table.c if column.key in _KEYS]
        statement = sa.select(table).where(*where).order_by(*keys)
        for name, value in equal.items():
            if value is not None:
                statement = statement.where(table.c[name] == value)
        with translated_errors():
            rows = (await self._connection.execute(statement)).mappings()
            return [record(**row) for row in rows]


_KEYS: Final = {"trading_day", "hour", "account", "symbol", "strategy_tag", "currency"}
