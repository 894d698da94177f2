"""Workbooks in memory: sheets, cells, and ranges in A1 notation."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qts_data.importers.tables import column_letters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["BadRequest", "Formula", "Range", "Sheet", "Workbook"]

_RANGE: Final = re.compile(r"(?:('(?:[^']|'')+'|[^!']+)!)?(?:([A-Z]*)([0-9]*)(?::([A-Z]*)([0-9]*))?)?")
_EPOCH: Final = dt.date(1899, 12, 30)
_FIRST_ROWS: Final = 1000
_FIRST_COLUMNS: Final = 26


class BadRequest(Exception):
    """Raised for a request that is answered with 400."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A cell with a formula.

    Attributes:
        text: The formula, with its =.
        value: Its result; the stand-in does not calculate.
    """

    text: str
    value: Any


class Range(NamedTuple):
    """Rows and columns, counted from 0. An end of None is the end of the sheet."""

    sheet: Sheet
    top: int
    left: int
    bottom: int | None
    right: int | None


@dataclass(slots=True)
class Sheet:
    """One sheet."""

    title: str
    sheet_id: int
    cells: list[list[Any]] = field(default_factory=list)
    row_count: int = _FIRST_ROWS
    column_count: int = _FIRST_COLUMNS

    @property
    def used_rows(self) -> int:
        """Number of rows up to the last one that is not empty."""
        used = len(self.cells)
        while used and not any(cell not in {None, ""} for cell in self.cells[used - 1]):
            used -= 1
        return used

    def read(self, area: Range, render: str, dates: str) -> list[list[Any]]:
        """Return values as the API does: without empty cells at the end of a row, or empty rows at the end."""
        rows = []
        for row in self.cells[area.top : area.bottom]:
            values = [_rendered(cell, render, dates) for cell in row[area.left : area.right]]
            while values and values[-1] == "":
                values.pop()
            rows.append(values)
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def write(self, top: int, left: int, values: Sequence[Sequence[Any]], *, parsed: bool) -> int:
        """Write values, and return the number of written cells. A null leaves its cell unchanged."""
        bottom = top + len(values)
        right = left + max((len(row) for row in values), default=0)
        if bottom > self.row_count or right > self.column_count:
            area = f"{self.title}!{column_letters(left)}{top + 1}:{column_letters(right - 1)}{bottom}"
            raise BadRequest(
                f"Range ({area}) exceeds grid limits. Max rows: {self.row_count}, max columns: {self.column_count}"
            )
        while len(self.cells) < bottom:
            self.cells.append([])
        count = 0
        for number, row in enumerate(values, start=top):
            target = self.cells[number]
            target += [None] * (left + len(row) - len(target))
            for place, value in enumerate(row, start=left):
                if value is not None:
                    target[place] = _entered(value) if parsed else value
                    count += 1
        return count


class Workbook:
    """A spreadsheet.

    Args:
        spreadsheet_id: Its id.
        time_zone: IANA name of the zone of its clock.
        locale: Its locale.
    """

    def __init__(self, spreadsheet_id: str, *, time_zone: str = "Asia/Seoul", locale: str = "ko_KR") -> None:
        self.spreadsheet_id = spreadsheet_id
        self.time_zone = time_zone
        self.locale = locale
        self.sheets: dict[str, Sheet] = {}

    def put(self, title: str, rows: Iterable[Sequence[Any]]) -> Sheet:
        """Make a sheet of these rows. It replaces a sheet of this name."""
        cells = [list(row) for row in rows]
        known = self.sheets.get(title)
        sheet = Sheet(title, known.sheet_id if known else len(self.sheets), cells)
        sheet.row_count = max(_FIRST_ROWS, len(cells))
        sheet.column_count = max(_FIRST_COLUMNS, *(len(row) for row in cells)) if cells else _FIRST_COLUMNS
        self.sheets[title] = sheet
        return sheet

    def metadata(self) -> dict[str, Any]:
        """Return the answer of spreadsheets.get."""
        return {
            "spreadsheetId": self.spreadsheet_id,
            "properties": {"title": self.spreadsheet_id, "locale": self.locale, "timeZone": self.time_zone},
            "sheets": [{"properties": _properties(sheet, index)} for index, sheet in enumerate(self.sheets.values())],
        }

    def range(self, text: str) -> Range:
        """Return the range of a text in A1 notation, or of a sheet's name."""
        bare = text.strip("'").replace("''", "'")
        if bare in self.sheets:
            return Range(self.sheets[bare], 0, 0, None, None)
        found = _RANGE.fullmatch(text)
        name = None if found is None or found[1] is None else found[1].strip("'").replace("''", "'")
        if found is None or (name is not None and name not in self.sheets) or not self.sheets:
            raise BadRequest(f"Unable to parse range: {text}")
        sheet = self.sheets[name] if name is not None else next(iter(self.sheets.values()))
        left, top, right, bottom = found[2], found[3], found[4], found[5]
        if found[4] is None and found[5] is None:
            right, bottom = left, top
        area = Range(
            sheet,
            int(top) - 1 if top else 0,
            _index(left) if left else 0,
            int(bottom) if bottom else None,
            _index(right) + 1 if right else None,
        )
        if area.top >= sheet.row_count or (area.right or 0) > sheet.column_count:
            raise BadRequest(
                f"Range ({text}) exceeds grid limits. Max rows: {sheet.row_count}, max columns: {sheet.column_count}"
            )
        return area

    def change(self, request: dict[str, Any]) -> dict[str, Any]:
        """Execute one request of spreadsheets.batchUpdate."""
        ((kind, body),) = request.items()
        if kind == "addSheet":
            properties = body["properties"]
            if properties["title"] in self.sheets:
                raise BadRequest(f"A sheet with the name {properties['title']!r} already exists.")
            sheet = self.put(properties["title"], [])
            grid = properties.get("gridProperties", {})
            sheet.row_count = grid.get("rowCount", _FIRST_ROWS)
            sheet.column_count = grid.get("columnCount", _FIRST_COLUMNS)
            return {"addSheet": {"properties": _properties(sheet, len(self.sheets) - 1)}}
        if kind == "updateSheetProperties":
            sheet = self._by_id(body["properties"]["sheetId"])
            grid = body["properties"].get("gridProperties", {})
            sheet.row_count = grid.get("rowCount", sheet.row_count)
            sheet.column_count = grid.get("columnCount", sheet.column_count)
            del sheet.cells[sheet.row_count :]
            return {}
        if kind == "appendDimension":
            if body["dimension"] != "ROWS":
                raise BadRequest("only rows can be added here")
            self._by_id(body["sheetId"]).row_count += body["length"]
            return {}
        if kind == "deleteDimension":
            area = body["range"]
            if area["dimension"] != "ROWS":
                raise BadRequest("only rows can be deleted here")
            sheet = self._by_id(area["sheetId"])
            del sheet.cells[area["startIndex"] : area["endIndex"]]
            sheet.row_count -= area["endIndex"] - area["startIndex"]
            return {}
        raise BadRequest(f"Invalid JSON payload received. Unknown name {kind!r}")

    def _by_id(self, sheet_id: int) -> Sheet:
        for sheet in self.sheets.values():
            if sheet.sheet_id == sheet_id:
                return sheet
        raise BadRequest(f"No grid with id: {sheet_id}")


def _properties(sheet: Sheet, index: int) -> dict[str, Any]:
    return {
        "sheetId": sheet.sheet_id,
        "title": sheet.title,
        "index": index,
        "sheetType": "GRID",
        "gridProperties": {"rowCount": sheet.row_count, "columnCount": sheet.column_count},
    }


def _index(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _rendered(cell: Any, render: str, dates: str) -> Any:
    if isinstance(cell, Formula):
        if render == "FORMULA":
            return cell.text
        cell = cell.value
    if cell is None:
        return ""
    if isinstance(cell, dt.date):
        serial = (cell - _EPOCH).days
        return serial if render != "FORMATTED_VALUE" and dates == "SERIAL_NUMBER" else cell.isoformat()
    if render != "FORMATTED_VALUE":
        return cell
    if isinstance(cell, bool):
        return str(cell).upper()
    return f"{cell:.15g}" if isinstance(cell, float) else str(cell)


def _entered(value: Any) -> Any:
    """Return the cell that a sheet makes of a typed text."""
    if not isinstance(value, str):
        return value
    if value.startswith("="):
        return Formula(value, "#NAME?")
    if value.upper() in {"TRUE", "FALSE"}:
        return value.upper() == "TRUE"
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        return dt.date.fromisoformat(value)
    if re.fullmatch(r"[+-]?[0-9][0-9,]*(\.[0-9]+)?%?", value):
        number = float(value.replace(",", "").rstrip("%"))
        number = number / 100 if value.endswith("%") else number
        return int(number) if number.is_integer() else number
    return value.removeprefix("'")
