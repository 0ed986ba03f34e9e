"""What a gateway costs that has nothing to do, and how long it takes to start."""

from __future__ import annotations

import asyncio
import statistics

import pytest

from tests.bench.measure import cpu_s, load, memory_mb
from tests.support.gateway import Gateway

IDLE_S = 30.0
STARTS = 5


@pytest.mark.bench
@pytest.mark.timeout(300)
async def test_an_idle_gateway(gateway: Gateway) -> None:
    """On SQLite, connected to a real Prosody."""
    first_s = gateway.started_in_s
    starts: list[float] = []
    costs: list[float] = []
    for _ in range(STARTS):
        await gateway.restart()
        starts.append(gateway.started_in_s)
        costs.append(cpu_s(gateway.pid))
    await asyncio.sleep(3.0)
    memory = memory_mb(gateway.pid)
    used_s = cpu_s(gateway.pid)
    await asyncio.sleep(IDLE_S)
    used_s = cpu_s(gateway.pid) - used_s
    later = memory_mb(gateway.pid)
    print(f"\nidle gateway ({load()})")
    print(f"  first start, which makes the database, to ready: {first_s:.2f} s")
    print(f"  start to ready: median {statistics.median(starts):.2f} s, least {min(starts):.2f} s")
    print(f"  CPU until ready: median {statistics.median(costs):.2f} s")
    for name in ("Rss", "Pss"):
        print(f"  {name}: {memory[name]:.1f} MB, after {IDLE_S:.0f} s {later[name]:.1f} MB")
    print(f"  CPU over {IDLE_S:.0f} s: {100 * used_s / IDLE_S:.2f} % of a core")
