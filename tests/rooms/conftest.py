"""A network of servers for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.clock import FakeClock
from tests.support.network import Network, open_network


@pytest_asyncio.fixture
async def network(
    clock: FakeClock, tmp_path: Path, sqlite_template: Path
) -> AsyncIterator[Network]:
    async with open_network(clock, tmp_path, sqlite_template) as opened:
        yield opened
