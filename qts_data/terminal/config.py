"""Output of settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qts_data.terminal.console import notes
from qts_data.terminal.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qts_data.operations.config import Setting

__all__ = ["print_config"]


def print_config(settings: Sequence[Setting], unknown: Sequence[str]) -> None:
    """Print one line for each setting, and a note with variables that are not settings."""
    table = Table(("setting", "value", "source"))
    for setting in settings:
        named = setting.name not in {"", setting.variable}
        source = f"{setting.source} ({setting.name})" if named else setting.source
        style = "dim" if setting.source == "default" else ""
        table.add((setting.variable, "-" if setting.value is None else setting.value, source), style=style)
    table.print()
    if unknown:
        notes.print(f"note: not settings, and ignored: {', '.join(unknown)}", soft_wrap=True)
