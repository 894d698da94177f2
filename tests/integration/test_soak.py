"""Short runs of the soak scripts; `scripts/soak/` has the long ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.fixtures.fix_cli import ROOT, clean_environment

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

FAULTS = os.environ.get("QTS_TEST_SOAK_FAULTS", "5")


def soak(name: str, *arguments: str) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-m", f"scripts.soak.{name}", *arguments],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_the_book_is_right_after_faults_of_writers_and_connections(database_url: URL) -> None:
    url = database_url.render_as_string(hide_password=False)
    found = soak("book", "--faults", FAULTS, "--seed", "2", "--url", url)
    assert sum(found["faults"].values()) == int(FAULTS)
    assert found["entries"] > 0
    assert found["wrong"] == 0


def test_the_book_is_right_after_faults_of_the_server() -> None:
    found = soak("book", "--faults", FAULTS, "--seed", "16")
    assert {"server crashed", "server stopped"} <= found["faults"].keys()
    assert found["wrong"] == 0
