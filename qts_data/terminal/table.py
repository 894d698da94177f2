"""Tables that never cut a cell. They are stacked in a narrow terminal, and of any width elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from qts_data.terminal.console import console

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

__all__ = ["Table"]

_GAP = "  "


class Table:
    """Rows under headings. A cell is printed whole, however long it is.

    In a terminal that is too narrow for the longest row, each row becomes a block with a line for each cell. In a pipe
    or a file, each row is one line of any length.

    Args:
        left: Headings of the first columns, which are aligned left.
        right: Headings of the other columns, which are aligned right, for numbers.
        target: Console to print on.
    """

    def __init__(self, left: Sequence[str], right: Sequence[str] = (), *, target: Console = console) -> None:
        self._headings = (*left, *right)
        self._left = len(left)
        self._target = target
        self._rows: list[tuple[tuple[str, ...], str]] = []

    def add(self, cells: Iterable[str], *, style: str = "") -> None:
        """Add a row, with one cell for each heading.

        Raises:
            ValueError: The row has more or fewer cells.
        """
        row = tuple(cells)
        if len(row) != len(self._headings):
            raise ValueError(f"{len(row)} cells under {len(self._headings)} headings")
        self._rows.append((row, style))

    def print(self) -> None:
        """Print the headings and the rows. Without rows, print nothing."""
        if not self._rows:
            return
        widths = [
            max(cell_len(heading), *(cell_len(row[place]) for row, _ in self._rows))
            for place, heading in enumerate(self._headings)
        ]
        wide = sum(widths) + len(_GAP) * (len(widths) - 1)
        if self._target.is_terminal and wide > self._target.width:
            self._print_stacked()
            return
        self._print_line(self._line(self._headings, widths), "bold")
        for row, style in self._rows:
            self._print_line(self._line(row, widths), style)

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        placed = []
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            blanks = " " * (width - cell_len(cell))
            placed.append(cell + blanks if place < self._left else blanks + cell)
        return _GAP.join(placed).rstrip()

    def _print_stacked(self) -> None:
        width = max(map(cell_len, self._headings))
        for number, (row, style) in enumerate(self._rows):
            if number:
                self._print_line("", "")
            for heading, cell in zip(self._headings, row, strict=True):
                self._print_line(f"{heading}{' ' * (width - cell_len(heading))}{_GAP}{cell}".rstrip(), style)

    def _print_line(self, line: str, style: str) -> None:
        self._target.print(Text(line, style=style), soft_wrap=True)
