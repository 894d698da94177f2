"""The phases of a move: their order, the conditions of a cutover, and the time limit of a rollback."""

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
    """Conditions of a cutover.

    Attributes:
        clean_verifications: Number of latest comparisons in a row without a difference; those with tolerances do not
            count.
        newest: Greatest age of the last of these comparisons.
        lag: Greatest age of the oldest message in the outbox.
        rollback: How long after the cutover a rollback remains possible.
    """

    clean_verifications: int = 3
    newest: dt.timedelta = dt.timedelta(hours=1)
    lag: dt.timedelta = dt.timedelta(seconds=30)
    rollback: dt.timedelta = dt.timedelta(days=14)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveStatus:
    """State of a move.

    Attributes:
        phase: copy, copied, shadow, cutover or rolled_back; None before the move began.
        phase_since: When the phase began.
        copied: Rows done and rows altogether, by table.
        clean_verifications: Number of latest comparisons in a row without a difference and without tolerances.
        verified_at: When the last comparison without tolerances ended.
        mismatches: Number of differences that it found.
        outbox: State of the outbox.
        rollback_until: After a cutover: when a rollback stops being possible.
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
        """Convert instants to UTC."""
        utc_fields(self, "phase_since", "verified_at", "rollback_until")


class Move:
    """A move from a spreadsheet to the database.

    Args:
        database: The database.
        sheets: The spreadsheet.
        source: Name of the spreadsheet in the database.
        delivery: Settings of the delivery of the outbox.
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
        """Read everything and return the obstacles to a move. Writes nothing."""
        return await plan(
            self._sheets.workbook,
            dt.datetime.now(dt.UTC),
            await opened_before(self._database),
            is_booked=booked_in(self._database),
        )

    async def copy(
        self, *, chunk: int = 1_000, progress: Callable[[str, int, int], None] | None = None
    ) -> dict[str, int]:
        """Copy the rows that the database lacks. Call it again after an interruption, or when the sheet has grown.

        Raises:
            ConfigurationError: The database decides already, and the sheet follows it.
            InvalidRecord: A row cannot be moved. Nothing was copied, and the phase is unchanged.
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
        """Let the database decide and the sheet follow. Return the number of booked fills that the sheet still lacks.

        Raises:
            ConfigurationError: Nothing was copied.
        """
        await self._require("copied", "shadow", doing="shadow")
        await self.feed.enable()
        async with self._database.transaction() as uow:
            await MoveRecords(uow.connection, self._source).enter("shadow")
        return await self._catch_up()

    async def _catch_up(self) -> int:
        """Put fills into the outbox that the sheet lacks and the outbox missed. Return their number.

        The outbox misses fills that were booked before it was enabled.
        """
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
        """Deliver the outbox and compare both sides at intervals, until `stop` is set. Continue after every failure."""
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
        """Compare both sides, and store the report.

        Raises:
            DataConsistencyError: With `strict`: something differs; the error carries the report.
        """
        report = await verify_data_consistency(
            self._database, self._sheets.workbook, tolerances=tolerances, source=self._source
        )
        text = json.dumps(_short(report.as_json()), ensure_ascii=False)
        async with self._database.transaction() as uow:
            await MoveRecords(uow.connection, self._source).record_verification(len(report.findings), text)
        if strict:
            report.require_consistent()
        return report

    async def missing_gates(self, gates: CutoverGates) -> list[str]:
        """Return the conditions of a cutover that do not hold. Empty if all hold."""
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
        """Let the database stand alone. Return when a rollback stops being possible.

        Until that time the sheet still receives all fills.

        Raises:
            ConfigurationError: A condition does not hold; the message names all of them.
        """
        given = gates or CutoverGates()
        missing = await self.missing_gates(given)
        if missing:
            raise ConfigurationError("no cutover: " + "; ".join(missing))
        until = dt.datetime.now(dt.UTC) + given.rollback
        async with self._database.transaction() as uow:
            await uow.outbox(self._source).enable(until=until)
            await MoveRecords(uow.connection, self._source).enter("cutover", until)
        return until

    async def rollback(self) -> int:
        """Return to the sheet, with all fills booked since. Return the number of messages delivered for this.

        Stop the engines first. After a rollback, a second call delivers messages that reached the outbox at the last
        moment.

        Raises:
            ConfigurationError: The time limit of the rollback has passed, or a message cannot be delivered.
            SourceUnavailable: The sheet does not answer; try again.
        """
        status = await self.status()
        await self._require("shadow", "cutover", "rolled_back", doing="rollback")
        if status.rollback_until is not None and status.rollback_until <= dt.datetime.now(dt.UTC):
            raise ConfigurationError(
                f"no rollback: since {status.rollback_until:%Y-%m-%d %H:%M} UTC the sheet no longer receives new "
                "fills; those that it lacks are in t_ledger only"
            )
        if status.phase != "rolled_back" and not status.outbox.active:
            await self._catch_up()  # an earlier rollback stopped half way: the outbox lacks the fills booked since
        delivered = await self._deliver_all()
        await self.feed.disable()
        try:
            # Fills booked between the last delivery and the disabling of the outbox.
            delivered += await self._deliver_all()
        except QtsDataError:
            _log.warning(
                "the rollback stopped half way: the sheet receives no new fills; roll back again, or begin shadow"
            )
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
        """Return the state of the move."""
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
            allowed = ", ".join(str(allowed_phase or "the beginning") for allowed_phase in phases)
            raise ConfigurationError(f"no {doing} in the phase {phase or 'none'}: it comes after {allowed}")

    async def _enter(self, phase: str) -> None:
        async with self._database.transaction() as uow:
            await MoveRecords(uow.connection, self._source).enter(phase)


def _short(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report with the first hundred differences of each table: the database stores it."""
    tables = [table | {"findings": table["findings"][:100]} for table in report["tables"]]
    return report | {"tables": tables}
