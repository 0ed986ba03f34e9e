"""One foreign chat that we visit: our guests in it, its people, and what waits to be told.

Everything here changes in the order of arrival, in plain synchronous code. What is to be told to
the bridge waits in `waiting`, which `lane` works off.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.nicknames import NicknameKey, nickname_key
from bridge.adapters.xmpp.occupant.presences import MucPresence
from bridge.adapters.xmpp.occupant.reflections import Reflections
from bridge.errors import Unavailable
from bridge.ids import UserId
from bridge.ports.chat import (
    ChatChange,
    ChatInfo,
    ChatMessage,
    Occupant,
    OccupantCame,
    OccupantGone,
    OccupantRoll,
)

_PEOPLE_KEPT = 20_000
Identity = Literal["address", "occupant-id", "nickname"]


@dataclass(slots=True, kw_only=True, eq=False)
class Guest:
    """One of our people in a chat; the bot, where it relays or is there for a moment."""

    user_id: UserId
    jid: Jid
    nickname: str
    """The one held, or held last; empty before the first entering."""
    state: Literal["out", "entering", "in", "leaving"] = "out"
    may_be_in: bool = False
    """They were in before the connection was lost."""
    is_stored: bool = False
    """It is to be in: there is a row."""
    entered_ms: int = 0
    asked: str | None = None
    """The nickname that is being asked for."""
    wanted: str = ""
    """The one they would have without a conflict."""
    affiliation: str | None = None
    answer: asyncio.Future[None] | None = None
    """Of what we have asked the chat for: to enter, another nickname, to leave."""

    @property
    def address(self) -> str:
        return str(self.jid)

    @property
    def is_in(self) -> bool:
        return self.state == "in"

    def resolve(self, error: Exception | None = None) -> None:
        if self.answer is None or self.answer.done():
            return
        if error is None:
            self.answer.set_result(None)
        else:
            self.answer.set_exception(error)
            self.answer.exception()  # nobody waiting any more is no news


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One of the chat's own people. `real` never leaves this package unless the chat shows it."""

    occupant: Occupant
    affiliation: str
    real: Jid | None
    occupant_id: str | None


@dataclass(slots=True, kw_only=True, eq=False)
class Watch:
    """Somebody waits for an owner or admin of the chat to say this."""

    code: str
    found: asyncio.Future[str]


@dataclass(slots=True, eq=False)
class VisitedChat:
    jid: Jid
    epoch: str
    waiting_max: int
    name: str = ""
    identity: Identity | None = None
    archive_id: str | None = None
    archive_ms: int | None = None
    """Where reading goes on, as it was stored when we came to know the chat."""
    info: ChatInfo | None = None
    guests: dict[UserId, Guest] = field(default_factory=dict)
    by_address: dict[str, Guest] = field(default_factory=dict)
    listener: Guest | None = None
    table: dict[str, Seen] = field(default_factory=dict)
    """The chat's own people by nickname."""
    coming: dict[str, Seen] = field(default_factory=dict)
    """The same, while the listener is entering."""
    undecided: dict[str, MucPresence] = field(default_factory=dict)
    """Presence under a nickname that a guest asks for just now: ours or a stranger's."""
    subject: str | None = None
    subject_asked: tuple[str, str] | None = None
    """Own id and text of a new subject on its way."""
    watches: list[Watch] = field(default_factory=list)
    is_silent: bool = True
    """Nobody of ours is to be in: nothing is told."""
    is_behind: bool = False
    """Something was missed: the archive is read before anything else is told."""
    gaps: int = 0
    """How often that was found, so that what is missed while the archive is read counts, too."""
    is_scanned: bool = False
    """Posts of an earlier process have been looked for."""
    needs_roll: bool = False
    is_worked: bool = False
    is_returning: bool = False
    returned_s: float | None = None
    return_pause_s: float = 0.0
    """When we came back last, and how long we wait before the next time."""
    in_history: bool = False
    """The listener has just entered: what is delayed is the chat's past, up to its subject."""
    wants_history: bool = False
    """It was asked for, since there is no archive."""
    own_posts: int = 0
    visitors: int = 0
    """Questions for which the bot is in the chat just now."""
    journey: int = 0
    """Counts the returns, so that a new one ends an older one that waits."""
    heard_s: float = 0.0
    fetched: set[str] = field(default_factory=set)
    """IDs that the archive gave us just now, and that may wait in `waiting`, too."""
    recent: dict[tuple[str, str], None] = field(default_factory=dict)
    """What was said live and got no ID by the chat: its history may show it again."""
    doubts: set[str] = field(default_factory=set)
    """Own ids of posts that were sent and not seen."""
    waiting: deque[ChatMessage | ChatChange] = field(default_factory=deque)
    reflections: Reflections = field(init=False)
    door: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One enters after the other."""
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.name = str(self.jid)
        self.reflections = Reflections(self.epoch)
        self.caught_up.set()

    # --- guests ---------------------------------------------------------------------------------

    def add(self, guest: Guest) -> Guest:
        self.guests[guest.user_id] = guest
        self.by_address[guest.address] = guest
        return guest

    def drop(self, guest: Guest) -> None:
        if self.guests.get(guest.user_id) is guest:
            del self.guests[guest.user_id]
            del self.by_address[guest.address]
        self.lose(guest)
        undecided = self.undecided.pop(guest.nickname, None)
        if undecided is not None and not self.is_hoped_for(guest.nickname):
            self.see(self.seen(undecided))

    def lose(self, guest: Guest) -> None:
        """They are not in now. If they have listened another one does, with a look back."""
        guest.state = "out"
        if self.listener is guest:
            self.listener = next((g for g in self.guests.values() if g.is_in), None)
            self.coming.clear()
            if self.has_archive or self.listener is None:
                self.fall_behind()

    def fall_behind(self) -> None:
        """Nothing to read back where nobody is to be in."""
        if any(guest.is_stored for guest in self.guests.values()):
            self.is_behind = True
            self.gaps += 1
            self.caught_up.clear()

    def catch_up_to(self, gaps: int) -> None:
        """Nothing is missing any more, unless more gaps were found meanwhile."""
        if self.gaps == gaps:
            self.is_behind = False
            self.caught_up.set()

    def is_hoped_for(self, nickname: str) -> bool:
        """A guest asks for it, or held it before we were away."""
        return any(
            guest.asked == nickname
            or (guest.state == "out" and guest.is_stored and guest.nickname == nickname)
            for guest in self.guests.values()
        )

    def guest_named(self, nickname: str) -> Guest | None:
        """Who of ours holds the nickname."""
        for guest in self.guests.values():
            if guest.nickname == nickname and guest.state in ("in", "leaving"):
                return guest
        return None

    def has_had(self, nickname: str) -> bool:
        """Whether it is, or was before we were away, the nickname of a guest of ours."""
        return any(guest.nickname == nickname for guest in self.guests.values())

    def taken(self, besides: Guest) -> set[NicknameKey]:
        """Nicknames that others hold, theirs and ours."""
        keys = {nickname_key(name) for name in (*self.table, *self.coming)}
        keys.update(
            nickname_key(guest.nickname)
            for guest in self.guests.values()
            if guest is not besides and guest.nickname
        )
        return keys

    @property
    def stored_guests(self) -> Iterator[Guest]:
        return (guest for guest in list(self.guests.values()) if guest.is_stored)

    # --- its own people -------------------------------------------------------------------------

    @property
    def has_archive(self) -> bool:
        return self.info is not None and self.info.has_archive

    @property
    def has_occupant_ids(self) -> bool:
        return self.info is not None and self.info.has_occupant_ids

    def address_of(self, nickname: str, *, occupant_id: str | None, real: Jid | None) -> str:
        """How an occupant is known; the nickname where nothing better is shown."""
        if self.identity == "address" and real is not None:
            return str(real)
        if self.identity != "nickname" and self.has_occupant_ids and occupant_id:
            return f"{self.name}/i{occupant_id}"
        return f"{self.name}/n{nickname}"

    def seen(self, presence: MucPresence) -> Seen:
        address = self.address_of(
            presence.nickname, occupant_id=presence.occupant_id, real=presence.address
        )
        return Seen(
            occupant=Occupant(address=address, nickname=presence.nickname),
            affiliation=presence.affiliation,
            real=presence.address,
            occupant_id=presence.occupant_id,
        )

    @property
    def shown(self) -> dict[str, Seen]:
        """Its people as they have been shown since the listener began to enter."""
        is_entering = self.listener is not None and self.listener.state == "entering"
        return self.coming if is_entering else self.table

    def expect(self, seen: Seen) -> None:
        """Shown to the listener, who is entering."""
        if len(self.coming) < _PEOPLE_KEPT:
            self.coming[seen.occupant.nickname] = seen

    def see(self, seen: Seen) -> None:
        nickname = seen.occupant.nickname
        before = self.table.get(nickname)
        if before is None and len(self.table) >= _PEOPLE_KEPT:
            return
        self.table[nickname] = seen
        if before is not None and before.occupant == seen.occupant:
            return
        if before is not None:
            self._tell_gone(before, "left")
        self.tell(OccupantCame(chat=self.name, occupant=seen.occupant))

    def rename(self, old: Seen, nickname: str) -> None:
        del self.table[old.occupant.nickname]
        address = self.address_of(nickname, occupant_id=old.occupant_id, real=old.real)
        new = Seen(
            occupant=Occupant(address=address, nickname=nickname),
            affiliation=old.affiliation,
            real=old.real,
            occupant_id=old.occupant_id,
        )
        if address != old.occupant.address:
            self._tell_gone(old, "left")
        self.see(new)

    def unsee(self, presence: MucPresence) -> None:
        seen = self.table.pop(presence.nickname, None)
        if seen is not None:
            self._tell_gone(seen, presence.how, presence.actor, presence.reason)

    def _tell_gone(
        self, seen: Seen, how: str, actor: str | None = None, reason: str | None = None
    ) -> None:
        address = seen.occupant.address
        if any(other.occupant.address == address for other in self.table.values()):
            return  # the same person under another nickname
        self.tell(
            OccupantGone(
                chat=self.name, occupant=seen.occupant, how=how, actor=actor, reason=reason
            )
        )

    def identify(self, *, shows_addresses: bool) -> bool:
        """Chooses how its people are known, or takes back that it is by address. True: changed."""
        before = self.identity
        if before is None and shows_addresses:
            self.identity = "address"
        elif before is None or (before == "address" and not shows_addresses):
            self.identity = "occupant-id" if self.has_occupant_ids else "nickname"
        if self.identity == before:
            return False
        self.readdress()
        return True

    def readdress(self) -> None:
        """Their addresses are made of what is known of the chat, and that has changed."""
        for table in (self.table, self.coming):
            for nickname, seen in list(table.items()):
                address = self.address_of(nickname, occupant_id=seen.occupant_id, real=seen.real)
                table[nickname] = Seen(
                    occupant=Occupant(address=address, nickname=nickname),
                    affiliation=seen.affiliation,
                    real=seen.real,
                    occupant_id=seen.occupant_id,
                )

    # --- what is told ---------------------------------------------------------------------------

    def tell(self, item: ChatMessage | ChatChange) -> None:
        """Too much waits: with an archive it is read again later, and all is dropped now."""
        if self.is_silent:
            return
        if len(self.waiting) >= self.waiting_max:
            if self.has_archive:
                kept = [i for i in self.waiting if not _is_fleeting(i)]
                self.waiting = deque(kept)
                self.fall_behind()
            self.needs_roll = True
            if _is_fleeting(item) or len(self.waiting) >= 2 * self.waiting_max:
                return
        self.waiting.append(item)

    def tell_roll(self) -> None:
        people = {seen.occupant.address: seen.occupant for seen in self.table.values()}
        self.tell(OccupantRoll(chat=self.name, occupants=tuple(people.values())))

    # --- the connection -------------------------------------------------------------------------

    def on_disconnected(self) -> None:
        """What was under way is lost, and nobody knows who of ours is still in."""
        self.reflections.on_disconnected()
        for guest in self.guests.values():
            guest.may_be_in = guest.may_be_in or guest.is_in
            guest.state = "out"
            guest.resolve(Unavailable("the XMPP server went away"))
        self.listener = None
        self.coming.clear()
        self.undecided.clear()
        self.fall_behind()


def _is_fleeting(item: ChatMessage | ChatChange) -> bool:
    """What the archive or the next roll says again."""
    return isinstance(item, ChatMessage | OccupantCame | OccupantGone | OccupantRoll)
