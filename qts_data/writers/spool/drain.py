"""Removal of spool files whose ticks are stored, even if the disk is too full for a new list of files."""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Final

from qts_data.errors import SpoolRefused
from qts_data.writers.spool.aside import keep, move, note, sync_directory
from qts_data.writers.spool.files import write_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from qts_data.writers.spool.files import Listed
    from qts_data.writers.spool.format import Damage
    from qts_data.writers.spool.left import Left
    from qts_data.writers.spool.scan import Scan

__all__ = [
    "FULL",
    "disk_errors",
    "keep_damaged",
    "refusal",
    "remove_drained",
    "remove_stored",
    "set_foreign_aside",
    "write_if_room",
]

_log = logging.getLogger(__name__)
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""After these errors the disk has stored nothing of the block, and may accept the next one."""


def remove_drained(head: Path, table: str, rest: Sequence[Listed], files: Sequence[Path]) -> None:
    """Remove the files of a stream whose ticks are stored, and take it out of the list.

    The list is written first: a file that it does not name is read all the same. On a full disk the files before the
    last one are removed first, because a later writer can see that they are stored; then the last one. After a crash
    between that and the list, the later writer reports a missing file; no tick is missing.

    Raises:
        OSError: The disk refused, for another reason than a lack of room.
    """
    if not write_if_room(head, table, rest) and files:
        for path in files[:-1]:
            path.unlink(missing_ok=True)
        if not write_if_room(head, table, rest):
            files[-1].unlink(missing_ok=True)
            if not write_if_room(head, table, rest):
                _log.warning("the disk has no room for %s; it is written with the next file of the spool", head)
    for path in files:
        path.unlink(missing_ok=True)
    sync_directory(head.parent)


def write_if_room(head: Path, table: str, rest: Sequence[Listed]) -> bool:
    """Write the list of files. Return False if the disk has no room."""
    try:
        write_list(head, table, rest)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return False
    return True


def remove_stored(full: list[tuple[int, Path]], stored: int) -> None:
    """Remove full files whose ticks are all stored, the oldest first.

    Args:
        full: Files, each with the number after its last tick. Removed files are taken out of the list.
        stored: Ticks of their stream in the table.
    """
    path: Path | None = None
    while full and full[0][0] <= stored:
        path = full[0][1]
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s is not needed any more and cannot be removed: %s", path, error)
            return
        # Only after the removal: a file that stays while the next one is removed would look like a damaged spool.
        full.pop(0)
    if path is not None:
        sync_directory(path.parent)


def refusal(error: OSError, directory: Path) -> SpoolRefused:
    """Make a `SpoolRefused` from an error of the disk."""
    return SpoolRefused(f"the disk of the spool {directory} refused: {error}", errno=error.errno)


@contextlib.contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Raise our error instead of the disk's inside the block."""
    try:
        yield
    except OSError as error:
        raise refusal(error, directory) from error


def keep_damaged(left: Left, missing: Sequence[Damage], aside: Path) -> None:
    """Keep the damaged files of a stream, with the reasons."""
    reasons: dict[str, list[str]] = {}
    for one in missing:
        reasons.setdefault(one.file, []).append(str(one))
    for path in left.files:
        if str(path) in reasons:
            keep(path, aside, reasons[str(path)])
    note(aside, [str(one) for one in missing])


def set_foreign_aside(found: Scan, head: Path, aside: Path) -> None:
    """Set aside paths that belong to no stream. Damaged files are kept, and other things than files are moved."""
    for path, damage in found.damages:
        kept = keep(path, aside, [str(damage)])
        _log.error("%s; it is kept as %s", damage, kept)
        if path != head:
            path.unlink()
    for path, damage in found.unread:
        moved: Path | None = None
        with contextlib.suppress(FileNotFoundError):
            moved = move(path, aside, [str(damage)])
        _log.error("%s; it was moved to %s", damage, moved)
