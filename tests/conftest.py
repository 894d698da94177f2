"""Fixtures live in tests/fixtures/fix_*.py; the test modules import nothing from here."""

from hypothesis import settings

pytest_plugins = [
    "tests.fixtures.fix_server",
    "tests.fixtures.fix_redis",
    "tests.fixtures.fix_cli",
    "tests.fixtures.fix_proxy",
    "tests.fixtures.fix_sheets",
    "tests.fixtures.fix_times",
]

# A test that asserts on wall time fails on a machine that is busy with something else.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")
