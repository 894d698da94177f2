"""Views on the ledger: profit by day, hour and strategy.

Revision ID: 0006
Revises: 0005
Create Date: 2026-11-21

Trading days are days in the zone of qts_trading_zone(); to change the zone, replace that function. Each entry has
two legs, the trade in its currency and the fee in its own, so that different currencies are never added up.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


KEYS = {
    "trading_day": "Trading day in the zone of qts_trading_zone()",
    "hour": "Start of the hour",
    "account": "Account that traded",
    "symbol": "Instrument",
    "strategy_tag": "Strategy that sent the orders; NULL where unknown",
    "currency": "Currency of all amounts of the row; a fee in another currency is in a row of its own",
}
FIGURES = {
    "realized_pnl": "Profit realized by average cost, before fees",
    "fees": "Fees and taxes paid in this currency",
    "net_pnl": "realized_pnl - fees",
    "net_cash_flow": "Money in from sells minus money out for buys and fees; not a profit",
    "trade_count": "Fills; a reversed fill counts no more",
}
PERFORMANCE = {
    **FIGURES,
    "win_count": "Fills that realized a profit",
    "notional": "Sum of qty x price of the fills",
}

LEGS = """(
    SELECT CAST(timezone(qts_trading_zone(), t_ledger.timestamp) AS DATE) AS trading_day,
           date_trunc('hour', t_ledger.timestamp, qts_trading_zone()) AS hour,
           t_ledger.account, t_ledger.symbol, t_ledger.strategy_tag,
           t_ledger.currency AS currency,
           t_ledger.realized_pnl AS realized_pnl,
           0 AS fees,
           CASE WHEN t_ledger.side = 'SELL' THEN t_ledger.amount ELSE -t_ledger.amount END AS net_cash_flow,
           CASE WHEN t_ledger.reverses_id IS NULL THEN 1 ELSE -1 END AS trade_count,
           CASE WHEN t_ledger.reverses_id IS NULL AND t_ledger.realized_pnl > 0 THEN 1
                WHEN reversed.realized_pnl > 0 THEN -1
                ELSE 0 END AS win_count,
           t_ledger.amount * CASE WHEN t_ledger.reverses_id IS NULL THEN 1 ELSE -1 END AS notional
      FROM t_ledger LEFT OUTER JOIN t_ledger AS reversed ON reversed.id = t_ledger.reverses_id
    UNION ALL
    SELECT CAST(timezone(qts_trading_zone(), t_ledger.timestamp) AS DATE) AS trading_day,
           date_trunc('hour', t_ledger.timestamp, qts_trading_zone()) AS hour,
           t_ledger.account, t_ledger.symbol, t_ledger.strategy_tag,
           t_ledger.fee_currency AS currency,
           0 AS realized_pnl,
           t_ledger.fee AS fees,
           -t_ledger.fee AS net_cash_flow,
           0 AS trade_count,
           0 AS win_count,
           0 AS notional
      FROM t_ledger
     WHERE t_ledger.fee != 0
) AS leg"""

SUMS = """
       sum(leg.realized_pnl) AS realized_pnl,
       sum(leg.fees) AS fees,
       sum(leg.realized_pnl) - sum(leg.fees) AS net_pnl,
       sum(leg.net_cash_flow) AS net_cash_flow,
       CAST(sum(leg.trade_count) AS BIGINT) AS trade_count"""
PERFORMANCE_SUMS = """,
       CAST(sum(leg.win_count) AS BIGINT) AS win_count,
       sum(leg.notional) AS notional"""


def create(name: str, keys: list[str], comment: str, *, performance: bool) -> None:
    """Create one view with the comments of its columns."""
    columns = ", ".join(f"leg.{key}" for key in keys)
    sums = SUMS + (PERFORMANCE_SUMS if performance else "")
    op.execute(f"CREATE VIEW {name} AS SELECT {columns}, {sums} FROM {LEGS} GROUP BY {columns}")
    op.execute(f"COMMENT ON VIEW {name} IS '{comment}'")
    figures = PERFORMANCE if performance else FIGURES
    for column, text in [*((key, KEYS[key]) for key in keys), *figures.items()]:
        op.execute(f"COMMENT ON COLUMN {name}.{column} IS '{text}'")


def upgrade() -> None:
    zone = op.get_context().opts["trading_time_zone"].replace("'", "''")
    op.execute(
        "CREATE FUNCTION qts_trading_zone() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE "
        f"RETURN CAST('{zone}' AS text)"
    )
    op.execute("COMMENT ON FUNCTION qts_trading_zone() IS 'Time zone whose days are the trading days'")
    create(
        "daily_pnl",
        ["trading_day", "account", "symbol", "currency"],
        "Profit of each trading day, account, symbol and currency",
        performance=False,
    )
    create(
        "hourly_pnl",
        ["hour", "account", "symbol", "currency"],
        "Profit of each hour, account, symbol and currency",
        performance=False,
    )
    create(
        "strategy_performance",
        ["trading_day", "account", "strategy_tag", "currency"],
        "Profit and activity of each trading day, account, strategy and currency",
        performance=True,
    )
    create(
        "daily_metrics",
        ["trading_day", "account", "currency"],
        "Profit and activity of each trading day, account and currency",
        performance=True,
    )


def downgrade() -> None:
    for name in ("daily_metrics", "strategy_performance", "hourly_pnl", "daily_pnl"):
        op.execute(f"DROP VIEW {name}")
    op.execute("DROP FUNCTION qts_trading_zone()")
