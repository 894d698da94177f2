"""Fixtures live in tests/fixtures/fix_*.py; the test modules import nothing from here."""

pytest_plugins = [
    "tests.fixtures.fix_server",
    "tests.fixtures.fix_redis",
    "tests.fixtures.fix_cli",
    "tests.fixtures.fix_proxy",
    "tests.fixtures.fix_sheets",
]
