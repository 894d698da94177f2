"""Contents of a spreadsheet, and obstacles to its move."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qts_data.contracts import ALL_ACCOUNTS, IDEMPOTENCY_PREFIX, OHLCV, LedgerEntry, Position, StrategyParameter
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.importers.tables import LAYOUTS, RecordMaker
from qts_data.moving.consistency.sides import OPENING_PREFIX
from qts_data.moving.references import wrong_references
from qts_data.repositories.moving.moves import list_opened

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping, Sequence

    from qts_data.adapters.sheets.sheets import Workbook
    from qts_data.moving.references import IsBooked
    from qts_data.repositories import Database

__all__ = ["Plan", "PlannedTable", "opened_before", "openings", "plan", "read_kind"]

_exact: Final = Context(prec=100)
_SHOWN: Final = 20
_ZERO: Final = Decimal(0)
_OPENING_BROKER: Final = "opening"


class Opening(NamedTuple):
    """A position that an earlier copy opened.

    Attributes:
        qty: The signed quantity.
        at: Time of the opening fill.
    """

    qty: Decimal
    at: dt.datetime


_NOTHING: Final[Mapping[tuple[str, str], Opening]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PlannedTable:
    """One sheet.

    Attributes:
        kind: Kind of its rows.
        sheet: Name of the sheet; None if it is missing, so that nothing is moved.
        rows: Rows that can be moved.
        problems: Errors in the other rows; each names the cell.
        notes: Values that were read, but may be mistakes.
    """

    kind: str
    sheet: str | None
    rows: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Contents of a spreadsheet to be moved.

    Attributes:
        tables: One record for each sheet.
        openings: Number of positions without fills in the sheet's ledger; each gets an opening fill.
        disagreements: Positions whose quantity differs from the sum of their fills in the sheet.
        reads: Number of API calls for reading everything.
    """

    tables: tuple[PlannedTable, ...]
    openings: int
    disagreements: tuple[str, ...]
    reads: int

    @property
    def ready(self) -> bool:
        """Whether everything can be moved."""
        return not self.disagreements and not any(table.problems for table in self.tables)


async def read_kind(
    workbook: Workbook, kind: str, *, is_booked: IsBooked | None = None
) -> tuple[list[tuple[int, Any, Mapping[str, Any]]], PlannedTable]:
    """Return every record of a sheet with its row and cells, and the errors of the other rows.

    Args:
        workbook: The sheets.
        kind: Kind of the rows.
        is_booked: Returns whether the book contains a reversed fill that the sheet lacks; None means that it does not.
    """
    if not await workbook.has(kind):
        return [], PlannedTable(kind, None, 0, (), ())
    title = workbook.title(kind)
    try:
        table = await workbook.read(kind)
    except InvalidRecord as error:
        return [], PlannedTable(kind, title, 0, (str(error),), ())
    defaults = await workbook.defaults()
    maker = RecordMaker(table.header, defaults)
    records: list[tuple[int, Any, Mapping[str, Any]]] = []
    problems: list[str] = []
    notes: list[str] = []
    for row in table.rows:
        notes += row.notes
        try:
            records.append((row.number, maker.make(row), row.values))
        except InvalidRecord as error:
            problems += [str(problem) for problem in row.problems or (error,)]
    problems += _duplicates(title, records)
    if kind == "ledger" and not problems:
        problems += [
            str(error) for error in await wrong_references(table.header, records, is_booked, defaults.identity)
        ]
    return records, PlannedTable(kind, title, len(records), tuple(problems), tuple(notes[:_SHOWN]))


def _duplicates(title: str, records: Iterable[tuple[int, Any, Mapping[str, Any]]]) -> list[str]:
    """Return the rows that repeat another row: the same fill, position, bar, parameter or limit."""
    first: dict[tuple[object, ...], int] = {}
    found = []
    for row, record, _ in records:
        key, name = _key_of(record)
        if first.setdefault(key, row) != row:
            found.append(f"row {row}: {title}!{row} {name} is in row {first[key]}, too; one of them must go")
    return found


def _key_of(record: Any) -> tuple[tuple[object, ...], str]:
    """Return the key that may occur in one row only, and its name for people."""
    if isinstance(record, LedgerEntry):
        return record.key, f"execution_id: {record.stored_execution_id!r}"
    if isinstance(record, Position):
        return (record.account, record.symbol), f"symbol: {record.symbol!r} of the account {record.account!r}"
    if isinstance(record, OHLCV):
        return (record.symbol, record.time), f"date: this day of {record.symbol!r}"
    if isinstance(record, StrategyParameter):
        return (record.strategy_id, record.param_name), f"param_name: {record.strategy_id} {record.param_name!r}"
    whose = "" if record.account == ALL_ACCOUNTS else f" of the account {record.account!r}"
    return (record.account, record.config_key), f"config_key: {record.config_key!r}{whose}"


async def opened_before(database: Database) -> dict[tuple[str, str], Opening]:
    """Return the fills with which an earlier copy opened positions without fills in the sheet's ledger."""
    async with database.reader() as reader:
        prefix = f"{IDEMPOTENCY_PREFIX}{OPENING_PREFIX}"
        opened = await list_opened(reader.connection, _OPENING_BROKER, prefix)
    return {(item.account, item.symbol): Opening(item.qty, item.at) for item in opened}


def openings(
    positions: Iterable[Position],
    ledger: Sequence[LedgerEntry],
    before: dt.datetime,
    opened: Mapping[tuple[str, str], Opening] = _NOTHING,
) -> tuple[list[LedgerEntry], list[str]]:
    """Return fills that open the positions without fills in the ledger, and the disagreements of positions and fills.

    Args:
        positions: Positions of the sheet.
        ledger: Fills of the sheet.
        before: Time of the opening fills.
        opened: Positions that an earlier copy opened.
    """
    traded: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for entry in ledger:
        signed = entry.qty if entry.side == "BUY" else entry.qty.copy_negate()
        key = entry.account, entry.symbol
        traded[key] = _exact.add(traded[key], signed)
    made: list[LedgerEntry] = []
    wrong: list[str] = []
    listed = set()
    for position in positions:
        key = position.account, position.symbol
        listed.add(key)
        if key in opened:
            qty, at = opened[key]
            if _exact.add(qty, traded.get(key, _ZERO)) != position.qty:
                wrong.append(_opened_otherwise(position, qty, traded.get(key, _ZERO)))
            elif key not in traded:
                made.append(opening_of(position, at))  # the same fill again
        elif key in traded:
            if traded[key] != position.qty:
                wrong.append(
                    f"{position.account} {position.symbol}: the position is {position.qty:f}, its fills add up to "
                    f"{traded[key]:f}; add the fills that are missing, or one that opens it"
                )
        elif position.qty:
            made.append(opening_of(position, before))
    held = {
        key: _exact.add(opened[key].qty if key in opened else _ZERO, traded.get(key, _ZERO))
        for key in opened.keys() | traded.keys()
    }
    wrong += [
        f"{account} {symbol}: the fills add up to {qty:f}, and the position is missing"
        for (account, symbol), qty in sorted(held.items())
        if qty and (account, symbol) not in listed
    ]
    return made, wrong


def _opened_otherwise(position: Position, opened: Decimal, traded: Decimal) -> str:
    said = (
        f"{position.account} {position.symbol}: the position is {position.qty:f}, an earlier copy opened it in the "
        f"database with {opened:f}, and its fills add up to {traded:f}"
    )
    if traded == position.qty:
        return f"{said} by themselves now; take the fill that opens it out of the sheet: the database has it already"
    return f"{said}; add the fills that are missing since, but none that opens it"


def opening_of(position: Position, at: dt.datetime) -> LedgerEntry:
    """Return the fill that opens this position, starting from none."""
    return LedgerEntry(
        timestamp=at,
        account=position.account,
        symbol=position.symbol,
        market=position.market,
        side="BUY" if position.qty > 0 else "SELL",
        qty=position.qty.copy_abs(),
        price=position.avg_price,
        currency=position.currency,
        broker=_OPENING_BROKER,
        idempotency_key=f"{OPENING_PREFIX}{position.account}/{position.symbol}",
    )


async def plan(
    workbook: Workbook,
    before: dt.datetime,
    opened: Mapping[tuple[str, str], Opening] = _NOTHING,
    *,
    is_booked: IsBooked | None = None,
) -> Plan:
    """Read everything and return the obstacles to a move. Writes nothing.

    Args:
        workbook: The sheets.
        before: Time of the opening fills.
        opened: Positions that an earlier copy opened.
        is_booked: See `read_kind`.

    Raises:
        SourceUnavailable: The spreadsheet does not answer.
    """
    reads = workbook.client.reads.calls
    records: dict[str, list[Any]] = {}
    tables = []
    for kind in LAYOUTS:
        found, table = await read_kind(workbook, kind, is_booked=is_booked)
        records[kind] = [record for _, record, _ in found]
        tables.append(table)
    if all(table.sheet is None for table in tables):
        raise ConfigurationError(
            f"the spreadsheet has none of the sheets {', '.join(layout.title for layout in LAYOUTS.values())}"
        )
    made, wrong = openings(records["positions"], records["ledger"], before, opened)
    if any(table.problems for table in tables if table.kind in {"ledger", "positions"}):
        wrong = []  # an incomplete ledger gives wrong sums
    return Plan(
        tuple(replace(table, problems=table.problems) for table in tables),
        len(made),
        tuple(wrong),
        workbook.client.reads.calls - reads,
    )
