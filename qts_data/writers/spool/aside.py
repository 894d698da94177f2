"""The place for damaged files of a spool, and the reasons beside them."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from typing import TYPE_CHECKING, Final

from qts_data.writers.spool.reading import MOST_LINES_BYTES, Unreadable, read_regular

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["keep", "move", "note", "sync_directory"]

_MOST_REASONS_BYTES: Final = 16 << 20


def keep(path: Path, directory: Path, reasons: Sequence[str]) -> Path:
    """Keep a copy of a damaged file aside, with the reasons beside it. The file itself stays in its place, too.

    Returns:
        Path of the copy.
    """
    _make(directory)
    kept = _free(path, directory)
    if not os.path.lexists(kept):
        try:
            os.link(path, kept, follow_symlinks=False)
        except OSError:
            shutil.copy2(path, kept, follow_symlinks=False)
    note(directory, reasons)
    return kept


def move(path: Path, directory: Path, reasons: Sequence[str]) -> Path:
    """Move a path that is not a spool's file aside, unread, with the reasons beside it. Return its new path."""
    _make(directory)
    names = (directory / (f"{path.name}.{number}" if number else path.name) for number in itertools.count())
    moved = next(name for name in names if not os.path.lexists(name))
    path.rename(moved)
    note(directory, reasons)
    return moved


def note(directory: Path, reasons: Sequence[str]) -> None:
    """Add sentences to the list of damages, each once."""
    _make(directory)
    path, known = _reasons(directory)
    added = dict.fromkeys(reason for reason in reasons if reason not in known)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644), "ab") as file:
        file.write("".join(f"{reason}\n" for reason in added).encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())
    sync_directory(directory)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Wait until the directory's entries are on the disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    if directory.is_symlink():
        raise OSError(errno.ELOOP, "is a symbolic link, and would lead damaged files elsewhere", str(directory))


def _free(path: Path, directory: Path) -> Path:
    """Return a name under which the same file is kept already, or a free one."""
    for number in itertools.count():
        kept = directory / (f"{path.name}.{number}" if number else path.name)
        if not os.path.lexists(kept) or _is_same(path, kept):
            return kept
    raise AssertionError  # pragma: no cover - the count never ends


def _is_same(path: Path, kept: Path) -> bool:
    one, other = path.lstat(), kept.lstat()
    if os.path.samestat(one, other) or one.st_size != other.st_size:
        return os.path.samestat(one, other)
    try:
        return read_regular(path, MOST_LINES_BYTES) == read_regular(kept, MOST_LINES_BYTES)
    except Unreadable:
        return False


def _reasons(directory: Path) -> tuple[Path, set[str]]:
    """Return the list of reasons and its lines. A name that a pipe, a link or a huge file has is not used."""
    for number in itertools.count():
        path = directory / (f"reasons.{number}.txt" if number else "reasons.txt")
        try:
            return path, set(read_regular(path, _MOST_REASONS_BYTES).decode("utf-8", "replace").splitlines())
        except FileNotFoundError:
            return path, set()
        except Unreadable:
            continue
    raise AssertionError  # pragma: no cover - the count never ends
