"""Writes fills and positions into the two sheets of the book, so that every write can be repeated.

Each fill gets a row of its own before it is sent, and each attempt writes to that row. The row contains the fill's key.

A row sent without an answer stays reserved for its fill, until a write is confirmed or a read finds the fill there. A
request that the server carries out late then writes only fills that are there already. It may, however, overwrite
positions with earlier values; `deliver` and `write` return whether this can still happen.

Only this process knows the reserved rows. One process writes to the sheets at a time. People may read the sheets, and
edit other columns.
"""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from typing import TYPE_CHECKING, NamedTuple

from qts_data.contracts import LedgerEntry, Position
from qts_data.contracts.fields import defaulted_fields, unlosable_fields
from qts_data.errors import SourceRefused
from qts_data.importers.tables import RecordMaker, row_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qts_data.adapters.sheets.sheets import Workbook
    from qts_data.importers.tables import Cell, Header

__all__ = ["BookWriter", "Line"]

_SHEETS = ("ledger", "positions")
_DEFAULTED = defaulted_fields(LedgerEntry)
_SAID_OF_FILL = unlosable_fields(LedgerEntry)
_SAID_OF_POSITION = unlosable_fields(Position)
_USUAL_OF_FILL = {item.name: item.default for item in fields(LedgerEntry) if item.name in _SAID_OF_FILL}
_VALUATION = ("mark_price", "marked_at", "exposure_value", "exposure_pct", "unrealized_pnl")


class Line(NamedTuple):
    """A line of the ledger.

    Attributes:
        entry: The fill.
        reverses: Execution id of the fill that this entry reverses; None for a fill.
    """

    entry: LedgerEntry
    reverses: str | None = None


class BookWriter:
    """Keeps the row of each fill and of each position.

    The version of a position in the sheet is the row of the last fill that it contains.

    Args:
        workbook: The sheets.

    Attributes:
        turn: Lock of every read and write through this object; `prepare` and `deliver` acquire it themselves.
    """

    def __init__(self, workbook: Workbook) -> None:
        self.turn: asyncio.Lock = asyncio.Lock()
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
        self._unread = set(_SHEETS)
        self._doubtful: dict[int, Line] = {}
        self._doubtful_places: dict[tuple[str, str], int] = {}

    def forget(self) -> None:
        """Discard the known contents: the next call reads the sheets from the start."""
        self._unread = set(_SHEETS)

    async def prepare(self) -> None:
        """Read the sheets unless their contents are known. Raises the errors of `refresh`."""
        async with self.turn:
            await self._prepare()

    async def _prepare(self) -> bool:
        if not self._unread:
            return False
        await self.refresh()
        return True

    async def refresh(self) -> None:
        """Read the rows added to the ledger since the last read, and all positions.

        Raises:
            InvalidRecord: A row cannot be read; the message names the sheet, the cell and the reason.
            SourceRefused: The sheet lacks a column that identifies a fill.
        """
        await self.refresh_ledger()
        self._require("execution_id", self._ledger, "two deliveries of one fill look like two fills")
        self._unread.discard("positions")
        try:
            await self._refresh_positions()
        except BaseException:
            self._unread.add("positions")
            raise

    async def _refresh_positions(self) -> None:
        positions = await self._workbook.read("positions")
        of_positions = RecordMaker(positions.header, await self._workbook.defaults())
        self._places, self._positions = {}, {}
        for row in positions.rows:
            position: Position = of_positions.make(row)
            self._places[position.account, position.symbol] = row.number
            self._positions[position.account, position.symbol] = position
        taken = {row.number for row in positions.rows}
        self._doubtful_places = {
            key: place for key, place in self._doubtful_places.items() if key not in self._places and place not in taken
        }
        self._next_place = positions.last_row + 1
        self._position = positions.header

    async def refresh_ledger(self) -> None:
        """Read the rows added to the ledger since the last read. Raises `InvalidRecord` as `refresh` does."""
        first = "ledger" in self._unread
        self._unread.discard("ledger")
        try:
            await self._refresh_ledger(first=first)
        except BaseException:
            self._unread.add("ledger")
            raise

    async def _refresh_ledger(self, *, first: bool) -> None:
        ledger = await self._workbook.read("ledger", from_row=2 if first else self._next_line)
        if first or self._maker is None:
            self._maker = RecordMaker(ledger.header, await self._workbook.defaults())
            self._keys, self._lines, self._next_line = {}, {}, 2
        for row in ledger.rows:
            self._know(self._maker.make(row), row.number)
            # The server wrote this fill. Otherwise another row is there, and this fill was not written.
            self._doubtful.pop(row.number, None)
        self._next_line = max(self._next_line, ledger.last_row + 1)
        self._ledger = ledger.header

    def require_versions(self) -> None:
        """Refuse a sheet without the column for the version of a position.

        Raises:
            SourceRefused: Names the column.
        """
        self._require("last_ledger_id", self._position, "the fills in a position are unknown")

    @staticmethod
    def _require(column: str, header: Header | None, otherwise: str) -> None:
        if header is not None and column not in header.places:
            raise SourceRefused(
                f"the sheet {header.title!r} has no column {column}: without it {otherwise}; add the column"
            )

    def _know(self, entry: LedgerEntry, row: int) -> None:
        self._keys.setdefault(entry.key, row)
        self._lines.setdefault((entry.account, entry.symbol), []).append((row, entry))

    @property
    def next_row(self) -> int:
        """Row of the ledger for the next fill."""
        return max(self._next_line, *(row + 1 for row in self._doubtful)) if self._doubtful else self._next_line

    @property
    def _free_place(self) -> int:
        kept = self._doubtful_places.values()
        return max(self._next_place, *(place + 1 for place in kept)) if kept else self._next_place

    def row_of(self, key: tuple[str, str, str]) -> int | None:
        """Return the row of the ledger that contains a fill. None if no row does."""
        return self._keys.get(key)

    def lines(self, account: str, symbol: str) -> list[tuple[int, LedgerEntry]]:
        """Return the fills of a position with their rows."""
        return self._lines.get((account, symbol), [])

    def in_doubt(self) -> list[tuple[int, Line]]:
        """Return fills that were sent with an unknown outcome, with the rows reserved for them."""
        return [(row, line) for row, line in sorted(self._doubtful.items()) if line.entry.key not in self._keys]

    def position(self, account: str, symbol: str) -> Position | None:
        """Return a position as the last read or write left it in the sheet. None if there was none."""
        return self._positions.get((account, symbol))

    async def deliver(self, lines: Sequence[Line], positions: Iterable[Position]) -> bool:
        """Write the fills of another source that the sheet lacks, and the positions after them.

        Returns:
            Whether the server may still carry out an earlier attempt, which would overwrite these positions with older
            values.

        Raises:
            SourceUnavailable: The write failed, or its outcome is unknown. The known contents are discarded; call it
                again.
            SourceRefused: The sheet refused the write.
        """
        async with self.turn:
            if not await self._prepare() and [self._ledger, self._position] != await self._workbook.headers(*_SHEETS):
                self.forget()  # a column was inserted, moved or deleted
                await self._prepare()
            new: list[Line] = []
            seen = set(self._keys)
            for line in lines:
                if line.entry.key not in seen:
                    seen.add(line.entry.key)
                    new.append(line)
            last = {key: max(row for row, _ in found) for key, found in self._lines.items()}
            for row, line in self._rows_for(new).items():
                key = line.entry.account, line.entry.symbol
                last[key] = max(row, last.get(key, 0))
            return await self.write(
                new, [replace(item, last_ledger_id=last.get((item.account, item.symbol), 0)) for item in positions]
            )

    def _rows_for(self, new: Sequence[Line]) -> dict[int, Line]:
        """Return the row of each fill: the reserved one, or the next free row after all others."""
        kept = {line: row for row, line in self._doubtful.items()}
        following = self.next_row
        rows: dict[int, Line] = {}
        for line in new:
            row = kept.get(line)
            if row is None:
                row, following = following, following + 1
            rows[row] = line
        return dict(sorted(rows.items()))

    async def write(self, new: Sequence[Line], positions: Iterable[Position]) -> bool:
        """Write fills into rows of their own, and positions, in one call. The caller holds `turn`.

        Returns:
            Whether the server may still carry out an earlier attempt, which would overwrite these positions with older
            values.

        Raises:
            SourceUnavailable: The write failed, or its outcome is unknown. The known contents are discarded; call it
                again.
            SourceRefused: The sheet refused the write, or lacks a column whose default differs from the value to write.
        """
        assert self._ledger is not None  # noqa: S101 - read
        assert self._position is not None  # noqa: S101 - read
        positions = list(positions)
        await self._require_columns(new, positions)
        rows = self._rows_for(new)
        data = [
            self._workbook.cells(self._ledger, row, row_of(line.entry, reverses=line.reverses))
            for row, line in rows.items()
        ]
        held = {(position.account, position.symbol): position for position in positions}
        fresh = self._places_for(key for key in held if key not in self._places)
        places = self._places | fresh
        data += [
            self._workbook.cells(self._position, places[key], position_cells(held[key]))
            for key in sorted(held, key=places.__getitem__)
        ]
        if not data:
            return False
        try:
            await self._workbook.room("ledger", max(rows, default=0))
            await self._workbook.room("positions", max(fresh.values(), default=0))
            late = await self._send(data, rows, fresh)
        except BaseException:
            self.forget()
            raise
        for row, line in rows.items():
            self._know(line.entry, row)
        self._next_line = max(self._next_line, *(row + 1 for row in rows)) if rows else self._next_line
        self._next_place = max(self._next_place, *(row + 1 for row in fresh.values())) if fresh else self._next_place
        self._places = places
        self._positions |= held
        return late

    async def _require_columns(self, new: Sequence[Line], positions: Sequence[Position]) -> None:
        """Refuse values without a column that differ from the default: a reader of the sheet would get the default."""
        defaults = await self._workbook.defaults()
        usual: dict[str, object] = (
            _USUAL_OF_FILL | {name: getattr(defaults, name) for name in _DEFAULTED} | {"reverses": None}
        )
        for entry, reverses in new:
            said: dict[str, object] = {name: getattr(entry, name) for name in _SAID_OF_FILL}
            _refuse_unsaid(self._ledger, said | {"reverses": reverses}, usual | {"fee_currency": entry.currency}, entry)
        for position in positions:
            named = {name: getattr(position, name) for name in _SAID_OF_POSITION}
            _refuse_unsaid(self._position, named, usual, f"{position.account} {position.symbol}")

    def _places_for(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Return the row of each position: the reserved one, or the next free row after all others."""
        following = self._free_place
        places: dict[tuple[str, str], int] = {}
        for key in keys:
            place = self._doubtful_places.get(key)
            if place is None:
                place, following = following, following + 1
            places[key] = place
        return places

    async def _send(
        self, data: list[tuple[str, list[list[Cell]]]], rows: dict[int, Line], places: dict[tuple[str, str], int]
    ) -> bool:
        """Write, and reserve the rows if the outcome is unknown. Return whether the server may still repeat a write."""
        client = self._workbook.client
        before = client.unanswered
        try:
            await client.write(_joined(data))
        except BaseException:
            if client.unanswered != before:
                self._doubtful |= rows
                self._doubtful_places |= places
            raise
        for row in rows:
            self._doubtful.pop(row, None)
        for key in places:
            self._doubtful_places.pop(key, None)
        return client.unanswered != before


def _refuse_unsaid(
    header: Header | None, said: Mapping[str, object], usual: Mapping[str, object], what: object
) -> None:
    for name, value in said.items():
        if header is not None and name not in header.places and value != usual[name]:
            raise SourceRefused(
                f"the sheet {header.title!r} has no column {name}: {what} would be read with the {name} "
                f"{usual[name] or 'none'} in place of {value}; add the column"
            )


def position_cells(position: Position) -> dict[str, Cell]:
    """Return the cells of a position. Before its first valuation the columns of the valuation keep their contents."""
    cells = row_of(position)
    if position.mark_price is None:
        for name in _VALUATION:
            del cells[name]
    return cells


def _joined(data: list[tuple[str, list[list[Cell]]]]) -> list[tuple[str, list[list[Cell]]]]:
    """Join neighbouring rows into one range, so that a request of fifty rows stays small."""
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
