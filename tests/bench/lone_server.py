"""One server's rooms over a real database, and a peer that is only what it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bridge.clock import SystemClock
from bridge.engine.build import Draft, PrevEvent, event_template
from bridge.engine.canonical import encode_canonical, parse_json
from bridge.engine.pdu import Pdu
from bridge.errors import Unavailable
from bridge.ids import EventId, KeyId, RoomAlias, RoomId, RoomVersionId, ServerName, TraceId, UserId
from bridge.rooms.assembly import Rooms, build_rooms
from bridge.rooms.network import Json, UserProfile
from bridge.storage.database import Database
from tests.bench.long_room import LongRoom
from tests.engine.rooms import key_of

NAME = ServerName("gw.example")
PEER = ServerName("s0.example")
JULIET = UserId(f"@juliet:{NAME}")
TRACE = TraceId("bench")


class Keys:
    """Everybody's key is known, as after the first event of a server."""

    async def verify_key(
        self, server: ServerName, key_id: KeyId, minimum_valid_until_ts: int
    ) -> str | None:
        key = key_of(server)
        return key.verify_key_base64 if key_id == key.key_id else None


class NoLookups:
    async def user_exists(self, user_id: UserId) -> bool:
        return True

    async def profile(self, user_id: UserId) -> UserProfile | None:
        return None

    async def alias(self, alias: RoomAlias) -> RoomId | None:
        return None


class RoomPeer:
    """Answers joins of its rooms, from the text that a real one would send; nothing else."""

    def __init__(self) -> None:
        self._rooms: dict[RoomId, LongRoom] = {}
        self._answers: dict[RoomId, bytes] = {}

    def offer(self, room: LongRoom) -> RoomId:
        """The room as it is now. What follows after the join is the caller's."""
        assert room.room_id is not None
        state = list(room.state.values())
        chain = room.auth_chain(state)
        self._rooms[room.room_id] = room
        self._answers[room.room_id] = encode_canonical(
            {
                "state": [pdu.wire() for pdu in state],
                "auth_chain": [pdu.wire() for pdu in chain],
                "origin": PEER,
            }
        )
        return room.room_id

    async def make_join(
        self, peer: ServerName, room_id: RoomId, user_id: UserId, versions: Sequence[RoomVersionId]
    ) -> tuple[RoomVersionId, Json]:
        room = self._rooms[room_id]
        draft = Draft(
            room_id=room_id,
            type="m.room.member",
            sender=user_id,
            content={"membership": "join"},
            state_key=user_id,
        )
        built = room.build(draft.type, draft.sender, draft.content, draft.state_key)
        last = room.events[-1]
        template = event_template(
            draft,
            prev_events=[PrevEvent(event_id=last.event_id, depth=last.depth)],
            auth_events=built.auth_events,
            version=room.version,
            origin_server_ts=last.origin_server_ts,
        )
        return room.version.id, template

    async def send_join(
        self, peer: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> Json:
        room = self._rooms[room_id]
        join = Pdu.parse(pdu, room.version)
        room.events.append(join)
        assert join.key is not None
        room.state[join.key] = join
        answer: Json = parse_json(self._answers[room_id], max_bytes=1 << 30)
        return answer

    def __getattr__(self, name: str) -> Any:
        async def refuse(*_args: object, **_kwargs: object) -> Any:
            raise Unavailable(f"{name} is not answered")

        return refuse


@asynccontextmanager
async def lone_server(url: str, peer: RoomPeer) -> AsyncIterator[tuple[Database, Rooms]]:
    clock = SystemClock()
    database = await Database.open(url, clock=clock)
    rooms = build_rooms(
        server_name=NAME,
        key=key_of(NAME),
        database=database,
        clock=clock,
        peers=peer,
        keyring=Keys(),
        lookups=NoLookups(),
    )
    try:
        yield database, rooms
    finally:
        await database.close()


async def enter(rooms: Rooms, room_id: RoomId) -> None:
    await rooms.handshake.join(user_id=JULIET, room_id=room_id, via=[PEER], trace_id=TRACE)
