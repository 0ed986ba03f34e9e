"""The Unix socket of `isthmus admin`: one line in, an answer out, closed.

The answer begins with a line that says how it went (`done`, `failed`, `misused`); what follows is
for a person. The socket stands in the data folder and is open to its owner only: whoever may
connect is the operator. A socket file that a dead process left behind is replaced; one behind
which somebody answers is another gateway at work.

A path that is longer than the system allows for sockets is reached through the descriptor of its
folder, so that the file stands where it belongs.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from bridge.errors import Misconfigured
from bridge.ports.command import Answer, Caller
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
SOCKET = Path("admin.sock")
"""In the data folder."""
SETTING = "data_folder"
MAX_PATH_BYTES = 107
MAX_LINE_BYTES = 8_192
MAX_CONNECTIONS = 8
READ_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 600.0
"""Longer than any command waits for anybody."""
CONNECT_TIMEOUT_S = 5.0
PAUSE_S = 1.0


class Answers(Protocol):
    async def answer(self, caller: Caller, line: str) -> Answer: ...


class Control:
    """`caller`: in whose name commands come from here; they are the operator's."""

    def __init__(
        self,
        *,
        path: Path,
        table: Answers,
        caller: Caller,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._read_timeout_s = read_timeout_s
        self._path = path
        self._table = table
        self._caller = caller
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)

    async def run(self) -> None:
        """Until cancelled. Raises Misconfigured where the socket cannot be made."""
        listening = listen(self._path)
        inode = _inode(self._path)
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._places.acquire()
                    tasks.create_task(self._serve(await _accept(listening)))
        finally:
            listening.close()
            if inode is not None and inode == _inode(self._path):
                with suppress(OSError):
                    self._path.unlink()

    async def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                async with asyncio.timeout(self._read_timeout_s):
                    line = await _read_line(connection)
                if line is None:
                    return
                async with asyncio.timeout(COMMAND_TIMEOUT_S):
                    answer = await self._table.answer(self._caller, line)
                log.info("an admin command", outcome=answer.outcome, command=line.split(" ")[0])
                async with asyncio.timeout(self._read_timeout_s):
                    await asyncio.get_running_loop().sock_sendall(connection, to_bytes(answer))
        except (OSError, TimeoutError) as exc:
            log.info("an admin command without an end", reason=type(exc).__name__)
        finally:
            self._places.release()


async def _accept(listening: socket.socket) -> socket.socket:
    """Waits out what is passing, such as too many open files."""
    while True:
        try:
            connection, _ = await asyncio.get_running_loop().sock_accept(listening)
        except OSError as exc:
            log.warning("the admin socket cannot take anybody", reason=str(exc))
            await asyncio.sleep(PAUSE_S)
        else:
            connection.setblocking(False)
            return connection


async def _read_line(connection: socket.socket) -> str | None:
    """None: what came is no line."""
    loop, data = asyncio.get_running_loop(), b""
    while b"\n" not in data:
        more = await loop.sock_recv(connection, 4_096)
        data += more
        if not more or len(data) > MAX_LINE_BYTES:
            return None
    return data.partition(b"\n")[0].decode("utf-8", "replace")


def to_bytes(answer: Answer) -> bytes:
    return f"{answer.outcome}\n{answer.text}\n".encode("utf-8", "replace")


# --- the socket file ------------------------------------------------------------------------


def listen(path: Path) -> socket.socket:
    """Bound, with mode 0600 from its first moment."""
    _clear(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    mask = os.umask(0o177)
    try:
        with _reachable(path) as address:
            listening.bind(address)
        listening.listen(MAX_CONNECTIONS)
    except OSError as exc:
        listening.close()
        raise Misconfigured(SETTING, f"no socket can be made at {path}: {exc}") from exc
    finally:
        os.umask(mask)
    return listening


def connect(path: Path) -> socket.socket:
    """Raises OSError where nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        with _reachable(path) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _clear(path: Path) -> None:
    """Removes what a dead process left. Raises Misconfigured where somebody lives behind it."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Misconfigured(SETTING, f"{path} is in the way: it is no socket")
        connect(path).close()
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except OSError as exc:
        raise Misconfigured(SETTING, f"{path} cannot be used: {exc}") from exc
    raise Misconfigured(SETTING, f"another Isthmus is at work: it answers at {path}")


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """The path, or a short one that leads to the same file as long as this is open."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None
