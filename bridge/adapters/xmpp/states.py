"""Chat states, displayed markers and presence of people: read from stanzas, and shown to them.

Nothing here is stored or acknowledged. Chat states go only to people whose clients have shown that
they know them; whoever has not written since our start has not yet. A person's presence is that of
all their clients together: the most available one counts, then the one with the highest priority.
What a server kept and delivers late (XEP-0203) is no state of now.
Spec: RFC 6121, 4; XEP-0085, 5.1; XEP-0319; XEP-0333.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.jid import Jid
from bridge.clock import Clock
from bridge.errors import IsthmusError, Refused
from bridge.ids import RoomId, UserId
from bridge.ports.chat import ChatListener
from bridge.ports.ephemeral import (
    Availability,
    ChatPresence,
    ChatRead,
    ChatTyping,
    ShowPresence,
    ShowRead,
    ShowTyping,
)
from bridge.storage import subscriptions
from bridge.storage.database import Database
from bridge.telemetry.log import get_logger

log = get_logger("xmpp.states")

K = TypeVar("K")
V = TypeVar("V")
_PEOPLE: Final = 20_000
_CLIENTS: Final = 50
"""Presences of one person that are kept: one for each client and each of ours who gets it."""
_PAGE: Final = 100
_STATUS_CHARACTERS: Final = 1024
_RANKS: Final[dict[Availability, int]] = {
    "available": 4, "dnd": 3, "away": 2, "xa": 1, "unavailable": 0
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Client:
    availability: Availability
    priority: int
    status: str | None
    is_assumed: bool = False
    """They are in a room; how, they have told an earlier process."""


_GONE = _Client(availability="unavailable", priority=0, status=None)


@dataclass(slots=True)
class _Person:
    clients: OrderedDict[tuple[Jid, Jid], _Client] = field(default_factory=OrderedDict)
    """By client, and by whom of ours it was sent to."""
    told: _Client = _GONE


class States:
    def __init__(
        self,
        *,
        wire: Wire,
        database: Database,
        listener: ChatListener,
        jid_of: Callable[[UserId], Jid],
        clock: Clock,
        probes_per_s: float,
    ) -> None:
        self._clock = clock
        self._pause_s = 1 / probes_per_s
        self._connected = asyncio.Event()
        self._wire = wire
        self._database = database
        self._listener = listener
        self._jid_of = jid_of
        self._knowing: OrderedDict[Jid, None] = OrderedDict()
        """People whose clients know chat states."""
        self._people: OrderedDict[Jid, _Person] = OrderedDict()
        self._shown: OrderedDict[UserId, ShowPresence] = OrderedDict()
        """How Matrix people are there. Many servers do not say: then they are available."""

    # --- after a connection -----------------------------------------------------------------------

    def on_connected(self) -> None:
        self._connected.set()

    async def run(self) -> None:
        """What changed while nobody could tell us is asked for: of each person once, slowly."""
        while True:
            await self._connected.wait()
            self._connected.clear()
            try:
                await self.ask()
            except IsthmusError as exc:
                log.info("presence is not asked for", reason=exc.reason)

    async def ask(self) -> None:
        """Spec: RFC 6121, 4.3."""
        after = ""
        while not self._connected.is_set():
            some = await self._database.read(
                partial(subscriptions.seen_by_us, after=after, limit=_PAGE)
            )
            for address, user_id in some:
                await self._clock.sleep(self._pause_s)
                after = address
                probe = outbound.stanza(
                    "presence", sender=self._jid_of(user_id), to=Jid.parse(address), type="probe"
                )
                try:
                    await self._wire.send([probe])
                except Refused as exc:
                    log.info("presence is not asked for", address=address, reason=exc.reason)
            if not some:
                return

    # --- from people ----------------------------------------------------------------------------

    def on_message(
        self, stanza: Stanza, *, to_user: UserId | None = None, to_room: RoomId | None = None
    ) -> None:
        """Whatever else the message says."""
        person = stanza.sender.bare
        state = inbound.chat_state(stanza.xml)
        if state is not None:
            if to_user is not None:
                _keep(self._knowing, person, None)
            self._listener.on_ephemeral(
                ChatTyping(
                    sender=str(person),
                    typing=state == "composing",
                    to_user=to_user,
                    to_room=to_room,
                )
            )
        read = inbound.displayed(stanza.xml)
        if read is not None:
            self._listener.on_ephemeral(
                ChatRead(
                    sender=str(person),
                    message_id=read,
                    outbox_id=outbound.find_outbox_id(self._database.epoch, read),
                    to_user=to_user,
                    to_room=to_room,
                )
            )

    def on_presence(self, stanza: Stanza) -> None:
        """Of a client, to one of our people or a room: it is there, or not any more."""
        person, target = stanza.sender.bare, stanza.to.bare
        if stanza.type == "":
            client = _Client(
                availability=inbound.availability(stanza),
                priority=inbound.priority(stanza),
                status=(inbound.status_text(stanza) or "")[:_STATUS_CHARACTERS] or None,
            )
            known = self._people.get(person) or _Person()
            _keep(self._people, person, known)
            _keep(known.clients, (stanza.sender, target), client, most=_CLIENTS)
            self._tell(person, known)
        elif stanza.type == "unavailable":
            self.on_gone(stanza.sender, target)

    def on_there(self, client: Jid, target: Jid) -> None:
        """The client is in a room, which it need not have said to this process."""
        known = self._people.get(client.bare) or _Person()
        if (client, target) not in known.clients:
            assumed = _Client(availability="available", priority=0, status=None, is_assumed=True)
            _keep(self._people, client.bare, known)
            _keep(known.clients, (client, target), assumed, most=_CLIENTS)
            self._tell(client.bare, known)

    def on_gone(self, client: Jid, target: Jid) -> None:
        """An address without a resource: all clients of that person."""
        known = self._people.get(client.bare)
        if known is None:
            return
        for key in list(known.clients):
            if key[1] == target and client in (key[0], key[0].bare):
                del known.clients[key]
        self._tell(client.bare, known)

    def _tell(self, person: Jid, known: _Person) -> None:
        best = max(
            known.clients.values(),
            key=lambda one: (
                not one.is_assumed,
                _RANKS[one.availability],
                one.priority,
                one.status or "",
            ),
            default=_GONE,
        )
        if not known.clients:
            self._people.pop(person, None)
        if (best.availability, best.status) == (known.told.availability, known.told.status):
            return
        known.told = best
        self._listener.on_ephemeral(
            ChatPresence(
                sender=str(person), availability=best.availability, status_text=best.status
            )
        )

    # --- to people ------------------------------------------------------------------------------

    async def show_typing(self, shown: ShowTyping, to: Jid) -> None:
        if to.bare not in self._knowing:
            return
        await self._wire.send([outbound.state(shown, self._jid_of(shown.sender), to, type="chat")])

    async def show_read(self, shown: ShowRead, to: Jid) -> None:
        await self._wire.send([outbound.state(shown, self._jid_of(shown.sender), to, type="chat")])

    async def show_presence(self, shown: ShowPresence) -> None:
        """To whoever may see it, when it is another one."""
        before = self._shown.get(shown.sender)
        _keep(self._shown, shown.sender, shown)
        if before is not None and _face(before) == _face(shown):
            return
        people = await self._database.read(lambda tx: subscriptions.who_see(tx, shown.sender))
        for start in range(0, len(people), _PAGE):
            some = people[start : start + _PAGE]
            await self._wire.send([self.presence(shown.sender, Jid.parse(one)) for one in some])

    def presence(self, user_id: UserId, to: Jid, *, sender: Jid | None = None) -> ET.Element:
        """The Matrix user's presence as far as it is known."""
        jid = self._jid_of(user_id) if sender is None else sender
        return outbound.person_presence(sender=jid, to=to, shown=self._shown.get(user_id))


def _face(shown: ShowPresence) -> tuple[Availability, str | None]:
    return shown.availability, shown.status_text


def _keep(table: OrderedDict[K, V], key: K, value: V, *, most: int = _PEOPLE) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > most:
        table.popitem(last=False)
