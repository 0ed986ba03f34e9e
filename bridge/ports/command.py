"""The command port: one table of commands, many faces (chat on both networks, XEP-0050 forms,
the command line). The table is filled by `bot/`; whoever shows it knows only these shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol

from bridge.ids import RoomId, UserId


class Level(IntEnum):
    """What somebody may do, by configuration. Nobody is named: `NOBODY`."""

    NOBODY = 0
    """Only what concerns themselves."""
    USER = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: the person's Matrix user (a chat person's ghost), and where they stand."""

    user_id: UserId
    room_id: RoomId | None = None
    """The room on which the command was called, where the face knows it."""
    is_operator: bool = False
    """Asks on the server itself (`isthmus admin`), which is open to its operator only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """What a command takes, in the order in which it is written."""

    name: str
    summary: str
    required: bool = False
    rest: bool = False
    """Takes all that is left of the line, blanks included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandInfo:
    name: str
    usage: str
    summary: str
    in_room: bool
    """Makes sense on a room's own address, without arguments."""
    level: Level = Level.NOBODY
    arguments: tuple[Argument, ...] = ()


class Outcome(StrEnum):
    DONE = "done"
    FAILED = "failed"
    MISUSED = "misused"
    """No such command, not allowed, or not called as its usage says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    outcome: Outcome
    text: str


class CommandTable(Protocol):
    def commands(self) -> Sequence[CommandInfo]:
        """All of them, in the order of the help."""
        ...

    def commands_of(self, caller: Caller) -> Sequence[CommandInfo]:
        """What this person may use."""
        ...

    async def answer(self, caller: Caller, line: str) -> Answer:
        """Carries out one line and answers in words; never raises for what a person typed."""
        ...

    async def greet(self, caller: Caller) -> str:
        """What the bot says to somebody who opens a chat with it: what it is, what they may do."""
        ...
