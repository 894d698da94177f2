"""The proof of the book: all positions are computed again from the ledger, and must equal the stored data exactly."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa

from qts_data.contracts.instants import utc
from qts_data.database.streaming import stream_rows
from qts_data.errors import InvalidRecord
from qts_data.models import LedgerEntry as Entry
from qts_data.repositories.book.ledger_rows import COLUMNS, booked_entry
from qts_data.rules.average_cost import Fold, Trade, realized_between
from qts_data.rules.booked import unmarked_position

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from qts_data.contracts import BookedEntry, Position

__all__ = ["Mismatch", "Verification", "compare", "rebuild", "verify"]

_entry = Entry.__table__.c
_ROW: Final[sa.Select[*tuple[Any, ...]]] = sa.select(
    *(sa.cast(_entry[column], sa.Text).label(column) for column in COLUMNS)
).order_by(_entry.account, _entry.symbol, _entry.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A stored value that does not follow from the ledger.

    Attributes:
        account: Account of the position.
        symbol: Symbol of the position.
        ledger_id: The entry that holds the value; None for the position itself.
        field: Name of the field.
        stored: Value in the database.
        computed: Value computed from the ledger.
    """

    account: str
    symbol: str
    ledger_id: int | None
    field: str
    stored: str
    computed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of a verification.

    Attributes:
        entries: Number of computed ledger entries.
        positions: Number of compared positions.
        mismatches: All differences; empty if the book is right.
    """

    entries: int
    positions: int
    mismatches: tuple[Mismatch, ...]


@dataclass(slots=True)
class _Folded:
    """A position, computed from the entries read so far."""

    fold: Fold
    last: BookedEntry

    def position(self) -> Position:
        holding, last = self.fold.holding, self.last
        return unmarked_position(last.entry, holding, holding.avg_price, last.id, last.recorded_at)


async def rebuild(
    connection: AsyncConnection, as_of: dt.datetime | None, by: Literal["timestamp", "recorded_at"]
) -> list[Position]:
    """Compute the positions from the ledger, in order of account and symbol. See `PositionReader.rebuild_positions`."""
    statement = _ROW
    if as_of is not None:
        as_of = utc("as_of", as_of)
        # A later correction does not count, but a correction of it may: both are of one trade.
        statement = statement.where((_entry[by] <= as_of) | _entry.corrects_id.is_not(None))
    made: dict[tuple[str, str], _Folded] = {}
    async for booked in stream_rows(connection, statement, booked_entry):
        if as_of is None or (booked.entry.timestamp if by == "timestamp" else booked.recorded_at) <= as_of:
            _fold(made, booked)
        elif booked.corrects_id is not None and (folded := made.get(_key(booked))) is not None:
            folded.fold.pass_over(booked.id, booked.corrects_id)
    return [folded.position() for folded in made.values()]


async def verify(connection: AsyncConnection, stored: Sequence[Position]) -> Verification:
    """Compare every entry and every position with the fold. See `PositionReader.verify_positions`."""
    found, _ = await compare(connection, stored)
    return found


async def compare(
    connection: AsyncConnection, stored: Sequence[Position]
) -> tuple[Verification, dict[tuple[str, str], Position]]:
    """Compare like `verify`. Return also the computed positions, by account and symbol."""
    made: dict[tuple[str, str], _Folded] = {}
    mismatches: list[Mismatch] = []
    entries = 0
    async for row in stream_rows(connection, _ROW, tuple):
        entries += 1
        try:
            booked = booked_entry(row)
        except InvalidRecord as error:
            # Another program than this package wrote it. The fold continues without it and differs from here on.
            mismatches.append(_unreadable(row, error))
            continue
        mismatches += _entry_mismatches(booked, _fold(made, booked))
    found = {(position.account, position.symbol): position for position in stored}
    computed = {key: folded.position() for key, folded in made.items()}
    for key in sorted(computed.keys() | found.keys()):
        mismatches += _position_mismatches(key, found.get(key), computed.get(key))
    return Verification(entries=entries, positions=len(found), mismatches=tuple(mismatches)), computed


def _key(booked: BookedEntry) -> tuple[str, str]:
    return booked.entry.account, booked.entry.symbol


def _fold(made: dict[tuple[str, str], _Folded], booked: BookedEntry) -> Mapping[str, object]:
    """Add an entry to its fold. Return the values that it should hold."""
    folded = made.setdefault(_key(booked), _Folded(Fold(), booked))
    before = folded.fold.holding
    folded.fold.add(booked.id, Trade.of(booked.entry), reverses_id=booked.reverses_id, corrects_id=booked.corrects_id)
    folded.last = booked
    after = folded.fold.holding
    return {
        "realized_pnl": realized_between(before, after),
        "position_qty": after.qty,
        "position_avg_price": after.avg_price,
        "position_cost_basis": after.cost_basis,
        "position_realized_pnl": after.realized_pnl,
    }


def _unreadable(row: Sequence[Any], error: InvalidRecord) -> Mismatch:
    return Mismatch(
        account=str(row[2]),
        symbol=str(row[3]),
        ledger_id=int(row[0]),
        field=error.field,
        stored=error.reason,
        computed="a valid entry",
    )


def _entry_mismatches(booked: BookedEntry, computed: Mapping[str, object]) -> Iterator[Mismatch]:
    for field, value in computed.items():
        stored = getattr(booked, field)
        if stored != value:
            yield Mismatch(
                account=booked.entry.account,
                symbol=booked.entry.symbol,
                ledger_id=booked.id,
                field=field,
                stored=f"{stored:f}",
                computed=f"{value:f}",
            )


def _position_mismatches(
    key: tuple[str, str], stored: Position | None, computed: Position | None
) -> Iterator[Mismatch]:
    account, symbol = key
    if stored is None or computed is None:
        yield Mismatch(
            account=account,
            symbol=symbol,
            ledger_id=None,
            field="position",
            stored="none" if stored is None else f"{stored.qty:f}",
            computed="none" if computed is None else f"{computed.qty:f}",
        )
        return
    for field in ("market", "currency", "qty", "avg_price", "cost_basis", "realized_pnl", "last_ledger_id"):
        here, there = getattr(stored, field), getattr(computed, field)
        if here != there:
            yield Mismatch(
                account=account,
                symbol=symbol,
                ledger_id=None,
                field=field,
                stored=_text(here),
                computed=_text(there),
            )


def _text(value: object) -> str:
    # str() would write a zero with eight places as 0E-8.
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
