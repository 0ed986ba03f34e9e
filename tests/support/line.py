"""Events that come one after the other out of one server, and what became of them at another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bridge.engine.pdu import Pdu
from bridge.ids import EventId, RoomId
from bridge.storage import events as event_rows
from tests.support.network import Network, Server, trace
from tests.support.talk import forge, room_at, two_in_a_room


class Line:
    """Events of the second server, each after the one before, unknown to its own rooms."""

    def __init__(self, network: Network, server: Server, room_id: RoomId) -> None:
        self._network, self._server, self._room_id = network, server, room_id
        self.pdus: list[Pdu] = []

    async def add(
        self, user: str, content: dict[str, Any], kind: str = "m.room.message", **more: Any
    ) -> Pdu:
        if self.pdus:
            more.setdefault("on", [(self.pdus[-1].event_id, self.pdus[-1].depth)])
        pdu = await forge(
            self._network,
            self._server,
            self._room_id,
            self._server.user(user),
            type=kind,
            content=content,
            **more,
        )
        self.pdus.append(pdu)
        return pdu

    async def say(self, user: str, text: str, **more: Any) -> Pdu:
        return await self.add(user, {"msgtype": "m.text", "body": text}, **more)


async def three_in_a_room(network: Network) -> tuple[Server, Server, Server, RoomId]:
    """`maker` on the first, `guest` and `other` on the second, and one of the third."""
    here, there, room_id = await two_in_a_room(network)
    third = await network.add("third.example")
    await third.backend.join(user_id=third.user("witness"), room_id=room_id, via=[here.name])
    await network.deliver()
    await there.backend.join(user_id=there.user("other"), room_id=room_id, via=[here.name])
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.power_levels",
        state_key="",
        content={"users": {there.user("guest"): 60}},
        txn="levels",
        trace=trace(),
    )
    await network.deliver()
    return here, there, third, room_id


async def ending(server: Server, room_id: RoomId, ids: Sequence[EventId]) -> Any:
    """What is stored of the room: verdicts, the state before each event, the head, the order."""
    rows = await server.database.read(lambda tx: event_rows.find(tx, ids))
    room = await room_at(server, room_id)
    return (
        {one: (rows[one].verdict, rows[one].rule) for one in ids if one in rows},
        dict(room.state),
        dict(room.extremities),
        room.joined,
        [one.pdu.event_id for one in await server.timeline(room_id) if one.pdu.event_id in ids],
    )
