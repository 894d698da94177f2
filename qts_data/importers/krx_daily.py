"""Daily figures of all shares of the Korea Exchange (KRX), as its data site offers them for download.

The file is a CSV in code page 949 (some copies are UTF-8 with a byte order mark). Every value is in quotes, and the
header is in Korean. The date is in the file's name (data_1234_20260102.csv), or `--date` gives it. Codes may contain
letters (0001A0, 00680K). The reader uses the columns 종목코드 (code), 시가, 고가, 저가, 종가 (open, high, low, close)
and 거래량 (volume), in any place.

A share that was halted all day has open, high and low 0, and the close of the day before. It becomes a flat bar at
that close without volume, so that the day is not a gap.

Source: https://data.krx.co.kr, menu 12001, "전종목 시세".
"""

from __future__ import annotations

import csv
import datetime as dt
import re
from typing import TYPE_CHECKING

from qts_data.contracts import OHLCV
from qts_data.contracts.instants import start_of_day
from qts_data.errors import InvalidRecord
from qts_data.importers.files import read_lines, wrong_width
from qts_data.importers.rows import Refuse, each_row, read_decimal, read_text, zone_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qts_data.importers.layout import ReadOptions

__all__ = ["read_daily"]

_DATE_IN_NAME = re.compile(r"(?<!\d)(\d{8})(?!\d)")
_CODE = re.compile(r"[0-9A-Z]{6,12}")
_HEADER = {"종목코드": "symbol", "시가": "open", "고가": "high", "저가": "low", "종가": "close", "거래량": "volume"}
_MAX_LINE_BYTES = 4096


def read_daily(path: Path, options: ReadOptions, refuse: Refuse | None) -> Iterator[OHLCV]:
    """Read the daily bars of a file, prices in KRW, volumes in shares. A day begins at midnight in Korea.

    Raises:
        InvalidRecord: The date is unknown, the file is missing, or it lacks this header. Without `refuse` also: a row
            is malformed.
    """
    zone = zone_of(options.time_zone or "Asia/Seoul")
    time = start_of_day("date", options.date or _date_of(path), zone)
    source = "krx" if options.source is None else options.source
    lines = read_lines(path, max_line_bytes=_MAX_LINE_BYTES)
    header = next(lines, b"")
    encoding, places, width = _understood(header)

    def parse(line: bytes) -> OHLCV | None:
        if not line:
            return None
        values = _values(read_text(line, encoding))
        if len(values) != width:
            raise wrong_width(len(values), width)
        symbol = values[places["symbol"]]
        if not _CODE.fullmatch(symbol):
            raise InvalidRecord(field="symbol", reason=f"{symbol[:40]!r} is not a code")
        found = {name: read_decimal(name, values[places[name]]) for name in ("open", "high", "low", "close", "volume")}
        if found["open"] == found["high"] == found["low"] == 0 and found["volume"] == 0:
            found |= dict.fromkeys(("open", "high", "low"), found["close"])
        if found["low"] <= 0:
            raise InvalidRecord(field="low", reason=f"{found['low']} is not above zero")
        return OHLCV(time=time, symbol=symbol, source=source, tick_count=0, **found)

    return each_row(lines, parse, refuse, first_row=2)


def _date_of(path: Path) -> dt.date:
    for digits in reversed(_DATE_IN_NAME.findall(path.name)):
        try:
            return dt.datetime.strptime(digits, "%Y%m%d").date()  # noqa: DTZ007 - a day, not an instant
        except ValueError:
            continue
    raise InvalidRecord(field="date", reason=f"{path.name} does not name its day; give it")


def _understood(header: bytes) -> tuple[str, dict[str, int], int]:
    """Return the encoding, the places of the columns that are used, and the number of columns."""
    for encoding in ("utf-8", "cp949"):
        try:
            names = _values(header.decode(encoding))
        except (UnicodeDecodeError, InvalidRecord):
            continue
        places = {_HEADER[name]: place for place, name in enumerate(names) if name in _HEADER}
        if len(places) == len(_HEADER):
            return encoding, places, len(names)
    raise InvalidRecord(field="row", reason=f"the header does not name {', '.join(_HEADER)}", row=1)


def _values(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration) as error:
        raise InvalidRecord(field="row", reason=f"its quotes do not pair: {error}") from error
