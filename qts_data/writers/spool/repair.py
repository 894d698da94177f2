"""Removal of a tick from a spool by hand, if the table refuses it and so stops every writer."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from qts_data.errors import NotFound
from qts_data.writers.spool.aside import keep, sync_directory
from qts_data.writers.spool.format import Kind, encode_tick, read, record, seal_record, seed_of
from qts_data.writers.spool.lock import SpoolLock, refuse_held
from qts_data.writers.spool.reading import MOST_SEGMENT_BYTES, Unreadable, read_regular, replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from qts_data.contracts import TickData

__all__ = ["set_aside"]


def set_aside(file: Path, number: int, *, reason: str) -> TickData:
    """Mark a record as not to be sent. The original file is kept in `NAME.damaged`, with the reason.

    Args:
        file: A file of a spool, as the message of a writer names it.
        number: The record, counted from 1, as the message of a writer names it.
        reason: For the person who reads `reasons.txt`.

    Returns:
        The tick, to be written again by hand.

    Raises:
        SpoolInUse: A writer holds the spool; end it first.
        NotFound: The file has no such record, or is not a file of a spool.
    """
    name = file.name.rsplit(".", 4)[0]
    lock = SpoolLock(file.parent / f"{name}.lock")
    try:
        refuse_held(file.parent, name)
        data = bytearray(_content(file))
        content = read(bytes(data))
        placed = next((one for one in content.ticks if one.record == number), None)
        if placed is None or content.head is None:
            raise NotFound(f"{file} has no record {number}, or its head is damaged")
        keep(file, file.parent / f"{name}.damaged", [f"{file}: record {number}: set aside by hand: {reason}"])
        seed = seed_of(content.head.stream)
        marked = record(Kind.ASIDE, placed.number, encode_tick(placed.tick), seed)
        data[placed.offset : placed.offset + len(marked)] = marked
        if content.sealed_at is not None:
            end = content.sealed_from
            data[end:] = seal_record(content.sealed_at, end, zlib.crc32(data[:end]), seed)
        replace_file(file, bytes(data))
        sync_directory(file.parent)
        return placed.tick
    finally:
        lock.release()


def _content(file: Path) -> bytes:
    try:
        return read_regular(file, MOST_SEGMENT_BYTES)
    except Unreadable as error:
        raise NotFound(f"{file} {error}") from error
