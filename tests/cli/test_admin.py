"""`isthmus admin`: the exit code and the streams."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from bridge import cli
from bridge.bot.control import listen


@pytest.fixture
def configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert cli.main(["init", "--folder", str(tmp_path), "--server-name", "gw.mine.test"]) == 0
    capsys.readouterr()
    return tmp_path / "config.yaml"


def answer_once(listening: socket.socket, answer: bytes) -> tuple[threading.Thread, list[bytes]]:
    heard: list[bytes] = []
    listening.setblocking(True)
    listening.settimeout(10)

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            heard.append(connection.recv(1000))
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, heard


def run(configuration: Path, answer: bytes, *words: str) -> tuple[int, list[bytes]]:
    folder = configuration.parent / "data"
    folder.mkdir(exist_ok=True)
    listening = listen(folder / "admin.sock")
    thread, heard = answer_once(listening, answer)
    try:
        return cli.main(["admin", "--config", str(configuration), *words]), heard
    finally:
        thread.join()
        listening.close()


def test_the_answer_is_printed(configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, heard = run(configuration, b"done\nAll is well.\nReally.\n", "why", "$a", "--loud")
    assert (code, heard) == (0, [b"why $a --loud\n"])
    assert capsys.readouterr().out == "All is well.\nReally.\n"


@pytest.mark.parametrize(("word", "code"), [(b"failed", 1), (b"misused", 2)])
def test_what_did_not_work_goes_to_standard_error(
    configuration: Path, capsys: pytest.CaptureFixture[str], word: bytes, code: int
) -> None:
    assert run(configuration, word + b"\nNo.\n", "plumb")[0] == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "No.\n")


@pytest.mark.parametrize("answer", [b"", b"done", b"maybe\nx\n", b"\xff\n"])
def test_half_an_answer_is_none(
    configuration: Path, capsys: pytest.CaptureFixture[str], answer: bytes
) -> None:
    assert run(configuration, answer, "help")[0] == 1
    assert "ended before" in capsys.readouterr().err


def test_with_nothing_running_it_says_so(
    configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["admin", "--config", str(configuration), "status"]) == 1
    assert "the gateway is not running" in capsys.readouterr().err
