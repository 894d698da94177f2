"""Trade bars in the file layout of the LEAN engine: a US equity by minute or second, one day a file, or by day.

A file is a zip that contains one CSV, or that CSV itself, without a header. A row has six columns:

- time_ms: start of the bar, in whole milliseconds since midnight on the wall clock of the market;
- open, high, low and close: whole 1/10,000 of a dollar;
- volume: whole shares.

The publisher made these bars from ticks, but not from every tick.

A file of daily bars contains all days of a symbol, and its rows begin with `YYYYMMDD HH:MM` instead of time_ms.

Source: https://github.com/QuantConnect/Lean/blob/master/Data/equity/readme.md, "Minute, Second Data File
Format" and "Hour, Daily File Format".
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from qts_data.contracts import OHLCV
from qts_data.contracts.checks import check_full_minute
from qts_data.errors import InvalidRecord
from qts_data.importers.files import read_lines, wrong_width
from qts_data.importers.lean_trade import read_price, read_volume, wall_clock
from qts_data.importers.rows import Refuse, each_row, shown_bytes, utc_of, zone_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["read_bars", "read_daily", "read_minutes"]

_COLUMN_COUNT = 6


def read_bars(
    path: Path,
    symbol: str,
    date: dt.date,
    source: str = "lean",
    time_zone: str = "America/New_York",
    *,
    refuse: Refuse | None = None,
) -> Iterator[OHLCV]:
    """Read the bars of one symbol and day, in the order of the file.

    Args:
        path: A `.zip` that contains one file, or a `.csv`.
        symbol: Instrument to write into every bar; the file does not name it.
        date: Day of the file on the wall clock of the market.
        source: Feed to write into every bar.
        time_zone: IANA name of the zone of that wall clock.
        refuse: Receives the error of each malformed row; without it the first one ends the reading.

    Returns:
        The bars: times in UTC, prices in dollars with four decimal places, volumes in shares. tick_count is 0, because
        the publisher does not give the number of trades in a bar.

    Raises:
        InvalidRecord: Raised while the bars are read. The file is missing, empty or damaged (field `file`), or a row is
            malformed; the error has its number, counted from 1, and its column.
        ConfigurationError: The time zone does not exist.
    """
    return _bars(path, symbol, source, wall_clock(date, time_zone), refuse)


def read_minutes(
    path: Path,
    symbol: str,
    date: dt.date,
    source: str = "lean",
    time_zone: str = "America/New_York",
    *,
    refuse: Refuse | None = None,
) -> Iterator[OHLCV]:
    """Read bars of a minute, as `read_bars` does. Refuse files of other bars.

    Raises:
        InvalidRecord: As in `read_bars`. Also raised, with `refuse` or without, if a bar begins between two minutes.
            Files of seconds have the same columns, and their bars on the full minute look like bars of a minute.
        ConfigurationError: The time zone does not exist.
    """
    for bar in read_bars(path, symbol, date, source, time_zone, refuse=refuse):
        try:
            check_full_minute("time_ms", bar.time)
        except InvalidRecord as error:
            raise InvalidRecord(
                field="file", reason=f"{path} holds no bars of a minute, but of seconds: {error.reason}"
            ) from error
        yield bar


def read_daily(
    path: Path,
    symbol: str,
    source: str = "lean",
    time_zone: str = "America/New_York",
    refuse: Refuse | None = None,
) -> Iterator[OHLCV]:
    """Read the daily bars of one symbol. A day begins at midnight on the wall clock of the market.

    Args:
        path: A `.zip` that contains one file, or a `.csv`.
        symbol: Instrument to write into every bar.
        source: Feed to write into every bar.
        time_zone: IANA name of the zone of that wall clock.
        refuse: Receives the error of each malformed row; without it the first one ends the reading.

    Raises:
        InvalidRecord: Raised while the bars are read. The file is missing or damaged, or a row is malformed.
        ConfigurationError: The time zone does not exist.
    """
    zone = zone_of(time_zone)

    def instant(text: bytes) -> dt.datetime:
        try:
            local = dt.datetime.strptime(text.decode("ascii"), "%Y%m%d %H:%M")  # noqa: DTZ007 - the zone follows
        except ValueError as error:
            raise InvalidRecord(field="time", reason=f"{shown_bytes(text)} is not a time YYYYMMDD HH:MM") from error
        return utc_of(local, zone)

    return _bars(path, symbol, source, instant, refuse)


def _bars(
    path: Path, symbol: str, source: str, instant: Callable[[bytes], dt.datetime], refuse: Refuse | None
) -> Iterator[OHLCV]:
    def parse(line: bytes) -> OHLCV:
        columns = line.split(b",")
        if len(columns) != _COLUMN_COUNT:
            raise wrong_width(len(columns), _COLUMN_COUNT)
        return OHLCV(
            time=instant(columns[0]),
            symbol=symbol,
            source=source,
            open=read_price("open", columns[1]),
            high=read_price("high", columns[2]),
            low=read_price("low", columns[3]),
            close=read_price("close", columns[4]),
            volume=read_volume(columns[5]),
            tick_count=0,
        )

    return each_row(read_lines(path), parse, refuse)
