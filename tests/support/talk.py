"""Words that tests over the in-memory network use: make a room, say something, listen."""

from __future__ import annotations

import secrets
from typing import Any

from bridge.engine.build import Draft, PrevEvent, build_pdu, chosen_event_id, complete
from bridge.engine.pdu import Pdu
from bridge.engine.versions import get_version
from bridge.ids import EventId, RoomId, RoomVersionId, UserId
from bridge.rooms.load import EMPTY, Room, RoomStates, Snapshot, choose_auth_events
from tests.support.network import Network, Server, trace

VERSION_IDS = ("1", "2", "3", "6", "9", "10", "11", "12", "I.1")
"""Room versions that differ in what a whole server does; tests/engine tries every one."""


async def make_room(
    server: Server, version: str = "12", *, public: bool = True, creator: str = "maker"
) -> RoomId:
    if not get_version(version).creatable:
        return await _make_old_room(server, version, server.user(creator), public=public)
    return await server.backend.create_room(
        creator=server.user(creator),
        txn=f"make-{creator}-{version}",
        name="Garden",
        topic="roses",
        public=public,
        version=RoomVersionId(version),
    )


async def _make_old_room(
    server: Server, version_id: str, creator: UserId, *, public: bool
) -> RoomId:
    """Of a version of which the gateway itself makes no rooms."""
    version, sender = get_version(version_id), server.rooms.sender
    appender, room_id = sender._appender, RoomId(f"!old-{version_id}-{creator[1:]}")
    create = build_pdu(
        Draft(
            room_id=room_id,
            type="m.room.create",
            sender=creator,
            content={"room_version": version_id, "creator": creator},
            state_key="",
        ),
        prev_events=(),
        auth_events=(),
        version=version,
        key=server.key,
        server=server.name,
        origin_server_ts=1_700_000_000_000,
        event_id=EventId(f"$create-{room_id[1:]}"),
    )
    plan = appender.plan_new(room_id, version)
    await appender.add(plan, create, before=Snapshot(EMPTY), trace_id=trace())
    levels = {"users": {creator: 100}, "users_default": 0, "events_default": 0}
    for kind, state_key, content in (
        ("m.room.member", creator, {"membership": "join"}),
        ("m.room.power_levels", "", levels),
        ("m.room.join_rules", "", {"join_rule": "public" if public else "invite"}),
        ("m.room.history_visibility", "", {"history_visibility": "shared"}),
        ("m.room.name", "", {"name": "Garden"}),
        ("m.room.topic", "", {"topic": "roses"}),
    ):
        draft = Draft(
            room_id=room_id, type=kind, sender=creator, content=content, state_key=state_key
        )
        await sender.add(plan, draft, trace_id=trace())
    await appender.commit(plan)
    return room_id


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
    event_id: EventId | None = None,
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
    if auth is None:
        auth = choose_auth_events(
            room.state,
            event_type=type,
            sender=sender,
            state_key=state_key,
            content=body,
            version=room.version,
        )
    named = [*(one for one, _ in prev), *auth]
    linked = await RoomStates(database=(seen_by or server).database).events(named)
    event_id = event_id or chosen_event_id(
        room.version, server.name, lambda: f"forged{secrets.token_hex(4)}"
    )
    built = build_pdu(
        draft,
        prev_events=[PrevEvent(event_id=one, depth=depth) for one, depth in prev],
        auth_events=auth,
        version=room.version,
        key=server.key,
        server=server.name,
        origin_server_ts=network.clock.now_ms(),
        event_id=event_id,
        linked={one: known.pdu for one, known in linked.items()},
    )
    if extra is None:
        return built
    template = {**built.wire(), **extra}
    return complete(
        template, version=room.version, key=server.key, server=server.name, event_id=event_id
    )
