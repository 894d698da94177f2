"""Views on the ledger: profit by day, hour and strategy. The ledger is small, so no view is materialized.

A fee can be in another currency than the trade (a BNB fee on a USDT fill), and the views never add two currencies. So
each entry has two legs: the trade in its currency, and the fee in its own. Every view groups legs by currency:
`net_pnl` is realized P&L minus the fees *in that currency*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from qts_data.models.base import Base
from qts_data.models.ledger import LedgerEntry
from qts_data.timescale.ddl import comment_on_view, literal, qualified, render_select, verbatim

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DEFAULT_TRADING_ZONE", "VIEWS", "View", "trading_zone_statements"]

DEFAULT_TRADING_ZONE: Final = "Asia/Seoul"
"""Trading days are days in this zone. A UTC day would split the Korean pre-market and crypto's night."""
TRADING_ZONE_INFO_KEY: Final = "qts_trading_zone"


@dataclass(frozen=True, slots=True)
class View:
    """A view, its definition and its documentation.

    Attributes:
        name: Its name.
        select: The definition.
        comment: Comment of the view in the database.
        column_comments: Comment of each column.
        table: Table clause for queries.
    """

    name: str
    select: sa.Select[Any]
    comment: str
    column_comments: Mapping[str, str]
    table: sa.TableClause = field(init=False)

    def __post_init__(self) -> None:
        """Derive the queryable table from the definition."""
        columns = [sa.column(str(column.key), column.type) for column in self.select.selected_columns]
        object.__setattr__(self, "table", sa.table(self.name, *columns))

    def statements(self) -> Iterator[str]:
        """Yield the statements that create the view with its comments."""
        yield f"CREATE VIEW {qualified(self.name)} AS {render_select(self.select, has_time_bucket=False)}"
        yield from comment_on_view(self.name, comment=self.comment, columns=self.column_comments)


def trading_zone_statements(zone: str, *, replace: bool = False) -> Iterator[str]:
    """Yield the statements that create the function from which every view takes the zone.

    A change of the zone replaces only this function.
    """
    create = "CREATE OR REPLACE" if replace else "CREATE"
    yield (
        f"{create} FUNCTION qts_trading_zone() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE "
        f"RETURN CAST({literal(zone)} AS text)"
    )
    yield "COMMENT ON FUNCTION qts_trading_zone() IS 'Time zone whose days are the trading days'"


_entry = LedgerEntry.__table__.c
_zone = sa.func.qts_trading_zone(type_=sa.Text())
_zero = sa.literal(0, sa.Numeric)
_reversed = LedgerEntry.__table__.alias("reversed")
# A reversing entry subtracts the counts of the entry that it reverses.
_counts = sa.case((_entry.reverses_id.is_(None), sa.literal(1)), else_=sa.literal(-1))
_wins = sa.case(
    (sa.and_(_entry.reverses_id.is_(None), _entry.realized_pnl > 0), sa.literal(1)),
    (_reversed.c.realized_pnl > 0, sa.literal(-1)),
    else_=sa.literal(0),
)
_signed = sa.case((_entry.side == "SELL", _entry.amount), else_=-_entry.amount)


def _leg(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    names = ("currency", "realized_pnl", "fees", "net_cash_flow", "trade_count", "win_count", "notional")
    return sa.select(
        sa.cast(sa.func.timezone(_zone, _entry.timestamp), sa.Date).label("trading_day"),
        sa.func.date_trunc("hour", _entry.timestamp, _zone, type_=sa.TIMESTAMP(timezone=True)).label("hour"),
        _entry.account,
        _entry.symbol,
        _entry.strategy_tag,
        *(column.label(name) for column, name in zip(columns, names, strict=True)),
    )


_legs = sa.union_all(
    _leg(
        _entry.currency,
        _entry.realized_pnl,
        _zero,
        _signed,
        _counts,
        _wins,
        _entry.amount * _counts,
    ).select_from(LedgerEntry.__table__.outerjoin(_reversed, _reversed.c.id == _entry.reverses_id)),
    _leg(
        _entry.fee_currency,
        _zero,
        _entry.fee,
        -_entry.fee,
        sa.literal(0),
        sa.literal(0),
        _zero,
    ).where(_entry.fee != 0),
).subquery("leg")


def _count(column: sa.ColumnElement[Any], name: str) -> sa.Label[int]:
    return sa.cast(sa.func.sum(column), sa.BigInteger).label(name)


def _by(*keys: sa.ColumnElement[Any], performance: bool) -> sa.Select[Any]:
    select = sa.select(
        *keys,
        sa.func.sum(_legs.c.realized_pnl).label("realized_pnl"),
        sa.func.sum(_legs.c.fees).label("fees"),
        (sa.func.sum(_legs.c.realized_pnl) - sa.func.sum(_legs.c.fees)).label("net_pnl"),
        sa.func.sum(_legs.c.net_cash_flow).label("net_cash_flow"),
        _count(_legs.c.trade_count, "trade_count"),
    ).group_by(*keys)
    if performance:
        select = select.add_columns(
            _count(_legs.c.win_count, "win_count"), sa.func.sum(_legs.c.notional).label("notional")
        )
    return select


_KEYS: Final = {
    "trading_day": "Trading day in the zone of qts_trading_zone()",
    "hour": "Start of the hour",
    "account": "Account that traded",
    "symbol": "Instrument",
    "strategy_tag": "Strategy that sent the orders; NULL where unknown",
    "currency": "Currency of all amounts of the row; a fee in another currency is in a row of its own",
}
_FIGURES: Final = {
    "realized_pnl": "Profit realized by average cost, before fees",
    "fees": "Fees and taxes paid in this currency",
    "net_pnl": "realized_pnl - fees",
    "net_cash_flow": "Money in from sells minus money out for buys and fees; not a profit",
    "trade_count": "Fills; a reversed fill counts no more",
}
_PERFORMANCE: Final = _FIGURES | {
    "win_count": "Fills that realized a profit",
    "notional": "Sum of qty x price of the fills",
}


def _comments(keys: Sequence[str], figures: Mapping[str, str]) -> dict[str, str]:
    return {key: _KEYS[key] for key in keys} | dict(figures)


VIEWS: Final = (
    View(
        "daily_pnl",
        _by(_legs.c.trading_day, _legs.c.account, _legs.c.symbol, _legs.c.currency, performance=False),
        "Profit of each trading day, account, symbol and currency",
        _comments(("trading_day", "account", "symbol", "currency"), _FIGURES),
    ),
    View(
        "hourly_pnl",
        _by(_legs.c.hour, _legs.c.account, _legs.c.symbol, _legs.c.currency, performance=False),
        "Profit of each hour, account, symbol and currency",
        _comments(("hour", "account", "symbol", "currency"), _FIGURES),
    ),
    View(
        "strategy_performance",
        _by(_legs.c.trading_day, _legs.c.account, _legs.c.strategy_tag, _legs.c.currency, performance=True),
        "Profit and activity of each trading day, account, strategy and currency",
        _comments(("trading_day", "account", "strategy_tag", "currency"), _PERFORMANCE),
    ),
    View(
        "daily_metrics",
        _by(_legs.c.trading_day, _legs.c.account, _legs.c.currency, performance=True),
        "Profit and activity of each trading day, account and currency",
        _comments(("trading_day", "account", "currency"), _PERFORMANCE),
    ),
)


@event.listens_for(Base.metadata, "after_create")
def _create_views(target: sa.MetaData, connection: sa.Connection, tables: Sequence[sa.Table] = (), **_: object) -> None:
    if LedgerEntry.__table__ in tables:
        zone = target.info.get(TRADING_ZONE_INFO_KEY, DEFAULT_TRADING_ZONE)
        for statement in trading_zone_statements(zone):
            connection.execute(verbatim(statement))
        for view in VIEWS:
            for statement in view.statements():
                connection.execute(verbatim(statement))


@event.listens_for(Base.metadata, "before_drop")
def _drop_views(_target: sa.MetaData, connection: sa.Connection, tables: Sequence[sa.Table] = (), **_: object) -> None:
    if LedgerEntry.__table__ in tables:
        for view in VIEWS:
            connection.exec_driver_sql(f"DROP VIEW IF EXISTS {qualified(view.name)}")
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS qts_trading_zone()")
