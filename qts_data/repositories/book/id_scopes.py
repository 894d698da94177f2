"""Scopes of execution ids. Each broker has one, recorded with its first scoped fill.

A process that was started without the scope, or with another one, would book fills a second time under another id. The
scope is read under the lock of the position. So the check also works against a process that is already running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qts_data.database.pipeline import Pipeline, Statement, array
from qts_data.errors import TransactionConflict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    import psycopg

    from qts_data.contracts import LedgerEntry

__all__ = ["READ_SCOPES", "brokers_of", "change_scope", "record_scopes"]

READ_SCOPES: Final = Statement(
    "read_id_scopes", "SELECT broker, scope FROM id_scopes WHERE broker = ANY($1::text[]) ORDER BY broker"
)
_RECORD: Final = Statement(
    "record_id_scope",
    # An update without a change: DO NOTHING would return no row.
    "INSERT INTO id_scopes AS s (broker, scope) VALUES ($1, $2) "
    "ON CONFLICT (broker) DO UPDATE SET scope = s.scope RETURNING scope",
)
_FORGET: Final = Statement("forget_id_scope", "DELETE FROM id_scopes WHERE broker = $1")
_CHANGE: Final = Statement(
    "change_id_scope",
    "INSERT INTO id_scopes (broker, scope) VALUES ($1, $2) ON CONFLICT (broker) DO UPDATE SET scope = excluded.scope",
)


async def record_scopes(driver: psycopg.AsyncConnection[Any], scopes: Mapping[str, str]) -> None:
    """Record the scopes of brokers that have none yet.

    Raises:
        TransactionConflict: Another transaction recorded a different scope in the meantime.
    """
    if not scopes:
        return
    pipeline = Pipeline(driver)
    brokers = sorted(scopes)
    for broker in brokers:
        pipeline.add(_RECORD, broker, scopes[broker])
    for broker, rows in zip(brokers, await pipeline.run(), strict=True):
        if rows[0][0] != scopes[broker]:
            raise TransactionConflict(f"another transaction recorded the scope {rows[0][0]!r} for {broker!r}")


def brokers_of(entries: Iterable[LedgerEntry]) -> str:
    """Return the parameter of `READ_SCOPES`: the brokers of fills."""
    return array(sorted({entry.broker for entry in entries}))


async def change_scope(driver: psycopg.AsyncConnection[Any], broker: str, scope: str) -> None:
    """Record another scope for a broker. An empty scope removes the record."""
    pipeline = Pipeline(driver)
    if scope:
        pipeline.add(_CHANGE, broker, scope)
    else:
        pipeline.add(_FORGET, broker)
    await pipeline.run()
