"""Two and three servers, and the words that the tests of rooms use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.clock import FakeClock
from tests.support.network import Network, open_network


@pytest_asyncio.fixture
async def network(clock: FakeClock, tmp_path: Path) -> AsyncIterator[Network]:
    async with open_network(clock, tmp_path) as opened:
        yield opened
