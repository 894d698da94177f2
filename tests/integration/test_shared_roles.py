"""Test runs share the roles of a server, and leave it as they found it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from qts_data.database.engine import engine, parse_url
from qts_data.database.roles import ROLES, role_statements
from qts_data.embedded import EmbeddedServer
from qts_data.timescale.ddl import verbatim
from tests.fixtures.shared_roles import roles_in_use

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import URL


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[URL]:
    """A superuser's URL of a server without the roles."""
    server = EmbeddedServer(tmp_path / "data", settings={"fsync": "off"})
    try:
        yield parse_url(server.start().url("postgres"))
    finally:
        server.delete()


def execute(url: URL, *statements: str) -> None:
    with engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.execute(verbatim(statement))


def roles_of(url: URL) -> set[str]:
    with engine(url).connect() as connection:
        return set(ROLES) & set(connection.scalars(sa.text("SELECT rolname FROM pg_catalog.pg_roles")))


def test_the_last_run_drops_the_roles_that_a_run_made(own_server: URL) -> None:
    execute(own_server, "CREATE ROLE qts_readonly", "CREATE DATABASE used", "CREATE DATABASE scratch")

    def make() -> None:
        execute(own_server.set(database="scratch"), *role_statements())

    with roles_in_use(own_server, make):
        with roles_in_use(own_server, make):
            assert roles_of(own_server) == set(ROLES)
        assert roles_of(own_server) == set(ROLES)
        execute(own_server, "DROP DATABASE scratch")
        execute(own_server.set(database="used"), "CREATE SCHEMA theirs AUTHORIZATION qts_owner")
    assert roles_of(own_server) == {"qts_readonly", "qts_owner"}, "one was there before, a database uses the other"
    execute(own_server, "DROP DATABASE used", "CREATE DATABASE scratch")
    with roles_in_use(own_server, make):
        execute(own_server, "DROP DATABASE scratch")
    assert roles_of(own_server) == {"qts_readonly"}
