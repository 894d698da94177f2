"""The built wheel migrates a database in an environment with the wheel alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from qts_data.database.engine import engine
from qts_data.timescale import Edition
from qts_data.timescale.edition import create_extension
from tests.fixtures.effort import FULL
from tests.fixtures.fix_cli import HEAD, ROOT, clean_environment
from tests.fixtures.linked import link_requirements
from tests.fixtures.pages import blocks

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


def run(*arguments: str | Path, cwd: Path, **variables: str) -> str:
    process = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_has_every_migration_and_no_tests(wheel: Path) -> None:
    """The wheel carries its own copy of the migrations."""
    names = zipfile.ZipFile(wheel).namelist()
    for path in (ROOT / "alembic" / "versions").glob("*.py"):
        assert f"qts_data/migrations/versions/{path.name}" in names
    assert "qts_data/migrations/env.py" in names
    assert "qts_data/migrations/script.py.mako" in names
    assert "qts_data/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "alembic/"))]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but the wheel and the distributions that it asks for.

    The short form links the distributions of this environment. The full form lets pip install them: its resolver, not
    ours, then decides which ones the wheel asks for.
    """
    tmp_path = tmp_path_factory.mktemp("environment")
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    pip.append("--no-warn-script-location")
    # pip's own settings of this machine (where its packages come from) are kept.
    kept = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    # pip's warnings about itself are not ours.
    kept["PYTHONWARNINGS"] = "ignore"
    if FULL:
        # Versions are those of the lock. The lock also has packages of the tests, of which pip installs none.
        pins = tmp_path / "constraints.txt"
        lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        pins.write_text("\n".join(line.split(" \\")[0] for line in lines if "==" in line and line[0].isalpha()))
        run(*pip, "--constraint", pins, wheel, cwd=tmp_path, **kept)
    else:
        run(*pip, "--no-deps", "--no-index", wheel, cwd=tmp_path, **kept)
        link_requirements(environment)
    where = run(python, "-c", "import qts_data; print(qts_data.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(environment)
    return environment


def test_the_wheel_alone_migrates_a_database(environment: Path, empty_database: URL, tmp_path: Path) -> None:
    url = empty_database.render_as_string(hide_password=False)
    upgraded = run(environment / "bin" / "qts-data", "db", "upgrade", cwd=tmp_path, QTS_DATABASE_URL=url)
    assert upgraded.strip() == f"database {HEAD}, code {HEAD}"
    assert f"revision  database {HEAD}" in run(
        environment / "bin" / "qts-data", "status", cwd=tmp_path, QTS_DATABASE_URL=url
    )


@pytest.mark.usefixtures("roles")
def test_the_wheel_alone_does_what_the_pages_name(environment: Path, empty_database: URL, tmp_path: Path) -> None:
    """Alembic with the page's alembic.ini, the roles, the check, and README's program: no file of a checkout."""
    (ini,) = blocks("ini")
    (tmp_path / "alembic.ini").write_text(ini.text, encoding="utf-8")
    (program,) = blocks("python", "README.md")
    url = {"QTS_DATABASE_URL": empty_database.render_as_string(hide_password=False)}
    programs = environment / "bin"
    run(programs / "qts-data", "db", "roles", cwd=tmp_path, **url)
    run(programs / "alembic", "upgrade", "head", cwd=tmp_path, **url)
    assert HEAD in run(programs / "alembic", "current", cwd=tmp_path, **url)
    assert "CREATE ROLE qts_owner" in run(programs / "qts-data", "db", "roles", "--sql", cwd=tmp_path, **url)
    run(programs / "qts-data", "db", "check", cwd=tmp_path, **url)
    assert run(programs / "python", "-c", program.text, cwd=tmp_path, **url).split()[1] == "True"


MODELS = """
import sqlalchemy as sa
from qts_data.timescale import hypertable

metadata = sa.MetaData()
readings = sa.Table(
    "readings", metadata,
    sa.Column("time", sa.TIMESTAMP(timezone=True), primary_key=True), sa.Column("value", sa.Float),
)
hypertable(readings, time="time", chunk_interval="1 day", retention="30 days")
"""

# The program does not name qts_data: the plugin comes by its entry point.
ENV = """
import os
import sqlalchemy as sa
from alembic import context
from models import metadata

with sa.create_engine(os.environ["THEIR_URL"]).connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        autogenerate_plugins=["alembic.autogenerate.*", "qts_data.timescale"],
    )
    with context.begin_transaction():
        context.run_migrations()
"""


def test_a_project_that_only_names_the_plugin_gets_it(
    environment: Path, empty_database: URL, edition: Edition, tmp_path: Path
) -> None:
    with engine(empty_database).begin() as connection:
        create_extension(connection)
    (tmp_path / "models.py").write_text(MODELS)
    alembic = environment / "bin" / "alembic"
    run(alembic, "init", "migrations", cwd=tmp_path)
    (tmp_path / "migrations" / "env.py").write_text(ENV)
    # With the name of PostgreSQL's own dialect, as a foreign project writes it.
    url = empty_database.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    for step in (["revision", "--autogenerate", "-m", "first"], ["upgrade", "head"], ["check"], ["downgrade", "base"]):
        run(alembic, *step, cwd=tmp_path, THEIR_URL=url, PYTHONPATH=str(tmp_path))
        if step[0] == "revision":
            (made,) = (tmp_path / "migrations" / "versions").glob("*_first.py")
            text = made.read_text(encoding="utf-8")
            assert "op.create_hypertable('readings', time='time', chunk_interval='1 day')" in text
            assert "op.add_retention_policy('readings', drop_after='30 days')" in text
        if step[0] == "upgrade" and edition is not Edition.POSTGRESQL:
            with engine(empty_database).connect() as connection:
                query = sa.text("SELECT hypertable_name FROM timescaledb_information.hypertables")
                assert connection.scalars(query).all() == ["readings"]


@pytest.mark.parametrize(
    "first",
    [
        "alembic",
        "alembic.operations",
        "qts_data.timescale",
        "qts_data.timescale.operations",
        "qts_data.timescale.autogenerate",
    ],
)
def test_plugin_is_there_once_after_any_order_of_imports(environment: Path, tmp_path: Path, first: str) -> None:
    program = (
        f"import {first}, alembic, qts_data.timescale.autogenerate\n"
        "from alembic import op\n"
        "from alembic.runtime.plugins import Plugin\n"
        "from alembic.util import PriorityDispatcher\n"
        "Plugin.populate_autogenerate_priority_dispatch(PriorityDispatcher(), ['qts_data.timescale'])\n"
        "op.create_hypertable, op.drop_continuous_aggregate\n"
    )
    run(environment / "bin" / "python", "-W", "error", "-c", program, cwd=tmp_path)
