"""The files of a spool on the disk: one that is written, and the list of all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from qts_data.writers.spool.aside import sync_directory
from qts_data.writers.spool.format import MOST_NUMBER, Head, head_record, seal_record, seed_of
from qts_data.writers.spool.lock import close_in_forks, is_at
from qts_data.writers.spool.reading import MOST_LIST_BYTES, Unreadable, read_regular, replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Listed", "Segment", "file_name", "read_list", "write_list"]

FORMAT: Final = 3
STREAM: Final = re.compile(r"[0-9A-Za-z._-]{1,64}/[0-9A-Za-z-]{1,64}")
"""Name of a stream: that of its feed, and its own."""
_SEGMENT_BYTES: Final = 2 << 20
_SEAL_BYTES: Final = 100
# A flush without a second call, and so without a second wait for the interpreter's lock.
_AT_ONCE: Final = getattr(os, "O_DSYNC", 0)


class Segment:
    """A file that takes records; its place on the disk is taken in the constructor.

    It is locked while it is open, so that no other writer gets in, even where the lock of the spool was removed.

    Args:
        directory: Where.
        name: Name of the feed.
        head: What the file begins with.

    Raises:
        FileExistsError: A file of that name is there; it is left alone.
        OSError: The disk refused; nothing is left of the file.
    """

    def __init__(self, directory: Path, name: str, head: Head) -> None:
        head = head._replace(size=_SEGMENT_BYTES)
        self.head: Head = head
        self.path: Path = directory / file_name(name, head)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _AT_ONCE, 0o644)
        close_in_forks(self)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX)  # a writer that looks for held files lets it go at once
            first = head_record(head)
            self._write(first + bytes(max(0, _SEGMENT_BYTES - len(first))), 0)
            os.fsync(self._handle)
            sync_directory(directory)
        except BaseException:
            self.close()
            self.path.unlink(missing_ok=True)
            raise
        self._offset = len(first)
        self._checksum = zlib.crc32(first)

    @property
    def room(self) -> int:
        """Bytes that fit."""
        return _SEGMENT_BYTES - self._offset - _SEAL_BYTES

    def append(self, block: bytes) -> None:
        """Write records, and wait until they are on the disk.

        Raises:
            OSError: The disk refused, or the file was removed or replaced; it holds none of them.
        """
        try:
            self._write(block, self._offset)
            # Afterwards: a later writer reads this file under this name.
            self._prove_name()
        except OSError as error:
            # They are not accepted: a later writer must not find them.
            try:
                self._write(bytes(len(block)), self._offset)
            except OSError as again:
                raise OSError(errno.EIO, f"{error}, and the bytes written could not be cleared: {again}") from error
            raise
        self._offset += len(block)
        self._checksum = zlib.crc32(block, self._checksum)

    def seal(self, number: int) -> None:
        """Write length and checksum of the file, give back the place that is left, and close it."""
        try:
            last = seal_record(number, self._offset, self._checksum, seed_of(self.head.stream))
            self._write(last, self._offset)
            os.ftruncate(self._handle, self._offset + len(last))
            os.fsync(self._handle)
        finally:
            self.close()

    def close(self) -> None:
        """Let the file go; a second call does nothing."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _prove_name(self) -> None:
        if not is_at(self._handle, self.path):
            raise OSError(errno.ESTALE, f"{self.path} was removed or replaced while its writer held it")

    def _write(self, block: bytes, offset: int) -> None:
        view = memoryview(block)
        while view:
            written = os.pwrite(self._handle, view, offset)
            offset += written
            view = view[written:]
        if not _AT_ONCE:
            os.fsync(self._handle)


class Listed(NamedTuple):
    """A stream in the list of a spool.

    Attributes:
        stream: Its name.
        files: Files that were begun; those at the front may be removed.
        position: Ticks that the spool had taken before it.
    """

    stream: str
    files: int
    position: int


def file_name(name: str, head: Head) -> str:
    """Name of a file, from which stream and order can be read when its head is damaged."""
    return f"{name}.{head.stream.rpartition('/')[2]}.{head.ordinal:06}.{head.first:020}.spool"


def write_list(path: Path, table: str, streams: Sequence[Listed]) -> None:
    """Write which files there are, so that one that is removed is missed."""
    body = json.dumps({"format": FORMAT, "table": table, "streams": streams})
    replace_file(path, f"{body}\n{zlib.crc32(body.encode())}".encode())
    sync_directory(path.parent)


def read_list(path: Path) -> tuple[str, list[Listed]] | None:
    """Read the table and the streams; None if the file has another format, or is damaged."""
    try:
        body, checksum = read_regular(path, MOST_LIST_BYTES).decode().split("\n")
        if int(checksum) != zlib.crc32(body.encode()):
            return None
        found = json.loads(body)
        streams = [Listed(*one) for one in found["streams"]]
        if isinstance(found["table"], str) and all(map(_is_sound, streams)):
            return found["table"], streams
    except (ValueError, TypeError, LookupError, RecursionError, Unreadable):
        pass
    return None


def _is_sound(listed: Listed) -> bool:
    numbers = (listed.files, listed.position)
    return (
        isinstance(listed.stream, str)
        and STREAM.fullmatch(listed.stream) is not None
        and all(type(number) is int and 0 <= number <= MOST_NUMBER for number in numbers)
    )
