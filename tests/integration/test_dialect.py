"""`timescaledb+psycopg://` URLs, sync and async, and Alembic behind them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.ext.asyncio import create_async_engine

from qts_data.timescale import Edition, ServerNotSupported, probe, require_supported
from qts_data.timescale import edition as edition_module
from tests.fixtures.fix_cli import clean_environment

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


def test_the_sync_url_keeps_the_name_that_everything_is_keyed_on(database_url: URL) -> None:
    engine = sa.create_engine(database_url.set(drivername="timescaledb+psycopg"), poolclass=sa.NullPool)
    assert (engine.dialect.name, engine.dialect.driver) == ("postgresql", "psycopg")
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
        context = MigrationContext.configure(connection)
        assert isinstance(context.impl, PostgresqlImpl)
        # A dialect of another name would break this in Alembic.
        Operations(context).alter_column("risk_configs", "description", type_=sa.String(100))
        columns = {column["name"]: column for column in sa.inspect(connection).get_columns("risk_configs")}
        assert str(columns["description"]["type"]) == "VARCHAR(100)"


async def test_the_same_url_is_async_too(database_url: URL) -> None:
    engine = create_async_engine(database_url.set(drivername="timescaledb+psycopg"), poolclass=sa.NullPool)
    assert engine.dialect.is_async
    async with engine.connect() as connection:
        assert await connection.scalar(sa.text("SELECT 1")) == 1
    await engine.dispose()


def test_the_url_works_without_importing_the_package(database_url: URL) -> None:
    program = (
        "import sys, sqlalchemy as sa\n"
        "engine = sa.create_engine(sys.argv[1])\n"
        "with engine.connect() as c: print(engine.dialect.name, c.scalar(sa.text('SELECT 1')))\n"
        "engine.dispose()\n"
    )
    url = database_url.set(drivername="timescaledb+psycopg").render_as_string(hide_password=False)
    run = subprocess.run(
        [sys.executable, "-c", program, url],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=clean_environment(),
        cwd="/",
    )
    assert run.stdout.strip() == "postgresql 1", run.stderr


def test_the_probe_reads_the_edition(database_url: URL, edition: Edition) -> None:
    with sa.create_engine(database_url, poolclass=sa.NullPool).connect() as connection:
        server = probe(connection)
    assert server.edition is edition
    assert (server.timescaledb is None) == (edition is Edition.POSTGRESQL)
    require_supported(server)


def test_a_server_that_is_too_old_is_refused(database_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    with sa.create_engine(database_url, poolclass=sa.NullPool).connect() as connection:
        server = probe(connection)
    monkeypatch.setattr(edition_module, "MINIMUM_POSTGRES_MAJOR", server.postgres_major + 1)
    with pytest.raises(ServerNotSupported, match=f"is too old: version {server.postgres_major + 1} or newer is needed"):
        require_supported(server)


@pytest.mark.edition("community", "apache")
def test_an_extension_that_is_too_old_is_refused(database_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    with sa.create_engine(database_url, poolclass=sa.NullPool).connect() as connection:
        server = probe(connection)
    monkeypatch.setattr(edition_module, "MINIMUM_TIMESCALEDB", (99, 0, 0))
    with pytest.raises(ServerNotSupported, match=r"TimescaleDB .* is too old.*ALTER EXTENSION timescaledb UPDATE"):
        require_supported(server)


def test_extension_on_disk_but_not_loaded_is_an_error(empty_database: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which setting loads the extension."""
    found = edition_module.Server(Edition.POSTGRESQL, "17.1", 17, None, available="2.29.2", preloaded=False)
    monkeypatch.setattr(edition_module, "probe", lambda _connection: found)
    with (
        sa.create_engine(empty_database, poolclass=sa.NullPool).connect() as connection,
        pytest.raises(ServerNotSupported, match="set shared_preload_libraries = 'timescaledb' and restart"),
    ):
        edition_module.create_extension(connection)
