"""Long and big rooms, made quickly: one line of signed events, and the state at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.engine.auth import auth_event_keys
from bridge.engine.build import Draft, PrevEvent, build_pdu
from bridge.engine.canonical import JsonObject
from bridge.engine.pdu import Pdu
from bridge.engine.state import StateKey
from bridge.engine.versions import get_version
from bridge.ids import EventId, RoomId, UserId, server_of
from tests.engine.rooms import START_MS, key_of

SERVERS = 20
"""Over which the members are spread."""
BODY = "Where shall we meet? Under the old oak, where the path leaves the river, as always."


class LongRoom:
    """Alice's public room. Everything in it is good, so nothing is judged here."""

    def __init__(self, version_id: str, *, name: str = "long", server: str = "s0.example") -> None:
        self.version = get_version(version_id)
        self.alice = UserId(f"@alice:{server}")
        self.events: list[Pdu] = []
        self.state: dict[StateKey, Pdu] = {}
        self.members: list[UserId] = [self.alice]
        rootless = self.version.event_format.room_id_from_create
        self.room_id: RoomId | None = None if rootless else RoomId(f"!{name}:{server}")
        # From version 12 the ID is a hash of this: the name tells rooms apart there as well.
        content: dict[str, Any] = {"room_version": version_id, "com.example.name": name}
        if self.version.auth.creator_in_content:
            content["creator"] = self.alice
        create = self.send("m.room.create", self.alice, content, "")
        self.room_id = create.room_id
        self.send("m.room.member", self.alice, {"membership": "join"}, self.alice)
        users = {} if self.version.auth.privileged_creators else {self.alice: 100}
        self.send("m.room.power_levels", self.alice, {"users": users, "ban": 50}, "")
        self.send("m.room.join_rules", self.alice, {"join_rule": "public"}, "")
        self.send("m.room.history_visibility", self.alice, {"history_visibility": "shared"}, "")
        self.send("m.room.topic", self.alice, {"topic": "A long conversation"}, "")

    def fill(self, state_events: int) -> None:
        """Members join until the state has so many entries."""
        while len(self.state) < state_events:
            number = len(self.members)
            user = UserId(f"@member{number}:s{number % SERVERS}.example")
            self.send("m.room.member", user, self.membership(user, f"Member {number}"), user)
            self.members.append(user)

    def talk(self, messages: int) -> list[Pdu]:
        return [self.message(self.members[n % len(self.members)]) for n in range(messages)]

    def message(self, sender: UserId) -> Pdu:
        return self.send("m.room.message", sender, message_content(len(self.events)))

    def membership(self, user: UserId, name: str) -> dict[str, Any]:
        return {
            "membership": "join",
            "displayname": name,
            "avatar_url": f"mxc://{server_of(user)}/GCmhgzMPRjqgpODLsNQzVuHZ",
        }

    def send(
        self,
        event_type: str,
        sender: UserId,
        content: Mapping[str, Any],
        state_key: str | None = None,
    ) -> Pdu:
        pdu = self.build(event_type, sender, content, state_key)
        self.events.append(pdu)
        if pdu.key is not None:
            self.state[pdu.key] = pdu
        return pdu

    def build(
        self,
        event_type: str,
        sender: UserId,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        after: Pdu | None = None,
        state: Mapping[StateKey, Pdu] | None = None,
    ) -> Pdu:
        """After the last event, or another with that state; not added."""
        after = after or (self.events[-1] if self.events else None)
        prev = [] if after is None else [PrevEvent(event_id=after.event_id, depth=after.depth)]
        before = self.state if state is None else state
        keys = auth_event_keys(event_type, sender, state_key, content, self.version)
        server = server_of(sender)
        return build_pdu(
            Draft(
                room_id=self.room_id,
                type=event_type,
                sender=sender,
                content=content,
                state_key=state_key,
            ),
            prev_events=prev,
            auth_events=[before[key].event_id for key in sorted(keys) if key in before],
            version=self.version,
            key=key_of(server),
            server=server,
            origin_server_ts=START_MS + 1000 * (prev[0].depth if prev else 0),
        )

    def by_id(self) -> dict[EventId, Pdu]:
        return {pdu.event_id: pdu for pdu in self.events}

    def auth_chain(self, pdus: Sequence[Pdu]) -> list[Pdu]:
        """What the given events rest on, as a server puts it beside a state."""
        events = self.by_id()
        chain: dict[EventId, Pdu] = {}
        waiting = [parent for pdu in pdus for parent in pdu.auth_events]
        while waiting:
            event_id = waiting.pop()
            if event_id not in chain:
                chain[event_id] = events[event_id]
                waiting.extend(chain[event_id].auth_events)
        return list(chain.values())


def message_content(number: int) -> JsonObject:
    """What a usual client writes."""
    return {
        "msgtype": "m.text",
        "body": f"{BODY} ({number})",
        "format": "org.matrix.custom.html",
        "formatted_body": f"<p>{BODY} <em>({number})</em></p>",
        "m.mentions": {},
    }
