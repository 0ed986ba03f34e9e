"""The command port: one table of commands, many faces (chat on both networks, XEP-0050 forms,
the command line). The table is filled by `bot/`; whoever shows it knows only these shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.ids import RoomId, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: the person's Matrix user (a chat person's ghost), and where they stand."""

    user_id: UserId
    room_id: RoomId | None = None
    """The room on which the command was called, where the face knows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandInfo:
    name: str
    usage: str
    summary: str
    in_room: bool
    """Makes sense on a room's own address, without arguments."""


class CommandTable(Protocol):
    def commands(self) -> Sequence[CommandInfo]: ...

    async def run(self, caller: Caller, line: str) -> str:
        """Carries out one line and answers in words; never raises for what a person typed."""
        ...
