"""Removing what the table has from a spool, also where the disk has no room left for a new list of files."""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Final

from qts_data.writers.spool.aside import keep, move, note, sync_directory
from qts_data.writers.spool.files import write_list

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qts_data.writers.spool.files import Listed
    from qts_data.writers.spool.format import Damage
    from qts_data.writers.spool.left import Left
    from qts_data.writers.spool.scan import Scan

__all__ = ["FULL", "keep_damaged", "remove_drained", "set_foreign_aside"]

_log = logging.getLogger(__name__)
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""After these the disk has not taken a byte that counts, and may take the next one."""


def remove_drained(head: Path, table: str, rest: Sequence[Listed], files: Sequence[Path]) -> None:
    """Remove the files of a stream whose ticks are stored, and take it out of the list.

    The list first: a file that it does not know is read all the same. On a full disk the files before the last one go
    first, which a later writer knows to be stored; then the last one. A crash between that and the list makes the later
    writer report a missing file; no tick is missing.

    Raises:
        OSError: The disk refused, for another reason than a lack of room.
    """
    if not _written(head, table, rest) and files:
        for path in files[:-1]:
            path.unlink(missing_ok=True)
        if not _written(head, table, rest):
            files[-1].unlink(missing_ok=True)
            if not _written(head, table, rest):
                _log.warning("the disk has no room for %s; it is written with the next file of the spool", head)
    for path in files:
        path.unlink(missing_ok=True)
    sync_directory(head.parent)


def _written(head: Path, table: str, rest: Sequence[Listed]) -> bool:
    try:
        write_list(head, table, rest)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return False
    return True


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
    """Set aside what belongs to no stream: files with damages are kept, and other things than files moved."""
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
