"""`qts-data import`: market data from files."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import datetime as dt
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn, Self

import typer

from qts_data.contracts import any_time
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.importers import FORMATS, ReadOptions
from qts_data.operations import market
from qts_data.settings import load_settings
from qts_data.terminal.console import console, notes, progress_of
from qts_data.terminal.market import print_import

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qts_data.importers.rows import Refuse

__all__ = [
    "AnyTime",
    "allowing",
    "app",
]

app: typer.Typer = typer.Typer(help="Import files into tables.", no_args_is_help=True)

REJECTED = 3
"""Exit code of an import that refused some rows and loaded the others."""

TickFormat = StrEnum("TickFormat", {name: name for name, layout in FORMATS.items() if layout.kind == "ticks"})  # type: ignore[misc]
BarFormat = StrEnum("BarFormat", {name: name for name, layout in FORMATS.items() if layout.kind == "bars"})  # type: ignore[misc]

File = Annotated[Path, typer.Argument(help="The file, zipped or not.")]
Symbol = Annotated[str | None, typer.Option(help="Symbol of all rows, in place of the file's.")]
Date = Annotated[dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day, if the file does not contain it.")]
Source = Annotated[
    str | None,
    typer.Option(
        help="Name of the feed of all rows, in place of the file's; part of the key, except of daily bars. "
        "By default the file's, else the layout's."
    ),
]
TimeZone = Annotated[str | None, typer.Option(help="Time zone of the file's clock; by default the layout's.")]
Strict = Annotated[bool, typer.Option("--strict", help="Load all rows; if a row is bad, load none.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and check the file without loading it.")]
RejectsFile = Annotated[
    Path | None,
    typer.Option(help="File for bad rows, with number and reason; FILE.rejects.csv in this folder by default."),
]
AnyTime = Annotated[
    bool,
    typer.Option(
        "--any-time",
        help="Accept times that look like a wrong unit: before 1980 (daily bars: 1900) and in the future.",
    ),
]


@app.command()
def ticks(
    file: File,
    layout: Annotated[TickFormat, typer.Option("--format", help="Layout of the file.")],
    symbol: Symbol = None,
    date: Date = None,
    source: Source = None,
    time_zone: TimeZone = None,
    quotes: Annotated[Path | None, typer.Option(help="File of quotes to join with the trades (lean-trade).")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="For csv: OURS=THEIRS, such as price=last_px; repeatable.")
    ] = None,
    time_format: Annotated[
        str,
        typer.Option(
            help="For csv: iso, s, ms, us, ns, or a pattern such as %Y%m%d%H%M%S; without a date, give --date."
        ),
    ] = "iso",
    delimiter: Annotated[str, typer.Option(help="For csv: the character between two columns.")] = ",",
    rejects: RejectsFile = None,
    strict: Strict = False,
    dry_run: DryRun = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Load into tick_history, from which retention drops nothing.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Load the file even if it was loaded before.")] = False,
    all_times: AnyTime = False,
) -> None:
    """Load trades. A file loaded before is not loaded again. After an interruption repeat the same command."""
    options = ReadOptions(
        symbol=symbol,
        date=None if date is None else date.date(),
        source=source,
        time_zone=time_zone,
        quotes=quotes,
        columns=_mapping(column or ()),
        time_format=time_format,
        delimiter=delimiter,
        max_ahead=dt.timedelta(seconds=load_settings().tick_max_ahead_seconds),
    )
    with allowing(all_times=all_times), _Rejects(file, rejects, strict=strict) as refused:
        if dry_run:
            _print_dry_run(layout.value, file, options, refused)
        else:
            with progress_of(file.name, notes) as show:
                report = asyncio.run(
                    market.import_tick_file(
                        load_settings(),
                        layout.value,
                        file,
                        options,
                        refuse=refused.refuse,
                        rejected=lambda: refused.count,
                        keep=keep,
                        again=again,
                        progress=show,
                    )
                )
            print_import(report)
            if report.ingest.already_loaded and report.ingest.rejected:
                _end_of_known(file, report.ingest.rejected, strict=strict)
    refused.end()


def _end_of_known(file: Path, rejected: int, *, strict: bool) -> NoReturn:
    """End with the exit code of the first import: its bad rows are still missing."""
    if strict:
        raise InvalidRecord(
            field=file.name,
            reason=f"was loaded before without {rejected:,} bad rows; correct them, or load the file with --again",
        )
    raise typer.Exit(REJECTED)


@app.command(name="daily-bars", hidden=True)  # the name from before there were bars of a minute
@app.command()
def bars(
    file: File,
    layout: Annotated[BarFormat, typer.Option("--format", help="Layout of the file.")],
    symbol: Symbol = None,
    date: Date = None,
    source: Source = None,
    time_zone: TimeZone = None,
    rejects: RejectsFile = None,
    strict: Strict = False,
    dry_run: DryRun = False,
    all_times: AnyTime = False,
) -> None:
    """Insert bars of vendors, of minutes or days, and correct those that have changed."""
    options = ReadOptions(symbol=symbol, date=None if date is None else date.date(), source=source, time_zone=time_zone)
    with allowing(all_times=all_times), _Rejects(file, rejects, strict=strict) as refused:
        if dry_run:
            _print_dry_run(layout.value, file, options, refused)
        else:
            with progress_of(file.name, notes) as show:
                report = asyncio.run(
                    market.import_bars(
                        load_settings(),
                        layout.value,
                        file,
                        options,
                        refuse=refused.refuse,
                        progress=show,
                    )
                )
            console.print(
                f"received {report.received:,}, inserted {report.inserted:,}, updated {report.updated:,}, "
                f"unchanged {report.unchanged:,}"
            )
    refused.end()


def allowing(*, all_times: bool) -> contextlib.AbstractContextManager[None]:
    """Return the context in which a file is read."""
    return any_time() if all_times else contextlib.nullcontext()


def _print_dry_run(layout: str, file: Path, options: ReadOptions, refused: _Rejects) -> None:
    good = market.dry_run(layout, file, options, refused.refuse)
    console.print(f"read {good + refused.count:,}, good {good:,}, rejected {refused.count:,}; nothing was loaded")


def _mapping(columns: Sequence[str]) -> Mapping[str, str]:
    found = {}
    for text in columns:
        ours, equals, theirs = text.partition("=")
        if not equals or not theirs:
            raise ConfigurationError(f"--column {text}: write OURS=THEIRS, such as price=last_px")
        found[ours] = theirs
    return MappingProxyType(found)


class _Rejects:
    """Writes bad rows into a file, which the first bad row creates."""

    def __init__(self, file: Path, target: Path | None, *, strict: bool) -> None:
        self._target = target or Path(f"{file.name}.rejects.csv")
        self._strict = strict
        self._file: IO[str] | None = None
        self._writer: Any = None
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def refuse(self) -> Refuse | None:
        return None if self._strict else self._refuse

    def _refuse(self, error: InvalidRecord, line: bytes) -> None:
        if self._file is None:
            try:
                self._file = self._target.open("w", encoding="utf-8", newline="")
            except OSError as problem:
                raise ConfigurationError(
                    f"{self._target} cannot be written: {problem.strerror}; give --rejects"
                ) from problem
            self._writer = csv.writer(self._file)
            self._writer.writerow(["row", "field", "reason", "line"])
        self._writer.writerow([error.row, error.field, error.reason, line.decode("utf-8", "backslashreplace")])
        self.count += 1

    def end(self) -> None:
        """Print the number of refused rows, and exit with a code of its own."""
        if self.count:
            notes.print(f"note: {self.count:,} bad rows are in {self._target}", soft_wrap=True)
            raise typer.Exit(REJECTED)
