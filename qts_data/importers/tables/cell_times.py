"""Reading one cell as an instant or a day, with the reason where it cannot be read."""

from __future__ import annotations

import datetime as dt
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from qts_data.errors import InvalidRecord
from qts_data.importers.rows import utc_of
from qts_data.importers.tables.cells import read_narrow, shown

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from qts_data.importers.tables.cells import Cell

__all__ = ["read_date", "read_instant"]

_EPOCH: Final = dt.datetime(1899, 12, 30)  # noqa: DTZ001 - serial numbers count days on the sheet's own wall clock
_LAST_SERIAL: Final = 2_958_466
_DATE: Final = (
    r"([0-9]{4})(?:-([0-9]{1,2})-([0-9]{1,2})|/([0-9]{1,2})/([0-9]{1,2})|\. ?([0-9]{1,2})\. ?([0-9]{1,2})\.?)"
)
_TIME: Final = r"(?:(오전|오후|AM|PM) )?([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(\.[0-9]{1,6})?)?(?: ?(AM|PM))?"
_INSTANT: Final = re.compile(rf"{_DATE}(?:[T ]{_TIME} ?(Z|[+-][0-9]{{2}}:?[0-9]{{2}})?)?", re.IGNORECASE)
_COMPACT: Final = re.compile(r"[0-9]{8}")


def read_instant(field: str, cell: Cell, zone: ZoneInfo) -> dt.datetime:
    """Read an instant in UTC: a serial number or a text on the zone's clock, or a text with an offset.

    Serial numbers are exact to the millisecond, the precision that a sheet displays.

    Raises:
        InvalidRecord: The cell is not an instant, or the zone's clocks showed this time twice or never.
    """
    local = _serial(field, cell) if not isinstance(cell, str) else None
    offset: dt.tzinfo | None = None
    if local is None:
        local, offset = _instant_of_text(field, read_narrow(field, cell))
    try:
        return local.replace(tzinfo=offset).astimezone(dt.UTC) if offset else utc_of(local, zone)
    except InvalidRecord as error:
        raise InvalidRecord(field=field, reason=error.reason) from error
    except OverflowError as error:
        raise InvalidRecord(field=field, reason=f"{local} is outside the years 1 to 9999 in UTC") from error


def read_date(field: str, cell: Cell, zone: ZoneInfo) -> dt.date:
    """Read a day, without a time of the day.

    Args:
        field: Name of the field in errors.
        cell: The cell, not empty.
        zone: Zone of the days: a text with an offset must be midnight there.

    Raises:
        InvalidRecord: The cell is not a day.
    """
    local = _serial(field, cell) if not isinstance(cell, str) else None
    offset: dt.tzinfo | None = None
    if local is None:
        local, offset = _instant_of_text(field, read_narrow(field, cell))
    if offset is not None:
        try:
            there = local.replace(tzinfo=offset).astimezone(zone).replace(tzinfo=None)
        except OverflowError as error:
            raise InvalidRecord(field=field, reason=f"{local} is outside the years 1 to 9999") from error
        if there.time() != dt.time():
            raise InvalidRecord(
                field=field, reason=f"{cell!r} is {there} in {zone.key}, where a day is needed; write the day alone"
            )
        local = there
    if local.time() != dt.time():
        raise InvalidRecord(field=field, reason=f"{local} has a time of the day, where a day is needed")
    return local.date()


def _serial(field: str, cell: Cell) -> dt.datetime:
    if isinstance(cell, bool) or not isinstance(cell, int | float) or not math.isfinite(cell):
        raise InvalidRecord(field=field, reason=f"{cell} is not a date")
    if 1 <= cell < _LAST_SERIAL:
        return _EPOCH + dt.timedelta(milliseconds=round(cell * 86_400_000))
    if float(cell).is_integer() and (day := _compact(str(int(cell)))) is not None:
        return day
    raise InvalidRecord(field=field, reason=f"{cell} is not the serial number of a day between 1900 and 9999")


def _compact(text: str) -> dt.datetime | None:
    """Read 20261120 as a day. No serial number has this form."""
    if not _COMPACT.fullmatch(text):
        return None
    try:
        return dt.datetime(int(text[:4]), int(text[4:6]), int(text[6:]))  # noqa: DTZ001 - the caller knows the zone
    except ValueError:
        return None


def _instant_of_text(field: str, text: str) -> tuple[dt.datetime, dt.tzinfo | None]:
    refused = InvalidRecord(
        field=field, reason=f"{shown(text)} is not a date; write it as 2026-11-20 or 2026-11-20 09:00:00"
    )
    if (compact := _compact(text)) is not None:
        return compact, None
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise refused
    year, *days = found.groups()[:7]
    month, day = (int(part) for part in days if part is not None)
    before, hour, minute, second, fraction, after, offset = found.groups()[7:]
    half = (before or after or "").upper()
    if before and after:
        raise refused
    hours = int(hour or 0)
    if half:
        if not 1 <= hours <= 12:
            raise refused
        hours = hours % 12 + (12 if half in {"오후", "PM"} else 0)
    micros = round(Decimal(fraction or 0) * 1_000_000)
    try:
        local = dt.datetime(int(year), month, day, hours, int(minute or 0), int(second or 0), micros)  # noqa: DTZ001
        zone = None if offset is None else dt.datetime.strptime(offset, "%z").tzinfo
    except ValueError as error:
        raise refused from error
    return local, zone
