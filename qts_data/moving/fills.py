"""Lines of a ledger in a sheet or file, booked as fills and reversals."""

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
        entry: The fill or reversal on the line.
        reverses: Execution id of the fill that the line reverses; None for a fill.
    """

    entry: LedgerEntry
    reverses: str | None = None


_Result: TypeAlias = "BookedFill | RejectedEntry | None"


async def book_lines(
    uow: UnitOfWork, lines: Sequence[FillLine], *, on_error: Literal["raise", "collect"] = "raise"
) -> list[_Result]:
    """Book lines in the given order. Lines that are already booked change nothing.

    Args:
        uow: The transaction.
        lines: The lines to book.
        on_error: `"raise"` stops at the first line that cannot be booked, `"collect"` books the others.

    Returns:
        The result of each line. With `"collect"` it is a `RejectedEntry` for a line that cannot be booked. It is None
        for a reversal stored earlier as an entry of its own, before its fill was there; `"collect"` rejects that line.

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
    known = {booked.entry.key: booked for booked in reversals}
    for index, line in enumerate(lines):
        if line.reverses is None and line.entry.key in known:
            booking.repeat(index, known[line.entry.key])
        elif line.reverses is None:
            booking.waiting.append(index)
        else:
            await booking.flush()  # this line may reverse one of them
            await booking.reverse(index, line.reverses)
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
        """Book the waiting fills."""
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
        """Handle a fill line booked earlier as a reversal, from a ledger that has no column for reversals."""
        entry = self._lines[index].entry
        try:
            self._uow.ledger.identity.require_same_fill(known.entry, entry)
        except LedgerConflict as error:
            if self._on_error == "raise":
                raise error.at(index + 1) from error
            self.results[index] = RejectedEntry(row=index + 1, entry=entry, reason=str(error))
        else:
            self.results[index] = repeated(known)

    async def reverse(self, index: int, reverses: str) -> None:
        """Book a reversal."""
        entry = self._lines[index].entry
        try:
            self.results[index] = await self._reverse(entry, reverses)
        except (InvalidRecord, LedgerConflict) as error:
            if self._on_error == "raise":
                raise error.at(index + 1) from error
            self.results[index] = RejectedEntry(row=index + 1, entry=entry, reason=str(error))

    async def _reverse(self, entry: LedgerEntry, reverses: str) -> BookedFill | None:
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
                "this execution id is booked, and does not reverse this fill",
                booked=str(known.entry),
                given=f"{entry} reverses {reverses}",
            )
        if entry.execution_id is None:
            raise InvalidRecord(
                field="execution_id", reason="is empty: a line that reverses a fill needs the id of its own report"
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
    """Refuse a reversal that is not the opposite of its fill. The fee may differ.

    Raises:
        LedgerConflict: Shows both.
    """
    said = line.symbol, line.qty, line.price, line.side
    if said != (fill.symbol, fill.qty, fill.price, "SELL" if fill.side == "BUY" else "BUY"):
        raise LedgerConflict(
            "a line that reverses a fill must be the opposite trade", booked=str(fill), given=str(line)
        )
