"""Matrix users inside foreign chats: their entering, leaving and speaking as deliveries.

Deliveries of one chat come one after the other (its outbox lane). What they wait for is resolved
by `listener`, which sees every stanza at once and never waits. Who cannot be in a chat (a ghost of
ours in a plumbed room, one too many) is spoken for by the relay, which is the bot.
Spec: XEP-0045.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Callable, Sequence
from functools import partial
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.addresses import AddressBook
from bridge.adapters.xmpp.config import XmppLimits
from bridge.adapters.xmpp.connection import Wire
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.occupant import presences
from bridge.adapters.xmpp.occupant.catchup import CatchUp
from bridge.adapters.xmpp.occupant.chat import Guest, VisitedChat
from bridge.adapters.xmpp.occupant.describe import describe
from bridge.adapters.xmpp.occupant.entering import Entering
from bridge.adapters.xmpp.occupant.lane import Telling
from bridge.adapters.xmpp.occupant.listener import Listening
from bridge.adapters.xmpp.occupant.posting import NotInside, Posting
from bridge.adapters.xmpp.occupant.presences import MucPresence
from bridge.adapters.xmpp.occupant.questions import Questions
from bridge.adapters.xmpp.occupant.reading import Reading
from bridge.adapters.xmpp.occupant.returning import Returning
from bridge.adapters.xmpp.occupant.visits import Visits
from bridge.adapters.xmpp.occupant.vouching import Vouching
from bridge.clock import Clock
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import TraceId, UserId
from bridge.ports.chat import (
    ChatAbandon,
    ChatDestroyed,
    ChatInfo,
    ChatListener,
    ChatPost,
    ChatSubject,
    GuestEnter,
    GuestEntered,
    GuestLeave,
    GuestRemoved,
    GuestRename,
)
from bridge.ports.ephemeral import ChatRead, ChatTyping, ShowRead, ShowTyping
from bridge.storage.database import Database

GuestDelivery = GuestEnter | GuestLeave | GuestRename | ChatPost | ChatSubject | ChatAbandon
_RELAY_NAME = "Matrix"
_NO_PRIVATE = (
    "Private messages inside a room are not carried to Matrix; write to the person's own address."
)


class Occupants:
    """Fills `listener.Keeper`."""

    def __init__(
        self,
        *,
        adapter: str,
        wire: Wire,
        database: Database,
        listener: ChatListener,
        book: AddressBook,
        clock: Clock,
        random: random_module.Random,
        limits: XmppLimits,
        new_trace: Callable[[], TraceId],
    ) -> None:
        self._wire = wire
        self._listener = listener
        self._book = book
        self._limits = limits
        self._questions = Questions(wire=wire, random=random)
        self._visits = Visits(
            adapter=adapter, database=database, book=book, clock=clock, limits=limits
        )
        self._entering = Entering(wire=wire, limits=limits)
        self._posting = Posting(wire=wire, limits=limits)
        reading = Reading(adapter=adapter, new_trace=new_trace)
        catching_up = CatchUp(
            adapter=adapter,
            questions=self._questions,
            database=database,
            reading=reading,
            clock=clock,
            limits=limits,
            accept=lambda chat, message: self._telling.accept(chat, message),
        )
        self._telling = Telling(
            listener=listener,
            clock=clock,
            catch_up=catching_up.catch_up,
            on_idle=self._visits.tidy,
        )
        self._returning = Returning(
            visits=self._visits,
            entering=self._entering,
            questions=self._questions,
            telling=self._telling,
            bot=book.bot_jid,
            clock=clock,
            limits=limits,
        )
        self._vouching = Vouching(
            visits=self._visits,
            entering=self._entering,
            questions=self._questions,
            book=book,
            limits=limits,
            look=self._returning.look,
        )
        self._listening = Listening(
            keeper=self, reading=reading, clock=clock, component=book.component
        )

    async def load(self) -> Sequence[str]:
        """The chats in which somebody of ours is to be."""
        await self._visits.load()
        return [chat.name for chat in self._visits.all()]

    def on_connected(self) -> None:
        self._returning.on_connected()

    def drops(self, kind: str, sender: str, to: str, type: str) -> bool:
        """Whether the stanza is for us, and nothing to us; asked before it is read."""
        return self._listening.drops(kind, sender, to, type)

    def take(self, xml: ET.Element) -> bool:
        """Whether the raw stanza is for us; called for each at its arrival, and in that order."""
        if xml.get("type") != "groupchat" and self._questions.take(xml):
            return True
        return self._listening.take(xml)

    async def wait_idle(self) -> None:
        """Until nothing is on its way to the bridge."""
        await self._telling.wait_idle()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._telling.run())
            group.create_task(self._returning.run())
            group.create_task(self._returning.watch())

    # --- deliveries -----------------------------------------------------------------------------

    async def deliver(self, delivery: GuestDelivery, *, key: str, own_id: str) -> str | None:
        """The chat's own ID of a post, if it gave one."""
        match delivery:
            case GuestEnter():
                await self._enter(delivery)
            case GuestLeave():
                await self._leave(delivery, key)
            case GuestRename():
                await self._rename(delivery)
            case ChatPost():
                return await self._post(delivery, own_id)
            case ChatSubject():
                await self._subject(delivery, own_id)
            case ChatAbandon():
                await self._abandon(delivery, key)
        return None

    async def _enter(self, delivery: GuestEnter) -> None:
        chat = self._visits.get(delivery.chat)
        await self._speaker(chat, delivery.user_id, delivery.displayname)

    async def _leave(self, delivery: GuestLeave, key: str) -> None:
        chat = self._visits.get(delivery.chat)
        guest = chat.guests.get(delivery.user_id)
        if guest is not None:
            async with chat.door:
                await self._entering.leave(chat, guest, delivery.reason, key=key)
                guest.is_stored = False
                chat.drop(guest)
        await self._visits.remove(chat, delivery.user_id)
        self._telling.wake(chat)

    async def _rename(self, delivery: GuestRename) -> None:
        chat = self._visits.get(delivery.chat)
        guest = chat.guests.get(delivery.user_id)
        if guest is None or not guest.is_in:
            self._visits.tidy(chat)
            return
        async with chat.door:
            is_new = await self._entering.rename(chat, guest, delivery.displayname)
        if is_new:
            if guest.nickname != guest.wanted:
                await self._tell_entered(chat, guest)
            await self._visits.store(chat, guest)

    async def _post(self, delivery: ChatPost, own_id: str) -> str | None:
        chat = self._visits.get(delivery.chat)
        guest = await self._speaker(chat, delivery.sender, delivery.sender_name)
        await self._caught_up(chat, own_id)
        if chat.reflections.has_seen(own_id):
            return chat.reflections.seen_as(own_id)
        name = None if guest.user_id == delivery.sender else delivery.sender_name
        try:
            return await self._posting.post(chat, guest, delivery.message, name=name, own_id=own_id)
        except NotInside:
            self._put_out(chat, guest)
        guest = await self._speaker(chat, delivery.sender, delivery.sender_name)
        return await self._posting.post(chat, guest, delivery.message, name=name, own_id=own_id)

    async def _subject(self, delivery: ChatSubject, own_id: str) -> None:
        chat = self._visits.get(delivery.chat)
        guest = await self._speaker(chat, delivery.sender, None)
        try:
            await self._posting.change_subject(chat, guest, delivery.text, own_id=own_id)
        except NotInside:
            self._put_out(chat, guest)
            raise

    async def _abandon(self, delivery: ChatAbandon, key: str) -> None:
        chat = self._visits.get(delivery.chat)
        async with chat.door:
            chat.is_silent = True
            chat.waiting.clear()
            user_ids = list(chat.guests)
            for guest in list(chat.guests.values()):
                await self._entering.leave(chat, guest, delivery.reason, key=key)
            self._drop_all(chat)
        await self._visits.forget(chat, user_ids, with_row=True)

    # --- what passes ----------------------------------------------------------------------------

    async def show(self, passing: ShowTyping | ShowRead) -> None:
        """By their own occupant, if they are in just now and the chat is small."""
        chat = None if passing.chat is None else self._visits.find(passing.chat)
        guest = None if chat is None else chat.guests.get(passing.sender)
        if chat is None or guest is None or not guest.is_in or not self.is_small(chat):
            return
        await self._wire.send([outbound.state(passing, guest.jid, chat.jid, type="groupchat")])

    def has_audience(self, name: str) -> bool:
        chat = self._visits.find(name)
        return chat is not None and bool(chat.table) and self.is_small(chat)

    def is_small(self, chat: VisitedChat) -> bool:
        return len(chat.table) + len(chat.guests) <= self._limits.states_sessions

    def on_state(self, change: ChatTyping | ChatRead) -> None:
        self._listener.on_ephemeral(change)

    # --- who speaks -----------------------------------------------------------------------------

    async def _speaker(self, chat: VisitedChat, user_id: UserId, displayname: str | None) -> Guest:
        """Who is in the chat for this Matrix user: a guest of their own, or the relay."""
        guest = chat.guests.get(user_id)
        if guest is None and not self._may_enter(chat, user_id):
            user_id, displayname = self._book.bot_id, _RELAY_NAME
            guest = chat.guests.get(user_id)
        if guest is not None and guest.is_in and guest.is_stored:
            return guest
        return await self._admit(chat, user_id, displayname)

    def _may_enter(self, chat: VisitedChat, user_id: UserId) -> bool:
        if user_id == self._book.bot_id:
            return True
        own = sum(guest.user_id != self._book.bot_id for guest in chat.stored_guests)
        return own < self._limits.guests and self._visits.has_address(user_id)

    async def _admit(self, chat: VisitedChat, user_id: UserId, displayname: str | None) -> Guest:
        if chat.info is None:
            await self._look(chat)
        try:
            async with asyncio.timeout(2 * self._limits.guest_timeout_s), chat.door:
                return await self._admit_alone(chat, user_id, displayname)
        except TimeoutError as exc:
            raise Unavailable("many are entering the room just now") from exc
        finally:
            self._telling.wake(chat)
            self._visits.tidy(chat)

    async def _look(self, chat: VisitedChat) -> None:
        await self._visits.refresh(chat)
        try:
            await self._returning.look(chat)
        except NotFound as exc:
            self._visits.tidy(chat)
            raise Refused(exc.reason, errcode="M_NOT_FOUND", rule="item-not-found") from exc

    async def _admit_alone(
        self, chat: VisitedChat, user_id: UserId, displayname: str | None
    ) -> Guest:
        guest = self._visits.guest(chat, user_id)
        is_first = not any(chat.stored_guests)
        try:
            await self._visits.refresh(chat)
            if is_first:
                await self._visits.begin(chat)
                chat.is_silent = False
                if chat.listener is not None:
                    chat.tell_roll()  # somebody of ours is here already, for a moment
            if not guest.is_in:
                await self._entering.enter(chat, guest, displayname)
            guest.may_be_in = False
            if user_id != self._book.bot_id and not guest.is_stored:
                await self._tell_entered(chat, guest)
            await self._visits.store(chat, guest)
        except Refused:
            await self._visits.remove(chat, user_id)
            guest.is_stored = False
            raise
        finally:
            if not guest.is_in and not guest.is_stored:
                chat.drop(guest)
            if not any(chat.stored_guests):
                chat.is_silent = True
        return guest

    async def _tell_entered(self, chat: VisitedChat, guest: Guest) -> None:
        await self._listener.accept_change(
            GuestEntered(
                chat=chat.name,
                user_id=guest.user_id,
                nickname=guest.nickname,
                wanted=guest.wanted,
            )
        )

    async def _caught_up(self, chat: VisitedChat, own_id: str) -> None:
        """Nothing is missing; of a post in doubt the archive is asked first."""
        if own_id in chat.doubts and chat.has_archive:
            chat.doubts.discard(own_id)
            chat.fall_behind()
        self._telling.wake(chat)
        try:
            async with asyncio.timeout(self._limits.guest_timeout_s):
                await chat.caught_up.wait()
        except TimeoutError as exc:
            raise Unavailable("what was missed in the room is still being read") from exc

    def _put_out(self, chat: VisitedChat, guest: Guest) -> None:
        """The room does not know them: probably it knows none of us."""
        if guest is chat.listener:
            self._returning.on_outside(chat)
        else:
            chat.lose(guest)
            self._returning.bring_back(chat)

    # --- questions about a chat -----------------------------------------------------------------

    async def describe(self, name: str) -> ChatInfo:
        jid = Jid.parse(name)
        if jid.domain == self._book.component:
            raise NotFound("this is a Matrix room")
        return await describe(
            self._questions,
            asker=self._book.bot_jid,
            chat=jid,
            timeout_s=self._limits.describe_timeout_s,
        )

    async def affiliation(self, name: str, user_id: UserId) -> str | None:
        return await self._vouching.affiliation(name, user_id)

    async def await_confirmation(self, name: str, code: str, *, timeout_s: float) -> str | None:
        return await self._vouching.await_confirmation(name, code, timeout_s=timeout_s)

    # --- what is heard --------------------------------------------------------------------------

    def find(self, chat: str) -> VisitedChat | None:
        return self._visits.find(chat)

    def on_told(self, chat: VisitedChat) -> None:
        self._telling.wake(chat)

    def on_removed(self, chat: VisitedChat, guest: Guest, presence: MucPresence) -> None:
        was_stored, guest.is_stored = guest.is_stored, False
        chat.drop(guest)
        if not was_stored:
            return
        if guest.user_id != self._book.bot_id:
            is_member_rule = bool(presence.statuses & presences.NO_MEMBER)
            chat.tell(
                GuestRemoved(
                    chat=chat.name,
                    user_id=guest.user_id,
                    how="not-a-member" if is_member_rule else presence.how,
                    actor=presence.actor,
                    reason=presence.reason,
                )
            )
        self._telling.spawn(partial(self._visits.remove, chat, guest.user_id))

    def on_lost(self, chat: VisitedChat) -> None:
        self._returning.bring_back(chat)

    def on_destroyed(self, chat: VisitedChat, presence: MucPresence) -> None:
        destroyed = presence.destroyed
        if destroyed is None:
            return
        chat.tell(
            ChatDestroyed(
                chat=chat.name, alternative=destroyed.alternative, reason=destroyed.reason
            )
        )
        user_ids = list(chat.guests)
        self._drop_all(chat)
        self._telling.spawn(partial(self._visits.forget, chat, user_ids, with_row=False))

    def _drop_all(self, chat: VisitedChat) -> None:
        for guest in list(chat.guests.values()):
            guest.is_stored = False
        for guest in list(chat.guests.values()):
            chat.drop(guest)

    def on_private(self, xml: ET.Element) -> None:
        """Nothing is lost in silence. The condition is one for which no room removes anybody."""
        try:
            stanza = inbound.read_stanza(xml)
        except BadInput:
            return  # nobody could be answered
        if inbound.to_message(stanza) is None and inbound.unreadable(stanza) is None:
            return
        answer = outbound.error_for(stanza, "feature-not-implemented", _NO_PRIVATE)
        self._telling.spawn(partial(self._wire.send, [answer]))

    def on_renamed(self, chat: VisitedChat, guest: Guest) -> None:
        if guest.is_stored:
            self._telling.spawn(partial(self._visits.store, chat, guest))

    def on_read(self, chat: VisitedChat, archive_id: str) -> None:
        self._telling.spawn(partial(self._visits.move_on, chat, archive_id))

    def on_configured(self, chat: VisitedChat) -> None:
        self._telling.spawn(partial(self._returning.look_again, chat))

    def on_created(self, chat: VisitedChat, guest: Guest) -> None:
        self._telling.spawn(partial(self._returning.open_new, chat, guest))

    def on_identity(self, chat: VisitedChat) -> None:
        self._telling.spawn(partial(self._visits.store_identity, chat))
