"""Fixtures of every test come from `tests/support/`."""

pytest_plugins = [
    "tests.support.clock",
    "tests.support.servers",
    "tests.support.database",
    "tests.support.gateway",
    "tests.support.peer",
]
