"""Rows of text files: where they begin and end, what becomes of bad ones, what all layouts refuse."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from zoneinfo import ZoneInfo

from qts_data.contracts.instants import UNIT_HINT, utc_of_local
from qts_data.contracts.leniency import any_time_allowed
from qts_data.errors import ConfigurationError, InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qts_data.contracts import TickData

__all__ = [
    "Refuse",
    "check_plausible",
    "each_row",
    "instant_of",
    "read_decimal",
    "read_text",
    "shown_bytes",
    "utc_of",
    "zone_of",
]

Refuse: TypeAlias = Callable[[InvalidRecord, bytes], None]
"""Takes the complaint about a bad row, with its number, and the row as it is in the file."""

_T = TypeVar("_T")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_MAX_SHOWN = 40


def each_row(
    lines: Iterable[bytes], parse: Callable[[bytes], _T | None], refuse: Refuse | None, *, first_row: int = 1
) -> Iterator[_T]:
    """What `parse` makes of each line, in order; lines of which it makes None are left out.

    Raises:
        InvalidRecord: Without `refuse`: the first complaint of `parse`, with the number of the row.
    """
    for row, line in enumerate(lines, start=first_row):
        try:
            record = parse(line)
        except InvalidRecord as error:
            if refuse is None:
                raise error.at(row) from error
            refuse(error.at(row), line)
            continue
        if record is not None:
            yield record


def read_text(line: bytes, encoding: str = "utf-8") -> str:
    """The line as text.

    Raises:
        InvalidRecord: It is not of this encoding, or holds a byte order mark or a control character.
    """
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidRecord(field="row", reason=f"{shown_bytes(line)} is no {encoding}") from error
    if "\ufeff" in text:
        raise InvalidRecord(field="row", reason="holds a byte order mark, which belongs at the start of a file only")
    if any(character < " " and character != "\t" for character in text):
        raise InvalidRecord(field="row", reason=f"{shown_bytes(line)} holds a control character")
    return text


def read_decimal(field: str, text: str) -> Decimal:
    """A number in plain digits, with a point for the fraction.

    Raises:
        InvalidRecord: It is none: NaN, separators of thousands, digits of other scripts, nothing at all.
    """
    if not _NUMBER.fullmatch(text):
        raise InvalidRecord(field=field, reason=f"{text[:_MAX_SHOWN]!r} is no number in plain digits")
    return Decimal(text)


def check_plausible(tick: TickData, max_ahead: dt.timedelta | None) -> TickData:
    """Refuse what the table could hold but no file of trades means.

    Args:
        tick: A trade of the file.
        max_ahead: How far it may lie ahead of this machine's clock; None takes any.

    Raises:
        InvalidRecord: The price is not above zero, the bid is above the ask, or the trade is yet to come.
    """
    if tick.price <= 0:
        raise InvalidRecord(field="price", reason=f"{tick.price} is not above zero")
    if tick.bid is not None and tick.ask is not None and tick.bid > tick.ask:
        raise InvalidRecord(field="bid", reason=f"{tick.bid} is above the ask {tick.ask}")
    if max_ahead is not None and not any_time_allowed() and tick.time - max_ahead > dt.datetime.now(dt.UTC):
        raise InvalidRecord(
            field="time",
            reason=f"{tick.time.isoformat()} is in the future: more than {max_ahead} ahead of this machine's clock; "
            "if it is right, give --any-time or set QTS_TICK_MAX_AHEAD_SECONDS",
        )
    return tick


def zone_of(name: str) -> ZoneInfo:
    """A time zone by its IANA name.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigurationError(f"there is no time zone {name!r}") from error


def utc_of(local: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """The instant at which the clocks of a zone showed a time.

    Raises:
        InvalidRecord: They leapt over it, or showed it twice: a guess would be wrong by an hour; or it is outside the
            years 1 to 9999 in UTC.
    """
    return utc_of_local("time", local, zone)


def instant_of(microseconds: int) -> dt.datetime:
    """The instant so many microseconds after 1970.

    Raises:
        InvalidRecord: It is outside the years 1 to 9999.
    """
    try:
        return _EPOCH + dt.timedelta(microseconds=microseconds)
    except OverflowError as error:
        raise InvalidRecord(
            field="time", reason=f"{microseconds} us since 1970 is outside the years 1 to 9999; {UNIT_HINT}"
        ) from error


def shown_bytes(text: bytes) -> str:
    """The bytes for a message: quoted, cut, and harmless to a terminal whatever they are."""
    shown = repr(text[:_MAX_SHOWN]).removeprefix("b")
    return f"{shown}..." if len(text) > _MAX_SHOWN else shown
