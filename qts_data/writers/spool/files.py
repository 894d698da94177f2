"""The files of a spool on the disk: one that is written, the list of all, and the place for damaged ones."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from qts_data.writers.spool.format import Head, head_record, seal_record, seed_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Listed", "Segment", "file_name", "keep", "read_list", "sync_directory", "write_list"]

FORMAT: Final = 3
_SEGMENT_BYTES: Final = 2 << 20
_SEAL_BYTES: Final = 100
# A flush without a second call, and so without a second wait for the interpreter's lock.
_AT_ONCE: Final = getattr(os, "O_DSYNC", 0)


class Segment:
    """A file that takes records; its place on the disk is taken in the constructor.

    Args:
        directory: Where.
        name: Name of the feed.
        head: What the file begins with.

    Raises:
        FileExistsError: A file of that name is there; it is left alone.
        OSError: The disk refused; nothing is left of the file.
    """

    def __init__(self, directory: Path, name: str, head: Head) -> None:
        self.head = head = head._replace(size=_SEGMENT_BYTES)
        self.path = directory / file_name(name, head)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _AT_ONCE, 0o644)
        try:
            first = head_record(head)
            self._write(first + bytes(max(0, _SEGMENT_BYTES - len(first))), 0)
            os.fsync(self._handle)
            sync_directory(directory)
        except BaseException:
            os.close(self._handle)
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
            OSError: The disk refused; the file holds none of them.
        """
        try:
            self._write(block, self._offset)
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
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(f"{body}\n{zlib.crc32(body.encode())}".encode())
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_directory(path.parent)


def read_list(path: Path) -> tuple[str, list[Listed]] | None:
    """Read the table and the streams; None if the file has another format, or is damaged."""
    try:
        body, checksum = path.read_bytes()[: 1 << 20].decode().split("\n")
        if int(checksum) != zlib.crc32(body.encode()):
            return None
        found = json.loads(body)
        return found["table"], [Listed(*one) for one in found["streams"]]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def keep(path: Path, directory: Path, reasons: Sequence[str]) -> Path:
    """Set a damaged file aside, with the reasons beside it; it stays where it is, too.

    Returns:
        Where it is kept.
    """
    directory.mkdir(exist_ok=True)
    kept = directory / path.name
    number = 0
    while kept.exists():
        if kept.read_bytes() == path.read_bytes():
            break
        number += 1
        kept = directory / f"{path.name}.{number}"
    else:
        try:
            os.link(path, kept)
        except OSError:
            shutil.copy2(path, kept)
    note(directory, reasons)
    return kept


def note(directory: Path, reasons: Sequence[str]) -> None:
    """Add sentences to the list of damages, each once."""
    directory.mkdir(exist_ok=True)
    path = directory / "reasons.txt"
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{reason}\n" for reason in reasons if reason not in known)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(directory)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Wait until the names of its files are on the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(InterruptedError):
            os.fsync(handle)
    finally:
        os.close(handle)
