"""A gateway with the Matrix users' server, for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.clock import FakeClock
from tests.support.world import World, open_world


@pytest_asyncio.fixture
async def world(clock: FakeClock, tmp_path: Path, sqlite_template: Path) -> AsyncIterator[World]:
    async with open_world(clock, tmp_path, sqlite_template) as opened:
        yield opened
