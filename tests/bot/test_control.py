"""The admin socket: a real one, one line in, one answer out."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from bridge.bot.control import MAX_CONNECTIONS, MAX_LINE_BYTES, Control, connect, listen
from bridge.cli import admin
from bridge.errors import Misconfigured, Unavailable
from bridge.ids import UserId
from bridge.ports.command import Answer, Caller, Outcome

OPERATOR = Caller(user_id=UserId("@isthmus:gw.example"), is_operator=True)


class Echo:
    """Answers with the line; `failed` and `misused` say so."""

    def __init__(self) -> None:
        self.heard: list[tuple[Caller, str]] = []

    async def answer(self, caller: Caller, line: str) -> Answer:
        self.heard.append((caller, line))
        outcome = Outcome(line) if line in set(Outcome) else Outcome.DONE
        return Answer(outcome=outcome, text=f"You said: {line}\nand more")


@asynccontextmanager
async def running(path: Path, *, read_timeout_s: float = 10.0) -> AsyncIterator[Echo]:
    echo = Echo()
    async with asyncio.TaskGroup() as tasks:
        control = Control(path=path, table=echo, caller=OPERATOR, read_timeout_s=read_timeout_s)
        task = tasks.create_task(control.run())
        while not path.exists():
            await asyncio.sleep(0)
        yield echo
        task.cancel()


async def ask(path: Path, line: str) -> admin.Reply:
    return await asyncio.to_thread(admin.ask, path, line)


async def raw(path: Path, data: bytes) -> bytes:
    """What comes back for these bytes until it is closed."""
    loop = asyncio.get_running_loop()
    with connect(path) as connection:
        connection.setblocking(False)
        await loop.sock_sendall(connection, data)
        got = b""
        while more := await loop.sock_recv(connection, 65_536):
            got += more
        return got


async def test_a_line_is_answered_in_the_operators_name(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with running(path) as echo:
        reply = await ask(path, "why  $a\n$b")
        assert reply == admin.Reply(code=0, text="You said: why $a $b\nand more")
        assert echo.heard == [(OPERATOR, "why $a $b")]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.parametrize(("line", "code"), [("done", 0), ("failed", 1), ("misused", 2)])
async def test_the_answer_says_how_it_went(tmp_path: Path, line: str, code: int) -> None:
    path = tmp_path / "admin.sock"
    async with running(path):
        assert (await ask(path, line)).code == code


async def test_with_nothing_running_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="not running"):
        await ask(tmp_path / "admin.sock", "help")


async def test_a_line_without_an_end_or_too_long_is_hung_up_on(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with running(path) as echo:
        assert await raw(path, b"x" * (MAX_LINE_BYTES - 1) + b"\n")
        with suppress(OSError):  # closed while we were still writing
            assert await raw(path, b"x" * (MAX_LINE_BYTES * 2)) == b""
        assert len(echo.heard) == 1
        assert (await ask(path, "still here")).code == 0


async def test_whoever_says_nothing_is_hung_up_on(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with running(path, read_timeout_s=0.05):
        silent = [connect(path) for _ in range(MAX_CONNECTIONS)]
        assert (await ask(path, "help")).code == 0
        for connection in silent:
            assert await asyncio.to_thread(connection.recv, 1) == b""
            connection.close()


async def test_what_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    dead = listen(path)
    dead.close()
    assert path.exists()
    inode = path.stat().st_ino
    async with running(path):
        while path.stat().st_ino == inode and not await asyncio.to_thread(_answers, path):
            await asyncio.sleep(0)
        assert (await ask(path, "help")).code == 0


def _answers(path: Path) -> bool:
    try:
        connect(path).close()
    except OSError:
        return False
    return True


async def test_a_living_gateway_is_not_pushed_aside(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with running(path):
        with pytest.raises(Misconfigured, match="another Isthmus"):
            await Control(path=path, table=Echo(), caller=OPERATOR).run()
        assert (await ask(path, "help")).code == 0


async def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("mine")
    with pytest.raises(Misconfigured, match="no socket"):
        await Control(path=path, table=Echo(), caller=OPERATOR).run()
    assert path.read_text() == "mine"


async def test_a_path_longer_than_sockets_allow_works(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    path = folder / "admin.sock"
    async with running(path):
        assert (await ask(path, "help")).code == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_folder_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        await Control(path=tmp_path / "no" / "admin.sock", table=Echo(), caller=OPERATOR).run()


def test_the_mask_of_the_process_is_as_before(tmp_path: Path) -> None:
    listening = listen(tmp_path / "admin.sock")
    listening.close()
    other = tmp_path / "other"
    with socket.socket(socket.AF_UNIX) as plain:
        plain.bind(str(other))
    assert stat.S_IMODE(other.stat().st_mode) != 0o600
