"""The outbox: its destinations, and their pending and refused messages."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import sqlalchemy as sa

from qts_data.contracts.identity import check_asked
from qts_data.contracts.instants import utc_fields, utc_or_none
from qts_data.database.errors import translated_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Outbox", "OutboxStatus", "OutboxTask"]

_FIRST_PAUSE_SECONDS: Final = 5
_LONGEST_PAUSE_SECONDS: Final = 600

_DUE: Final = """
    SELECT id, kind, account, symbol, ledger_id, attempts FROM outbox AS o
     WHERE destination = :destination AND state = 'pending' AND id > :after
       -- A refused message blocks its own position, and no other.
       AND NOT EXISTS (SELECT FROM outbox AS b
                        WHERE b.destination = o.destination AND b.account = o.account AND b.symbol = o.symbol
                          AND b.attempts > 0 AND b.id <= o.id
                          AND (b.state = 'dead' OR b.next_attempt_at > clock_timestamp()))
     ORDER BY id LIMIT :limit
"""
_RECENT: Final = 10_000
"""Number of ids before the last one that may belong to transactions still open."""
_HORIZON: Final = """
    WITH newest AS (SELECT COALESCE(max(id), 0) AS last FROM t_ledger)
    SELECT last,
           ARRAY(SELECT o.ledger_id FROM outbox AS o
                  WHERE o.destination = :destination AND o.ledger_id IS NOT NULL AND o.state = 'pending'
                    AND NOT EXISTS (SELECT FROM outbox AS b
                                     WHERE b.destination = o.destination AND b.account = o.account
                                       AND b.symbol = o.symbol AND b.attempts > 0 AND b.id <= o.id)) AS waiting,
           -- Ids are assigned at the insert, and visible after the commit: a gap may still be filled.
           ARRAY(SELECT n FROM generate_series(GREATEST(1, last - :recent), last) AS n
                  WHERE NOT EXISTS (SELECT FROM t_ledger WHERE id = n)) AS missing
      FROM newest
"""
_STATUS: Final = """
    SELECT d.active AND (d.until IS NULL OR d.until > now()) AS active, d.until, d.delivered, d.delivered_at,
           d.failures, d.last_error,
           (SELECT count(*) FROM outbox WHERE destination = d.name AND state = 'pending') AS pending,
           (SELECT count(*) FROM outbox WHERE destination = d.name AND state = 'dead') AS dead,
           (SELECT clock_timestamp() - min(created_at) FROM outbox WHERE destination = d.name) AS lag
      FROM outbox_destinations AS d WHERE d.name = :destination
"""


@dataclass(frozen=True, slots=True)
class OutboxTask:
    """One message to deliver.

    Attributes:
        id: Order of delivery.
        kind: `fill` for an entry of the ledger, `position` for a new valuation.
        account: Account of the position.
        symbol: Symbol of the position.
        ledger_id: The entry; None for a valuation.
        attempts: Number of refused attempts.
    """

    id: int
    kind: Literal["fill", "position"]
    account: str
    symbol: str
    ledger_id: int | None
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStatus:
    """State of a destination.

    Attributes:
        active: Whether new fills are put into the outbox for it.
        until: Time from which on they are not; None for no end.
        pending: Number of pending messages.
        dead: Number of messages that were refused too often. Each blocks its position until a person decides.
        delivered: Number of messages delivered so far.
        delivered_at: Time of the last delivery.
        lag: Age of the oldest message; None if there is none.
        failures: Number of failed attempts since the last delivery.
        last_error: Error of the last failed attempt.
    """

    active: bool
    until: dt.datetime | None
    pending: int
    dead: int
    delivered: int
    delivered_at: dt.datetime | None
    lag: dt.timedelta | None
    failures: int
    last_error: str | None

    def __post_init__(self) -> None:
        """Convert the instants to UTC."""
        utc_fields(self, "until", "delivered_at")

    @property
    def empty(self) -> bool:
        """Whether every message is delivered."""
        return not self.pending and not self.dead


_UNKNOWN: Final = OutboxStatus(
    active=False, until=None, pending=0, dead=0, delivered=0, delivered_at=None, lag=None, failures=0, last_error=None
)


class Outbox:
    """One destination's part of the outbox, in the transaction of one connection. It never commits.

    Args:
        connection: In a transaction.
        destination: Name of the data source.
    """

    def __init__(self, connection: AsyncConnection, destination: str) -> None:
        check_asked(destination=destination)
        self._connection = connection
        self._destination = destination

    async def enable(self, *, until: dt.datetime | None = None) -> None:
        """Put every new fill into the outbox, from the end of this transaction on.

        Args:
            until: Time from which on they are not; None for no end.
        """
        until = utc_or_none("until", until)
        await self._run(
            "INSERT INTO outbox_destinations (name, active, until) VALUES (:destination, true, :until) "
            "ON CONFLICT (name) DO UPDATE SET active = true, until = excluded.until",
            until=until,
        )

    async def disable(self) -> None:
        """Put no more messages into the outbox. Pending messages stay."""
        await self._run("UPDATE outbox_destinations SET active = false WHERE name = :destination")

    async def add_position(self, account: str, symbol: str) -> None:
        """Add the delivery of a new valuation, if the destination is enabled."""
        check_asked(account=account, symbol=symbol)
        await self._run(
            "INSERT INTO outbox (destination, kind, account, symbol) SELECT name, 'position', :account, :symbol "
            "FROM outbox_destinations WHERE name = :destination AND active AND (until IS NULL OR until > now())",
            account=account,
            symbol=symbol,
        )

    async def add_fills(self, ledger_ids: Sequence[int]) -> None:
        """Add the delivery of entries: those booked before the destination was enabled, or entries once more."""
        await self._run(
            "INSERT INTO outbox (destination, kind, account, symbol, ledger_id) "
            "SELECT :destination, 'fill', account, symbol, id FROM t_ledger WHERE id = ANY(:ids) ORDER BY id",
            ids=list(ledger_ids),
        )

    async def due(self, *, after: int = 0, limit: int = 500) -> list[OutboxTask]:
        """List the next messages to deliver, in order. Messages of a blocked position are left out.

        Args:
            after: Only messages with a higher id.
            limit: Most messages to return.
        """
        statement = sa.text(_DUE)
        values = {"destination": self._destination, "after": after, "limit": limit}
        with translated_errors():
            return [OutboxTask(*row) for row in await self._connection.execute(statement, values)]

    async def last_fills(self) -> dict[tuple[str, str], int]:
        """Return the last waiting fill of each position, by its id in the outbox."""
        statement = sa.text(
            "SELECT account, symbol, max(id) FROM outbox WHERE destination = :destination AND kind = 'fill' "
            "GROUP BY account, symbol"
        )
        with translated_errors():
            rows = await self._connection.execute(statement, {"destination": self._destination})
        return {(account, symbol): last for account, symbol, last in rows}

    async def delivered(self, tasks: Iterable[OutboxTask]) -> None:
        """Delete delivered messages, and count them."""
        ids = [task.id for task in tasks]
        await self._run("DELETE FROM outbox WHERE destination = :destination AND id = ANY(:ids)", ids=ids)
        await self._run(
            "UPDATE outbox_destinations SET delivered = delivered + :count, delivered_at = clock_timestamp(), "
            "failures = 0 WHERE name = :destination",
            count=len(ids),
        )

    async def failed(self, error: str) -> None:
        """Record a failed attempt to reach the destination."""
        await self._run(
            "UPDATE outbox_destinations SET failures = failures + 1, last_error = :error WHERE name = :destination",
            error=error,
        )

    async def refused(self, task: OutboxTask, error: str, *, most_attempts: int) -> None:
        """Record that the destination refused a message. After `most_attempts` refusals, the message is dead."""
        pause = min(_FIRST_PAUSE_SECONDS * 2**task.attempts, _LONGEST_PAUSE_SECONDS)
        await self._run(
            "UPDATE outbox SET attempts = attempts + 1, last_error = :error, "
            "state = CASE WHEN attempts + 1 >= :most THEN 'dead' ELSE 'pending' END, "
            "next_attempt_at = clock_timestamp() + make_interval(secs => :pause) "
            "WHERE destination = :destination AND id = :id",
            error=error,
            most=most_attempts,
            pause=pause,
            id=task.id,
        )

    async def revive(self) -> int:
        """Make all dead and refused messages due again, now. Return their number."""
        return await self._run(
            "UPDATE outbox SET state = 'pending', attempts = 0 WHERE destination = :destination AND attempts > 0"
        )

    async def waiting_fills(self) -> set[int]:
        """Return the ids of the ledger's entries that wait or were refused."""
        statement = sa.text("SELECT ledger_id FROM outbox WHERE destination = :destination AND ledger_id IS NOT NULL")
        with translated_errors():
            return set(await self._connection.scalars(statement, {"destination": self._destination}))

    async def is_enabled(self) -> bool:
        """Tell whether new fills are put into the outbox for the destination."""
        statement = sa.text(
            "SELECT EXISTS (SELECT FROM outbox_destinations WHERE name = :destination AND active "
            "AND (until IS NULL OR until > now()))"
        )
        with translated_errors():
            return bool(await self._connection.scalar(statement, {"destination": self._destination}))

    async def horizon(self) -> tuple[int, list[int]]:
        """Return the last entry of the ledger, and the entries before it that are on their way or not committed yet.

        A refused message, or one that waits behind it, is not on its way.
        """
        values = {"destination": self._destination, "recent": _RECENT}
        with translated_errors():
            row = (await self._connection.execute(sa.text(_HORIZON), values)).one()
        return row.last, [*row.waiting, *row.missing]

    async def under_way(self, horizon: tuple[int, list[int]]) -> list[tuple[str, str, str, str]]:
        """List the entries whose delivery since a horizon is uncertain: broker, account, execution id and symbol."""
        statement = sa.text(
            "SELECT broker, account, execution_id, symbol FROM t_ledger WHERE id > :last OR id = ANY(:waiting)"
        )
        with translated_errors():
            rows = await self._connection.execute(statement, {"last": horizon[0], "waiting": horizon[1]})
        return [(row.broker, row.account, row.execution_id, row.symbol) for row in rows]

    async def status(self) -> OutboxStatus:
        """Return the state of the destination."""
        with translated_errors():
            found = await self._connection.execute(sa.text(_STATUS), {"destination": self._destination})
            row = found.mappings().first()
        return _UNKNOWN if row is None else OutboxStatus(**row)

    async def _run(self, statement: str, **values: object) -> int:
        with translated_errors():
            result = await self._connection.execute(sa.text(statement), {"destination": self._destination} | values)
        return int(result.rowcount)
