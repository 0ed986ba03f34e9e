"""The newest events of the rooms where something is read, to place receipts: in memory, bounded.

Events come in as they are carried to the chat side. What was before a start, or is no longer kept,
is read from the room once, when somebody has read it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.content.events import from_event
from bridge.content.model import Message
from bridge.errors import NotFound
from bridge.ids import EventId, RoomId, UserId
from bridge.ports.matrix import MatrixBackend, RoomEvent

EVENTS_PER_ROOM = 60
ROOMS = 300
_LOAD_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    position: int
    event_id: EventId
    sender: UserId
    transaction_id: str | None
    shown: bool
    """A message that people of the chat side see."""


class Recent:
    def __init__(self, *, backend: MatrixBackend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._rooms: OrderedDict[RoomId, list[Seen]] = OrderedDict()
        self._loaded_s: dict[RoomId, float] = {}

    def note(self, event: RoomEvent, *, shown: bool) -> None:
        """Once a room has been asked for, it is kept up to date."""
        known = self._rooms.get(event.room_id)
        if known is None or (known and known[-1].position >= event.position):
            return
        known.append(_seen(event, shown=shown))
        del known[:-EVENTS_PER_ROOM]

    async def upto(self, room_id: RoomId, event_id: EventId) -> Iterator[Seen]:
        """The event and what was before it, the newest first. Nothing where it is not known."""
        known = self._rooms.get(room_id)
        if known is None or not any(one.event_id == event_id for one in known):
            known = await self._load(room_id)
        index = next((i for i, one in enumerate(known) if one.event_id == event_id), -1)
        return iter(known[index::-1] if index >= 0 else ())

    async def _load(self, room_id: RoomId) -> list[Seen]:
        now_s = self._clock.monotonic_s()
        if room_id in self._rooms and now_s - self._loaded_s[room_id] < _LOAD_AGAIN_S:
            return self._rooms[room_id]
        try:
            events: Sequence[RoomEvent] = await self._backend.timeline(
                room_id, limit=EVENTS_PER_ROOM
            )
        except NotFound:
            return []
        known = [_seen(event, shown=_is_shown(event)) for event in events]
        self._rooms[room_id] = known
        self._loaded_s[room_id] = now_s
        self._rooms.move_to_end(room_id)
        while len(self._rooms) > ROOMS:
            gone, _ = self._rooms.popitem(last=False)
            del self._loaded_s[gone]
        return known


def _seen(event: RoomEvent, *, shown: bool) -> Seen:
    return Seen(
        position=event.position,
        event_id=event.event_id,
        sender=event.sender,
        transaction_id=event.transaction_id,
        shown=shown,
    )


def _is_shown(event: RoomEvent) -> bool:
    if event.state_key is not None or event.redacted:
        return False
    return isinstance(from_event(event.type, event.content, extensible=event.extensible), Message)
