"""What is true in a room now, and who must hear of an event."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels
from bridge.engine.state import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS
from bridge.engine.versions import RoomVersion, get_version
from bridge.errors import BadInput, NotFound
from bridge.ids import EventId, RoomId, ServerName, UserId, parse_user_id, server_of
from bridge.rooms.load import KnownEvent, Room, RoomStates, Snapshot, to_known
from bridge.rooms.servers import JoinedServers
from bridge.rooms.visibility import ACL, is_server_allowed, may_read
from bridge.storage import events as event_rows
from bridge.storage import invites
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction
from bridge.storage.events import StreamedEvent
from bridge.storage.invites import InviteRow

MAX_MEMBERS = 200_000
MAX_HEROES = 5
MAX_TIMELINE = 1_000
MAX_REMEMBERED = 1_000
MAX_LOOKED_BACK = 2_000
"""Events of the graph between an event and what it may not have seen."""
MAX_DIRECT_MEMBERS = 20
"""A room with more member events is no direct chat, whatever an invite said."""

NAME = ("m.room.name", "")
TOPIC = ("m.room.topic", "")
ALIAS = ("m.room.canonical_alias", "")
ENCRYPTION = ("m.room.encryption", "")
TOMBSTONE = ("m.room.tombstone", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSummary:
    """The named state of a room, as events; absent where the room has none."""

    room_id: RoomId
    version: RoomVersion
    name: Pdu | None
    topic: Pdu | None
    alias: Pdu | None
    join_rules: Pdu | None
    encryption: Pdu | None
    tombstone: Pdu | None
    is_direct: bool
    position: int
    """Newest position of the stream in this room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEvent:
    """An event of the arrival order, with what readers of a stream need around it."""

    position: int
    pdu: Pdu
    outgoing: bool
    transaction_id: str | None
    trace_id: str
    redacted: bool
    previous_membership: str | None
    invite: InviteRow | None
    """For an invite to a room that we are not in."""
    applies: bool = True
    """False for a redaction that did not take effect: readers must not act on it."""


class RoomQueries:
    """Reads; nothing here changes a room."""

    def __init__(self, *, server_name: ServerName, database: Database, states: RoomStates) -> None:
        self._server_name = server_name
        self._database = database
        self._states = states
        self._joined = JoinedServers(database=database, states=states)
        self._direct: OrderedDict[tuple[RoomId, int], bool] = OrderedDict()

    # --- servers ----------------------------------------------------------------------------

    async def servers(self, room_id: RoomId) -> frozenset[ServerName]:
        """Servers with a joined user now, ours included."""
        return await self._database.read(lambda tx: room_rows.servers(tx, room_id))

    async def servers_now(self, room_id: RoomId) -> frozenset[ServerName]:
        """The same from memory, as far as possible; none of a room that we are not in."""
        room = await self._states.find_room(room_id)
        if room is None or not room.joined:
            return frozenset()
        try:
            return await self.servers_at(room_id, room.snapshot)
        except NotFound:
            return frozenset()  # it was purged meanwhile

    async def servers_around(self, user_id: UserId) -> frozenset[ServerName]:
        """Servers with a joined user in a room where this user is."""
        found: set[ServerName] = set()
        for room_id in await self.joined_rooms(user_id):
            found |= await self.servers_now(room_id)
        return frozenset(found)

    async def servers_at(self, room_id: RoomId, snapshot: Snapshot) -> frozenset[ServerName]:
        """Servers with a joined user in a state of the room, ours included."""
        return await self._joined.of(room_id, snapshot)

    async def entrance(self, room_id: RoomId, server: ServerName) -> EventId | None:
        """An event by which a server can tell that it is in: the joining of a user of its own."""
        return await self._database.read(lambda tx: room_rows.entrance(tx, room_id, server))

    async def neighbours(self) -> frozenset[ServerName]:
        """Every other server that we share a room with."""
        return await self._database.read(room_rows.neighbours) - {self._server_name}

    async def destinations(self, event_id: EventId) -> frozenset[ServerName]:
        """Who must be sent this event of ours: servers joined in the state before it, the server
        of a user who is kicked or whose invite is taken back, everybody but the joining server for
        one that we let in, those included who came in meanwhile. Never ourselves. (An invite itself
        was given to the invited server before it was appended.)"""
        known = await self._states.event(event_id)
        before = await self._states.before(known)
        wanted = set(await self._joined.of(known.pdu.room_id, before))
        pdu = known.pdu
        if pdu.sender_server != self._server_name:
            # Whoever came in at the same time is not in the state before it.
            wanted |= await self.servers(pdu.room_id)
        if pdu.membership not in (None, "invite"):
            # Whatever a ban names: what is no user has no server.
            with suppress(BadInput):
                wanted.add(server_of(parse_user_id(pdu.state_key)))
        return frozenset(wanted - {self._server_name, pdu.sender_server})

    async def entered(self, event_id: EventId) -> tuple[ServerName, int] | None:
        """For the join of another server's user that we let in: the server, and the position of
        the newest event on which the join stands. What lies between is not in the state or the past
        that the server was given. None where that is not known."""
        known = await self._states.event(event_id)
        pdu = known.pdu
        if pdu.membership != "join" or pdu.sender_server == self._server_name:
            return None
        places = await self._database.read(lambda tx: event_rows.positions(tx, pdu.prev_events))
        if len(places) < len(set(pdu.prev_events)):
            return None
        return pdu.sender_server, max(places.values(), default=0)

    async def is_server_allowed(self, room_id: RoomId, server: ServerName) -> bool:
        """The room's server ACL (true where there is none). Spec: S2S, server ACLs."""
        room = await self._states.find_room(room_id)
        if room is None:
            return True
        acl = (await self._states.pick(room.state, (ACL,))).get(ACL)
        return is_server_allowed(None if acl is None else acl.content, server)

    # --- rooms and members ------------------------------------------------------------------

    async def joined_rooms(self, user_id: UserId) -> frozenset[RoomId]:
        rooms = await self._database.read(lambda tx: room_rows.rooms_of(tx, user_id, ("join",)))
        return frozenset(rooms)

    async def summary(self, room_id: RoomId) -> RoomSummary:
        """Raises `NotFound` unless we are in the room."""
        position = await self._database.read(lambda tx: event_rows.newest_position(tx, room_id))
        room = await self._states.joined_room(room_id)
        found = await self._states.pick(
            room.state, (NAME, TOPIC, ALIAS, JOIN_RULES, ENCRYPTION, TOMBSTONE)
        )
        return RoomSummary(
            room_id=room_id,
            version=room.version,
            name=found.get(NAME),
            topic=found.get(TOPIC),
            alias=found.get(ALIAS),
            join_rules=found.get(JOIN_RULES),
            encryption=found.get(ENCRYPTION),
            tombstone=found.get(TOMBSTONE),
            is_direct=await self._is_direct(room),
            position=position,
        )

    async def _is_direct(self, room: Room) -> bool:
        members = sum(1 for kind, _ in room.state if kind == MEMBER)
        if members > MAX_DIRECT_MEMBERS:
            return False
        # Looked for among all events of the room: remembered as long as its state is the same.
        key = (room.room_id, room.snapshot.row_id or 0)
        found = self._direct.get(key)
        if found is None:
            found = await self._database.read(
                lambda tx: event_rows.has_direct_invite(tx, room.room_id)
            )
            if key[1]:
                self._direct[key] = found
            while len(self._direct) > MAX_REMEMBERED:
                self._direct.popitem(last=False)
        return found

    async def power(self, room_id: RoomId) -> PowerLevels:
        room = await self._states.joined_room(room_id)
        found = await self._states.pick(room.state, (CREATE, POWER_LEVELS))
        return PowerLevels.of(found.get(POWER_LEVELS), found.get(CREATE))

    async def state(self, room_id: RoomId, type: str) -> list[Pdu]:
        """The current state events of a type, by state key; at most `MAX_MEMBERS`."""
        room = await self._states.joined_room(room_id)
        keys = sorted(key for key in room.state if key[0] == type)[:MAX_MEMBERS]
        found = await self._states.pick(room.state, keys)
        return [found[key] for key in keys if key in found]

    async def members(self, room_id: RoomId, memberships: Collection[str]) -> list[Pdu]:
        """Member events of the current state, in the order in which they came."""
        await self._states.joined_room(room_id)
        rows = await self._database.read(
            lambda tx: room_rows.members(tx, room_id, memberships, limit=MAX_MEMBERS)
        )
        found = await self._states.events([row.event_id for row in rows])
        return [found[row.event_id].pdu for row in rows if row.event_id in found]

    async def heroes(self, room_id: RoomId, without: UserId) -> list[UserId]:
        """Who a room without a name is called by: the first who are joined or invited, else the
        first of those who were. Spec: client-server API, GET /sync, m.heroes."""

        def unit(tx: Transaction) -> list[UserId]:
            for memberships in (("join", "invite"), ("leave", "ban")):
                rows = room_rows.members(tx, room_id, memberships, limit=MAX_HEROES + 1)
                found = [row.user_id for row in rows if row.user_id != without]
                if found:
                    return found[:MAX_HEROES]
            return []

        return await self._database.read(unit)

    async def member(self, room_id: RoomId, user_id: UserId) -> Pdu | None:
        """The member event, also of an invite to a room that we are not in."""
        room = await self._states.find_room(room_id)
        event_id = None if room is None or not room.joined else room.state.get((MEMBER, user_id))
        if event_id is None:
            row = await self._database.read(lambda tx: room_rows.member(tx, room_id, user_id))
            if row is None:
                return None
            event_id = row.event_id
        known = (await self._states.events([event_id])).get(event_id)
        return None if known is None else known.pdu

    async def closest(
        self, room_id: RoomId, at_ms: int, *, forwards: bool, limit: int, skip: int
    ) -> list[KnownEvent]:
        """Accepted events at that time, and after or before it, the closest first."""
        room = await self._states.joined_room(room_id)
        rows = await self._database.read(
            lambda tx: event_rows.closest(
                tx, room_id, at_ms, forwards=forwards, limit=limit, skip=skip
            )
        )
        return [to_known(row, room.version) for row in rows]

    # --- arrival order ----------------------------------------------------------------------

    async def timeline(
        self,
        room_id: RoomId,
        *,
        limit: int,
        before: int | None = None,
        viewer: UserId | None = None,
    ) -> list[TimelineEvent]:
        """The newest events up to position `before` (inclusive), oldest first; of these, with a
        `viewer`, what the room's history visibility shows them."""
        room = await self._states.joined_room(room_id)
        rows = await self._database.read(
            lambda tx: event_rows.timeline(
                tx, room_id, limit=max(0, min(limit, MAX_TIMELINE)), before=before
            )
        )
        if viewer is not None:
            rows = await self._readable(room, rows, viewer)
        return await self._to_timeline(rows)

    async def _readable(
        self, room: Room, rows: Sequence[StreamedEvent], viewer: UserId
    ) -> list[StreamedEvent]:
        own = (MEMBER, viewer)
        member = (await self._states.pick(room.state, (own,))).get(own)
        is_joined = member is not None and member.membership == "join"
        known = await self._states.events([row.event.event_id for row in rows])
        return [
            row
            for row in rows
            if (one := known.get(row.event.event_id)) is not None
            and await may_read(self._states, one, viewer, is_joined=is_joined)
        ]

    async def outside_past(
        self, heads: Sequence[EventId], candidates: Sequence[EventId]
    ) -> list[EventId]:
        """Of events of a room those that are neither one of these heads nor in their past. None
        where looking that far back is too much. `NotFound`: a head that we do not have."""
        known = await self._states.events([*heads, *candidates])
        there = [one for one in candidates if one in known]
        if any(head not in known for head in heads):
            raise NotFound("not every head is here")
        floor = min((known[one].pdu.depth for one in there), default=0)
        seen: set[EventId] = set()
        edge = set(heads)
        while edge:
            if len(seen) > MAX_LOOKED_BACK:
                return []
            seen |= edge
            found = await self._states.events(sorted(edge))
            edge = {
                before
                for one in found.values()
                if one.pdu.depth > floor
                for before in one.pdu.prev_events
            } - seen
        return [one for one in there if one not in seen]

    async def streamed(self, event_ids: Sequence[EventId]) -> dict[EventId, TimelineEvent]:
        """Events of the arrival order; those of purged rooms are missing."""
        rows = await self._database.read(lambda tx: event_rows.streamed(tx, event_ids))
        return {one.pdu.event_id: one for one in await self._to_timeline(list(rows.values()))}

    async def _to_timeline(self, rows: Sequence[StreamedEvent]) -> list[TimelineEvent]:
        def unit(
            tx: Transaction,
        ) -> tuple[dict[RoomId, room_rows.RoomRow | None], dict[EventId, InviteRow]]:
            ids = {row.event.room_id for row in rows}
            rooms = {room_id: room_rows.find(tx, room_id) for room_id in ids}
            found: dict[EventId, InviteRow] = {}
            for row in rows:
                if row.event.outlier and row.event.state_key is not None:
                    invite = invites.find(tx, row.event.room_id, UserId(row.event.state_key))
                    if invite is not None and invite.event_id == row.event.event_id:
                        found[row.event.event_id] = invite
            return rooms, found

        rooms, invited = await self._database.read(unit)
        known = {
            row.event.event_id: to_known(row.event, get_version(room.version))
            for row in rows
            if (room := rooms[row.event.room_id]) is not None
        }
        without_effect = await self._without_effect([one.pdu for one in known.values()])
        return [
            TimelineEvent(
                position=row.position,
                pdu=one.pdu,
                outgoing=row.outgoing,
                transaction_id=row.transaction_id,
                trace_id=row.event.trace_id,
                redacted=one.redacted,
                previous_membership=await self._previous_membership(row, one.pdu),
                invite=invited.get(row.event.event_id),
                applies=row.event.event_id not in without_effect,
            )
            for row in rows
            if (one := known.get(row.event.event_id)) is not None
        ]

    async def _without_effect(self, pdus: Sequence[Pdu]) -> set[EventId]:
        """Redactions that did not apply to what they name, as far as we have it."""
        targets = {pdu.event_id: pdu.redacts for pdu in pdus if pdu.type == "m.room.redaction"}
        if not targets:
            return set()
        wanted = [target for target in targets.values() if target is not None]
        done = await self._database.read(lambda tx: event_rows.find_redacted_by(tx, wanted))
        return {
            event_id
            for event_id, target in targets.items()
            if target is None or done.get(target) != event_id
        }

    async def _previous_membership(self, row: StreamedEvent, pdu: Pdu) -> str | None:
        key = pdu.key
        if key is None or key[0] != MEMBER:
            return None
        if row.event.snapshot_before is None:
            # From outside: its auth events name the member event that it follows.
            named = await self._states.events(pdu.auth_events)
            followed = [one.pdu.membership for one in named.values() if one.pdu.key == key]
            if followed:
                return followed[0]
            return "invite" if pdu.membership == "leave" else None
        try:
            before = await self._states.snapshot(row.event.snapshot_before)
        except NotFound:
            return None
        previous = (await self._states.pick(before.state, (key,))).get(key)
        return None if previous is None else previous.membership
