"""What one cell says: a number, an instant, a text - or why it cannot be taken for one.

A cell of a spreadsheet is a text, a number (a double), a boolean or nothing; a cell of a CSV file is a text. Nothing is
guessed: what can be read in two ways is refused with a hint how to write it.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import unicodedata
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
    "clean",
    "column_letters",
    "currency_signs",
    "is_empty",
    "read_currency",
    "read_date",
    "read_id",
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
_WON: Final = frozenset({"KRW"})
_DOLLARS: Final = frozenset(
    {"USD", "AUD", "CAD", "HKD", "MXN", "NZD", "SGD", "TWD", "BUSD", "FDUSD", "TUSD", "USDC", "USDT"}
)
_MARKS: Final = {
    "₩": _WON, "원": _WON, "€": frozenset({"EUR"}), "£": frozenset({"GBP"}), "$": _DOLLARS,
    "¥": frozenset({"CNH", "CNY", "JPY"}), "KRW": _WON, "USD": frozenset({"USD"}),
}  # fmt: skip
# One meaning each: in Korea a dollar without a country is that of the United States, but the sign is that of many.
_CURRENCY_NAMES: Final = {
    "₩": "KRW", "원": "KRW", "원화": "KRW", "won": "KRW",
    "달러": "USD", "미국달러": "USD", "미달러": "USD", "us$": "USD",
    "€": "EUR", "유로": "EUR", "£": "GBP", "파운드": "GBP", "엔": "JPY", "엔화": "JPY", "위안": "CNY", "위안화": "CNY",
}  # fmt: skip
_CURRENCY: Final = re.compile(r"[A-Z0-9]{2,12}")
# Thousands begin with a digit that counts: 0,500 is how half of Europe writes one half.
_NUMBER: Final = re.compile(r"([+-]?)([1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
# What number formats and exports make of an id: 2.02611E+15, 117057.0, 117,057.
_REFORMATTED: Final = re.compile(
    r"[0-9]+(?:\.[0-9]+)?E\+[0-9]+|[0-9]+\.0+|[1-9][0-9]{0,2}(?:,[0-9]{3})+", re.IGNORECASE
)
_DATE: Final = (
    r"([0-9]{4})(?:-([0-9]{1,2})-([0-9]{1,2})|/([0-9]{1,2})/([0-9]{1,2})|\. ?([0-9]{1,2})\. ?([0-9]{1,2})\.?)"
)
_TIME: Final = r"(?:(오전|오후|AM|PM) )?([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(\.[0-9]{1,6})?)?(?: ?(AM|PM))?"
_INSTANT: Final = re.compile(rf"{_DATE}(?:[T ]{_TIME} ?(Z|[+-][0-9]{{2}}:?[0-9]{{2}})?)?", re.IGNORECASE)
_COMPACT: Final = re.compile(r"[0-9]{8}")
_SIDES: Final = {
    "BUY": "BUY", "B": "BUY", "매수": "BUY", "SELL": "SELL", "S": "SELL", "매도": "SELL",
}  # fmt: skip
_KRX: Final = frozenset({"krx", "kospi", "kosdaq", "konex", "한국거래소", "코스피", "코스닥", "코넥스", "유가증권"})
_KRX_LENGTH: Final = 6
# Shares have six characters, derivatives eight or nine; some brokers put an A before a share's.
_KRX_CODE: Final = re.compile(r"A?[0-9][0-9A-Z]{5}|[0-9][0-9A-Z]{7,8}")
_KRX_BEGINS: Final = re.compile(r"A?[0-9]")
# Whatever the caller's decimal context says.
_exact: Final = Context(prec=100)


class Number(NamedTuple):
    """A number as a cell gives it.

    Attributes:
        value: The number.
        currencies: Those that a currency sign beside it may mean; None without a sign.
        from_text: Whether the cell holds a text.
    """

    value: Decimal
    currencies: frozenset[str] | None
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
    return _trimmed(text.translate(_NARROW))


def _trimmed(text: str) -> str:
    return text.strip().strip(_INVISIBLE).strip()


def is_empty(cell: Cell) -> bool:
    """Whether there is nothing to see in it."""
    return cell is None or (isinstance(cell, str) and not clean(cell))


def read_plain(field: str, cell: Cell) -> str:
    """The text of a cell that is not empty, with nothing invisible at either end, else as it stands there.

    Raises:
        InvalidRecord: It is an error of the sheet.
    """
    if isinstance(cell, str):
        if clean(cell) in _ERRORS:
            raise InvalidRecord(field=field, reason=f"the cell shows the error {clean(cell)}; repair its formula")
        return _trimmed(cell)
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 10**_EXACT_DIGITS:
        return str(int(cell))
    return str(cell)


def _read_narrow(field: str, cell: Cell) -> str:
    """The same for what means the same in full-width characters: numbers, dates, codes, our own words."""
    return clean(read_plain(field, cell))


def read_id(field: str, cell: Cell) -> str:
    """An id that a broker or the bank gave: the same characters, or it is another one.

    Raises:
        InvalidRecord: It is a number or a boolean, or looks as if it had been one: leading zeros and digits behind the
            15th may be gone.
    """
    if not isinstance(cell, str):
        what = str(cell).upper() if isinstance(cell, bool) else f"the number {cell}"
        raise InvalidRecord(field=field, reason=f"is {what}, no text: {_EATEN}")
    text = read_plain(field, cell)
    if _REFORMATTED.fullmatch(clean(text)):
        raise InvalidRecord(field=field, reason=f"{_shown(text)} is what a number format made of an id: {_EATEN}")
    _refuse_apostrophe(field, text)
    return text


_EATEN: Final = (
    "a number format eats leading zeros and all digits behind the 15th; format the column as plain text and enter the "
    "ids again"
)


def _refuse_apostrophe(field: str, text: str) -> None:
    if text.startswith("'"):
        raise InvalidRecord(
            field=field, reason=f"{_shown(text)} begins with the apostrophe that marks a cell as text; take it out"
        )


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
    return _number_of_text(field, _read_narrow(field, cell), ratio=ratio)


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
    rest, currencies = _without_mark(text[1:-1].strip() if negative else text)
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
    return Number(value, currencies, from_text=True)


def currency_signs(text: str) -> frozenset[str] | None:
    """The currencies that the currency signs of a header may mean, None without a sign; an unknown one means itself."""
    meanings = [_MARKS.get(sign, frozenset({sign})) for sign in clean(text) if unicodedata.category(sign) == "Sc"]
    if not meanings:
        return None
    return frozenset.intersection(*meanings) or frozenset({"several currencies"})


def _without_mark(text: str) -> tuple[str, frozenset[str] | None]:
    """The number without a currency sign on either side, and what the sign may mean."""
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
        InvalidRecord: It is a number: leading zeros may have been eaten. It holds what cannot be seen, or it begins
            like a code of KRX and is none.
    """
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        raise InvalidRecord(
            field=field,
            reason=f"is the number {read_plain(field, cell)}: a number format eats leading zeros (005930 becomes "
            "5930); format the column as plain text and enter the codes again",
        )
    text = _read_narrow(field, cell)
    if any(map(_is_invisible, text)):
        raise InvalidRecord(field=field, reason=f"{text[:_SHOWN]!a} holds a character that cannot be seen")
    _refuse_apostrophe(field, text)
    if clean(market).casefold() in _KRX:
        _check_krx_code(field, text)
    return text


def _is_invisible(character: str) -> bool:
    return character != " " and unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp", "Zs"}


def _check_krx_code(field: str, text: str) -> None:
    """Refuse a code that has lost its zeros or was written as a number; names of indices and the like have letters."""
    if not _KRX_BEGINS.match(text) or _KRX_CODE.fullmatch(text):
        return
    digits = text.removeprefix("A")
    if digits.isdigit() and len(digits) < _KRX_LENGTH:
        raise InvalidRecord(
            field=field,
            reason=f"{text!r} is too short for a code of KRX: leading zeros may have been eaten; enter "
            f"{digits.zfill(_KRX_LENGTH)!r} as plain text if that is what is meant",
        )
    raise InvalidRecord(
        field=field,
        reason=f"{_shown(text)} is no code of KRX: six digits or capital letters, such as 005930; a number format may "
        "have changed it; enter it as plain text",
    )


def read_currency(field: str, cell: Cell) -> str:
    """Return a currency's code: of `krw`, `원` and `₩` it is KRW.

    Raises:
        InvalidRecord: The cell holds no code and no name or sign of one currency alone.
    """
    text = _read_narrow(field, cell)
    found = _CURRENCY_NAMES.get(text.casefold())
    if found is None and text.isascii() and _CURRENCY.fullmatch(text.upper()):
        found = text.upper()
    if found is None:
        several = _MARKS.get(text)
        hint = f"may be any of {', '.join(sorted(several))}" if several else "names no currency that is known here"
        raise InvalidRecord(field=field, reason=f"{_shown(text)} {hint}; write its code, such as KRW or USD")
    return found


def read_side(field: str, cell: Cell) -> str:
    """`BUY` or `SELL`, also as B and S, and in Korean.

    Raises:
        InvalidRecord: It is something else.
    """
    text = _read_narrow(field, cell)
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
        local, offset = _instant_of_text(field, _read_narrow(field, cell))
    try:
        return local.replace(tzinfo=offset).astimezone(dt.UTC) if offset else utc_of(local, zone)
    except InvalidRecord as error:
        raise InvalidRecord(field=field, reason=error.reason) from error
    except OverflowError as error:
        raise InvalidRecord(field=field, reason=f"{local} is outside the years 1 to 9999 in UTC") from error


def read_date(field: str, cell: Cell, zone: ZoneInfo) -> dt.date:
    """A day, without a time of the day.

    Args:
        field: For the error.
        cell: The cell, not empty.
        zone: Whose days the days are: a text with an offset must be midnight there.

    Raises:
        InvalidRecord: It is no day.
    """
    local = _serial(field, cell) if not isinstance(cell, str) else None
    offset: dt.tzinfo | None = None
    if local is None:
        local, offset = _instant_of_text(field, _read_narrow(field, cell))
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
