"""Rooms for tests: signed events of several servers in a DAG, with the state after each."""

from __future__ import annotations

import hashlib
from collections import ChainMap, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from bridge.engine.auth import auth_event_keys, auth_state_keys
from bridge.engine.build import Draft, PrevEvent, build_pdu, chosen_event_id
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.power import creators_of
from bridge.engine.state import StateKey
from bridge.engine.stateres import resolve, run
from bridge.engine.versions import get_version
from bridge.ids import EventId, RoomId, ServerName, UserId, server_of

ALICE = UserId("@alice:a.example")
BOB = UserId("@bob:b.example")
CAROL = UserId("@carol:c.example")
DAVE = UserId("@dave:a.example")

START_MS = 1_700_000_000_000
VERSION_IDS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "I.1")


def since(version_id: str, number: int) -> bool:
    """Whether what came with that version holds in this one. I.1 is version 10 in these things."""
    return int(version_id.replace("I.1", "10")) >= number


@cache
def key_of(server: ServerName) -> SigningKey:
    """One fixed key per server name."""
    return SigningKey.from_seed("test", hashlib.sha256(server.encode()).digest())


class RoomBuilder:
    """A room that grows by `send`; everything sent is kept, accepted or not."""

    def __init__(
        self,
        version_id: str,
        *,
        creator: UserId = ALICE,
        create_content: Mapping[str, Any] | None = None,
    ) -> None:
        self.version = get_version(version_id)
        self.events: dict[EventId, Pdu] = {}
        self.state_after: dict[EventId, dict[StateKey, EventId]] = {}
        self.last = EventId("")  # until the create event is there
        self._clock_ms = START_MS
        self._named = 0
        content: dict[str, Any] = {"room_version": version_id}
        if self.version.auth.creator_in_content:
            content["creator"] = creator
        content |= create_content or {}
        rootless = self.version.event_format.room_id_from_create
        self.room_id: RoomId | None = None if rootless else RoomId(f"!r:{server_of(creator)}")
        self.create = self.send("m.room.create", creator, content, "", after=())
        self.room_id = self.create.room_id

    def draft(
        self,
        event_type: str,
        sender: UserId,
        content: Mapping[str, Any] | None = None,
        state_key: str | None = None,
        *,
        after: Sequence[EventId] | None = None,
        ts: int | None = None,
        redacts: EventId | None = None,
        auth_events: Sequence[EventId] | None = None,
        state: Mapping[StateKey, EventId] | None = None,
        event_id: EventId | None = None,
    ) -> Pdu:
        """A signed PDU that is not added to the room."""
        content = content or {}
        if after is None:
            after = [self.last]
        before = self.state_before(after) if state is None else state
        if auth_events is None:
            keys = auth_event_keys(event_type, sender, state_key, content, self.version)
            auth_events = [before[key] for key in sorted(keys) if key in before]
        self._clock_ms += 1000
        self._named += 1
        server = server_of(sender)
        return build_pdu(
            Draft(
                room_id=self.room_id,
                type=event_type,
                sender=sender,
                content=content,
                state_key=state_key,
                redacts=redacts,
            ),
            prev_events=[
                PrevEvent(event_id=event_id, depth=self.events[event_id].depth)
                for event_id in after
            ],
            auth_events=auth_events,
            version=self.version,
            key=key_of(server),
            server=server,
            origin_server_ts=self._clock_ms if ts is None else ts,
            event_id=event_id
            or chosen_event_id(self.version, server, lambda: f"event{self._named}"),
            # Whose hash a link to an event of elsewhere has is nowhere looked at.
            linked=ChainMap(self.events, defaultdict(lambda: self.create)),
        )

    def send(self, *args: Any, after: Sequence[EventId] | None = None, **kwargs: Any) -> Pdu:
        """`draft`, added after the last event or after those named; not judged."""
        if after is None:
            after = [self.last]
        pdu = self.draft(*args, after=after, **kwargs)
        state = dict(self.state_before(after))
        if pdu.key is not None:
            state[pdu.key] = pdu.event_id
        self.events[pdu.event_id] = pdu
        self.state_after[pdu.event_id] = state
        self.last = pdu.event_id
        return pdu

    def state_before(self, after: Sequence[EventId]) -> Mapping[StateKey, EventId]:
        """The resolved state after the given events."""
        maps = [self.state_after[event_id] for event_id in after]
        return self.resolve(maps) if maps else {}

    def resolve(self, maps: Sequence[Mapping[StateKey, EventId]]) -> dict[StateKey, EventId]:
        return run(resolve(maps, self.version), self.lookup)

    def lookup(self, wanted: Iterable[EventId]) -> dict[EventId, Pdu]:
        return {event_id: self.events[event_id] for event_id in wanted if event_id in self.events}

    def auth_state(self, pdu: Pdu) -> dict[StateKey, Pdu]:
        """What `check_auth` needs of the state before the event."""
        before = self.state_before(list(pdu.prev_events))
        keys = auth_state_keys(pdu.type, pdu.sender, pdu.state_key, pdu.content, self.version)
        return {key: self.events[before[key]] for key in keys if key in before}

    def join(self, user: UserId, **kwargs: Any) -> Pdu:
        return self.send("m.room.member", user, {"membership": "join"}, user, **kwargs)

    def member(self, sender: UserId, target: UserId, membership: str, **kwargs: Any) -> Pdu:
        return self.send("m.room.member", sender, {"membership": membership}, target, **kwargs)

    def power(self, sender: UserId, content: Mapping[str, Any], **kwargs: Any) -> Pdu:
        return self.send("m.room.power_levels", sender, content, "", **kwargs)

    def join_rule(self, sender: UserId, rule: str, **kwargs: Any) -> Pdu:
        return self.send("m.room.join_rules", sender, {"join_rule": rule}, "", **kwargs)

    def levels(self, users: Mapping[UserId, int] | None = None, **named: Any) -> dict[str, Any]:
        """Power levels content in which the creator has 100, or stands above in version 12."""
        own: dict[str, int] = {}
        if not self.version.auth.privileged_creators:
            own = dict.fromkeys(creators_of(self.create), 100)
        return {"users": {**own, **(users or {})}, **named}


def public_room(version_id: str, *members: UserId, **levels: Any) -> RoomBuilder:
    """Created by Alice, with power levels, public join rules and the given members."""
    room = RoomBuilder(version_id)
    room.join(ALICE)
    room.power(ALICE, room.levels(**levels))
    room.join_rule(ALICE, "public")
    for user in members:
        room.join(user)
    return room
