"""Words that tests over the in-memory network use: make a room, say something, listen."""

from __future__ import annotations

from typing import Any

from bridge.engine.build import Draft, PrevEvent, build_pdu, complete
from bridge.engine.pdu import Pdu
from bridge.ids import EventId, RoomId, RoomVersionId, UserId
from bridge.rooms.load import Room, RoomStates, choose_auth_events
from tests.support.network import Network, Server, trace

VERSION_IDS = ("3", "6", "9", "10", "11", "12", "I.1")
"""Room versions that differ in what a whole server does; tests/engine tries every one."""


async def make_room(
    server: Server, version: str = "12", *, public: bool = True, creator: str = "maker"
) -> RoomId:
    return await server.backend.create_room(
        creator=server.user(creator),
        txn=f"make-{creator}-{version}",
        name="Garden",
        topic="roses",
        public=public,
        version=RoomVersionId(version),
    )


async def say(
    server: Server, room_id: RoomId, user: str, text: str, txn: str | None = None
) -> EventId:
    info = await server.backend.room(room_id)
    content: dict[str, Any] = {"msgtype": "m.text", "body": text}
    kind = "m.room.message"
    if info.extensible:
        kind, content = "m.message", {"m.text": [{"body": text}], "body": text}
    return await server.backend.send(
        room_id=room_id,
        sender=server.user(user),
        type=kind,
        content=content,
        txn=txn or f"say-{user}-{text}",
        trace=trace(),
    )


async def heard(server: Server, room_id: RoomId) -> list[str]:
    return [
        one.pdu.content.get("body", "(redacted)")
        for one in await server.timeline(room_id)
        if one.pdu.type in ("m.room.message", "m.message")
    ]


async def two_in_a_room(network: Network, version: str = "12") -> tuple[Server, Server, RoomId]:
    """`maker` on the first server, `guest` on the second."""
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    return here, there, room_id


async def room_at(server: Server, room_id: RoomId) -> Room:
    """The room as it is stored, not as the server remembers it."""
    return await RoomStates(database=server.database).joined_room(room_id)


async def forge(
    network: Network,
    server: Server,
    room_id: RoomId,
    sender: UserId,
    *,
    type: str = "m.room.message",
    content: dict[str, Any] | None = None,
    state_key: str | None = None,
    on: list[tuple[EventId, int]] | None = None,
    auth: list[EventId] | None = None,
    redacts: EventId | None = None,
    extra: dict[str, Any] | None = None,
    seen_by: Server | None = None,
) -> Pdu:
    """An event signed by `server` that its own rooms have never seen; `extra`: top-level keys.

    `seen_by`: whose view of the room it is built on, where `server` is not in it."""
    room = await room_at(seen_by or server, room_id)
    body = content if content is not None else {"msgtype": "m.text", "body": "forged"}
    draft = Draft(
        room_id=room_id,
        type=type,
        sender=sender,
        content=body,
        state_key=state_key,
        redacts=redacts,
    )
    prev = on if on is not None else list(room.extremities.items())
    built = build_pdu(
        draft,
        prev_events=[PrevEvent(event_id=event_id, depth=depth) for event_id, depth in prev],
        auth_events=auth
        if auth is not None
        else choose_auth_events(
            room.state,
            event_type=type,
            sender=sender,
            state_key=state_key,
            content=body,
            version=room.version,
        ),
        version=room.version,
        key=server.key,
        server=server.name,
        origin_server_ts=network.clock.now_ms(),
    )
    if extra is None:
        return built
    template = {**built.wire(), **extra}
    return complete(template, version=room.version, key=server.key, server=server.name)
