"""Rows of text files: their numbers, the handling of bad rows, and checks shared by all layouts."""

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
"""Receives the error of a bad row, with its number, and the row as it stands in the file."""

_T = TypeVar("_T")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_MAX_SHOWN = 40


def each_row(
    lines: Iterable[bytes], parse: Callable[[bytes], _T | None], refuse: Refuse | None, *, first_row: int = 1
) -> Iterator[_T]:
    """Yield the result of `parse` for each line, in order. Lines with the result None are left out.

    Raises:
        InvalidRecord: Without `refuse`: the first error of `parse`, with the number of the row.
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
    """Return the line as text.

    Raises:
        InvalidRecord: It is not of this encoding, or contains a byte order mark or a control character.
    """
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidRecord(field="row", reason=f"{shown_bytes(line)} is not {encoding}") from error
    if "\ufeff" in text:
        raise InvalidRecord(field="row", reason="holds a byte order mark, which belongs at the start of a file only")
    if any(character < " " and character != "\t" for character in text):
        raise InvalidRecord(field="row", reason=f"{shown_bytes(line)} holds a control character")
    return text


def read_decimal(field: str, text: str) -> Decimal:
    """Read a number in plain digits, with a point before the fraction.

    Raises:
        InvalidRecord: The text is not such a number, for example NaN, empty, or with separators of thousands or digits
            of other scripts.
    """
    if not _NUMBER.fullmatch(text):
        raise InvalidRecord(field=field, reason=f"{text[:_MAX_SHOWN]!r} is not a number in plain digits")
    return Decimal(text)


def check_plausible(tick: TickData, max_ahead: dt.timedelta | None) -> TickData:
    """Refuse values that the table could store but a file of trades cannot mean.

    Args:
        tick: A trade of the file.
        max_ahead: How far its time may lie ahead of this machine's clock; None accepts any time.

    Raises:
        InvalidRecord: The price is not above zero, the bid is above the ask, or the time is in the future.
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
    """Return a time zone by its IANA name.

    Raises:
        ConfigurationError: The name is unknown.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigurationError(f"unknown time zone {name!r}") from error


def utc_of(local: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """Return the instant at which the clocks of a zone showed a time.

    Raises:
        InvalidRecord: The clocks skipped the time or showed it twice, so that a guess would be wrong by an hour. Or it
            is outside the years 1 to 9999 in UTC.
    """
    return utc_of_local("time", local, zone)


def instant_of(microseconds: int) -> dt.datetime:
    """Return the instant that many microseconds after 1970.

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
    """Return the bytes for a message: quoted, cut to length, and harmless to a terminal."""
    shown = repr(text[:_MAX_SHOWN]).removeprefix("b")
    return f"{shown}..." if len(text) > _MAX_SHOWN else shown
