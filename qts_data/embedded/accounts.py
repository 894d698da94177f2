"""The account that the server runs as, because PostgreSQL refuses to run as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qts_data.embedded import constants
from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

if sys.platform != "win32":
    import pwd

__all__ = ["Account", "account_of", "run", "succeeds"]


class Account(NamedTuple):
    """The account of a server that root started."""

    uid: int
    gid: int


def account_of(data: Path | None) -> Account | None:
    """Return the account that runs the server. None is the current user. For root, it is another account.

    With data, that is the data's owner. Otherwise it is the system account, which is made if it does not exist.

    Raises:
        ConfigurationError: The system account cannot be made.
    """
    if os.geteuid() != 0:
        return None
    if data is not None:
        return Account(data.stat().st_uid, data.stat().st_gid)
    with contextlib.suppress(KeyError):
        return Account(*pwd.getpwnam(constants.ACCOUNT)[2:4])
    reason = "useradd was not found"
    if useradd := shutil.which("useradd", path=f"{os.defpath}:/usr/sbin:/sbin"):
        reason = run([useradd, "--system", "--no-create-home", "--shell=/usr/sbin/nologin", constants.ACCOUNT]).stdout
    try:  # in spite of an error of useradd: another process may have made the account meanwhile
        return Account(*pwd.getpwnam(constants.ACCOUNT)[2:4])
    except KeyError as error:
        raise ConfigurationError(
            f"PostgreSQL refuses to run as root and the account {constants.ACCOUNT} cannot be made "
            f"({reason.strip()}): create it, or work as another user"
        ) from error


def run(
    command: Sequence[str | Path],
    account: Account | None = None,
    *,
    stderr: IO[bytes] | int = subprocess.STDOUT,
    cwd: Path = Path("/"),  # the current directory may be closed to the account
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program under the account, out of reach of the terminal's Ctrl-C."""
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=cwd,
        env=constants.ENVIRONMENT,
        timeout=timeout,
        start_new_session=True,
        encoding="utf-8",
        errors="replace",
        user=account and account.uid,
        group=account and account.gid,
        extra_groups=account and [],
    )


def succeeds(script: str, path: Path, account: Account) -> bool:
    """Return whether a line of shell with the path as $0 succeeds. Only the kernel knows an account's permissions."""
    return run(["/bin/sh", "-c", script, path], account).returncode == 0
