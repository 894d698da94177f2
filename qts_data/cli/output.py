"""Consoles: results on stdout, everything else on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["console", "notes", "progress_bar"]

console = Console(highlight=False)
notes = Console(stderr=True, highlight=False)


def progress_bar(target: Console) -> Progress:
    """Done, total if known, time elapsed."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=target
    )
