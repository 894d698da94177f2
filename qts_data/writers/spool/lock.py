"""The lock of a spool: one writer at a time, for the writer's whole life.

The lock is a lock of the system (`flock`) on a file, so it ends with its process, even after kill -9. The file names
its holder, for the message of a refused writer. The last holder removes the file. A writer that waited for a file
that was removed meanwhile opens the new one.

A person can remove the file. Therefore the holder locks the file that it writes, too, and `refuse_held` checks those.
A holder whose lock was removed makes it anew.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import json
import logging
import os
import re
import socket
import weakref
from typing import TYPE_CHECKING, Final, Protocol

from qts_data.errors import SpoolInUse
from qts_data.writers.spool.reading import Unreadable, refuse_special

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SpoolLock", "close_in_forks", "is_at", "refuse_held"]

_log = logging.getLogger(__name__)
_LONGEST_HOLDER: Final = 1_000
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Held(Protocol):
    def close(self) -> None:
        """Close this process's handle, and nothing else."""


_held: weakref.WeakSet[_Held] = weakref.WeakSet()


class SpoolLock:
    """A file's lock, held from the constructor to `release`.

    Args:
        path: The file; it is made if it does not exist.

    Raises:
        SpoolInUse: Another writer holds it; the message names its process, host and start.
        SpoolInUse: Another writer holds it; the message names its process, host and start.
        OSError: The file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = _locked(path)
        close_in_forks(self)

    def prove(self) -> None:
        """Prove that the path still names this holder's file.

        Raises:
            OSError: It was removed or replaced.
        """
        if not is_at(self._handle, self._path):
            raise OSError(errno.ESTALE, f"the lock {self._path} was removed or replaced while its writer held it")

    def restore(self) -> None:
        """Make the file anew if it was removed. The caller holds the lock of a file that it writes meanwhile."""
        if is_at(self._handle, self._path):
            return
        try:
            new = _locked(self._path)
        except (SpoolInUse, OSError):
            return  # a writer that is about to be refused holds it; the next call tries again
        _log.warning("the lock %s was removed or replaced while its writer held it; it was made anew", self._path)
        old, self._handle = self._handle, new
        os.close(old)

    def release(self) -> None:
        """Remove the file and let the next writer in. A second call does nothing."""
        if self._handle >= 0 and is_at(self._handle, self._path):  # that of another writer stays
            with contextlib.suppress(OSError):
                self._path.unlink()
        self.close()

    def close(self) -> None:
        """Close this process's handle only. For the child of a fork, which is not the writer."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def is_at(handle: int, path: Path) -> bool:
    """Return whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def refuse_held(directory: Path, name: str) -> None:
    """Refuse to go on while a writer has a file of the spool open, even if the lock was removed.

    The caller holds the lock. A writer makes its next file before it closes the last one. The files are checked in this
    order, until no new file appears.

    Raises:
        SpoolInUse: A writer has a file open.
        OSError: The disk refused.
    """
    pattern = re.compile(re.escape(name) + r"\.[0-9a-f-]+\.\d{6,}\.\d{20}\.spool")
    seen: list[Path] | None = None
    while True:
        found = sorted(path for path in directory.iterdir() if pattern.fullmatch(path.name))
        if found == seen:
            return
        for path in found:
            _refuse_held(path, directory / name)
        seen = found


def _refuse_held(path: Path, spool: Path) -> None:
    try:
        refuse_special(path.lstat())
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, Unreadable):
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SpoolInUse(
            f"the spool {spool} is in use: a writer holds {path}, although the lock {spool}.lock was removed; "
            "end that writer first, or give this one another name or directory"
        ) from None
    finally:
        os.close(handle)


def _locked(path: Path) -> int:
    """Open, lock and sign a file. If it is removed meanwhile, open it again."""
    while True:
        handle = os.open(path, _LOCK_FLAGS, 0o644)
        try:
            _refuse_foreign(handle, path)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(handle, path):
                _sign(handle)
                mine, handle = handle, -1
                return mine
        except BlockingIOError:
            raise SpoolInUse(_sentence(path, handle)) from None
        finally:
            if handle >= 0:
                os.close(handle)


def _refuse_foreign(handle: int, path: Path) -> None:
    """Refuse a file that signing would destroy."""
    found = os.fstat(handle)
    try:
        refuse_special(found)
    except Unreadable as error:
        raise OSError(errno.EINVAL, f"{path} {error}") from None
    if found.st_nlink > 1:
        raise OSError(errno.EMLINK, f"{path} is a file with {found.st_nlink} names; a lock has one")


def _sign(handle: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    signature = json.dumps(holder).encode()
    try:
        # Overwrites the former holder's signature, which needs no room on a full disk.
        os.ftruncate(handle, os.pwrite(handle, signature, 0))
    except OSError as error:
        if error.errno not in _FULL:
            raise
        os.ftruncate(handle, 0)  # held, and not signed


def _sentence(path: Path, handle: int) -> str:
    spool = path.with_suffix("")
    try:
        holder = json.loads(os.pread(handle, _LONGEST_HOLDER, 0))
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, TypeError, LookupError, RecursionError):
        who = f"another process, which has not signed {path} yet"
    return f"the spool {spool} is in use by {who}: end that writer first, or give this one another name or directory"


def close_in_forks(held: _Held) -> None:
    """Let the child of a fork close its copy of a handle, which would otherwise hold the lock."""
    _held.add(held)


def _leave_all() -> None:
    for one in list(_held):
        one.close()


os.register_at_fork(after_in_child=_leave_all)
