"""What happens in a room, shown to its sessions: messages, the subject, members.

Each session takes a delivery only if it stands above the position at which it entered; for somebody
who is just entering it waits. The author's own message comes back to all with the author's id.
Spec: XEP-0045, 7.4, 7.6, 8.1, 8.2, 9.1; XEP-0359, 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import outbound
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.outbound import Occupant
from bridge.adapters.xmpp.roomservice import presence
from bridge.adapters.xmpp.roomservice.names import Names
from bridge.adapters.xmpp.roomservice.occupants import (
    People,
    ServedRoom,
    Session,
    choose_nickname,
    rights,
)
from bridge.adapters.xmpp.styling import to_body
from bridge.ids import UserId
from bridge.ports.chat import Reflection, RoomMember, RoomMessage, RoomPower, RoomSubject
from bridge.ports.matrix import Member, Power

Make = Callable[[Session], list[ET.Element]]
_NOBODY = Jid("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A membership that has ended, and the sessions that ended with it."""

    user_id: UserId
    sessions: tuple[Session, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How a change of members or their rights looks, the same each time it is tried.

    It is kept until it is proven to be shown: once the room's state has changed, it cannot be made
    out again. What is to be a row only then, too, so that it is made out again after a crash.
    """

    position: int
    make: Make | None = None
    besides: tuple[Session, ...] = ()
    departure: Departure | None = None
    renamed: tuple[UserId, str] | None = None


class Showing:
    """`show_...` of one delivery; the caller holds the room's lock."""

    def __init__(self, *, wire: Wire, names: Names, people: People) -> None:
        self._wire = wire
        self._names = names
        self._people = people

    async def show_message(self, room: ServedRoom, delivery: RoomMessage, own_id: str) -> None:
        nickname = await self._names.of(room, delivery.sender, _name(room, delivery.sender))
        occupant = room.occupant_id(delivery.sender)
        body = to_body(delivery.message)

        def make(session: Session) -> list[ET.Element]:
            return [
                outbound.groupchat(
                    sender=session.entered_by.with_resource(nickname),
                    to=session.address,
                    id=delivery.stanza_id or own_id,
                    body=body,
                    stanza_id=delivery.event_id,
                    occupant=occupant,
                    origin_id=delivery.origin_id,
                )
            ]

        await self._emit(room, delivery.position, make)

    async def show_again(self, room: ServedRoom, delivery: Reflection) -> None:
        """Only to the client that asked by sending again, if it is in."""
        session = room.sessions.get(Jid.parse(delivery.to))
        if session is None or not session.is_in:
            return
        nickname = await self._names.of(room, delivery.sender, _name(room, delivery.sender))
        await self._wire.send(
            [
                outbound.groupchat(
                    sender=session.entered_by.with_resource(nickname),
                    to=session.address,
                    id=delivery.stanza_id,
                    body=to_body(delivery.message),
                    stanza_id=delivery.event_id,
                    occupant=room.occupant_id(delivery.sender),
                    origin_id=delivery.origin_id,
                )
            ]
        )

    async def show_subject(self, room: ServedRoom, delivery: RoomSubject, own_id: str) -> None:
        nickname = await self._names.of(room, delivery.sender, _name(room, delivery.sender))

        def make(session: Session) -> list[ET.Element]:
            sender = session.entered_by.with_resource(nickname)
            return [
                outbound.subject(
                    sender=sender, to=session.address, text=delivery.text, at_ms=None, id=own_id
                )
            ]

        await self._emit(room, delivery.position, make)

    async def show_change(self, room: ServedRoom, change: Change) -> None:
        if change.make is not None:
            await self._emit(room, change.position, change.make, besides=change.besides)

    def change_of_power(self, room: ServedRoom, delivery: RoomPower, power: Power) -> Change:
        """Rights that were not known are shown, too."""
        before, room.power = room.power, power
        changed = [
            (self._people.occupant(room, user_id, nickname), room.sessions_of(person or _NOBODY))
            for user_id, nickname in room.nicknames.items()
            if (before is None or rights(before, user_id) != rights(power, user_id))
            and ((person := self._people.person_of(user_id)) is None or room.sessions_of(person))
            and user_id in room.members
        ]

        def make(session: Session) -> list[ET.Element]:
            return [
                presence.arrival(session, occupant, is_self=session in own)
                for occupant, own in changed
            ]

        return Change(position=delivery.position, make=make if changed else None)

    async def change_of_member(self, room: ServedRoom, delivery: RoomMember) -> Change:
        user_id = delivery.user_id
        if delivery.membership == "join":
            known = room.members.get(user_id)
            member = Member(
                user_id=user_id,
                membership="join",
                displayname=delivery.displayname,
                avatar_url=None if known is None else known.avatar_url,
            )
            room.set_member(user_id, member, delivery.position)
            if self._people.person_of(user_id) is None:
                return await self._joining(room, delivery)
        elif delivery.membership in ("leave", "ban"):
            room.set_member(user_id, None, delivery.position)
            return self._parting(room, delivery)
        return Change(position=delivery.position)

    async def _joining(self, room: ServedRoom, delivery: RoomMember) -> Change:
        user_id, position = delivery.user_id, delivery.position
        before = room.nicknames.get(user_id)
        nickname = choose_nickname(room, user_id, delivery.displayname)
        if before is None:
            await self._names.give(room, [(user_id, nickname)])
        elif nickname != before:
            room.hold(user_id, nickname)
        occupant = self._people.occupant(room, user_id, nickname)
        if delivery.previous != "join" or before is None:

            def arrive(session: Session) -> list[ET.Element]:
                return [presence.arrival(session, occupant, delivery.displayname)]

            renamed = None if before in (None, nickname) else (user_id, nickname)
            return Change(position=position, make=arrive, renamed=renamed)
        if nickname == before:
            return Change(position=position)
        old = replace(occupant, nickname=before)
        return Change(
            position=position,
            make=lambda session: presence.renaming(session, old, occupant),
            renamed=(user_id, nickname),
        )

    def _parting(self, room: ServedRoom, delivery: RoomMember) -> Change:
        user_id, position = delivery.user_id, delivery.position
        person = self._people.person_of(user_id)
        own = [] if person is None else [s for s in room.sessions.values() if s.is_of(person)]
        for session in own:
            session.remove(delivery)
        nickname = room.nicknames.get(user_id)
        if nickname is None or any(s.is_in and not s.is_removed for s in own):
            return Change(position=position)  # nobody has seen them, or they have come back since
        ended = [s for s in own if s.is_in]
        occupant = self._people.occupant(room, user_id, nickname)
        return Change(
            position=position,
            make=self.leaving(room, delivery, occupant, ended) if person is None or ended else None,
            besides=tuple(s for s in own if not s.is_in),
            departure=Departure(user_id=user_id, sessions=tuple(ended)),
        )

    def leaving(
        self, room: ServedRoom, delivery: RoomMember, occupant: Occupant, ended: list[Session]
    ) -> Make:
        """How a membership that ended looks to a session; to those of `ended` it is their own."""
        occupant = replace(
            occupant,
            affiliation="outcast" if delivery.membership == "ban" else "none",
            role="none",
        )
        is_forced = delivery.actor != delivery.user_id
        status = None
        if delivery.membership == "ban":
            status = presence.BANNED
        elif is_forced:
            status = presence.KICKED
        actor = self._people.jid_of(delivery.actor) if is_forced else None

        def make(session: Session) -> list[ET.Element]:
            return [
                presence.departure(
                    session,
                    occupant,
                    is_self=session in ended,
                    status=status,
                    actor=actor,
                    actor_nickname=room.nicknames.get(delivery.actor) if is_forced else None,
                    reason=delivery.reason,
                )
            ]

        return make

    async def _emit(
        self, room: ServedRoom, position: int, make: Make, *, besides: Sequence[Session] = ()
    ) -> None:
        ready: list[ET.Element] = []
        for session in room.sessions.values():
            if session in besides:
                continue
            taken = [session.take(position, xml) for xml in make(session)]
            ready += [xml for xml in taken if xml is not None]
        if ready:
            await self._wire.send(ready)


def _name(room: ServedRoom, user_id: UserId) -> str | None:
    member = room.members.get(user_id)
    return None if member is None else member.displayname
