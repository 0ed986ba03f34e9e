"""What happens in the room of a foreign chat, on its way into the chat.

Each event becomes at most one row of the chat's lane. Never carried: what came from this chat, what
the bot says, what another bridge made out of people of this chat or of ours (`rebridged`), which is
journalled. Matrix users who join are *guests* of the chat from then on.
"""

from __future__ import annotations

from bridge.clock import Clock
from bridge.content.events import from_event
from bridge.content.model import Encrypted, NotRendered
from bridge.errors import NotFound
from bridge.ids import UserId, localpart_of
from bridge.portals.chats import PARTED, Chats, ToChatDelivery
from bridge.portals.directory import chat_lane
from bridge.portals.ghosts import Ghosts
from bridge.portals.in_chat import find_inbox_part
from bridge.portals.media import Files, shown
from bridge.portals.notices import Notices
from bridge.portals.occupants import Occupants
from bridge.ports.chat import (
    DELIVERIES,
    ChatAbandon,
    ChatPost,
    ChatSubject,
    GuestEnter,
    GuestLeave,
    GuestRename,
)
from bridge.ports.codec import from_tagged
from bridge.ports.matrix import MatrixBackend, RoomEvent
from bridge.storage import chats as chat_rows
from bridge.storage import guests, journal, messages, portals, queues
from bridge.storage.database import Database, Transaction, Unit
from bridge.storage.messages import MappedMessage
from bridge.storage.portals import Portal
from bridge.storage.queues import QueueItem

STEP = "to chat"
OF_OURS = "ours"
"""Why most of what is not carried is not: it came from this chat, or is the bot's."""
UNREAD_TEXT = (
    "This room is encrypted, and {chat} is not on Matrix: the gateway between them cannot read what"
    " is written here, so that nothing of it reaches {chat}."
)


class ToChat:
    def __init__(
        self,
        *,
        files: Files | None,
        database: Database,
        backend: MatrixBackend,
        ghosts: Ghosts,
        notices: Notices,
        chats: Chats,
        occupants: Occupants,
        adapter: str,
        clock: Clock,
    ) -> None:
        self._files = files
        self._database = database
        self._backend = backend
        self._ghosts = ghosts
        self._notices = notices
        self._chats = chats
        self._occupants = occupants
        self._adapter = adapter
        self._clock = clock

    async def on_event(self, event: RoomEvent, portal: Portal) -> None:
        if event.position <= portal.since_position:
            return  # before the room was plumbed
        if event.type == "m.room.member" and event.state_key is not None:
            await self._on_member(event, portal, UserId(event.state_key))
        elif event.type == "m.room.topic" and event.state_key == "":
            await self._on_topic(event, portal)
        elif event.type == "m.room.encryption" and event.state_key == "":
            await self._tell_encrypted(event, portal)
        elif event.state_key is None:
            await self._on_message(event, portal)

    # --- guests -----------------------------------------------------------------------------

    async def _on_member(self, event: RoomEvent, portal: Portal, user_id: UserId) -> None:
        membership = event.content.get("membership")
        if not self._ghosts.is_person(user_id):
            if membership in ("leave", "ban"):
                await self._on_ours_gone(event, portal, user_id)
            return
        name = _text(event.content.get("displayname"))
        chat = portal.chat
        if membership == "join":
            skipped = await self._find_rebridged(event, portal, user_id)
            if skipped is not None:
                await self._note(event, skipped)
            elif event.previous_membership == "join":
                await self._put(
                    event, portal, GuestRename(chat=chat, user_id=user_id, displayname=name)
                )
            else:
                await self._put(
                    event, portal, GuestEnter(chat=chat, user_id=user_id, displayname=name)
                )
        elif membership in ("leave", "ban") and event.previous_membership not in ("invite", "ban"):
            reason = _text(event.content.get("reason"))
            await self._put(event, portal, GuestLeave(chat=chat, user_id=user_id, reason=reason))

    async def _on_ours_gone(self, event: RoomEvent, portal: Portal, user_id: UserId) -> None:
        """A ghost is not shown again before it speaks; whoever removes the bot ends it all."""
        async with self._chats.holding(portal.chat):
            current = await self._chats.find(portal.chat)
            if current is None or current.room_id != event.room_id:
                return
            if user_id != self._backend.bot:
                await self._occupants.on_ghost_gone(current, event.room_id, user_id)
                return
            member = await self._backend.member(event.room_id, user_id)
            if member is None or member.membership != "join":
                await self._chats.let_go(current, reason="The bot was removed from the room.")

    # --- what is said -----------------------------------------------------------------------

    async def _on_message(self, event: RoomEvent, portal: Portal) -> None:
        skipped = await self._find_reason(event, portal)
        if skipped is not None:
            await self._note_skipped(event, skipped)
            return
        if event.redacted:
            await self._note(event, "no-content")
            return
        outcome = shown(
            from_event(event.type, event.content, extensible=event.extensible),
            self._files,
            event.sender,
        )
        if isinstance(outcome, Encrypted):
            await self._note(event, "encrypted")
            await self._tell_encrypted(event, portal)
        elif isinstance(outcome, NotRendered):
            await self._note(event, outcome.reason)
        else:
            member = await self._backend.member(event.room_id, event.sender)
            name = None if member is None else member.displayname
            await self._put(
                event,
                portal,
                ChatPost(
                    chat=portal.chat,
                    sender=event.sender,
                    sender_name=name or localpart_of(event.sender),
                    event_id=event.event_id,
                    room_id=event.room_id,
                    at_ms=event.origin_server_ts,
                    message=outcome,
                ),
            )

    async def _on_topic(self, event: RoomEvent, portal: Portal) -> None:
        skipped = await self._find_reason(event, portal)
        if skipped is not None:
            await self._note_skipped(event, skipped)
            return
        text = _text(event.content.get("topic")) or ""
        await self._put(
            event,
            portal,
            ChatSubject(chat=portal.chat, sender=event.sender, text=text, room_id=event.room_id),
        )

    async def _find_reason(self, event: RoomEvent, portal: Portal) -> str | None:
        """Why an event is not carried; None: it is."""
        if event.sender == self._backend.bot:
            return OF_OURS
        if event.own:
            return OF_OURS if await self._is_from(event, portal) else None
        return await self._find_rebridged(event, portal, event.sender)

    async def _is_from(self, event: RoomEvent, portal: Portal) -> bool:
        found = find_inbox_part(self._database.epoch, event.transaction_id)
        if found is None:
            return False
        inbox_id = found[0]
        try:
            item = await self._database.read(lambda tx: queues.get(tx, queues.INBOX, inbox_id))
        except NotFound:
            return True  # of long ago: rather silence than an echo
        return item.lane == chat_lane(self._adapter, portal.chat)

    async def _find_rebridged(
        self, event: RoomEvent, portal: Portal, user_id: UserId
    ) -> str | None:
        why = await self._chats.find_rebridged(event.room_id, portal.chat, user_id)
        return None if why is None else f"rebridged-{why}"

    async def _tell_encrypted(self, event: RoomEvent, portal: Portal) -> None:
        await self._notices.tell_room(
            room_id=event.room_id,
            sender=self._backend.bot,
            text=UNREAD_TEXT.format(chat=portal.chat),
            cause=f"encrypted/{event.room_id}/{portal.chat}",
            trace=event.trace_id,
        )

    # --- rows -------------------------------------------------------------------------------

    async def _put(self, event: RoomEvent, portal: Portal, delivery: ToChatDelivery) -> None:
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            current = portals.of_chat(tx, adapter=self._adapter, chat=delivery.chat)
            if current is None or current.room_id != event.room_id:
                return  # let go while this event was looked at
            outbox_id = self._chats.put(
                tx,
                delivery,
                cause=f"{event.event_id}/chat/{delivery.chat}",
                trace=event.trace_id,
                now_ms=now_ms,
            )
            if outbox_id is not None:
                journal.record(
                    tx,
                    trace_id=event.trace_id,
                    step=STEP,
                    decision="stored",
                    detail=f"outbox {outbox_id}",
                    now_ms=now_ms,
                )

        await self._database.write(unit)

    async def _note_skipped(self, event: RoomEvent, reason: str) -> None:
        if reason != OF_OURS:
            await self._note(event, reason)

    async def _note(self, event: RoomEvent, decision: str) -> None:
        now_ms = self._clock.now_ms()
        await self._database.write(
            lambda tx: journal.record(
                tx,
                trace_id=event.trace_id,
                step=STEP,
                decision=decision,
                detail=f"{event.type} by {event.sender}",
                now_ms=now_ms,
            )
        )

    # --- proof ------------------------------------------------------------------------------

    def proved(self, item: QueueItem, chat_id: str | None) -> Unit[None] | None:
        """What is written with the end of a row that the chat has provably taken; `chat_id` is the
        chat's own ID of it. None: nothing, it is none of ours."""
        delivery: object = from_tagged(DELIVERIES, item.payload)
        now_ms = self._clock.now_ms()
        if isinstance(delivery, ChatPost):
            return lambda tx: self._map(tx, item, delivery, chat_id, now_ms)
        if isinstance(delivery, ChatAbandon):
            return lambda tx: self._forget(tx, item, delivery.chat)
        return None

    def _map(
        self, tx: Transaction, item: QueueItem, post: ChatPost, chat_id: str | None, now_ms: int
    ) -> None:
        messages.put(
            tx,
            MappedMessage(
                adapter=self._adapter,
                room_id=post.room_id,
                event_id=post.event_id,
                part=0,
                chat=post.chat,
                sender=post.sender,
                stanza_id=chat_id or "",
                origin_id=None,
                origin="matrix",
                receipt_due=False,
                session="",
                sent_to="",
                pending=False,
                noticed_ms=None,
                at_ms=now_ms,
            ),
        )
        journal.record(
            tx,
            trace_id=item.trace_id,
            step=STEP,
            decision="delivered",
            detail=f"outbox {item.id}" + (f" as {chat_id}" if chat_id else ""),
            now_ms=now_ms,
        )

    def _forget(self, tx: Transaction, item: QueueItem, chat: str) -> None:
        """Nobody of ours is in the chat any more, and what was set aside brings nobody back."""
        queues.drop_lane(
            tx,
            queues.OUTBOX,
            item.lane,
            statuses=["parked"],
            reason=PARTED,
            before_id=item.id,
        )
        guests.remove_all(tx, adapter=self._adapter, chat=chat)
        chat_rows.forget(tx, adapter=self._adapter, chat=chat)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
