"""What people are told about their messages: waiting, or given up, with the reason in words."""

from __future__ import annotations

from functools import partial

from bridge.clock import Clock
from bridge.content.events import from_event, split_message, to_event
from bridge.content.model import Message
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import RoomId, TraceId, UserId
from bridge.ports.chat import (
    DELIVERIES,
    BotNotice,
    ChatPost,
    ChatSubject,
    DirectMessage,
    GuestEnter,
    RoomInvite,
)
from bridge.ports.codec import from_tagged, to_tagged
from bridge.ports.matrix import MatrixBackend, RoomEvent
from bridge.storage import ghosts, journal, messages, portals, queues
from bridge.storage.database import Database, Transaction, Unit
from bridge.storage.messages import MappedMessage
from bridge.storage.portals import DIRECT, PORTAL
from bridge.storage.queues import QueueItem
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
REMIND_EVERY_S = 10.0
MAX_REASON = 500
NOTICE_MARK = ".note."
"""In the transaction IDs of what we say ourselves: it is never bridged."""


class Notices:
    """Says things to people on both sides, once per cause."""

    def __init__(
        self, *, database: Database, backend: MatrixBackend, adapter: str, clock: Clock
    ) -> None:
        self._database = database
        self._backend = backend
        self._adapter = adapter
        self._clock = clock

    async def tell_address(self, *, address: str, text: str, cause: str, trace: TraceId) -> None:
        """A line from the bot to a person of the chat side."""
        now_ms = self._clock.now_ms()
        await self._database.write(
            lambda tx: queues.put_outbox(
                tx,
                lane=f"{self._adapter}:person:{address}",
                adapter=self._adapter,
                cause=cause,
                payload=to_tagged(BotNotice(to=address, text=text)),
                trace_id=trace,
                now_ms=now_ms,
            )
        )

    async def tell_room(
        self, *, room_id: RoomId, sender: UserId, text: str, cause: str, trace: TraceId
    ) -> bool:
        """A notice in a room from one of our own users. False: they cannot speak there any more."""
        try:
            info = await self._backend.room(room_id)
            notice = Message(text=text, kind="notice")
            for number, part in enumerate(split_message(notice, extensible=info.extensible)):
                event_type, content = to_event(part, extensible=info.extensible)
                await self._backend.send(
                    room_id=room_id,
                    sender=sender,
                    type=event_type,
                    content=content,
                    txn=f"{self._database.epoch}{NOTICE_MARK}{cause}"
                    + (f".{number}" if number else ""),
                    trace=trace,
                )
        except (NotFound, Refused, BadInput) as exc:
            log.warning("could not tell a room", room_id=room_id, reason=exc.reason)
            return False
        return True

    async def say_again(self, event: RoomEvent, *, room_id: RoomId) -> None:
        """What one of ours has said in another room; the chat side has had it already."""
        event_type, content = event.type, event.content
        extensible = (await self._backend.room(room_id)).extensible
        if event.extensible != extensible:
            outcome = from_event(event.type, event.content, extensible=event.extensible)
            if not isinstance(outcome, Message):
                return
            event_type, content = to_event(outcome, extensible=extensible)
        await self._backend.send(
            room_id=room_id,
            sender=event.sender,
            type=event_type,
            content=content,
            txn=f"{self._database.epoch}{NOTICE_MARK}again/{event.event_id}",
            trace=event.trace_id,
            at_ms=event.origin_server_ts,
        )

    def is_notice(self, transaction_id: str | None) -> bool:
        return transaction_id is not None and transaction_id.startswith(
            f"{self._database.epoch}{NOTICE_MARK}"
        )

    async def on_parked(self, item: QueueItem, reason: str, errcode: str) -> Unit[None]:
        """The outbox gave up a delivery."""
        await self.tell_author(item, reason=reason, cause="parked")
        now_ms = self._clock.now_ms()
        return lambda tx: _journal(tx, item, "refused", reason, now_ms)

    async def tell_author(self, item: QueueItem, *, reason: str, cause: str) -> None:
        """An outbox row did not arrive: its author on the Matrix side is told, in the room."""
        delivery: object = from_tagged(DELIVERIES, item.payload)
        if isinstance(delivery, DirectMessage):
            text = f"This message could not be delivered to {delivery.to}: {reason}"
            await self._tell_direct(delivery, text, f"{cause}/{item.id}", item)
        elif isinstance(delivery, RoomInvite):
            await self._decline(delivery, reason)
        elif isinstance(delivery, ChatPost | ChatSubject):
            what = "message" if isinstance(delivery, ChatPost) else "topic"
            await self.tell_room(
                room_id=delivery.room_id,
                sender=self._backend.bot,
                text=f"This {what} could not be delivered to {delivery.chat}: {reason}",
                cause=f"{cause}/{item.id}",
                trace=item.trace_id,
            )
        elif isinstance(delivery, GuestEnter):
            await self._turn_away(delivery, reason, f"{cause}/{item.id}", item)
        now_ms = self._clock.now_ms()
        if cause != "parked":
            await self._database.write(lambda tx: _journal(tx, item, cause, reason, now_ms))

    async def _decline(self, invite: RoomInvite, reason: str) -> None:
        """Nobody heard of the invitation: whoever invited sees it refused, with the reason."""
        ghost = await self._find_ghost(invite.to)
        if ghost is None:
            return
        member = await self._backend.member(invite.room_id, ghost)
        if member is None or member.membership != "invite":
            return
        try:
            await self._backend.leave(user_id=ghost, room_id=invite.room_id, reason=reason)
        except (NotFound, Refused) as exc:
            log.info("an invite could not be declined", room_id=invite.room_id, reason=exc.reason)

    async def _turn_away(self, guest: GuestEnter, reason: str, cause: str, item: QueueItem) -> None:
        """A chat will not have somebody: they leave the room that is the chat's own. Nobody is
        removed from a room that was there before."""
        portal = await self._database.read(
            lambda tx: portals.of_chat(tx, adapter=self._adapter, chat=guest.chat)
        )
        if portal is None or portal.room_id is None:
            return
        member = await self._backend.member(portal.room_id, guest.user_id)
        if member is None or member.membership != "join":
            return
        bot, room_id = self._backend.bot, portal.room_id
        text = f"{guest.chat} will not let {member.displayname or guest.user_id} in: {reason}"
        if portal.kind == PORTAL:
            try:
                await self._backend.kick(
                    room_id=room_id, sender=bot, target=guest.user_id, reason=text[:MAX_REASON]
                )
            except (NotFound, Refused) as exc:
                log.info("not turned away", room_id=room_id, reason=exc.reason)
            else:
                return
        await self.tell_room(
            room_id=room_id, sender=bot, text=text, cause=cause, trace=item.trace_id
        )

    async def tell_waiting(self, item: QueueItem, waited_s: float) -> None:
        """An outbox row has waited for a while: its author is told once, for all that waits."""
        delivery: object = from_tagged(DELIVERIES, item.payload)
        head = await self._database.read(
            lambda tx: queues.waiting_in_lane(tx, queues.OUTBOX, item.lane, limit=1)
        )
        cause = f"waiting/{next(iter(head), item.id)}"
        why = f"{item.reason or 'not delivered yet'}. It will be sent as soon as possible."
        if isinstance(delivery, DirectMessage):
            text = f"What you wrote is still waiting to be delivered to {delivery.to}: {why}"
            await self._tell_direct(delivery, text, f"{cause}/{delivery.room_id}", item)
        elif isinstance(delivery, ChatPost | ChatSubject | GuestEnter):
            await self._tell_chat_waits(delivery.chat, why, cause, item)

    async def _tell_chat_waits(self, chat: str, why: str, cause: str, item: QueueItem) -> None:
        """Once for all that waits in the chat's lane, in its room."""
        portal = await self._database.read(
            lambda tx: portals.of_chat(tx, adapter=self._adapter, chat=chat)
        )
        if portal is not None and portal.room_id is not None:
            await self.tell_room(
                room_id=portal.room_id,
                sender=self._backend.bot,
                text=f"What is written here is still waiting to be delivered to {chat}: {why}",
                cause=f"{cause}/{portal.room_id}",
                trace=item.trace_id,
            )

    async def _tell_direct(
        self, delivery: DirectMessage, text: str, cause: str, item: QueueItem
    ) -> None:
        """In the room where it was written, or else where the two talk now."""
        ghost = await self._find_ghost(delivery.to)
        portal = await self._database.read(
            lambda tx: portals.find(
                tx, adapter=self._adapter, kind=DIRECT, chat=delivery.to, user_id=delivery.sender
            )
        )
        rooms = [delivery.room_id, None if portal is None else portal.room_id]
        for room_id in dict.fromkeys(rooms):
            if ghost is None or room_id is None:
                continue
            if await self.tell_room(
                room_id=room_id, sender=ghost, text=text, cause=cause, trace=item.trace_id
            ):
                return
        now_ms = self._clock.now_ms()
        await self._database.write(
            lambda tx: _journal(tx, item, "author not told", "no room of theirs is left", now_ms)
        )

    async def _find_ghost(self, address: str) -> UserId | None:
        return await self._database.read(
            lambda tx: ghosts.find_user(tx, adapter=self._adapter, address=address)
        )

    async def run(self, *, after_s: float, again_after_s: float) -> None:
        """Reminds for ever."""
        while True:
            await self._clock.sleep(REMIND_EVERY_S)
            try:
                await self.remind_waiting(after_s=after_s, again_after_s=again_after_s)
            except Unavailable as exc:
                log.warning("nobody reminded", reason=exc.reason)

    async def remind_waiting(self, *, after_s: float, again_after_s: float) -> int:
        """Tells the authors of messages that stand in a room but not on the other's server.

        Once after `after_s`, then once per `again_after_s`; how many were told. Never an error:
        the message will still arrive when the server comes back.
        """
        now_ms = self._clock.now_ms()
        waiting = await self._database.read(
            lambda tx: messages.pending_since(
                tx,
                before_ms=now_ms - int(after_s * 1000),
                noticed_before_ms=now_ms - int(again_after_s * 1000),
                limit=200,
            )
        )
        again_ms = now_ms - int(again_after_s * 1000)
        by_chat = {(one.adapter, one.chat, one.sender): one for one in waiting}
        count = 0
        for message in by_chat.values():
            unit = partial(_remind, message=message, again_ms=again_ms, now_ms=now_ms)
            count += await self._database.write(unit)
        return count


def _remind(tx: Transaction, *, message: MappedMessage, again_ms: int, now_ms: int) -> bool:
    """False: the author was told not long ago, about what they wrote before."""
    before = messages.noticed(
        tx, adapter=message.adapter, chat=message.chat, sender=message.sender, now_ms=now_ms
    )
    if before is not None and before >= again_ms:
        return False
    text = (
        f"What you wrote to {message.chat} is stored and waits: their server cannot be reached at "
        "the moment. It will arrive as soon as the server is back."
    )
    queues.put_outbox(
        tx,
        lane=f"{message.adapter}:person:{message.sender}",
        adapter=message.adapter,
        cause=f"pending/{message.event_id}/{now_ms}",
        payload=to_tagged(BotNotice(to=message.sender, text=text)),
        trace_id=TraceId(message.event_id),
        now_ms=now_ms,
    )
    return True


def _journal(tx: Transaction, item: QueueItem, decision: str, reason: str, now_ms: int) -> None:
    journal.record(
        tx,
        trace_id=item.trace_id,
        step="to chat",
        decision=decision,
        detail=f"outbox {item.id}: {reason}",
        now_ms=now_ms,
    )
