"""A network that exists in memory: the worked example of the chat port, and the tests' double.

Addresses look like `juliet@capulet.lit`, those of our own people `alice%m.example@gw.example`. What
people do is a method (`say`, `enter`, `leave`); what reaches them is in `delivered`, once per
outbox row however often it is handed over, as a real network's ids would show. `refuse_next` makes
the next deliveries fail.

Foreign chats are `LoopbackChat`s, opened with `open_chat`; their people `come`, `say_in_chat` and
`go`. Everything said has an ID in the chat's archive. Guests are let in unless the chat bars them,
under another nickname where theirs is taken.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

from bridge.content.model import File, Message
from bridge.errors import BadInput, IsthmusError, NotFound, Refused
from bridge.identity import localparts
from bridge.ids import RoomAlias, RoomId, ServerName, TraceId, UserId, localpart_of
from bridge.ports.chat import (
    ChatAbandon,
    ChatDestroyed,
    ChatInfo,
    ChatListener,
    ChatMessage,
    ChatPost,
    Delivery,
    GuestEnter,
    GuestEntered,
    GuestLeave,
    GuestRemoved,
    Occupant,
    OccupantCame,
    OccupantGone,
    OccupantRoll,
    RoomView,
    SubjectChanged,
)
from bridge.ports.ephemeral import ChatEphemeral, Passing

NAME = "loopback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    outbox_id: int
    trace: TraceId
    delivery: Delivery


@dataclass(slots=True)
class LoopbackChat:
    """A foreign chat. `hides`: its people are known by nickname only."""

    address: str
    name: str | None = None
    is_open: bool = True
    is_hidden: bool = False
    hides: bool = False
    affiliations: dict[str, str] = field(default_factory=dict)
    """By user ID; who is not named is not told of."""
    bars: dict[UserId, str] = field(default_factory=dict)
    """Who is not let in, and what the chat says to them."""
    people: dict[str, str] = field(default_factory=dict)
    """Nicknames by address."""
    guests: dict[UserId, str] = field(default_factory=dict)
    codes: deque[tuple[str, str]] = field(default_factory=deque)
    """What its owners and admins wrote last, with their nicknames."""

    def occupant(self, address: str) -> Occupant:
        nickname = self.people[address]
        shown = f"{self.address}/i{address}" if self.hides else address
        return Occupant(address=shown, nickname=nickname)


class LoopbackAddresses:
    """Fills `ports.chat.AddressMap` by the reversible mapping, without any preparation."""

    def __init__(self, *, server_name: ServerName) -> None:
        self._server_name = server_name

    @property
    def adapter(self) -> str:
        return NAME

    def address_of(self, user_id: UserId) -> str | None:
        try:
            return localparts.address_for(user_id, self._server_name)
        except (BadInput, NotFound):
            return None

    def user_of(self, address: str) -> UserId:
        chat, hidden, key = address.partition("/")
        if hidden:
            return localparts.user_id_for_occupant(
                chat,
                key[1:],
                self._server_name,
                kind="occupant-id" if key.startswith("i") else "nickname",
            ).user_id
        local, _, domain = address.rpartition("@")
        if domain == self._server_name:
            name, percent, server = local.partition("%")
            if not percent or local.startswith(("#", "!")):
                raise NotFound(f"nobody has the address {address}")
            return UserId(f"@{name}:{server}")
        return localparts.user_id_for(address, self._server_name).user_id

    def default_name(self, address: str) -> str:
        chat, hidden, key = address.partition("/")
        return key[1:] if hidden else chat.partition("@")[0]

    def chat_of(self, alias: RoomAlias) -> str | None:
        try:
            return localparts.chat_for(alias, self._server_name)
        except (BadInput, NotFound):
            return None

    def alias_of(self, chat: str) -> RoomAlias:
        return localparts.alias_for(chat, self._server_name)

    def link_of(self, address: str) -> str:
        return f"loopback:{address}"


class LoopbackAdapter:
    """Fills `ports.chat.ChatAdapter`."""

    NAME: ClassVar[str] = NAME

    def __init__(self, *, listener: ChatListener) -> None:
        self._listener = listener
        self._numbers = itertools.count(1)
        self._failures: deque[IsthmusError] = deque()
        self.delivered: list[Delivered] = []
        self.shown: list[Passing] = []
        self.is_watching = True
        """Whether rooms and chats are shown who types and who has read."""
        self.attempts = 0
        self.chats: dict[str, LoopbackChat] = {}
        self.described = 0

    @property
    def name(self) -> str:
        return NAME

    # --- what people do -------------------------------------------------------------------------

    async def say(
        self,
        sender: str,
        text: str,
        *,
        to: UserId | RoomId,
        stanza_id: str | None = None,
        wants_receipt: bool = False,
        wants_marker: bool = False,
        is_file: bool = False,
    ) -> bool:
        """One message. The same `stanza_id` and text again is the same message: False. `is_file`:
        the text is the URL of a file that it shares."""
        number = next(self._numbers)
        return await self._listener.accept(
            ChatMessage(
                adapter=NAME,
                sender=sender,
                session=f"{sender}/here",
                to_user=UserId(to) if to.startswith("@") else None,
                to_room=RoomId(to) if to.startswith("!") else None,
                sent_to=to,
                stanza_id=stanza_id or f"s{number}",
                origin_id=None,
                fingerprint=text,
                wants_receipt=wants_receipt,
                wants_marker=wants_marker,
                message=Message(text=text, file=File(url=text) if is_file else None),
                trace=TraceId(f"loopback-{number}"),
            )
        )

    async def enter(
        self, address: str, target: RoomAlias | RoomId, *, history_limit: int = 20
    ) -> RoomView:
        return await self._listener.enter(
            address=address,
            target=target,
            nickname=address.partition("@")[0],
            history_limit=history_limit,
        )

    def tell(self, change: ChatEphemeral) -> None:
        """Somebody types, reads, comes or goes."""
        self._listener.on_ephemeral(change)

    async def leave(self, address: str, room_id: RoomId, *, reason: str | None = None) -> None:
        await self._listener.leave(address=address, room_id=room_id, reason=reason)

    async def bounce(self, address: str, outbox_id: int, condition: str = "item-not-found") -> None:
        """`address` returns something that the network had taken."""
        await self._listener.on_bounced(
            address=address, outbox_id=outbox_id, condition=condition, text=None
        )

    # --- what reaches them ----------------------------------------------------------------------

    def refuse_next(self, *failures: IsthmusError) -> None:
        """Each of the next deliveries raises one of these, in order."""
        self._failures.extend(failures)

    async def deliver(self, delivery: Delivery, *, outbox_id: int, trace: TraceId) -> str | None:
        self.attempts += 1
        if self._failures:
            raise self._failures.popleft()
        if all(seen.outbox_id != outbox_id for seen in self.delivered):
            await self._take(delivery)
            self.delivered.append(Delivered(outbox_id=outbox_id, trace=trace, delivery=delivery))
        return f"archive-{outbox_id}" if isinstance(delivery, ChatPost) else None

    async def _take(self, delivery: Delivery) -> None:
        """What a foreign chat does with it."""
        match delivery:
            case GuestEnter():
                await self._let_in(self._chat(delivery.chat), delivery)
            case GuestLeave() if delivery.chat in self.chats:
                self._chat(delivery.chat).guests.pop(delivery.user_id, None)
            case ChatAbandon() if delivery.chat in self.chats:
                self._chat(delivery.chat).guests.clear()

    async def _let_in(self, chat: LoopbackChat, guest: GuestEnter) -> None:
        if guest.user_id in chat.bars:
            raise Refused(chat.bars[guest.user_id])
        wanted = nickname = guest.displayname or localpart_of(guest.user_id)
        taken = {*chat.people.values(), *chat.guests.values()} - {chat.guests.get(guest.user_id)}
        while nickname in taken:
            nickname += " (2)"
        is_first = not chat.guests
        chat.guests[guest.user_id] = nickname
        await self._listener.accept_change(
            GuestEntered(chat=chat.address, user_id=guest.user_id, nickname=nickname, wanted=wanted)
        )
        if is_first:
            await self.call_roll(chat.address)

    def has_audience(self, *, room_id: RoomId | None = None, chat: str | None = None) -> bool:
        return self.is_watching

    async def show(self, passing: Passing) -> None:
        self.shown.append(passing)

    # --- foreign chats --------------------------------------------------------------------------

    def open_chat(self, chat: LoopbackChat) -> LoopbackChat:
        self.chats[chat.address] = chat
        return chat

    def _chat(self, address: str) -> LoopbackChat:
        if address not in self.chats:
            raise NotFound(f"there is no chat {address}")
        return self.chats[address]

    async def come(self, chat: str, address: str, nickname: str | None = None) -> None:
        """Enters, or takes another nickname."""
        there = self._chat(chat)
        there.people[address] = nickname or address.partition("@")[0]
        await self._listener.accept_change(
            OccupantCame(chat=chat, occupant=there.occupant(address))
        )

    async def go(
        self,
        chat: str,
        address: str,
        *,
        how: str = "left",
        actor: str | None = None,
        reason: str | None = None,
    ) -> None:
        there = self._chat(chat)
        occupant = there.occupant(address)
        del there.people[address]
        await self._listener.accept_change(
            OccupantGone(chat=chat, occupant=occupant, how=how, actor=actor, reason=reason)
        )

    async def call_roll(self, chat: str) -> None:
        """As after each entering."""
        there = self._chat(chat)
        everybody = tuple(there.occupant(address) for address in there.people)
        await self._listener.accept_change(OccupantRoll(chat=chat, occupants=everybody))

    async def say_in_chat(
        self,
        chat: str,
        address: str,
        text: str,
        *,
        archive_id: str | None = None,
        at_ms: int | None = None,
        is_file: bool = False,
    ) -> bool:
        """One message of a foreign chat. The same `archive_id` again is the same message: False."""
        number = next(self._numbers)
        occupant = self._chat(chat).occupant(address)
        return await self._listener.accept(
            ChatMessage(
                adapter=NAME,
                sender=occupant.address,
                session=f"{chat}/{occupant.nickname}",
                to_user=None,
                to_room=None,
                to_chat=chat,
                sent_to=chat,
                stanza_id=f"c{number}",
                origin_id=None,
                fingerprint=text,
                wants_receipt=False,
                message=Message(text=text, file=File(url=text) if is_file else None),
                trace=TraceId(f"loopback-{number}"),
                sender_name=occupant.nickname,
                archive_id=archive_id or f"a{number}",
                at_ms=at_ms,
            )
        )

    async def set_subject(self, chat: str, text: str, *, by: str | None = None) -> None:
        occupant = None if by is None else self._chat(chat).occupant(by)
        await self._listener.accept_change(
            SubjectChanged(chat=chat, occupant=occupant, text=text, at_ms=None)
        )

    async def remove_guest(
        self,
        chat: str,
        user_id: UserId,
        *,
        how: str = "kicked",
        actor: str | None = None,
        reason: str | None = None,
    ) -> None:
        self._chat(chat).guests.pop(user_id, None)
        await self._listener.accept_change(
            GuestRemoved(chat=chat, user_id=user_id, how=how, actor=actor, reason=reason)
        )

    async def destroy(
        self, chat: str, *, alternative: str | None = None, reason: str | None = None
    ) -> None:
        del self.chats[chat]
        await self._listener.accept_change(
            ChatDestroyed(chat=chat, alternative=alternative, reason=reason)
        )

    async def describe(self, chat: str) -> ChatInfo:
        self.described += 1
        there = self._chat(chat)
        return ChatInfo(
            chat=chat,
            name=there.name,
            is_open=there.is_open,
            is_hidden=there.is_hidden,
            shows_addresses=not there.hides,
            has_occupant_ids=True,
            has_archive=True,
        )

    async def affiliation(self, chat: str, user_id: UserId) -> str | None:
        return self._chat(chat).affiliations.get(user_id)

    async def await_confirmation(self, chat: str, code: str, *, timeout_s: float) -> str | None:
        """What has been written by now counts; the rest would come too late."""
        for nickname, said in self._chat(chat).codes:
            if code == said:
                return nickname
        return None

    async def run(self) -> None:
        await asyncio.Event().wait()
