"""What one cell says: a number, an instant, a text - or why it cannot be taken for one.

A cell of a spreadsheet is a text, a number (a double), a boolean or nothing; a cell of a CSV file is a text. Nothing is
guessed: what can be read in two ways is refused with a hint how to write it.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from qts_data.errors import InvalidRecord
from qts_data.importers.rows import utc_of

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

__all__ = [
    "Cell",
    "Number",
    "cell_of_decimal",
    "column_letters",
    "is_empty",
    "read_date",
    "read_instant",
    "read_number",
    "read_plain",
    "read_side",
    "read_symbol",
]

Cell: TypeAlias = str | float | bool | None

_EPOCH: Final = dt.datetime(1899, 12, 30)  # noqa: DTZ001 - serial numbers count days on the sheet's own wall clock
_LAST_SERIAL: Final = 2_958_466
_SHOWN: Final = 40
_EXACT_DIGITS: Final = 15
_NOISE_ULPS: Final = 4
_ERRORS: Final = frozenset(
    {"#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!", "#ERROR!", "#SPILL!", "#CALC!", "Loading..."}
)
# Full-width forms only: the compatibility forms of Unicode would turn 10 squared into 102.
_NARROW: Final = {0xFF01 + n: 0x21 + n for n in range(94)} | {0x3000: " ", 0xFFE6: "₩", 0xFFE5: "¥", 0x2212: "-"}
_INVISIBLE: Final = "\u200b\u200c\u200d\u2060\ufeff"
_MARKS: Final = {"₩": "KRW", "원": "KRW", "€": "EUR", "£": "GBP", "$": None, "¥": None, "KRW": "KRW", "USD": "USD"}
_NUMBER: Final = re.compile(r"([+-]?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_DATE: Final = (
    r"([0-9]{4})(?:-([0-9]{1,2})-([0-9]{1,2})|/([0-9]{1,2})/([0-9]{1,2})|\. ?([0-9]{1,2})\. ?([0-9]{1,2})\.?)"
)
_TIME: Final = r"(?:(오전|오후|AM|PM) )?([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(\.[0-9]{1,6})?)?(?: ?(AM|PM))?"
_INSTANT: Final = re.compile(rf"{_DATE}(?:[T ]{_TIME} ?(Z|[+-][0-9]{{2}}:?[0-9]{{2}})?)?", re.IGNORECASE)
_COMPACT: Final = re.compile(r"[0-9]{8}")
_SIDES: Final = {
    "BUY": "BUY", "B": "BUY", "매수": "BUY", "SELL": "SELL", "S": "SELL", "매도": "SELL",
}  # fmt: skip
_KRX_LENGTH: Final = 6
# Whatever the caller's decimal context says.
_exact: Final = Context(prec=100)


class Number(NamedTuple):
    """A number as a cell gives it.

    Attributes:
        value: The number.
        currency: What a currency sign beside it means; None without one, or where a sign has several.
        from_text: Whether the cell holds a text.
    """

    value: Decimal
    currency: str | None
    from_text: bool


def column_letters(index: int) -> str:
    """The name of a column: A for 0, AA for 26."""
    letters = ""
    number = index + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def clean(text: str) -> str:
    """Full-width characters made narrow, and nothing invisible at either end."""
    return text.translate(_NARROW).strip().strip(_INVISIBLE).strip()


def is_empty(cell: Cell) -> bool:
    """Whether there is nothing to see in it."""
    return cell is None or (isinstance(cell, str) and not clean(cell))


def read_plain(field: str, cell: Cell) -> str:
    """The text of a cell that is not empty.

    Raises:
        InvalidRecord: It is an error of the sheet.
    """
    if isinstance(cell, str):
        text = clean(cell)
        if text in _ERRORS:
            raise InvalidRecord(field=field, reason=f"the cell shows the error {text}; repair its formula")
        return text
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 10**_EXACT_DIGITS:
        return str(int(cell))
    return str(cell)


def read_number(field: str, cell: Cell, *, ratio: bool = False) -> Number:
    """A number, exactly.

    A number of a sheet is a double. With up to 15 significant digits it is the decimal that somebody typed; what
    arithmetic left behind the 15th digit beyond our 8 places is noise and is dropped; anything else is refused.

    Args:
        field: For the error.
        cell: The cell, not empty.
        ratio: Whether 12% is to be read as 0.12; elsewhere a percentage is refused.

    Raises:
        InvalidRecord: It is no number, or not exactly one.
    """
    if isinstance(cell, bool):
        raise InvalidRecord(field=field, reason=f"is {str(cell).upper()}, no number")
    if isinstance(cell, int):
        if abs(cell) >= 10**_EXACT_DIGITS:
            raise InvalidRecord(field=field, reason=_too_long(str(cell)))
        return Number(Decimal(cell), None, from_text=False)
    if isinstance(cell, float):
        return Number(_decimal_of_double(field, cell), None, from_text=False)
    return _number_of_text(field, read_plain(field, cell), ratio=ratio)


def _decimal_of_double(field: str, value: float) -> Decimal:
    if not math.isfinite(value):
        raise InvalidRecord(field=field, reason=f"{value} is no finite number")
    shortest = Decimal(repr(value))
    digits = shortest.normalize(_exact).as_tuple()
    if len(digits.digits) <= _EXACT_DIGITS:
        return shortest
    assert isinstance(digits.exponent, int)  # noqa: S101 - it is finite
    if digits.exponent >= -8:
        raise InvalidRecord(field=field, reason=_too_long(str(shortest)))
    rounded = Decimal(f"{value:.{_EXACT_DIGITS}g}")
    if abs(_exact.subtract(rounded, shortest)) > _exact.multiply(_NOISE_ULPS, Decimal(math.ulp(value))):
        raise InvalidRecord(field=field, reason=_too_long(str(shortest)))
    return rounded


def _too_long(text: str) -> str:
    return (
        f"{_shown(text)} has more digits than a number of a sheet holds exactly ({_EXACT_DIGITS}); format the cell as "
        "plain text and enter it again"
    )


def _number_of_text(field: str, text: str, *, ratio: bool) -> Number:
    def refuse(reason: str) -> InvalidRecord:
        return InvalidRecord(field=field, reason=f"{_shown(text)} {reason}")

    negative = text.startswith("(") and text.endswith(")")
    rest, currency = _without_mark(text[1:-1].strip() if negative else text)
    percent = rest.endswith("%")
    if percent:
        if not ratio:
            raise refuse("is a percentage, where a number is needed")
        rest = rest[:-1].strip()
    found = _NUMBER.fullmatch(rest)
    if rest.startswith("="):
        raise refuse("is a formula, not its result; export values")
    if not found or not (found[2] or found[3]):
        raise refuse("is no number; write plain digits such as 1234.5")
    if negative and found[1]:
        raise refuse("has a sign inside parentheses")
    value = Decimal(rest.replace(",", ""))
    if negative:
        value = value.copy_negate()
    if percent:
        value = _exact.scaleb(value, -2)
    return Number(value, currency, from_text=True)


def _without_mark(text: str) -> tuple[str, str | None]:
    """The number without a currency sign on either side, and what the sign means."""
    for mark, meaning in _MARKS.items():
        if text.startswith(f"-{mark}"):
            return "-" + text[1 + len(mark) :].strip(), meaning
        if text.startswith(mark):
            return text.removeprefix(mark).strip(), meaning
        if text.endswith(mark):
            return text.removesuffix(mark).strip(), meaning
    return text, None


def cell_of_decimal(value: Decimal) -> float | str:
    """The cell that gives exactly this number back: a number where a double has the digits, else a text."""
    digits = value.normalize(_exact).as_tuple()
    if len(digits.digits) > _EXACT_DIGITS:
        return f"{value.normalize(_exact):f}"
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 10**_EXACT_DIGITS else number


def read_symbol(field: str, cell: Cell, *, market: str) -> str:
    """An instrument's code.

    Raises:
        InvalidRecord: It is a number: leading zeros may have been eaten. A code of KRX has six characters.
    """
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        raise InvalidRecord(
            field=field,
            reason=f"is the number {read_plain(field, cell)}: a number format eats leading zeros (005930 becomes "
            "5930); format the column as plain text and enter the codes again",
        )
    text = read_plain(field, cell)
    if market == "KRX" and text.isdigit() and len(text) < _KRX_LENGTH:
        raise InvalidRecord(
            field=field,
            reason=f"{text!r} is too short for a code of KRX: leading zeros may have been eaten; enter "
            f"{text.zfill(_KRX_LENGTH)!r} as plain text if that is what is meant",
        )
    return text


def read_side(field: str, cell: Cell) -> str:
    """`BUY` or `SELL`, also as B and S, and in Korean.

    Raises:
        InvalidRecord: It is something else.
    """
    text = read_plain(field, cell)
    side = _SIDES.get(text.upper())
    if side is None:
        raise InvalidRecord(field=field, reason=f"{_shown(text)} is neither BUY (매수) nor SELL (매도)")
    return side


def read_instant(field: str, cell: Cell, zone: ZoneInfo) -> dt.datetime:
    """An instant in UTC: a serial number or a text of the zone's clock, or a text with an offset.

    Serial numbers are good to the millisecond, which is what a sheet shows.

    Raises:
        InvalidRecord: It is no instant, or one that the zone's clocks showed twice or never.
    """
    local = _serial(field, cell) if not isinstance(cell, str) else None
    offset: dt.tzinfo | None = None
    if local is None:
        local, offset = _instant_of_text(field, read_plain(field, cell))
    try:
        return local.replace(tzinfo=offset).astimezone(dt.UTC) if offset else utc_of(local, zone)
    except InvalidRecord as error:
        raise InvalidRecord(field=field, reason=error.reason) from error
    except OverflowError as error:
        raise InvalidRecord(field=field, reason=f"{local} is outside the years 1 to 9999 in UTC") from error


def read_date(field: str, cell: Cell) -> dt.date:
    """A day, without a time of the day.

    Raises:
        InvalidRecord: It is no day.
    """
    local = _serial(field, cell) if not isinstance(cell, str) else None
    if local is None:
        local, _ = _instant_of_text(field, read_plain(field, cell))
    if local.time() != dt.time():
        raise InvalidRecord(field=field, reason=f"{local} has a time of the day, where a day is needed")
    return local.date()


def _serial(field: str, cell: Cell) -> dt.datetime:
    if isinstance(cell, bool) or not isinstance(cell, int | float) or not math.isfinite(cell):
        raise InvalidRecord(field=field, reason=f"{cell} is no date")
    if 1 <= cell < _LAST_SERIAL:
        return _EPOCH + dt.timedelta(milliseconds=round(cell * 86_400_000))
    if float(cell).is_integer() and (day := _compact(str(int(cell)))) is not None:
        return day
    raise InvalidRecord(field=field, reason=f"{cell} is no serial number of a day between 1900 and 9999")


def _compact(text: str) -> dt.datetime | None:
    """20261120, which no serial number can be."""
    if not _COMPACT.fullmatch(text):
        return None
    try:
        return dt.datetime(int(text[:4]), int(text[4:6]), int(text[6:]))  # noqa: DTZ001 - the caller knows the zone
    except ValueError:
        return None


def _instant_of_text(field: str, text: str) -> tuple[dt.datetime, dt.tzinfo | None]:
    refused = InvalidRecord(
        field=field, reason=f"{_shown(text)} is no date; write it as 2026-11-20 or 2026-11-20 09:00:00"
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


def _shown(text: str) -> str:
    return repr(text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")
