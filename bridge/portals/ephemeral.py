"""Typing, how far somebody has read, and presence, between the two sides.

Everything waits in memory, the newest of a kind for each person and place, in two bounded tables;
`run` works them off beside the messages, which never wait for it. Nothing is stored, so a restart
replays nothing; what cannot be placed or told now is dropped.

From Matrix: only people of other servers are shown, so that what came from here does not come back.
In a room with an audience each person is shown typing at most every 5 seconds, and so reading;
presence changes no more often. A pause is shown a moment late, because mostly a message follows,
which says it better. A receipt is shown as the newest message at or before its event that the chat
side knows: in a direct chat to its author, who has asked for it, and to everybody in a room; never
the same twice, never an older one.

From the chat side: clients say once that somebody types, so it is told for two minutes; who says
nothing more until then, or goes away, has stopped. A read message is found by the delivery that
it was, or by the ID that it bears there.
Spec: S2S, typing notifications, receipts, presence; XEP-0085; XEP-0333.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from bridge.clock import Clock
from bridge.errors import BadInput, IsthmusError, NotFound, Refused
from bridge.ids import EventId, RoomId, UserId, parse_event_id, server_of
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.portals.directory import Directory
from bridge.portals.in_chat import find_inbox_part
from bridge.portals.recent import Recent, Seen
from bridge.ports.chat import AddressMap, ChatMessage, DirectMessage
from bridge.ports.codec import from_json, from_tagged
from bridge.ports.ephemeral import (
    Availability,
    ChatEphemeral,
    ChatPresence,
    ChatRead,
    ChatTyping,
    Passing,
    ShowPresence,
    ShowRead,
    ShowTyping,
)
from bridge.ports.matrix import (
    Ephemeral,
    MatrixBackend,
    PresenceChange,
    PresenceState,
    ReadUpTo,
    RoomEvent,
    Typing,
)
from bridge.storage import messages, portals, queues
from bridge.storage.database import Database, Transaction
from bridge.storage.portals import DIRECT, FORMER, OF_CHAT, SERVED, Portal
from bridge.telemetry import metrics
from bridge.telemetry.log import get_logger

log = get_logger(__name__)

WAITING = 2_000
"""Of each direction; the oldest gives way."""
REMEMBERED = 5_000
AUDIENCE_INTERVAL_MS = 5_000
PAUSE_MS = 1_000
STOPPED_MS = 60_000
"""Who types on another server is said to every 25 to 40 s."""
TYPES_AT_MOST_MS = 120_000
"""A client that says once that somebody types, and nothing more, is believed for so long."""
LATER_MS = 2_000
"""A receipt may come with its event, and before it."""
IDLE_MS = 5 * 60_000
LONG_MS = 60 * 60_000
_PATIENCE_S = 10.0
_BATCH = 50
_LOOKED_BACK = 20
_AUDIENCES = frozenset({SERVED, *OF_CHAT})

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Place = tuple[RoomId, UserId]


class Screen(Protocol):
    """The part of `ports.chat.ChatAdapter` that shows what passes."""

    def has_audience(self, *, room_id: RoomId | None = None, chat: str | None = None) -> bool: ...

    async def show(self, passing: Passing) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    change: Ephemeral
    at_ms: int
    tries: int = 0


@dataclass(slots=True, kw_only=True)
class _Typist:
    """Somebody of the chat side who types."""

    ghost: UserId
    room_id: RoomId
    is_in_room: bool
    """Others of the chat side are to see it, too."""
    until_ms: int


class EphemeralPortal:
    """`on_matrix` and `on_chat` only remember; `run` acts."""

    def __init__(
        self,
        *,
        database: Database,
        backend: MatrixBackend,
        directory: Directory,
        addresses: AddressMap,
        house: House,
        clock: Clock,
    ) -> None:
        self._database = database
        self._backend = backend
        self._directory = directory
        self._addresses = addresses
        self._house = house
        self._clock = clock
        self._screen: Screen | None = None
        self._recent = Recent(backend=backend, clock=clock)
        self._waiting: OrderedDict[Hashable, _Due] = OrderedDict()
        self._told: OrderedDict[Hashable, ChatEphemeral] = OrderedDict()
        self._news = asyncio.Event()
        self._typing: OrderedDict[Place, int] = OrderedDict()
        """Matrix people who are shown typing, and until when if they say no more."""
        self._spoken_ms: OrderedDict[tuple[type, Hashable], int] = OrderedDict()
        """When somebody was shown last: in a room with an audience, or by their presence."""
        self._read: OrderedDict[tuple[Place, str], int] = OrderedDict()
        """Position of the message that somebody was shown to have read last."""
        self._typists: OrderedDict[Hashable, _Typist] = OrderedDict()

    def attach(self, screen: Screen) -> None:
        self._screen = screen

    # --- what is remembered -------------------------------------------------------------------

    def on_matrix(self, change: Ephemeral) -> None:
        if server_of(change.user_id) == self._backend.server_name:
            return
        now_ms = self._clock.now_ms()
        at_ms = now_ms
        key: Hashable
        match change:
            case Typing():
                place = (change.room_id, change.user_id)
                key = (Typing, place)
                if place not in self._typing and not change.typing:
                    self._waiting.pop(key, None)
                    return
                if place in self._typing and change.typing:
                    _keep(self._typing, place, now_ms + STOPPED_MS, REMEMBERED)
                    self._waiting.pop(key, None)
                    return
                at_ms = now_ms if change.typing else now_ms + PAUSE_MS
            case ReadUpTo():
                if change.thread_id not in (None, "main"):
                    return  # the chat side has no threads: the rest may be unread
                key = (ReadUpTo, change.room_id, change.user_id)
            case PresenceChange():
                key = (PresenceChange, change.user_id)
        self._wait(key, _Due(change=change, at_ms=at_ms))

    def _wait(self, key: Hashable, due: _Due) -> None:
        _keep(self._waiting, key, due, WAITING)
        self._news.set()

    def on_event(self, event: RoomEvent, *, shown: bool) -> None:
        """An event is on its way to the chat side."""
        self._recent.note(event, shown=shown)
        if shown and event.state_key is None:
            place = (event.room_id, event.sender)
            self._typing.pop(place, None)  # the message says it
            self._waiting.pop((Typing, place), None)

    def on_chat(self, change: ChatEphemeral) -> None:
        _keep(self._told, _key_of(change), change, WAITING)
        self._news.set()

    # --- at work ------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            self._news.clear()
            pause_s = await self.step()
            async with asyncio.TaskGroup() as tasks:
                naps: list[asyncio.Task[None]] = [tasks.create_task(self._wait_for_news())]
                if pause_s is not None:
                    naps.append(tasks.create_task(self._nap(pause_s)))
                await asyncio.wait(naps, return_when=asyncio.FIRST_COMPLETED)
                for nap in naps:
                    nap.cancel()

    async def _wait_for_news(self) -> None:
        await self._news.wait()

    async def _nap(self, seconds: float) -> None:
        await self._clock.sleep(max(seconds, 0.05))

    async def step(self) -> float | None:
        """Does what is due now; in how many seconds there is more to do, if there is."""
        told, self._told = self._told, OrderedDict()
        for number, change in enumerate(told.values()):
            await self._patiently(self._tell(change), change)
            if number % _BATCH == _BATCH - 1:
                await self._show_due()
        await self._show_due()
        await self._end_typing()
        return self._pause_s()

    def _pause_s(self) -> float | None:
        due = [one.at_ms for one in self._waiting.values()]
        due += self._typing.values()
        due += [one.until_ms for one in self._typists.values()]
        if self._told:
            return 0.0
        return max(0.0, (min(due) - self._clock.now_ms()) / 1000) if due else None

    async def _patiently(self, work: Awaitable[None], change: object) -> None:
        """What cannot be done is dropped: it is true only now."""
        kind = type(change).__name__
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await work
        except IsthmusError as exc:
            log.debug("not told", kind=kind, reason=exc.reason)
        except TimeoutError:
            log.info("not told in time", kind=kind)
        except Exception:
            metrics.LANE_FAILURES.labels(lanes="ephemeral").inc()
            log.exception("telling failed", kind=kind)

    # --- from Matrix ----------------------------------------------------------------------------

    async def _show_due(self) -> None:
        now_ms = self._clock.now_ms()
        for place in [place for place, until in self._typing.items() if until <= now_ms]:
            key = (Typing, place)
            del self._typing[place]
            if key not in self._waiting:
                gone = Typing(room_id=place[0], user_id=place[1], typing=False)
                self._wait(key, _Due(change=gone, at_ms=now_ms))
        due = [(key, one) for key, one in self._waiting.items() if one.at_ms <= now_ms]
        bound: dict[RoomId, Sequence[Portal]] = {}
        for waiting, one in due:
            if self._waiting.get(waiting) is one:
                del self._waiting[waiting]
                await self._patiently(self._show(waiting, one, bound), one.change)

    async def _show(self, key: Hashable, due: _Due, bound: dict[RoomId, Sequence[Portal]]) -> None:
        change = due.change
        self._house.check_user(change.user_id, Scope.EDUS, door="from matrix")
        if isinstance(change, PresenceChange):
            if self._is_early(key, due, change.user_id):
                return
            await self._put(_to_presence(change, self._clock.now_ms()))
            return
        room_id = change.room_id
        if room_id not in bound:
            bound[room_id] = await self._directory.of_room(room_id)
        standing = [
            portal
            for portal in bound[room_id]
            if self._has_audience(portal)
            or (portal.kind in (DIRECT, FORMER) and portal.user_id == change.user_id)
        ]
        if not standing:
            return
        self._house.check_room(room_id, Scope.EDUS, door="from matrix")
        is_public = any(portal.kind in _AUDIENCES for portal in standing)
        if is_public and self._is_early(key, due, (room_id, change.user_id)):
            return
        if isinstance(change, Typing):
            await self._show_typing(change, standing)
        else:
            await self._show_read(key, due, change, standing)

    def _has_audience(self, portal: Portal) -> bool:
        if self._screen is None:
            return False
        if portal.kind == SERVED:
            return self._screen.has_audience(room_id=portal.room_id)
        return portal.kind in OF_CHAT and self._screen.has_audience(chat=portal.chat)

    def _is_early(self, key: Hashable, due: _Due, place: Hashable) -> bool:
        """It was shown just now: this waits for its turn."""
        last, now_ms = (type(due.change), place), self._clock.now_ms()
        next_ms = self._spoken_ms.get(last, 0) + AUDIENCE_INTERVAL_MS
        if next_ms <= now_ms:
            _keep(self._spoken_ms, last, now_ms, REMEMBERED)
            return False
        if key not in self._waiting:
            self._wait(key, _Due(change=due.change, at_ms=next_ms, tries=due.tries))
        return True

    async def _show_typing(self, change: Typing, standing: Sequence[Portal]) -> None:
        place = (change.room_id, change.user_id)
        if change.typing:
            _keep(self._typing, place, self._clock.now_ms() + STOPPED_MS, REMEMBERED)
        else:
            self._typing.pop(place, None)
        for portal in standing:
            await self._put(
                ShowTyping(
                    sender=change.user_id,
                    typing=change.typing,
                    to=portal.chat if portal.kind in (DIRECT, FORMER) else None,
                    room_id=change.room_id if portal.kind == SERVED else None,
                    chat=portal.chat if portal.kind in OF_CHAT else None,
                )
            )

    async def _show_read(
        self, key: Hashable, due: _Due, change: ReadUpTo, standing: Sequence[Portal]
    ) -> None:
        past = list(await self._recent.upto(change.room_id, change.event_id))
        if not past:
            if due.tries == 0 and key not in self._waiting:
                at_ms = self._clock.now_ms() + LATER_MS
                self._spoken_ms.pop((ReadUpTo, (change.room_id, change.user_id)), None)
                self._wait(key, _Due(change=change, at_ms=at_ms, tries=1))
            return
        for portal in standing:
            if portal.kind == SERVED:
                await self._show_read_in_room(change, past)
            elif portal.kind in OF_CHAT:
                await self._show_read_in_chat(change, past, portal.chat)
            else:
                await self._show_read_to_author(change, past, portal.chat)

    async def _show_read_in_room(self, change: ReadUpTo, past: Sequence[Seen]) -> None:
        found = next((one for one in past if one.shown and one.sender != change.user_id), None)
        if found is None:
            return
        if self._is_news(change, SERVED, found.position):
            await self._put(
                ShowRead(sender=change.user_id, message_id=found.event_id, room_id=change.room_id)
            )

    async def _show_read_in_chat(self, change: ReadUpTo, past: Sequence[Seen], chat: str) -> None:
        """By the chat's own ID, where it gave one."""
        some = [one for one in past if one.sender != change.user_id][:_LOOKED_BACK]

        def unit(tx: Transaction) -> tuple[Seen, str] | None:
            for one in some:
                for known in messages.of_event(tx, one.event_id):
                    is_given = known.stanza_id != known.origin_id
                    if known.chat == chat and known.stanza_id and is_given:
                        return one, known.stanza_id
            return None

        found = await self._database.read(unit)
        if found is None:
            return
        if self._is_news(change, chat, found[0].position):
            await self._put(ShowRead(sender=change.user_id, message_id=found[1], chat=chat))

    async def _show_read_to_author(
        self, change: ReadUpTo, past: Sequence[Seen], address: str
    ) -> None:
        ghost = self._addresses.user_of(address)
        for one in past:
            part = find_inbox_part(self._database.epoch, one.transaction_id)
            if one.sender != ghost or part is None:
                continue
            written = await self._written(part[0])
            if written is None or written.sender != address:
                return  # of long ago
            if written.wants_marker and self._is_news(change, address, one.position):
                await self._put(
                    ShowRead(sender=change.user_id, message_id=written.stanza_id, to=address)
                )
            return

    def _is_news(self, change: ReadUpTo, audience: str, position: int) -> bool:
        key = ((change.room_id, change.user_id), audience)
        if self._read.get(key, -1) >= position:
            return False
        _keep(self._read, key, position, REMEMBERED)
        return True

    async def _written(self, inbox_id: int) -> ChatMessage | None:
        try:
            item = await self._database.read(lambda tx: queues.get(tx, queues.INBOX, inbox_id))
            return from_json(ChatMessage, item.payload)
        except (NotFound, BadInput):
            return None

    async def _put(self, passing: Passing) -> None:
        if self._screen is not None:
            await self._screen.show(passing)

    # --- from the chat side ---------------------------------------------------------------------

    async def _tell(self, change: ChatEphemeral) -> None:
        ghost = self._addresses.user_of(change.sender)
        self._house.check_user(ghost, Scope.EDUS, door="from chat")
        match change:
            case ChatTyping():
                await self._tell_typing(change, ghost)
            case ChatRead():
                await self._tell_read(change, ghost)
            case ChatPresence():
                if change.availability == "unavailable":
                    for one in [t for t in self._typists.values() if t.ghost == ghost]:
                        one.until_ms = 0
                await self._backend.set_presence(
                    user_id=ghost,
                    presence=_STATES[change.availability],
                    status_text=change.status_text,
                )

    async def _tell_typing(self, change: ChatTyping, ghost: UserId) -> None:
        key, now_ms = _key_of(change), self._clock.now_ms()
        before = self._typists.get(key)
        if not change.typing:
            if before is not None:
                before.until_ms = 0
            return
        if before is not None:
            before.until_ms = now_ms + TYPES_AT_MOST_MS
            await self._tell_the_room(before, typing=True)
            return
        room_id = await self._room_of(change)
        if room_id is None:
            return
        typist = _Typist(
            ghost=ghost,
            room_id=room_id,
            is_in_room=change.to_room is not None,
            until_ms=now_ms + TYPES_AT_MOST_MS,
        )
        if len(self._typists) >= WAITING:
            return
        self._typists[key] = typist
        if change.to_room is not None:
            await self._put(ShowTyping(sender=ghost, typing=True, room_id=change.to_room))
        await self._tell_the_room(typist, typing=True)

    async def _end_typing(self) -> None:
        now_ms = self._clock.now_ms()
        for key, typist in list(self._typists.items()):
            if typist.until_ms <= now_ms:
                del self._typists[key]
                if typist.is_in_room:
                    gone = ShowTyping(sender=typist.ghost, typing=False, room_id=typist.room_id)
                    await self._patiently(self._put(gone), gone)
                await self._patiently(self._tell_the_room(typist, typing=False), typist)

    async def _tell_the_room(self, typist: _Typist, *, typing: bool) -> None:
        await self._backend.set_typing(
            room_id=typist.room_id,
            user_id=typist.ghost,
            typing=typing,
            timeout_ms=TYPES_AT_MOST_MS,
        )

    async def _room_of(self, change: ChatTyping | ChatRead) -> RoomId | None:
        if change.to_room is not None:
            self._house.check_room(change.to_room, Scope.EDUS, door="from chat")
            return change.to_room
        portal: Portal | None = None
        if change.to_user is not None:
            self._house.check_user(change.to_user, Scope.EDUS, door="from chat")
            portal = await self._directory.find_direct(
                address=change.sender, user_id=change.to_user
            )
        elif change.to_chat is not None:
            adapter, chat = self._addresses.adapter, change.to_chat
            portal = await self._database.read(
                lambda tx: portals.of_chat(tx, adapter=adapter, chat=chat)
            )
        return None if portal is None or portal.status != "open" else portal.room_id

    async def _tell_read(self, change: ChatRead, ghost: UserId) -> None:
        found = await self._find_read(change)
        if found is None:
            return
        room_id, event_id = found
        if await self._is_own(event_id, change.sender):
            return
        if change.to_room is not None:
            await self._put(ShowRead(sender=ghost, message_id=event_id, room_id=room_id))
        await self._backend.read_up_to(room_id=room_id, user_id=ghost, event_id=event_id)

    async def _find_read(self, change: ChatRead) -> tuple[RoomId, EventId] | None:
        """The event that was read, and its room."""
        if change.to_user is not None:
            return await self._find_delivered(change)
        if change.to_room is not None:
            self._house.check_room(change.to_room, Scope.EDUS, door="from chat")
            # Of several stanzas of one event the later ones bear a number.
            return change.to_room, parse_event_id(change.message_id.partition("/")[0])
        room_id = await self._room_of(change)
        if room_id is None:
            return None
        adapter, chat = self._addresses.adapter, change.to_chat or ""
        found = await self._database.read(
            lambda tx: messages.of_archived(
                tx, adapter=adapter, chat=chat, stanza_id=change.message_id
            )
        )
        return next(((room_id, m.event_id) for m in found if m.room_id == room_id), None)

    async def _find_delivered(self, change: ChatRead) -> tuple[RoomId, EventId] | None:
        outbox_id = change.outbox_id
        if outbox_id is None:
            return None
        item = await self._database.read(lambda tx: queues.get(tx, queues.OUTBOX, outbox_id))
        try:
            delivery = from_tagged((DirectMessage,), item.payload)
        except BadInput:
            return None
        if delivery.to != change.sender or delivery.sender != change.to_user:
            raise Refused("what was not sent there cannot have been read there")
        return None if delivery.room_id is None else (delivery.room_id, delivery.event_id)

    async def _is_own(self, event_id: EventId, sender: str) -> bool:
        """Nobody is told that somebody has read what they wrote themselves."""
        known = await self._database.read(lambda tx: messages.of_event(tx, event_id))
        return any(one.origin == "chat" and one.sender == sender for one in known)


_STATES: dict[Availability, PresenceState] = {
    "available": "online",
    "dnd": "online",
    "away": "unavailable",
    "xa": "unavailable",
    "unavailable": "offline",
}


def _to_presence(change: PresenceChange, now_ms: int) -> ShowPresence:
    active_ms = now_ms if change.last_active_ms is None else min(change.last_active_ms, now_ms)
    idle_ms = 0 if change.currently_active else now_ms - active_ms
    availability: Availability = "unavailable"
    if change.presence == "online":
        availability = "away" if idle_ms > IDLE_MS else "available"
    elif change.presence == "unavailable":
        availability = "xa" if idle_ms > LONG_MS else "away"
    is_idle = availability in ("away", "xa") and change.last_active_ms is not None
    return ShowPresence(
        sender=change.user_id,
        availability=availability,
        status_text=change.status_text or None,
        idle_since_ms=active_ms if is_idle else None,
    )


def _key_of(change: ChatEphemeral) -> Hashable:
    if isinstance(change, ChatPresence):
        return (ChatPresence, change.sender)
    place = change.to_user or change.to_room or change.to_chat
    return (type(change), change.sender, place)


def _keep(table: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > most:
        table.popitem(last=False)
