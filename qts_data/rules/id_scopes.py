"""One scope for each broker. A fill in another scope may be booked already, under another id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qts_data.contracts.ids import parse_scope
from qts_data.errors import LedgerConflict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qts_data.contracts import LedgerEntry

__all__ = ["kinds_of", "require_scope", "scopes_of"]


def kinds_of(entry: LedgerEntry) -> str | None:
    """Return the kinds of a fill's scope, such as `day,symbol`. A caller's own key needs no scope: None."""
    return None if entry.execution_id is None else ",".join(parse_scope(entry.id_scope))


def scopes_of(entries: Iterable[LedgerEntry]) -> dict[str, str]:
    """Return the scope of each broker by its last fill. A broker without a scoped fill is left out."""
    return {entry.broker: kinds for entry in entries if (kinds := kinds_of(entry))}


def require_scope(entry: LedgerEntry, scopes: Mapping[str, str]) -> None:
    """Refuse a new fill whose scope differs from its broker's.

    Args:
        entry: The fill, with its scope.
        scopes: The scopes of brokers. A broker without one accepts any scope.

    Raises:
        LedgerConflict: The scope differs; the message names both scopes and the setting.
    """
    given, recorded = kinds_of(entry), scopes.get(entry.broker)
    if given is None or not recorded or given == recorded:
        return
    has = f"the scope {given!r}" if given else "no scope"
    raise LedgerConflict(
        f"execution ids of {entry.broker!r} are booked in the scope {recorded!r}, and this execution id has {has}, so "
        f"that its fill may be booked already; declare {recorded!r} in QTS_BOOK_ID_SCOPES, or in the mapping of a file",
        booked=f"the scope {recorded} of {entry.broker}",
        given=str(entry),
    )
