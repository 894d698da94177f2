"""Quote ticks in the file layout of the LEAN engine, and trades joined with them.

A row has eight columns: time_ms, bid, bid_size, ask, ask_size, exchange, quote_condition, suspicious. Prices are in
whole 1/10,000 of a dollar; 0 means that the row does not change this side.

A joined trade carries the last bid and the last ask at or before its millisecond, as an as-of join does. The files do
not show the order of their rows within one millisecond. Quotes come from single exchanges, so the bid may be above the
ask for a moment; the reader keeps such values unchanged.

Source: https://github.com/QuantConnect/Lean/blob/master/Data/equity/readme.md, "Tick File Format".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qts_data.contracts import TickData
from qts_data.errors import InvalidRecord
from qts_data.importers.files import Memo, read_lines, wrong_width
from qts_data.importers.lean_trade import read_price, read_volume, wall_clock
from qts_data.importers.rows import Refuse, each_row

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator
    from decimal import Decimal
    from pathlib import Path

__all__ = ["Quote", "join_quotes", "read_quotes"]


class Quote(NamedTuple):
    """A change of one side of the book, or of both.

    Attributes:
        time: Instant, UTC.
        bid: New best bid in dollars; None if it did not change.
        ask: New best ask in dollars; None if it did not change.
    """

    time: dt.datetime
    bid: Decimal | None
    ask: Decimal | None


def read_quotes(
    path: Path, date: dt.date, *, time_zone: str = "America/New_York", refuse: Refuse | None = None
) -> Iterator[Quote]:
    """Read the quotes of one day, in the order of the file.

    Raises:
        InvalidRecord: The file is missing or damaged, or, without `refuse`, a row is malformed.
        ConfigurationError: The time zone does not exist.
    """
    instant = wall_clock(date, time_zone)
    sides = Memo(_side)

    def parse(line: bytes) -> Quote:
        columns = line.split(b",")
        if len(columns) != 8:
            raise wrong_width(len(columns), 8)
        read_volume(columns[2])
        read_volume(columns[4])
        if columns[7] not in {b"0", b"1"}:
            raise InvalidRecord(field="suspicious", reason=f"{columns[7][:40]!r} is neither 0 nor 1")
        return Quote(instant(columns[0]), sides["bid", columns[1]], sides["ask", columns[3]])

    return each_row(read_lines(path), parse, refuse)


def join_quotes(trades: Iterable[TickData], quotes: Iterable[Quote]) -> Iterator[TickData]:
    """Give each trade the bid and the ask of its moment. Both inputs are in order of time.

    Raises:
        InvalidRecord: The trades or the quotes go back in time, so that their order is unknown.
    """
    following = iter(quotes)
    quote = next(following, None)
    bid = ask = None
    last: dt.datetime | None = None
    for trade in trades:
        if last is not None and trade.time < last:
            raise InvalidRecord(
                field="time", reason=f"trade at {trade.time.isoformat()} comes after {last.isoformat()}"
            )
        last = trade.time
        while quote is not None and quote.time <= trade.time:
            bid, ask = quote.bid or bid, quote.ask or ask
            before, quote = quote.time, next(following, None)
            if quote is not None and quote.time < before:
                raise InvalidRecord(
                    field="time", reason=f"quote at {quote.time.isoformat()} comes after {before.isoformat()}"
                )
        yield TickData(
            time=trade.time,
            symbol=trade.symbol,
            price=trade.price,
            volume=trade.volume,
            source=trade.source,
            seq=trade.seq,
            bid=bid,
            ask=ask,
        )


def _side(key: tuple[str, bytes]) -> Decimal | None:
    field, text = key
    return None if text == b"0" else read_price(field, text)
