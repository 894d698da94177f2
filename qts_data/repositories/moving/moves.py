"""The records of a move: its phase, the progress of the copy, its comparisons, and the lock of its worker."""

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from qts_data.database.errors import translated_errors

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import AsyncIterator, Awaitable, Callable
    from decimal import Decimal

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.database.transactions import Transactions

__all__ = ["Checkpoint", "Look", "MoveRecords", "MoveState", "OpenedPosition", "list_opened", "only_worker"]

_LOCK_CLASS: Final = 0x515455
"""First half of the lock of a destination's worker."""
_LOCKED: Final = """
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = :class AND objid = :place
                      AND objsubid = 2 AND pid = pg_backend_pid() AND granted
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""


class Checkpoint(NamedTuple):
    """Progress of the copy of one table.

    Attributes:
        rows_done: Rows copied so far.
        digest: Digest of these rows.
    """

    rows_done: int
    digest: str


class Look(NamedTuple):
    """One comparison without tolerances.

    Attributes:
        mismatches: Number of differences.
        verified_at: Time of its end.
        since: Whether it ended in the present phase.
    """

    mismatches: int
    verified_at: dt.datetime
    since: bool


class MoveState(NamedTuple):
    """The state of a move.

    Attributes:
        phase: Its phase; None before it began.
        phase_since: Start of the phase.
        rollback_until: After a cutover, the end of the time for a rollback.
        copied: Rows done and total rows, by table.
        looks: Comparisons without tolerances, the newest first, at most 1,000.
    """

    phase: str | None
    phase_since: dt.datetime | None
    rollback_until: dt.datetime | None
    copied: dict[str, tuple[int, int]]
    looks: list[Look]


class OpenedPosition(NamedTuple):
    """A position that an earlier copy opened with fills of its own.

    Attributes:
        account: Account of the position.
        symbol: Symbol of the position.
        qty: Signed quantity of these fills.
        at: Time of the first of them.
    """

    account: str
    symbol: str
    qty: Decimal
    at: dt.datetime


class MoveRecords:
    """The records of the move of one source, in the transaction of one connection. It never commits.

    Args:
        connection: In a transaction.
        source: Name of the source in the database.
    """

    def __init__(self, connection: AsyncConnection, source: str) -> None:
        self._connection = connection
        self._source = source

    async def state(self) -> MoveState:
        """Return the state of the move."""
        move = (
            await self._run("SELECT phase, phase_since, rollback_until FROM source_moves WHERE source = :source")
        ).first()
        copied = await self._run(
            "SELECT kind, rows_done, rows_total FROM source_move_checkpoints WHERE source = :source"
        )
        tables = {row.kind: (row.rows_done, row.rows_total) for row in copied}
        looks = await self._run(
            "SELECT v.mismatches, v.verified_at, v.verified_at >= m.phase_since AS since "
            "FROM source_move_verifications AS v JOIN source_moves AS m USING (source) "
            "WHERE v.source = :source AND CAST(v.report -> 'tolerances' AS jsonb) = '{}' "
            "ORDER BY v.id DESC LIMIT 1000"
        )
        return MoveState(
            phase=move.phase if move else None,
            phase_since=move.phase_since if move else None,
            rollback_until=move.rollback_until if move else None,
            copied=tables,
            looks=[Look(row.mismatches, row.verified_at, row.since) for row in looks],
        )

    async def enter(self, phase: str, until: dt.datetime | None = None) -> None:
        """Write the phase. A phase that is entered again keeps its start.

        Args:
            phase: The phase.
            until: After a cutover, the end of the time for a rollback.
        """
        await self._run(
            "INSERT INTO source_moves (source, phase, rollback_until) VALUES (:source, :phase, :until) "
            "ON CONFLICT (source) DO UPDATE SET phase = :phase, rollback_until = :until, phase_since = CASE "
            "WHEN source_moves.phase = :phase THEN source_moves.phase_since ELSE clock_timestamp() END",
            phase=phase,
            until=until,
        )

    async def record_verification(self, mismatches: int, report: str) -> None:
        """Store the report of a comparison, if the move has begun.

        Args:
            mismatches: Number of differences.
            report: The report as JSON.
        """
        await self._run(
            "INSERT INTO source_move_verifications (source, mismatches, report) "
            "SELECT source, :mismatches, CAST(:report AS json) FROM source_moves WHERE source = :source",
            mismatches=mismatches,
            report=report,
        )

    async def find_checkpoint(self, kind: str) -> Checkpoint | None:
        """Return the progress of a table's copy. None before its first rows."""
        row = (
            await self._run(
                "SELECT rows_done, digest FROM source_move_checkpoints WHERE source = :source AND kind = :kind",
                kind=kind,
            )
        ).first()
        return None if row is None else Checkpoint(int(row.rows_done), row.digest)

    async def record_checkpoint(self, kind: str, *, done: int, total: int, digest: str) -> None:
        """Write the progress of a table's copy.

        Args:
            kind: The table.
            done: Rows copied so far.
            total: Rows of the source.
            digest: Digest of the copied rows.
        """
        await self._run(
            "INSERT INTO source_move_checkpoints (source, kind, rows_done, rows_total, digest) "
            "VALUES (:source, :kind, :done, :total, :digest) ON CONFLICT (source, kind) DO UPDATE "
            "SET rows_done = :done, rows_total = :total, digest = :digest, updated_at = clock_timestamp()",
            kind=kind,
            done=done,
            total=total,
            digest=digest,
        )

    async def _run(self, statement: str, **values: object) -> sa.CursorResult[Any]:
        with translated_errors():
            return await self._connection.execute(sa.text(statement), {"source": self._source} | values)


async def list_opened(connection: AsyncConnection, broker: str, prefix: str) -> list[OpenedPosition]:
    """List the positions of one broker's fills whose stored ids begin with a prefix.

    Args:
        connection: In a transaction.
        broker: Broker of the fills.
        prefix: Start of their stored ids.
    """
    statement = sa.text(
        "SELECT account, symbol, trim_scale(sum(CASE side WHEN 'BUY' THEN qty ELSE -qty END)) AS qty, "
        "min(timestamp) AS at FROM t_ledger "
        "WHERE broker = :broker AND starts_with(execution_id, :prefix) GROUP BY account, symbol"
    )
    with translated_errors():
        rows = await connection.execute(statement, {"broker": broker, "prefix": prefix})
    return [OpenedPosition(*row) for row in rows]


@contextlib.asynccontextmanager
async def only_worker(
    database: Transactions[Any, Any], destination: str, *, begin: Callable[[], None]
) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Yield a function that tells whether no other worker delivers to a destination. Call it before each batch.

    The lock ends with its connection, and the server does not report that. A batch in progress may then run beside
    the first batch of another worker.

    Args:
        database: The database.
        destination: Name of the destination.
        begin: Called if the lock was free.
    """
    lock = {"class": _LOCK_CLASS, "place": zlib.crc32(destination.encode()) & 0x7FFFFFFF}
    with translated_errors(database.url):
        engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            got = await connection.scalar(sa.text("SELECT pg_try_advisory_lock(:class, :place)"), lock)
            if got:
                begin()

            async def alone() -> bool:
                return bool(got) and bool(await connection.scalar(sa.text(_LOCKED), lock))

            try:
                yield alone
            finally:
                if got and not connection.invalidated:
                    with contextlib.suppress(sa.exc.SQLAlchemyError):
                        await connection.execute(sa.text("SELECT pg_advisory_unlock(:class, :place)"), lock)
