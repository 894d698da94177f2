"""The files of a spool on the disk: the file that is being written, and the list of all files."""

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
"""Name of a stream: the name of its feed, and its own."""
_SEGMENT_BYTES: Final = 2 << 20
_SEAL_BYTES: Final = 100
# Flushes with the write itself, which saves a second call and a second wait for the interpreter's lock.
_AT_ONCE: Final = getattr(os, "O_DSYNC", 0)


class Segment:
    """A file that takes records. The constructor allocates its space on the disk.

    It is locked while it is open. So another writer stays out even if the lock of the spool was removed.

    Args:
        directory: Directory of the file.
        name: Name of the feed.
        head: First record of the file.

    Raises:
        FileExistsError: A file of that name exists; it is left unchanged.
        OSError: The disk refused; nothing is left of the file.
    """

    def __init__(self, directory: Path, name: str, head: Head) -> None:
        head = head._replace(size=_SEGMENT_BYTES)
        self.head: Head = head
        self.path: Path = directory / file_name(name, head)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _AT_ONCE, 0o644)
        close_in_forks(self)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX)  # waits at most for a writer that checks for held files
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
        """Bytes that still fit."""
        return _SEGMENT_BYTES - self._offset - _SEAL_BYTES

    def append(self, block: bytes) -> None:
        """Write records, and wait until they are on the disk.

        Raises:
            OSError: The disk refused, or the file was removed or replaced. The file holds none of the records.
        """
        try:
            self._write(block, self._offset)
            # Checked after the write: a later writer reads this file under this name.
            self._prove_name()
        except OSError as error:
            # The records are not accepted, so a later writer must not find them.
            try:
                self._write(bytes(len(block)), self._offset)
            except OSError as again:
                raise OSError(errno.EIO, f"{error}, and the bytes written could not be cleared: {again}") from error
            raise
        self._offset += len(block)
        self._checksum = zlib.crc32(block, self._checksum)

    def seal(self, number: int) -> None:
        """Write the length and checksum of the file, free the rest of its space, and close it."""
        try:
            last = seal_record(number, self._offset, self._checksum, seed_of(self.head.stream))
            self._write(last, self._offset)
            os.ftruncate(self._handle, self._offset + len(last))
            os.fsync(self._handle)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file. A second call does nothing."""
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
        files: Number of files that were begun. The oldest ones may be removed already.
        position: Ticks that the spool had taken before the stream.
    """

    stream: str
    files: int
    position: int


def file_name(name: str, head: Head) -> str:
    """Return the name of a file. Stream and order can be read from it if its head is damaged."""
    return f"{name}.{head.stream.rpartition('/')[2]}.{head.ordinal:06}.{head.first:020}.spool"


def write_list(path: Path, table: str, streams: Sequence[Listed]) -> None:
    """Write the list of files, so that a missing file is noticed."""
    body = json.dumps({"format": FORMAT, "table": table, "streams": streams})
    replace_file(path, f"{body}\n{zlib.crc32(body.encode())}".encode())
    sync_directory(path.parent)


def read_list(path: Path) -> tuple[str, list[Listed]] | None:
    """Read the table and the streams. None if the file has another format or is damaged."""
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
