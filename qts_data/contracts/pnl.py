"""Sums of profit and activity. Every amount of a record is in its one currency."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal

from qts_data.contracts.instants import utc_fields

__all__ = ["DailyMetrics", "DailyPnl", "HourlyPnl", "StrategyPerformance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pnl:
    """Figures common to all sums.

    Attributes:
        account: Account that traded.
        currency: Currency of every amount. A fee in another currency has a record of its own.
        realized_pnl: Profit realized by average cost, before fees.
        fees: Fees and taxes paid.
        net_pnl: realized_pnl - fees.
        net_cash_flow: Money in from sells minus money out for buys and fees; not a profit.
        trade_count: Number of fills; a reversed fill does not count.
    """

    account: str
    currency: str
    realized_pnl: Decimal
    fees: Decimal
    net_pnl: Decimal
    net_cash_flow: Decimal
    trade_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyPnl(_Pnl):
    """A trading day of an account in a symbol.

    Attributes:
        trading_day: Day in the database's trading time zone.
        symbol: Instrument.
    """

    trading_day: dt.date
    symbol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HourlyPnl(_Pnl):
    """An hour of an account in a symbol.

    Attributes:
        hour: Its first instant, by the clock of the database's trading time zone.
        symbol: Instrument.
    """

    hour: dt.datetime
    symbol: str

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "hour")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Performance(_Pnl):
    """Figures of activity.

    Attributes:
        win_count: Entries whose booking realized a profit, corrections included, minus those that were reversed.
            The effect of a bust or correction on later fills is in `realized_pnl` only.
        notional: Sum of qty x price of the fills.
    """

    win_count: int
    notional: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyPerformance(_Performance):
    """A trading day of a strategy in an account.

    Attributes:
        trading_day: Day in the database's trading time zone.
        strategy_tag: The strategy; None for fills without one.
    """

    trading_day: dt.date
    strategy_tag: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyMetrics(_Performance):
    """A trading day of an account.

    Attributes:
        trading_day: Day in the database's trading time zone.
    """

    trading_day: dt.date
