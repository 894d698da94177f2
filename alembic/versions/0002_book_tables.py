"""The book: positions, the append-only ledger, strategies and risk limits.

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-21
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "positions",
        sa.Column(
            "account",
            sa.Text(),
            server_default="main",
            nullable=False,
            comment="Account that holds the position",
        ),
        sa.Column("symbol", sa.Text(), nullable=False, comment="Instrument, 1 to 64 characters"),
        sa.Column("market", sa.Text(), nullable=False, comment="Market the symbol trades at, such as KRX or BINANCE"),
        sa.Column(
            "currency",
            sa.Text(),
            nullable=False,
            comment="Currency of prices and of realized P&L, such as KRW",
        ),
        sa.Column(
            "qty",
            sa.Numeric(precision=18, scale=8),
            nullable=False,
            comment="Signed quantity held: below zero is a short position, zero is closed",
        ),
        sa.Column(
            "avg_price",
            sa.Numeric(precision=18, scale=8),
            nullable=False,
            comment="Average entry price of what is held, in currency; 0 when closed",
        ),
        sa.Column(
            "cost_basis",
            sa.Numeric(precision=24, scale=8),
            server_default="0",
            nullable=False,
            comment="Signed cost of what is held, in currency: paid for a long, below zero received for a short; "
            "kept beside avg_price, whose rounding would let money leak",
        ),
        sa.Column(
            "realized_pnl",
            sa.Numeric(precision=24, scale=8),
            server_default="0",
            nullable=False,
            comment="Cumulative realized profit by average cost, before fees, in currency",
        ),
        sa.Column(
            "mark_price",
            sa.Numeric(precision=18, scale=8),
            nullable=True,
            comment="Price of the last valuation; ages, see marked_at",
        ),
        sa.Column(
            "exposure_value",
            sa.Numeric(precision=24, scale=8),
            nullable=True,
            comment="qty x mark_price at marked_at, in currency; ages",
        ),
        sa.Column(
            "exposure_pct",
            sa.Numeric(precision=12, scale=6),
            nullable=True,
            comment="Share of the account's equity at marked_at; 0.05 means 5 %; ages",
        ),
        sa.Column(
            "unrealized_pnl",
            sa.Numeric(precision=24, scale=8),
            nullable=True,
            comment="exposure_value - cost_basis at marked_at, in currency; ages",
        ),
        sa.Column(
            "marked_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When mark_price and the figures made from it were taken",
        ),
        sa.Column(
            "last_ledger_id",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Version of the row: id of the last ledger entry applied, 0 before the first",
        ),
        sa.Column(
            "updated_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row last changed",
        ),
        sa.CheckConstraint("avg_price <> 'NaN'", name=op.f("ck_positions_avg_price_finite")),
        sa.CheckConstraint("cost_basis <> 'NaN'", name=op.f("ck_positions_cost_basis_finite")),
        sa.CheckConstraint("exposure_pct <> 'NaN'", name=op.f("ck_positions_exposure_pct_finite")),
        sa.CheckConstraint("exposure_value <> 'NaN'", name=op.f("ck_positions_exposure_value_finite")),
        sa.CheckConstraint("mark_price <> 'NaN'", name=op.f("ck_positions_mark_price_finite")),
        sa.CheckConstraint("qty <> 'NaN'", name=op.f("ck_positions_qty_finite")),
        sa.CheckConstraint("realized_pnl <> 'NaN'", name=op.f("ck_positions_realized_pnl_finite")),
        sa.CheckConstraint("unrealized_pnl <> 'NaN'", name=op.f("ck_positions_unrealized_pnl_finite")),
        sa.CheckConstraint("(mark_price IS NULL) = (marked_at IS NULL)", name=op.f("ck_positions_mark_has_its_time")),
        sa.CheckConstraint("avg_price >= 0", name=op.f("ck_positions_avg_price_not_negative")),
        sa.CheckConstraint("length(symbol) BETWEEN 1 AND 64", name=op.f("ck_positions_symbol_length")),
        sa.PrimaryKeyConstraint("account", "symbol", name=op.f("pk_positions")),
        comment="Current positions, one row for each account and symbol; always equals the fold of t_ledger",
    )
    op.create_index("ix_positions_market", "positions", ["market"], unique=False)
    op.create_index("ix_positions_updated_at", "positions", [sa.literal_column("updated_at DESC")], unique=False)
    op.create_table(
        "t_ledger",
        sa.Column(
            "id",
            sa.BigInteger(),
            sa.Identity(always=False),
            nullable=False,
            comment="Order of booking; the version of positions",
        ),
        sa.Column(
            "timestamp",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When the broker filled the order",
        ),
        sa.Column("account", sa.Text(), server_default="main", nullable=False, comment="Account that traded"),
        sa.Column("symbol", sa.Text(), nullable=False, comment="Instrument, 1 to 64 characters"),
        sa.Column("market", sa.Text(), nullable=False, comment="Market the symbol trades at, such as KRX or BINANCE"),
        sa.Column("side", sa.Text(), nullable=False, comment="BUY or SELL"),
        sa.Column("qty", sa.Numeric(precision=18, scale=8), nullable=False, comment="Filled quantity, above zero"),
        sa.Column(
            "price",
            sa.Numeric(precision=18, scale=8),
            nullable=False,
            comment="Fill price in currency, zero or more",
        ),
        sa.Column(
            "amount",
            sa.Numeric(precision=24, scale=8),
            nullable=False,
            comment="qty x price in currency, rounded to 8 places",
        ),
        sa.Column(
            "fee",
            sa.Numeric(precision=24, scale=8),
            server_default="0",
            nullable=False,
            comment="Fee and tax of this fill in fee_currency; below zero is a rebate",
        ),
        sa.Column("currency", sa.Text(), nullable=False, comment="Currency of price, amount and realized_pnl"),
        sa.Column(
            "fee_currency",
            sa.Text(),
            nullable=False,
            comment="Currency of fee; often, but not always, currency",
        ),
        sa.Column("strategy_tag", sa.Text(), nullable=True, comment="Strategy that sent the order, if known"),
        sa.Column("order_id", sa.Text(), nullable=True, comment="The order that was filled, if known"),
        sa.Column("broker", sa.Text(), nullable=False, comment="Broker or exchange that reported the fill"),
        sa.Column(
            "execution_id",
            sa.Text(),
            nullable=False,
            comment="The broker's id of this execution; booked once for each broker and account",
        ),
        sa.Column(
            "reverses_id",
            sa.BigInteger(),
            nullable=True,
            comment="id of the entry that this one takes back, if it is a bust",
        ),
        sa.Column(
            "corrects_id",
            sa.BigInteger(),
            nullable=True,
            comment="id of the entry whose place this one takes, if it is a correction",
        ),
        sa.Column(
            "realized_pnl",
            sa.Numeric(precision=24, scale=8),
            server_default="0",
            nullable=False,
            comment="Profit that this fill realized by average cost, before fees, in currency",
        ),
        sa.Column(
            "position_qty",
            sa.Numeric(precision=18, scale=8),
            nullable=False,
            comment="Signed position after this fill",
        ),
        sa.Column(
            "position_avg_price",
            sa.Numeric(precision=18, scale=8),
            nullable=False,
            comment="Average entry price of the position after this fill, in currency",
        ),
        sa.Column(
            "position_cost_basis",
            sa.Numeric(precision=24, scale=8),
            nullable=False,
            comment="Signed cost of the position after this fill, in currency; "
            "sum of realized_pnl minus it is the cash flow",
        ),
        sa.Column(
            "position_realized_pnl",
            sa.Numeric(precision=24, scale=8),
            nullable=False,
            comment="Realized profit of the position so far, before fees, in currency",
        ),
        sa.Column(
            "recorded_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the entry was booked",
        ),
        sa.CheckConstraint("fee <> 'NaN'", name=op.f("ck_t_ledger_fee_finite")),
        sa.CheckConstraint("position_avg_price <> 'NaN'", name=op.f("ck_t_ledger_position_avg_price_finite")),
        sa.CheckConstraint("position_cost_basis <> 'NaN'", name=op.f("ck_t_ledger_position_cost_basis_finite")),
        sa.CheckConstraint("position_qty <> 'NaN'", name=op.f("ck_t_ledger_position_qty_finite")),
        sa.CheckConstraint("position_realized_pnl <> 'NaN'", name=op.f("ck_t_ledger_position_realized_pnl_finite")),
        sa.CheckConstraint("price <> 'NaN'", name=op.f("ck_t_ledger_price_finite")),
        sa.CheckConstraint("qty <> 'NaN'", name=op.f("ck_t_ledger_qty_finite")),
        sa.CheckConstraint("realized_pnl <> 'NaN'", name=op.f("ck_t_ledger_realized_pnl_finite")),
        sa.CheckConstraint("side IN ('BUY', 'SELL')", name=op.f("ck_t_ledger_side")),
        sa.CheckConstraint(
            "abs(amount - qty * price) <= 0.000000005", name=op.f("ck_t_ledger_amount_is_qty_times_price")
        ),
        sa.CheckConstraint("length(symbol) BETWEEN 1 AND 64", name=op.f("ck_t_ledger_symbol_length")),
        sa.CheckConstraint("price >= 0", name=op.f("ck_t_ledger_price_not_negative")),
        sa.CheckConstraint("qty > 0", name=op.f("ck_t_ledger_qty_positive")),
        sa.ForeignKeyConstraint(["reverses_id"], ["t_ledger.id"], name="fk_t_ledger_reverses_id"),
        sa.ForeignKeyConstraint(["corrects_id"], ["t_ledger.id"], name="fk_t_ledger_corrects_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_t_ledger")),
        sa.UniqueConstraint("broker", "account", "execution_id", name="uq_t_ledger_execution"),
        sa.UniqueConstraint("corrects_id", name="uq_t_ledger_corrects_id"),
        sa.UniqueConstraint("reverses_id", name="uq_t_ledger_reverses_id"),
        comment="Every fill, append-only: UPDATE, DELETE and TRUNCATE are refused; "
        "a busted trade is a new entry that reverses the old one",
    )
    op.create_index(
        "ix_t_ledger_strategy_tag_timestamp",
        "t_ledger",
        ["strategy_tag", sa.literal_column("timestamp DESC")],
        unique=False,
    )
    op.create_index(
        "ix_t_ledger_symbol_timestamp",
        "t_ledger",
        ["symbol", sa.literal_column("timestamp DESC")],
        unique=False,
    )
    op.create_index("ix_t_ledger_timestamp", "t_ledger", [sa.literal_column("timestamp DESC")], unique=False)
    # A statement trigger refuses even the owner, and a statement that matches no row.
    op.execute(
        """\
CREATE FUNCTION t_ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 't_ledger is append-only: % is refused', TG_OP
        USING ERRCODE = 'restrict_violation',
              HINT = 'Book a reversing entry that names the one it takes back.';
END
$$"""
    )
    op.execute("COMMENT ON FUNCTION t_ledger_refuse_change() IS 'Keeps t_ledger append-only'")
    op.execute(
        "CREATE TRIGGER t_ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON t_ledger "
        "FOR EACH STATEMENT EXECUTE FUNCTION t_ledger_refuse_change()"
    )
    op.execute(
        "COMMENT ON TRIGGER t_ledger_append_only ON t_ledger IS "
        "'Refuses UPDATE, DELETE and TRUNCATE, also for the owner'"
    )
    op.create_table(
        "strategies",
        sa.Column("strategy_id", sa.Text(), nullable=False, comment="The strategy"),
        sa.Column("param_name", sa.Text(), nullable=False, comment="The parameter's name"),
        sa.Column("value", sa.Text(), nullable=False, comment="The value as text; read it by value_type"),
        sa.Column("value_type", sa.Text(), nullable=False, comment="string, int, decimal, bool or json"),
        sa.Column("description", sa.Text(), nullable=True, comment="What the parameter does"),
        sa.Column(
            "updated_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row last changed",
        ),
        sa.CheckConstraint(
            "value_type IN ('string', 'int', 'decimal', 'bool', 'json')",
            name=op.f("ck_strategies_value_type"),
        ),
        sa.PrimaryKeyConstraint("strategy_id", "param_name", name=op.f("pk_strategies")),
        comment="Parameters of the strategies, one row for each parameter",
    )
    op.create_index("ix_strategies_updated_at", "strategies", [sa.literal_column("updated_at DESC")], unique=False)
    op.create_table(
        "risk_configs",
        sa.Column("config_key", sa.Text(), nullable=False, comment="Name of the limit"),
        sa.Column(
            "value",
            sa.Numeric(precision=18, scale=8),
            nullable=False,
            comment="The limit's value, in the unit that description gives",
        ),
        sa.Column("description", sa.Text(), nullable=True, comment="What it limits, and its unit"),
        sa.Column(
            "updated_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row last changed",
        ),
        sa.CheckConstraint("value <> 'NaN'", name=op.f("ck_risk_configs_value_finite")),
        sa.PrimaryKeyConstraint("config_key", name=op.f("pk_risk_configs")),
        comment="Risk limits, one row for each; the description gives the unit",
    )


def downgrade() -> None:
    op.drop_table("risk_configs")
    op.drop_table("strategies")
    op.drop_table("t_ledger")
    op.execute("DROP FUNCTION t_ledger_refuse_change()")
    op.drop_table("positions")
