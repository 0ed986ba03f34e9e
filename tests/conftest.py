"""Fixtures of every test come from `tests/support/`."""

import gc
from collections.abc import Iterator

import pytest
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


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    """What a module forgets to close fails that module, not whichever test comes later."""
    yield
    gc.collect()
