"""Public data files of Binance: trades, aggregated trades and klines, of the spot market and of futures.

A file is a zip that contains one CSV, or that CSV. Files of the spot market have no header, newer ones of futures have
one. Times are in milliseconds. In files of the spot market from 2025-01-01 on they are in microseconds; the number of
digits shows the unit. The trade id is the feed's own sequence number, and becomes `seq`.

| layout | columns |
|---|---|
| trades | id, price, qty, quote_qty, time, is_buyer_maker; of the spot market also is_best_match |
| aggTrades | id, price, qty, first id, last id, time, is_buyer_maker; of the spot market also is_best_match |
| klines | open time, open, high, low, close, volume, close time, quote volume, count, two taker volumes, ignore |

Source: https://github.com/binance/binance-public-data, README.
"""

from __future__ import annotations

import datetime as dt
import re
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from qts_data.contracts import OHLCV, TickData
from qts_data.contracts.checks import check_full_minute, check_symbol
from qts_data.errors import InvalidRecord
from qts_data.importers.files import read_lines, wrong_width
from qts_data.importers.rows import Refuse, check_plausible, each_row, instant_of, read_decimal, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from qts_data.importers.layout import BarLength, ReadOptions

__all__ = ["kline_length", "read_agg_trades", "read_klines", "read_minutes_or_days", "read_trades", "symbol_of"]

_FILE_NAME = re.compile(r"(?P<symbol>[0-9A-Z_]+)-(?:trades|aggTrades|[0-9]+[smhdwMo]+)-[0-9-]+\.(?:zip|csv)")
_SOURCE = "binance"
_MILLISECOND_DIGITS, _MICROSECOND_DIGITS = 13, 16
_LENGTHS: Final[Mapping[BarLength, dt.timedelta]] = MappingProxyType(
    {"1m": dt.timedelta(minutes=1), "1d": dt.timedelta(days=1)}
)
_KLINE_COLUMNS = 12
_FLAGS = {"true", "false"}


def read_trades(path: Path, options: ReadOptions, refuse: Refuse | None) -> Iterator[TickData]:
    """Read single trades, 7 columns of the spot market or 6 of futures.

    Raises:
        InvalidRecord: The file is missing or damaged; without `refuse` also: a row is malformed.
    """
    return _ticks(path, options, refuse, widths=(7, 6), time_column=4)


def read_agg_trades(path: Path, options: ReadOptions, refuse: Refuse | None) -> Iterator[TickData]:
    """Read aggregated trades, 8 columns of the spot market or 7 of futures.

    A row contains the trades of one order at one price.

    Raises:
        InvalidRecord: The file is missing or damaged; without `refuse` also: a row is malformed.
    """
    return _ticks(path, options, refuse, widths=(8, 7), time_column=5)


def read_klines(path: Path, options: ReadOptions, refuse: Refuse | None) -> Iterator[OHLCV]:
    """Read bars of any length. Their `count` becomes tick_count.

    Raises:
        InvalidRecord: The file is missing or damaged; without `refuse` also: a row is malformed.
    """
    return _klines(path, options, refuse)


def read_minutes_or_days(path: Path, options: ReadOptions, refuse: Refuse | None) -> Iterator[OHLCV]:
    """Read bars of a minute, or of a day in UTC, depending on the file. A bar of another length is a bad row.

    Raises:
        InvalidRecord: The file is missing or damaged, or its bars have another length. Without `refuse` also: a row is
            malformed.
    """
    return _klines(path, options, refuse, length=kline_length(path))


def kline_length(path: Path) -> BarLength:
    """Return the length of the bars of a file: the length of the first bar that fits a table.

    Raises:
        InvalidRecord: The file is missing or damaged, or all of its bars have other lengths.
    """
    other: InvalidRecord | None = None
    for row, line in enumerate(_without_header(path), start=1):
        try:
            opened, closed = _span(line.decode("ascii", "replace").split(","))
        except InvalidRecord:
            continue  # the reader reports this row
        for length in _LENGTHS:
            if _covers(opened, closed, length):
                return length
        other = other or InvalidRecord(
            field="close_time",
            reason=f"the bar covers {closed - opened}, neither a minute nor a day; import klines of a minute, or "
            "trades, and bars of other lengths are computed from them",
            row=row,
        )
    if other is not None:
        raise other
    return "1d"  # the file has no bars


def _ticks(
    path: Path, options: ReadOptions, refuse: Refuse | None, *, widths: tuple[int, int], time_column: int
) -> Iterator[TickData]:
    symbol = symbol_of(path, options)
    source = _SOURCE if options.source is None else options.source

    def parse(line: bytes) -> TickData | None:
        columns = _columns(line)
        if columns is None:
            return None
        if len(columns) not in widths:
            raise wrong_width(len(columns), max(widths))
        for flag in columns[time_column + 1 :]:
            if flag.lower() not in _FLAGS:
                raise InvalidRecord(field="is_buyer_maker", reason=f"{flag[:40]!r} is neither true nor false")
        return check_plausible(
            TickData(
                time=_time("time", columns[time_column]),
                symbol=symbol,
                source=source,
                seq=_whole("id", columns[0]),
                price=read_decimal("price", columns[1]),
                volume=read_decimal("qty", columns[2]),
            ),
            options.max_ahead,
        )

    return each_row(_without_header(path), parse, refuse)


def _klines(
    path: Path, options: ReadOptions, refuse: Refuse | None, *, length: BarLength | None = None
) -> Iterator[OHLCV]:
    symbol = symbol_of(path, options)
    source = _SOURCE if options.source is None else options.source
    return each_row(_without_header(path), partial(_bar, symbol=symbol, source=source, length=length), refuse)


def _bar(line: bytes, *, symbol: str, source: str, length: BarLength | None) -> OHLCV | None:
    columns = _columns(line)
    if columns is None:
        return None
    opened, closed = _span(columns)
    if length is not None and not _covers(opened, closed, length):
        raise InvalidRecord(
            field="close_time", reason=f"the bar covers {closed - opened}, others of the file {_LENGTHS[length]}"
        )
    if length == "1m":
        check_full_minute("open_time", opened)
    return OHLCV(
        time=opened,
        symbol=symbol,
        source=source,
        open=read_decimal("open", columns[1]),
        high=read_decimal("high", columns[2]),
        low=read_decimal("low", columns[3]),
        close=read_decimal("close", columns[4]),
        volume=read_decimal("volume", columns[5]),
        tick_count=_whole("count", columns[8]),
    )


def _span(columns: list[str]) -> tuple[dt.datetime, dt.datetime]:
    """Return the first and last unit of time of a bar, in milliseconds or microseconds."""
    if len(columns) != _KLINE_COLUMNS:
        raise wrong_width(len(columns), _KLINE_COLUMNS)
    return _time("open_time", columns[0]), _time("close_time", columns[6])


def _covers(opened: dt.datetime, closed: dt.datetime, length: BarLength) -> bool:
    return dt.timedelta(0) < _LENGTHS[length] - (closed - opened) <= dt.timedelta(milliseconds=1)


def symbol_of(path: Path, options: ReadOptions) -> str:
    """Return the symbol of the options, otherwise the one at the beginning of the file's name.

    Raises:
        InvalidRecord: There is none, or it is not a valid symbol.
    """
    match = _FILE_NAME.fullmatch(path.name)
    symbol = options.symbol or (match["symbol"] if match else None)
    if symbol is None:
        raise InvalidRecord(field="symbol", reason=f"{path.name} does not begin with one; give it")
    check_symbol(symbol)
    return symbol


_HEADERS = {"id", "agg_trade_id", "open_time"}


def _without_header(path: Path) -> Iterator[bytes]:
    """Yield the lines. A header becomes an empty line, so that the rows keep their numbers."""
    for row, line in enumerate(read_lines(path)):
        yield b"" if row == 0 and line.split(b",")[0].decode("ascii", "replace") in _HEADERS else line


def _columns(line: bytes) -> list[str] | None:
    return read_text(line).split(",") if line else None


def _time(field: str, text: str) -> dt.datetime:
    number = _whole(field, text)
    if len(text) == _MILLISECOND_DIGITS:
        return instant_of(1000 * number)
    if len(text) == _MICROSECOND_DIGITS:
        return instant_of(number)
    raise InvalidRecord(field=field, reason=f"{text[:40]!r} is neither in milliseconds nor in microseconds since 1970")


def _whole(field: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise InvalidRecord(field=field, reason=f"{text[:40]!r} is not a whole number")
    return int(text)
