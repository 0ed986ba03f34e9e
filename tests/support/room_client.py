"""A client of a real homeserver that shows one room."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any
from urllib.parse import quote

from bridge.demo.people import MatrixPerson

_PREFIX = "/_matrix/client/v3"


class RoomClient:
    """Shows a room as clients do: what `/sync` leaves out of a long stretch is asked for."""

    def __init__(self, person: MatrixPerson, room_id: str, *, pause_s: float = 1.0) -> None:
        """`pause_s`: between two looks, since the homeserver has other things to do."""
        self._person = person
        self._pause_s = pause_s
        self._room_id = room_id
        self._since: str | None = None
        self._shown: dict[str, str] = {}
        """Event ID -> text, in order."""
        self.left_out = 0
        """How many events `/sync` has not shown by itself."""

    async def read(self, wanted: Collection[str]) -> list[str]:
        """Every text in the order in which it is shown, once all that are wanted are."""
        while not set(self._shown.values()).issuperset(wanted):
            await self.sync()
            await asyncio.sleep(self._pause_s)
        return list(self._shown.values())

    async def sync(self) -> None:
        query = {"timeout": "1000"} | ({} if self._since is None else {"since": self._since})
        answer = await self._person.request("GET", f"{_PREFIX}/sync", query=query)
        is_first, self._since = self._since is None, str(answer["next_batch"])
        room = answer.get("rooms", {}).get("join", {}).get(self._room_id)
        if room is None:
            return
        timeline = room["timeline"]
        between: list[dict[str, Any]] = []
        if timeline.get("limited") and not is_first:
            between = await self._left_out(str(timeline["prev_batch"]))
        for event in [*between, *timeline["events"]]:
            if event["type"] == "m.room.message":
                self._shown[event["event_id"]] = event["content"]["body"]

    async def _left_out(self, before: str) -> list[dict[str, Any]]:
        """Back from there to what is shown already, oldest first."""
        found: list[dict[str, Any]] = []
        while True:
            answer = await self._person.request(
                "GET",
                f"{_PREFIX}/rooms/{quote(self._room_id, safe='')}/messages",
                query={"dir": "b", "limit": "100", "from": before},
            )
            for event in answer["chunk"]:
                if event["event_id"] in self._shown:
                    break
                found.append(event)
            else:
                if "end" in answer:
                    before = str(answer["end"])
                    continue
            self.left_out += len(found)
            return found[::-1]
