"""Child processes that end with us: started in a session of their own, output in a file.

A child is ended by its process ID: the polite signal, a bounded wait, then SIGKILL. Its exit is
first seen without reaping it, so that what it left in its process group can be ended while the
number still belongs to it. If we die first, the kernel kills it (PR_SET_PDEATHSIG).

`Popen` and polling, not asyncio's subprocesses: a server may outlive the event loop of one test.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bridge.errors import IsthmusError, Misconfigured

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.02
_TAIL_BYTES = 64 * 1024
_KILLED_WAIT_S = 10.0
_SOCKET_PATH_BYTES = 107
_LONGEST_SOCKET_NAME = 40
_LIBC = ctypes.CDLL(None, use_errno=True)
_living: dict[int, str] = {}


class ServerFailed(IsthmusError):
    """A server did not start, or a tool of it failed; the text carries the end of its output."""


def living_children() -> dict[int, str]:
    """Process ID -> name of every child that was started here and not yet ended."""
    return dict(_living)


def _die_with(parent: int) -> Callable[[], None]:
    def before_exec() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


def make_folder(prefix: str) -> Path:
    """A new folder under the system's temporary folder, short enough for sockets inside it."""
    folder = Path(tempfile.mkdtemp(prefix=f"isth-{prefix}-"))
    if len(os.fsencode(folder)) + _LONGEST_SOCKET_NAME > _SOCKET_PATH_BYTES:
        folder.rmdir()
        raise Misconfigured("TMPDIR", f"{folder.parent} is too long a path for Unix sockets")
    return folder


def read_tail(path: Path, lines: int = 40) -> str:
    """The last lines of a log file, empty if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


class Child:
    """One child process. `user` is whom it runs as, None for the caller."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        name: str,
        folder: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = [str(part) for part in argv]
        self._folder = folder
        self._environment = environment
        self._user = user
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed(f"{self.name} is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and not self._has_exited()

    def spawn(self) -> None:
        """Start it; returns at once. Must be called from the main thread.

        (The kernel's parent-death signal follows the thread that forked.)
        """
        if self._process is not None:
            raise ServerFailed(f"{self.name} is running already")
        groups: list[int] | None = None
        group: int | None = None
        if self._user is not None:
            group, groups = pwd.getpwnam(self._user).pw_gid, []
        with self.log.open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self._folder,
                    env=None if self._environment is None else dict(self._environment),
                    user=self._user,
                    group=group,
                    extra_groups=groups,
                    start_new_session=True,
                    preexec_fn=_die_with(os.getpid()),
                )
            except OSError as exc:
                raise ServerFailed(f"{self.name}: cannot run {self._argv[0]}: {exc}") from exc
        _living[self._process.pid] = self.name

    def _has_exited(self) -> bool:
        """Without reaping. True as well when it has been reaped."""
        assert self._process is not None
        if self._process.returncode is not None:
            return True
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, options) is not None

    def _reap(self) -> int:
        assert self._process is not None
        pid = self._process.pid
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        code = self._process.wait(timeout=_KILLED_WAIT_S)
        _living.pop(pid, None)
        self._process = None
        return code

    async def wait(self, timeout_s: float) -> int | None:
        """Its exit status once it has ended (then it may be spawned again); None if it has not."""
        if self._process is None:
            raise ServerFailed(f"{self.name} is not running")
        deadline = time.monotonic() + timeout_s
        while not self._has_exited():
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(_POLL_S)
        return self._reap()

    def send_signal(self, number: signal.Signals) -> None:
        if self._process is None or self._has_exited():
            raise ServerFailed(f"{self.name} is not running")
        os.kill(self._process.pid, number)

    async def stop(self, timeout_s: float = 20.0) -> int | None:
        """The polite signal, then SIGKILL after `timeout_s`. None if it was not running."""
        return await self._end(self._stop_signal, timeout_s)

    async def kill(self) -> int | None:
        """SIGKILL, now. None if it was not running."""
        return await self._end(signal.SIGKILL, 0.0)

    async def _end(self, number: signal.Signals, timeout_s: float) -> int | None:
        if self._process is None:
            return None
        if not self._has_exited():
            os.kill(self._process.pid, number)
            if number is not signal.SIGKILL:
                os.kill(self._process.pid, signal.SIGCONT)
                code = await self.wait(timeout_s)
                if code is not None:
                    return code
                os.kill(self._process.pid, signal.SIGKILL)
        code = await self.wait(_KILLED_WAIT_S)
        if code is None:
            raise ServerFailed(f"{self.name} (process {self.pid}) does not die")
        return code

    def rss_bytes(self) -> int:
        """Resident memory, from the kernel."""
        fields = Path(f"/proc/{self.pid}/statm").read_text("ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


async def run_to_end(
    argv: Sequence[str | Path],
    *,
    name: str,
    folder: Path,
    timeout_s: float = 60.0,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a tool and give its output; `ServerFailed` if it fails or takes too long."""
    descriptor, log_name = tempfile.mkstemp(prefix="run-", suffix=".log", dir=folder)
    os.close(descriptor)
    log = Path(log_name)
    child = Child(argv, name=name, folder=folder, log=log, user=user, environment=environment)
    code: int | None = None
    try:
        child.spawn()
        code = await child.wait(timeout_s)
    finally:
        await child.kill()
        output = _take(log)
    if code is None:
        raise ServerFailed(f"{name} did not end in {timeout_s:.0f} s:\n{output}")
    if code != 0:
        raise ServerFailed(f"{name} failed with status {code}:\n{output}")
    return output


def _take(log: Path) -> str:
    text = log.read_text("utf-8", "replace")
    log.unlink()
    return text


def accepts_connections(port: int) -> bool:
    """Whether somebody accepts a TCP connection on loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


class Server:
    """What every server has in common: a folder, a child, start and end.

    A subclass fills `_build` (write the configuration, give the child), `_is_ready` and, if tools
    have to run first, `_prepare`. Used as an asynchronous context manager it starts, and at the
    end stops and removes its folder. A `folder` that is passed in is kept.
    """

    START_TIMEOUT_S = 60.0
    STOP_TIMEOUT_S = 20.0

    def __init__(self, name: str, *, folder: Path | None = None) -> None:
        self.name = name
        self._keeps_folder = folder is not None
        self.folder = folder if folder is not None else make_folder(name)
        self.log = self.folder / "output.log"
        self.started_in_s = 0.0
        self._child: Child | None = None

    async def _prepare(self) -> None:
        """Before the first and every later start."""

    def _build(self) -> Child:
        raise NotImplementedError

    async def _is_ready(self) -> bool:
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.is_running

    @property
    def pid(self) -> int:
        return self._running().pid

    def _running(self) -> Child:
        if self._child is None or not self._child.is_running:
            raise ServerFailed(f"{self.name} is not running")
        return self._child

    async def start(self) -> None:
        """Start it and wait until it answers; otherwise end it and show the end of its log."""
        if self.is_running:
            raise ServerFailed(f"{self.name} is running already")
        if self._child is not None:
            await self._child.kill()
        begin = time.monotonic()
        await self._prepare()
        self._child = self._build()
        try:
            self._child.spawn()
            while not await self._is_ready():
                self._check_alive(time.monotonic() - begin)
                await asyncio.sleep(_POLL_S)
        except BaseException:
            await self._child.kill()
            raise
        self.started_in_s = time.monotonic() - begin

    def _check_alive(self, elapsed_s: float) -> None:
        if not self.is_running:
            raise ServerFailed(f"{self.name} ended while starting:\n{self.log_tail()}")
        if elapsed_s > self.START_TIMEOUT_S:
            raise ServerFailed(
                f"{self.name} not ready after {self.START_TIMEOUT_S:.0f} s:\n{self.log_tail()}"
            )

    async def stop(self) -> int | None:
        """End it politely; its data stays. The exit status, None if it was not running."""
        return None if self._child is None else await self._child.stop(self.STOP_TIMEOUT_S)

    async def kill(self) -> int | None:
        """SIGKILL; its data stays."""
        return None if self._child is None else await self._child.kill()

    async def restart(self) -> None:
        """Stop, then start on the same data and ports."""
        await self.stop()
        await self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._running().send_signal(signal.SIGCONT)

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        return self._running().rss_bytes()

    def log_tail(self, lines: int = 40) -> str:
        """The end of what it printed."""
        return read_tail(self.log, lines)

    async def close(self) -> None:
        """Stop, and remove the folder unless it was passed in."""
        try:
            await self.stop()
        finally:
            if not self._keeps_folder:
                shutil.rmtree(self.folder, ignore_errors=True)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
