"""Fixtures live in tests/fixtures/fix_*.py. The test modules import nothing from here."""

import os

import pytest
from hypothesis import settings

from tests.fixtures.effort import amount

pytest_plugins = [
    "tests.fixtures.fix_left_out",
    "tests.fixtures.fix_scheduling",
    "tests.fixtures.fix_server",
    "tests.fixtures.fix_redis",
    "tests.fixtures.fix_cli",
    "tests.fixtures.fix_lean",
    "tests.fixtures.fix_proxy",
    "tests.fixtures.fix_sheets",
    "tests.fixtures.fix_times",
]

# A test that asserts on wall time fails on a busy machine.
settings.register_profile("untimed", settings(), deadline=None, max_examples=amount(50, 100))
settings.load_profile("untimed")


# libpq takes these where a URL leaves something open. Tests connect to their own servers only.
for _name in [name for name in os.environ if name.startswith("PG") and name not in {"PGPASSWORD", "PGPASSFILE"}]:
    del os.environ[_name]


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a server or directory that two processes cannot share."""
    if os.environ.get("QTS_TEST_REDIS_URL") and (getattr(config.option, "numprocesses", None) or 0) > 1:
        raise pytest.UsageError("QTS_TEST_REDIS_URL names one database, and each process would empty it: set N=0")
