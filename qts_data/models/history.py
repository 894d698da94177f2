"""Former values of strategies and risk limits. Triggers of the database record every change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base, Instant
from qts_data.models.risk import RiskConfig
from qts_data.models.strategy import StrategyParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HISTORY_STATEMENTS", "ConfigChange"]


class ConfigChange(Base):
    """One change of one parameter or limit."""

    __tablename__ = "config_history"
    __table_args__: Any = (
        sa.CheckConstraint("config IN ('strategies', 'risk_configs')", name="config"),
        sa.Index("ix_config_history_key", "config", "key", "param_name", "id"),
        {"comment": "Every change of strategies and risk_configs, written by triggers; qts_engine cannot change it"},
    )

    id: Mapped[int] = mapped_column(sa.Identity(always=True), primary_key=True, comment="Order of the changes")
    config: Mapped[str] = mapped_column(comment="Table that changed: strategies or risk_configs")
    key: Mapped[str] = mapped_column(comment="strategy_id or config_key")
    param_name: Mapped[str | None] = mapped_column(comment="The strategy's parameter; NULL for a risk limit")
    old_value: Mapped[str | None] = mapped_column(comment="Value before, as text; NULL if it was new")
    new_value: Mapped[str | None] = mapped_column(comment="Value after, as text; NULL if it was deleted")
    value_type: Mapped[str] = mapped_column(comment="string, int, decimal, bool or json")
    changed_by: Mapped[str] = mapped_column(comment="Database role that changed it")
    changed_at: Mapped[Instant] = mapped_column(comment="When it changed")
    account: Mapped[str | None] = mapped_column(comment="Account of a risk limit, * for all; NULL for a parameter")


RECORD_CHANGE_FUNCTION: Final = """\
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
            '(config, key, param_name, old_value, new_value, value_type, changed_by, changed_at, account) '
            'VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp(), $8)', TG_TABLE_SCHEMA)
        USING TG_TABLE_NAME, COALESCE(one ->> 'strategy_id', one ->> 'config_key'), one ->> 'param_name',
            before ->> 'value', after ->> 'value', COALESCE(one ->> 'value_type', 'decimal'), current_user,
            one ->> 'account';
    END IF;
    RETURN NULL;
END
$$"""

_CONFIGS: Final = ("strategies", "risk_configs")
_WATCH: Final = """\
CREATE TRIGGER {table}_history AFTER INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION config_history_record()"""

HISTORY_STATEMENTS: Final = (
    RECORD_CHANGE_FUNCTION,
    "COMMENT ON FUNCTION config_history_record() IS 'Writes changes of strategies and risk_configs to config_history'",
    *(_WATCH.format(table=table) for table in _CONFIGS),
    *(f"COMMENT ON TRIGGER {table}_history ON {table} IS 'Keeps config_history'" for table in _CONFIGS),
)
_WATCHED: Final = {RiskConfig.__table__, StrategyParameter.__table__, ConfigChange.__table__}


@event.listens_for(Base.metadata, "after_create")
def _watch(_target: sa.MetaData, connection: sa.Connection, tables: Sequence[sa.Table] = (), **_: object) -> None:
    if set(tables) >= _WATCHED:
        for statement in HISTORY_STATEMENTS:
            connection.exec_driver_sql(statement.replace("%", "%%"))


@event.listens_for(Base.metadata, "after_drop")
def _unwatch(_target: sa.MetaData, connection: sa.Connection, tables: Sequence[sa.Table] = (), **_: object) -> None:
    if set(tables) >= _WATCHED:
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS config_history_record()")
