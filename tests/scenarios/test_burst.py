"""A burst of messages from XMPP reaches every client of a Synapse, which throws away what it cannot
stage (`bridge/federation/sender.py`)."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from bridge.demo.people import MatrixPerson
from bridge.demo.servers import Prosody, Synapse
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

MESSAGES = 1_000
PAUSE_S = 1.0
"""Between two looks: the homeserver has enough to do."""
_PREFIX = "/_matrix/client/v3"


class Client:
    """Shows a room as clients do: what `/sync` leaves out of a long stretch is asked for."""

    def __init__(self, person: MatrixPerson, room_id: str) -> None:
        self._person = person
        self._room_id = room_id
        self._since: str | None = None
        self._shown: dict[str, str] = {}
        """Event ID -> text, in order."""
        self.left_out = 0

    async def read_to(self, last: str) -> list[str]:
        """Every text, once the last message has come."""
        while last not in self._shown.values():
            await self.sync()
            await asyncio.sleep(PAUSE_S)
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
                if event["event_id"] in self._shown or event["type"] == "m.room.create":
                    self.left_out += len(found)
                    return found[::-1]
                found.append(event)
            before = str(answer["end"])


@pytest.mark.timeout(400)
async def test_a_burst_of_a_thousand_reaches_every_client_once_and_in_order(
    gateway: Gateway,
    prosody_pair: tuple[Prosody, Prosody],
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    people = [await matrix_person(synapse, name) for name in ("alice", "bob")]
    juliet = await xmpp_person(prosody_pair[0], "juliet")
    room_id = await people[0].create_room(alias="burst", preset="public_chat")
    await people[1].join(room_id)
    room = gateway.address(f"#burst:{synapse.server_name}")
    await juliet.enter(room, "Juliet", timeout_s=30)
    for person in people:
        await person.see_membership(room_id, gateway.ghost(juliet.address), "join", timeout_s=30)

    clients = [Client(person, room_id) for person in people]
    for client in clients:
        await client.sync()
    expected = [f"burst {number}" for number in range(MESSAGES)]
    for body in expected:
        juliet.say_in(room, body)
    async with asyncio.timeout(350), asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(one.read_to(expected[-1])) for one in clients]
    print(f"asked for besides: {[one.left_out for one in clients]}")
    for read in reading:
        assert read.result() == expected
    reflected = [
        stanza.body
        for stanza in juliet.transcript
        if stanza.type == "groupchat" and stanza.bare_sender == room and stanza.body is not None
    ]
    assert reflected == expected
