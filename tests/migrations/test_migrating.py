"""Mistakes in migrating commands give one sentence with the remedy, and no traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qts_data.database.engine import engine
from qts_data.operations import schema
from qts_data.timescale import DeclarationError
from tests.fixtures.fix_cli import HEAD

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.engine import URL

    Run = Callable[..., subprocess.CompletedProcess[str]]


def text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def one_sentence(run: subprocess.CompletedProcess[str], words: str, *, code: int = 1) -> None:
    assert run.returncode == code, run.stdout + run.stderr
    assert run.stderr.startswith("error: ")
    assert words in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["upgrade", "nosuch"], f"No such revision or branch 'nosuch': the revisions go from base to {HEAD}"),
        (["upgrade", "+99"], f"didn't produce 99 migrations: the revisions go from base to {HEAD}"),
        (["upgrade", "base"], "'base' is nothing to upgrade to"),
        (["upgrade", ""], "'' is nothing to upgrade to"),
        (["upgrade", "--", "-1"], "'-1' is nothing to upgrade to"),
        (["downgrade", "nosuch"], f"No such revision or branch 'nosuch': the revisions go from base to {HEAD}"),
        (["downgrade", "--", "-99"], f"didn't produce 99 migrations: the revisions go from base to {HEAD}"),
        (["downgrade", "+1"], "'+1' is nothing to downgrade to"),
        (["downgrade", "head"], "'head' is nothing to downgrade to"),
        (["downgrade", ""], "'' is nothing to downgrade to"),
    ],
)
def test_a_revision_that_leads_nowhere(qts_data: Run, database_url: URL, arguments: list[str], words: str) -> None:
    one_sentence(qts_data("db", *arguments, QTS_DATABASE_URL=text(database_url)), words)


@pytest.mark.parametrize("arguments", [["db", "current"], ["db", "check"], ["status"], ["db", "upgrade"]])
def test_a_database_with_two_revisions(qts_data: Run, database_url: URL, arguments: list[str]) -> None:
    with engine(database_url).begin() as connection:
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('0003')")
    run = qts_data(*arguments, QTS_DATABASE_URL=text(database_url))
    one_sentence(run, f"has the revisions 0003, {HEAD}", code=2 if arguments[1:] == ["check"] else 1)


def test_a_check_that_a_declaration_ends_could_not_tell(
    qts_data: Run, database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object) -> None:
        raise DeclarationError("it contradicts itself")

    monkeypatch.setattr(schema, "check", ends)
    one_sentence(qts_data("db", "check", QTS_DATABASE_URL=text(database_url)), "it contradicts itself", code=2)


def test_offline_sql_for_an_edition_that_there_is_not(alembic: Run) -> None:
    made = alembic("-x", "edition=bogus", "upgrade", "head", "--sql")
    assert made.returncode != 0
    assert "edition is one of community, apache, postgresql, not 'bogus'" in made.stderr
    assert "Traceback" not in made.stderr
    assert "SET lock_timeout" not in made.stdout


@pytest.mark.parametrize("command", ["up", "down", "demo"])
def test_a_server_that_may_not_be_there_leaves_nothing_beside_it(qts_data: Run, tmp_path: Path, command: str) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "theirs").write_text("x")
    file = place / "theirs"
    for target in (file, place):
        if command == "demo":
            run = qts_data("demo", "--directory", str(target))
        else:
            options = ["--delete"] if command == "down" else []
            run = qts_data("dev", command, *options, QTS_DEV_DIRECTORY=str(target))
        assert run.returncode == 1
        assert "error: " in run.stderr
    assert [path.name for path in place.iterdir()] == ["theirs"]
    assert not list(tmp_path.glob(".*lock"))
