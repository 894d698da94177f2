"""The copy, chunk by chunk.

Each chunk and its checkpoint share a transaction, so the process may be killed at any time.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Any, Final

from qts_data.errors import InvalidRecord, LedgerConflict
from qts_data.importers.tables import LAYOUTS
from qts_data.moving.fills import FillLine, book_lines
from qts_data.moving.plan import opened_before, openings, read_kind
from qts_data.moving.references import booked_in
from qts_data.repositories.moving.moves import MoveRecords

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from qts_data.adapters.sheets.sheets import Workbook
    from qts_data.repositories import Database, Reader, UnitOfWork

    Record = tuple[int, Any, Mapping[str, Any]]
    Progress = Callable[[str, int, int], None]

__all__ = ["ORDER", "copy_all"]

ORDER: Final = ("strategies", "system", "risk_limits", "daily_bars", "openings", "ledger")
"""The copied tables, in this order. The fills make the positions."""
_CHUNK: Final = 1_000


async def copy_all(
    database: Database,
    workbook: Workbook,
    source: str,
    *,
    chunk: int = _CHUNK,
    progress: Progress | None = None,
    begin: Callable[[], Awaitable[None]] | None = None,
) -> dict[str, int]:
    """Copy the rows that the database lacks. Return the number of rows of each table.

    Args:
        database: The target.
        workbook: The source.
        source: Name of the source in the database.
        chunk: Rows of a transaction.
        progress: Called with a table, its rows done and its rows altogether.
        begin: Called before anything is written.

    Raises:
        InvalidRecord: A row cannot be moved; names the first such row and the number of them. Nothing is copied then.
        LedgerConflict: The database contains another fill under an execution id of the sheet.
    """
    records: dict[str, list[Record]] = {}
    problems: list[str] = []
    for kind in LAYOUTS:
        records[kind], table = await read_kind(workbook, kind, is_booked=booked_in(database))
        problems += table.problems
    fills = [record for _, record, _ in records["ledger"]]
    first = min((entry.timestamp for entry in fills), default=dt.datetime.now(dt.UTC))
    opened = await opened_before(database)
    made, wrong = openings((record for _, record, _ in records["positions"]), fills, first, opened)
    problems += wrong if not problems else []
    if problems:
        more = f" (and {len(problems) - 1} more; see qts-data migrate plan)" if len(problems) > 1 else ""
        raise InvalidRecord(field="spreadsheet", reason=f"{problems[0]}{more}")
    records["openings"] = [(number, entry, {}) for number, entry in enumerate(made, 1)]
    del records["positions"]
    if begin is not None:
        await begin()
    for kind in ORDER:
        sheet = workbook.title("positions" if kind == "openings" else kind)
        await _copy_table(database, source, kind, records[kind], sheet=sheet, chunk=chunk, progress=progress)
    return {kind: len(records[kind]) for kind in ORDER}


async def _copy_table(
    database: Database,
    source: str,
    kind: str,
    records: Sequence[Record],
    *,
    sheet: str,
    chunk: int,
    progress: Progress | None,
) -> None:
    digests = _digests(records)
    async with database.reader() as reader:
        done = await _done(reader, source, kind, digests)
    for start in range(done, max(len(records), done + 1), chunk):
        part = records[start : start + chunk]
        end = start + len(part)

        async def work(uow: UnitOfWork, part: Sequence[Record] = part, end: int = end) -> None:
            try:
                await _WRITERS[kind](uow, part)
            except (InvalidRecord, LedgerConflict) as error:
                raise _placed(error, kind, sheet, part) from error
            records_of_move = MoveRecords(uow.connection, source)
            await records_of_move.record_checkpoint(kind, done=end, total=len(records), digest=digests[end])

        await database.run(work)
        if progress is not None:
            progress(kind, end, len(records))


def _placed(
    error: InvalidRecord | LedgerConflict, kind: str, sheet: str, part: Sequence[Record]
) -> InvalidRecord | LedgerConflict:
    """Return the error with the row of the sheet in place of the row of the chunk."""
    if error.row is None:
        return error
    number, record, _ = part[error.row - 1]
    where = f"{sheet}, {record.account} {record.symbol}" if kind == "openings" else f"{sheet}!{number}"
    row = None if kind == "openings" else number
    if isinstance(error, LedgerConflict):
        return LedgerConflict(f"{where}: {error.reason}", booked=error.booked, given=error.given, row=row)
    return InvalidRecord(field=f"{where} {error.field}", reason=error.reason, row=row)


def _digests(records: Sequence[Record]) -> list[str]:
    """Return digests of the first n rows, for every n: a sheet changed above the checkpoint is copied again."""
    running = hashlib.sha256()
    made = [running.hexdigest()]
    for _, record, values in records:
        said = repr(record)
        if values.get("reverses") is not None:
            said += f" reverses {values['reverses']!r}"
        running.update(said.encode("utf-8", "surrogatepass"))
        made.append(running.hexdigest())
    return made


async def _done(reader: Reader, source: str, kind: str, digests: Sequence[str]) -> int:
    done = await MoveRecords(reader.connection, source).find_checkpoint(kind)
    if done is None or done.rows_done >= len(digests):
        return 0
    # Changed rows above do no harm: every row is booked once by its key.
    return done.rows_done if digests[done.rows_done] == done.digest else 0


async def _fills(uow: UnitOfWork, part: Sequence[Record]) -> None:
    """Book fills and reversals, in the order of the sheet."""
    await book_lines(uow, [FillLine(entry, values.get("reverses")) for _, entry, values in part])


async def _bars(uow: UnitOfWork, part: Sequence[Record]) -> None:
    await uow.daily_bars.upsert(record for _, record, _ in part)


async def _parameters(uow: UnitOfWork, part: Sequence[Record]) -> None:
    for _, item, _ in part:
        notes = {} if item.description is None else {item.param_name: item.description}
        await uow.strategies.upsert_parameters(item.strategy_id, {item.param_name: item.value}, descriptions=notes)


async def _limits(uow: UnitOfWork, part: Sequence[Record]) -> None:
    for _, item, _ in part:
        await uow.risk_configs.upsert_limit(item.config_key, item.value, item.description, account=item.account)


_WRITERS: Final[Mapping[str, Callable[[UnitOfWork, Sequence[Record]], Awaitable[None]]]] = {
    "strategies": _parameters,
    "system": _parameters,
    "risk_limits": _limits,
    "daily_bars": _bars,
    "openings": _fills,
    "ledger": _fills,
}
