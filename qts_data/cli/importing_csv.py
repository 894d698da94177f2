"""`qts-data import csv`: CSV files of a book."""

from __future__ import annotations

import asyncio
import csv as csv_module
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qts_data.cli.importing import AnyTime, allowing
from qts_data.errors import ConfigurationError
from qts_data.operations import csv_files
from qts_data.operations.csv_files import CsvReject
from qts_data.settings import load_settings
from qts_data.terminal.console import console, notes, progress_of

__all__ = ["csv"]

REJECTED = 3


class Kind(StrEnum):
    """The kinds of rows in a file."""

    LEDGER = "ledger"
    POSITIONS = "positions"
    DAILY_BARS = "daily-bars"


def csv(
    kind: Annotated[Kind, typer.Argument(help="Kind of the rows.")],
    file: Annotated[Path, typer.Argument(help="The file; its first row names the columns.")],
    mapping: Annotated[
        Path | None, typer.Option(help='TOML: delimiter, encoding, [columns] OURS = "THEIRS", [defaults], [id_scopes].')
    ] = None,
    rejects: Annotated[
        Path | None,
        typer.Option(help="File for bad rows, with line and reason; FILE.rejects.csv in this folder by default."),
    ] = None,
    all_or_nothing: Annotated[bool, typer.Option("--all-or-nothing", help="If a row is bad, import no row.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Import everything, then roll it back.")] = False,
    all_times: AnyTime = False,
) -> None:
    """Import a ledger, positions or daily bars by the rules of live data: the ledger books every fill.

    Exit code 0: every row was imported or was there already. 3: some rows were refused. 1: an error, or a bad row with
    --all-or-nothing.
    """
    target = rejects or Path(f"{file.name}.rejects.csv")
    if target.resolve() == file.resolve():
        raise ConfigurationError(f"the bad rows would overwrite {file}; give another --rejects")
    with allowing(all_times=all_times), progress_of(file.name, notes) as show:
        report = asyncio.run(
            csv_files.import_csv_file(
                load_settings(),
                kind.value,
                file,
                mapping,
                all_or_nothing=all_or_nothing,
                dry_run=dry_run,
                progress=show,
            )
        )
    console.print(
        f"read {report.read:,}, written {report.written:,}, unchanged {report.unchanged:,}, rejected "
        f"{len(report.rejects):,}" + ("; everything was rolled back" if dry_run else "")
    )
    if report.rejects:
        _write(target, report.rejects)
        notes.print(f"note: {len(report.rejects):,} bad rows are in {target}", soft_wrap=True)
        raise typer.Exit(REJECTED)


def _write(target: Path, rejects: tuple[CsvReject, ...]) -> None:
    try:
        with target.open("w", encoding="utf-8", newline="") as file:
            writer = csv_module.writer(file)
            writer.writerow(["line", "reason", "row"])
            writer.writerows([item.line, item.reason, *item.cells] for item in rejects)
    except OSError as error:
        raise ConfigurationError(
            f"the import is done, but {target} cannot be written: {error.strerror}; give --rejects and run it again"
        ) from error
