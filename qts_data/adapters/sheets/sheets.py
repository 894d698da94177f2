"""Whole sheets as tables of records: kinds of sheets, places of columns, reading and writing of rows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qts_data.errors import ConfigurationError, SourceRefused
from qts_data.importers.tables import LAYOUTS, Header, RecordMaker, Row, column_letters, read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from qts_data.adapters.sheets.client import Metadata, SheetsClient
    from qts_data.importers.tables import Cell, Defaults
    from qts_data.rules.fill_identity import FillIdentity

__all__ = ["SheetTable", "Workbook"]

_ROWS_OF_A_CALL: Final = 10_000
_MORE_ROWS: Final = 1_000


class SheetTable(NamedTuple):
    """The contents of a sheet.

    Attributes:
        header: Places of the columns.
        rows: Rows of the sheet, without empty ones.
        last_row: Number of the last row that is not empty.
    """

    header: Header
    rows: list[Row]
    last_row: int


class Workbook:
    """The sheets of a book.

    Args:
        client: Calls of the API.
        defaults: Values that the book lacks; the time zone is the spreadsheet's.
    """

    def __init__(self, client: SheetsClient, defaults: Defaults) -> None:
        self.client = client
        self._given = defaults
        self._metadata: Metadata | None = None

    async def metadata(self, *, again: bool = False) -> Metadata:
        """Return the time zone and the sheets. Asks the server the first time, and when `again` is set."""
        if self._metadata is None or again:
            self._metadata = await self.client.metadata()
        return self._metadata

    @property
    def identity(self) -> FillIdentity:
        """The rules that recognise a redelivered fill."""
        return self._given.identity

    async def defaults(self) -> Defaults:
        """Return the values that the book lacks, with the time zone of the spreadsheet."""
        return dataclasses.replace(self._given, time_zone=(await self.metadata()).time_zone)

    def title(self, kind: str) -> str:
        """Return the name of the sheet with rows of a kind."""
        return self.client.config.titles.get(kind, LAYOUTS[kind].title)

    async def has(self, kind: str) -> bool:
        """Return whether the spreadsheet has a sheet with rows of a kind."""
        return self.title(kind) in (await self.metadata()).sheets

    async def read(self, kind: str, *, from_row: int = 2, progress: Callable[[int], None] | None = None) -> SheetTable:
        """Read a sheet, beginning at a row.

        Args:
            kind: Kind of its rows.
            from_row: Number of the first row to return.
            progress: Called with the number of rows read so far.

        Raises:
            ConfigurationError: The spreadsheet has no such sheet.
            InvalidRecord: A column is missing, or occurs twice.
        """
        title = self.title(kind)
        if title not in (await self.metadata()).sheets:
            raise ConfigurationError(f"the spreadsheet has no sheet {title!r}; it has {', '.join(self._titles())}")
        if from_row > (await self.metadata()).sheets[title].rows:
            await self.metadata(again=True)  # rows may have been added since
        try:
            names, cells = await self._cells(title, from_row, progress)
        except SourceRefused:
            # Rows or columns may have been deleted since the size of the sheet was read.
            before = (await self.metadata()).sheets[title]
            if (await self.metadata(again=True)).sheets.get(title) in {None, before}:
                raise
            names, cells = await self._cells(title, from_row, progress)
        if len(names) > (await self.metadata()).sheets[title].columns:
            # A column was inserted since the width of the sheet was read: the last columns were cut off.
            await self.metadata(again=True)
            names, cells = await self._cells(title, from_row, progress)
        header = Header.of(LAYOUTS[kind], title, names)
        return SheetTable(header, await self._rows(header, cells, from_row), from_row - 1 + len(cells))

    async def headers(self, *kinds: str) -> list[Header]:
        """Return the places of the columns of sheets, in one call. Raises `InvalidRecord` as `read` does."""
        titles = [self.title(kind) for kind in kinds]
        found = await self.client.read([_names(title) for title in titles])
        return [
            Header.of(LAYOUTS[kind], title, area[0] if area else [])
            for kind, title, area in zip(kinds, titles, found, strict=True)
        ]

    async def _cells(
        self, title: str, from_row: int, progress: Callable[[int], None] | None
    ) -> tuple[Sequence[Cell], list[Sequence[Cell]]]:
        """Return the first row, and all rows beginning at `from_row`."""
        size = (await self.metadata()).sheets[title]
        right = column_letters(size.columns - 1)
        starts = range(from_row, size.rows + 1, _ROWS_OF_A_CALL)
        # Up to the end of the sheet, even if it has grown.
        ranges = [f"{quote(title)}!A{top}:{right}{top + _ROWS_OF_A_CALL - 1}" for top in starts[:-1]]
        ranges += [f"{quote(title)}!A{top}:{right}" for top in starts[-1:]]
        first, *more = await self.client.read([_names(title), *ranges[:1]])
        cells: list[Sequence[Cell]] = list(more[0]) if more else []
        for number, area in enumerate(ranges[1:], start=1):
            if progress is not None:
                progress(len(cells))
            if following := (await self.client.read([area]))[0]:
                cells += [[]] * (number * _ROWS_OF_A_CALL - len(cells))
                cells += following
        return first[0] if first else [], cells

    async def _rows(self, header: Header, cells: Iterable[Sequence[Cell]], from_row: int) -> list[Row]:
        given = await self.defaults()
        found = read_rows(
            header, cells, zone=given.zone, market=given.market, currency=given.currency, first_row=from_row
        )
        return list(found)

    async def records(self, kind: str) -> list[Any]:
        """Return the records of a sheet, in the order of its rows.

        Raises:
            InvalidRecord: A row cannot be read; the message names the sheet, the cell and the reason.
        """
        table = await self.read(kind)
        maker = RecordMaker(table.header, await self.defaults())
        return [maker.make(row) for row in table.rows]

    async def room(self, kind: str, last_row: int) -> None:
        """Extend the grid of a sheet to at least `last_row` rows."""
        title = self.title(kind)
        if last_row > (await self.metadata()).sheets[title].rows:
            size = (await self.metadata(again=True)).sheets[title]
            if last_row > size.rows:
                await self.client.add_rows(size, last_row - size.rows + _MORE_ROWS)
                await self.metadata(again=True)

    @staticmethod
    def cells(header: Header, row: int, fields: Mapping[str, Cell]) -> tuple[str, list[list[Cell]]]:
        """Return a range and its cells. Unknown columns keep their contents."""
        values: list[Cell] = [None] * header.width
        for name, place in header.places.items():
            if name in fields:
                value = fields[name]
                values[place] = "" if value is None else value
        return f"{quote(header.title)}!A{row}:{column_letters(header.width - 1)}{row}", [values]

    def _titles(self) -> list[str]:
        return [] if self._metadata is None else sorted(self._metadata.sheets)


def _names(title: str) -> str:
    """Return the range of the first row, at any width of the sheet."""
    return f"{quote(title)}!1:1"


def quote(title: str) -> str:
    """Return a sheet's name, quoted for a range."""
    return "'" + title.replace("'", "''") + "'"
