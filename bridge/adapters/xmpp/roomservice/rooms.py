"""The room service: who enters, leaves and speaks, and what reaches them.

Entering, in this order (XEP-0045, 7.1 and 7.2):
1. the room is found, and a nickname that another XMPP person uses is refused (409);
2. the session is registered as entering: from here on live events wait for it;
3. the person becomes a member on the Matrix side; after 20 s they are told that it takes longer,
   it goes on, and ends in an invitation;
4. presence of the occupants, own presence (110), history, subject, then what has waited;
5. the session is a row; the others are told.

Going offline ends a session and nothing else. Everything that is shown in a room is shown under
its lock, so that no session sees two things in different orders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.addresses import Room, to_local
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import MUC
from bridge.adapters.xmpp.roomservice import history, presence
from bridge.adapters.xmpp.roomservice.messages import Departure, Showing
from bridge.adapters.xmpp.roomservice.names import Names
from bridge.adapters.xmpp.roomservice.occupants import (
    People,
    ServedRoom,
    Session,
    asked_nickname,
    choose_nickname,
    stored,
)
from bridge.clock import Clock
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import RoomId, UserId
from bridge.ports.chat import (
    ChatListener,
    Reflection,
    RoomInvite,
    RoomMember,
    RoomMessage,
    RoomSubject,
    RoomView,
)
from bridge.storage import sessions
from bridge.storage.database import Database, Transaction
from bridge.telemetry.log import get_logger

log = get_logger("xmpp.rooms")

RoomDelivery = RoomMessage | Reflection | RoomMember | RoomSubject
Spawn = Callable[[Callable[[], Awaitable[None]]], bool]

GONE = frozenset(
    {
        "gone",
        "item-not-found",
        "jid-malformed",
        "recipient-unavailable",
        "redirect",
        "remote-server-not-found",
        "remote-server-timeout",
        "service-unavailable",
    }
)
"""Errors from a client that say it is not there any more. Spec: XEP-0045, 7.4; XEP-0410, 3.2."""


class _NicknameTaken(Refused):
    """Another XMPP person has it."""


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
        limits: XmppLimits,
        spawn: Spawn,
    ) -> None:
        self._wire = wire
        self._database = database
        self._listener = listener
        self._people = people
        self._domain = domain
        self._bot = bot
        self._clock = clock
        self._limits = limits
        self._spawn = spawn
        self._names = Names(database)
        self._showing = Showing(wire=wire, names=self._names, people=people)
        self._rooms: dict[RoomId, ServedRoom] = {}
        self._places: dict[tuple[Jid, Jid], ServedRoom] = {}
        self._entering: set[tuple[Jid, Jid]] = set()

    async def load(self) -> None:
        """The sessions that were there before a restart."""
        for row in await self._database.read(sessions.list_all):
            session = Session(
                address=Jid.parse(row.address),
                entered_by=Jid.parse(row.entered_by),
                nickname=row.nickname,
                since_position=row.since_position,
                is_in=True,
            )
            self._register(self._room(row.room_id), session)

    def remembered(self) -> Sequence[Session]:
        """Every client that is in a room, for the check after a reconnect."""
        return [session for room in self._rooms.values() for session in room.present()]

    def room_of(self, session: Jid, entered_by: Jid) -> RoomId | None:
        """The room in which this client is under this address."""
        found = self._find(session, entered_by)
        return None if found is None else found[0].room_id

    def is_occupant(self, session: Jid, occupant: Jid) -> bool:
        """Whether the client is in the room under this very nickname. Spec: XEP-0410."""
        found = self._find(session, occupant.bare)
        return found is not None and found[1].nickname == occupant.resource

    # --- presence from clients ------------------------------------------------------------------

    async def on_presence(self, stanza: Stanza, target: Room) -> None:
        found = self._find(stanza.sender, stanza.to.bare)
        match stanza.type:
            case "unavailable":
                await self.end_session(stanza.sender, stanza.to.bare, is_polite=True)
            case "error":
                await self.end_session(stanza.sender, stanza.to.bare)
            case "":
                if not stanza.to.resource:
                    await self._refuse(stanza, "jid-malformed", "A nickname is missing.")
                elif stanza.has(MUC, "x"):
                    await self._on_join(stanza, target)
                elif found is None:
                    await self._refuse(stanza, "not-acceptable", "You are not in this room.")
                elif stanza.to.resource != found[1].nickname:
                    await self._on_rename(stanza, *found)

    async def _on_join(self, stanza: Stanza, target: Room) -> None:
        place = (stanza.sender, stanza.to.bare)
        if place in self._entering:
            return
        self._entering.add(place)
        if len(self._entering) > self._limits.joins or not self._spawn(
            lambda: self._enter(stanza, target)
        ):
            self._entering.discard(place)
            await self._refuse(stanza, "resource-constraint", "Too many people are entering.")

    async def _enter(self, stanza: Stanza, target: Room) -> None:
        session = Session(
            address=stanza.sender, entered_by=stanza.to.bare, nickname=stanza.to.resource
        )
        try:
            async with asyncio.timeout(self._limits.join_deadline_s):
                await self._enter_in_time(stanza, target, session)
        except (IsthmusError, TimeoutError) as exc:
            log.info("not entered", room=str(stanza.to.bare), reason=str(exc))
            await self._forget(session)
            if not session.is_late and not session.is_gone:
                await self._refuse(stanza, *_join_error(exc))
        finally:
            self._entering.discard((stanza.sender, stanza.to.bare))

    async def _enter_in_time(self, stanza: Stanza, target: Room, session: Session) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                late = group.create_task(self._tell_late(stanza, session))
                room = await self._register_entering(target, session)
                view = await self._listener.enter(
                    address=str(session.address.bare),
                    target=target.room,
                    nickname=stanza.to.resource,
                    history_limit=inbound.history_limit(
                        stanza,
                        default=self._limits.history_messages,
                        maximum=self._limits.history_messages_max,
                    ),
                )
                late.cancel()
        except ExceptionGroup as failed:
            raise _first(failed) from failed
        async with room.lock:
            room.members = {m.user_id: m for m in view.members}
            room.power = view.power
            if session.is_late:
                await self._invite_late(room, session, view)
            elif not session.is_gone:
                await self._admit(stanza, room, session, view)

    async def _register_entering(self, target: Room, session: Session) -> ServedRoom:
        """Steps 1 and 2."""
        room = self._room(await self._listener.find_room(target.room))
        async with room.lock:
            await self._names.load(room)
            self._check_nickname(room, session)
            before = room.sessions.get(session.address)
            session.was_in = before is not None and before.is_in
            if before is not None and before.entered_by != session.entered_by:
                self._places.pop((before.address, before.entered_by), None)
            self._register(room, session)
        return room

    def _check_nickname(self, room: ServedRoom, session: Session) -> None:
        """Step 1. A name that a Matrix member has is given up by them later."""
        holder = room.holder_of(asked_nickname(session.nickname, session.address))
        person = None if holder is None else self._people.person_of(holder)
        if person is not None and person.bare != session.address.bare and room.sessions_of(person):
            raise _NicknameTaken("Somebody in this room has this nickname.")

    async def _tell_late(self, stanza: Stanza, session: Session) -> None:
        """Step 3: an answer in words instead of silence."""
        await self._clock.sleep(self._limits.join_timeout_s)
        session.is_late = True
        await self._refuse(
            stanza,
            "remote-server-timeout",
            "The other server is slow. I go on trying, and invite you when you can enter.",
        )

    async def _invite_late(self, room: ServedRoom, session: Session, view: RoomView) -> None:
        self._unregister(room, session)
        await self._wire.send(
            [
                outbound.invitation(
                    room=session.entered_by,
                    to=session.address.bare,
                    id=f"late.{view.info.position}.{room.room_id}",
                    inviter=self._bot,
                    name=view.info.name,
                    reason="You can enter now.",
                )
            ]
        )

    async def _admit(
        self, stanza: Stanza, room: ServedRoom, session: Session, view: RoomView
    ) -> None:
        """Steps 4 and 5."""
        user_id = self._people.user_of(session.address)
        is_new = user_id not in room.nicknames
        mates = room.sessions_of(session.address)
        await self._take_nickname(room, session, user_id, mates)
        speakers = [message.sender for message in view.history]
        shown = await self._occupants(room, speakers, besides=user_id)
        own = self._people.occupant(room, user_id, session.nickname)
        seconds = inbound.history_seconds(stanza)
        not_before = None if seconds is None else self._clock.now_ms() - seconds * 1000
        session.since_position = view.info.position
        await self._send_leniently(
            [
                *(presence.arrival(session, occupant, name) for occupant, name in shown),
                presence.self_arrival(
                    session, own, is_assigned=session.nickname != stanza.to.resource
                ),
                *history.past(room, session, view, not_before_ms=not_before),
                history.subject(room, session, view),
                *(xml for at, xml in session.waiting if at > session.since_position),
                *self._removal(room, session, own),
            ]
        )
        if session.is_flooded:
            raise Unavailable("Too much happens in this room at the moment.")
        session.waiting.clear()
        if session.is_removed:
            self._unregister(room, session)
            return
        session.is_in = True
        row = stored(room.room_id, session, self._clock.now_ms())
        await self._database.write(lambda tx: sessions.put(tx, row))
        if not mates and not session.was_in:
            name = room.members[user_id].displayname if user_id in room.members else None
            await self._tell_others(room, session, lambda s: [presence.arrival(s, own, name)])
        if is_new:
            await self._tell_how_to_leave(session, view)

    def _removal(
        self, room: ServedRoom, session: Session, own: outbound.Occupant
    ) -> list[ET.Element]:
        """Who was removed while entering is shown it after all the rest."""
        if session.removal is None or not session.is_removed:
            return []
        return self._showing.leaving(room, session.removal, own, [session])(session)

    async def _take_nickname(
        self, room: ServedRoom, session: Session, user_id: UserId, mates: Sequence[Session]
    ) -> None:
        """Several clients of a person share a name; a Matrix member gives way, by 303."""
        if mates:
            session.nickname = mates[0].nickname
            return
        wanted = asked_nickname(session.nickname, session.address)
        holder = room.holder_of(wanted)
        if holder is None or holder == user_id:
            session.nickname = wanted
            await self._names.give(room, [(user_id, wanted)])
            return
        person = self._people.person_of(holder)
        if person is not None and room.sessions_of(person):  # they came while we were entering
            session.nickname = choose_nickname(room, user_id, wanted)
            await self._names.give(room, [(user_id, session.nickname)])
            return
        session.nickname = wanted
        if person is not None:
            await self._names.give(room, [(user_id, wanted)])
            return
        old = self._people.occupant(room, holder, room.nicknames[holder])
        member = room.members.get(holder)
        display_name = None if member is None else member.displayname
        other = choose_nickname(room, holder, display_name, besides=[wanted])
        await self._names.give(room, [(user_id, wanted), (holder, other)])
        if member is not None:
            new = replace(old, nickname=other)
            await self._tell_others(room, session, lambda s: presence.renaming(s, old, new))

    async def _occupants(
        self, room: ServedRoom, speakers: Sequence[UserId], *, besides: UserId
    ) -> list[tuple[outbound.Occupant, str | None]]:
        """Who is shown to somebody who enters; names are given to those who have none yet."""
        shown = self._people.listed(room, speakers, self._limits.members_shown)
        changes: list[tuple[UserId, str]] = []
        for user_id, display_name in shown:
            if user_id not in room.nicknames:
                nickname = choose_nickname(room, user_id, display_name)
                room.hold(user_id, nickname)
                changes.append((user_id, nickname))
        await self._names.give(room, changes)
        return [
            (self._people.occupant(room, user_id, room.nicknames[user_id]), display_name)
            for user_id, display_name in shown
            if user_id != besides
        ]

    async def _tell_how_to_leave(self, session: Session, view: RoomView) -> None:
        name = view.info.name or str(session.entered_by)
        await self._wire.send(
            [
                outbound.notice(
                    sender=self._bot,
                    to=session.address.bare,
                    text=f"You are now a member of {name}. Going offline or closing the room keeps "
                    "your membership. To leave for good, choose the command “leave” on the room, "
                    f"or write to me: leave {session.entered_by}",
                )
            ]
        )

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
            for mate in mates:
                mate.nickname = wanted
            await self._database.write(lambda tx: _rename(tx, room.room_id, mates, wanted))
            for seen_by in list(room.present()):
                await self._wire.send(
                    presence.renaming(seen_by, old, new, is_self=seen_by in mates)
                )

    async def end_session(
        self,
        client: Jid,
        entered_by: Jid,
        *,
        is_polite: bool = False,
        only: Session | None = None,
    ) -> None:
        """The client went, or is gone: its session ends, its membership stays.

        `only`: unless it has entered anew since.
        """
        room = self._places.get((client, entered_by))
        if room is None:
            return
        async with room.lock:
            session = room.sessions.get(client)
            if session is None or session.entered_by != entered_by:
                return
            if only is not None and session is not only:
                return
            session.is_gone = True
            await self._remove(room, session)
            if not session.is_in:
                return
            user_id = self._people.user_of(client)
            own = self._people.occupant(room, user_id, session.nickname)
            gone: list[ET.Element] = []
            if not room.sessions_of(client):
                gone = [presence.departure(s, own) for s in room.present()]
            if is_polite:
                gone.append(presence.departure(session, own, is_self=True))
            await self._send_leniently(gone)

    # --- messages from clients ------------------------------------------------------------------

    async def on_message(
        self, stanza: Stanza, accept: Callable[[Stanza, RoomId], Awaitable[None]]
    ) -> None:
        """`accept` stores what is to become an event."""
        if stanza.type == "error":
            condition, _ = inbound.error_of(stanza)
            if condition in GONE:
                await self.end_session(stanza.sender, stanza.to.bare)
            return
        reason = inbound.declined_reason(stanza)
        if reason is not None:
            return  # the adapter has passed it on
        found = self._find(stanza.sender, stanza.to.bare)
        if found is None:
            await self._refuse(stanza, "not-acceptable", "You are not in this room.")
        elif stanza.type != "groupchat":
            if inbound.to_message(stanza) is not None:
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

    # --- deliveries -----------------------------------------------------------------------------

    async def deliver(self, delivery: RoomDelivery, *, key: str, own_id: str) -> None:
        room = self._rooms.get(delivery.room_id)
        if room is None or not room.sessions:
            return
        departure: Departure | None = None

        async def write() -> None:
            nonlocal departure
            async with room.lock:
                await self._names.load(room)
                match delivery:
                    case RoomMessage():
                        await self._showing.show_message(room, delivery, own_id)
                    case Reflection():
                        await self._showing.show_again(room, delivery)
                    case RoomSubject():
                        await self._showing.show_subject(room, delivery, own_id)
                    case RoomMember():
                        departure = await self._showing.show_member(room, delivery)

        await self._wire.fenced(key, write)
        if departure is not None:
            await self._finish(room, departure)

    async def _finish(self, room: ServedRoom, departure: Departure) -> None:
        async with room.lock:
            for session in departure.sessions:
                if room.sessions.get(session.address) is session and session.is_removed:
                    await self._remove(room, session)
            await self._names.forget(room, departure.user_id)

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

    # --- state ----------------------------------------------------------------------------------

    def _room(self, room_id: RoomId) -> ServedRoom:
        return self._rooms.setdefault(room_id, ServedRoom(room_id=room_id))

    def _find(self, client: Jid, entered_by: Jid) -> tuple[ServedRoom, Session] | None:
        room = self._places.get((client, entered_by))
        session = None if room is None else room.find_session(client, entered_by)
        return None if room is None or session is None else (room, session)

    def _register(self, room: ServedRoom, session: Session) -> None:
        room.sessions[session.address] = session
        self._places[session.address, session.entered_by] = room

    def _unregister(self, room: ServedRoom, session: Session) -> None:
        if room.sessions.get(session.address) is session:
            del room.sessions[session.address]
            self._places.pop((session.address, session.entered_by), None)
        if not room.sessions:
            room.unload()

    async def _remove(self, room: ServedRoom, session: Session) -> None:
        self._unregister(room, session)
        room_id, address = room.room_id, str(session.address)
        await self._database.write(lambda tx: sessions.remove(tx, room_id=room_id, address=address))

    async def _forget(self, session: Session) -> None:
        """An entry that failed; a client that entered anew is out, too."""
        room = self._places.get((session.address, session.entered_by))
        if room is None or room.sessions.get(session.address) is not session:
            return
        async with room.lock:
            await self._names.load(room)
            user_id = self._people.user_of(session.address)
            nickname = room.nicknames.get(user_id)
            await self._remove(room, session)
            if nickname is None or room.sessions_of(session.address):
                return
            await self._names.forget(room, user_id)
            if session.was_in:
                own = self._people.occupant(room, user_id, nickname)
                await self._tell_others(room, session, lambda s: [presence.departure(s, own)])

    async def _tell_others(
        self, room: ServedRoom, session: Session, make: Callable[[Session], list[ET.Element]]
    ) -> None:
        elements = [xml for s in room.present() if s is not session for xml in make(s)]
        await self._send_leniently(elements)

    async def _send_leniently(self, elements: list[ET.Element]) -> None:
        """One stanza that may not be sent does not keep the others back."""
        if not elements:
            return
        try:
            await self._wire.send(elements)
        except Refused:
            for xml in elements:
                with _logged_refusal():
                    await self._wire.send([xml])

    async def _refuse(self, stanza: Stanza, condition: str, text: str = "") -> None:
        error = outbound.error_for(stanza, condition, text, by=stanza.to.bare)
        await self._send_leniently([error])


def _rename(tx: Transaction, room_id: RoomId, mates: Sequence[Session], nickname: str) -> None:
    for mate in mates:
        sessions.rename(tx, room_id=room_id, address=str(mate.address), nickname=nickname)


@contextmanager
def _logged_refusal() -> Iterator[None]:
    try:
        yield
    except Refused as exc:
        log.warning("stanza not sent", reason=exc.reason, rule=exc.rule)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    exc: Exception = group
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def _join_error(exc: BaseException) -> tuple[str, str]:
    """What somebody is told who could not enter. Spec: XEP-0045, 7.2.5 to 7.2.12."""
    match exc:
        case _NicknameTaken():
            return "conflict", exc.reason
        case Refused(errcode="M_FORBIDDEN"):
            is_banned = "ban" in exc.rule or "banned" in exc.reason.lower()
            return "forbidden" if is_banned else "registration-required", exc.reason
        case Refused():
            return "not-allowed", exc.reason
        case NotFound():
            return "item-not-found", exc.reason
        case BadInput():
            return "jid-malformed", exc.reason
        case Unavailable():
            return "remote-server-timeout", exc.reason
        case TimeoutError():
            return "remote-server-timeout", "The other server did not answer."
        case _:
            return "internal-server-error", ""
