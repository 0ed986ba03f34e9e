"""What the kernel says about a process, and rates with the CPU that they cost.

Absolute numbers belong to a machine and its load; every benchmark therefore runs something well
known beside ours, in the same run and turn by turn, and prints the ratio.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_S = 0.005


def cpu_s(pid: int) -> float:
    """CPU that a process has used, its threads included, in user and system mode."""
    text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mb(pid: int) -> dict[str, float]:
    """`Rss` and `Pss` (shared pages divided by those who share them)."""
    found: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            found[name] = int(rest.split()[0]) / 1024
    return found


def load() -> str:
    """How busy the machine is: its runnable processes on average over one minute, and its cores."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`count` of something in `wall_s`, costing one process `cpu_s`."""

    count: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.count / self.wall_s

    @property
    def cpu_ms(self) -> float:
        """For one."""
        return 1000 * self.cpu_s / self.count


async def measure(pid: int, count: int, run: Callable[[], Awaitable[None]]) -> Rate:
    """`run` does `count` of them and returns when all are done."""
    used, begin = cpu_s(pid), time.perf_counter()
    await run()
    return Rate(count=count, wall_s=time.perf_counter() - begin, cpu_s=cpu_s(pid) - used)


def middle(rates: Sequence[Rate]) -> tuple[float, float]:
    """The medians of rate and CPU milliseconds."""
    return statistics.median(r.per_s for r in rates), statistics.median(r.cpu_ms for r in rates)


async def until(is_so: Callable[[], bool], *, what: str, timeout_s: float = 120.0) -> None:
    """Looks every few milliseconds; `TimeoutError` names what did not come."""
    deadline = time.perf_counter() + timeout_s
    while not is_so():
        if time.perf_counter() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(_LOOK_S)
