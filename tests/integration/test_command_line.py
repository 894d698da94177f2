"""The commands as a user types them: output, exit codes, and one sentence for each mistake."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from qts_data.database import migrations
from qts_data.database.engine import engine, parse_url
from qts_data.timescale import edition as edition_module
from tests.fixtures.fix_cli import HEAD

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.engine import URL

    from qts_data.timescale import Edition

    Run = Callable[..., subprocess.CompletedProcess[str]]
    from tests.fixtures.fix_lean import LeanDay


def text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def one_sentence(run: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert a non-zero exit code and one line with the instruction, without a traceback."""
    assert run.returncode not in {0, 2}, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, run.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_upgrade_status_and_downgrade(qts_data: Run, empty_database: URL, edition: Edition) -> None:
    environment = {"QTS_DATABASE_URL": text(empty_database)}
    before = qts_data("status", **environment)
    assert before.returncode == 1
    assert f"revision  database empty, code {HEAD}" in before.stdout
    assert "run qts-data db upgrade" in before.stderr

    up = qts_data("db", "upgrade", **environment)
    assert (up.returncode, up.stdout.strip()) == (0, f"database {HEAD}, code {HEAD}"), up.stderr

    after = qts_data("status", "--all", **environment)
    assert after.returncode == 0, after.stderr
    assert re.search(rf"^edition   {edition} \(PostgreSQL \d+", after.stdout, re.MULTILINE)
    assert f"revision  database {HEAD}, code {HEAD}" in after.stdout
    assert "zone      Asia/Seoul" in after.stdout
    states = re.findall(r"\b(active|degraded|missing)\b", after.stdout)
    assert (
        set(states)
        == {
            "community": {"active"},
            "apache": {"active", "degraded"},
            "postgresql": {"degraded"},
        }[edition]
    )

    adopted = qts_data("db", "adopt", **environment)
    assert (adopted.returncode, adopted.stdout.strip()) == (
        0, "nothing to do: the database uses all features of its server",
    ), adopted.stderr  # fmt: skip

    down = qts_data("db", "downgrade", "0002", **environment)
    assert (down.returncode, down.stdout.strip()) == (0, f"database 0002, code {HEAD}"), down.stderr
    assert qts_data("db", "current", **environment).returncode == 1


def test_other_trading_zone_is_named_and_set(qts_data: Run, database_url: URL) -> None:
    environment = {"QTS_DATABASE_URL": text(database_url), "QTS_TRADING_TIME_ZONE": "America/New_York"}
    assert "run qts-data db trading-zone" in qts_data("status", **environment).stderr
    assert qts_data("db", "trading-zone", **environment).returncode == 0
    assert "zone      America/New_York" in qts_data("status", **environment).stdout


def test_import_and_bars(qts_data: Run, database_url: URL, lean_day: LeanDay) -> None:
    environment = {"QTS_DATABASE_URL": text(database_url)}
    count = f"{lean_day.facts.ibm_trades:,}"
    arguments = [
        "import",
        "ticks",
        str(lean_day.ibm_trades),
        "--format",
        "lean-trade",
        "--symbol",
        "IBM",
        "--date",
        "2013-10-07",
    ]
    first = qts_data(*arguments, **environment)
    assert (first.returncode, first.stdout.strip()) == (0, f"received {count}, inserted {count}, duplicate 0"), (
        first.stderr
    )
    second = qts_data(*arguments, **environment)
    assert second.stdout.strip() == f"received {count}, inserted 0, duplicate {count}"
    bars = qts_data(
        "bars", "IBM", "--interval", "1h", "--date", "2013-10-07",
        **environment, QTS_TRADING_TIME_ZONE="America/New_York",
    )  # fmt: skip
    assert bars.returncode == 0, bars.stderr
    assert re.search(r"^09:00\s", bars.stdout, re.MULTILINE)
    assert qts_data("bars", "NONE", "--date", "2013-10-07", **environment).returncode == 1


@pytest.mark.edition("community")
def test_import_names_ticks_that_retention_will_drop(qts_data: Run, database_url: URL, lean_day: LeanDay) -> None:
    count = f"{lean_day.facts.ibm_trades:,}"
    arguments = [
        "import",
        "ticks",
        str(lean_day.ibm_trades),
        "--format",
        "lean-trade",
        "--symbol",
        "IBM",
        "--date",
        "2013-10-07",
    ]
    run = qts_data(*arguments, QTS_DATABASE_URL=text(database_url))
    assert "note: retention drops ticks before" in run.stderr
    assert f"{count} of these are older; --keep loads them into tick_history" in run.stderr
    kept = qts_data(*arguments, "--keep", QTS_DATABASE_URL=text(database_url))
    assert kept.stdout.strip() == f"received {count}, inserted {count}, duplicate 0"
    assert "retention" not in kept.stderr


def test_a_bad_row_names_itself_and_loads_nothing(
    qts_data: Run, database_url: URL, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("data") / "ticks.csv"
    file.write_text("34200000,1000000,100,P,0,0\n34200001,abc,100,P,0,0\n", encoding="utf-8")
    run = qts_data(
        "import", "ticks", str(file), "--format", "lean-trade", "--symbol", "SPY", "--date", "2013-10-07", "--strict",
        QTS_DATABASE_URL=text(database_url),
    )  # fmt: skip
    one_sentence(run, "row 2", "price", "abc")
    with engine(database_url).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM tick_data")) == 0


def test_a_server_that_does_not_answer(qts_data: Run, alembic: Run) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, not listening: refused
        url = f"postgresql://qts:secret@127.0.0.1:{reserved.getsockname()[1]}/qts"
        run = qts_data("status", QTS_DATABASE_URL=url)
        one_sentence(run, "no PostgreSQL server answers", "check host and port")
        assert "secret" not in run.stderr
        raw = alembic("upgrade", "head", QTS_DATABASE_URL=url)
    assert raw.returncode != 0
    assert "no PostgreSQL server answers" in raw.stderr
    assert "Traceback" not in raw.stderr


def test_a_server_that_accepts_and_stays_silent(qts_data: Run) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        run = qts_data(
            "status",
            QTS_DATABASE_URL=f"postgresql://127.0.0.1:{silent.getsockname()[1]}/qts",
            QTS_CONNECT_TIMEOUT_SECONDS="2",
        )
    one_sentence(run, "no PostgreSQL server answers")


@pytest.fixture
def login(empty_database: URL) -> Iterator[URL]:
    """A role of its own, without rights."""
    name = str(empty_database.database)
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD 'right'")
    yield empty_database.set(username=name, password="right")
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {name}")
        connection.exec_driver_sql(f"DROP ROLE {name}")


def test_a_login_or_database_that_the_server_refuses(qts_data: Run, empty_database: URL) -> None:
    stranger = empty_database.set(username="qts_nobody", password="wrong")
    one_sentence(qts_data("status", QTS_DATABASE_URL=text(stranger)), "the server refused the connection", "qts_nobody")
    nowhere = empty_database.set(database="qts_nowhere")
    one_sentence(
        qts_data("status", QTS_DATABASE_URL=text(nowhere)), "the server refused the connection", '"qts_nowhere"'
    )


def test_a_database_of_a_newer_revision(qts_data: Run, alembic: Run, database_url: URL) -> None:
    with engine(database_url).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    run = qts_data("db", "upgrade", QTS_DATABASE_URL=text(database_url))
    one_sentence(run, "revision 9999", "a newer version has migrated it", "deploy that version")
    raw = alembic("upgrade", "head", QTS_DATABASE_URL=text(database_url))
    assert raw.returncode != 0
    assert "revision 9999" in raw.stderr
    assert "Traceback" not in raw.stderr
    status = qts_data("status", QTS_DATABASE_URL=text(database_url))
    assert status.returncode == 1
    assert "deploy that version" in status.stderr


@pytest.mark.edition("community", "apache")
def test_an_extension_that_this_role_may_not_create(qts_data: Run, login: URL, empty_database: URL) -> None:
    with engine(empty_database).begin() as connection:
        connection.exec_driver_sql(f"GRANT CREATE ON SCHEMA public TO {login.username}")
    run = qts_data("db", "upgrade", QTS_DATABASE_URL=text(login))
    one_sentence(run, "is available but not installed", "ask an administrator to run CREATE EXTENSION timescaledb")
    # With an explicit option it stays plain PostgreSQL.
    plain = qts_data("db", "upgrade", "--without-timescaledb", QTS_DATABASE_URL=text(login))
    assert plain.returncode == 0, plain.stderr
    status = qts_data("status", QTS_DATABASE_URL=text(login))
    assert "edition   postgresql" in status.stdout
    assert "is on the server, but not installed in this database" in status.stderr


@pytest.mark.parametrize("arguments", [["status"], ["db", "upgrade"], ["bars", "SPY"]])
def test_a_server_that_is_too_old(
    qts_data: Run, database_url: URL, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(edition_module, "MINIMUM_POSTGRES_MAJOR", 99)
    run = qts_data(*arguments, QTS_DATABASE_URL=text(database_url))
    one_sentence(run, "is too old: version 99 or newer is needed; upgrade the server")


def test_a_database_that_is_behind_the_code_takes_no_ticks(qts_data: Run, empty_database: URL) -> None:
    environment = {"QTS_DATABASE_URL": text(empty_database)}
    one_sentence(qts_data("bars", "SPY", **environment), "database is empty", "run qts-data db upgrade")
    qts_data("db", "upgrade", "0004", **environment)
    one_sentence(
        qts_data("bars", "SPY", **environment), f"at revision 0004, the code needs {HEAD}", "run qts-data db upgrade"
    )


def test_the_development_server_goes_up_and_down(qts_data: Run, tmp_path: Path) -> None:
    environment = {"QTS_DEV_DIRECTORY": str(tmp_path / "dev")}
    assert qts_data("dev", "url", **environment).returncode == 1
    up = qts_data("dev", "up", **environment)
    assert up.returncode == 0, up.stderr
    url = up.stdout.strip()
    try:
        assert qts_data("dev", "url", **environment).stdout.strip() == url
        assert qts_data("dev", "up", **environment).stdout.strip() == url
        # Without QTS_DATABASE_URL, the commands work on it.
        assert qts_data("db", "upgrade", **environment).returncode == 0
        with engine(parse_url(url)).connect() as connection:
            assert migrations.revision_of(connection).current
        assert qts_data("dev", "down", **environment).stdout.strip() == "stopped"
        assert qts_data("dev", "url", **environment).returncode == 1
    finally:
        down = qts_data("dev", "down", "--delete", **environment)
    assert down.stdout.strip() == "not running, data removed"
    assert not (tmp_path / "dev").exists()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"QTS_DATABASE_URL": "mysql://secret@x/y"}, ["mysql", "only PostgreSQL"]),
        ({"QTS_DATABASE_URL": "secret"}, ["the database URL cannot be read"]),
        ({"QTS_DATABASE_URL": "postgresql://u:secret@h:port/d"}, ["the database URL cannot be read"]),
        ({"QTS_TRADING_TIME_ZONE": "Asia/Soul"}, ["QTS_TRADING_TIME_ZONE", "'Asia/Soul' is not a time zone"]),
        ({"QTS_CONNECT_TIMEOUT_SECONDS": "soon"}, ["QTS_CONNECT_TIMEOUT_SECONDS"]),
        ({}, ["set QTS_DATABASE_URL=", "qts-data dev up"]),
    ],
)
def test_a_wrong_setting(qts_data: Run, variables: dict[str, str], words: list[str]) -> None:
    run = qts_data("status", **variables)
    one_sentence(run, *words)
    assert "secret" not in run.stderr


def test_migration_that_waits_too_long_gives_up_with_a_reason(qts_data: Run, empty_database: URL) -> None:
    """Another process holds the lock of migrations for longer than this one may wait."""
    with engine(empty_database).connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({migrations.MIGRATION_LOCK_KEY})")
        run = qts_data("db", "upgrade", QTS_DATABASE_URL=text(empty_database), QTS_MIGRATION_WAIT_SECONDS="1")
    one_sentence(run, "another process has been migrating this database for 1 seconds")


def test_help_lists_the_commands(qts_data: Run) -> None:
    run = qts_data("--help")
    assert run.returncode == 0
    for name in ("status", "bars", "demo", "db", "dev", "import"):
        assert re.search(rf"\b{name}\b", run.stdout), name


def test_the_demo_goes_from_nothing_to_bars(qts_data: Run, tmp_path: Path) -> None:
    run = qts_data("demo", "--no-keep", "--directory", str(tmp_path / "demo server"))
    assert run.returncode == 0, run.stderr
    assert f"revision {HEAD}" in run.stdout
    assert "005930, one-hour bars" in run.stdout
    assert "edition   postgresql" in run.stdout
    assert re.search(r"received ([\d,]+), inserted \1, duplicate 0", run.stdout)
