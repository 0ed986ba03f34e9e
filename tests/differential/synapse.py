"""Synapse's own code in a process of its own, asked about one graph after the other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridge.demo.servers.synapse import find_synapse_python

ORACLE = Path(__file__).with_name("oracle.py")
EXIT_S = 20


class Synapse:
    """One line each way per graph, in order; the answer may be read later than the next is grown.

    Never more than one unread answer: the pipes hold only so much.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, graph: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(graph) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "Synapse's code has ended; what it said stands in this test's output"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def running_synapse() -> Iterator[Synapse]:
    """Until the end of the block. What it writes to standard error is the test's."""
    process = subprocess.Popen(
        [find_synapse_python(), "-I", ORACLE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:  # closes the pipes, at which it ends, and waits
        try:
            yield Synapse(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(EXIT_S)
            finally:
                process.kill()
