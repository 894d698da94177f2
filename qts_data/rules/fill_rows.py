"""Rows of the ledger as the server's text, by the declaration of `BookedEntry` and its `LedgerEntry`.

Every fill goes through here. So the declarations are compiled once, on import, into the expressions that one would
write by hand: a loop over them takes 2 microseconds more for a row out, and 7 more for a row in.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from qts_data.contracts import IDEMPOTENCY_PREFIX, BookedEntry, LedgerEntry, split_stored_id
from qts_data.contracts.fields import columns_of
from qts_data.contracts.leniency import as_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from qts_data.contracts.fields import Stored

__all__ = [
    "EFFECT_COLUMNS",
    "FILL_COLUMNS",
    "booked_of",
    "decimal",
    "fill_of",
    "fill_row",
    "instant",
    "stored_id",
    "utc_text",
]


def decimal(value: str | None) -> Decimal:
    """A NOT NULL number."""
    return Decimal(cast("str", value))


def instant(value: str | None) -> dt.datetime:
    """A NOT NULL instant, in UTC; the session's DateStyle is ISO."""
    return dt.datetime.fromisoformat(cast("str", value)).astimezone(dt.UTC)


def utc_text(value: dt.datetime) -> str:
    """An aware instant as it is sent: the server takes fewer offsets than Python does."""
    return value.astimezone(dt.UTC).isoformat()


def stored_id(value: str) -> dict[str, str]:
    """An execution id as the ledger keeps it, as the fields of the record that it belongs in."""
    if value.startswith(IDEMPOTENCY_PREFIX):
        return {"idempotency_key": value.removeprefix(IDEMPOTENCY_PREFIX)}
    scope, execution_id = split_stored_id(value)
    return {"execution_id": execution_id, "id_scope": scope} if scope else {"execution_id": value}


_TO_TEXT: Final = MappingProxyType({"numeric": "str", "bigint": "str", "timestamptz": "utc_text"})
_FROM_TEXT: Final = MappingProxyType({"numeric": "decimal", "bigint": "int", "timestamptz": "instant"})
_NAMES: Final = {"utc_text": utc_text, "decimal": decimal, "instant": instant, "stored_id": stored_id}

_BOOKED: Final = columns_of(BookedEntry)
_FILL: Final = columns_of(LedgerEntry)
_EFFECTS: Final = {name: declared for name, declared in _BOOKED.items() if name not in _FILL}
FILL_COLUMNS: Final = {name: declared.sql for name, declared in _FILL.items()}
"""Columns of a fill with their types, in the order of `fill_row` and `fill_of`."""
EFFECT_COLUMNS: Final = {name: declared.sql for name, declared in _EFFECTS.items()}
"""Columns of the ledger that say what a fill did, with their types, in the order of `booked_of`."""


def _converted(value: str, declared: Stored, by_type: Mapping[str, str]) -> str:
    """The expression that converts a value; texts are the same on both sides."""
    convert = by_type.get(declared.sql)
    if convert is None:
        return value
    return f"None if {value} is None else {convert}({value})" if declared.null else f"{convert}({value})"


def _made(source: str) -> Any:
    # Every name in the source comes from the declarations: from this package, never from data.
    return eval(source, {**_NAMES, "LedgerEntry": LedgerEntry, "BookedEntry": BookedEntry})  # noqa: S307


def _row_source() -> str:
    values = [_converted(f"entry.{one.source or name}", one, _TO_TEXT) for name, one in _FILL.items()]
    return f"lambda entry: [{', '.join(values)}]"


def _fill_source() -> str:
    given = []
    for name, one in _FILL.items():
        given.append(f"**stored_id({name})" if one.source else f"{name}={_converted(name, one, _FROM_TEXT)}")
    return f"lambda {', '.join(_FILL)}: LedgerEntry({', '.join(given)})"


def _booked_source() -> str:
    given = [f"{name}={_converted(name, one, _FROM_TEXT)}" for name, one in _EFFECTS.items()]
    return f"lambda entry, {', '.join(_EFFECTS)}: BookedEntry(entry=entry, {', '.join(given)})"


fill_row: Final[Callable[[LedgerEntry], list[str | None]]] = _made(_row_source())
"""The row of a fill, in the order of `FILL_COLUMNS`."""
_fill: Final[Callable[..., LedgerEntry]] = _made(_fill_source())
booked_of: Final[Callable[..., BookedEntry]] = _made(_booked_source())
"""A row of the ledger: called with the fill, and with the other columns in the order of `EFFECT_COLUMNS`."""


def fill_of(row: Iterable[str | None]) -> LedgerEntry:
    """A fill as it was read, in the order of `FILL_COLUMNS`; it may be older than a rule that it breaks."""
    with as_stored():
        return _fill(*row)
