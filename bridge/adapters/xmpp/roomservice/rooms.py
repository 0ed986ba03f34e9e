"""The room service: who enters (`entering`), leaves and speaks, and what reaches them.

Going offline ends a session and nothing else. Our own stop ends none: sessions are rows, and a
client that was told to leave (332) would show an empty room until somebody enters by hand. So it
is told nothing, and after the restart asked whether it is still there (`checking`).

Everything that is shown in a room is shown under its lock, so that no session sees two things in
different orders.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.addresses import Room, to_local
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import MUC
from bridge.adapters.xmpp.roomservice import presence
from bridge.adapters.xmpp.roomservice.checking import GONE, Checking
from bridge.adapters.xmpp.roomservice.entering import Entering, Spawn
from bridge.adapters.xmpp.roomservice.messages import Change, Showing
from bridge.adapters.xmpp.roomservice.moving import UNRELATED_TEXT, Moving
from bridge.adapters.xmpp.roomservice.names import Names
from bridge.adapters.xmpp.roomservice.occupants import (
    People,
    ServedRoom,
    Session,
    asked_nickname,
)
from bridge.adapters.xmpp.roomservice.places import OnClient, Places, tell_nobody
from bridge.adapters.xmpp.roomservice.telling import Telling
from bridge.clock import Clock
from bridge.errors import NotFound
from bridge.ids import RoomId
from bridge.ports.chat import (
    ChatListener,
    Reflection,
    RoomInvite,
    RoomMember,
    RoomMessage,
    RoomMoved,
    RoomNotice,
    RoomPower,
    RoomSubject,
)
from bridge.ports.ephemeral import ShowRead, ShowTyping
from bridge.storage.database import Database
from bridge.telemetry.log import get_logger

log = get_logger("xmpp.rooms")

RoomDelivery = (
    RoomMessage | Reflection | RoomMember | RoomSubject | RoomPower | RoomMoved | RoomNotice
)


class RoomService:
    """`spawn` runs something beside the lane that asked for it; failures are logged there."""

    def __init__(
        self,
        *,
        wire: Wire,
        database: Database,
        listener: ChatListener,
        people: People,
        domain: str,
        bot: Jid,
        clock: Clock,
        random: random_module.Random,
        limits: XmppLimits,
        spawn: Spawn,
        on_gone: OnClient = tell_nobody,
        on_there: OnClient = tell_nobody,
    ) -> None:
        """`on_gone`: a client is not in the room of this address any more, or never came in;
        `on_there`: one that was there before a connection is still in."""
        self._limits = limits
        self._wire = wire
        self._listener = listener
        self._people = people
        self._domain = domain
        self._names = Names(database)
        self._showing = Showing(wire=wire, names=self._names, people=people)
        self._telling = Telling(wire)
        self._places = Places(database, on_gone=on_gone)
        self._moving = Moving(
            listener=listener,
            places=self._places,
            names=self._names,
            people=people,
            telling=self._telling,
            domain=domain,
            clock=clock,
            limits=limits,
        )
        self._entering = Entering(
            wire=wire,
            telling=self._telling,
            showing=self._showing,
            listener=listener,
            places=self._places,
            names=self._names,
            people=people,
            bot=bot,
            domain=domain,
            clock=clock,
            limits=limits,
            spawn=spawn,
            end_unrelated=self._end_unrelated,
            on_gone=on_gone,
        )
        self._unproven: dict[RoomId, tuple[str, Change]] = {}
        """Changes that have been shown, until their fence is back: one in a room at a time."""
        self.checking = Checking(
            wire=wire,
            places=self._places,
            clock=clock,
            random=random,
            limits=limits,
            spawn=spawn,
            end=self._end_gone,
            on_there=on_there,
        )

    async def load(self) -> None:
        """The sessions that were there before a restart."""
        await self._places.load()

    def remembered(self) -> Sequence[Session]:
        """Every client that is in a room."""
        return self._places.present()

    def room_of(self, session: Jid, entered_by: Jid) -> RoomId | None:
        """The room in which this client is under this address."""
        found = self._places.find(session, entered_by)
        return None if found is None else found[0].room_id

    def is_occupant(self, session: Jid, occupant: Jid) -> bool:
        """Whether the client is in the room under this very nickname. Spec: XEP-0410."""
        found = self._places.find(session, occupant.bare)
        return found is not None and found[1].nickname == occupant.resource

    # --- presence from clients ------------------------------------------------------------------

    async def on_presence(self, stanza: Stanza, target: Room) -> None:
        found = self._places.find(stanza.sender, stanza.to.bare)
        match stanza.type:
            case "unavailable":
                await self.end_session(stanza.sender, stanza.to.bare)
            case "error":
                self._on_bounce(stanza)
            case "":
                if not stanza.to.resource:
                    await self._refuse(stanza, "jid-malformed", "A nickname is missing.")
                elif stanza.has(MUC, "x"):
                    await self._entering.on_join(stanza, target)
                elif found is None:
                    await self._refuse(stanza, "not-acceptable", "You are not in this room.")
                elif stanza.to.resource != found[1].nickname:
                    await self._on_rename(stanza, *found)

    async def _on_rename(self, stanza: Stanza, room: ServedRoom, session: Session) -> None:
        user_id = self._people.user_of(session.address)
        async with room.lock:
            await self._names.load(room)
            wanted = asked_nickname(stanza.to.resource, session.address)
            holder = room.holder_of(wanted)
            if holder is not None and holder != user_id:
                person = self._people.person_of(holder)
                if person is None or room.sessions_of(person):
                    await self._refuse(stanza, "conflict", "Somebody has this nickname.")
                    return
            old = self._people.occupant(room, user_id, session.nickname)
            new = replace(old, nickname=wanted)
            await self._names.give(room, [(user_id, wanted)])
            mates = room.sessions_of(session.address)
            await self._places.rename(room, mates, wanted)
            for seen_by in list(room.present()):
                await self._wire.send(
                    presence.renaming(seen_by, old, new, is_self=seen_by in mates)
                )

    async def end_session(self, client: Jid, entered_by: Jid) -> None:
        """The client went: its session ends, its membership stays."""
        self._entering.abandon(client, entered_by)
        room = self._places.at(client, entered_by)
        session = None if room is None else room.sessions.get(client)
        if room is not None and session is not None:
            await self._end(room, session)

    async def _end_gone(self, session: Session) -> None:
        """The client is gone. If it is there after all, 333 tells it that it is out."""
        room = self._places.at(session.address, session.entered_by)
        if room is not None:
            await self._end(room, session, status=presence.UNREACHABLE)

    async def _end_unrelated(self, entered_by: Jid, room_id: RoomId) -> None:
        """An alias leads to another room now: who is under it in the one before is told so. Where
        that was upgraded, its sessions move (`moving`)."""
        for session in self._places.others(entered_by, room_id):
            room = self._places.at(session.address, session.entered_by)
            if room is None or room.room_id == room_id:
                continue
            try:
                view = await self._listener.view_room(room.room_id)
            except NotFound:
                view = None
            if view is None or view.info.replacement is None:
                await self._end(room, session, status=presence.SHUTDOWN, reason=UNRELATED_TEXT)

    async def _end(
        self,
        room: ServedRoom,
        session: Session,
        *,
        status: int | None = None,
        reason: str | None = None,
    ) -> None:
        """Nothing happens to a client that has entered anew since."""
        async with room.lock:
            if room.sessions.get(session.address) is not session:
                return
            session.is_gone = True
            await self._places.remove(room, session)
            if not session.is_in:
                return
            user_id = self._people.user_of(session.address)
            own = self._people.occupant(room, user_id, session.nickname)
            gone: list[ET.Element] = []
            if not room.sessions_of(session.address):
                gone = [presence.departure(s, own, status=status) for s in room.present()]
            gone.append(
                presence.departure(session, own, is_self=True, status=status, reason=reason)
            )
            await self._telling.send(gone)

    def _on_bounce(self, stanza: Stanza) -> None:
        """What we sent came back: perhaps its client is gone."""
        found = self._places.find(stanza.sender, stanza.to.bare)
        if found is not None and inbound.condition_of(stanza.xml) in GONE:
            self.checking.suspect(found[1])

    # --- messages from clients ------------------------------------------------------------------

    async def on_message(
        self, stanza: Stanza, accept: Callable[[Stanza, RoomId], Awaitable[None]]
    ) -> None:
        """`accept` stores what is to become an event."""
        if stanza.type == "error":
            self._on_bounce(stanza)
            return
        reason = inbound.declined_reason(stanza)
        if reason is not None:
            return  # the adapter has passed it on
        found = self._places.find(stanza.sender, stanza.to.bare)
        if found is None or found[1].is_removed:  # They may have seen it before its fence is back.
            await self._refuse(stanza, "not-acceptable", "You are not in this room.")
        elif stanza.type != "groupchat":
            flaw = inbound.unreadable(stanza)
            if flaw is not None:
                await self._refuse(stanza, "feature-not-implemented", flaw)
            elif inbound.to_message(stanza) is not None:
                await self._refuse(
                    stanza,
                    "feature-not-implemented",
                    "Private messages inside a room are not carried; write to the person's own "
                    "address.",
                )
        elif stanza.to.resource:
            await self._refuse(stanza, "bad-request", "A groupchat message goes to the room.")
        else:
            await accept(stanza, found[0].room_id)

    # --- what passes ----------------------------------------------------------------------------

    def has_audience(self, room_id: RoomId) -> bool:
        room = self._places.find_room(room_id)
        return room is not None and 0 < len(room.sessions) <= self._limits.states_sessions

    async def show(self, passing: ShowTyping | ShowRead) -> None:
        """To all but their own clients, in rooms that are small enough, from the occupant whom it
        is about. Deviates: XEP-0085, 5.6 keeps a service from making up states; these are theirs.
        """
        room = None if passing.room_id is None else self._places.find_room(passing.room_id)
        if room is None or not self.has_audience(room.room_id):
            return
        async with room.lock:
            await self._names.load(room)
            nickname = room.nicknames.get(passing.sender)
            if nickname is None:
                return
            person = self._people.person_of(passing.sender)
            stanzas = [
                outbound.state(
                    passing,
                    session.entered_by.with_resource(nickname),
                    session.address,
                    type="groupchat",
                )
                for session in room.present()
                if person is None or not session.is_of(person)
            ]
        await self._telling.send(stanzas)

    # --- deliveries -----------------------------------------------------------------------------

    async def deliver(self, delivery: RoomDelivery, *, key: str, own_id: str) -> None:
        if isinstance(delivery, RoomMoved):
            await self._wire.fenced(key, lambda: self._moving.move(delivery, own_id))
            return
        room = self._places.find_room(delivery.room_id)
        if room is None or not room.sessions:
            return
        change: Change | None = None

        async def write() -> None:
            nonlocal change
            async with room.lock:
                await self._load(room, delivery)
                match delivery:
                    case RoomMessage():
                        await self._showing.show_message(room, delivery, own_id)
                    case Reflection():
                        await self._showing.show_again(room, delivery)
                    case RoomSubject():
                        await self._showing.show_subject(room, delivery, own_id)
                    case RoomNotice():
                        await self._moving.say(room, delivery, own_id)
                    case RoomMember() | RoomPower():
                        change = await self._change(room, delivery, key)
                        await self._showing.show_change(room, change)

        await self._wire.fenced(key, write)
        if change is not None:
            await self._finish(room, change)

    async def _load(self, room: ServedRoom, delivery: RoomDelivery) -> None:
        """After a restart sessions are remembered, and what they see is not."""
        await self._names.load(room)
        if room.power is None and not isinstance(delivery, RoomPower):
            room.see(await self._listener.view_room(room.room_id))

    async def _change(self, room: ServedRoom, delivery: RoomMember | RoomPower, key: str) -> Change:
        shown = self._unproven.get(room.room_id)
        if shown is not None and shown[0] == key:
            return shown[1]
        if isinstance(delivery, RoomMember):
            change = await self._showing.change_of_member(room, delivery)
        else:
            view = await self._listener.view_room(room.room_id)
            power = room.power
            room.see(view)
            room.power = power
            change = self._showing.change_of_power(room, delivery, view.power)
        self._unproven[room.room_id] = (key, change)
        return change

    async def _finish(self, room: ServedRoom, change: Change) -> None:
        """What is proven to be shown becomes rows."""
        async with room.lock:
            self._unproven.pop(room.room_id, None)
            if change.renamed is not None and room.is_loaded:
                await self._names.give(room, [change.renamed])
            departure = change.departure
            if departure is None:
                return
            for session in departure.sessions:
                if room.sessions.get(session.address) is session and session.is_removed:
                    await self._places.remove(room, session)
            await self._names.forget(room, departure.user_id)

    async def _refuse(self, stanza: Stanza, condition: str, text: str) -> None:
        await self._telling.refuse(stanza, condition, text)

    async def invite(self, delivery: RoomInvite, *, key: str, own_id: str) -> None:
        target = delivery.alias if delivery.alias is not None else delivery.room_id
        xml = outbound.invitation(
            room=Jid(to_local(target), self._domain),
            to=Jid.parse(delivery.to).bare,
            id=own_id,
            inviter=self._people.jid_of(delivery.inviter),
            name=delivery.name,
            reason=delivery.reason,
        )
        await self._wire.fenced(key, lambda: self._wire.send([xml]))
