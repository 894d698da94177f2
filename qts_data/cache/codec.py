"""Records as names and texts: exact, readable in redis-cli, with the version of their layout."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from qts_data.contracts import Position
from qts_data.contracts.config import parameter_from_text, parameter_to_text
from qts_data.contracts.live import OrderState, Quote, RiskLimits, StrategyParameters
from qts_data.errors import InvalidRecord, QtsDataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qts_data.cache.port import Fields
    from qts_data.contracts import ParameterValue

__all__ = [
    "ORDER",
    "POSITION",
    "QUOTE",
    "RISK",
    "STRATEGY",
    "Codec",
    "ForeignRecord",
    "JsonCodec",
    "RecordCodec",
    "instant_text",
    "read_decimal",
    "read_instant",
]

_T = TypeVar("_T")
_SCHEMA: Final = "v"
Kind: TypeAlias = Literal["text", "decimal", "int", "instant"]


class ForeignRecord(Exception):
    """Fields that are of another layout, or of somebody else; to a reader they are a miss."""


class Codec(Protocol[_T]):
    """Turns values into fields and back."""

    def encode(self, value: _T) -> Fields:
        """The value as fields."""
        ...

    def decode(self, found: Fields) -> _T:
        """The value again.

        Raises:
            ForeignRecord: The fields are of another layout.
        """
        ...


def instant_text(value: dt.datetime) -> str:
    """An instant in UTC, to the microsecond."""
    return value.astimezone(dt.UTC).isoformat()


def read_instant(text: str) -> dt.datetime:
    """The instant again, in UTC."""
    instant = dt.datetime.fromisoformat(text)
    if instant.tzinfo is dt.UTC:
        return instant
    if instant.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return instant.astimezone(dt.UTC)


def read_decimal(text: str) -> Decimal:
    """The number again, to the last digit."""
    number = Decimal(text)
    if not number.is_finite():
        raise ValueError(f"{text} is not finite")
    return number


def _decimal_text(value: Decimal) -> str:
    return format(value, "f")


_WRITERS: Final[Mapping[Kind, Callable[[Any], str]]] = {
    "text": str,
    "decimal": _decimal_text,
    "int": str,
    "instant": instant_text,
}
_READERS: Final[Mapping[Kind, Callable[[str], Any]]] = {
    "text": str,
    "decimal": read_decimal,
    "int": int,
    "instant": read_instant,
}
_UNREADABLE: Final = (KeyError, ValueError, InvalidOperation, TypeError, OverflowError, QtsDataError)


class RecordCodec(Generic[_T]):
    """A frozen record, one field for each of its attributes; None is an absent field.

    Args:
        record: The dataclass.
        schema: Version of the layout; raise it when an attribute changes its meaning or comes or goes.
        kinds: How each attribute is written.
    """

    def __init__(self, record: type[_T], schema: int, kinds: Mapping[str, Kind]) -> None:
        declared = {item.name for item in fields(record)}  # type: ignore[arg-type]
        if declared != set(kinds):
            raise TypeError(f"{record.__name__}: the codec and the record differ in {sorted(declared ^ set(kinds))}")
        self._record = record
        self._schema = str(schema)
        self._writers = [(name, _WRITERS[kind]) for name, kind in kinds.items()]
        self._readers = [(name, _READERS[kind]) for name, kind in kinds.items()]
        self._optional = {
            item.name
            for item in fields(record)  # type: ignore[arg-type]
            if item.default is not NO_DEFAULT or "None" in str(item.type)
        }

    def encode(self, value: _T) -> dict[str, str]:
        """The record as fields."""
        found = {_SCHEMA: self._schema}
        for name, write in self._writers:
            item = getattr(value, name)
            if item is not None:
                found[name] = write(item)
        return found

    def decode(self, found: Fields) -> _T:
        """The record again.

        Raises:
            ForeignRecord: The fields are of another layout.
        """
        try:
            if found[_SCHEMA] != self._schema:
                raise ForeignRecord(f"layout {found[_SCHEMA]}, not {self._schema}")
            return self._record(
                **{
                    name: None if name not in found and name in self._optional else read(found[name])
                    for name, read in self._readers
                }
            )
        except _UNREADABLE as error:
            raise ForeignRecord(f"{self._record.__name__}: {error!r}") from error


POSITION: Final = RecordCodec(
    Position,
    1,
    {
        "account": "text",
        "symbol": "text",
        "market": "text",
        "currency": "text",
        "qty": "decimal",
        "avg_price": "decimal",
        "cost_basis": "decimal",
        "realized_pnl": "decimal",
        "mark_price": "decimal",
        "exposure_value": "decimal",
        "exposure_pct": "decimal",
        "unrealized_pnl": "decimal",
        "marked_at": "instant",
        "last_ledger_id": "int",
        "updated_at": "instant",
    },
)
QUOTE: Final = RecordCodec(
    Quote,
    1,
    {"symbol": "text", "price": "decimal", "quoted_at": "instant", "bid": "decimal", "ask": "decimal"},
)
ORDER: Final = RecordCodec(
    OrderState,
    1,
    {
        "order_id": "text",
        "symbol": "text",
        "account": "text",
        "side": "text",
        "qty": "decimal",
        "filled_qty": "decimal",
        "status": "text",
        "updated_at": "instant",
        "price": "decimal",
    },
)


class _RiskCodec:
    """Limits: `limit:<name>` = value."""

    _mark: Final = "limit:"

    def encode(self, value: RiskLimits) -> dict[str, str]:
        return {
            _SCHEMA: "1",
            "account": value.account,
            **{f"{self._mark}{name}": _decimal_text(limit) for name, limit in value.limits.items()},
        }

    def decode(self, found: Fields) -> RiskLimits:
        try:
            if found[_SCHEMA] != "1":
                raise ForeignRecord(f"layout {found[_SCHEMA]}")
            start = len(self._mark)
            return RiskLimits(
                account=found["account"],
                limits={
                    name[start:]: read_decimal(text) for name, text in found.items() if name.startswith(self._mark)
                },
            )
        except _UNREADABLE as error:
            raise ForeignRecord(f"RiskLimits: {error!r}") from error


class _StrategyCodec:
    """Parameters: `param:<name>` = `<type>:<value>`."""

    _mark: Final = "param:"

    def encode(self, value: StrategyParameters) -> dict[str, str]:
        return {
            _SCHEMA: "1",
            "strategy_id": value.strategy_id,
            **{f"{self._mark}{name}": _parameter_text(name, item) for name, item in value.parameters.items()},
        }

    def decode(self, found: Fields) -> StrategyParameters:
        try:
            if found[_SCHEMA] != "1":
                raise ForeignRecord(f"layout {found[_SCHEMA]}")
            start = len(self._mark)
            return StrategyParameters(
                strategy_id=found["strategy_id"],
                parameters={
                    name[start:]: _read_parameter(name, text)
                    for name, text in found.items()
                    if name.startswith(self._mark)
                },
            )
        except _UNREADABLE as error:
            raise ForeignRecord(f"StrategyParameters: {error!r}") from error


def _parameter_text(name: str, value: ParameterValue) -> str:
    text, kind = parameter_to_text(name, value)
    return f"{kind}:{text}"


def _read_parameter(name: str, text: str) -> ParameterValue:
    kind, _, value = text.partition(":")
    return parameter_from_text(name, value, kind)


RISK: Final[Codec[RiskLimits]] = _RiskCodec()
STRATEGY: Final[Codec[StrategyParameters]] = _StrategyCodec()


class JsonCodec(Generic[_T]):
    """Values that JSON holds exactly: texts, whole numbers, booleans, None, and lists and dicts of them.

    Args:
        schema: Version of the layout.

    Raises:
        InvalidRecord: The value holds something else; a float, a Decimal or an instant would come back as another.
    """

    def __init__(self, schema: int = 1) -> None:
        self._schema = str(schema)

    def encode(self, value: _T) -> dict[str, str]:
        """The value as one field."""
        _require_exact(value)
        return {_SCHEMA: self._schema, "json": json.dumps(value, ensure_ascii=False)}

    def decode(self, found: Fields) -> _T:
        """The value again.

        Raises:
            ForeignRecord: The field is of another layout.
        """
        try:
            if found[_SCHEMA] != self._schema:
                raise ForeignRecord(f"layout {found[_SCHEMA]}, not {self._schema}")
            value: _T = json.loads(found["json"])
        except _UNREADABLE as error:
            raise ForeignRecord(repr(error)) from error
        return value


def _require_exact(value: object) -> None:
    if value is None or type(value) in {str, int, bool}:
        return
    if type(value) is list:
        for item in value:
            _require_exact(item)
        return
    if type(value) is dict and all(type(name) is str for name in value):
        for item in value.values():
            _require_exact(item)
        return
    raise InvalidRecord(field="value", reason=f"JSON does not hold a {type(value).__name__} exactly; give a codec")
