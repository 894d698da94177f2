"""Checks of execution ids and their scopes, for every record that carries one."""

from __future__ import annotations

from typing import Final

from qts_data.contracts.identity import check_identifier
from qts_data.contracts.ids import (
    IDEMPOTENCY_PREFIX,
    MAX_STORED_ID_LENGTH,
    SCOPE_PREFIX,
    parse_scope,
    stored_execution_id,
)
from qts_data.errors import InvalidRecord

__all__ = ["MAX_ID_LENGTH", "MAX_NAME_LENGTH", "check_execution_id", "check_stored_id", "checked_scope"]

MAX_NAME_LENGTH: Final = 64
"""Longest market, broker or account, in characters."""
MAX_ID_LENGTH: Final = 256
"""Longest id of a broker or an engine, in characters."""


def check_stored_id(field: str, value: str) -> None:
    """Check an id as the ledger stores it: a broker's id, perhaps with its scope, or a marked idempotency key."""
    longest = MAX_ID_LENGTH
    if isinstance(value, str) and value.startswith(IDEMPOTENCY_PREFIX):
        longest += len(IDEMPOTENCY_PREFIX)
    elif isinstance(value, str) and value.startswith(SCOPE_PREFIX):
        longest = MAX_STORED_ID_LENGTH
    check_identifier(field, value, shortest=1, longest=longest)


def checked_scope(scope: str, execution_id: str) -> dict[str, str]:
    """Return the parts of a scope. Refuse a text that is not a scope, or that is too long together with its id."""
    check_identifier("id_scope", scope, shortest=0, longest=MAX_STORED_ID_LENGTH)
    stored = stored_execution_id(scope, execution_id)
    if len(stored) > MAX_STORED_ID_LENGTH:
        reason = f"and execution_id have {len(stored)} characters together, at most {MAX_STORED_ID_LENGTH} fit"
        raise InvalidRecord(field="id_scope", reason=reason)
    return parse_scope(scope)


def check_execution_id(value: str) -> None:
    """Refuse an execution id that a broker cannot have, or that would be read as a stored id."""
    check_identifier("execution_id", value, shortest=1, longest=MAX_ID_LENGTH)
    if value.startswith(SCOPE_PREFIX):
        raise InvalidRecord(
            field="execution_id", reason=f"begins with {SCOPE_PREFIX!r}, which marks scopes; give it as id_scope"
        )
    if value.startswith(IDEMPOTENCY_PREFIX):
        raise InvalidRecord(
            field="execution_id", reason=f"begins with {IDEMPOTENCY_PREFIX!r}, which marks idempotency keys"
        )
