"""Lines of people's ledgers into the book: fills, and lines that take one back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from qts_data.contracts import RejectedEntry, Reversal
from qts_data.errors import InvalidRecord, LedgerConflict
from qts_data.repositories.book.booking import repeated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qts_data.contracts import BookedEntry, BookedFill, LedgerEntry
    from qts_data.repositories import UnitOfWork

__all__ = ["FillLine", "book_lines", "require_opposite"]


class FillLine(NamedTuple):
    """A line of a ledger.

    Attributes:
        entry: What it says was traded.
        reverses: Execution id of the fill that it takes back, if it does.
    """

    entry: LedgerEntry
    reverses: str | None = None


_Result: TypeAlias = "BookedFill | RejectedEntry | None"


async def book_lines(
    uow: UnitOfWork, lines: Sequence[FillLine], *, on_error: Literal["raise", "collect"] = "raise"
) -> list[_Result]:
    """Book lines in the order given; what is booked already changes nothing.

    Args:
        uow: The transaction.
        lines: What to book.
        on_error: `"raise"` ends with the first line that cannot be booked, `"collect"` books the others.

    Returns:
        For each line what it did; with `"collect"` a `RejectedEntry` for one that cannot be booked; None for one that
        was kept because it takes back a fill that is not there yet, which `"collect"` rejects.

    Raises:
        InvalidRecord: With `"raise"`: names the line, counted from 1, and the field.
        LedgerConflict: With `"raise"`: names the line.
    """
    identity = uow.ledger.identity
    lines = [
        FillLine(entry, None if line.reverses is None else identity.reference(entry, line.reverses))
        for line, entry in ((line, identity.scoped(line.entry)) for line in lines)
    ]
    booking = _Lines(uow, lines, on_error)
    reversals = await uow.ledger.list_reversals(line.entry.key for line in lines if line.reverses is None)
    taken = {booked.entry.key: booked for booked in reversals}
    for index, line in enumerate(lines):
        if line.reverses is None and line.entry.key in taken:
            booking.repeat(index, taken[line.entry.key])
        elif line.reverses is None:
            booking.waiting.append(index)
        else:
            await booking.flush()  # it takes back one of them, perhaps
            await booking.take_back(index, line.reverses)
    await booking.flush()
    return booking.results


class _Lines:
    def __init__(self, uow: UnitOfWork, lines: Sequence[FillLine], on_error: Literal["raise", "collect"]) -> None:
        self._uow = uow
        self._lines = lines
        self._on_error: Literal["raise", "collect"] = on_error
        self.waiting: list[int] = []
        self.results: list[_Result] = [None] * len(lines)

    async def flush(self) -> None:
        """Book the fills that wait."""
        waiting, self.waiting = self.waiting, []
        entries = [self._lines[index].entry for index in waiting]
        if not entries:
            return
        booked: Sequence[BookedFill | RejectedEntry]
        try:
            if self._on_error == "raise":
                booked = await self._uow.ledger.record_fills(entries)
            else:
                booked = await self._uow.ledger.record_fills(entries, on_error="collect")
        except (InvalidRecord, LedgerConflict) as error:
            if error.row is None:
                raise
            raise error.at(waiting[error.row - 1] + 1) from error
        for index, result in zip(waiting, booked, strict=True):
            self.results[index] = replace(result, row=index + 1) if isinstance(result, RejectedEntry) else result

    def repeat(self, index: int, known: BookedEntry) -> None:
        """A line that was booked as what takes a fill back, of a ledger without a column to say so."""
        entry = self._lines[index].entry
        try:
            self._uow.ledger.identity.require_same_fill(known.entry, entry)
        except LedgerConflict as error:
            if self._on_error == "raise":
                raise error.at(index + 1) from error
            self.results[index] = RejectedEntry(row=index + 1, entry=entry, reason=str(error))
        else:
            self.results[index] = repeated(known)

    async def take_back(self, index: int, reverses: str) -> None:
        """Book a line that takes a fill back."""
        entry = self._lines[index].entry
        try:
            self.results[index] = await self._taken_back(entry, reverses)
        except (InvalidRecord, LedgerConflict) as error:
            if self._on_error == "raise":
                raise error.at(index + 1) from error
            self.results[index] = RejectedEntry(row=index + 1, entry=entry, reason=str(error))

    async def _taken_back(self, entry: LedgerEntry, reverses: str) -> BookedFill | None:
        ledger = self._uow.ledger
        fill = await ledger.find_entry(entry.broker, entry.account, reverses)
        if fill is None and self._on_error == "collect":
            raise InvalidRecord(field="reverses", reason=f"no fill {reverses!r} of {entry.broker} is booked")
        if fill is not None:
            require_opposite(fill.entry, entry)
        known = await ledger.find_entry(*entry.key)
        if known is not None and fill is not None and known.reverses_id == fill.id:
            ledger.identity.require_same_day(known.entry, entry.timestamp, entry)
            return repeated(known)
        if known is not None:
            raise LedgerConflict(
                "this execution id is booked, and takes back no such fill",
                booked=str(known.entry),
                given=f"{entry} reverses {reverses}",
            )
        if entry.execution_id is None:
            raise InvalidRecord(
                field="execution_id", reason="is empty: a line that takes a fill back needs the id of that report"
            )
        return await ledger.reverse_fill(
            Reversal(
                timestamp=entry.timestamp,
                broker=entry.broker,
                account=entry.account,
                execution_id=entry.execution_id,
                id_scope=entry.id_scope,
                reverses=reverses,
            )
        )


def require_opposite(fill: LedgerEntry, line: LedgerEntry) -> None:
    """Refuse a line that says anything but the opposite of the fill that it takes back; its fee is not asked.

    Raises:
        LedgerConflict: Shows both.
    """
    said = line.symbol, line.qty, line.price, line.side
    if said != (fill.symbol, fill.qty, fill.price, "SELL" if fill.side == "BUY" else "BUY"):
        raise LedgerConflict(
            "a line that takes a fill back must say the opposite trade", booked=str(fill), given=str(line)
        )
