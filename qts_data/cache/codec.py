"""Codecs: records as names and texts. They are exact, readable in redis-cli, and carry the version of their layout."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from decimal import Decimal, InvalidOperation
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

import msgspec

from qts_data.contracts import Position
from qts_data.contracts.config import parameter_from_text, parameter_to_text
from qts_data.contracts.live import OrderState, Quote, RiskLimits, StrategyParameters
from qts_data.errors import InvalidRecord, QtsDataError

if TYPE_CHECKING:
    from collections.abc import Callable

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
    "copier",
    "instant_text",
    "read_instant",
]

_T = TypeVar("_T")
_SCHEMA: Final = "v"
_VALUE: Final = "json"


class ForeignRecord(Exception):
    """Raised for fields of another layout or another program. A reader counts them as a miss."""


class Codec(Protocol[_T]):
    """Turns values into fields and back.

    A codec may also have a method `copy(value)`. It returns an equal value, or the same one if it cannot be changed.
    Without it, values are copied by encoding and decoding them.
    """

    def encode(self, value: _T) -> Fields:
        """Return the value as fields."""
        ...

    def decode(self, found: Fields) -> _T:
        """Return the value of the fields.

        Raises:
            ForeignRecord: The fields are of another layout.
        """
        ...


def copier(codec: Codec[_T]) -> Callable[[_T], _T] | None:
    """Return the function that copies values of a codec, or None if its values cannot be changed and may be shared."""
    if isinstance(codec, RecordCodec) and codec.immutable:
        return None
    own: Callable[[_T], _T] | None = getattr(codec, "copy", None)
    return own if own is not None else lambda value: codec.decode(codec.encode(value))


def instant_text(value: dt.datetime) -> str:
    """Write an instant in UTC, to the microsecond."""
    return value.astimezone(dt.UTC).isoformat()


def read_instant(text: str) -> dt.datetime:
    """Read an instant, in UTC."""
    instant = dt.datetime.fromisoformat(text)
    if instant.tzinfo is dt.UTC:
        return instant
    if instant.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return instant.astimezone(dt.UTC)


_UNREADABLE: Final = (
    *(KeyError, ValueError, InvalidOperation, TypeError, AttributeError, OverflowError),
    *(RecursionError, MemoryError),
    *(msgspec.MsgspecError, QtsDataError),
)


class RecordCodec(Generic[_T]):
    """A frozen record as one text of JSON. Decimals and instants (in UTC) are texts in it.

    It is one field, not one for each attribute: with one for each, parsing a position took 21 microseconds instead of
    7.

    Args:
        record: The dataclass. Its annotations must be available at run time.
        schema: Version of the layout. Raise it when an attribute is added or removed or changes its meaning.
        immutable: Whether neither a record nor the values of its attributes can be changed. Then all callers share one
            object.
    """

    def __init__(self, record: type[_T], schema: int, *, immutable: bool = False) -> None:
        self._record = record
        self._schema = str(schema)
        self.immutable = immutable
        self._names = [item.name for item in fields(record)]  # type: ignore[arg-type]
        self._decoder = msgspec.json.Decoder(record)
        self._values = attrgetter(*self._names)

    def encode(self, value: _T) -> dict[str, str]:
        """Return the record as fields."""
        found = {name: _plain(getattr(value, name)) for name in self._names}
        return {_SCHEMA: self._schema, _VALUE: msgspec.json.encode(found).decode()}

    def decode(self, found: Fields) -> _T:
        """Return the record of the fields.

        Raises:
            ForeignRecord: The fields are of another layout.
        """
        try:
            if found[_SCHEMA] != self._schema:
                raise ForeignRecord(f"layout {found[_SCHEMA]}, not {self._schema}")
            value = self._decoder.decode(found[_VALUE])
            for item in self._values(value):
                kind = item.__class__
                if kind is Decimal:
                    if not item.is_finite():
                        raise ForeignRecord(f"{item} is not finite")
                elif kind is dt.datetime or kind is MappingProxyType:
                    _require_ours(item)
        except _UNREADABLE as error:
            raise ForeignRecord(f"{self._record.__name__}: {error!r}") from error
        return value

    def copy(self, value: _T) -> _T:
        """Return the record itself if it cannot be changed, otherwise a copy."""
        return value if self.immutable else self.decode(self.encode(value))


def _plain(value: object) -> object:
    kind = value.__class__
    if kind is str or kind is int or value is None:
        return value
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dt.datetime):
        return instant_text(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _require_ours(value: Any) -> None:
    """Refuse values that JSON allows and our codecs never write."""
    kind = value.__class__
    if kind is Decimal:
        if not value.is_finite():
            raise ValueError(f"{value} is not finite")
    elif kind is dt.datetime:
        if value.tzinfo is not dt.UTC:
            raise ValueError(f"{value} is not in UTC")
    elif kind is MappingProxyType:
        for item in value.values():
            _require_ours(item)


POSITION: Final = RecordCodec(Position, 1, immutable=True)
QUOTE: Final = RecordCodec(Quote, 1, immutable=True)
ORDER: Final = RecordCodec(OrderState, 1, immutable=True)
RISK: Final = RecordCodec(RiskLimits, 1, immutable=True)


class _StrategyCodec:
    """Parameters, each as a text `<type>:<value>`, because JSON has no decimals."""

    def encode(self, value: StrategyParameters) -> dict[str, str]:
        found = {name: _parameter_text(name, item) for name, item in value.parameters.items()}
        whole = {"strategy_id": value.strategy_id, "parameters": found}
        return {_SCHEMA: "1", _VALUE: msgspec.json.encode(whole).decode()}

    def decode(self, found: Fields) -> StrategyParameters:
        try:
            if found[_SCHEMA] != "1":
                raise ForeignRecord(f"layout {found[_SCHEMA]}")
            whole = msgspec.json.decode(found[_VALUE])
            return StrategyParameters(
                strategy_id=whole["strategy_id"],
                parameters={name: _read_parameter(name, text) for name, text in whole["parameters"].items()},
            )
        except _UNREADABLE as error:
            raise ForeignRecord(f"StrategyParameters: {error!r}") from error

    def copy(self, value: StrategyParameters) -> StrategyParameters:
        """Return the object itself, unless a parameter is a list or dict."""
        if not any(isinstance(item, list | dict) for item in value.parameters.values()):
            return value
        return replace(value, parameters={name: _copied(item) for name, item in value.parameters.items()})


def _parameter_text(name: str, value: ParameterValue) -> str:
    text, kind = parameter_to_text(name, value)
    return f"{kind}:{text}"


def _read_parameter(name: str, text: str) -> ParameterValue:
    kind, _, value = text.partition(":")
    return parameter_from_text(name, value, kind)


STRATEGY: Final[Codec[StrategyParameters]] = _StrategyCodec()


class JsonCodec(Generic[_T]):
    """Values that JSON represents exactly: texts, whole numbers, booleans, None, and lists and dicts of them.

    Args:
        schema: Version of the layout.

    Raises:
        InvalidRecord: The value contains another type: a float, a Decimal or an instant would be read back changed.
            Or a text contains half a surrogate pair.
    """

    def __init__(self, schema: int = 1) -> None:
        self._schema = str(schema)

    def encode(self, value: _T) -> dict[str, str]:
        """Return the value as one field."""
        _require_exact(value)
        text = json.dumps(value, ensure_ascii=False)
        if not text.isascii():
            _require_utf8(text)
        return {_SCHEMA: self._schema, _VALUE: text}

    def decode(self, found: Fields) -> _T:
        """Return the value of the field.

        Raises:
            ForeignRecord: The field is of another layout.
        """
        try:
            if found[_SCHEMA] != self._schema:
                raise ForeignRecord(f"layout {found[_SCHEMA]}, not {self._schema}")
            value: _T = json.loads(found[_VALUE])
        except _UNREADABLE as error:
            raise ForeignRecord(repr(error)) from error
        return value

    def copy(self, value: _T) -> _T:
        """Return the value with new lists and dicts."""
        return cast("_T", _copied(value))


def _require_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRecord(field="value", reason="holds half a surrogate pair, which no server takes") from error


_CHANGEABLE: Final = frozenset({list, dict})


def _copied(value: Any) -> Any:
    kind = value.__class__
    if kind is list:
        return [_copied(item) if item.__class__ in _CHANGEABLE else item for item in value]
    if kind is dict:
        return {name: _copied(item) if item.__class__ in _CHANGEABLE else item for name, item in value.items()}
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
