"""`python -m qts_data` and `qts-data`: the command line, interruptible from its first moment.

The modules of the command line take most of a second to import. Until they are there, Ctrl-C ends the process by
itself, so that no traceback of an import appears.
"""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]

_INTERRUPTED = 130
"""Exit code of a process that Ctrl-C ended: 128 and the number of SIGINT."""


def main() -> None:
    """Import the command line and run it. Ctrl-C at any moment is one line on stderr and exit code 130."""
    before = signal.signal(signal.SIGINT, _end)
    try:
        from qts_data.cli import main as run  # noqa: PLC0415 - under the handler
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(_INTERRUPTED)


def _end(_number: int, _frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
