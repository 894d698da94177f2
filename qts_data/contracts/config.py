"""Parameters of strategies, risk limits, and the history of their changes."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

from qts_data.contracts.checks import check_storable, check_text, shown
from qts_data.contracts.instants import utc_fields
from qts_data.errors import InvalidRecord

__all__ = [
    "ALL_ACCOUNTS",
    "ConfigChange",
    "ParameterValue",
    "RiskLimit",
    "StrategyParameter",
    "ValueType",
    "parameter_from_text",
    "parameter_to_text",
]

ValueType = Literal["string", "int", "decimal", "bool", "json"]
ParameterValue: TypeAlias = str | int | Decimal | bool | list[Any] | dict[str, Any]
"""A list or dict holds JSON values except floats: write `"0.1"`. A tuple inside it is read back as a list."""

ALL_ACCOUNTS: Final = "*"
"""The account of a risk limit that applies to every account without a limit of its own."""

_BOOLS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyParameter:
    """One parameter of one strategy.

    Attributes:
        strategy_id: The strategy.
        param_name: Name of the parameter.
        value: Its value, in its type.
        description: Purpose of the parameter, or None.
        updated_at: Time of its last change.
    """

    strategy_id: str
    param_name: str
    value: ParameterValue
    description: str | None
    updated_at: dt.datetime

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "updated_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskLimit:
    """A limit against which orders are checked.

    Attributes:
        config_key: Its name.
        value: Its value, in the unit that the description gives.
        description: The limited quantity and its unit, or None.
        updated_at: Time of its last change.
        account: The account to which it applies; `*` for every account without a limit of its own.
    """

    config_key: str
    value: Decimal
    description: str | None
    updated_at: dt.datetime
    account: str = ALL_ACCOUNTS

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "updated_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """One change of a parameter or a limit. A trigger of the database records it, for every writer.

    Attributes:
        key: The strategy's id or the limit's name.
        param_name: The strategy's parameter; None for a limit.
        old_value: Value before, as text; None if it did not exist.
        new_value: Value after, as text; None if it was deleted.
        value_type: Type of the value after the change. For a deletion, the type before it.
        changed_by: Database role that changed it.
        changed_at: Time of the change.
        account: Account of a limit, `*` for all; None for a parameter.
    """

    key: str
    param_name: str | None
    old_value: str | None
    new_value: str | None
    value_type: ValueType
    changed_by: str
    changed_at: dt.datetime
    account: str | None = None

    def __post_init__(self) -> None:
        """Convert the instant to UTC."""
        utc_fields(self, "changed_at")


def parameter_to_text(name: str, value: ParameterValue) -> tuple[str, ValueType]:
    """Return the text of a value for its column, and the value's type.

    Args:
        name: The parameter, for the message.
        value: Its value.

    Raises:
        InvalidRecord: The value is a float, not a finite number, too long, of another type, or cannot be stored as
            text.
    """
    if isinstance(value, bool):
        return str(value).lower(), "bool"
    if isinstance(value, int):
        try:
            return str(value), "int"
        except ValueError as error:  # Python converts no int of so many digits to text
            raise InvalidRecord(field=name, reason=f"is too large an int: {error}") from error
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise InvalidRecord(field=name, reason=f"{value} is not a finite number")
        return f"{value:f}", "decimal"
    if isinstance(value, str):
        check_text(name, value, shortest=0, longest=1_000_000)
        return value, "string"
    if isinstance(value, list | dict):
        try:
            _refuse_what_changes(name, value)
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRecord(field=name, reason=f"is not JSON: {error}") from error
        check_storable(name, text)
        return text, "json"
    raise InvalidRecord(
        field=name, reason=f"is a {type(value).__name__}; give str, int, Decimal, bool, or a list or dict for JSON"
    )


def parameter_from_text(name: str, text: str, value_type: str) -> ParameterValue:
    """Return the value that a column holds.

    Raises:
        InvalidRecord: The text does not fit its type. Another program must have written it.
    """
    try:
        if value_type == "bool":
            return _BOOLS[text.lower()]
        if value_type == "int":
            return int(text)
        if value_type == "decimal":
            return Decimal(text)
        if value_type == "json":
            made: ParameterValue = json.loads(text, parse_float=Decimal)
            return made
    except (KeyError, ValueError, ArithmeticError) as error:
        raise InvalidRecord(field=name, reason=f"{shown(text)!r} is not of type {value_type}") from error
    return text


def _refuse_what_changes(name: str, value: object) -> None:
    """Refuse values that JSON accepts but returns as something else."""
    if isinstance(value, float):
        raise InvalidRecord(field=name, reason=f'holds the float {value!r}; write it as a string, such as "0.1"')
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InvalidRecord(field=name, reason=f"has the key {shown(repr(key))}, which is not a string")
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for item in items:
        _refuse_what_changes(name, item)
