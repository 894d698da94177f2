"""Short runs of the soak scripts. The long ones are in `scripts/soak/`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from scripts.soak.cache import Notes, check
from tests.fixtures.effort import amount
from tests.fixtures.fix_cli import ROOT, clean_environment

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

FAULTS = str(amount(2, 5, "QTS_TEST_SOAK_FAULTS"))


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


@pytest.mark.soak
def test_book_is_right_after_faults_of_its_writers(database_url: URL) -> None:
    """Writers and connections are killed while they book."""
    url = database_url.render_as_string(hide_password=False)
    found = soak("book", "--faults", FAULTS, "--seed", "2", "--url", url)
    assert sum(found["faults"].values()) == int(FAULTS)
    assert found["entries"] > 0
    assert found["wrong"] == 0


@pytest.mark.soak
def test_the_book_is_right_after_faults_of_the_server() -> None:
    found = soak("book", "--faults", FAULTS, "--seed", "38")
    assert {"server crashed", "server stopped"} <= found["faults"].keys()
    assert found["wrong"] == 0


@pytest.mark.soak
def test_a_cached_position_is_true_after_faults_of_every_kind() -> None:
    found = soak("cache", "--faults", FAULTS, "--seed", "11", "--no-latency")
    assert sum(found["faults"].values()) == int(FAULTS)
    assert found["fills"] > 10
    assert found["reads"] > 100
    assert found["wrong"] == 0


def test_checker_of_the_cache_finds_old_and_wrong_values() -> None:
    """The checker of the soak counts a value that is too old, wrong, or followed by an error."""
    ledger = {("S", version): (Decimal(version),) for version in (1, 2, 3)}
    writer = Notes(commits=defaultdict(list, {"S": [(10.0, 1), (11.0, 2), (12.0, 3)]}))

    def wrong(version: int, began: float, seen: int = 1, **own: Any) -> int:
        reader = Notes(reads=[("S", version, began)], positions={("S", 1): (Decimal(seen),)}, **own)
        return len(check({"writer": writer, "reader": reader}, ledger, 250))

    assert wrong(2, 12.25) == 0
    assert wrong(2, 12.253) == 1
    assert wrong(3, 12.253) == 0
    assert wrong(3, 12.253, seen=2) == 1
    assert wrong(0, 10.1, commits=defaultdict(list, {"S": [(10.05, 1)]})) == 1
    assert wrong(1, 10.1, errors=["CacheUnavailable()"]) == 1
