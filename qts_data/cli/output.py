"""Consoles: results on stdout, everything else on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from qts_data.errors import QtsDataError

__all__ = ["console", "fail", "notes", "progress_bar"]

console = Console(highlight=False)
notes = Console(stderr=True, highlight=False)


def fail(error: QtsDataError, *, code: int = 1) -> NoReturn:
    """One sentence on stderr, and the end."""
    notes.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    raise SystemExit(code)


def progress_bar(target: Console) -> Progress:
    """Done, total if known, time elapsed."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=target
    )
