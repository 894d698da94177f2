"""Busts and corrections: later reports of a broker about a fill.

In FIX terms they are execution reports with ExecType H (Trade Cancel) or G (Trade Correct), whose ExecRefID names the
fill. Both are booked as new entries. A bust adds one entry, the opposite of its fill. A correction adds two: the
reversal, and the corrected fill in the old one's place. Position and realized P&L change by the difference to a book
in which the fill had never happened, or had always been right.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from qts_data.contracts import Correction, Reversal
from qts_data.contracts.leniency import as_stored
from qts_data.database.pipeline import Pipeline, Statement, array
from qts_data.errors import InvalidRecord, LedgerConflict
from qts_data.repositories.book.booking import (
    GATE,
    LOCK,
    RESERVE,
    add_entries,
    add_look,
    add_positions,
    lock_parameter,
    read_entries,
    repeated,
    results_of,
)
from qts_data.repositories.book.ledger_rows import booked_entry, entry_columns
from qts_data.rules.average_cost import Fold, Trade
from qts_data.rules.booked import Booked
from qts_data.rules.booking import require_same_instrument
from qts_data.rules.fill_rows import FILL_COLUMNS, fill_of, fill_row, instant, stored_id, utc_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    from qts_data.contracts import BookedEntry, BookedFill
    from qts_data.repositories.book.booking import Booking, Driver, FillKey
    from qts_data.rules.fill_identity import FillIdentity

    Report: TypeAlias = Reversal | Correction

_log = logging.getLogger(__name__)

__all__ = ["PENDING_COLUMNS", "book_report", "report_of", "settle_reports"]


_HISTORY: Final = Statement(
    "read_history",
    f"SELECT {entry_columns('l')} FROM t_ledger AS l WHERE account = $1 AND symbol = $2 ORDER BY id",
)
PENDING_COLUMNS: Final = (*FILL_COLUMNS, "refers_to")
"""Columns of pending_reports in the order in which `report_of` reads them: the fill of a correction, and its target.

A bust has no fill: of these columns, it has only the key and the time.
"""
_KEEP: Final = Statement(
    "keep_report",
    f"INSERT INTO pending_reports AS p ({', '.join(PENDING_COLUMNS)}) "
    f"VALUES ({', '.join(f'${number}' for number, _ in enumerate(PENDING_COLUMNS, 1))}) "
    # An update without a change: DO NOTHING would return no row.
    "ON CONFLICT (broker, account, execution_id) DO UPDATE SET received_at = p.received_at "
    f"RETURNING {', '.join(f'p.{column}' for column in PENDING_COLUMNS)}",
)
_READ_WAITING: Final = Statement(
    "read_waiting_reports",
    f"SELECT {', '.join(PENDING_COLUMNS)} FROM pending_reports "
    "WHERE broker = $1 AND account = $2 AND execution_id = ANY($3::text[])",
)
_TAKE_WAITING: Final = Statement(
    "take_waiting_reports",
    "DELETE FROM pending_reports AS p USING unnest($1::text[], $2::text[], $3::text[]) AS k(broker, account, fill) "
    "WHERE p.broker = k.broker AND p.account = k.account AND p.refers_to = k.fill "
    f"RETURNING p.received_at, {', '.join(f'p.{column}' for column in PENDING_COLUMNS)}",
)


async def book_report(driver: Driver, report: Report, identity: FillIdentity) -> BookedFill | None:
    """Book a bust or a correction. If the ledger does not hold its fill yet, store the report for later.

    Args:
        driver: The connection.
        report: The report, with the scopes of its ids.
        identity: The rules that recognise a redelivered report.

    Returns:
        The result; None if the report was stored for later.

    Raises:
        LedgerConflict: Another report has reversed the fill, or the id of this report is already used.
        InvalidRecord: The correction is of another instrument than its fill.
    """
    original = await _find_original(driver, report)
    if original is None:
        # No transaction books under this lock. So a fill that is not booked now was not being booked either.
        pipeline = Pipeline(driver)
        pipeline.add(GATE)
        await pipeline.run()
        original = await _find_original(driver, report)
        if original is None:
            await _keep(driver, report, identity)
            return None
    results = {0: await _apply(driver, original, report, identity)}
    # A report about this report may have arrived earlier.
    await _settle(driver, {report.key: 0}, results, identity)
    return results[0]


async def settle_reports(
    driver: Driver, booking: Booking, results: dict[int, BookedFill], identity: FillIdentity
) -> None:
    """Book the reports that waited for newly booked fills, in the order of their arrival.

    Their results are added to the results of the fills. Other reports may wait for a report in turn. A report may
    contradict its fill, or be the second one for it. It must not prevent the booking of the fill, so it stays pending
    for a person to check.
    """
    await _settle(driver, {one.entry.key: index for index, one in booking.booked.items()}, results, identity)


async def _settle(
    driver: Driver, waited_for: dict[FillKey, int], results: dict[int, BookedFill], identity: FillIdentity
) -> None:
    while waited_for:
        pipeline = Pipeline(driver)
        pipeline.add(_TAKE_WAITING, *(array(column) for column in zip(*waited_for, strict=True)))
        (rows,) = await pipeline.run()
        following: dict[FillKey, int] = {}
        for row in sorted(rows, key=lambda row: instant(row[0])):
            report = report_of(row[1:])
            key = report.fill_key
            try:
                applied = await _apply(driver, (await read_entries(driver, [key]))[key], report, identity)
            except (InvalidRecord, LedgerConflict) as error:
                _log.warning("a report that waited for its fill cannot be booked: %s", error)
                await _keep(driver, report, identity)
                continue
            index = waited_for[key]
            results[index] = replace(results[index], applied=(*results[index].applied, applied))
            following[report.key] = index
        waited_for = following


async def _find_original(driver: Driver, report: Report) -> BookedEntry | None:
    found = await read_entries(driver, [report.fill_key])
    return found.get(report.fill_key)


async def _apply(driver: Driver, original: BookedEntry, report: Report, identity: FillIdentity) -> BookedFill:
    fill = original.entry
    if original.reverses_id is not None:
        raise LedgerConflict("the entry that it names is itself a reversal", booked=str(fill), given=str(report))
    if isinstance(report, Correction):
        require_same_instrument(report.entry, fill.market, fill.currency)
        if report.entry.symbol != fill.symbol:
            raise InvalidRecord(
                field="symbol",
                reason=f"is {report.entry.symbol!r}, but the fill was of {fill.symbol!r}; reverse it and book another",
            )
    pipeline = Pipeline(driver)
    pipeline.add(LOCK, lock_parameter([(fill.account, fill.symbol)]))
    pipeline.add(_HISTORY, fill.account, fill.symbol)
    add_look(pipeline, {report.key, report.reversal_of(fill).key})
    pipeline.add(RESERVE, "2")
    _, rows, taken, reserved = await pipeline.run()
    history = list(map(booked_entry, rows))
    undone = next((one for one in history if one.reverses_id == original.id), None)
    if undone is not None:
        return _repeated(history, original, undone, report, identity)
    for other in map(booked_entry, taken):
        raise LedgerConflict("its execution id is that of another entry", booked=str(other.entry), given=str(report))
    booked = _compute(history, original, report, [int(row[0] or 0) for row in reserved])
    pipeline = Pipeline(driver)
    add_entries(pipeline, booked)
    add_positions(pipeline, booked)
    _, written = await pipeline.run()
    first, *more = results_of(booked, written)
    return replace(more[0], applied=(first,)) if more else first


def _compute(history: Iterable[BookedEntry], original: BookedEntry, report: Report, ids: Sequence[int]) -> list[Booked]:
    fold = Fold()
    for one in history:
        fold.add(one.id, Trade.of(one.entry), reverses_id=one.reverses_id, corrects_id=one.corrects_id)
    before = fold.holding
    opposite = report.reversal_of(original.entry)
    fold.add(ids[0], Trade.of(opposite), reverses_id=original.id)
    without = fold.holding
    booked = [Booked.of(ids[0], opposite, before, without, reverses_id=original.id)]
    if isinstance(report, Correction):
        fold.add(ids[1], Trade.of(report.entry), corrects_id=original.id)
        booked.append(Booked.of(ids[1], report.entry, without, fold.holding, corrects_id=original.id))
    return booked


def _repeated(
    history: Iterable[BookedEntry],
    original: BookedEntry,
    undone: BookedEntry,
    report: Report,
    identity: FillIdentity,
) -> BookedFill:
    """Return the first result of a redelivered report."""
    suffix = "/reversal" if isinstance(report, Correction) else ""
    others = {f"{one}{suffix}" for one in identity.other_report_ids(report)}
    if undone.entry.key != report.reversal_of(original.entry).key and undone.entry.stored_execution_id not in others:
        raise LedgerConflict("another report reversed this fill", booked=str(undone.entry), given=str(report))
    if isinstance(report, Reversal):
        identity.require_same_day(undone.entry, report.timestamp, report)
        return repeated(undone)
    corrected = next((one for one in history if one.corrects_id == original.id), None)
    if corrected is None:
        raise LedgerConflict("a reversal of this fill is booked", booked=str(undone.entry), given=str(report))
    identity.require_same_fill(corrected.entry, report.entry)
    return replace(repeated(corrected), applied=(repeated(undone),))


async def _keep(driver: Driver, report: Report, identity: FillIdentity) -> None:
    broker, account, _ = report.key
    pipeline = Pipeline(driver)
    pipeline.add(_READ_WAITING, broker, account, array(identity.other_report_ids(report)))
    (rows,) = await pipeline.run()
    # Near midnight it may be pending with the other day in its id.
    if any(identity.is_same_report(report_of(row), report) for row in rows):
        return
    pipeline = Pipeline(driver)
    pipeline.add(_KEEP, *_row_of(report))
    ((row,),) = await pipeline.run()
    identity.require_same_report(report_of(row), report)


def _row_of(report: Report) -> list[str | None]:
    """Return a report as a row of pending_reports, in the order of `PENDING_COLUMNS`."""
    if isinstance(report, Correction):
        return [*fill_row(report.entry), report.corrects]
    broker, account, execution_id = report.key
    said: dict[str, str | None] = {
        "broker": broker,
        "account": account,
        "execution_id": execution_id,
        "timestamp": utc_text(report.timestamp),
        "refers_to": report.reverses,
    }
    return [said.get(column) for column in PENDING_COLUMNS]


def report_of(row: Sequence[str | None]) -> Report:
    """Make a report from a row of pending_reports, in the order of `PENDING_COLUMNS`."""
    said = dict(zip(PENDING_COLUMNS, row, strict=True))
    refers_to = cast("str", said.pop("refers_to"))
    with as_stored():
        if said["symbol"] is not None:
            return Correction(entry=fill_of(said.values()), corrects=refers_to)
        return Reversal(
            timestamp=instant(said["timestamp"]),
            broker=cast("str", said["broker"]),
            account=cast("str", said["account"]),
            **stored_id(cast("str", said["execution_id"])),
            reverses=refers_to,
        )
