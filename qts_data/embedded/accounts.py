"""Who the server runs as: PostgreSQL refuses to run as root."""

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
    """Whom a server that root started runs as."""

    uid: int
    gid: int


def account_of(data: Path | None) -> Account | None:
    """Who is to run the server: the current user (None), or for root the data's owner or a system account."""
    if os.geteuid() != 0:
        return None
    if data is not None:
        return Account(data.stat().st_uid, data.stat().st_gid)
    with contextlib.suppress(KeyError):
        return Account(*pwd.getpwnam(constants.ACCOUNT)[2:4])
    reason = "there is no useradd"
    if useradd := shutil.which("useradd", path=f"{os.defpath}:/usr/sbin:/sbin"):
        reason = run([useradd, "--system", "--no-create-home", "--shell=/usr/sbin/nologin", constants.ACCOUNT]).stdout
    try:  # whatever useradd says: another process may have been faster
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
    """Runs a program under the account, out of reach of the terminal's Ctrl-C."""
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
    """Whether a line of shell with the path as $0 succeeds; only the kernel knows what an account may do."""
    return run(["/bin/sh", "-c", script, path], account).returncode == 0
