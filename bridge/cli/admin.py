"""`isthmus admin`: one line to the gateway that runs here, its answer back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bridge.bot.control import COMMAND_TIMEOUT_S, connect
from bridge.errors import Unavailable
from bridge.ports.command import Outcome

MAX_ANSWER_BYTES = 4_000_000
NOT_RUNNING = "the gateway is not running"
_CODES = {Outcome.DONE: 0, Outcome.FAILED: 1, Outcome.MISUSED: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    code: int
    """The exit code."""
    text: str


def ask(path: Path, line: str) -> Reply:
    """Raises Unavailable where nothing runs, or it ended before it answered."""
    try:
        connection = connect(path)
    except PermissionError as exc:
        raise Unavailable(f"{path} is open to the gateway's own user only") from exc
    except OSError as exc:
        raise Unavailable(f"{NOT_RUNNING} (nothing answers at {path})") from exc
    data = bytearray()
    with connection:
        connection.settimeout(COMMAND_TIMEOUT_S)
        try:
            connection.sendall(" ".join(line.split()).encode("utf-8", "replace") + b"\n")
            while len(data) < MAX_ANSWER_BYTES:
                more = connection.recv(65_536)
                if not more:
                    break
                data += more
        except OSError as exc:
            raise Unavailable("the gateway ended before it answered") from exc
    word, found, text = data.decode("utf-8", "replace").partition("\n")
    if not found or word not in set(Outcome):
        raise Unavailable("the gateway ended before it answered")
    return Reply(code=_CODES[Outcome(word)], text=text.removesuffix("\n"))
