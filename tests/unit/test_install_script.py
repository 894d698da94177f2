"""`make install`: each failure is one sentence that names its cause."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from scripts.install import cause, create, find_project_by_relative_path, works
from tests.fixtures.fix_cli import ROOT

# As pip 23 to 26 print them.
REFUSED = (
    "WARNING: Retrying (Retry(total=0, connect=None, read=None)) after connection broken by 'NewConnectionError("
    "'<HTTPConnection>: Failed to establish a new connection: [Errno 111] Connection refused')': /simple/alembic/\n"
)
ABSENT = "ERROR: No matching distribution found for alembic==1.20.1\n"
FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
CHANGED = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n"


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (REFUSED + ABSENT, "pip cannot reach the package index"),
        (ABSENT, "pip finds no alembic==1.20.1 for Python 3"),
        (FULL, "the disk is full"),
        (REFUSED + FULL, "the disk is full"),
        (CHANGED, "pip did not install it"),
        ("ERROR: Could not install packages: [Errno 13] Permission denied: '/x'\n", "this user may not write into"),
        ("noise\nERROR: something new\nmore\n", "something new"),
        ("only noise\n", "only noise"),
        ("", "no output"),
    ],
)
def test_an_output_of_pip_becomes_one_sentence(tmp_path: Path, output: str, sentence: str) -> None:
    found = cause(output, tmp_path)
    assert sentence in found
    assert "\n" not in found


def test_complete_environment_is_kept(tmp_path: Path) -> None:
    assert not works(tmp_path / "none")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "half"], check=True)
    assert not works(tmp_path / "half")


def test_a_python_without_venv_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ensurepip" else object())
    with pytest.raises(SystemExit, match=r"apt install python3\.\d+-venv"):
        create(tmp_path / "venv")
    assert not (tmp_path / "venv").exists()


def test_a_disk_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.install.NEEDED_MB", 10**12)
    with pytest.raises(SystemExit, match=r"has \d+ MB left; the packages need about"):
        create(tmp_path / "venv")
    assert not (tmp_path / "venv").exists()


def test_an_index_out_of_reach_is_one_sentence(tmp_path: Path) -> None:
    """Run the whole script, with pip's index at a local port without a server."""
    (tmp_path / "requirements.lock").write_text(
        "absent-package==1.0 \\\n    --hash=sha256:" + 64 * "0", encoding="utf-8"
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    # The pip of this environment, since making another one takes seconds.
    [packages] = (tmp_path / "venv" / "lib").glob("python3.*/site-packages")
    (packages / "pip.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    variables = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "install.py", "venv"],
        check=False,
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        env=os.environ | variables,
    )
    assert run.returncode == 1
    assert run.stdout.splitlines()[-1].startswith("installing 1 pinned packages into venv")
    [sentence] = run.stderr.splitlines()
    assert sentence.startswith("make install: pip cannot reach the package index")
    assert (tmp_path / "venv" / "install.log").is_file()


def test_a_folder_with_a_foreign_name_is_found_in_any_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python reads the file with the project's path before it switches to UTF-8."""
    project = tmp_path / "빈 칸"
    environment = project / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    [packages] = (environment / "lib").glob("python3.*/site-packages")
    (packages / "_qts_data.pth").write_text(str(project), encoding="utf-8")
    (project / "here.py").write_text("print('found')", encoding="utf-8")
    monkeypatch.chdir(project)
    find_project_by_relative_path(Path("venv"))
    run = subprocess.run(
        [environment / "bin" / "python", "-c", "import here"],
        check=False,
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        env={"LC_ALL": "POSIX", "PATH": ""},
    )
    assert (run.returncode, run.stdout) == (0, "found\n"), run.stderr
