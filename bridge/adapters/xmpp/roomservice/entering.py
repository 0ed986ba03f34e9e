"""Entering a room that we serve, in this order (XEP-0045, 7.1 and 7.2):

1. the room is found, and a nickname that another XMPP person uses is refused (409);
2. the session is registered as entering: from here on live events wait for it;
3. the person becomes a member on the Matrix side; after 3 s the bot tells them that it is under
   way, because a client shows nothing of a room before it is in; after 20 s they get an error that
   says that it takes longer, it goes on, and ends in an invitation, or the bot says why not;
4. presence of the occupants, own presence (110), history, subject, then what has waited;
5. the session is a row; the others are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.addresses import Room, to_local, to_uri
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.roomservice import history, presence
from bridge.adapters.xmpp.roomservice.messages import Showing
from bridge.adapters.xmpp.roomservice.names import Names
from bridge.adapters.xmpp.roomservice.occupants import (
    People,
    ServedRoom,
    Session,
    asked_nickname,
    choose_nickname,
)
from bridge.adapters.xmpp.roomservice.places import OnClient, Places
from bridge.adapters.xmpp.roomservice.telling import Telling
from bridge.clock import Clock
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import RoomId, UserId
from bridge.ports.chat import ChatListener, Replaced, RoomView
from bridge.telemetry.log import get_logger

log = get_logger("xmpp.rooms")

_UNDER_WAY = (
    "Entering {room} takes a while: the other servers of the room are being asked, and what they "
    "send is being checked. There is nothing that you need to do."
)
_FAILED = "You could not enter {room} after all: {reason}"
_LATE = "The other server is slow. I go on trying, and invite you when you can enter."

Spawn = Callable[[Callable[[], Awaitable[None]]], bool]


class _NicknameTaken(Refused):
    """Another XMPP person has it."""


class Entering:
    """`spawn` runs something beside the lane that asked for it; failures are logged there."""

    def __init__(
        self,
        *,
        wire: Wire,
        telling: Telling,
        showing: Showing,
        listener: ChatListener,
        places: Places,
        names: Names,
        people: People,
        bot: Jid,
        domain: str,
        clock: Clock,
        limits: XmppLimits,
        spawn: Spawn,
        end_unrelated: Callable[[Jid, RoomId], Awaitable[None]],
        on_gone: OnClient,
    ) -> None:
        """`end_unrelated`: this address leads to this room now, and to no other one."""
        self._end_unrelated = end_unrelated
        self._on_gone = on_gone
        self._domain = domain
        self._wire = wire
        self._telling = telling
        self._showing = showing
        self._listener = listener
        self._places = places
        self._names = names
        self._people = people
        self._bot = bot
        self._clock = clock
        self._limits = limits
        self._spawn = spawn
        self._entering: dict[tuple[Jid, Jid], Session] = {}
        self._again: dict[tuple[Jid, Jid], tuple[Stanza, Room]] = {}
        """Clients that went away while they were entering, and asked again."""

    async def on_join(self, stanza: Stanza, target: Room) -> None:
        place = (stanza.sender, stanza.to.bare)
        before = self._entering.get(place)
        if before is not None:
            await self._on_second_join(before, stanza, target)
            return
        session = Session(
            address=stanza.sender, entered_by=stanza.to.bare, nickname=stanza.to.resource
        )
        if not self._may_enter(session) or not self._spawn(
            lambda: self._enter(stanza, target, session)
        ):
            await self._telling.refuse(
                stanza, "resource-constraint", "Too many people are entering."
            )
            return
        self._entering[place] = session

    def _may_enter(self, session: Session) -> bool:
        """Nobody takes more than half of the places."""
        most = self._limits.joins
        own = sum(s.is_of(session.address) for s in self._entering.values())
        return len(self._entering) < most and own < max(1, most // 2)

    async def _on_second_join(self, before: Session, stanza: Stanza, target: Room) -> None:
        """A client that asks while it is entering already gets the one answer; one that went away
        in between begins anew when the first attempt is over."""
        if before.is_gone:
            self._again[stanza.sender, stanza.to.bare] = (stanza, target)
        elif before.is_late:
            await self._telling.refuse(stanza, "remote-server-timeout", _LATE)

    def abandon(self, client: Jid, entered_by: Jid) -> None:
        """The client went away, perhaps before it was in."""
        place = (client, entered_by)
        self._again.pop(place, None)
        session = self._entering.get(place)
        if session is not None:
            session.is_gone = True

    async def _enter(self, stanza: Stanza, target: Room, session: Session) -> None:
        place = (session.address, session.entered_by)
        try:
            async with asyncio.timeout(self._limits.join_deadline_s):
                await self._enter_in_time(stanza, target, session)
        except (IsthmusError, TimeoutError) as exc:
            log.info("not entered", room=str(stanza.to.bare), reason=str(exc))
            try:
                await self._forget(session)
            finally:
                session.is_in = False
                if session.is_late and not session.is_gone:
                    _, reason = _join_error(exc)
                    await self._say(
                        session,
                        _FAILED.format(
                            room=session.entered_by, reason=reason or "something went wrong here."
                        ),
                    )
                elif session.is_gone:
                    pass
                elif isinstance(exc, Replaced):
                    successor = Jid(to_local(exc.successor), self._domain)
                    await self._telling.refuse(
                        stanza, "gone", exc.reason, uri=to_uri(successor, "join")
                    )
                else:
                    await self._telling.refuse(stanza, *_join_error(exc))
        finally:
            self._entering.pop(place, None)
            room = self._places.at(*place)
            if room is not None and not session.is_in:
                self._places.unregister(room, session)
            if not session.is_in and self._places.at(*place) is None:
                self._on_gone(*place)
        again = self._again.pop(place, None)
        if again is not None:
            await self.on_join(*again)

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
            if room.successor is not None:
                raise Replaced("this room was replaced", successor=room.successor)
            room.see(view)
            if session.is_late:
                await self._invite_late(room, session, view)
            elif not session.is_gone:
                await self._admit(stanza, room, session, view)

    async def _register_entering(self, target: Room, session: Session) -> ServedRoom:
        """Steps 1 and 2."""
        room_id = await self._listener.find_room(target.room)
        if target.room.startswith("#"):
            await self._end_unrelated(session.entered_by, room_id)
        while True:
            room = self._places.room(room_id)
            async with room.lock:
                if self._places.find_room(room_id) is not room:
                    continue  # it was let go while we waited
                await self._names.load(room)
                self._check_nickname(room, session)
                if session.is_gone:
                    return room
                before = room.sessions.get(session.address)
                session.was_in = before is not None and before.is_in
                self._places.register(room, session)
                return room

    def _check_nickname(self, room: ServedRoom, session: Session) -> None:
        """Step 1. A name that a Matrix member has is given up by them later."""
        holder = room.holder_of(asked_nickname(session.nickname, session.address))
        person = None if holder is None else self._people.person_of(holder)
        if person is not None and person.bare != session.address.bare and room.sessions_of(person):
            raise _NicknameTaken("Somebody in this room has this nickname.")

    async def _tell_late(self, stanza: Stanza, session: Session) -> None:
        """Step 3: an answer in words instead of silence."""
        left_s = self._limits.join_timeout_s - self._limits.join_hint_s
        if left_s > 0:
            await self._clock.sleep(self._limits.join_hint_s)
            if not session.is_gone:
                with suppress(Unavailable):
                    await self._say(session, _UNDER_WAY.format(room=session.entered_by))
        await self._clock.sleep(left_s if left_s > 0 else self._limits.join_timeout_s)
        session.is_late = True
        session.waiting.clear()
        await self._telling.refuse(stanza, "remote-server-timeout", _LATE)

    async def _invite_late(self, room: ServedRoom, session: Session, view: RoomView) -> None:
        self._places.unregister(room, session)
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
        await self._telling.send(
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
            self._places.unregister(room, session)
            return
        session.is_in = True
        await self._places.store(room, session, self._clock.now_ms())
        if not mates and not session.was_in:
            name = room.members[user_id].displayname if user_id in room.members else None
            await self._telling.others(room, session, lambda s: [presence.arrival(s, own, name)])
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
            await self._telling.others(room, session, lambda s: presence.renaming(s, old, new))

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
        await self._say(
            session,
            f"You are now a member of {name}. Going offline or closing the room keeps your "
            "membership. To leave for good, choose the command “leave” on the room, or write to "
            f"me: leave {session.entered_by}",
        )

    async def _say(self, session: Session, text: str) -> None:
        """By the bot: before its own presence a client shows nothing that a room says."""
        notice = outbound.notice(sender=self._bot, to=session.address.bare, text=text)
        await self._wire.send([notice])

    async def _forget(self, session: Session) -> None:
        """An entry that failed; a client that entered anew is out, too."""
        room = self._places.at(session.address, session.entered_by)
        if room is None or room.sessions.get(session.address) is not session:
            return
        async with room.lock:
            await self._names.load(room)
            user_id = self._people.user_of(session.address)
            nickname = room.nicknames.get(user_id)
            await self._places.remove(room, session)
            if nickname is None or room.sessions_of(session.address):
                return
            await self._names.forget(room, user_id)
            if session.was_in:
                own = self._people.occupant(room, user_id, nickname)
                await self._telling.others(room, session, lambda s: [presence.departure(s, own)])


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
