"""Encoding and settings of sessions hold against environment, role, database and URL."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from qts_data import Database, TickData
from qts_data.database import migrations
from qts_data.database.engine import engine
from qts_data.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import URL

    from tests.fixtures.fix_cli import RunCommand
    from tests.fixtures.fix_server import ServerUnderTest

AT = dt.datetime(2025, 3, 3, 1, tzinfo=dt.UTC)
NAMES = ["é", "€", "삼성", "A"]
SETTINGS = {"client_encoding": "UTF8", "TimeZone": "UTC", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres"}
OTHER = {"client_encoding": "LATIN1", "TimeZone": "Asia/Seoul", "DateStyle": "German, DMY", "IntervalStyle": "iso_8601"}


async def settings_of(url: URL) -> list[dict[str, Any]]:
    """The settings of a session of each engine."""
    async with Database(url) as database, database.reader() as reader:
        found = [{name: await reader.connection.scalar(sa.text(f"SHOW {name}")) for name in SETTINGS}]
    with engine(url).connect() as connection:
        return [*found, {name: connection.scalar(sa.text(f"SHOW {name}")) for name in SETTINGS}]


async def keep_and_find(url: URL) -> None:
    """Store a tick under each name and read it back."""
    async with Database(url) as database:
        async with database.transaction() as uow:
            await uow.ticks.ingest(
                [TickData(time=AT, symbol=name, price=Decimal(1), volume=Decimal(1)) for name in NAMES]
            )
        async with database.reader() as reader:
            for name in NAMES:
                (tick,) = await reader.ticks.ticks(name, AT, AT + dt.timedelta(hours=1))
                assert tick.symbol == name


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "WIN1252", "EUC_KR", "UHC", "SQL_ASCII", "no such"])
async def test_symbols_come_back_under_pgclientencoding(
    database_url: URL, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    await keep_and_find(database_url)


async def test_settings_hold_against_the_environment(database_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("PGCLIENTENCODING", "PGTZ", "PGDATESTYLE"), OTHER.values(), strict=False):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGOPTIONS", "-c IntervalStyle=iso_8601")
    assert await settings_of(database_url) == [SETTINGS, SETTINGS]


async def test_settings_hold_against_database_and_url(database_url: URL) -> None:
    with engine(database_url).begin() as connection:
        for name, value in OTHER.items():
            connection.exec_driver_sql(f"ALTER DATABASE {database_url.database} SET {name} TO {value!r}")
    assert await settings_of(database_url) == [SETTINGS, SETTINGS]
    await keep_and_find(database_url)
    asked = " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in OTHER.items())
    url = database_url.update_query_dict({"client_encoding": "EUC_KR", "options": asked})
    assert await settings_of(url) == [SETTINGS, SETTINGS]
    await keep_and_find(url)


@pytest.fixture(params=["SQL_ASCII", "LATIN1", "EUC_KR"])
def other_database(server: ServerUnderTest, request: pytest.FixtureRequest) -> Iterator[URL]:
    """A database of another encoding."""
    url = server.create_database(template=f"template0 ENCODING '{request.param}' LOCALE 'C'")
    yield url
    server.drop_database(url)


SENTENCE = "has the encoding (SQL_ASCII|LATIN1|EUC_KR), which does not hold every symbol"


async def test_database_of_another_encoding_is_refused(other_database: URL) -> None:
    async with Database(other_database) as database:
        for _ in range(30):  # a refusal gives its place in the pool back
            with pytest.raises(ConfigurationError, match=SENTENCE):
                async with database.reader():
                    pass
        health = await database.health()
    assert not health.healthy
    assert re.search(SENTENCE, health.detail)


def test_commands_refuse_a_database_of_another_encoding(other_database: URL, qts_data: RunCommand) -> None:
    with pytest.raises(ConfigurationError, match=SENTENCE):
        migrations.upgrade(other_database)
    text = other_database.render_as_string(hide_password=False)
    for command in (["db", "upgrade"], ["db", "check"], ["status"], ["book", "verify"], ["bars", "A"]):
        done = qts_data(*command, QTS_DATABASE_URL=text)
        assert done.returncode in {1, 2}, done.stdout
        assert re.search(SENTENCE, (done.stdout + done.stderr).replace("\n", " ")), command
