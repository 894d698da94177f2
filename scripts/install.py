"""Create the virtual environment with the pinned dependencies: `make install`.

    python3 scripts/install.py DIRECTORY

Needs only Python. It prints each step, and every failure is one sentence. pip's own output is in install.log of the
directory.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

LOCK = Path("requirements.lock")
NEEDED_MB = 1_300
"""Space of the installed packages, with some reserve for the largest package that pip unpacks."""

_UNREACHABLE = (
    r"NewConnectionError|Failed to establish|Connection refused|name resolution|Max retries exceeded|timed out"
    r"|ProxyError|SSLError|Connection broken|RemoteDisconnected|Network is unreachable"
)
# The first pattern found in pip's output names the cause. An unreachable index comes before a missing package, because
# pip ends with the same words in both cases.
CAUSES = (
    (r"No space left on device|Disk quota exceeded", "the disk is full; {place} needs about {needed} MB"),
    (
        _UNREACHABLE,
        "pip cannot reach the package index; check the network, or pip's settings with `python3 -m pip config list`",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "the index has another file than the one that requirements.lock pins; pip did not install it",
    ),
    (r"Permission denied", "this user may not write into {place}"),
    (
        r"No matching distribution found for (?P<name>\S+)",
        "pip finds no {name} for Python {version} on this machine; the package index lacks it or is out of reach",
    ),
)


def cause(output: str, place: Path) -> str:
    """Find the reason in pip's output.

    Args:
        output: Everything that pip or venv printed.
        place: Directory of the environment.
    """
    for pattern, sentence in CAUSES:
        if found := re.search(pattern, output):
            words = {"needed": NEEDED_MB, "place": place.resolve(), "version": sys.version.split()[0]}
            return sentence.format(**(words | found.groupdict()))
    errors = [line for line in output.splitlines() if line.startswith(("ERROR:", "Error:"))]
    last = (errors or output.strip().splitlines() or ["no output"])[-1]
    return last.removeprefix("ERROR:").removeprefix("Error:").strip()


def say(step: str) -> None:
    """Print a step at once, also into a pipe."""
    print(step, flush=True)


def fail(sentence: str) -> None:
    """End with a sentence on stderr."""
    sys.exit(f"make install: {sentence}")


def works(directory: Path) -> bool:
    """Return whether the environment is complete and made by this version of Python."""
    check = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    try:
        run = subprocess.run([directory / "bin" / "python", "-c", check], check=False, capture_output=True)
    except OSError:
        return False
    return run.returncode == 0


def create(directory: Path) -> None:
    """Make the environment if there is none, or if it does not work."""
    if works(directory):
        return
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        fail(
            "this Python cannot make virtual environments; on Debian and Ubuntu: "
            f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        )
    free = shutil.disk_usage(directory.resolve().parent).free // 10**6
    if free < NEEDED_MB:
        fail(f"the disk of {directory.resolve().parent} has {free} MB left; the packages need about {NEEDED_MB} MB")
    say(f"creating {directory} with Python {sys.version.split()[0]} ...")
    run = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", directory],
        check=False,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if run.returncode:
        reason = cause(run.stdout + run.stderr, directory)
        shutil.rmtree(directory, ignore_errors=True)
        fail(reason)


def pip(directory: Path, *arguments: str) -> None:
    """Run pip in the environment. Its output goes into a file."""
    command = [str(directory / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    log = directory / "install.log"
    try:
        with log.open("wb") as output:
            status = subprocess.run(
                command,
                check=False,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                # An environment of its own takes no packages of the user.
                env=os.environ | {"PIP_USER": "0"},
            ).returncode
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        fail(cause(str(error), directory))
        return
    if status:
        fail(f"{cause(text, directory)} (all of pip's output: {log})")


def find_project_by_relative_path(directory: Path) -> None:
    """Write the path of this project relative to the environment.

    Before version 3.13 Python reads this file in the locale's encoding, even with PYTHONUTF8. A folder name that the
    locale cannot decode would keep Python from starting.
    """
    [packages] = (directory.absolute() / "lib").glob("python3.*/site-packages")
    for file in packages.glob("*qts_data*.pth"):
        file.write_text(os.path.relpath(Path.cwd(), packages) + "\n", encoding="utf-8")


def main() -> None:
    """Create the environment, install the dependencies, install this project."""
    directory = Path(sys.argv[1])
    create(directory)
    count = len(re.findall(r"^[a-z0-9][a-z0-9._-]*(?:\[[a-z,]+\])?==", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    say(f"installing {count} pinned packages into {directory}; the first time this downloads about 300 MB ...")
    pip(directory, "--progress-bar", "off", "--require-hashes", "-r", str(LOCK))
    say("installing qts-data itself ...")
    pip(directory, "--no-deps", "--no-build-isolation", "-e", ".")
    find_project_by_relative_path(directory)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("make install: interrupted; run it again, it completes the environment")
