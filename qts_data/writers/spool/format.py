"""The bytes of a spool: records with length, number and checksum, and the search for whole ones in a damaged file.

A file is a record HEAD, records TICK, and at its end a record SEAL with the length and checksum of everything before
it. While a file is being written, zeros follow its last record, because its space on the disk is allocated in
advance. So a flush writes data only, and a full disk is noticed before a tick is accepted.

A record is `marker, kind, length, number, checksum`, then its payload: fields of text, divided by U+001F. The checksum
covers the stream's name, so that a record of another stream counts as damaged here. The number of a tick is its place
in the stream, across files.
"""

from __future__ import annotations

import datetime as dt
import struct
import zlib
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple

from qts_data.contracts import TickData
from qts_data.contracts.leniency import as_stored
from qts_data.errors import InvalidRecord

__all__ = [
    "MOST_NUMBER",
    "Damage",
    "FileContent",
    "Head",
    "Kind",
    "Placed",
    "encode_tick",
    "head_record",
    "read",
    "record",
    "seal_record",
    "seed_of",
]

_MARKER: Final = b"\xfe\xfftk"  # bytes that never occur in UTF-8
_RECORD: Final = struct.Struct("<4sBIQI")
_MOST_BYTES: Final = 4_096
_LOW_NUMBERS: Final = 1 << 32
_SEPARATOR: Final = "\x1f"
_VERSION: Final = "3"
MOST_NUMBER: Final = 1 << 60
"""Of ticks and files. No writer gives a larger number."""
_UTC: Final = dt.UTC


class Kind:
    """Kinds of records."""

    HEAD: Final = 1
    TICK: Final = 2
    SEAL: Final = 3
    ASIDE: Final = 4
    """A tick that was taken out by `set_aside`."""


class Head(NamedTuple):
    """The first record of a file.

    Attributes:
        stream: Name of the stream in `ingest_batches`.
        table: Target table of the ticks.
        ordinal: Number of the file in its stream, from 0.
        first: Number of its first tick.
        position: Ticks that the spool had taken before this stream, since it was last empty.
        size: Bytes of the file while it is written. A shorter file without a seal was cut.
    """

    stream: str
    table: str
    ordinal: int
    first: int
    position: int
    size: int = 0


class Damage(NamedTuple):
    """A part of a spool that cannot be read, or is missing.

    Attributes:
        file: The file, or the missing one.
        record: Place of the first record concerned in its file, counted from 1; 0 if no record is known.
        first: Number of the first tick of the stream that is concerned.
        end: Number after the last tick concerned; None if it is not known.
        reason: The fault, for a person.
    """

    file: str
    record: int
    first: int
    end: int | None
    reason: str

    def __str__(self) -> str:
        """Return a sentence that names file, record and ticks."""
        until = "and those behind it" if self.end is None else f"to {self.end - 1:,}" if self.end > self.first else ""
        return f"{self.file}: record {self.record}: {self.reason}; ticks {self.first:,} {until}".rstrip()


class Placed(NamedTuple):
    """A tick and its place."""

    number: int
    tick: TickData
    record: int
    offset: int


@dataclass(slots=True)
class FileContent:
    """The content of a file.

    Attributes:
        head: Its first record; None if that is damaged.
        ticks: Records that are whole, in the order of the file.
        aside: Numbers that were set aside by hand.
        damages: The faults, each with the place of its record, counted from 1; 0 is the head.
        sealed_at: Number after its last tick, by its seal; None without one.
        sealed_from: Bytes before its seal.
        torn: Whether an unknown number of records may be missing after the last whole one.
        end: Bytes up to the end of the last whole record.
    """

    head: Head | None = None
    ticks: list[Placed] = field(default_factory=list)
    aside: set[int] = field(default_factory=set)
    damages: list[tuple[int, str]] = field(default_factory=list)
    sealed_at: int | None = None
    sealed_from: int = 0
    torn: bool = False
    end: int = 0


def encode_tick(tick: TickData) -> bytes:
    """Encode the payload of a tick."""
    time = tick.time
    if time.tzinfo is not _UTC:
        time = time.astimezone(_UTC)
    seq, bid, ask = tick.seq, tick.bid, tick.ask
    return (
        f"{time.isoformat(timespec='microseconds')}\x1f{tick.symbol}\x1f{tick.price}\x1f{tick.volume}\x1f{tick.source}\x1f"
        f"{'' if seq is None else seq}\x1f{'' if bid is None else bid}\x1f{'' if ask is None else ask}"
    ).encode()


def _decoded_tick(payload: bytes) -> TickData:
    time, symbol, price, volume, source, seq, bid, ask = payload.decode().split(_SEPARATOR)
    # The writer accepted the tick, perhaps under a permission that this process lacks.
    with as_stored():
        return TickData(
            time=dt.datetime.fromisoformat(time),
            symbol=symbol,
            price=Decimal(price),
            volume=Decimal(volume),
            source=source,
            seq=int(seq) if seq else None,
            bid=Decimal(bid) if bid else None,
            ask=Decimal(ask) if ask else None,
        )


def seed_of(stream: str) -> int:
    """Return the checksum with which the checksums of a stream's records begin."""
    return zlib.crc32(stream.encode())


def record(kind: int, number: int, payload: bytes, seed: int) -> bytes:
    """Frame a payload."""
    size = len(payload)
    head = number * 31 + size * 7 + kind & 0xFFFFFFFF
    if number >= _LOW_NUMBERS:
        # The factor is odd, so every change of the upper half changes the checksum.
        head ^= (number >> 32) * 0x9E3779B1 & 0xFFFFFFFF
    checksum = zlib.crc32(payload, seed ^ head)
    return _RECORD.pack(_MARKER, kind, size, number, checksum) + payload


def head_record(head: Head) -> bytes:
    """Frame the head of a file. Its checksum has no seed, because it is read before the stream is known."""
    payload = _SEPARATOR.join([_VERSION, head.stream, head.table, *map(str, head[2:])]).encode()
    return record(Kind.HEAD, head.ordinal, payload, 0)


def seal_record(number: int, length: int, checksum: int, seed: int) -> bytes:
    """Frame the end of a file."""
    return record(Kind.SEAL, number, f"{length}{_SEPARATOR}{checksum}".encode(), seed)


def read(data: bytes, stream: str | None = None) -> FileContent:
    """Find the records of a file.

    Args:
        data: The whole file.
        stream: Name of the stream by the name of the file, used if the head is damaged.
    """
    found = FileContent()
    _read_head(data, found)
    name = found.head.stream if found.head is not None else stream or ""
    seed = seed_of(name)
    end = len(data.rstrip(b"\0"))  # no record ends with a zero; these are the space allocated in advance
    place, offset = 0, found.end
    before = _Checksum(data)
    in_ruins = False
    while offset < end:
        kind, number, payload = _record_at(data, offset, seed)
        if kind is None or kind == Kind.HEAD:
            place += 1
            if not in_ruins:  # count one damage for all bytes up to the next whole record
                found.damages.append((place, "its length or checksum does not fit"))
            found.torn = in_ruins = True
            offset = _next_marker(data, offset + 1)
            continue
        in_ruins = False
        if kind == Kind.SEAL:
            at_end = offset + _RECORD.size + len(payload) == end
            _check_seal(before, offset, number, payload, found, place, at_end=at_end)
        else:
            place += 1
            _take(kind, number, payload, place, offset, found)
            found.torn = False
        offset += _RECORD.size + len(payload)
        found.end = offset
    if found.head is None:
        found.torn = True
    elif found.sealed_at is None and len(data) < found.head.size:
        found.damages.append((place + 1, f"the file is cut: it has {len(data):,} of {found.head.size:,} bytes"))
        found.torn = True
    return found


def _take(  # noqa: PLR0917
    kind: int, number: int, payload: bytes, place: int, offset: int, found: FileContent
) -> None:
    if kind == Kind.ASIDE:
        found.aside.add(number)
        return
    try:
        if number > MOST_NUMBER:
            raise ValueError(f"its number is {number:,}")  # noqa: TRY301 - as for a field of it
        found.ticks.append(Placed(number, _decoded_tick(payload), place, offset))
    except (ValueError, ArithmeticError, InvalidRecord) as error:
        found.damages.append((place, f"holds no tick ({error})"))


def _read_head(data: bytes, found: FileContent) -> None:
    kind, ordinal, payload = _record_at(data, 0, 0)
    try:
        version, stream, table, again, first, position, size = payload.decode().split(_SEPARATOR)
        if kind == Kind.HEAD and version == _VERSION and int(again) == ordinal:
            numbers = [int(first), int(position), int(size)]
            if not all(0 <= one <= MOST_NUMBER for one in [ordinal, *numbers]):
                raise ValueError("a number that no writer gives")  # noqa: TRY301 - handled like a non-number
            found.head = Head(stream, table, ordinal, *numbers)
            found.end = _RECORD.size + len(payload)
            return
    except ValueError:
        pass
    found.damages.append((0, "its head is damaged"))
    found.torn = True
    found.end = _next_marker(data, 1)
    while found.end < len(data) and data[found.end + 4 : found.end + 5] == bytes([Kind.HEAD]):
        found.end = _next_marker(data, found.end + 1)


class _Checksum:
    """The checksum of a file's beginning. Each byte is read once, however often it is computed."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._known = 0
        self._end = 0

    def up_to(self, end: int) -> int:
        """Compute it for the bytes before a place. Places never decrease from call to call."""
        self._known = zlib.crc32(self._data[self._end : end], self._known)
        self._end = end
        return self._known


def _check_seal(  # noqa: PLR0917
    before: _Checksum, offset: int, number: int, payload: bytes, found: FileContent, place: int, *, at_end: bool
) -> None:
    try:
        length, checksum = map(int, payload.decode().split(_SEPARATOR))
        if number > MOST_NUMBER:
            raise ValueError(f"its number is {number:,}")  # noqa: TRY301 - as for a field of it
    except ValueError as error:
        found.damages.append((place + 1, f"the seal of the file is damaged ({error})"))
        found.torn = True
        return
    if not at_end:
        found.damages.append((place + 1, "something stands behind the seal of the file"))
    if length != offset or checksum != before.up_to(offset):
        found.damages.append(
            (place, f"the file does not fit its seal, which closes {number:,} ticks in {length:,} bytes")
        )
    found.sealed_at, found.sealed_from = number, offset


def _record_at(data: bytes, offset: int, seed: int) -> tuple[int | None, int, bytes]:
    """Return kind, number and payload of the record at a place. The kind is None if no whole record is there."""
    if len(data) - offset < _RECORD.size:
        return None, 0, b""
    marker, kind, size, number, _ = _RECORD.unpack_from(data, offset)
    if marker != _MARKER or size > _MOST_BYTES or not Kind.HEAD <= kind <= Kind.ASIDE:
        return None, 0, b""
    start = offset + _RECORD.size
    payload = data[start : start + size]
    if len(payload) < size or record(kind, number, payload, seed) != data[offset : start + size]:
        return None, 0, b""
    return kind, number, payload


def _next_marker(data: bytes, start: int) -> int:
    place = data.find(_MARKER, start)
    return len(data) if place < 0 else place
