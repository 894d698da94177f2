"""The root command and its groups."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from pathlib import Path
from typing import Annotated

import typer

from qts_data.cli import book, config, db, dev, gaps, importing, importing_csv, migrate, show
from qts_data.contracts import allow_any_time
from qts_data.demo.bars import run_demo
from qts_data.errors import ConfigurationError
from qts_data.operations.status import read_status
from qts_data.settings import load_settings
from qts_data.terminal.console import console
from qts_data.terminal.schema import print_status

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    name="qts-data",
    help="The data layer of a quantitative trading system. The database is QTS_DATABASE_URL, or else the running "
    "development server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Help texts contain [columns] and [defaults], which markup would leave out.
    rich_markup_mode=None,
)
app.add_typer(book.app, name="book")
app.add_typer(db.app, name="db")
app.add_typer(dev.app, name="dev")
importing.app.command(name="csv")(importing_csv.csv)
app.add_typer(importing.app, name="import")
app.add_typer(migrate.app, name="migrate")
app.add_typer(gaps.app, name="gaps")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qts-data {importlib.metadata.version('qts-data')}")
        raise typer.Exit


@app.callback()
def _configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show each step of a migration.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    # A command that needs the settings reports wrong ones itself.
    with contextlib.suppress(ConfigurationError):
        allow_any_time(load_settings().allow_implausible_times)


@app.command()
def status(
    every: Annotated[
        bool, typer.Option("--all", help="List what this edition replaces or leaves out, feature by feature.")
    ] = False,
) -> None:
    """Print edition, revision, and active and degraded features. Exit code 1 if the schema is not up to date."""
    settings = load_settings()
    found = read_status(settings)
    print_status(found, settings.trading_time_zone, every=every)
    if not found.revision.current:
        raise typer.Exit(1)


app.command(name="bars")(show.bars)
app.command(name="config")(config.config)


@app.command()
def demo(
    directory: Annotated[
        Path | None, typer.Option(help="Data directory of the demo's server; .qts/demo of this folder by default.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Leave the server running at the end.")] = True,
) -> None:
    """Start a server, migrate, load a day of ticks, print the bars."""
    run_demo(directory or Path(".qts") / "demo", keep=keep)
    console.print()
