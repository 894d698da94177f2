"""Reversals of a ledger in a sheet or file: whether their fills exist, and whether they are the opposite."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from qts_data.errors import InvalidRecord, LedgerConflict
from qts_data.moving.fills import require_opposite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qts_data.contracts import LedgerEntry
    from qts_data.importers.tables import Header
    from qts_data.repositories import Database
    from qts_data.rules.fill_identity import FillIdentity

    Record: TypeAlias = tuple[int, LedgerEntry, Mapping[str, Any]]

__all__ = ["FillKey", "IsBooked", "booked_in", "wrong_references"]

FillKey: TypeAlias = tuple[str, str, str]
"""Broker, account and execution id."""
IsBooked: TypeAlias = Callable[[FillKey], Awaitable[bool]]
"""Returns whether a fill exists."""


def booked_in(database: Database) -> IsBooked:
    """Return a function that looks a fill up in the ledger of a database."""

    async def is_booked(key: FillKey) -> bool:
        async with database.reader() as reader:
            return await reader.ledger.find_entry(*key) is not None

    return is_booked


async def wrong_references(
    header: Header, records: Sequence[Record], is_booked: IsBooked | None, identity: FillIdentity
) -> list[InvalidRecord]:
    """Return the errors in the rows that reverse a fill. Each names the cell.

    Args:
        header: Places of the columns.
        records: All rows of the ledger.
        is_booked: Returns whether a fill that the sheet lacks exists; None means that it does not.
        identity: Scopes in which the execution ids of brokers are unique.
    """
    rows = {entry.key: (row, entry, values) for row, entry, values in records}
    reversed_by: dict[FillKey, int] = {}
    wrong = []
    for row, entry, values in records:
        reverses = values.get("reverses")
        if reverses is None:
            continue
        key = entry.broker, entry.account, identity.reference(entry, reverses)
        reason = _reason(entry, rows.get(key), reversed_by.setdefault(key, row), row)
        if values.get("execution_id") is None:
            reason = "a row that reverses a fill needs an execution_id, that of the report"
        if reason is None and key not in rows and not (is_booked is not None and await is_booked(key)):
            reason = f"the fill {reverses!r} of {entry.broker}/{entry.account} is missing"
        if reason is not None:
            wrong.append(header.located(InvalidRecord(field="reverses", reason=reason), row))
    return wrong


def _reason(entry: LedgerEntry, fill: Record | None, reversed_in: int, row: int) -> str | None:
    if reversed_in != row:
        return f"row {reversed_in} reverses the same fill"
    if fill is None:
        return None
    number, original, values = fill
    if values.get("reverses") is not None:
        return f"row {number} is not a fill, but a reversal itself"
    try:
        require_opposite(original, entry)
    except LedgerConflict as error:
        return str(error)
    return None
