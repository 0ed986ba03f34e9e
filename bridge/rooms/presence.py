"""Who is there: told by other servers, and told to those who share a room with somebody of ours.

Only what changed is told, and at a bounded rate, so that neither a big room nor many people coming
at once is a storm. A server that comes into a room newly is told of our users there; somebody of
ours who comes in is told to the servers there. Who is there is told again before peers forget it.
Spec: S2S, presence; C2S, presence.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject
from bridge.engine.edu import Presence, PresenceEdu, parse_edu
from bridge.errors import BadInput, IsthmusError, Refused, Unavailable
from bridge.ids import EventId, RoomId, ServerName, UserId, server_of
from bridge.rooms.network import Json
from bridge.rooms.passing import Door, Outlet, PassingEdus, UserPresence
from bridge.rooms.query import RoomQueries
from bridge.storage import events as event_rows
from bridge.storage import rooms as room_rows
from bridge.storage import streams
from bridge.storage.database import Database, Transaction
from bridge.storage.schema import stream_events
from bridge.telemetry.log import get_logger

MAX_OTHERS = 50_000
MAX_OWN = 50_000
MAX_STRANGERS = 1_000
STRANGE_S = 60.0
"""How long somebody's presence may come before their joining."""
FORGET_S = 35 * 60.0
"""A server that says nothing of a user for so long is taken to be gone. Established servers say it
again every 25 minutes."""
REFRESH_S = 20 * 60.0
"""They forget after 30 minutes."""
MAX_AGE_S = 120.0
PER_EDU = 50
TELLINGS_PER_TICK = 500
"""Pairs of a user and a peer."""
MAX_STATUS = 1_000
LOOK_AGAIN_S = 60.0
GATHER_S = 1.0
READ = 500
PRESENCES = frozenset({"online", "unavailable", "offline"})

log = get_logger("rooms")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    value: UserPresence
    at_s: float


@dataclass(slots=True)
class _Own:
    value: UserPresence
    told_s: float


class Presences:
    """`enabled` false: nothing is told, and nothing heard."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        database: Database,
        door: Door,
        queries: RoomQueries,
        outlet: Outlet,
        clock: Clock,
        enabled: bool = True,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._door = door
        self._queries = queries
        self._outlet = outlet
        self._clock = clock
        self.enabled = enabled
        self._others: OrderedDict[UserId, _Heard] = OrderedDict()
        self._own: OrderedDict[UserId, _Own] = OrderedDict()
        self._strangers: OrderedDict[UserId, tuple[Presence, float]] = OrderedDict()
        """Of whom we do not know that they are in a room with us: they may be about to join."""
        self._changed: dict[UserId, None] = {}
        """Users of ours whom everybody around must be told of."""
        self._arrived: dict[tuple[RoomId, UserId], None] = {}
        """Users of ours who came into a room."""
        self._newcomers: dict[tuple[RoomId, ServerName], None] = {}
        self._budget = TELLINGS_PER_TICK
        self._looked_s = clock.monotonic_s()
        self.source = PassingEdus[UserPresence](
            clock=clock, to_edu=self._to_edu, max_age_s=MAX_AGE_S, per_edu=PER_EDU
        )

    def of(self, user_id: UserId) -> UserPresence | None:
        """What we know of somebody."""
        own, heard = self._own.get(user_id), self._others.get(user_id)
        if own is not None:
            return own.value
        return None if heard is None else heard.value

    # --- in -----------------------------------------------------------------------------------

    async def take(self, origin: ServerName, content: Json) -> None:
        edu = parse_edu({"edu_type": "m.presence", "content": content})
        if not isinstance(edu, PresenceEdu):
            raise BadInput("no presence")
        if not self.enabled:
            raise Refused("presence is switched off here", rule="presence")
        theirs = [one for one in edu.presences if server_of(one.user_id) == origin]
        users = {one.user_id for one in theirs}
        known = await self._database.read(partial(room_rows.joined_anywhere, users=users))
        heard = frozenset(user_id for user_id in known if self._door.is_heard(user_id))
        for one in theirs:
            if one.user_id in heard:
                self._hear(one)
            elif one.user_id not in known:
                self._remember(one)
        if edu.presences and not heard:
            raise Refused("nobody's presence", rule="edu")

    def _remember(self, one: Presence) -> None:
        self._strangers[one.user_id] = (one, self._clock.monotonic_s())
        self._strangers.move_to_end(one.user_id)
        while len(self._strangers) > MAX_STRANGERS:
            self._strangers.popitem(last=False)

    def _hear(self, one: Presence) -> None:
        before = self._others.get(one.user_id)
        ago_ms = one.last_active_ago_ms
        value = UserPresence(
            user_id=one.user_id,
            presence=one.presence,
            status=one.status or None,
            last_active_ms=None if ago_ms is None else max(0, self._clock.now_ms() - ago_ms),
            currently_active=one.currently_active,
        )
        self._others[one.user_id] = _Heard(value=value, at_s=self._clock.monotonic_s())
        self._others.move_to_end(one.user_id)
        if before is None or _shown(before.value) != _shown(value):
            self._outlet.tell(value)
        while len(self._others) > MAX_OTHERS:
            self._others.popitem(last=False)

    # --- out ----------------------------------------------------------------------------------

    def set(self, user_id: UserId, presence: str, *, status: str | None = None) -> None:
        """How one of our users is there now. Raises `Refused`, `BadInput`."""
        if server_of(user_id) != self._server_name:
            raise Refused(f"{user_id} is no user of ours", rule="sender")
        if presence not in PRESENCES:
            raise BadInput("no presence")
        if not self.enabled:
            return
        before = self._own.get(user_id)
        now_ms = self._clock.now_ms()
        is_online = presence == "online"
        active_ms = now_ms if is_online or before is None else before.value.last_active_ms
        value = UserPresence(
            user_id=user_id,
            presence=presence,
            status=(status or "")[:MAX_STATUS] or None,
            last_active_ms=active_ms,
            currently_active=is_online,
        )
        told_s = self._clock.monotonic_s() if before is None else before.told_s
        self._own[user_id] = _Own(value=value, told_s=told_s)
        self._own.move_to_end(user_id)
        if before is None or _shown(before.value) != _shown(value):
            self._changed[user_id] = None
        while len(self._own) > MAX_OWN:
            gone, _ = self._own.popitem(last=False)
            self._changed.pop(gone, None)

    async def tick(self) -> None:
        """Tells some of what there is to tell."""
        self._expire()
        self._budget = min(TELLINGS_PER_TICK, self._budget + TELLINGS_PER_TICK)
        while self._budget > 0 and self._changed:
            user_id = next(iter(self._changed))
            around = await self._queries.servers_around(user_id)
            self._changed.pop(user_id, None)
            self._tell_all([user_id], self._outlet.peers(around))
        while self._budget > 0 and self._arrived:
            room_id, user_id = next(iter(self._arrived))
            servers = await self._queries.servers_now(room_id)
            self._arrived.pop((room_id, user_id), None)
            self._tell_all([user_id], self._outlet.peers(servers))
        while self._budget > 0 and self._newcomers:
            room_id, server = next(iter(self._newcomers))
            ours = await self._ours_in(room_id)
            self._newcomers.pop((room_id, server), None)
            self._tell_all(ours, self._outlet.peers([server]))

    def _tell_all(self, users: Collection[UserId], peers: Sequence[ServerName]) -> None:
        self._budget -= 1
        now_s = self._clock.monotonic_s()
        for user_id in users:
            own = self._own.get(user_id)
            if own is None:
                continue
            own.told_s = now_s
            for peer in peers:
                self.source.put(peer, user_id, own.value)
            self._budget -= len(peers)
        for peer in peers if users else ():
            self._outlet.wake(peer)

    def _expire(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s < LOOK_AGAIN_S:
            return
        self._looked_s = now_s
        while self._strangers:
            stranger, (_, since_s) = next(iter(self._strangers.items()))
            if now_s - since_s < STRANGE_S:
                break
            del self._strangers[stranger]
        for user_id, own in self._own.items():
            if own.value.presence != "offline" and now_s - own.told_s >= REFRESH_S:
                self._changed[user_id] = None
        while self._others:
            user_id, heard = next(iter(self._others.items()))
            if now_s - heard.at_s < FORGET_S:
                break
            del self._others[user_id]
            if heard.value.presence != "offline":
                self._outlet.tell(
                    UserPresence(
                        user_id=user_id,
                        presence="offline",
                        status=None,
                        last_active_ms=heard.value.last_active_ms,
                        currently_active=False,
                    )
                )

    def _meet(self, user_id: UserId) -> None:
        presence, since_s = self._strangers.pop(user_id, (None, 0.0))
        if presence is None or self._clock.monotonic_s() - since_s > STRANGE_S:
            return
        if self._door.is_heard(user_id):
            self._hear(presence)

    async def _ours_in(self, room_id: RoomId) -> list[UserId]:
        def unit(tx: Transaction) -> list[UserId]:
            rows = room_rows.members(
                tx, room_id, ("join",), limit=MAX_OWN, server=self._server_name
            )
            return [row.user_id for row in rows]

        users = await self._database.read(unit)
        return [one for one in users if self._is_there(one)]

    def _is_there(self, user_id: UserId) -> bool:
        own = self._own.get(user_id)
        return own is not None and own.value.presence != "offline"

    def _to_edu(self, values: Sequence[UserPresence]) -> JsonObject:
        return {"edu_type": "m.presence", "content": {"push": [self._push(one) for one in values]}}

    def _push(self, one: UserPresence) -> JsonObject:
        now_ms = self._clock.now_ms()
        active_ms = now_ms if one.last_active_ms is None else one.last_active_ms
        entry: JsonObject = {
            "user_id": one.user_id,
            "presence": one.presence,
            "last_active_ago": max(0, now_ms - active_ms),
            "currently_active": one.currently_active,
        }
        if one.status is not None:
            entry["status_msg"] = one.status
        return entry

    # --- who comes in -------------------------------------------------------------------------

    async def watch(self) -> None:
        """For ever: reads who joins, a second's worth at once, as long as somebody is there."""
        waker = self._database.waker(stream_events.name)
        position = await self._head(None)
        while True:
            await waker.wait(LOOK_AGAIN_S)
            await self._clock.sleep(GATHER_S)
            try:
                if self._strangers or any(map(self._is_there, self._own)):
                    position = await self._read(position)
                else:
                    position = await self._head(position)
            except IsthmusError as exc:
                log.warning("who comes in is not seen for now", reason=exc.reason)

    async def _head(self, before: int | None) -> int:
        try:
            return await self._database.read(partial(streams.head, table=stream_events))
        except Unavailable:
            return before or 0

    async def _read(self, position: int) -> int:
        """Up to which position the stream was read."""
        while True:

            def unit(tx: Transaction, after: int = position) -> tuple[int, int, list[EventId]]:
                rows = streams.read_since(tx, stream_events, after, READ)
                ids = [EventId(row["event_id"]) for row in rows if not row["historic"]]
                last = rows[-1]["position"] if rows else after
                return last, len(rows), event_rows.of_members(tx, ids)

            position, count, member_ids = await self._database.read(unit)
            if member_ids:
                await self._see_joins(member_ids)
            if count < READ:
                return position

    async def _see_joins(self, event_ids: Sequence[EventId]) -> None:
        found = await self._queries.streamed(event_ids)
        newly: Counter[tuple[RoomId, ServerName]] = Counter()
        for one in found.values():
            if one.pdu.membership != "join" or one.previous_membership == "join":
                continue
            user_id = UserId(one.pdu.state_key or "")
            if server_of(user_id) == self._server_name:
                if self._is_there(user_id) and user_id not in self._changed:
                    self._arrived[one.pdu.room_id, user_id] = None
            else:
                newly[one.pdu.room_id, server_of(user_id)] += 1
                self._meet(user_id)

        def unit(tx: Transaction) -> list[tuple[RoomId, ServerName]]:
            return [
                (room_id, server)
                for (room_id, server), joined in newly.items()
                if room_rows.count_joined(tx, room_id, server) <= joined
            ]

        if newly and any(map(self._is_there, self._own)):
            self._newcomers.update(dict.fromkeys(await self._database.read(unit)))


def _shown(value: UserPresence) -> tuple[str, str | None, bool]:
    return value.presence, value.status, value.currently_active
