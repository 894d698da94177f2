"""Risk limits of accounts, equity of valuations, scopes of execution ids.

Revision ID: 0013
Revises: 0012
Create Date: 2026-11-29

Existing limits become the default of all accounts. New columns can be NULL or have a constant default, so no table is
rewritten. risk_configs is locked while its primary key is rebuilt; it is small. The downgrade drops the limits of
single accounts, and keeps the defaults.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


RECORD_CHANGE = """\
CREATE OR REPLACE FUNCTION config_history_record() RETURNS trigger LANGUAGE plpgsql AS $$
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
            '(config, key, param_name, old_value, new_value, value_type, changed_by, changed_at, account) '
            'VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp(), $8)', TG_TABLE_SCHEMA)
        USING TG_TABLE_NAME, COALESCE(one ->> 'strategy_id', one ->> 'config_key'), one ->> 'param_name',
            before ->> 'value', after ->> 'value', COALESCE(one ->> 'value_type', 'decimal'), current_user,
            one ->> 'account';
    END IF;
    RETURN NULL;
END
$$"""

RECORD_CHANGE_BEFORE = """\
CREATE OR REPLACE FUNCTION config_history_record() RETURNS trigger LANGUAGE plpgsql AS $$
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

BOOKED_ONCE = "booked once for each broker and account"


def upgrade() -> None:
    op.add_column(
        "risk_configs",
        sa.Column(
            "account",
            sa.Text(),
            server_default="*",
            nullable=False,
            comment="Account that the limit is of; * for every account that has none of its own",
        ),
    )
    op.drop_constraint("pk_risk_configs", "risk_configs", type_="primary")
    op.create_primary_key("pk_risk_configs", "risk_configs", ["account", "config_key"])
    op.create_table_comment(
        "risk_configs", "Risk limits, one row for each account and limit; the description gives the unit"
    )
    op.add_column(
        "config_history",
        sa.Column("account", sa.Text(), comment="Account of a risk limit, * for all; NULL for a parameter"),
    )
    op.execute("UPDATE config_history SET account = '*' WHERE config = 'risk_configs'")
    op.execute(RECORD_CHANGE)
    op.add_column(
        "positions",
        sa.Column(
            "marked_equity",
            sa.Numeric(24, 8),
            comment="Equity that the last valuation was given, in currency; NULL without one; ages, see marked_at",
        ),
    )
    op.create_check_constraint(op.f("ck_positions_marked_equity_finite"), "positions", "marked_equity <> 'NaN'")
    op.alter_column(
        "positions",
        "exposure_pct",
        comment="exposure_value as a share of marked_equity; 0.05 means 5 %; ages",
    )
    op.alter_column(
        "t_ledger",
        "execution_id",
        comment="The broker's id of this execution, behind its scope where ids restart "
        f"(scope:day=2026-11-20/0017); {BOOKED_ONCE}",
    )


def downgrade() -> None:
    op.alter_column("t_ledger", "execution_id", comment=f"The broker's id of this execution; {BOOKED_ONCE}")
    op.alter_column(
        "positions",
        "exposure_pct",
        comment="Share of the account's equity at marked_at; 0.05 means 5 %; ages",
    )
    op.drop_column("positions", "marked_equity")
    op.execute("DELETE FROM risk_configs WHERE account <> '*'")
    op.execute(RECORD_CHANGE_BEFORE)
    op.drop_column("config_history", "account")
    op.create_table_comment("risk_configs", "Risk limits, one row for each; the description gives the unit")
    op.drop_constraint("pk_risk_configs", "risk_configs", type_="primary")
    op.create_primary_key("pk_risk_configs", "risk_configs", ["config_key"])
    op.drop_column("risk_configs", "account")
