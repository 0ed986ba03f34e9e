"""Rooms that we are not in: invites of our users, their knocks, and how those end.

Such an event is an outlier with a place in the arrival order, so that the bridge side hears of it.
A knock ends by an invite, by our own leave, or by a leave or ban that a server of the room sends
us: any of them, hence the event must name the knock among its auth events, which nobody outside
the room can. Spec: S2S, inviting to a room; knocking upon a room; leaving rooms (rejecting invites,
taking back knocks).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bridge.clock import Clock
from bridge.engine.canonical import encode_canonical
from bridge.engine.pdu import Pdu
from bridge.engine.versions import VERSIONS, RoomVersion
from bridge.errors import BadInput, Refused, Unavailable
from bridge.ids import RoomId, RoomVersionId, ServerName, TraceId, UserId, server_of
from bridge.rooms.append import EVENTS_TOPIC, event_row, member_row
from bridge.rooms.load import KnownEvent
from bridge.rooms.verify import Verifier
from bridge.storage import events as event_rows
from bridge.storage import invites, streams, version_hints
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction
from bridge.storage.invites import InviteRow
from bridge.storage.schema import stream_events

MAX_STRIPPED_EVENTS = 30
MAX_STRIPPED_BYTES = 65_536
"""Of one event of the stripped state."""
STRIPPED_KEYS = ("type", "state_key", "content", "sender")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideBounds:
    """What may wait for an answer."""

    invites_per_server: int = 5_000
    """Of one server, altogether ..."""
    invites_per_user: int = 100
    """... and for one of our users."""
    knocks_per_user: int = 100
    """Of one of our users."""


class Outside:
    """Keeps invites from outside, and knocks on rooms outside."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        database: Database,
        verifier: Verifier,
        clock: Clock,
        bounds: OutsideBounds | None = None,
    ) -> None:
        self._bounds = bounds or OutsideBounds()
        self._server_name = server_name
        self._database = database
        self._verifier = verifier
        self._clock = clock

    async def find_invite(self, room_id: RoomId, user_id: UserId) -> InviteRow | None:
        return await self._database.read(lambda tx: invites.find(tx, room_id, user_id))

    async def may_end(self, room_id: RoomId, server: ServerName) -> bool:
        """Whether something waits that this server may end: its invite, or a knock of ours."""

        def unit(tx: Transaction) -> bool:
            rows = invites.of_room(tx, room_id)
            return any(row.origin == server or _is_knock(tx, row) for row in rows)

        return await self._database.read(unit)

    async def find_knock(self, room_id: RoomId, user_id: UserId) -> InviteRow | None:
        """The knock that waits for an answer. Raises `Refused` where too many do, and none here."""

        def unit(tx: Transaction) -> InviteRow | None:
            row = invites.find(tx, room_id, user_id)
            if row is not None and _is_knock(tx, row):
                return row
            waiting = invites.count(tx, membership="knock", user_id=user_id)
            if waiting >= self._bounds.knocks_per_user:
                raise Refused(f"too many knocks of {user_id} wait", rule="knocks")
            return None

        return await self._database.read(unit)

    async def note_versions(self, server: ServerName, versions: Collection[RoomVersionId]) -> None:
        """It said that it speaks these. Only what decides something is kept: extensible ones."""
        spoken = {one: True for one in versions if one in VERSIONS and _is_extensible(one)}
        if not spoken:
            return
        known = await self._database.read(lambda tx: version_hints.find(tx, server))
        if any(known.get(one) is not True for one in spoken):
            await self._database.write(lambda tx: version_hints.put(tx, server, spoken))

    async def store_invite(
        self,
        pdu: Pdu,
        *,
        origin: ServerName,
        room_state: Sequence[object],
        trace_id: TraceId,
    ) -> None:
        """A verified invite that we signed. The same one again changes nothing.

        Raises `Unavailable` when too many of this server wait for an answer, `BadInput` where we
        know the room by another version.
        """
        now_ms = self._clock.now_ms()
        user_id = UserId(pdu.state_key or "")
        row = InviteRow(
            room_id=pdu.room_id,
            user_id=user_id,
            event_id=pdu.event_id,
            origin=origin,
            room_state=_stripped(room_state),
            received_ms=now_ms,
        )

        def unit(tx: Transaction) -> None:
            if pdu.event_id in event_rows.find_known(tx, [pdu.event_id]):
                return
            waiting = partial(invites.count, tx, membership="invite", origin=origin)
            if (
                waiting() >= self._bounds.invites_per_server
                or waiting(user_id=user_id) >= self._bounds.invites_per_user
            ):
                raise Unavailable(f"too many invites of {origin} wait", retry_after_s=3_600)
            self._learn_version(tx, pdu)
            invites.put(tx, row)
            # Whoever invites into a version speaks it.
            version_hints.put(tx, origin, {pdu.version.id: True})
            self._write(tx, pdu, trace_id, now_ms)

        await self._database.write(unit)

    async def store_knock(
        self, pdu: Pdu, *, peer: ServerName, room_state: Sequence[object], trace_id: TraceId
    ) -> None:
        """Our knock, which that server let into the room."""
        now_ms = self._clock.now_ms()
        row = InviteRow(
            room_id=pdu.room_id,
            user_id=UserId(pdu.sender),
            event_id=pdu.event_id,
            origin=peer,
            room_state=_stripped(room_state),
            received_ms=now_ms,
        )

        def unit(tx: Transaction) -> None:
            self._learn_version(tx, pdu)
            invites.put(tx, row)
            version_hints.put(tx, peer, {pdu.version.id: True})
            self._write(tx, pdu, trace_id, now_ms)

        await self._database.write(unit)

    async def end(self, origin: ServerName, pdu: Pdu, *, trace_id: TraceId) -> None:
        """A peer takes an invite back, or refuses a knock. Raises `Refused` for anything else."""
        target = pdu.state_key
        if (
            pdu.membership not in ("leave", "ban")
            or target is None
            or server_of(UserId(target)) != self._server_name
        ):
            raise Refused("we are not in this room", rule="room")
        user_id = UserId(target)

        def unit(tx: Transaction) -> bool:
            row = invites.find(tx, pdu.room_id, user_id)
            if row is None:
                return False
            if _is_knock(tx, row):
                return row.event_id in pdu.auth_events
            return row.origin == origin

        if pdu.sender_server != origin or not await self._database.read(unit):
            raise Refused("there is no such invite or knock", rule="invite")
        checked = await self._verifier.check(pdu)
        await self.put_end(checked, trace_id=trace_id)

    async def put_end(self, pdu: Pdu, *, trace_id: TraceId) -> None:
        """The user is no longer invited, or knocks no longer: by our word or theirs."""
        now_ms = self._clock.now_ms()
        user_id = UserId(pdu.state_key or "")

        def unit(tx: Transaction) -> None:
            invites.remove(tx, pdu.room_id, user_id)
            self._write(tx, pdu, trace_id, now_ms)

        await self._database.write(unit)

    async def forget_invite(self, room_id: RoomId, user_id: UserId) -> None:
        """Nobody is there who could be told."""

        def unit(tx: Transaction) -> None:
            invites.remove(tx, room_id, user_id)
            row = room_rows.member(tx, room_id, user_id)
            if row is not None and row.membership in ("invite", "knock"):
                room_rows.set_members(tx, room_id, changed=(), gone=(user_id,))

        await self._database.write(unit)

    def _write(self, tx: Transaction, pdu: Pdu, trace_id: TraceId, now_ms: int) -> None:
        self._ensure_room(tx, pdu.room_id, pdu.version)
        if pdu.event_id in event_rows.find_known(tx, [pdu.event_id]):
            return
        known = KnownEvent(pdu=pdu, verdict=event_rows.ACCEPTED, outlier=True, snapshot_before=None)
        event_rows.insert_outliers(
            tx, [event_row(known, None, trace_id=trace_id, rule=None, now_ms=now_ms)]
        )
        member = member_row(pdu)
        if member is not None:
            room_rows.set_members(tx, pdu.room_id, changed=[member])
        streams.append(
            tx,
            stream_events,
            {
                "room_id": pdu.room_id,
                "event_id": pdu.event_id,
                "outgoing": False,
                "historic": False,
            },
        )
        tx.wake(EVENTS_TOPIC)

    def _learn_version(self, tx: Transaction, pdu: Pdu) -> None:
        """The newest invite's word counts until we have been inside."""
        room = room_rows.find(tx, pdu.room_id)
        if room is None or room.version == pdu.version.id:
            return
        if room.snapshot_id is not None:
            raise BadInput(f"the room's version is {room.version}", errcode="M_INVALID_PARAM")
        room_rows.set_version(tx, pdu.room_id, pdu.version.id)

    def _ensure_room(self, tx: Transaction, room_id: RoomId, version: RoomVersion) -> None:
        if room_rows.find(tx, room_id) is not None:
            return
        room_rows.insert_room(
            tx,
            room_rows.RoomRow(
                room_id=room_id, version=version.id, position=0, snapshot_id=None, joined=False
            ),
        )


def _is_knock(tx: Transaction, row: InviteRow) -> bool:
    member = room_rows.member(tx, row.room_id, row.user_id)
    return member is not None and member.event_id == row.event_id and member.membership == "knock"


def _stripped(room_state: Sequence[object]) -> list[dict[str, Any]]:
    """What is kept of the state that came along: never more than what clients are shown."""
    return [
        {key: one[key] for key in STRIPPED_KEYS if key in one}
        for one in room_state[:MAX_STRIPPED_EVENTS]
        if isinstance(one, dict) and len(encode_canonical(one)) <= MAX_STRIPPED_BYTES
    ]


def _is_extensible(version: RoomVersionId) -> bool:
    return VERSIONS[version].extensible_events
