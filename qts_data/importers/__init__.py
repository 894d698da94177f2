"""Market-data file layouts and their readers: one layout in each module.

`FORMATS` contains the names for the command line, as in `qts-data import ticks FILE --format lean-trade`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from qts_data.errors import InvalidRecord
from qts_data.importers import binance, generic_csv, krx_daily, lean_bars, lean_trade
from qts_data.importers.layout import BarLength, Layout, ReadOptions
from qts_data.importers.lean_quote import join_quotes, read_quotes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from qts_data.contracts import OHLCV, TickData
    from qts_data.importers.rows import Refuse

__all__ = ["FORMATS", "BarLength", "Layout", "ReadOptions", "bar_length", "read_file", "with_symbol"]

_NEW_YORK = "America/New_York"
_EASTERNMOST = dt.timedelta(hours=14)


def _lean_trades(path: Path, options: ReadOptions, refuse: Refuse | None) -> Iterator[TickData]:
    zone = options.time_zone or _NEW_YORK
    date = _begun(options.date)
    source = "lean" if options.source is None else options.source
    ticks = lean_trade.read_ticks(path, options.symbol or "", date, source, zone, refuse=refuse)
    if options.quotes is None:
        return ticks
    return join_quotes(ticks, read_quotes(options.quotes, date, time_zone=zone, refuse=refuse))


def _lean_minutes(path: Path, options: ReadOptions, refuse: Refuse | None) -> Iterator[OHLCV]:
    source = "lean" if options.source is None else options.source
    zone = options.time_zone or _NEW_YORK
    return lean_bars.read_minutes(path, options.symbol or "", _begun(options.date), source, zone, refuse=refuse)


def _lean_daily(path: Path, options: ReadOptions, refuse: Refuse | None) -> Iterator[OHLCV]:
    source = "lean" if options.source is None else options.source
    return lean_bars.read_daily(path, options.symbol or "", source, options.time_zone or _NEW_YORK, refuse)


def _begun(date: dt.date | None) -> dt.date:
    date = date or dt.date.min
    if date > (dt.datetime.now(dt.UTC) + _EASTERNMOST).date():
        raise InvalidRecord(field="date", reason=f"{date} has not begun anywhere")
    return date


FORMATS: Mapping[str, Layout] = MappingProxyType(
    {
        "lean-trade": Layout("ticks", _lean_trades, needs=("symbol", "date")),
        "binance-trades": Layout("ticks", binance.read_trades, symbol=binance.symbol_of),
        "binance-agg-trades": Layout("ticks", binance.read_agg_trades, symbol=binance.symbol_of),
        "csv": Layout("ticks", generic_csv.read_ticks),
        "lean-minute": Layout("bars", _lean_minutes, needs=("symbol", "date"), length="1m"),
        "lean-daily": Layout("bars", _lean_daily, needs=("symbol",), length="1d"),
        "binance-klines": Layout(
            "bars", binance.read_minutes_or_days, length=binance.kline_length, symbol=binance.symbol_of
        ),
        "krx-daily": Layout("bars", krx_daily.read_daily, length="1d"),
    }
)
"""Layouts of files by name."""


def read_file(
    name: str, path: Path, options: ReadOptions, refuse: Refuse | None = None
) -> Iterator[TickData] | Iterator[OHLCV]:
    """Read the records of a file, in the order of the file.

    Raises:
        InvalidRecord: An option that the layout needs is missing, or the file is. Without `refuse` also: a row is
            malformed.
        ConfigurationError: An option has an impossible value.
    """
    layout = FORMATS[name]
    for need in layout.needs:
        if getattr(options, need) is None:
            raise InvalidRecord(field=need, reason=f"a file of layout {name} does not say it; give it")
    return layout.read(path, options, refuse)


def with_symbol(name: str, path: Path, options: ReadOptions) -> ReadOptions:
    """Return the options, with the symbol from the name of the file where the options give none.

    Raises:
        InvalidRecord: The layout expects the symbol in the name of the file, and it is missing there.
    """
    find = FORMATS[name].symbol
    return options if find is None else replace(options, symbol=find(path, options))


def bar_length(name: str, path: Path) -> BarLength:
    """Return the length of the bars of a file. It decides which table they belong to.

    Raises:
        InvalidRecord: The file is missing, or its bars have a length without a table.
    """
    length = FORMATS[name].length
    if length is None:
        raise InvalidRecord(field="file", reason=f"a file of layout {name} holds trades, no bars")
    return length if isinstance(length, str) else length(path)
