"""A table in a spreadsheet or CSV file: columns found by their header, rows read cell by cell, errors with places."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from qts_data.contracts.fields import CellKind
from qts_data.errors import InvalidRecord
from qts_data.importers.tables import cell_times, cells
from qts_data.importers.tables.cells import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Column", "Header", "Layout", "Row", "read_rows"]

_NO_COLUMNS: Final[Mapping[str, str]] = MappingProxyType({})
_PERCENT: Final = frozenset("%‰")


@dataclass(frozen=True, slots=True)
class Column:
    """A known column.

    Attributes:
        field: Our name.
        kind: Kind of its cells.
        names: Headers that mean this column, in addition to our name.
        required: Whether a table without it is refused.
        blank: Whether its cells may be empty.
    """

    field: str
    kind: CellKind
    names: tuple[str, ...] = ()
    required: bool = False
    blank: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """A known table.

    Attributes:
        kind: Kind of its rows.
        title: Its usual name.
        columns: Its columns, in the order in which a new table gets them.
    """

    kind: str
    title: str
    columns: tuple[Column, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """Our names of the columns."""
        return tuple(column.field for column in self.columns)


@dataclass(frozen=True, slots=True)
class Row:
    """The values of one row.

    Attributes:
        number: Its number in the table; the header is row 1.
        values: Values of its cells, None for an empty one; only columns of the table.
        problems: Errors in the row; each names the table, the cell and the field.
        notes: Values that were read, but may be mistakes.
    """

    number: int
    values: Mapping[str, Any]
    problems: tuple[InvalidRecord, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Header:
    """The places of the columns of a table.

    Attributes:
        layout: The table.
        title: Name of the table or file, for messages.
        places: Index of each column in the table, by our name.
        width: Number of columns.
        signs: Possible currencies of a currency sign in a header, by our name; only columns with a sign.
    """

    layout: Layout
    title: str
    places: Mapping[str, int]
    width: int
    signs: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, layout: Layout, title: str, names: Sequence[Cell], columns: Mapping[str, str] = _NO_COLUMNS) -> Header:
        """Find the columns by their names. Unknown columns are ignored, in any place.

        Args:
            layout: The table.
            title: Name of the table or file, for messages.
            names: The first row.
            columns: Header of a column by our name, if it is not a known one.

        Raises:
            InvalidRecord: A column is missing, two columns mean the same, or a column contains percentages where
                numbers are read unchanged.
        """
        given = [_bare(cells.read_plain("header", name)) if isinstance(name, str) else "" for name in names]
        places: dict[str, int] = {}
        signs: dict[str, frozenset[str]] = {}
        unknown = set(columns) - set(layout.fields)
        if unknown:
            raise InvalidRecord(
                field=min(unknown), reason=f"{layout.title} has no such field; it has {', '.join(layout.fields)}"
            )
        for column in layout.columns:
            if column.field in columns:
                wanted = {_bare(columns[column.field])}
            else:
                wanted = {_bare(name) for name in (column.field, *column.names)}
            needed = column.required or column.field in columns
            alike = [index for index, name in enumerate(given) if name in wanted]
            found = _without_percentages(title, column, names, alike, needed=needed)
            if len(found) > 1:
                which = " and ".join(f"{cells.column_letters(index)} {names[index]!r}" for index in found)
                raise InvalidRecord(
                    field=f"{title}!1 {column.field}", reason=f"the columns {which} mean the same; rename one", row=1
                )
            if found:
                places[column.field] = found[0]
                if (sign := cells.currency_signs(str(names[found[0]]))) is not None:
                    signs[column.field] = sign
            elif needed:
                raise _missing(title, column, columns, names)
        return cls(layout, title, MappingProxyType(places), len(names), MappingProxyType(signs))

    def where(self, field: str, row: int) -> str:
        """Return the address of a field's cell in the notation of spreadsheets."""
        place = self.places.get(field)
        return f"{self.title}!{cells.column_letters(place)}{row}" if place is not None else f"{self.title}!{row}"

    def located(self, error: InvalidRecord, row: int) -> InvalidRecord:
        """Return the same error with the table, the cell and the field."""
        return InvalidRecord(field=f"{self.where(error.field, row)} {error.field}", reason=error.reason, row=row)


def read_rows(
    header: Header,
    rows: Iterable[Sequence[Cell]],
    *,
    zone: ZoneInfo,
    market: str,
    currency: str,
    first_row: int = 2,
) -> Iterator[Row]:
    """Read rows. Empty ones are left out.

    Args:
        header: Places of the columns.
        rows: Cells; a row may be shorter than the header.
        zone: Zone of dates without an offset.
        market: Market of rows without one.
        currency: Currency of rows without one.
        first_row: Number of the first row.
    """
    for number, row in enumerate(rows, start=first_row):
        if any(not cells.is_empty(cell) for cell in row):
            yield _Reading(header, number, row, zone, market, currency).read()


@dataclass(slots=True)
class _Reading:
    header: Header
    number: int
    cells: Sequence[Cell]
    zone: ZoneInfo
    market: str
    currency: str
    problems: list[InvalidRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def read(self) -> Row:
        values: dict[str, Any] = {}
        for column in self.header.layout.columns:
            if column.field not in self.header.places:
                continue
            place = self.header.places[column.field]
            cell = self.cells[place] if place < len(self.cells) else None
            try:
                values[column.field] = self._value(column, cell)
            except InvalidRecord as error:
                self.problems.append(self.header.located(error, self.number))
        return Row(self.number, MappingProxyType(values), tuple(self.problems), tuple(self.notes))

    def _value(self, column: Column, cell: Cell) -> Any:
        name = column.field
        if cells.is_empty(cell):
            if not column.blank:
                raise InvalidRecord(field=name, reason="the cell is empty, and empty is not zero")
            return None
        if column.kind in {"number", "ratio"}:
            return self._number(column, cell)
        if column.kind == "symbol":
            return cells.read_symbol(name, cell, market=self._text("market", self.market))
        if column.kind == "instant":
            return cell_times.read_instant(name, cell, self.zone)
        if column.kind == "date":
            return cell_times.read_date(name, cell, self.zone)
        return _READERS[column.kind](name, cell)

    def _number(self, column: Column, cell: Cell) -> Any:
        number = cells.read_number(column.field, cell, ratio=column.kind == "ratio")
        self._check_currency(column, cell, number.currencies)
        if number.from_text:
            self.notes.append(f"{self.header.where(column.field, self.number)} holds {cell!r} as text, not as a number")
        return number.value

    def _check_currency(self, column: Column, cell: Cell, beside: frozenset[str] | None) -> None:
        """Refuse a currency sign, in the cell or its header, that differs from the currency of the amount."""
        field = column.field
        currency = self._currency("currency", self.currency)
        whose = "row's currency"
        if field == "fee":
            currency, whose = self._currency("fee_currency", currency), "fee's currency"
        for what, meant in ((f"{cell!r} is", beside), ("the header says", self.header.signs.get(field))):
            if meant is not None and currency not in meant:
                raise InvalidRecord(
                    field=field, reason=f"{what} an amount of {_either(meant)}, the {whose} is {currency}"
                )

    def _currency(self, name: str, otherwise: str) -> str:
        said = self._text(name, otherwise)
        try:
            return cells.read_currency(name, said)
        except InvalidRecord:
            return said  # the column of the currency reports this itself

    def _text(self, name: str, otherwise: str) -> str:
        place = self.header.places.get(name)
        cell = self.cells[place] if place is not None and place < len(self.cells) else None
        return otherwise if cells.is_empty(cell) or not isinstance(cell, str) else cells.read_plain(name, cell)


def _count(name: str, cell: Cell) -> int:
    number = cells.read_number(name, cell).value
    if number != number.to_integral_value() or number < 0:
        raise InvalidRecord(field=name, reason=f"{number} is not a whole number of at least 0")
    return int(number)


def _anything(name: str, cell: Cell) -> Any:
    if isinstance(cell, bool):
        return cell
    if isinstance(cell, str):
        return cells.read_plain(name, cell)
    number = cells.read_number(name, cell).value
    return int(number) if number == number.to_integral_value() else number


_READERS: Final[Mapping[CellKind, Callable[[str, Cell], Any]]] = MappingProxyType(
    {
        "side": cells.read_side,
        "currency": cells.read_currency,
        "count": _count,
        "value": _anything,
        "text": cells.read_plain,
        "id": cells.read_id,
    }
)


def _bare(name: str) -> str:
    composed = unicodedata.normalize("NFC", cells.clean(name)).casefold()
    return "".join(character for character in composed if character.isalnum())


def _either(currencies: frozenset[str]) -> str:
    *first, last = sorted(currencies)
    return f"{', '.join(first)} or {last}" if first else last


def _without_percentages(
    title: str, column: Column, names: Sequence[Cell], found: list[int], *, needed: bool
) -> list[int]:
    """Return the columns without those of percentages.

    A fee in percent is not a fee, and 5.2 under weight (%) is not 520 %.

    A weight that is not required is left unread: only its format shows whether 0.5 is a half or half a percent.

    Raises:
        InvalidRecord: All columns contain percentages, and the table would mean something else without them.
    """
    if column.kind not in {"number", "ratio", "count"}:
        return found
    plain = [index for index in found if not _PERCENT & set(cells.clean(str(names[index])))]
    if found and not plain and (needed or column.kind != "ratio"):
        raise InvalidRecord(
            field=f"{title}!1 {column.field}",
            reason=f"the header {cells.column_letters(found[0])} {names[found[0]]!r} says that its cells are "
            f"percentages, and numbers are taken as they stand; take the sign out of it and write "
            f"{'0.052 or 5.2%' if column.kind == 'ratio' else 'amounts'}, or call it something else",
            row=1,
        )
    return plain


def _missing(title: str, column: Column, columns: Mapping[str, str], names: Sequence[Cell]) -> InvalidRecord:
    wanted = [columns[column.field]] if column.field in columns else [column.field, *column.names]
    headers = [name for name in names if isinstance(name, str)]
    near = difflib.get_close_matches(wanted[0].casefold(), [name.casefold() for name in headers], n=1)
    hint = f"; was it renamed to {near[0]!r}?" if near else ""
    return InvalidRecord(
        field=f"{title}!1 {column.field}",
        reason=f"the column {' or '.join(map(repr, wanted))} is missing{hint}; the columns are {headers}",
        row=1,
    )
