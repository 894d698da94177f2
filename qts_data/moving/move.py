"""The phases of a move: what may follow what, what a cutover asks for, and how long the way back is open."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from qts_data.adapters.feed import Feed
from qts_data.contracts import IDEMPOTENCY_PREFIX
from qts_data.contracts.instants import utc_fields
from qts_data.errors import ConfigurationError, QtsDataError
from qts_data.moving.consistency import verify_data_consistency
from qts_data.moving.consistency.sides import OPENING_PREFIX
from qts_data.moving.copy import copy_all
from qts_data.moving.delivery import OutboxWorker
from qts_data.moving.plan import opened_before, plan
from qts_data.moving.references import booked_in
from qts_data.repositories import OutboxStatus
from qts_data.repositories.moving.moves import MoveRecords
from qts_data.repositories.moving.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

    from qts_data.adapters.sheets.adapter import GoogleSheetsAdapter
    from qts_data.moving.consistency import ConsistencyReport
    from qts_data.moving.delivery import DeliveryConfig
    from qts_data.moving.plan import Plan
    from qts_data.repositories import Database

__all__ = ["CutoverGates", "Move", "MoveStatus"]

_log = logging.getLogger(__name__)
_NONE: Final[dict[str, Decimal]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class CutoverGates:
    """What must hold before a cutover.

    Attributes:
        clean_verifications: So many comparisons in a row, the last ones, found no difference; those with tolerances
            do not count.
        newest: The last of them is not older than this.
        lag: The oldest message of the outbox was not older than this at the last look.
        rollback: How long after the cutover the way back stays open.
    """

    clean_verifications: int = 3
    newest: dt.timedelta = dt.timedelta(hours=1)
    lag: dt.timedelta = dt.timedelta(seconds=30)
    rollback: dt.timedelta = dt.timedelta(days=14)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveStatus:
    """How a move stands.

    Attributes:
        phase: copy, copied, shadow, cutover or rolled_back; None before it began.
        phase_since: When that began.
        copied: Rows done and rows altogether, by table.
        clean_verifications: Comparisons without a difference, in a row, the last ones without tolerances.
        verified_at: When the last comparison without tolerances ended.
        mismatches: What it found.
        outbox: The outbox.
        rollback_until: After a cutover: when the way back closes.
    """

    phase: str | None
    phase_since: dt.datetime | None
    copied: dict[str, tuple[int, int]]
    clean_verifications: int
    verified_at: dt.datetime | None
    mismatches: int | None
    outbox: OutboxStatus
    rollback_until: dt.datetime | None

    def __post_init__(self) -> None:
        """Keep instants in UTC."""
        utc_fields(self, "phase_since", "verified_at", "rollback_until")


class Move:
    """A move from a spreadsheet to the database.

    Args:
        database: The database.
        sheets: The spreadsheet.
        source: Its name in the database.
        delivery: How the outbox is delivered.
    """

    def __init__(
        self,
        database: Database,
        sheets: GoogleSheetsAdapter,
        *,
        source: str = "sheets",
        delivery: DeliveryConfig | None = None,
    ) -> None:
        self._database = database
        self._sheets = sheets
        self._source = source
        self.feed: Feed = Feed(database, source)
        self.worker: OutboxWorker = OutboxWorker(database, sheets.writer, destination=source, config=delivery)

    async def plan(self) -> Plan:
        """Read everything, and say what stands in the way; writes nothing."""
        return await plan(
            self._sheets.workbook,
            dt.datetime.now(dt.UTC),
            await opened_before(self._database),
            is_booked=booked_in(self._database),
        )

    async def copy(
        self, *, chunk: int = 1_000, progress: Callable[[str, int, int], None] | None = None
    ) -> dict[str, int]:
        """Copy what is not in; after an interruption, or when the sheet has grown, simply do it again.

        Raises:
            ConfigurationError: The database decides already: the sheet follows it.
            InvalidRecord: A row cannot be moved; nothing was copied, and the phase is what it was.
        """
        await self._require(None, "copy", "copied", "rolled_back", doing="copy")

        async def begin() -> None:
            await self._enter("copy")

        copied = await copy_all(
            self._database, self._sheets.workbook, self._source, chunk=chunk, progress=progress, begin=begin
        )
        await self._enter("copied")
        return copied

    async def shadow(self) -> int:
        """From now on the database decides and the sheet is told; returns how many fills it has still to hear of.

        Raises:
            ConfigurationError: Nothing was copied.
        """
        await self._require("copied", "shadow", doing="shadow")
        await self.feed.feed()
        async with self._database.transaction() as uow:
            await MoveRecords(uow.connection, self._source).enter("shadow")
        return await self._catch_up()

    async def _catch_up(self) -> int:
        """Put fills into the outbox that were booked before it was fed and that the sheet does not have."""
        there = {entry.key for entry in await self._sheets.workbook.records("ledger")}
        missing = []
        opening = f"{IDEMPOTENCY_PREFIX}{OPENING_PREFIX}"
        async with self._database.reader(snapshot=True) as reader:
            known = await Outbox(reader.connection, self._source).waiting_fills()
            async for booked in reader.ledger.stream_entries():
                entry = booked.entry
                opens = entry.stored_execution_id.startswith(opening)
                if entry.key not in there and booked.id not in known and not opens:
                    missing.append(booked.id)
        if missing:
            async with self._database.transaction() as uow:
                await uow.outbox(self._source).add_fills(missing)
        return len(missing)

    async def watch(
        self,
        stop: asyncio.Event,
        *,
        every_seconds: float = 60.0,
        looked: Callable[[ConsistencyReport, OutboxStatus], None] | None = None,
    ) -> None:
        """Deliver the outbox and compare both sides now and then, until `stop` is set; goes on after every failure."""
        delivering = asyncio.create_task(self.worker.run(stop))
        try:
            while not stop.is_set():
                try:
                    report = await self.verify()
                    if looked is not None:
                        looked(report, await self.feed.status())
                except QtsDataError as error:
                    _log.warning("the two sides could not be compared: %s", error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(every_seconds):
                        await stop.wait()
        finally:
            stop.set()
            await delivering

    async def verify(self, *, tolerances: Mapping[str, Decimal] = _NONE, strict: bool = False) -> ConsistencyReport:
        """Compare both sides, and keep the report.

        Raises:
            DataConsistencyError: With `strict`: something differs; carries the report.
        """
        report = await verify_data_consistency(
            self._database, self._sheets.workbook, tolerances=tolerances, source=self._source
        )
        kept = json.dumps(_short(report.as_json()), ensure_ascii=False)
        async with self._database.transaction() as uow:
            await MoveRecords(uow.connection, self._source).record_verification(len(report.findings), kept)
        if strict:
            report.require_consistent()
        return report

    async def missing_gates(self, gates: CutoverGates) -> list[str]:
        """What still stands against a cutover; empty if nothing does."""
        status = await self.status()
        missing = []
        if status.phase != "shadow":
            missing.append(f"the phase is {status.phase or 'none'}, not shadow")
        if status.clean_verifications < gates.clean_verifications:
            missing.append(
                f"{status.clean_verifications} of {gates.clean_verifications} comparisons in a row were without a "
                "difference since shadow began"
            )
        elif status.verified_at is None or dt.datetime.now(dt.UTC) - status.verified_at > gates.newest:
            missing.append(f"the last comparison is older than {gates.newest}")
        if status.outbox.dead:
            missing.append(f"{status.outbox.dead} messages of the outbox are dead: {status.outbox.last_error}")
        if status.outbox.lag is not None and status.outbox.lag > gates.lag:
            missing.append(f"the sheet is {status.outbox.lag} behind, more than {gates.lag}")
        if status.outbox.pending:
            missing.append(f"{status.outbox.pending} messages are still in the outbox")
        return missing

    async def cutover(self, gates: CutoverGates | None = None) -> dt.datetime:
        """The database alone; the sheet is still fed until the way back closes. Returns when that is.

        Raises:
            ConfigurationError: Something stands against it; names all of it.
        """
        given = gates or CutoverGates()
        missing = await self.missing_gates(given)
        if missing:
            raise ConfigurationError("no cutover: " + "; ".join(missing))
        until = dt.datetime.now(dt.UTC) + given.rollback
        async with self._database.transaction() as uow:
            await uow.outbox(self._source).feed(until=until)
            await MoveRecords(uow.connection, self._source).enter("cutover", until)
        return until

    async def rollback(self) -> int:
        """Back to the sheet, with everything that was booked since; returns how many messages that took.

        Engines must have been stopped. Once rolled back, it delivers what came into the outbox at the last moment.

        Raises:
            ConfigurationError: The way back is closed, or something cannot be delivered.
            SourceUnavailable: The sheet does not answer; try again.
        """
        status = await self.status()
        await self._require("shadow", "cutover", "rolled_back", doing="rollback")
        if status.rollback_until is not None and status.rollback_until <= dt.datetime.now(dt.UTC):
            raise ConfigurationError(
                f"no rollback: since {status.rollback_until:%Y-%m-%d %H:%M} UTC the sheet is not told any more what is "
                "booked; what it lacks is in t_ledger only"
            )
        if status.phase != "rolled_back" and not status.outbox.active:
            await self._catch_up()  # an earlier rollback ended half way: what was booked since then went nowhere
        delivered = await self._deliver_all()
        await self.feed.starve()
        try:
            # What was booked between the last delivery and the end of the feed.
            delivered += await self._deliver_all()
        except QtsDataError:
            _log.warning("half way back: the sheet hears of no new fills any more; roll back again, or begin shadow")
            raise
        await self._enter("rolled_back")
        return delivered

    async def _deliver_all(self) -> int:
        delivered = await self.worker.drain()
        status = await self.feed.status()
        if not status.empty:
            raise ConfigurationError(
                f"no rollback: {status.pending + status.dead} messages cannot be delivered to the sheet; see qts-data "
                "migrate status"
            )
        return delivered

    async def status(self) -> MoveStatus:
        """How the move stands."""
        outbox = await self.feed.status()
        async with self._database.reader() as reader:
            move = await MoveRecords(reader.connection, self._source).state()
        clean = 0
        for look in move.looks:
            if look.mismatches or not look.since:
                break
            clean += 1
        return MoveStatus(
            phase=move.phase,
            phase_since=move.phase_since,
            copied=move.copied,
            clean_verifications=clean,
            verified_at=move.looks[0].verified_at if move.looks else None,
            mismatches=move.looks[0].mismatches if move.looks else None,
            outbox=outbox,
            rollback_until=move.rollback_until,
        )

    async def _require(self, *phases: str | None, doing: str) -> None:
        phase = (await self.status()).phase
        if phase not in phases:
            allowed = ", ".join(str(one or "the beginning") for one in phases)
            raise ConfigurationError(f"no {doing} in the phase {phase or 'none'}: it comes after {allowed}")

    async def _enter(self, phase: str) -> None:
        async with self._database.transaction() as uow:
            await MoveRecords(uow.connection, self._source).enter(phase)


def _short(report: dict[str, Any]) -> dict[str, Any]:
    """The first hundred differences of each table; a report is kept, not an archive."""
    tables = [table | {"findings": table["findings"][:100]} for table in report["tables"]]
    return report | {"tables": tables}
