"""Ours and another's cost for the same thing, turn by turn in one run, and a table of the ratios.

CPU seconds of one process, never wall time: the machine has other work.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.demo.servers.synapse import find_synapse_python
from bridge.engine.pdu import Pdu

PROGRAM = Path(__file__).with_name("synapse_engine.py")
ROUNDS = 7


class SynapseEngine:
    """A process of Synapse's Python that measures its own functions when asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, measure: str, **more: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"measure": measure, **more}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "Synapse's side has failed"
        found: dict[str, Any] = json.loads(line)
        return found

    def load(self, version_id: str, events: list[Pdu]) -> None:
        self.ask("load", version=version_id, events=[pdu.wire() for pdu in events])


@contextmanager
def synapse_engine() -> Iterator[SynapseEngine]:
    with subprocess.Popen(
        [find_synapse_python(), "-I", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield SynapseEngine(process)


def cpu_of(function: Callable[[], object], times: int) -> float:
    """CPU seconds for one."""
    begin = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - begin) / times


def medians(*measures: Callable[[], float], rounds: int = ROUNDS) -> list[float]:
    """Each measured once a round, so that all see the same weather."""
    found = [[measure() for measure in measures] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*found, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table in docs/performance.md."""

    part: str
    ours_ms: float
    beside: str
    beside_ms: float
    aim: str
    is_met: bool

    def __str__(self) -> str:
        ratio = self.ours_ms / self.beside_ms if self.beside_ms else float("nan")
        return (
            f"| {self.part} | {self.ours_ms:.3g} ms | {self.beside} {self.beside_ms:.3g} ms"
            f" | {ratio:.2f} | {self.aim} | {'yes' if self.is_met else 'no'} |"
        )


def at_least_quicker(
    part: str, times: float, ours_s: float, theirs_s: float, beside: str = "Synapse"
) -> Line:
    return Line(
        part=part,
        ours_ms=1000 * ours_s,
        beside=beside,
        beside_ms=1000 * theirs_s,
        aim=f"at most {1 / times:.2f}",
        is_met=ours_s * times <= theirs_s,
    )


def at_most(part: str, ratio: float, ours_s: float, beside: str, beside_s: float) -> Line:
    return Line(
        part=part,
        ours_ms=1000 * ours_s,
        beside=beside,
        beside_ms=1000 * beside_s,
        aim=f"at most {ratio:g}",
        is_met=ours_s <= ratio * beside_s,
    )
