"""`isthmus demo` as somebody runs it: a command that plays, says so, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.demo.servers.ports import free_port, is_free

ROOT = Path(__file__).resolve().parents[2]
OFFSETS = (8, 22, 47, 48, 49, 50, 69, 80)


class Demo:
    """Runs the command with a temporary folder and a mark of its own."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self.mark = f"demo-{secrets.token_hex(8)}"
        self.first_port = free_first_port()
        self.output = temporary.parent / f"{self.mark}.log"

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "bridge",
                    "demo",
                    "--first-port",
                    str(self.first_port),
                    *arguments,
                ],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(self.temporary), "DEMO_TEST_MARK": self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        return self.output.read_text("utf-8")

    def wait_until_said(self, text: str, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 100
        while text not in self.said():
            assert process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def living(self) -> list[str]:
        """Command lines of processes that carry our mark."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    folder.name.isdigit()
                    and self.mark.encode() in (folder / "environ").read_bytes()
                ):
                    found.append((folder / "cmdline").read_text("utf-8").replace("\0", " "))
        return found

    def assert_nothing_is_left(self) -> None:
        assert self.living() == []
        assert list(self.temporary.iterdir()) == []
        assert all(is_free(self.first_port + offset) for offset in OFFSETS)


def free_first_port() -> int:
    """Such that every port of the demo is free."""
    while True:
        first = free_port()
        if all(is_free(first + offset) for offset in OFFSETS):
            return first


@pytest.fixture
def demo() -> Iterator[Demo]:
    outer = Path(tempfile.mkdtemp(prefix="d-"))
    temporary = outer / "t"
    temporary.mkdir()
    try:
        yield Demo(temporary)
    finally:
        shutil.rmtree(outer)


def test_every_message_arrives_and_nothing_is_left(demo: Demo) -> None:
    process = demo.start("--once")
    code = process.wait(timeout=110)
    said = demo.said()
    print(said)
    assert code == 0, said
    assert "messages have arrived" in said
    assert "First message across after" in said
    assert "Isthmus uses" in said
    demo.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stays_for_guests_until_a_signal_ends_it(demo: Demo, number: signal.Signals) -> None:
    process = demo.start()
    demo.wait_until_said("Come in with a client of your own", process)
    assert "guest@localhost" in demo.said()
    assert demo.living()
    process.send_signal(number)
    assert process.wait(timeout=60) == 0, demo.said()
    demo.assert_nothing_is_left()


def test_ended_while_it_starts_it_leaves_nothing(demo: Demo) -> None:
    process = demo.start("--once")
    demo.wait_until_said("Starting Prosody", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM, demo.said()
    demo.assert_nothing_is_left()


def test_a_taken_port_is_named_with_who_has_it(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", demo.first_port + 22)):
        process = demo.start("--once")
        assert process.wait(timeout=30) == 2
    said = demo.said()
    assert "Prosody for clients" in said
    assert f"port {demo.first_port + 22} is taken by process {os.getpid()}" in said
    assert "--first-port" in said
    demo.assert_nothing_is_left()
