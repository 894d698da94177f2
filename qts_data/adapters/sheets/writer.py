"""The book's two sheets as a place to write to, in a way that can be repeated.

A fill goes to a row of its own that is decided before it is sent, and is written there as often as it takes; its key
stands in the row. So a request whose answer was lost is simply sent again, and one that the server carries out late
writes what is there already. One process writes to the sheets at a time; people may read, and edit other columns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from qts_data.errors import SourceRefused
from qts_data.importers.book import RecordMaker, row_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qts_data.adapters.sheets.sheets import Workbook
    from qts_data.contracts import LedgerEntry, Position
    from qts_data.importers.book import Cell, Header

__all__ = ["BookWriter", "Line"]

_VALUATION = ("mark_price", "marked_at", "exposure_value", "exposure_pct", "unrealized_pnl")


class Line(NamedTuple):
    """A line of the ledger.

    Attributes:
        entry: The fill.
        reverses: Execution id of the fill that it takes back, if it does.
    """

    entry: LedgerEntry
    reverses: str | None = None


class BookWriter:
    """Knows which fill is in which row, and which position.

    The version of a position in the sheet is the row of the last fill that it contains.

    Args:
        workbook: The sheets.
    """

    def __init__(self, workbook: Workbook) -> None:
        self._workbook = workbook
        self._ledger: Header | None = None
        self._position: Header | None = None
        self._maker: RecordMaker | None = None
        self._keys: dict[tuple[str, str, str], int] = {}
        self._lines: dict[tuple[str, str], list[tuple[int, LedgerEntry]]] = {}
        self._places: dict[tuple[str, str], int] = {}
        self._positions: dict[tuple[str, str], Position] = {}
        self._next_line = 2
        self._next_place = 2

    def forget(self) -> None:
        """Read the sheets from the start before anything else."""
        self._ledger = None

    async def prepare(self) -> None:
        """Read the sheets, unless it is known what they hold; raises what `refresh` raises."""
        if self._ledger is None:
            await self.refresh()

    async def refresh(self) -> None:
        """Read what was added to the ledger since, and all positions.

        Raises:
            InvalidRecord: A row cannot be read; names the sheet, the cell and the reason.
            SourceRefused: A column is missing without which a fill could not be told from another.
        """
        first = self._ledger is None or self._maker is None
        ledger = await self._workbook.read("ledger", from_row=2 if first else self._next_line)
        defaults = await self._workbook.defaults()
        if first:
            if "execution_id" not in ledger.header.places:
                raise SourceRefused(
                    f"the sheet {ledger.header.title!r} has no column execution_id: without it a fill that is sent "
                    "twice cannot be told from two; add the column"
                )
            self._maker = RecordMaker(ledger.header, defaults)
            self._keys, self._lines, self._next_line = {}, {}, 2
        assert self._maker is not None  # noqa: S101 - made above
        for row in ledger.rows:
            self._know(self._maker.make(row), row.number)
        self._next_line = max(self._next_line, ledger.last_row + 1)
        positions = await self._workbook.read("positions")
        of_positions = RecordMaker(positions.header, defaults)
        self._places, self._positions = {}, {}
        for row in positions.rows:
            position: Position = of_positions.make(row)
            self._places[position.account, position.symbol] = row.number
            self._positions[position.account, position.symbol] = position
        self._next_place = positions.last_row + 1
        self._position, self._ledger = positions.header, ledger.header

    def _know(self, entry: LedgerEntry, row: int) -> None:
        self._keys.setdefault(entry.key, row)
        self._lines.setdefault((entry.account, entry.symbol), []).append((row, entry))

    @property
    def next_row(self) -> int:
        """Row of the ledger that the next fill goes to."""
        return self._next_line

    def row_of(self, key: tuple[str, str, str]) -> int | None:
        """Row of the ledger that a fill is in."""
        return self._keys.get(key)

    def lines(self, account: str, symbol: str) -> list[tuple[int, LedgerEntry]]:
        """Fills of a position with their rows."""
        return self._lines.get((account, symbol), [])

    def position(self, account: str, symbol: str) -> Position | None:
        """A position as the sheet held it when it was last read or written."""
        return self._positions.get((account, symbol))

    async def deliver(self, lines: Sequence[Line], positions: Iterable[Position]) -> None:
        """Write what another source has booked: fills that are not there yet, and the positions after them.

        Raises:
            SourceUnavailable: It did not work, or nobody knows; nothing is remembered, do it again.
            SourceRefused: The sheet refused it.
        """
        await self.prepare()
        new: list[Line] = []
        seen = set(self._keys)
        for line in lines:
            if line.entry.key not in seen:
                seen.add(line.entry.key)
                new.append(line)
        last = {key: found[-1][0] for key, found in self._lines.items()}
        last |= {(line.entry.account, line.entry.symbol): row for row, line in enumerate(new, start=self._next_line)}
        await self.write(
            new, [replace(one, last_ledger_id=last.get((one.account, one.symbol), 0)) for one in positions]
        )

    async def write(self, new: Sequence[Line], positions: Iterable[Position]) -> None:
        """Write fills behind the last row, and positions, in one call.

        Raises:
            SourceUnavailable: It did not work, or nobody knows; nothing is remembered, do it again.
            SourceRefused: The sheet refused it.
        """
        assert self._ledger is not None  # noqa: S101 - read
        assert self._position is not None  # noqa: S101 - read
        data = [
            self._workbook.cells(self._ledger, row, row_of(line.entry, reverses=line.reverses))
            for row, line in enumerate(new, start=self._next_line)
        ]
        held = {(position.account, position.symbol): position for position in positions}
        fresh = [key for key in held if key not in self._places]
        places = self._places | {key: row for row, key in enumerate(fresh, start=self._next_place)}
        data += [
            self._workbook.cells(self._position, places[key], position_cells(held[key]))
            for key in sorted(held, key=places.__getitem__)
        ]
        if not data:
            return
        try:
            await self._workbook.room("ledger", self._next_line + len(new) - 1)
            await self._workbook.room("positions", self._next_place + len(fresh) - 1)
            await self._workbook.client.write(_joined(data))
        except BaseException:
            self.forget()
            raise
        for row, line in enumerate(new, start=self._next_line):
            self._know(line.entry, row)
        self._next_line += len(new)
        self._next_place += len(fresh)
        self._places = places
        self._positions |= held


def position_cells(position: Position) -> dict[str, Cell]:
    """The cells of a position; before its first valuation the columns of that stay as they are."""
    cells = row_of(position)
    if position.mark_price is None:
        for name in _VALUATION:
            del cells[name]
    return cells


def _joined(data: list[tuple[str, list[list[Cell]]]]) -> list[tuple[str, list[list[Cell]]]]:
    """Neighbouring rows as one range: a request of fifty rows is no larger than it needs to be."""
    joined: list[tuple[str, list[list[Cell]]]] = []
    for area, values in data:
        if joined:
            head, rows = joined[-1]
            start, _, end = head.rpartition(":")
            left, _, right = area.rpartition(":")
            letters = end.rstrip("0123456789")
            sheet, _, first = left.rpartition("!")
            before, _, _ = start.rpartition("!")
            if sheet == before and int(first[1:]) == int(end.removeprefix(letters)) + 1 and right.startswith(letters):
                joined[-1] = f"{start}:{right}", rows + values
                continue
        joined.append((area, values))
    return joined
