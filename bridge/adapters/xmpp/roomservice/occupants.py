"""Who is in a room that we serve: sessions, members, nicknames. State only; no wire form.

Matrix members are occupants. XMPP members are occupants while they have a session: going offline
ends the session, and leaves a member without occupant. Several clients of a person share one
nickname. `lock` orders whatever shows the room to its sessions: deliveries, arrivals, departures.
Sessions and nicknames are rows; this is their copy in the one process that holds the component.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp.addresses import AddressBook, Bot, Moved, Person, Room
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.nicknames import NicknameKey, make_nickname, nickname_key
from bridge.adapters.xmpp.outbound import Occupant, occupant_id
from bridge.ids import RoomAlias, RoomId, UserId, localpart_of, server_of
from bridge.ports.chat import RoomMember, RoomView
from bridge.ports.matrix import Member, Power
from bridge.storage.sessions import StoredSession

MAX_WAITING = 500
"""Live stanzas kept for somebody who is just entering."""
_SUFFIX = re.compile(r" (?:\(.+\)|[0-9]+|\w)")


@dataclass(slots=True, eq=False)
class Session:
    """One client in a room."""

    address: Jid
    entered_by: Jid
    nickname: str
    since_position: int = 0
    is_in: bool = False
    """False while it is entering: what happens meanwhile waits in `waiting`."""
    is_gone: bool = False
    """It went away while it was entering."""
    is_late: bool = False
    """It was told that entering takes longer: an invitation follows."""
    was_in: bool = False
    """The same client was in already when it entered anew."""
    removal: RoomMember | None = None
    """The newest event that took away the membership."""
    waiting: list[tuple[int, ET.Element]] = field(default_factory=list)

    @property
    def is_flooded(self) -> bool:
        return len(self.waiting) >= MAX_WAITING

    @property
    def is_removed(self) -> bool:
        return self.removal is not None and self.removal.position > self.since_position

    def remove(self, delivery: RoomMember) -> None:
        if self.removal is None or delivery.position > self.removal.position:
            self.removal = delivery

    def is_of(self, person: Jid) -> bool:
        return self.address.bare == person.bare

    def take(self, position: int, xml: ET.Element) -> ET.Element | None:
        """The stanza if it is to be sent now; kept if it is for later; None either way else."""
        if not self.is_in:
            if not self.is_flooded and not self.is_late:
                self.waiting.append((position, xml))
            return None
        return xml if position > self.since_position else None


@dataclass(slots=True)
class ServedRoom:
    """One Matrix room, whatever the addresses by which its sessions entered."""

    room_id: RoomId
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    sessions: dict[Jid, Session] = field(default_factory=dict)
    """By full JID."""
    members: dict[UserId, Member] = field(default_factory=dict)
    """Joined members as of the last arrival, and changes since; empty after a restart."""
    power: Power | None = None
    changed: dict[UserId, int] = field(default_factory=dict)
    """Positions of the changes in `members` since the last arrival."""
    nicknames: dict[UserId, str] = field(default_factory=dict)
    holders: dict[NicknameKey, UserId] = field(default_factory=dict)
    is_loaded: bool = False
    """Whether the nicknames have been read."""
    successor: RoomAlias | RoomId | None = None
    """Where everybody has moved to."""
    first_room: RoomId | None = None
    """The room with which its line of upgrades began, as of the last arrival."""

    def load(self, nicknames: Mapping[UserId, str]) -> None:
        for user_id, nickname in nicknames.items():
            self.hold(user_id, nickname)
        self.is_loaded = True

    def see(self, view: RoomView) -> None:
        """Takes over what somebody who entered has seen, but for what has changed since."""
        members = {member.user_id: member for member in view.members}
        newer = {u: at for u, at in self.changed.items() if at > view.info.position}
        for user_id in newer:
            members.pop(user_id, None)
            if user_id in self.members:
                members[user_id] = self.members[user_id]
        self.members, self.power, self.changed = members, view.power, newer
        self.first_room = view.first_room

    def occupant_id(self, user_id: UserId) -> str:
        """An upgrade changes none: whoever has moved along sees the same people."""
        return occupant_id(self.first_room or self.room_id, user_id)

    def set_member(self, user_id: UserId, member: Member | None, position: int) -> None:
        """None: no member any more."""
        self.changed[user_id] = position
        if member is None:
            self.members.pop(user_id, None)
        else:
            self.members[user_id] = member

    def unload(self) -> None:
        """Nobody looks any more: what can be read again is let go."""
        self.members.clear()
        self.changed.clear()
        self.power = None
        self.nicknames.clear()
        self.holders.clear()
        self.is_loaded = False

    def hold(self, user_id: UserId, nickname: str) -> None:
        """The member has this nickname now; whoever had it has none."""
        self.release(user_id)
        key = nickname_key(nickname)
        before = self.holders.get(key)
        if before is not None:
            self.nicknames.pop(before, None)
        self.nicknames[user_id] = nickname
        self.holders[key] = user_id

    def release(self, user_id: UserId) -> None:
        nickname = self.nicknames.pop(user_id, None)
        if nickname is not None:
            self.holders.pop(nickname_key(nickname), None)

    def holder_of(self, nickname: str) -> UserId | None:
        return self.holders.get(nickname_key(nickname))

    def present(self) -> Iterator[Session]:
        return (s for s in self.sessions.values() if s.is_in)

    def sessions_of(self, address: Jid) -> list[Session]:
        """The clients of a person that are in the room."""
        return [s for s in self.present() if s.address.bare == address.bare]

    def find_session(self, address: Jid, entered_by: Jid | None = None) -> Session | None:
        """A client that is in the room, by the address of the room it knows."""
        session = self.sessions.get(address)
        if session is None or not session.is_in:
            return None
        return session if entered_by in (None, session.entered_by) else None


def choose_nickname(
    room: ServedRoom, user_id: UserId, display_name: str | None, *, besides: Iterable[str] = ()
) -> str:
    """The nickname of a member who did not ask for one: kept while it still says the name."""
    localpart, server = localpart_of(user_id), server_of(user_id)
    taken = {nickname_key(name) for name in besides}
    current = room.nicknames.get(user_id)
    if current is not None and nickname_key(current) not in taken:
        base = make_nickname(display_name, localpart, server, frozenset())
        if current == base or (
            current.startswith(base) and _SUFFIX.fullmatch(current.removeprefix(base))
        ):
            return current
    taken |= {key for key, holder in room.holders.items() if holder != user_id}
    return make_nickname(display_name, localpart, server, taken)


def asked_nickname(asked: str, address: Jid) -> str:
    """What somebody may be called who asks for a name: the name itself where every server can
    carry it, else what is left of it."""
    if address.bare.with_resource(asked).is_prepared(strict=True) and asked.strip() == asked:
        return asked
    return make_nickname(asked, address.local or address.domain, address.domain, frozenset())


class People:
    """Members as occupants: names, addresses and rights."""

    def __init__(self, book: AddressBook) -> None:
        self._book = book

    def jid_of(self, user_id: UserId) -> Jid:
        return self._book.jid_of(user_id)

    def destination_of(self, address: Jid) -> Bot | Person | Room | Moved:
        return self._book.destination_of(address)

    def person_of(self, user_id: UserId) -> Jid | None:
        """The XMPP person behind one of our ghosts."""
        return self._book.unwrap(user_id)

    def user_of(self, address: Jid) -> UserId:
        return self._book.user_of(address.bare).user_id

    def occupant(self, room: ServedRoom, user_id: UserId, nickname: str) -> Occupant:
        affiliation, role = rights(room.power, user_id)
        return Occupant(
            nickname=nickname,
            jid=self.jid_of(user_id),
            affiliation=affiliation,
            role=role,
            id=room.occupant_id(user_id),
        )

    def listed(
        self, room: ServedRoom, speakers: Sequence[UserId], limit: int
    ) -> list[tuple[UserId, str | None]]:
        """Occupants to show to somebody who enters, those who spoke lately first."""
        first = [u for u in dict.fromkeys(reversed(speakers)) if u in room.members]
        order = dict.fromkeys([*first, *room.members])
        shown: list[tuple[UserId, str | None]] = []
        for user_id in order:
            person = self.person_of(user_id)
            if person is not None and not room.sessions_of(person):
                continue
            shown.append((user_id, room.members[user_id].displayname))
            if len(shown) >= limit:
                break
        return shown


def rights(power: Power | None, user_id: UserId) -> tuple[str, str]:
    """Affiliation and role. Missing power means no rights but to be there and speak."""
    if power is None:
        return "member", "participant"
    if power.may(user_id, "state:m.room.power_levels"):
        return "owner", "moderator"
    if power.may(user_id, "kick"):
        return "admin", "moderator"
    return "member", "participant" if power.may(user_id, "event:m.room.message") else "visitor"


def stored(room_id: RoomId, session: Session, now_ms: int) -> StoredSession:
    return StoredSession(
        room_id=room_id,
        address=str(session.address),
        entered_by=str(session.entered_by),
        nickname=session.nickname,
        since_position=session.since_position,
        entered_ms=now_ms,
    )
