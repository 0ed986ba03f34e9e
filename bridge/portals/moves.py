"""Upgraded rooms as the rest of the portals sees them: who holds, where it goes on, who was where.

A tombstone is a row at once, and work for `following`. Until that has decided, for at most
`HOLD_S`, nothing more of the old room is bridged and nothing of the new one, so that everything
stays in order. Spec: C-S, room upgrades; XMPP rules, section 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bridge.clock import Clock
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import (
    EventId,
    RoomAlias,
    RoomId,
    ServerName,
    TraceId,
    UserId,
    parse_room_id,
)
from bridge.ports.chat import Replaced
from bridge.ports.codec import to_tagged
from bridge.ports.matrix import MatrixBackend, RoomEvent, RoomInfo
from bridge.storage import journal, moves, queues
from bridge.storage.database import Database, Transaction
from bridge.storage.moves import MOVED, MOVING, REFUSED, Move
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
CREATE = "m.room.create"
TOMBSTONE = "m.room.tombstone"
STEP = "follow"
HOLD_S = 60.0
"""Longer nobody is kept waiting for a successor that cannot be entered."""
MAX_CHAIN = 20
"""Upgrades of one room, one after the other, that are followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowRoom:
    """An inbox row: there is a tombstone, and perhaps a successor to go to."""

    room_id: RoomId
    successor: RoomId
    sender: UserId
    alias: RoomAlias | None
    """The room's own by then; a moment later it may be the successor's, or nobody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SayAgain:
    """An inbox row: what we said in an upgraded room that may have come too late for its people."""

    room_id: RoomId
    server: ServerName
    """Whose user closed the room."""
    event_ids: tuple[EventId, ...]


def follow_lane(adapter: str, room_id: RoomId) -> str:
    return f"{adapter}:follow:{room_id}"


class Moves:
    def __init__(
        self, *, database: Database, backend: MatrixBackend, adapter: str, clock: Clock
    ) -> None:
        self._database = database
        self._backend = backend
        self._adapter = adapter
        self._clock = clock

    async def find(self, room_id: RoomId) -> Move | None:
        return await self._database.read(
            lambda tx: moves.of_room(tx, adapter=self._adapter, room_id=room_id)
        )

    # --- a tombstone ------------------------------------------------------------------------

    async def on_tombstone(self, event: RoomEvent) -> None:
        """Work for `following`, once; what is no room ID, or the room itself, leads nowhere."""
        successor = _successor(event.room_id, event.content)
        if successor is None:
            await self.note(event.trace_id, "no-successor", event.room_id)
            return
        try:
            alias = (await self._backend.room(event.room_id)).canonical_alias
        except NotFound:
            alias = None
        await self._begin(
            FollowRoom(
                room_id=event.room_id, successor=successor, sender=event.sender, alias=alias
            ),
            source_id=event.event_id,
            position=event.position,
            trace=event.trace_id,
        )

    async def look(self, room_id: RoomId) -> None:
        """A tombstone that was there before us is followed like one that comes."""
        if await self.find(room_id) is not None:
            return
        for entry in await self._backend.state(room_id, TOMBSTONE):
            successor = _successor(room_id, entry.content)
            if entry.state_key == "" and successor is not None:
                source_id = f"{room_id}/{successor}"
                info = await self._backend.room(room_id)
                await self._begin(
                    FollowRoom(
                        room_id=room_id,
                        successor=successor,
                        sender=entry.sender,
                        alias=info.canonical_alias,
                    ),
                    source_id=source_id,
                    position=info.position,
                    trace=TraceId(hashlib.sha256(source_id.encode()).hexdigest()[:24]),
                )

    async def _begin(
        self, task: FollowRoom, *, source_id: str, position: int, trace: TraceId
    ) -> None:
        adapter, now_ms = self._adapter, self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            before = moves.of_room(tx, adapter=adapter, room_id=task.room_id)
            # Once it is followed, whoever changes their mind must do so in the successor.
            if before is not None and before.status == MOVED:
                return
            is_same = before is not None and before.successor == task.successor
            if before is not None and before.status == MOVING and is_same:
                return
            inbox_id = queues.put_inbox(
                tx,
                lane=follow_lane(adapter, task.room_id),
                adapter=adapter,
                source=f"{adapter}:follow",
                source_id=source_id,
                payload=to_tagged(task),
                trace_id=trace,
                now_ms=now_ms,
            )
            if inbox_id is None:
                return
            move = Move(
                room_id=task.room_id,
                successor=task.successor,
                status=MOVING,
                position=position,
                seen_ms=now_ms,
            )
            moves.begin(tx, adapter=adapter, move=move)
            self.journal(tx, trace, "stored", f"inbox {inbox_id}")

        await self._database.write(unit)

    async def note(self, trace: TraceId, decision: str, detail: str) -> None:
        log.info("tombstone", decision=decision, detail=detail)
        await self._database.write(lambda tx: self.journal(tx, trace, decision, detail))

    def journal(self, tx: Transaction, trace: TraceId, decision: str, detail: str) -> None:
        now_ms = self._clock.now_ms()
        journal.record(
            tx, trace_id=trace, step=STEP, decision=decision, detail=detail, now_ms=now_ms
        )

    # --- what waits for the decision ----------------------------------------------------------

    async def check_event(self, event: RoomEvent) -> Move | None:
        """Whether this event is to be looked at now. Unavailable: not before it is decided where
        the room goes on. A move: it happened in a room that everybody has left behind."""
        adapter, room_id = self._adapter, event.room_id

        def unit(tx: Transaction) -> tuple[Move | None, Sequence[Move]]:
            return (
                moves.of_room(tx, adapter=adapter, room_id=room_id),
                moves.into_room(tx, adapter=adapter, room_id=room_id),
            )

        own, before = await self._database.read(unit)
        if own is not None and event.position > own.position:
            self._hold(own)
            if own.status == MOVED:
                return own
        for move in before:
            # Whoever names a room that is none of theirs does not hold it up.
            if self._is_held(move):
                with suppress(NotFound):  # an invite: we are not in it
                    if await self.replaces(room_id) == move.room_id:
                        self._hold(move)
        return None

    async def replaces(self, room_id: RoomId) -> RoomId | None:
        """The predecessor that a room names. NotFound unless we are in it. Spec: m.room.create."""
        for entry in await self._backend.state(room_id, CREATE):
            return _predecessor(entry.content)
        return None

    def _hold(self, move: Move) -> None:
        if self._is_held(move):
            raise Unavailable(f"{move.room_id} is being replaced by {move.successor}")

    def _is_held(self, move: Move) -> bool:
        age_ms = self._clock.now_ms() - move.seen_ms
        return move.status == MOVING and age_ms < round(HOLD_S * 1000)

    async def room_to_write(self, room_id: RoomId) -> RoomId:
        """Where something for a room is to be said now. Unavailable: that is being decided."""

        def unit(tx: Transaction) -> tuple[RoomId, Move | None]:
            led = moves.successors(tx, adapter=self._adapter, room_id=room_id, most=MAX_CHAIN)
            last = led[-1] if led else room_id
            return last, moves.of_room(tx, adapter=self._adapter, room_id=last)

        last, move = await self._database.read(unit)
        if move is not None:
            self._hold(move)
        return last

    async def check_open(self, info: RoomInfo) -> None:
        """The last look before something is said in a room. Unavailable: it has a tombstone of
        which we may not have been told yet."""
        if info.replacement is not None:
            await self.look(info.room_id)
            await self.room_to_write(info.room_id)

    async def check_refusal(self, room_id: RoomId) -> None:
        """A room would not have what was said. Unavailable where it has a successor that may."""
        with suppress(NotFound):
            await self.look(room_id)  # perhaps we have not been told of it yet
        move = await self.find(room_id)
        if move is not None and move.status != REFUSED:
            raise Unavailable(f"{room_id} is being replaced by {move.successor}")

    # --- where it goes on ---------------------------------------------------------------------

    async def check_place(self, room_id: RoomId) -> None:
        """Replaced: everybody has moved to another room."""
        led = await self._database.read(
            lambda tx: moves.successors(tx, adapter=self._adapter, room_id=room_id, most=MAX_CHAIN)
        )
        if led:
            successor = await self.name(led[-1])
            raise Replaced(f"this room was replaced by {successor}", successor=successor)

    async def name(self, room_id: RoomId) -> RoomAlias | RoomId:
        """The room's alias, if it has one that leads to it; else its ID."""
        try:
            alias = (await self._backend.room(room_id)).canonical_alias
            if alias is not None and (await self._backend.resolve_alias(alias))[0] == room_id:
                return alias
        except (BadInput, NotFound, Refused, Unavailable):
            pass
        return room_id

    async def predecessors(self, room_id: RoomId) -> Sequence[Move]:
        """How everybody came here, the newest move first."""
        return await self._database.read(
            lambda tx: moves.predecessors(
                tx, adapter=self._adapter, room_id=room_id, most=MAX_CHAIN
            )
        )

    async def first_room(self, room_id: RoomId) -> RoomId:
        return await self._database.read(lambda tx: self.first(tx, room_id))

    def first(self, tx: Transaction, room_id: RoomId) -> RoomId:
        """The room with which it began."""
        found = moves.predecessors(tx, adapter=self._adapter, room_id=room_id, most=MAX_CHAIN)
        return found[-1].room_id if found else room_id

    async def follows(self, invite: RoomEvent, user_id: UserId) -> RoomId | None:
        """The old room, if one of ours who is in it is asked into its successor."""
        room_id = invite.room_id
        before = await self._database.read(
            lambda tx: moves.into_room(tx, adapter=self._adapter, room_id=room_id)
        )
        if not before:
            # The invite may come before the tombstone that it belongs to.
            named = await self._named_in(invite)
            if named is not None and await self._is_in(named, user_id):
                info = await self._backend.room(named)
                if info.replacement == room_id:
                    await self.look(named)
                    return named
        for move in before:
            if move.status != REFUSED and await self._is_in(move.room_id, user_id):
                return move.room_id
        return None

    async def _named_in(self, invite: RoomEvent) -> RoomId | None:
        """The predecessor that a room names to whoever it invites."""
        with suppress(NotFound):
            return await self.replaces(invite.room_id)
        for said in invite.invite_state:
            content = said.get("content")
            if said.get("type") == CREATE and isinstance(content, Mapping):
                return _predecessor(content)
        return None

    async def _is_in(self, room_id: RoomId, user_id: UserId) -> bool:
        """Joined, in a room that we are in."""
        try:
            await self._backend.room(room_id)
            member = await self._backend.member(room_id, user_id)
        except NotFound:
            return False
        return member is not None and member.membership == "join"

    async def hasten(self, room_id: RoomId) -> None:
        """What following this room waited for has come."""
        lane, now_ms = follow_lane(self._adapter, room_id), self._clock.now_ms()
        await self._database.write(lambda tx: queues.hasten(tx, queues.INBOX, lane, now_ms=now_ms))


def _successor(room_id: RoomId, content: Mapping[str, Any]) -> RoomId | None:
    try:
        successor = parse_room_id(content.get("replacement_room"))
    except BadInput:
        return None
    return None if successor == room_id else successor


def _predecessor(create: Mapping[str, Any]) -> RoomId | None:
    said = create.get("predecessor")
    try:
        return parse_room_id(said.get("room_id")) if isinstance(said, Mapping) else None
    except BadInput:
        return None
