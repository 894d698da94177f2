"""Reports that wait for their fill, and the history of strategies and risk limits.

Revision ID: 0009
Revises: 0008
Create Date: 2026-11-21

New tables and triggers only, so it runs online. The default privileges of revision 0008 grant the privileges on the
tables.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


RECORD_CHANGE_FUNCTION = """\
CREATE FUNCTION config_history_record() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    after jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    one jsonb := COALESCE(after, before);
BEGIN
    IF before ->> 'value' IS DISTINCT FROM after ->> 'value'
        OR before ->> 'value_type' IS DISTINCT FROM after ->> 'value_type'
    THEN
        EXECUTE format(
            'INSERT INTO %I.config_history '
            '(config, key, param_name, old_value, new_value, value_type, changed_by, changed_at) '
            'VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp())', TG_TABLE_SCHEMA)
        USING TG_TABLE_NAME, COALESCE(one ->> 'strategy_id', one ->> 'config_key'), one ->> 'param_name',
            before ->> 'value', after ->> 'value', COALESCE(one ->> 'value_type', 'decimal'), current_user;
    END IF;
    RETURN NULL;
END
$$"""

KEEP_APPEND_ONLY = """\
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'qts_engine') THEN
        REVOKE UPDATE, DELETE ON TABLE config_history FROM qts_engine;
    END IF;
END
$$"""


def upgrade() -> None:
    op.create_table(
        "pending_reports",
        sa.Column("broker", sa.Text(), nullable=False, comment="Broker or exchange that sent the report"),
        sa.Column("account", sa.Text(), nullable=False, comment="Account that traded"),
        sa.Column("execution_id", sa.Text(), nullable=False, comment="The broker's id of this report"),
        sa.Column(
            "refers_to",
            sa.Text(),
            nullable=False,
            comment="Execution id of the fill that it takes back or corrects",
        ),
        sa.Column(
            "timestamp",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When the broker took it back, or the corrected time of the fill",
        ),
        sa.Column("symbol", sa.Text(), comment="Of a correction: the instrument; NULL for a bust"),
        sa.Column("market", sa.Text(), comment="Of a correction: the market; NULL for a bust"),
        sa.Column("side", sa.Text(), comment="Of a correction: BUY or SELL; NULL for a bust"),
        sa.Column("qty", sa.Numeric(18, 8), comment="Of a correction: the filled quantity; NULL for a bust"),
        sa.Column("price", sa.Numeric(18, 8), comment="Of a correction: the fill price; NULL for a bust"),
        sa.Column("amount", sa.Numeric(24, 8), comment="Of a correction: qty x price; NULL for a bust"),
        sa.Column("fee", sa.Numeric(24, 8), comment="Of a correction: the fee; NULL for a bust"),
        sa.Column("currency", sa.Text(), comment="Of a correction: the currency; NULL for a bust"),
        sa.Column("fee_currency", sa.Text(), comment="Of a correction: currency of the fee; NULL for a bust"),
        sa.Column("strategy_tag", sa.Text(), comment="Of a correction: the strategy, if known"),
        sa.Column("order_id", sa.Text(), comment="Of a correction: the order, if known"),
        sa.Column(
            "received_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the report came",
        ),
        sa.CheckConstraint(
            "num_nonnulls(symbol, market, side, qty, price, amount, fee, currency, fee_currency) IN (0, 9)",
            name=op.f("ck_pending_reports_fill_is_whole"),
        ),
        sa.PrimaryKeyConstraint("broker", "account", "execution_id", name=op.f("pk_pending_reports")),
        comment="Busts and corrections that came before their fill; applied, and gone from here, when it comes",
    )
    op.create_index("ix_pending_reports_refers_to", "pending_reports", ["broker", "account", "refers_to"])
    op.create_table(
        "config_history",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order of the changes"),
        sa.Column("config", sa.Text(), nullable=False, comment="Table that changed: strategies or risk_configs"),
        sa.Column("key", sa.Text(), nullable=False, comment="strategy_id or config_key"),
        sa.Column("param_name", sa.Text(), comment="The strategy's parameter; NULL for a risk limit"),
        sa.Column("old_value", sa.Text(), comment="Value before, as text; NULL if it was new"),
        sa.Column("new_value", sa.Text(), comment="Value after, as text; NULL if it was deleted"),
        sa.Column("value_type", sa.Text(), nullable=False, comment="string, int, decimal, bool or json"),
        sa.Column("changed_by", sa.Text(), nullable=False, comment="Database role that changed it"),
        sa.Column("changed_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When it changed"),
        sa.CheckConstraint("config IN ('strategies', 'risk_configs')", name=op.f("ck_config_history_config")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_config_history")),
        comment="Every change of strategies and risk_configs, written by triggers; qts_engine cannot change it",
    )
    op.create_index("ix_config_history_key", "config_history", ["config", "key", "param_name", "id"])
    op.execute(KEEP_APPEND_ONLY)
    op.execute(RECORD_CHANGE_FUNCTION)
    op.execute(
        "COMMENT ON FUNCTION config_history_record() IS "
        "'Writes changes of strategies and risk_configs to config_history'"
    )
    for table in ("strategies", "risk_configs"):
        op.execute(
            f"CREATE TRIGGER {table}_history AFTER INSERT OR UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION config_history_record()"
        )
        op.execute(f"COMMENT ON TRIGGER {table}_history ON {table} IS 'Keeps config_history'")


def downgrade() -> None:
    for table in ("strategies", "risk_configs"):
        op.execute(f"DROP TRIGGER {table}_history ON {table}")
    op.execute("DROP FUNCTION config_history_record()")
    op.drop_table("config_history")
    op.drop_table("pending_reports")
