"""Strategies' parameters and risk limits, with their types and their history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from qts_data.contracts import ALL_ACCOUNTS, ConfigChange, RiskLimit, StrategyParameter
from qts_data.contracts.checks import check_price, check_storable
from qts_data.contracts.config import parameter_from_text, parameter_to_text
from qts_data.contracts.identity import check_asked, check_identifier
from qts_data.database.errors import translated_errors
from qts_data.errors import NotFound
from qts_data.models import ConfigChange as Change
from qts_data.models import RiskConfig
from qts_data.models import StrategyParameter as Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import ParameterValue

__all__ = ["RiskConfigReader", "RiskConfigRepository", "StrategyReader", "StrategyRepository"]

_parameter = Parameter.__table__.c
_limit = RiskConfig.__table__.c
_change = Change.__table__.c
_MAX_KEY_LENGTH: Final = 256
_MAX_ACCOUNT_LENGTH: Final = 64


class StrategyReader:
    """Queries about strategies, in the transaction of one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get_parameters(self, strategy_id: str) -> dict[str, ParameterValue]:
        """Return every parameter of a strategy, by name.

        Raises:
            NotFound: The strategy has no parameters.
            InvalidRecord: A value does not fit its type. Another program than this package wrote it.
        """
        found = {one.param_name: one.value for one in await self.list_parameters(strategy_id)}
        if not found:
            raise NotFound(f"strategy {strategy_id!r} has no parameters")
        return found

    async def find_parameter(self, strategy_id: str, param_name: str) -> StrategyParameter | None:
        """Return one parameter, or None."""
        check_asked(strategy_id=strategy_id, param_name=param_name)
        found = await self._list(_parameter.strategy_id == strategy_id, _parameter.param_name == param_name)
        return found[0] if found else None

    async def list_parameters(self, strategy_id: str | None = None) -> list[StrategyParameter]:
        """List the parameters of one strategy or of all, in order of strategy and name."""
        check_asked(strategy_id=strategy_id)
        return await self._list(*([] if strategy_id is None else [_parameter.strategy_id == strategy_id]))

    async def list_changes(
        self, strategy_id: str, param_name: str | None = None, *, limit: int = 100
    ) -> list[ConfigChange]:
        """List the changes of a strategy's parameters, the latest first."""
        check_asked(strategy_id=strategy_id, param_name=param_name)
        where = [_change.config == "strategies", _change.key == strategy_id]
        if param_name is not None:
            where.append(_change.param_name == param_name)
        return await _changes(self._connection, where, limit)

    async def _list(self, *where: sa.ColumnElement[bool]) -> list[StrategyParameter]:
        statement = sa.select(Parameter.__table__).where(*where).order_by(_parameter.strategy_id, _parameter.param_name)
        with translated_errors():
            rows = (await self._connection.execute(statement)).all()
        return [
            StrategyParameter(
                strategy_id=row.strategy_id,
                param_name=row.param_name,
                value=parameter_from_text(row.param_name, row.value, row.value_type),
                description=row.description,
                updated_at=row.updated_at,
            )
            for row in rows
        ]


class StrategyRepository(StrategyReader):
    """Writes to strategies. Triggers of the database record the history."""

    async def upsert_parameters(
        self,
        strategy_id: str,
        parameters: Mapping[str, ParameterValue],
        *,
        descriptions: Mapping[str, str] | None = None,
    ) -> None:
        """Set parameters. Other parameters of the strategy stay, and so does a description that is not given.

        Raises:
            InvalidRecord: A parameter is invalid; the message names it and the reason. Nothing was set.
        """
        check_identifier("strategy_id", strategy_id, shortest=1, longest=_MAX_KEY_LENGTH)
        rows = []
        for name, value in parameters.items():
            check_identifier("param_name", name, shortest=1, longest=_MAX_KEY_LENGTH)
            text, value_type = parameter_to_text(name, value)
            description = (descriptions or {}).get(name)
            _check_description(description)
            rows.append(
                {
                    "strategy_id": strategy_id,
                    "param_name": name,
                    "value": text,
                    "value_type": value_type,
                    "description": description,
                }
            )
        if rows:
            await _upsert(self._connection, Parameter, ["strategy_id", "param_name"], ["value", "value_type"], rows)

    async def delete_parameter(self, strategy_id: str, param_name: str) -> None:
        """Remove a parameter.

        Raises:
            NotFound: The strategy has no such parameter.
        """
        check_asked(strategy_id=strategy_id, param_name=param_name)
        where = _parameter.strategy_id == strategy_id, _parameter.param_name == param_name
        await _delete(self._connection, Parameter, where, f"strategy {strategy_id!r} has no parameter {param_name!r}")


class RiskConfigReader:
    """Queries about risk limits, in the transaction of one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get_limit(self, config_key: str, account: str = ALL_ACCOUNTS) -> RiskLimit:
        """Return the limit that applies to an account: its own, else the default of all accounts.

        Raises:
            NotFound: No limit applies. An order must not pass because a limit is missing.
        """
        found = await self.find_limit(config_key, account)
        if found is None:
            whose = "" if account == ALL_ACCOUNTS else f" for the account {account!r}"
            raise NotFound(f"no risk limit {config_key!r}{whose} is set")
        return found

    async def find_limit(self, config_key: str, account: str = ALL_ACCOUNTS) -> RiskLimit | None:
        """Return the limit that applies to an account, or None."""
        check_asked(config_key=config_key, account=account)
        found = await self._list(_limit.config_key == config_key, _limit.account.in_((account, ALL_ACCOUNTS)))
        return next((one for one in found if one.account == account), found[0] if found else None)

    async def limits_of(self, account: str) -> list[RiskLimit]:
        """List the limits that apply to an account, in order of their names: its own, and defaults for the others.

        Raises:
            InvalidRecord: No account can have this name.
        """
        check_asked(account=account)
        found = await self._list(_limit.account.in_((account, ALL_ACCOUNTS)))
        own = {one.config_key for one in found if one.account == account}
        return [one for one in found if one.account == account or one.config_key not in own]

    async def list_limits(self, account: str | None = None) -> list[RiskLimit]:
        """List the stored limits, in order of name and account.

        Args:
            account: Only rows of this account; `*` for the defaults alone.

        Raises:
            InvalidRecord: No account can have this name.
        """
        check_asked(account=account)
        return await self._list(*([] if account is None else [_limit.account == account]))

    async def list_changes(
        self, config_key: str, *, account: str | None = None, limit: int = 100
    ) -> list[ConfigChange]:
        """List the changes of a limit, of one account or of all, the latest first."""
        check_asked(config_key=config_key, account=account)
        where = [_change.config == "risk_configs", _change.key == config_key]
        if account is not None:
            where.append(_change.account == account)
        return await _changes(self._connection, where, limit)

    async def _list(self, *where: sa.ColumnElement[bool]) -> list[RiskLimit]:
        statement = sa.select(RiskConfig.__table__).where(*where).order_by(_limit.config_key, _limit.account)
        with translated_errors():
            rows = (await self._connection.execute(statement)).mappings()
            return [RiskLimit(**row) for row in rows]


class RiskConfigRepository(RiskConfigReader):
    """Writes to risk limits. Triggers of the database record the history."""

    async def upsert_limit(
        self, config_key: str, value: Decimal, description: str | None = None, *, account: str = ALL_ACCOUNTS
    ) -> None:
        """Set a limit of an account, or the default of all. A description that is not given stays.

        Raises:
            InvalidRecord: The value cannot be stored to the last digit, or a text cannot be stored at all.
        """
        check_identifier("config_key", config_key, shortest=1, longest=_MAX_KEY_LENGTH)
        check_identifier("account", account, shortest=1, longest=_MAX_ACCOUNT_LENGTH)
        check_price("value", value)
        _check_description(description)
        row = {"config_key": config_key, "value": value, "description": description, "account": account}
        await _upsert(self._connection, RiskConfig, ["account", "config_key"], ["value"], [row])

    async def delete_limit(self, config_key: str, *, account: str = ALL_ACCOUNTS) -> None:
        """Remove a limit of an account, after which the default applies to it again. Or remove the default.

        Raises:
            NotFound: The account has no such limit.
        """
        check_asked(config_key=config_key, account=account)
        whose = "" if account == ALL_ACCOUNTS else f" of the account {account!r}"
        where = _limit.config_key == config_key, _limit.account == account
        await _delete(self._connection, RiskConfig, where, f"no risk limit {config_key!r}{whose} is set")


def _check_description(description: str | None) -> None:
    if description is not None:
        check_storable("description", description)


async def _upsert(
    connection: AsyncConnection, model: type[Any], keys: list[str], values: list[str], rows: list[dict[str, Any]]
) -> None:
    statement = insert(model)
    given = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=keys,
        set_={
            **{name: given[name] for name in values},
            "description": sa.func.coalesce(given.description, model.__table__.c.description),
            "updated_at": sa.func.clock_timestamp(),
        },
    )
    with translated_errors():
        await connection.execute(statement, rows)


async def _delete(
    connection: AsyncConnection, model: type[Any], where: tuple[sa.ColumnElement[bool], ...], missing: str
) -> None:
    with translated_errors():
        gone = await connection.execute(sa.delete(model).where(*where))
    if not gone.rowcount:
        raise NotFound(missing)


async def _changes(connection: AsyncConnection, where: list[sa.ColumnElement[bool]], limit: int) -> list[ConfigChange]:
    columns = [column for column in _change if column.key not in {"id", "config"}]
    statement = sa.select(*columns).where(*where).order_by(_change.id.desc()).limit(limit)
    with translated_errors():
        rows = (await connection.execute(statement)).mappings()
        return [ConfigChange(**row) for row in rows]
