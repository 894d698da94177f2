"""Access to files of a spool's directory: regular ones of a bounded size, and never through a symbolic link.

A pipe would block the reader for ever, a huge file would fill its memory, and a link would lead a write elsewhere.
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
"""Most bytes of a file of records. A writer makes files of 2 MiB."""
MOST_LINES_BYTES: Final = 256 << 20
"""Most bytes of a file of the first two formats."""
MOST_LIST_BYTES: Final = 1 << 20
"""Most bytes of the list of files."""
# With these flags a pipe opens at once, and is then refused by its kind.
_PLAIN: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Unreadable(Exception):
    """A path of a spool is not a regular file, or larger than any file of a spool."""


def read_regular(path: Path, most: int) -> bytes:
    """Read a file.

    Args:
        path: The file.
        most: Most bytes that it may have.

    Raises:
        Unreadable: The path is a link, a pipe, a directory or another special file, or the file is larger.
        FileNotFoundError: The file does not exist.
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
    """Refuse anything but a regular file.

    Raises:
        Unreadable: The path is not a regular file.
    """
    if not stat.S_ISREG(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else f"of the kind {stat.filemode(found.st_mode)[0]!r}"
        raise Unreadable(f"is not a regular file, but {kind}; it was not read")


def refuse_large(found: os.stat_result, most: int) -> None:
    """Refuse a file that is larger than any file of its kind.

    Raises:
        Unreadable: It is larger.
    """
    if found.st_size > most:
        raise Unreadable(f"has {found.st_size:,} bytes, and no such file has more than {most:,}; it was not read")


def replace_file(path: Path, data: bytes) -> None:
    """Put new content under a name, completely or not at all. The caller must flush the directory.

    Raises:
        OSError: The disk refused. The former content stays, and no other file is left.
    """
    new = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # left by a writer that was killed, or a link that leads elsewhere
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
