"""A room that we serve was upgraded: its sessions move, or are told where it goes on.

A session that entered by an alias which leads to the successor now is moved silently: it keeps its
address and its nickname, and sees who is there now (104, one notice). Aliases are moved a moment
after the tombstone, so that one is waited for. One that stays behind, or was entered by the old
room's ID, ends with the address of the successor; one that leads to another room altogether ends
with the reason (332). Spec: XEP-0045, 10.2.1 (104), 10.9, 15.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import outbound
from bridge.adapters.xmpp.addresses import Room, to_local
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.nicknames import nickname_key
from bridge.adapters.xmpp.roomservice import presence
from bridge.adapters.xmpp.roomservice.names import Names
from bridge.adapters.xmpp.roomservice.occupants import (
    People,
    ServedRoom,
    Session,
    choose_nickname,
)
from bridge.adapters.xmpp.roomservice.places import Places
from bridge.adapters.xmpp.roomservice.telling import Telling
from bridge.clock import Clock
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import RoomAlias, RoomId, UserId
from bridge.ports.chat import ChatListener, Replaced, RoomMoved, RoomNotice
from bridge.telemetry.log import get_logger

log = get_logger("xmpp.rooms")

ALIAS_S = 20.0
"""An alias that has not been moved by then stays behind."""
NAME_S = 5.0
"""Whoever must go on by another address waits so long for one that can be read."""
MOVED_TEXT = "This room was upgraded. You are in its successor, under the same address."
DESTROYED_TEXT = "This room was upgraded. It goes on at {address}."
UNRELATED_TEXT = "This address leads to another room now."


class Moving:
    def __init__(
        self,
        *,
        listener: ChatListener,
        places: Places,
        names: Names,
        people: People,
        telling: Telling,
        domain: str,
        clock: Clock,
        limits: XmppLimits,
    ) -> None:
        self._listener = listener
        self._places = places
        self._names = names
        self._people = people
        self._telling = telling
        self._domain = domain
        self._clock = clock
        self._limits = limits

    async def say(self, room: ServedRoom, delivery: RoomNotice, own_id: str) -> None:
        """A line of the room itself. Hold the room."""
        await self._telling.send(
            [
                outbound.room_notice(room=s.entered_by, to=s.address, text=delivery.text, id=own_id)
                for s in room.present()
            ]
        )

    async def move(self, delivery: RoomMoved, own_id: str) -> None:
        """Every session of the old room; nothing where there is none any more."""
        old = self._places.find_room(delivery.replaces)
        if old is None or not old.sessions:
            return
        await self._check_finished(delivery)
        is_passed = await self._is_passed(delivery.room_id)
        ways = {
            entered_by: await self._way(entered_by, delivery, is_passed=is_passed)
            for entered_by in {session.entered_by for session in old.present()}
        }
        new = self._places.room(delivery.room_id)
        stays = all(way == "moved" for way in ways.values())
        successor = await self._successor(delivery, patience_s=0.0 if stays else NAME_S)
        async with old.lock, new.lock:
            old.successor = successor
            view = await self._listener.view_room(delivery.room_id)
            await self._names.load(old)
            await self._names.load(new)
            if old.power is None:
                old.see(await self._listener.view_room(old.room_id))
            new.see(view)
            seen = {
                user_id: nickname
                for user_id, nickname in old.nicknames.items()
                if (person := self._people.person_of(user_id)) is None or old.sessions_of(person)
            }
            staying: list[Session] = []
            for session in list(old.present()):
                way = ways.get(session.entered_by, "stranded")
                is_member = self._people.user_of(session.address) in new.members
                if way == "moved" and is_member and session.address not in new.sessions:
                    staying.append(session)
                else:
                    await self._end(old, session, successor, is_unrelated=way == "unrelated")
            await self._move(old, new, staying, seen, own_id)

    async def _successor(self, delivery: RoomMoved, *, patience_s: float) -> RoomAlias | RoomId:
        """By which name the room goes on; an alias may be on its way to it."""
        try:
            await self._listener.find_room(delivery.replaces)
        except Replaced as exc:
            if not exc.successor.startswith("!"):
                return exc.successor
            if delivery.alias is not None and await self._leads(delivery.alias, delivery.room_id):
                return delivery.alias
            self._wait(delivery, "the room may get its alias yet", patience_s)
            return exc.successor
        return delivery.room_id

    async def _leads(self, alias: RoomAlias, room_id: RoomId) -> bool:
        try:
            return await self._listener.find_room(alias) == room_id
        except (BadInput, NotFound, Refused, Unavailable):
            return False

    async def _check_finished(self, delivery: RoomMoved) -> None:
        """Unavailable: the bridge is still about it; the address would be a riddle."""
        try:
            await self._listener.find_room(delivery.replaces)
        except Replaced:
            return
        raise Unavailable(f"{delivery.replaces} is not left behind yet")

    async def _is_passed(self, room_id: RoomId) -> bool:
        """The successor itself was replaced meanwhile."""
        try:
            await self._listener.find_room(room_id)
        except Replaced:
            return True
        return False

    async def _way(self, entered_by: Jid, delivery: RoomMoved, *, is_passed: bool) -> str:
        """moved: the address leads to the successor; stranded: to the old room, or nowhere;
        unrelated: to another one. Unavailable while that may still change."""
        target = self._target(entered_by)
        if target is None or not target.startswith("#"):
            return "stranded"
        if is_passed:
            return "moved"  # and on, by the next of these deliveries, which looks at it again
        try:
            room_id = await self._listener.find_room(target)
        except Unavailable as exc:
            self._wait(delivery, exc.reason)
            return "stranded"
        except Replaced:
            self._wait(delivery, f"{target} has not been moved yet")
            return "stranded"
        except (BadInput, NotFound, Refused):
            self._wait(delivery, f"{target} leads nowhere at the moment")
            return "stranded"
        return "moved" if room_id == delivery.room_id else "unrelated"

    def _wait(self, delivery: RoomMoved, reason: str, patience_s: float = ALIAS_S) -> None:
        if self._clock.now_ms() - delivery.at_ms < patience_s * 1000:
            raise Unavailable(reason)

    def _target(self, entered_by: Jid) -> RoomAlias | RoomId | None:
        try:
            where = self._people.destination_of(entered_by)
        except (BadInput, NotFound):
            return None
        return where.room if isinstance(where, Room) else None

    # --- out --------------------------------------------------------------------------------------

    async def _end(
        self,
        room: ServedRoom,
        session: Session,
        successor: RoomAlias | RoomId,
        *,
        is_unrelated: bool,
    ) -> None:
        own = self._people.occupant(room, self._people.user_of(session.address), session.nickname)
        gone = replace(own, affiliation="none", role="none")
        if is_unrelated:
            xml = presence.departure(
                session, gone, is_self=True, status=presence.SHUTDOWN, reason=UNRELATED_TEXT
            )
        else:
            address = Jid(to_local(successor), self._domain)
            xml = presence.destruction(
                session, gone, alternative=address, reason=DESTROYED_TEXT.format(address=address)
            )
        await self._telling.send([xml])
        await self._places.remove(room, session)

    # --- along ------------------------------------------------------------------------------------

    async def _move(
        self,
        old: ServedRoom,
        new: ServedRoom,
        staying: Sequence[Session],
        seen: Mapping[UserId, str],
        own_id: str,
    ) -> None:
        """Names come along where they are free; whoever is there now is shown, and who of those
        that were `seen` is not."""
        if not staying:
            return
        came = {self._people.user_of(session.address) for session in staying}
        await self._take_names(old, new, came)
        before = list(new.present())
        for session in staying:
            session.nickname = new.nicknames[self._people.user_of(session.address)]
            await self._places.transfer(old, new, session, self._clock.now_ms())
        shown = self._people.listed(new, [], self._limits.members_shown)
        await self._name_all(new, [user_id for user_id, _ in shown], dict(shown))
        names = {nickname_key(new.nicknames[user_id]) for user_id, _ in shown}
        left = [
            self._people.occupant(old, user_id, nickname)
            for user_id, nickname in seen.items()
            if nickname_key(nickname) not in names
        ]
        there = [
            (user_id, self._people.occupant(new, user_id, new.nicknames[user_id]), name)
            for user_id, name in shown
        ]
        xml: list[ET.Element] = []
        for session in staying:
            own_user = self._people.user_of(session.address)
            xml += [presence.departure(session, occupant) for occupant in left]
            xml += [
                presence.arrival(session, occupant, name, is_self=user_id == own_user)
                for user_id, occupant, name in there
            ]
            xml.append(outbound.room_changed(room=session.entered_by, to=session.address))
            xml.append(
                outbound.room_notice(
                    room=session.entered_by, to=session.address, text=MOVED_TEXT, id=own_id
                )
            )
        for session in before:
            xml += [
                presence.arrival(session, occupant, name)
                for user_id, occupant, name in there
                if user_id in came
            ]
        await self._telling.send(xml)

    async def _take_names(self, old: ServedRoom, new: ServedRoom, came: set[UserId]) -> None:
        """Whoever moves keeps the nickname, unless somebody in the successor has it."""
        order = [*(u for u in old.nicknames if u in came), *old.nicknames]
        for user_id in dict.fromkeys(order):
            nickname = old.nicknames[user_id]
            if user_id in new.nicknames or user_id not in new.members:
                continue
            if new.holder_of(nickname) is None:
                await self._names.give(new, [(user_id, nickname)])
        await self._name_all(new, sorted(came), {})

    async def _name_all(
        self, room: ServedRoom, users: Sequence[UserId], names: dict[UserId, str | None]
    ) -> None:
        changes: list[tuple[UserId, str]] = []
        for user_id in users:
            if user_id not in room.nicknames:
                nickname = choose_nickname(room, user_id, names.get(user_id))
                room.hold(user_id, nickname)
                changes.append((user_id, nickname))
        await self._names.give(room, changes)
