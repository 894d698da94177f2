"""`qts-data import`: files into tables."""

from __future__ import annotations

import asyncio
import datetime as dt
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qts_data import bootstrap
from qts_data.cli.output import console, notes, progress_bar
from qts_data.importers import FORMATS
from qts_data.settings import load_settings

__all__ = ["app", "print_import"]

app = typer.Typer(help="Files into tables.", no_args_is_help=True)

Format = StrEnum("Format", {name: name for name in FORMATS})  # type: ignore[misc]


@app.command()
def ticks(
    file: Annotated[Path, typer.Argument(help="The file, zipped or not.")],
    layout: Annotated[Format, typer.Option("--format", help="Layout of the file.")],
    symbol: Annotated[str, typer.Option(help="Symbol that its trades are of.")],
    date: Annotated[dt.datetime, typer.Option(formats=["%Y-%m-%d"], help="Day that its times are of.")],
    source: Annotated[str, typer.Option(help="Name of the feed; part of a tick's key.")] = "lean",
    time_zone: Annotated[str, typer.Option(help="Zone of the market's wall clock.")] = "America/New_York",
) -> None:
    """Load a day of trades: all of them or, with a wrong row, none. Loading a file again adds nothing."""
    records = FORMATS[layout.value](file, symbol, date.date(), source=source, time_zone=time_zone)
    with progress_bar(notes) as progress:
        task = progress.add_task(f"{symbol} {date:%Y-%m-%d}", total=None)
        report = asyncio.run(
            bootstrap.import_ticks(load_settings(), records, lambda done: progress.update(task, completed=done))
        )
    print_import(report)


def print_import(report: bootstrap.ImportReport) -> None:
    """Counts on stdout; what somebody may have to do about it on stderr."""
    loaded = report.ingest
    console.print(f"received {loaded.received:,}, inserted {loaded.inserted:,}, duplicate {loaded.duplicate:,}")
    for name, bars in report.refresh.kept.items():
        notes.print(
            f"note: {name} was not refreshed: {bars:,} of its bars in this range outlived their rows, and a refresh "
            "would delete them",
            soft_wrap=True,
        )
    if report.cutoff is not None and loaded.first is not None and loaded.first < report.cutoff:
        notes.print(
            f"note: retention drops ticks before {report.cutoff:%Y-%m-%d %H:%M} UTC at its next run, and these begin "
            f"{loaded.first:%Y-%m-%d %H:%M} UTC; to keep them, run SELECT remove_retention_policy('tick_data')",
            soft_wrap=True,
        )
