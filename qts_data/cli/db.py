"""`qts-data db`: the schema and the roles."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from qts_data import bootstrap
from qts_data.database import migrations
from qts_data.database.roles import ROLES, role_statements
from qts_data.errors import ConfigurationError, QtsDataError
from qts_data.operations import schema
from qts_data.settings import load_settings
from qts_data.terminal.console import console, fail, print_json
from qts_data.terminal.schema import print_check
from qts_data.timescale import TimescaleError

__all__ = ["app"]

app: typer.Typer = typer.Typer(help="The schema and the roles.", no_args_is_help=True)


@app.command()
def upgrade(
    revision: Annotated[str, typer.Argument(help="Revision to migrate to.")] = "head",
    without_timescaledb: Annotated[
        bool, typer.Option(help="Use plain PostgreSQL, even if the server offers TimescaleDB.")
    ] = False,
) -> None:
    """Migrate the database up. Wait while another process migrates it."""
    settings = load_settings()
    migrations.upgrade(bootstrap.database_url(settings), revision, timescaledb_off=without_timescaledb)
    _print_revision()


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="Revision to go back to, or base.")],
    allow_data_loss: Annotated[
        bool, typer.Option(help="Also drop aggregates with history that their source has lost.")
    ] = False,
) -> None:
    """Migrate the database down. The objects of the later revisions are dropped, with their data."""
    settings = load_settings()
    migrations.downgrade(bootstrap.database_url(settings), revision, allow_data_loss=allow_data_loss)
    _print_revision()


@app.command()
def adopt(
    allow_data_loss: Annotated[
        bool, typer.Option(help="Also add a retention policy that will drop existing rows.")
    ] = False,
) -> None:
    """Use all features of the server: after Apache became Community, or TimescaleDB was installed.

    Tables become hypertables with their rows, views become continuous aggregates, policies are added. Tables are locked
    while their rows move. Bars that were materialized before their interval ended are withdrawn, and computed again.
    """
    done = schema.adopt(load_settings(), allow_data_loss=allow_data_loss)
    for function, name in done:
        console.print(f"{function:28} {name}")
    if not done:
        console.print("nothing to do: the database uses all features of its server")


@app.command()
def current() -> None:
    """Print the database's revision and the code's. Exit code 1 if they differ."""
    if not _print_revision():
        raise typer.Exit(1)


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Compare the live catalog with the code: tables, views, hypertables, aggregates, policies.

    Exit code 0: as declared. 1: it differs. 2: the comparison failed.
    """
    try:
        report = schema.check(load_settings())
    except QtsDataError as error:
        fail(error, code=2)
    except TimescaleError as error:
        fail(ConfigurationError(str(error)), code=2)
    if as_json:
        print_json(
            {
                "clean": report.clean,
                "edition": report.server.edition,
                "revision": {"database": report.revision.database, "code": report.revision.code},
                "differences": [dataclasses.asdict(difference) for difference in report.differences],
                "not_enforced": [
                    {"name": state.name, "feature": state.feature, "reason": state.reason}
                    for state in report.not_enforced
                ],
            }
        )
    else:
        print_check(report)
    if not report.clean:
        raise typer.Exit(1)


def _print_revision() -> bool:
    with bootstrap.connect(load_settings()) as connection:
        revision = migrations.revision_of(connection)
    console.print(f"database {revision.database or 'empty'}, code {revision.code}")
    return revision.current


@app.command()
def roles(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL for an administrator instead.")] = False,
) -> None:
    """Create qts_owner, qts_engine and qts_readonly, and their rights in this database. Harmless to repeat.

    Passwords come from QTS_OWNER_PASSWORD, QTS_ENGINE_PASSWORD and QTS_READONLY_PASSWORD. A role without a password can
    log in only by other means.
    """
    if sql:
        for statement in role_statements():
            typer.echo(f"{statement};\n")
        return
    schema.prepare_roles(load_settings())
    for role, comment in ROLES.items():
        console.print(f"{role:13} {comment}", soft_wrap=True)


@app.command(name="trading-zone")
def trading_zone() -> None:
    """Set the zone of the database's daily figures to QTS_TRADING_TIME_ZONE."""
    settings = load_settings()
    schema.set_trading_zone(settings)
    console.print(f"trading days are days in {settings.trading_time_zone}")
