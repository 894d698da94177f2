"""The built wheel migrates a database where nothing but the wheel is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.fix_cli import ROOT, clean_environment

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
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_contains_each_migration_and_nothing_of_the_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for path in (ROOT / "alembic" / "versions").glob("*.py"):
        assert f"qts_data/migrations/versions/{path.name}" in names
    assert "qts_data/migrations/env.py" in names
    assert "qts_data/migrations/script.py.mako" in names
    assert "qts_data/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "alembic/"))]


def test_the_wheel_alone_migrates_a_database(wheel: Path, empty_database: URL, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-warn-script-location",
        "--no-compile",
    ]
    # Pinned as everything else; the lock also has what only tests need, and pip takes what the wheel asks for.
    pins = tmp_path / "constraints.txt"
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins.write_text("\n".join(line.split(" \\")[0] for line in lines if "==" in line and line[0].isalpha()))
    # pip's own settings of this machine (where its packages come from) are kept.
    kept = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    # pip warns of itself; those are not our warnings.
    kept["PYTHONWARNINGS"] = "ignore"
    run(*pip, "--constraint", pins, wheel, cwd=tmp_path, **kept)
    url = empty_database.render_as_string(hide_password=False)
    where = run(python, "-c", "import qts_data; print(qts_data.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(environment)
    upgraded = run(environment / "bin" / "qts-data", "db", "upgrade", cwd=tmp_path, QTS_DATABASE_URL=url)
    assert upgraded.strip() == "database 0010, code 0010"
    assert "revision  database 0010" in run(
        environment / "bin" / "qts-data", "status", cwd=tmp_path, QTS_DATABASE_URL=url
    )
