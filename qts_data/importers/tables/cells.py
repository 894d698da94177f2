"""Reading one cell as a number, a code or a text, with the reason where it cannot be read.

A cell of a spreadsheet is a text, a number (a double), a boolean or nothing; a cell of a CSV file is a text. The
readers never guess: they refuse a cell with two possible readings, and the error shows how to write it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Context, Decimal
from typing import Final, NamedTuple, TypeAlias

from qts_data.errors import InvalidRecord

__all__ = [
    "Cell",
    "Number",
    "cell_of_decimal",
    "clean",
    "column_letters",
    "currency_signs",
    "is_empty",
    "read_currency",
    "read_id",
    "read_narrow",
    "read_number",
    "read_plain",
    "read_side",
    "read_symbol",
    "shown",
]

Cell: TypeAlias = str | float | bool | None

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
# Signs with one meaning: in Korea a dollar without a country is that of the United States, but the sign is shared by
# many currencies.
_CURRENCY_NAMES: Final = {
    "₩": "KRW", "원": "KRW", "원화": "KRW", "won": "KRW",
    "달러": "USD", "미국달러": "USD", "미달러": "USD", "us$": "USD",
    "€": "EUR", "유로": "EUR", "£": "GBP", "파운드": "GBP", "엔": "JPY", "엔화": "JPY", "위안": "CNY", "위안화": "CNY",
}  # fmt: skip
_CURRENCY: Final = re.compile(r"[A-Z0-9]{2,12}")
# Thousands begin with a digit above 0: in half of Europe 0,500 means one half.
_NUMBER: Final = re.compile(r"([+-]?)([1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
# Results of number formats and exports applied to an id: 2.02611E+15, 117057.0, 117,057.
_REFORMATTED: Final = re.compile(
    r"[0-9]+(?:\.[0-9]+)?E\+[0-9]+|[0-9]+\.0+|[1-9][0-9]{0,2}(?:,[0-9]{3})+", re.IGNORECASE
)
_SIDES: Final = {
    "BUY": "BUY", "B": "BUY", "매수": "BUY", "SELL": "SELL", "S": "SELL", "매도": "SELL",
}  # fmt: skip
_KRX: Final = frozenset({"krx", "kospi", "kosdaq", "konex", "한국거래소", "코스피", "코스닥", "코넥스", "유가증권"})
_KRX_LENGTH: Final = 6
# Shares have six characters, derivatives eight or nine; some brokers put an A before the code of a share.
_KRX_CODE: Final = re.compile(r"A?[0-9][0-9A-Z]{5}|[0-9][0-9A-Z]{7,8}")
_KRX_BEGINS: Final = re.compile(r"A?[0-9]")
# Independent of the caller's decimal context.
_exact: Final = Context(prec=100)


class Number(NamedTuple):
    """A number as a cell contains it.

    Attributes:
        value: The number.
        currencies: Possible currencies of a currency sign beside the number; None without a sign.
        from_text: Whether the cell contains a text.
    """

    value: Decimal
    currencies: frozenset[str] | None
    from_text: bool


def column_letters(index: int) -> str:
    """Return the name of a column: A for 0, AA for 26."""
    letters = ""
    number = index + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def clean(text: str) -> str:
    """Return the text with narrow instead of full-width characters, without invisible characters at either end."""
    return _trimmed(text.translate(_NARROW))


def _trimmed(text: str) -> str:
    return text.strip().strip(_INVISIBLE).strip()


def is_empty(cell: Cell) -> bool:
    """Return whether a cell shows nothing."""
    return cell is None or (isinstance(cell, str) and not clean(cell))


def read_plain(field: str, cell: Cell) -> str:
    """Return the text of a cell that is not empty, without invisible characters at either end, otherwise unchanged.

    Raises:
        InvalidRecord: The cell shows an error of the sheet.
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


def read_narrow(field: str, cell: Cell) -> str:
    """Return the text as `read_plain` does, with narrow characters: for numbers, dates, codes and our own words."""
    return clean(read_plain(field, cell))


def read_id(field: str, cell: Cell) -> str:
    """Return an id of a broker or bank, every character unchanged.

    Raises:
        InvalidRecord: The cell is a number or a boolean, or its text looks like a former number: leading zeros and
            digits after the 15th may be lost.
    """
    if not isinstance(cell, str):
        what = str(cell).upper() if isinstance(cell, bool) else f"the number {cell}"
        raise InvalidRecord(field=field, reason=f"is {what}, no text: {_EATEN}")
    text = read_plain(field, cell)
    if _REFORMATTED.fullmatch(clean(text)):
        raise InvalidRecord(field=field, reason=f"{shown(text)} is an id that a number format has changed: {_EATEN}")
    _refuse_apostrophe(field, text)
    return text


_EATEN: Final = (
    "a number format eats leading zeros and all digits behind the 15th; format the column as plain text and enter the "
    "ids again"
)


def _refuse_apostrophe(field: str, text: str) -> None:
    if text.startswith("'"):
        raise InvalidRecord(
            field=field, reason=f"{shown(text)} begins with the apostrophe that marks a cell as text; take it out"
        )


def read_number(field: str, cell: Cell, *, ratio: bool = False) -> Number:
    """Read a number, exactly.

    A number of a sheet is a double. With up to 15 significant digits it is the decimal that was typed. Noise of
    arithmetic after the 15th digit is dropped where it is beyond our 8 places. Anything else is refused.

    Args:
        field: Name of the field in errors.
        cell: The cell, not empty.
        ratio: Whether to read 12% as 0.12; otherwise a percentage is refused.

    Raises:
        InvalidRecord: The cell is not a number, or not exactly one.
    """
    if isinstance(cell, bool):
        raise InvalidRecord(field=field, reason=f"is {str(cell).upper()}, no number")
    if isinstance(cell, int):
        if abs(cell) >= 10**_EXACT_DIGITS:
            raise InvalidRecord(field=field, reason=_too_long(str(cell)))
        return Number(Decimal(cell), None, from_text=False)
    if isinstance(cell, float):
        return Number(_decimal_of_double(field, cell), None, from_text=False)
    return _number_of_text(field, read_narrow(field, cell), ratio=ratio)


def _decimal_of_double(field: str, value: float) -> Decimal:
    if not math.isfinite(value):
        raise InvalidRecord(field=field, reason=f"{value} is not a finite number")
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
        f"{shown(text)} has more digits than a number of a sheet holds exactly ({_EXACT_DIGITS}); format the cell as "
        "plain text and enter it again"
    )


def _number_of_text(field: str, text: str, *, ratio: bool) -> Number:
    def refuse(reason: str) -> InvalidRecord:
        return InvalidRecord(field=field, reason=f"{shown(text)} {reason}")

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
        raise refuse("is not a number; write plain digits such as 1234.5")
    if negative and found[1]:
        raise refuse("has a sign inside parentheses")
    value = Decimal(rest.replace(",", ""))
    if negative:
        value = value.copy_negate()
    if percent:
        value = _exact.scaleb(value, -2)
    return Number(value, currencies, from_text=True)


def currency_signs(text: str) -> frozenset[str] | None:
    """Return the possible currencies of the signs in a header, None without a sign. An unknown sign means itself."""
    meanings = [_MARKS.get(sign, frozenset({sign})) for sign in clean(text) if unicodedata.category(sign) == "Sc"]
    if not meanings:
        return None
    return frozenset.intersection(*meanings) or frozenset({"several currencies"})


def _without_mark(text: str) -> tuple[str, frozenset[str] | None]:
    """Return the number without a currency sign on either side, and the possible currencies of the sign."""
    for mark, meaning in _MARKS.items():
        if text.startswith(f"-{mark}"):
            return "-" + text[1 + len(mark) :].strip(), meaning
        if text.startswith(mark):
            return text.removeprefix(mark).strip(), meaning
        if text.endswith(mark):
            return text.removesuffix(mark).strip(), meaning
    return text, None


def cell_of_decimal(value: Decimal) -> float | str:
    """Return a cell that reads as exactly this number: a number where a double has enough digits, otherwise a text."""
    digits = value.normalize(_exact).as_tuple()
    if len(digits.digits) > _EXACT_DIGITS:
        return f"{value.normalize(_exact):f}"
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 10**_EXACT_DIGITS else number


def read_symbol(field: str, cell: Cell, *, market: str) -> str:
    """Read an instrument's code.

    Raises:
        InvalidRecord: The cell is a number, so that leading zeros may be lost. Or it contains invisible characters, or
            begins like a code of KRX without being one.
    """
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        raise InvalidRecord(
            field=field,
            reason=f"is the number {read_plain(field, cell)}: a number format eats leading zeros (005930 becomes "
            "5930); format the column as plain text and enter the codes again",
        )
    text = read_narrow(field, cell)
    if any(map(_is_invisible, text)):
        raise InvalidRecord(field=field, reason=f"{text[:_SHOWN]!a} holds a character that cannot be seen")
    _refuse_apostrophe(field, text)
    if clean(market).casefold() in _KRX:
        _check_krx_code(field, text)
    return text


def _is_invisible(character: str) -> bool:
    return character != " " and unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp", "Zs"}


def _check_krx_code(field: str, text: str) -> None:
    """Refuse a code that lost its zeros or was written as a number. Names with letters, such as indices, pass."""
    if not _KRX_BEGINS.match(text) or _KRX_CODE.fullmatch(text):
        return
    digits = text.removeprefix("A")
    if digits.isdigit() and len(digits) < _KRX_LENGTH:
        raise InvalidRecord(
            field=field,
            reason=f"{text!r} is too short for a code of KRX: leading zeros may have been eaten; enter "
            f"{digits.zfill(_KRX_LENGTH)!r} as plain text if this code is meant",
        )
    raise InvalidRecord(
        field=field,
        reason=f"{shown(text)} is not a code of KRX: six digits or capital letters, such as 005930; a number format "
        "may have changed it; enter it as plain text",
    )


def read_currency(field: str, cell: Cell) -> str:
    """Return a currency's code: `krw`, `원` and `₩` become KRW.

    Raises:
        InvalidRecord: The cell is not a code, nor the name or sign of exactly one currency.
    """
    text = read_narrow(field, cell)
    found = _CURRENCY_NAMES.get(text.casefold())
    if found is None and text.isascii() and _CURRENCY.fullmatch(text.upper()):
        found = text.upper()
    if found is None:
        several = _MARKS.get(text)
        hint = f"may be any of {', '.join(sorted(several))}" if several else "names no currency that is known here"
        raise InvalidRecord(field=field, reason=f"{shown(text)} {hint}; write its code, such as KRW or USD")
    return found


def read_side(field: str, cell: Cell) -> str:
    """Read `BUY` or `SELL`, also as B and S, and in Korean.

    Raises:
        InvalidRecord: The cell contains something else.
    """
    text = read_narrow(field, cell)
    side = _SIDES.get(text.upper())
    if side is None:
        raise InvalidRecord(field=field, reason=f"{shown(text)} is neither BUY (매수) nor SELL (매도)")
    return side


def shown(text: str) -> str:
    """Return a text as a message quotes it, cut at 40 characters."""
    return repr(text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")
