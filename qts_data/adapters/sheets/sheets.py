"""Whole sheets in, rows out: which sheet is what, where its columns are, and where its rows go."""

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
    """A sheet as it was read.

    Attributes:
        header: Where the columns are.
        rows: Its rows, without empty ones.
        last_row: Number of the last row with anything in it.
    """

    header: Header
    rows: list[Row]
    last_row: int


class Workbook:
    """The sheets of a book.

    Args:
        client: Calls of the API.
        defaults: What the book does not say; the time zone is the spreadsheet's.
    """

    def __init__(self, client: SheetsClient, defaults: Defaults) -> None:
        self.client = client
        self._given = defaults
        self._metadata: Metadata | None = None

    async def metadata(self, *, again: bool = False) -> Metadata:
        """Time zone and sheets; asked once."""
        if self._metadata is None or again:
            self._metadata = await self.client.metadata()
        return self._metadata

    @property
    def identity(self) -> FillIdentity:
        """The rules by which a fill is known again."""
        return self._given.identity

    async def defaults(self) -> Defaults:
        """What the book does not say, with the zone of its clock."""
        return dataclasses.replace(self._given, time_zone=(await self.metadata()).time_zone)

    def title(self, kind: str) -> str:
        """Name of the sheet with rows of a kind."""
        return self.client.config.titles.get(kind, LAYOUTS[kind].title)

    async def has(self, kind: str) -> bool:
        """Whether there is such a sheet."""
        return self.title(kind) in (await self.metadata()).sheets

    async def read(self, kind: str, *, from_row: int = 2, progress: Callable[[int], None] | None = None) -> SheetTable:
        """Read a sheet, from a row on.

        Args:
            kind: What its rows are.
            from_row: Number of the first row that is wanted.
            progress: Called with the number of rows so far.

        Raises:
            ConfigurationError: There is no such sheet.
            InvalidRecord: A column is missing, or comes twice.
        """
        title = self.title(kind)
        if title not in (await self.metadata()).sheets:
            raise ConfigurationError(f"the spreadsheet has no sheet {title!r}; it has {', '.join(self._titles())}")
        if from_row > (await self.metadata()).sheets[title].rows:
            await self.metadata(again=True)  # it may have grown
        try:
            names, cells = await self._cells(title, from_row, progress)
        except SourceRefused:
            # Somebody may have deleted rows or columns since we asked how large it is.
            before = (await self.metadata()).sheets[title]
            if (await self.metadata(again=True)).sheets.get(title) in {None, before}:
                raise
            names, cells = await self._cells(title, from_row, progress)
        if len(names) > (await self.metadata()).sheets[title].columns:
            # Somebody has inserted a column since we asked how wide it is: the last ones were cut off.
            await self.metadata(again=True)
            names, cells = await self._cells(title, from_row, progress)
        header = Header.of(LAYOUTS[kind], title, names)
        return SheetTable(header, await self._rows(header, cells, from_row), from_row - 1 + len(cells))

    async def headers(self, *kinds: str) -> list[Header]:
        """Where the columns of sheets are, in one call; raises `InvalidRecord` as `read` does."""
        titles = [self.title(kind) for kind in kinds]
        found = await self.client.read([_names(title) for title in titles])
        return [
            Header.of(LAYOUTS[kind], title, area[0] if area else [])
            for kind, title, area in zip(kinds, titles, found, strict=True)
        ]

    async def _cells(
        self, title: str, from_row: int, progress: Callable[[int], None] | None
    ) -> tuple[Sequence[Cell], list[Sequence[Cell]]]:
        """The first row, and all rows from one on."""
        size = (await self.metadata()).sheets[title]
        right = column_letters(size.columns - 1)
        starts = range(from_row, size.rows + 1, _ROWS_OF_A_CALL)
        # Up to the end of the sheet, wherever that is by now.
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
        """The records of a sheet, in its order.

        Raises:
            InvalidRecord: Names the sheet, the cell and the reason.
        """
        table = await self.read(kind)
        maker = RecordMaker(table.header, await self.defaults())
        return [maker.make(row) for row in table.rows]

    async def room(self, kind: str, last_row: int) -> None:
        """Make the grid of a sheet at least as long as this."""
        title = self.title(kind)
        if last_row > (await self.metadata()).sheets[title].rows:
            size = (await self.metadata(again=True)).sheets[title]
            if last_row > size.rows:
                await self.client.add_rows(size, last_row - size.rows + _MORE_ROWS)
                await self.metadata(again=True)

    @staticmethod
    def cells(header: Header, row: int, fields: Mapping[str, Cell]) -> tuple[str, list[list[Cell]]]:
        """A range and its cells; columns that we do not know keep what they hold."""
        values: list[Cell] = [None] * header.width
        for name, place in header.places.items():
            if name in fields:
                value = fields[name]
                values[place] = "" if value is None else value
        return f"{quote(header.title)}!A{row}:{column_letters(header.width - 1)}{row}", [values]

    def _titles(self) -> list[str]:
        return [] if self._metadata is None else sorted(self._metadata.sheets)


def _names(title: str) -> str:
    """The first row, however wide the sheet is by now."""
    return f"{quote(title)}!1:1"


def quote(title: str) -> str:
    """A sheet's name in a range."""
    return "'" + title.replace("'", "''") + "'"
