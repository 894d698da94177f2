"""A run counts the tests that it leaves out, in one process and in several."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.fix_cli import ROOT, clean_environment

if TYPE_CHECKING:
    from pathlib import Path

CONFTEST = """
from tests.fixtures.fix_left_out import leave_out, left_out_summary

pytest_plugins = ["tests.fixtures.fix_left_out"]

def pytest_collection_modifyitems(items):
    for item in items:
        if "sponge" in item.name:
            leave_out(item, "a sponge", remedy="buy one")
        elif "moon" in item.name:
            leave_out(item, "the moon", required=False)

def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.write_line("left out: " + left_out_summary(config))
"""
TESTS = """
import pytest

def test_sponge(): assert False

@pytest.mark.xdist_group("names")
@pytest.mark.parametrize("phase", [1, 2])
def test_moon(phase): assert False

def test_rest(): pass
"""


def run(folder: Path, processes: str, ci: str, tests: str = TESTS) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(tests)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", processes, "--dist", "loadgroup", "-p", "no:cacheprovider", "."],
        cwd=folder,
        env=clean_environment(PYTHONPATH=str(ROOT), CI=ci, PYTHONWARNINGS=""),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("processes", ["0", "2"])
def test_left_out_tests_are_counted_and_fail_only_in_ci(tmp_path: Path, processes: str) -> None:
    for ci in ("", "true"):
        done = run(tmp_path, processes, ci)
        assert "left out: 1 need a sponge, 2 need the moon" in done.stdout, done.stdout + done.stderr
        assert "left out for want of a sponge: buy one" in done.stdout
        assert "1 passed" in done.stdout
        assert done.returncode == (pytest.ExitCode.TESTS_FAILED if ci else pytest.ExitCode.OK)
        assert ("1 tests that were left out fail the run" in done.stdout) == bool(ci)


def test_another_edition_alone_does_not_fail_ci(tmp_path: Path) -> None:
    done = run(tmp_path, "0", "true", TESTS.replace("def test_sponge(): assert False", ""))
    assert done.returncode == pytest.ExitCode.OK, done.stdout
