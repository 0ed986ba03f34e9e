"""What people are told about their messages: waiting, or given up, with the reason in words."""

from __future__ import annotations

from bridge.clock import Clock
from bridge.content.events import to_event
from bridge.content.model import Message
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomId, TraceId, UserId
from bridge.ports.chat import DELIVERIES, BotNotice, DirectMessage, RoomInvite
from bridge.ports.codec import from_tagged, to_tagged
from bridge.ports.matrix import MatrixBackend
from bridge.storage import ghosts, messages, portals, queues
from bridge.storage.database import Database
from bridge.storage.portals import DIRECT
from bridge.storage.queues import QueueItem
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
REMIND_EVERY_S = 10.0
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
    ) -> None:
        """A notice in a room from one of our own users. A room that is gone hears nothing."""
        try:
            info = await self._backend.room(room_id)
            event_type, content = to_event(
                Message(text=text, kind="notice"), extensible=info.extensible
            )
            await self._backend.send(
                room_id=room_id,
                sender=sender,
                type=event_type,
                content=content,
                txn=f"{self._database.epoch}{NOTICE_MARK}{cause}",
                trace=trace,
            )
        except (NotFound, Refused, BadInput) as exc:
            log.warning("could not tell a room", room_id=room_id, reason=exc.reason)

    def is_notice(self, transaction_id: str | None) -> bool:
        return transaction_id is not None and transaction_id.startswith(
            f"{self._database.epoch}{NOTICE_MARK}"
        )

    async def on_parked(self, item: QueueItem, reason: str) -> None:
        """The outbox gave up a delivery."""
        await self.tell_author(item, reason=reason, cause="parked")

    async def tell_author(self, item: QueueItem, *, reason: str, cause: str) -> None:
        """An outbox row did not arrive: its author on the Matrix side is told, in the room."""
        delivery: object = from_tagged(DELIVERIES, item.payload)
        if isinstance(delivery, DirectMessage):
            to, user_id, event_id = delivery.to, delivery.sender, delivery.event_id
            text = f"This message could not be delivered to {to}: {reason}"
            await self._tell_direct(to, user_id, event_id, text, f"{cause}/{item.id}", item)
        elif isinstance(delivery, RoomInvite):
            log.info("an invitation could not be delivered", outbox_id=item.id, reason=reason)

    async def tell_waiting(self, item: QueueItem, waited_s: float) -> None:
        """An outbox row has waited for a while: its author is told once."""
        delivery: object = from_tagged(DELIVERIES, item.payload)
        if isinstance(delivery, DirectMessage):
            text = (
                f"This message is still waiting to be delivered to {delivery.to}: "
                f"{item.reason or 'not delivered yet'}. It will be sent as soon as possible."
            )
            try:
                await self._tell_direct(
                    delivery.to,
                    delivery.sender,
                    delivery.event_id,
                    text,
                    f"waiting/{item.id}",
                    item,
                )
            except Unavailable as exc:
                log.warning("could not tell an author", reason=exc.reason)

    async def _tell_direct(
        self,
        address: str,
        user_id: UserId,
        event_id: EventId,
        text: str,
        cause: str,
        item: QueueItem,
    ) -> None:
        portal = await self._database.read(
            lambda tx: portals.find(
                tx, adapter=self._adapter, kind=DIRECT, chat=address, user_id=user_id
            )
        )
        if portal is None or portal.room_id is None:
            return
        ghost = await self._database.read(
            lambda tx: ghosts.find_user(tx, adapter=self._adapter, address=address)
        )
        if ghost is not None:
            await self.tell_room(
                room_id=portal.room_id, sender=ghost, text=text, cause=cause, trace=item.trace_id
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
        told: set[tuple[str, str]] = set()
        for message in waiting:
            key = (message.chat, message.sender)
            if key in told:
                continue
            told.add(key)
            await self.tell_address(
                address=message.sender,
                text=f"What you wrote to {message.chat} is stored and waits: their server "
                "cannot be reached at the moment. It will arrive as soon as the server is back.",
                cause=f"pending/{message.event_id}/{now_ms}",
                trace=TraceId(message.event_id),
            )
            await self._mark_noticed(message.chat, message.sender, now_ms)
        return len(told)

    async def _mark_noticed(self, chat: str, sender: str, now_ms: int) -> None:
        await self._database.write(
            lambda tx: messages.noticed(tx, chat=chat, sender=sender, now_ms=now_ms)
        )
