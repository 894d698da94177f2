"""Execution ids as the ledger stores them: a broker's id with the scope in which it is unique, or a caller's key.

A scoped id is readable text, such as `scope:day=2026-11-20,symbol=BTCUSDT/28457`, and can be split again. So one
text names an entry everywhere: in the ledger's unique key, in busts and corrections, in sheets and in files.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "IDEMPOTENCY_PREFIX",
    "MAX_STORED_ID_LENGTH",
    "SCOPE_KINDS",
    "SCOPE_PREFIX",
    "parse_scope",
    "scope_kinds",
    "scope_text",
    "split_stored_id",
    "stored_execution_id",
]

IDEMPOTENCY_PREFIX: Final = "key:"
"""Text that begins an idempotency key of the caller, to separate it from the execution ids of brokers."""
SCOPE_PREFIX: Final = "scope:"
"""Text that begins an id with a scope."""
SCOPE_KINDS: Final = ("day", "symbol", "order", "side")
"""The parts of a scope, in the order in which they are written."""
MAX_STORED_ID_LENGTH: Final = 512
"""Most characters of an id with its scope. An index entry has a size limit."""

_ESCAPES: Final = {ord(character): f"%{ord(character):02X}" for character in "%,/"}


def scope_kinds(text: str) -> tuple[str, ...]:
    """Return the parts of a declared scope, such as `day,symbol`.

    Raises:
        InvalidRecord: The text holds anything but `day`, `symbol`, `order` and `side`, or one of them twice.
    """
    given = [part.strip() for part in text.split(",")] if isinstance(text, str) else []
    if not given or len(set(given)) != len(given) or not set(given) <= set(SCOPE_KINDS):
        raise InvalidRecord(
            field="id_scope",
            reason=f"{text!r} is not a scope: write one or more of {', '.join(SCOPE_KINDS)}, each once",
        )
    return tuple(kind for kind in SCOPE_KINDS if kind in given)


def scope_text(parts: Mapping[str, str]) -> str:
    """Return the text of a scope, such as `day=2026-11-20,symbol=BTCUSDT`.

    In values, `%`, `,` and `/` become `%25`, `%2C` and `%2F`.
    """
    return ",".join(f"{kind}={parts[kind].translate(_ESCAPES)}" for kind in SCOPE_KINDS if kind in parts)


def parse_scope(text: str) -> dict[str, str]:
    """Return the parts of a scope's text. An empty text has none.

    Raises:
        InvalidRecord: The text differs from the form that `scope_text` writes.
    """
    if not text:
        return {}
    parts: dict[str, str] = {}
    for part in text.split(","):
        kind, _, value = part.partition("=")
        for character in "/,%":  # % is the last: the escapes themselves begin with it
            value = value.replace(f"%{ord(character):02X}", character)
        parts[kind] = value
    if scope_text(parts) != text or not all(parts.values()):
        raise InvalidRecord(
            field="id_scope",
            reason=f"{text!r} is not a scope: write it as in day=2026-11-20,symbol=BTCUSDT,order=7,side=BUY",
        )
    _check_day(parts.get("day"))
    if parts.get("side") not in {None, "BUY", "SELL"}:
        raise InvalidRecord(field="id_scope", reason=f"its side must be BUY or SELL, is {parts['side']!r}")
    return parts


def stored_execution_id(scope: str, execution_id: str) -> str:
    """Return an execution id as the ledger stores it."""
    return f"{SCOPE_PREFIX}{scope}/{execution_id}" if scope else execution_id


def split_stored_id(stored: str) -> tuple[str, str]:
    """Split a stored id into its scope, empty without one, and the broker's id."""
    if not stored.startswith(SCOPE_PREFIX):
        return "", stored
    scope, slash, execution_id = stored.removeprefix(SCOPE_PREFIX).partition("/")
    return (scope, execution_id) if slash and scope else ("", stored)


def _check_day(day: str | None) -> None:
    if day is None:
        return
    try:
        good = dt.date.fromisoformat(day).isoformat() == day
    except ValueError:
        good = False
    if not good:
        raise InvalidRecord(field="id_scope", reason=f"its day must be written as 2026-11-20, is {day!r}")
