"""Touching files of a spool's directory: regular ones of a bounded size, and never through a symbolic link.

A pipe would hold the reader for ever, a huge file would fill its memory, and a link would lead a write elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "MOST_LINES_BYTES",
    "MOST_LIST_BYTES",
    "MOST_SEGMENT_BYTES",
    "Unreadable",
    "read_regular",
    "refuse_special",
    "replace_file",
]

MOST_SEGMENT_BYTES: Final = 16 << 20
"""Of a file of records; a writer makes files of 2 MiB."""
MOST_LINES_BYTES: Final = 256 << 20
"""Of a file of the first two formats."""
MOST_LIST_BYTES: Final = 1 << 20
"""Of the list of files."""
# A pipe opens at once, and is refused by its kind.
_PLAIN: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Unreadable(Exception):
    """A path of a spool is no regular file, or larger than any file of a spool."""


def read_regular(path: Path, most: int) -> bytes:
    """Read a file.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        Unreadable: It is a link, a pipe, a directory or another special file, or has more bytes.
        FileNotFoundError: It is not there.
        OSError: The disk refused.
    """
    refuse_special(path.lstat())
    handle = os.open(path, os.O_RDONLY | _PLAIN)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        refuse_special(found)
        refuse_large(found, most)
        return file.read(most)


def refuse_special(found: os.stat_result) -> None:
    """Refuse whatever is not a regular file.

    Raises:
        Unreadable: It is not.
    """
    if not stat.S_ISREG(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else f"of the kind {stat.filemode(found.st_mode)[0]!r}"
        raise Unreadable(f"is no regular file, but {kind}; it was not read")


def refuse_large(found: os.stat_result, most: int) -> None:
    """Refuse a file of more bytes than its kind has.

    Raises:
        Unreadable: It has more.
    """
    if found.st_size > most:
        raise Unreadable(f"has {found.st_size:,} bytes, and no such file has more than {most:,}; it was not read")


def replace_file(path: Path, data: bytes) -> None:
    """Put new content under a name, all of it or nothing; the directory is to be flushed by the caller.

    Raises:
        OSError: The disk refused; the former content stays, and nothing else.
    """
    new = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # of a writer that was killed, or a link that leads elsewhere
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN, 0o644)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
