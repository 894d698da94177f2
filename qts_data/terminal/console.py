"""Consoles: results on stdout, all other output on stderr."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qts_data.errors import QtsDataError

__all__ = ["console", "fail", "heading", "notes", "prepare_streams", "print_json", "progress_of"]

# Printed text is data: brackets or colons in a symbol are not markup.
console: Console = Console(highlight=False, markup=False, emoji=False)
notes: Console = Console(stderr=True, highlight=False, markup=False, emoji=False)


def prepare_streams() -> None:
    """Write characters that a terminal's encoding, such as cp949, does not have as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not _is_unicode(stream.encoding):
            stream.reconfigure(errors="backslashreplace")


def _is_unicode(encoding: str | None) -> bool:
    return encoding is not None and codecs.lookup(encoding).name.startswith("utf")


def print_json(found: Any) -> None:
    """Print indented JSON for machines, in ASCII if the output is not Unicode."""
    text = json.dumps(found, ensure_ascii=not _is_unicode(sys.stdout.encoding), indent=2)
    sys.stdout.write(f"{text}\n")


def heading(title: str, rest: str = "") -> None:
    """Print the heading of a step of a demo: its title in bold, and a remark."""
    console.print(Text.assemble((title, "bold"), rest))


def fail(error: QtsDataError, *, code: int = 1) -> NoReturn:
    """Print an error in one sentence on stderr, and exit."""
    notes.print(f"error: {error}", style="red", soft_wrap=True)
    raise SystemExit(code)


class ShowProgress(Protocol):
    """Shows how much is done, and of how much."""

    def __call__(self, done: int, of: int | None = None, /) -> None: ...


@contextlib.contextmanager
def progress_of(what: str, target: Console, total: int | None = None) -> Iterator[ShowProgress]:
    """Show a bar with the progress, the total if known, and the elapsed time. Yield a function that moves it.

    Args:
        what: Text before the bar.
        target: Console that shows it.
        total: Total amount; the function may give it later.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=target) as bar:
        task = bar.add_task(what, total=total)

        def show(done: int, of: int | None = None, /) -> None:
            bar.update(task, completed=done, total=total if of is None else of)

        yield show
