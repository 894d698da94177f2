"""The lock of a spool: one writer at a time, for the writer's whole life.

A lock of the system (`flock`) on a file, so that it ends with its process, also after kill -9. The file names its
holder for the message of the writer that is refused. The last holder removes the file; a writer that waited for a file
that was removed meanwhile opens the new one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import socket
import weakref
from typing import TYPE_CHECKING, Final

from qts_data.errors import SpoolInUse

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SpoolLock"]

_LONGEST_HOLDER: Final = 1_000
_held: weakref.WeakSet[SpoolLock] = weakref.WeakSet()


class SpoolLock:
    """Hold a file's lock from the constructor to `release`.

    Args:
        path: The file; it is made if it is not there.

    Raises:
        SpoolInUse: Another writer holds it; the message names its process, host and start.
        OSError: The file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        while self._handle is None:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is(handle, path):
                    self._handle, handle = handle, -1
            except BlockingIOError:
                raise SpoolInUse(_sentence(path, handle)) from None
            finally:
                if handle >= 0:
                    os.close(handle)
        try:
            self._sign(self._handle)
        except OSError:
            self.release()
            raise
        _held.add(self)

    def release(self) -> None:
        """Remove the file and let the next writer in; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(handle)

    def leave(self) -> None:
        """Close this process's handle only; for the child of a fork, which is not the writer."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    @staticmethod
    def _sign(handle: int) -> None:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)


def _is(handle: int, path: Path) -> bool:
    """Whether the path still names the open file."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


def _sentence(path: Path, handle: int) -> str:
    spool = path.with_suffix("")
    try:
        holder = json.loads(os.pread(handle, _LONGEST_HOLDER, 0))
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, TypeError, LookupError, RecursionError):
        who = f"another process, which has not signed {path} yet"
    return f"the spool {spool} is in use by {who}: end that writer first, or give this one another name or directory"


def _leave_all() -> None:
    for lock in list(_held):
        lock.leave()


# The child of a fork has a copy of the handle, and would hold the lock for as long as it lives.
os.register_at_fork(after_in_child=_leave_all)
