"""Trade ticks in the file layout of the LEAN engine: one symbol's day of a US equity.

A file is a zip that contains one CSV, or that CSV itself, without a header. A row has six columns:

| column         | meaning                                                             |
|----------------|---------------------------------------------------------------------|
| time_ms        | whole milliseconds since midnight on the wall clock of the market   |
| price          | whole 1/10,000 of a dollar                                          |
| volume         | whole shares                                                        |
| exchange       | letter of the exchange, or nothing                                  |
| sale_condition | hexadecimal bit field, or nothing                                   |
| suspicious     | 1 where the publisher doubts the trade, else 0                      |

Source: https://github.com/QuantConnect/Lean/blob/master/Data/equity/readme.md, "Tick File Format".

A value must have exactly one reading. The reader refuses signs, spaces, quotes, leading zeros, separators of thousands,
digits of other scripts and fractions (newer files have fractions of a millisecond). It never rounds or skips them:
`int("1_000")` gives a number that the publisher did not mean.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from qts_data.contracts import TickData
from qts_data.contracts.checks import check_source, check_symbol
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.importers.files import Memo, read_lines, wrong_width
from qts_data.importers.rows import shown_bytes as _shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from qts_data.importers.rows import Refuse

__all__ = [
    "read_price",
    "read_ticks",
    "read_volume",
    "wall_clock",
]


_COLUMN_COUNT = 6
_EXCHANGE = re.compile(rb"[0-9A-Za-z]{0,16}")
_SALE_CONDITION = re.compile(rb"[0-9A-Fa-f]{0,16}")

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECONDS_OF_A_DAY = 86_400
_MILLISECONDS = tuple(dt.timedelta(milliseconds=count) for count in range(1000))

_MAX_DIGITS = 19


def read_ticks(
    path: Path,
    symbol: str,
    date: dt.date,
    source: str = "lean",
    time_zone: str = "America/New_York",
    *,
    refuse: Refuse | None = None,
) -> Iterator[TickData]:
    """Read the trades of one symbol and day, in the order of the file.

    Every row becomes a tick. Suspicious rows and all sale conditions are included, and equal rows are different trades.
    A tick has no sequence number, because the file has none: the loader numbers the ticks of one instant in the given
    order. Exchange, sale condition and the suspicious mark are checked, but not stored.

    The file is read while the ticks are taken. An error further down is raised after the good rows above it, and a
    wrong checksum at the end: load all of it in one transaction.

    Args:
        path: A `.zip` that contains one file, or a `.csv`.
        symbol: Instrument to write into every tick; the file does not name it.
        date: Day of the file on the wall clock of the market.
        source: Feed to write into every tick.
        time_zone: IANA name of the zone of that wall clock.
        refuse: Receives the error of each malformed row, and the reader continues with the next row. Without it the
            first error ends the reading.

    Returns:
        The ticks: times in UTC, prices in dollars with four decimal places, volumes in shares.

    Raises:
        InvalidRecord: The symbol or the source is not a valid name. Raised while the ticks are taken: the file is
            missing, empty or damaged (field `file`), or a row is malformed; the error has its number, counted from 1,
            and its column.
        ConfigurationError: The time zone does not exist.
    """
    # Values shared by all rows are checked before the file is opened: an error in them is not an error of row 1.
    check_symbol(symbol)
    check_source(source)
    return _ticks(path, symbol, source, wall_clock(date, time_zone), refuse)


def _ticks(
    path: Path, symbol: str, source: str, instant: Callable[[bytes], dt.datetime], refuse: Refuse | None
) -> Iterator[TickData]:
    prices, volumes, remarks = Memo(partial(read_price, "price")), Memo(read_volume), Memo(_check_remark)
    time = _EPOCH
    last_time_text: bytes | None = None  # not b"", which would equal the time of a first row without one
    for row, line in enumerate(read_lines(path), start=1):
        try:
            # The last three columns stay in one piece: they have few combinations, and none is stored.
            columns = line.split(b",", 3)
            if len(columns) != 4:
                raise wrong_width(len(columns), _COLUMN_COUNT)
            time_text, price_text, volume_text, remark = columns
            # Trades come in bursts: every second row has the time of the row above it.
            if time_text != last_time_text:
                time, last_time_text = instant(time_text), time_text
            tick = TickData(
                time=time,
                symbol=symbol,
                price=prices[price_text],
                volume=volumes[volume_text],
                source=source,
            )
            remarks[remark]
        except InvalidRecord as error:
            if refuse is None:
                raise error.at(row) from error
            refuse(error.at(row), line)
            continue
        yield tick


def _check_remark(text: bytes) -> None:
    columns = text.split(b",")
    if len(columns) != 3:
        raise wrong_width(3 + len(columns), _COLUMN_COUNT)
    exchange, sale_condition, suspicious = columns
    if not _EXCHANGE.fullmatch(exchange):
        raise InvalidRecord(field="exchange", reason=f"{_shown(exchange)} is not a code of letters and digits")
    if not _SALE_CONDITION.fullmatch(sale_condition):
        raise InvalidRecord(field="sale_condition", reason=f"{_shown(sale_condition)} is not hexadecimal")
    if suspicious not in {b"0", b"1"}:
        raise InvalidRecord(field="suspicious", reason=f"{_shown(suspicious)} is neither 0 nor 1")


# Shared with the engine's other layouts ----------------------------------------------------


def wall_clock(date: dt.date, time_zone: str) -> Callable[[bytes], dt.datetime]:
    """Return a reader of column time_ms: milliseconds since midnight on that day's wall clock, as UTC.

    The number is arithmetic on the clock face, not elapsed time: 34,200,000 is 09:30 even on a day whose clocks changed
    at 02:00. Two kinds of time are refused, because a guess would be wrong by an hour and remain unnoticed: a time that
    the clocks skipped did not happen, and for a time that they showed twice the file does not say which one it means.

    Args:
        date: Day on the wall clock.
        time_zone: IANA name of its zone.

    Raises:
        ConfigurationError: The time zone does not exist.
    """
    try:
        zone = ZoneInfo(time_zone)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigurationError(f"unknown time zone {time_zone!r}") from error
    midnight = dt.datetime.combine(date, dt.time.min)

    def start_of_minute(minute: int) -> dt.datetime:
        local = (midnight + dt.timedelta(minutes=minute)).replace(tzinfo=zone)
        try:
            utc = local.astimezone(dt.UTC)
        except OverflowError as error:
            raise InvalidRecord(field="time_ms", reason=f"{local} is outside the years 1 to 9999") from error
        # A skipped time comes back from UTC as another time; a repeated time has two offsets.
        if utc.astimezone(zone).replace(tzinfo=None) != local.replace(tzinfo=None):
            raise InvalidRecord(field="time_ms", reason=f"the clocks of {time_zone} leapt over {local}")
        if local.replace(fold=1).utcoffset() != local.utcoffset():
            raise InvalidRecord(field="time_ms", reason=f"the clocks of {time_zone} showed {local} twice")
        return utc

    # One look-up of the zone serves a minute of trades: since 1972 all clocks have changed on a full minute.
    minutes = Memo(start_of_minute)

    def start_of_second(second: int) -> dt.datetime:
        return minutes[second // 60] + dt.timedelta(seconds=second % 60)

    seconds = Memo(start_of_second)

    def instant(text: bytes) -> dt.datetime:
        second, millisecond = divmod(_whole_number("time_ms", text), 1000)
        if second >= _SECONDS_OF_A_DAY:
            raise InvalidRecord(
                field="time_ms", reason=f"{_shown(text)} is beyond the last millisecond of a day, 86399999"
            )
        return seconds[second] + _MILLISECONDS[millisecond]

    return instant


def read_price(field: str, text: bytes) -> Decimal:
    """Read a price in dollars, to four decimal places, from whole 1/10,000 dollars.

    Raises:
        InvalidRecord: The text is not a whole number, or it is 0, which these files write for an unknown price.
    """
    if _whole_number(field, text) == 0:
        raise InvalidRecord(field=field, reason="0 is not a price")
    # Read as text: Decimal.scaleb would round to the precision of the caller's context.
    return Decimal(f"{text.decode()}E-4")


def read_volume(text: bytes) -> Decimal:
    """Read a volume in whole shares, at least 0.

    Raises:
        InvalidRecord: The text is not a whole number.
    """
    return Decimal(_whole_number("volume", text))


def _whole_number(field: str, text: bytes) -> int:
    # isdigit of bytes accepts the ten ASCII digits only; that of str accepts hundreds.
    if not text.isdigit() or (text[:1] == b"0" and text != b"0") or len(text) > _MAX_DIGITS:
        raise InvalidRecord(field=field, reason=f"{_shown(text)} is not a whole number of at least 0 in plain digits")
    return int(text)
