"""Fixtures of every test come from `tests/support/`."""

from hypothesis import settings

# A deadline per example would fail on a busy machine, not on a wrong program.
settings.register_profile("isthmus", deadline=None)
settings.load_profile("isthmus")

pytest_plugins = [
    "tests.support.clock",
    "tests.support.servers",
    "tests.support.database",
    "tests.support.gateway",
    "tests.support.peer",
    "tests.support.chats",
]
