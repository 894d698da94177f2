"""The rows of each side in one form: a key, a group, and fields with the same meaning on both sides."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final

from qts_data.contracts import OHLCV, LedgerEntry, Position, RiskLimit, StrategyParameter
from qts_data.contracts.fields import compared_fields, sheet_columns
from qts_data.errors import InvalidRecord
from qts_data.importers.tables import RecordMaker

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qts_data.adapters.sheets.sheets import SheetTable, Workbook
    from qts_data.importers.tables import Defaults
    from qts_data.repositories import Database

__all__ = ["OPENING_PREFIX", "TABLES", "Item", "Side", "database_side", "item_of", "sheets_side"]

TABLES: Final = ("positions", "ledger", "daily_bars", "strategies", "risk_limits")
"""The tables that can be compared."""
OPENING_PREFIX: Final = "opening:"
"""Beginning of the key of a fill that opens a position held before the ledger began."""
_PLAIN: Final = Context(prec=100)
_BEGINNING: Final = dt.datetime(1, 1, 2, tzinfo=dt.UTC)
_END: Final = dt.datetime(9999, 12, 30, tzinfo=dt.UTC)
_FILL: Final = compared_fields(LedgerEntry)
_POSITION: Final = compared_fields(Position)
_BAR: Final = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class Item:
    """A row.

    Attributes:
        key: Identity of the row on both sides.
        group: The rows it is summed up with: a day and a symbol, a day, or a first letter.
        fields: The compared values; None is an empty cell.
        where: Row of a sheet.
    """

    key: tuple[str, ...]
    group: tuple[str, ...]
    fields: dict[str, Any]
    where: str | None = None


@dataclass(slots=True)
class Side:
    """The rows of one table on one side.

    Attributes:
        items: The rows.
        fields: Names of the fields of this side; None for all.
        unreadable: Rows that cannot be read, with the reason.
        notes: Remarks that are not differences.
    """

    items: list[Item]
    fields: frozenset[str] | None = None
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def item_of(record: object, zone: dt.tzinfo, where: str | None = None) -> Item:
    """Return the row of a record.

    Args:
        record: A record that has a table.
        zone: Zone of the trading days.
        where: Row of a sheet.
    """
    if isinstance(record, LedgerEntry):
        day = record.timestamp.astimezone(zone).date().isoformat()
        fields = {name: getattr(record, name) for name in _FILL}
        return Item(record.key, (day, record.symbol), fields, where)
    if isinstance(record, Position):
        fields = {name: getattr(record, name) for name in _POSITION}
        return Item((record.account, record.symbol), (record.account,), fields, where)
    if isinstance(record, OHLCV):
        day = record.time.astimezone(zone).date().isoformat()
        return Item(
            (record.symbol, day), (day[:7], record.symbol), {name: getattr(record, name) for name in _BAR}, where
        )
    if isinstance(record, StrategyParameter):
        # 1.0 and 1 are the same number, of whatever type.
        value = {"value": _bare(record.value)}
        return Item((record.strategy_id, record.param_name), (record.strategy_id,), value, where)
    assert isinstance(record, RiskLimit)  # noqa: S101 - there is nothing else
    return Item((record.account, record.config_key), (record.account,), {"value": record.value}, where)


def _bare(value: object) -> object:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return Decimal(value)
    return value if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


async def database_side(database: Database, table: str, zone: dt.tzinfo) -> Side:
    """Return the rows of the database."""
    async with database.reader(snapshot=True) as reader:
        if table == "ledger":
            entries = [booked.entry async for booked in reader.ledger.stream_entries()]
            traded = [entry for entry in entries if not (entry.idempotency_key or "").startswith(OPENING_PREFIX)]
            side = Side([item_of(entry, zone) for entry in traded])
            opening = len(entries) - len(traded)
            if opening:
                side.notes.append(
                    f"{opening} fills of the database open positions held before the ledger began; the other "
                    "source has positions for them, and no fills"
                )
            return side
        records: Iterable[object]
        if table == "positions":
            records = [position async for position in reader.positions.stream()]
        elif table == "daily_bars":
            records = await reader.daily_bars.list_bars(await reader.daily_bars.list_symbols(), _BEGINNING, _END)
        elif table == "strategies":
            records = await reader.strategies.list_parameters()
        else:
            records = await reader.risk_configs.list_limits()
        return Side([item_of(record, zone) for record in records])


async def sheets_side(workbook: Workbook, table: str, zone: dt.tzinfo) -> Side:
    """Return the rows of a spreadsheet. A missing sheet has no rows."""
    defaults = await workbook.defaults()
    side = Side([])
    for kind in ("strategies", "system") if table == "strategies" else (table,):
        if await workbook.has(kind):
            read_side(side, await workbook.read(kind), defaults, zone)
        else:
            side.notes.append(f"the sheet {workbook.title(kind)!r} is missing")
    return side


def read_side(side: Side, table: SheetTable, defaults: Defaults, zone: dt.tzinfo) -> None:
    """Add the rows of a sheet or file to a side."""
    header = table.header
    maker = RecordMaker(header, defaults)
    side.fields = _fields_of(header.layout.kind, header.places)
    for row in table.rows:
        where = f"{header.title}!{row.number}"
        # An empty cell is not zero: the record's default must not hide it.
        empty = [name for name, value in row.values.items() if value is None and name in _FEWER]
        try:
            item = item_of(maker.make(row), zone, where)
        except InvalidRecord as error:
            problems = row.problems or (error,)
            side.unreadable += [(problem.field, problem.reason) for problem in problems]
            continue
        for name in empty:
            if name in item.fields:
                item.fields[name] = None
        side.items.append(item)
        side.notes += row.notes


def _not_kept(record: type[Any]) -> frozenset[str]:
    """Return the fields that nothing replaces in a sheet without their column: neither required ones nor settings."""
    kept = {name for name, sheet in sheet_columns(record).items() if sheet.required or sheet.default}
    return frozenset(compared_fields(record)) - kept


_FEWER: Final = _not_kept(Position)
"""Fields of every position that a sheet may lack."""
_NOT_KEPT: Final = _FEWER | _not_kept(LedgerEntry)


def _fields_of(kind: str, places: Iterable[str]) -> frozenset[str] | None:
    """Return the fields to compare: a default stands for a missing column, except for sums that the sheet lacks."""
    there = set(places)
    names: Sequence[str] = {"ledger": _FILL, "positions": _POSITION}.get(kind, ())
    if not names:
        return None
    return frozenset(name for name in names if name in there or name not in _NOT_KEPT)
