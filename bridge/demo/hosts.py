"""Alice stays when the script is over: she accepts invitations, greets and answers guests.

Only guests get an answer: ghosts on the gateway's server who are not in the script, nor the bot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set
from typing import Final

from bridge.demo.people import MatrixFailed, MatrixPerson, SeenEvent
from bridge.demo.view import View
from bridge.errors import Unavailable

_WAITING_EVENTS: Final = 200
_MOST_QUOTED: Final = 200


class Host:
    """`known` are the user IDs that need no greeting."""

    def __init__(self, person: MatrixPerson, *, gateway: str, known: Set[str], view: View) -> None:
        self._person = person
        self._view = view
        self._gateway = gateway
        self._known = known
        self._events: asyncio.Queue[SeenEvent] = asyncio.Queue(_WAITING_EVENTS)
        person.transcript.watch(self._note)

    def _note(self, seen: SeenEvent) -> None:
        if self._is_guest(seen.sender) and not self._events.full():
            self._events.put_nowait(seen)

    def _is_guest(self, user: str) -> bool:
        return user.partition(":")[2] == self._gateway and user not in self._known

    async def run(self) -> None:
        """For ever. Goes on when something is not possible."""
        while True:
            seen = await self._events.get()
            try:
                await self._meet(seen)
            except (MatrixFailed, Unavailable) as exc:
                self._view.note(f"!! {exc.reason}")

    async def _meet(self, seen: SeenEvent) -> None:
        if seen.section == "invite":
            if seen.membership == "invite" and seen.state_key == self._person.user_id:
                await self._person.join(seen.room_id, via=(self._gateway,))
        elif seen.section == "timeline" and seen.membership == "join":
            if seen.event.get("unsigned", {}).get("prev_content", {}).get("membership") != "join":
                await self._person.say(seen.room_id, f"Welcome, {_name_of(seen)}!")
        elif seen.section == "timeline" and seen.type == "m.room.message" and seen.body:
            quoted = seen.body[:_MOST_QUOTED]
            await self._person.say(seen.room_id, f"I can read you on Matrix: “{quoted}”")


def _name_of(seen: SeenEvent) -> str:
    name = seen.content.get("displayname")
    return name if isinstance(name, str) and name else str(seen.state_key)
