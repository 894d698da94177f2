"""Processes of a server: start them, signal them, and find those of a data directory."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from qts_data.embedded import constants
from qts_data.embedded.accounts import Account, run
from qts_data.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
with contextlib.suppress(ModuleNotFoundError):  # the constructor names the package to install
    import psutil

__all__ = ["alive", "launch", "processes_of", "serves", "signal_all", "stop"]


def launch(data: Path, programs: Path, sockets: Path, log: Path, account: Account | None) -> int:
    """Start postgres detached from this process, and return its process id.

    A shell makes it an orphan at once, so it never becomes a zombie of ours. pg_ctl is not used: it would put the paths
    into a shell command, and would later signal whatever process a stale file names.
    """
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    quoted = str(sockets).replace('"', '""')  # an item of a list
    options = ["-k", f'"{quoted}"', "-c", "listen_addresses=", "-c", "port=5432"]
    with log.open("xb") as stream:
        if account:
            os.chown(stream.fileno(), *account)
        command: list[str | Path] = ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", programs / "postgres"]
        return int(run([*command, "-D", data, *options], account, cwd=data, stderr=stream).stdout)


def stop(data: Path, deadline: float) -> bool:
    """Stop the server on a data directory, and return whether one ran."""
    if not processes_of(data):
        return False
    immediate = max(deadline, time.monotonic()) + constants.GRACE_SECONDS
    for number, until in ((signal.SIGINT, deadline), (signal.SIGQUIT, immediate)):
        signal_all(processes_of(data), number)
        while time.monotonic() < until:
            if not processes_of(data):
                return True
            time.sleep(constants.POLL_SECONDS)
    raise DatabaseUnavailable(f"the server on {data} does not stop")


def signal_all(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Signal the postmaster, which signals its children. If the postmaster is dead, signal each child."""
    pids = {process.pid for process in processes}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.ppid() not in pids:
                process.send_signal(number)


def processes_of(data: Path) -> list[psutil.Process]:
    """Return every process of a PostgreSQL server on this data directory."""
    return [process for process in psutil.process_iter() if serves(process.pid, data)]


def serves(pid: int, data: Path) -> bool:
    """Return whether a process is postgres in this directory. The number of a dead process may be in use again."""
    try:
        process = psutil.Process(pid)
        # Follow the link instead of reading it: its text stays the same for a directory that was removed and made
        # again.
        directory = f"/proc/{pid}/cwd" if sys.platform == "linux" else process.cwd()
        return process.name() == "postgres" and data.samefile(directory)
    except (psutil.Error, OSError):
        return False


def alive(pid: int) -> bool:
    """Return whether a process runs. A process that ended and was not waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
