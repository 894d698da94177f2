"""`qts-data dev`: a PostgreSQL server of this project's own, from a wheel."""

from __future__ import annotations

from typing import Annotated

import typer

from qts_data import bootstrap
from qts_data.settings import load_settings
from qts_data.terminal.console import console, notes

__all__ = ["app"]

DATABASE = "qts"

app: typer.Typer = typer.Typer(
    help="The development server: PostgreSQL from a wheel, in this project.", no_args_is_help=True
)


@app.command()
def up() -> None:
    """Start the server unless it runs already, and print its URL."""
    server = bootstrap.dev_server(load_settings())
    running = server.start()
    server.ensure_database(DATABASE)
    notes.print(f"PostgreSQL runs, pid {running.pid}, data in {running.data_directory}", soft_wrap=True)
    typer.echo(running.url(DATABASE))


@app.command()
def down(
    delete: Annotated[bool, typer.Option("--delete", help="Also delete its data.")] = False,
) -> None:
    """Stop the server."""
    server = bootstrap.dev_server(load_settings())
    stopped = server.stop()
    if delete:
        server.delete()
    console.print(("stopped" if stopped else "not running") + (", data removed" if delete else ""))


@app.command()
def url() -> None:
    """Print the URL of the running server. Exit code 1 if it does not run."""
    running = bootstrap.dev_server(load_settings()).info()
    if running is None:
        notes.print("not running; start it with qts-data dev up")
        raise typer.Exit(1)
    typer.echo(running.url(DATABASE))
