"""Names, ids and currency codes: two that look alike must be the same, so one of them is refused.

A blank at an end, a character without a shape, or a second way to write the same letter makes another key that no
person can tell from the first. Blanks inside stay: option symbols are padded with them.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import TYPE_CHECKING, Final

from qts_data.contracts.leniency import any_text_allowed, reads_stored
from qts_data.errors import InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "NAMES",
    "KnownTexts",
    "check_asked",
    "check_characters",
    "check_currency",
    "check_identifier",
    "check_name",
    "is_plain",
    "names_of",
    "shown",
]

_SHOWN_CHARACTERS: Final = 60
_SHORTEST_CURRENCY, _LONGEST_CURRENCY = 1, 64
_LONGEST_NAME: Final = 64
_CURRENCY: Final = re.compile(r"[A-Z0-9]{2,12}")
# Default_Ignorable_Code_Point of Unicode, where its category says letter or mark, and the blank of Braille.
_SHAPELESS: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_MOST_KNOWN: Final = 65_536


class KnownTexts(set[str]):
    """Texts that passed every check, so that a look-up answers for the next time; a bounded number.

    A fill holds five names, and a process sees the same ones again and again. Only texts of the class str belong here:
    one of another class may be equal and be refused.
    """

    __slots__ = ()

    def remember(self, value: str) -> None:
        """Add a text, in place of all others once there are too many."""
        if len(self) >= _MOST_KNOWN:
            self.clear()
        self.add(value)


NAMES: Final = KnownTexts()
"""Names of 1 to 64 characters that passed."""
_currencies: Final = KnownTexts()
# Exchanges, brokers and feeds write their codes in ASCII. Accounts, ids and tags are people's own words, kept as given.
_CODES: Final = frozenset({"symbol", "market", "broker", "source"})
_WIDE: Final = re.compile("[\uff01-\uff5e]")
_UNSEEN: Final = {
    "Cc": "a control character",
    "Cf": "an invisible character",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
    "Zs": "a blank other than the ordinary one",
}


def shown(value: object) -> str:
    """Return the value for a message; a number of a million digits must not make a message of a million."""
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def is_plain(value: str) -> bool:
    """Tell whether a text needs no closer look: ASCII, printable, and without a blank at an end."""
    return value.isascii() and value.isprintable() and value[:1] != " " and value[-1:] != " "


def check_characters(field: str, value: str) -> None:
    """Refuse NUL and halves of surrogate pairs, which TEXT in a UTF-8 database cannot hold.

    Raises:
        InvalidRecord: It holds one.
    """
    # Whatever is printable is neither of them.
    if value.isprintable():
        return
    if "\0" in value:
        raise InvalidRecord(field=field, reason=f"{shown(ascii(value))} holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidRecord(field=field, reason=f"{shown(ascii(value))} holds half a surrogate pair")


def check_identifier(field: str, value: str, *, shortest: int, longest: int) -> None:
    """Refuse a text that cannot be a name or id of this length, or that looks like another one.

    Args:
        field: Name for the message.
        value: The text.
        shortest: Least number of characters.
        longest: Most.

    Raises:
        InvalidRecord: It is too short or too long, begins or ends with a blank, holds a character that cannot be seen,
            or is not in Unicode's normal form C; or it is a symbol, market, broker or source with full-width ASCII.
            `any_text` leaves only the first and NUL.
    """
    if not isinstance(value, str):
        raise InvalidRecord(field=field, reason=f"must be a str, is {type(value).__name__}")
    if not shortest <= len(value) <= longest:
        raise InvalidRecord(field=field, reason=f"must have {shortest} to {longest} characters, has {len(value)}")
    if is_plain(value):
        return
    check_characters(field, value)
    if not any_text_allowed():
        _check_look(field, value)


def check_name(field: str, value: str, *, shortest: int = 1) -> None:
    """Refuse a text that cannot be a name of at most 64 characters: a symbol, market, broker, account or source.

    Raises:
        InvalidRecord: See `check_identifier`.
    """
    if value.__class__ is str and value in NAMES:
        return
    check_identifier(field, value, shortest=shortest, longest=_LONGEST_NAME)
    # A name that passes only while `any_text` is in force is not remembered.
    if value and value.__class__ is str and is_plain(value):
        NAMES.remember(value)


def check_asked(**names: str | None) -> None:
    """Refuse names that no row can have, by which a caller wants to find rows; None is left out, the length is free.

    Raises:
        InvalidRecord: See `check_identifier`; the field is the argument's name.
    """
    for field, value in names.items():
        if value is not None and not (value.__class__ is str and is_plain(value)):
            check_identifier(field, value, shortest=0, longest=sys.maxsize)


def names_of(field: str, names: str | Iterable[str]) -> list[str]:
    """Return the names of a question; a lone text is one name, and not its characters.

    Raises:
        InvalidRecord: See `check_asked`.
    """
    found = [names] if isinstance(names, str) else list(names)
    for name in found:
        check_asked(**{field: name})
    return found


def check_currency(field: str, value: str) -> None:
    """Refuse a text other than a currency code, such as `KRW`, `USDT` or `1INCH`.

    Raises:
        InvalidRecord: It is none: 2 to 12 of the letters A to Z and the digits.
    """
    if value.__class__ is str:
        if value in _currencies:
            return
        if _CURRENCY.fullmatch(value):
            _currencies.remember(value)
            return
    check_identifier(field, value, shortest=_SHORTEST_CURRENCY, longest=_LONGEST_CURRENCY)
    if not reads_stored():
        raise InvalidRecord(
            field=field,
            reason=f"{shown(ascii(value) if not value.isascii() else repr(value))} is not a currency code of 2 to 12 "
            "capital letters and digits, such as KRW, USD or USDT",
        )


def _check_look(field: str, value: str) -> None:
    if value != value.strip():
        end = "begins" if value != value.lstrip() else "ends"
        raise InvalidRecord(field=field, reason=f"{shown(ascii(value))} {end} with a blank")
    for character in value:
        unseen = _UNSEEN.get(unicodedata.category(character)) if character != " " else None
        if unseen is None and _SHAPELESS.match(character):
            unseen = "an invisible character"
        if unseen is not None:
            raise InvalidRecord(
                field=field, reason=f"{shown(ascii(value))} holds {unseen}, U+{ord(character):04X}; take it out"
            )
    if field in _CODES and (wide := _WIDE.search(value)):
        narrow = unicodedata.normalize("NFKC", wide[0])
        raise InvalidRecord(
            field=field,
            reason=f"{shown(ascii(value))} holds the full-width {wide[0]}, U+{ord(wide[0]):04X}; write {narrow}",
        )
    if not unicodedata.is_normalized("NFC", value):
        raise InvalidRecord(
            field=field,
            reason=f"{shown(ascii(value))} is not in Unicode's normal form C; normalize it, such as with "
            'unicodedata.normalize("NFC", text)',
        )
