"""The rules of the book for sources other than the database: the effect of fills and valuations on positions."""

from __future__ import annotations

from dataclasses import replace
from decimal import Context
from typing import TYPE_CHECKING, Final

from qts_data.contracts import BookedFill, Position, round_money
from qts_data.contracts.checks import check_price
from qts_data.contracts.identity import check_asked
from qts_data.contracts.instants import plausible, utc_or_none
from qts_data.errors import InvalidRecord, StaleWrite
from qts_data.rules.average_cost import FLAT, Holding, Trade, apply
from qts_data.rules.booked import Booked, unmarked_position

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable

    from qts_data.contracts import LedgerEntry


from typing import TYPE_CHECKING

from qts_data.errors import LedgerConflict

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TypeAlias

    import psycopg

    from qts_data.contracts import LedgerEntry, Position

    Driver: TypeAlias = psycopg.AsyncConnection[Any]
    PositionKey: TypeAlias = tuple[str, str]
    FillKey: TypeAlias = tuple[str, str, str]
    Refusal: TypeAlias = InvalidRecord | LedgerConflict


__all__ = ["book", "check_valuation", "entries_between", "require_same_instrument", "valued"]

_exact: Final = Context(prec=80)


def book(held: Position | None, entry: LedgerEntry, ledger_id: int, at: dt.datetime) -> BookedFill:
    """Return the result of booking a fill.

    Raises:
        InvalidRecord: The fill is in another currency or market, or the position would be too large.
    """
    before = FLAT
    if held is not None:
        require_same_instrument(entry, held.market, held.currency)
        before = Holding(held.qty, held.cost_basis, held.realized_pnl)
    booked = Booked.of(ledger_id, entry, before, apply(before, Trade.of(entry)))
    position = unmarked_position(entry, booked.after, booked.avg_price, ledger_id, at)
    if held is not None and held.mark_price is not None:
        position = replace(position, mark_price=held.mark_price, marked_at=held.marked_at)
        position = _with_value(position)
    return BookedFill(ledger_id=ledger_id, realized_pnl=booked.realized_pnl, position=position, duplicate=False)


def entries_between(
    entries: Iterable[LedgerEntry], symbol: str | None, start: dt.datetime | None, end: dt.datetime | None
) -> list[LedgerEntry]:
    """Return the fills of a symbol, or of all, in the half-open time range [start, end), in the order given.

    Raises:
        InvalidRecord: `start` or `end` has no time zone.
    """
    check_asked(symbol=symbol)
    start, end = utc_or_none("start", start), utc_or_none("end", end)
    return [
        entry
        for entry in entries
        if symbol in {None, entry.symbol}
        and (start is None or entry.timestamp >= start)
        and (end is None or entry.timestamp < end)
    ]


def check_valuation(held: Position, given: Position) -> None:
    """Refuse a position that would change more than the valuation.

    Raises:
        StaleWrite: Quantity, cost or realized profit differ from the stored ones.
        InvalidRecord: The price or its time is missing.
    """
    for field in ("qty", "cost_basis", "realized_pnl"):
        if getattr(held, field) != getattr(given, field):
            raise StaleWrite(
                f"{given.account} {given.symbol}: {field} is {getattr(held, field):f}, not {getattr(given, field):f}; "
                "only fills change it: read the position again, or book the fill"
            )
    if given.mark_price is None or given.marked_at is None:
        raise InvalidRecord(field="mark_price", reason="give mark_price and marked_at: nothing else can be set")
    check_price("mark_price", given.mark_price)
    plausible("marked_at", given.marked_at)


def valued(held: Position, given: Position, at: dt.datetime) -> Position:
    """Return the stored position with the valuation of the given one. An older valuation changes nothing.

    Raises:
        StaleWrite: Quantity, cost or realized profit differ from the stored ones.
        InvalidRecord: The price or its time is missing.
    """
    check_valuation(held, given)
    assert given.marked_at is not None  # noqa: S101 - checked
    if held.marked_at is not None and held.marked_at > given.marked_at:
        return held
    marked = replace(held, mark_price=given.mark_price, marked_at=given.marked_at, updated_at=at)
    return replace(_with_value(marked), exposure_pct=given.exposure_pct)


def _with_value(position: Position) -> Position:
    assert position.mark_price is not None  # noqa: S101 - the caller checked it
    exposure = round_money(_exact.multiply(position.qty, position.mark_price))
    return replace(position, exposure_value=exposure, unrealized_pnl=_exact.subtract(exposure, position.cost_basis))


def require_same_instrument(entry: LedgerEntry, market: str | None, currency: str | None) -> None:
    """Refuse a fill in another market or currency than the position. Their amounts could not be added.

    Raises:
        InvalidRecord: Market or currency differs; the message names both values.
    """
    for field, given, held in (("currency", entry.currency, currency), ("market", entry.market, market)):
        if given != held:
            raise InvalidRecord(
                field=field,
                reason=f"is {given!r}, but {entry.account} holds {entry.symbol} in {held!r}; "
                "give another instrument a symbol of its own",
            )
