"""`isthmus admin` beside a running gateway."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.gateway import Gateway

PATIENCE_S = 30


async def admin(gateway: Gateway, line: str) -> tuple[int, str]:
    """Exit code, and what it printed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", "admin", "--config", str(gateway.config)),
        *line.split(),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE_S):
        printed, _ = await child.communicate()
    return child.returncode or 0, printed.decode()
