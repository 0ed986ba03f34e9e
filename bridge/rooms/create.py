"""New rooms: every first event in one commit, so that a room exists as a whole or not at all.

Order: create, the creator's membership, power levels, alias, join rules, history visibility, guest
access, name, topic. From version 12 the create event comes before the room's ID, which is its
hash. Spec: client-server API, POST /createRoom; rooms/v12, room IDs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bridge.clock import Clock
from bridge.engine.build import Draft, build_pdu
from bridge.engine.keys import Signer
from bridge.engine.pdu import Pdu
from bridge.engine.versions import RoomVersion, get_creatable
from bridge.errors import Conflict, Refused, Unavailable
from bridge.ids import RoomAlias, RoomId, ServerName, TraceId, UserId, server_of
from bridge.rooms.append import Appender, Plan, Repeated
from bridge.rooms.listing import listing_of
from bridge.rooms.load import EMPTY, Snapshot
from bridge.rooms.network import UserProfile
from bridge.rooms.send import Sender
from bridge.storage import aliases as alias_rows
from bridge.storage import events as event_rows
from bridge.storage import published
from bridge.storage.database import Database, Transaction

MAX_ATTEMPTS = 20

_STATE_LEVELS: Mapping[str, int] = {
    "m.room.avatar": 50,
    "m.room.canonical_alias": 50,
    "m.room.encryption": 100,
    "m.room.history_visibility": 100,
    "m.room.name": 50,
    "m.room.power_levels": 100,
    "m.room.server_acl": 100,
    "m.room.tombstone": 100,
}


class RoomCreator:
    """Makes rooms whose creator is a user of this server."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        key: Signer,
        database: Database,
        appender: Appender,
        sender: Sender,
        clock: Clock,
        random_text: Callable[[], str],
    ) -> None:
        self._server_name = server_name
        self._key = key
        self._database = database
        self._appender = appender
        self._sender = sender
        self._clock = clock
        self._random_text = random_text

    async def create(
        self,
        *,
        creator: UserId,
        version: RoomVersion,
        transaction_id: str,
        trace_id: TraceId,
        name: str | None = None,
        topic: str | None = None,
        alias: RoomAlias | None = None,
        public: bool = False,
        listed: bool = False,
        trusted: Sequence[UserId] = (),
        profile: UserProfile | None = None,
        is_direct: bool = False,
        creation_content: Mapping[str, Any] | None = None,
    ) -> RoomId:
        """Made once per transaction ID. `trusted` users get the creator's level, as in direct
        chats. `listed`: in our list of rooms. `creation_content`: more of the create event, such
        as `type`. Raises `Refused` when the alias names another room or is not ours to give,
        `BadInput` when rooms of the version are only joined."""
        get_creatable(version.id)
        there = await self._database.read(
            lambda tx: event_rows.find_local_transaction(tx, transaction_id)
        )
        if there is not None:
            return there[0]
        if server_of(creator) != self._server_name:
            raise Refused(f"{creator} is no user of ours", rule="sender")
        if alias is not None and server_of(alias) != self._server_name:
            raise Refused(f"{alias} is no name of ours to give", rule="alias")
        for number in range(MAX_ATTEMPTS):
            # Where the room's ID is a hash, two rooms of one creator in one millisecond are one:
            # the later one takes the next millisecond.
            create = self._create_event(
                creator, version, self._clock.now_ms() + number, creation_content or {}
            )
            plan = self._appender.plan_new(create.room_id, version)
            await self._appender.add(
                plan, create, before=Snapshot(EMPTY), trace_id=trace_id, outgoing=True
            )
            wanted = _first_state(
                version=version,
                creator=creator,
                name=name,
                topic=topic,
                alias=alias,
                public=public,
                trusted=trusted,
                profile=profile,
                is_direct=is_direct,
            )
            for kind, state_key, content in wanted:
                draft = Draft(
                    room_id=create.room_id,
                    type=kind,
                    sender=creator,
                    content=content,
                    state_key=state_key,
                )
                await self._sender.add(plan, draft, trace_id=trace_id)
            if alias is not None:
                plan.also.append(_name_room(alias, create.room_id, creator))
            if listed:
                plan.also.append(self._list_room(plan, creator))
            try:
                async with self._appender.locked(create.room_id):
                    await self._appender.commit(plan, transaction_id=transaction_id)
            except Repeated as before:
                return before.room_id
            except Conflict:
                continue
            return create.room_id
        raise Unavailable("too many rooms are made at once")

    def _create_event(
        self, creator: UserId, version: RoomVersion, at_ms: int, more: Mapping[str, Any]
    ) -> Pdu:
        hashed = version.event_format.room_id_from_create
        content: dict[str, Any] = {**more, "room_version": version.id}
        if version.auth.creator_in_content:
            content["creator"] = creator
        room_id = None if hashed else RoomId(f"!{self._random_text()}:{self._server_name}")
        return build_pdu(
            Draft(
                room_id=room_id,
                type="m.room.create",
                sender=creator,
                content=content,
                state_key="",
            ),
            prev_events=(),
            auth_events=(),
            version=version,
            key=self._key,
            server=self._server_name,
            origin_server_ts=at_ms,
        )

    def _list_room(self, plan: Plan, creator: UserId) -> Callable[[Transaction], None]:
        listing = listing_of({key: pdu for key, pdu in plan.listed.items() if pdu is not None})

        def write(tx: Transaction) -> None:
            published.put(
                tx,
                plan.room.room_id,
                listing,
                joined=True,
                by=creator,
                now_ms=self._clock.now_ms(),
            )

        return write


def member_content(
    membership: str,
    profile: UserProfile | None,
    *,
    reason: str | None = None,
    is_direct: bool = False,
) -> dict[str, Any]:
    content: dict[str, Any] = {"membership": membership}
    if profile is not None and profile.displayname is not None:
        content["displayname"] = profile.displayname
    if profile is not None and profile.avatar_url is not None:
        content["avatar_url"] = profile.avatar_url
    if reason is not None:
        content["reason"] = reason
    if is_direct:
        content["is_direct"] = True
    return content


def _first_state(
    *,
    version: RoomVersion,
    creator: UserId,
    name: str | None,
    topic: str | None,
    alias: RoomAlias | None,
    public: bool,
    trusted: Sequence[UserId],
    profile: UserProfile | None,
    is_direct: bool,
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "m.room.member", creator, member_content("join", profile)
    yield "m.room.power_levels", "", _power_levels(version, creator, trusted, is_direct=is_direct)
    if alias is not None:
        yield "m.room.canonical_alias", "", {"alias": alias}
    yield "m.room.join_rules", "", {"join_rule": "public" if public else "invite"}
    yield "m.room.history_visibility", "", {"history_visibility": "shared"}
    yield "m.room.guest_access", "", {"guest_access": "forbidden" if public else "can_join"}
    if name is not None:
        yield "m.room.name", "", {"name": name}
    if topic is not None:
        yield "m.room.topic", "", {"topic": topic}


def _power_levels(
    version: RoomVersion, creator: UserId, trusted: Sequence[UserId], *, is_direct: bool
) -> dict[str, Any]:
    users = dict.fromkeys(trusted, 100)
    if not version.auth.privileged_creators:
        users[creator] = 100
    levels = dict(_STATE_LEVELS)
    if version.auth.privileged_creators:
        levels["m.room.tombstone"] = 150  # Only creators, as the specification advises.
    return {
        "users": users,
        "users_default": 0,
        "events": levels,
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0 if is_direct else 50,
        "notifications": {"room": 50},
    }


def _name_room(alias: RoomAlias, room_id: RoomId, creator: UserId) -> Callable[[Transaction], None]:
    def write(tx: Transaction) -> None:
        alias_rows.put(tx, alias, room_id=room_id, creator=creator)

    return write
