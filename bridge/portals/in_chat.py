"""Foreign chats into their rooms: what was said and what happened there, in the chat's order.

Both are rows of the chat's one lane. A message moves the chat's position in the same commit, also
when it stands there already: from there the next catch-up goes on. Without a room there is nobody
to tell, and nothing is stored. Spec: XEP-0313; XEP-0359.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.clock import Clock
from bridge.content.events import split_message, to_event
from bridge.errors import Refused, Unavailable
from bridge.ids import EventId, RoomId, TraceId
from bridge.portals.changes import Changes
from bridge.portals.chats import Chats
from bridge.portals.directory import chat_lane
from bridge.portals.media import Files, fetched
from bridge.portals.moves import Moves
from bridge.portals.occupants import Occupants
from bridge.ports.chat import CHAT_CHANGES, ChatChange, ChatMessage
from bridge.ports.codec import from_json, from_tagged, to_json, to_tagged
from bridge.ports.matrix import MatrixBackend
from bridge.storage import chats as chat_rows
from bridge.storage import journal, messages, portals, queues
from bridge.storage.database import Database, Transaction, Unit
from bridge.storage.messages import MappedMessage
from bridge.storage.portals import Portal
from bridge.storage.queues import QueueItem
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
STEP = "bridge"
FINAL = frozenset({"no-room", "banned", "empty"})
"""Rules by which something is not shown for good: there is nothing for an operator to decide."""
MAX_WAITING = 5_000
"""Rows of one chat that wait: a catch-up after a long absence among them."""


def inbox_transaction(epoch: str, inbox_id: int, part: int) -> str:
    """The transaction ID under which part `part` of an inbox row is sent."""
    return f"{epoch}.in.{inbox_id}.{part}"


def find_inbox_part(epoch: str, transaction_id: str | None) -> tuple[int, int] | None:
    """The inbox row and the part behind a transaction ID of ours."""
    head = f"{epoch}.in."
    if transaction_id is None or not transaction_id.startswith(head):
        return None
    number, _, part = transaction_id.removeprefix(head).partition(".")
    if not (number.isdecimal() and part.isdecimal()):
        return None
    return int(number), int(part)


class InChat:
    def __init__(
        self,
        *,
        files: Files | None,
        database: Database,
        backend: MatrixBackend,
        chats: Chats,
        occupants: Occupants,
        changes: Changes,
        moves: Moves,
        adapter: str,
        clock: Clock,
    ) -> None:
        self._moves = moves
        self._files = files
        self._database = database
        self._backend = backend
        self._chats = chats
        self._occupants = occupants
        self._changes = changes
        self._adapter = adapter
        self._clock = clock

    async def is_visited(self, chat: str) -> bool:
        return await self._chats.find(chat) is not None

    # --- stored -----------------------------------------------------------------------------

    async def accept(self, message: ChatMessage, chat: str) -> bool:
        now_ms = self._clock.now_ms()
        own_id = "/".join(
            (message.sender, message.stanza_id, message.fingerprint, str(message.at_ms or ""))
        )

        def unit(tx: Transaction) -> bool:
            if portals.of_chat(tx, adapter=self._adapter, chat=chat) is None:
                return False
            inbox_id = self._put(
                tx,
                chat,
                source_id=message.archive_id or own_id,
                payload=to_json(message),
                trace=message.trace,
                now_ms=now_ms,
            )
            if inbox_id is None:
                return False
            before = chat_rows.find(tx, adapter=self._adapter, chat=chat)
            chat_rows.move_position(
                tx,
                adapter=self._adapter,
                chat=chat,
                archive_id=message.archive_id or before.archive_id,
                archive_ms=now_ms if message.at_ms is None else message.at_ms,
            )
            return True

        return await self._database.write(unit)

    async def accept_change(self, change: ChatChange) -> None:
        now_ms, trace = self._clock.now_ms(), TraceId(self._chats.new_number())

        def unit(tx: Transaction) -> None:
            if portals.of_chat(tx, adapter=self._adapter, chat=change.chat) is not None:
                self._put(
                    tx,
                    change.chat,
                    source_id=f"change/{trace}",
                    payload=to_tagged(change),
                    trace=trace,
                    now_ms=now_ms,
                )

        await self._database.write(unit)

    def _put(
        self,
        tx: Transaction,
        chat: str,
        *,
        source_id: str,
        payload: dict[str, object],
        trace: TraceId,
        now_ms: int,
    ) -> int | None:
        lane = chat_lane(self._adapter, chat)
        if queues.is_full(tx, queues.INBOX, lane, bound=MAX_WAITING):
            raise Unavailable("too much of this chat waits already")
        inbox_id = queues.put_inbox(
            tx,
            lane=lane,
            adapter=self._adapter,
            source=f"{self._adapter}:{chat}",
            source_id=source_id,
            payload=payload,
            trace_id=trace,
            now_ms=now_ms,
        )
        if inbox_id is not None:
            _record(tx, trace, "accept", "stored", f"inbox {inbox_id}", now_ms)
        return inbox_id

    # --- carried ----------------------------------------------------------------------------

    async def deliver(self, item: QueueItem) -> Unit[None]:
        """Carries one row of a chat's lane into its room."""
        try:
            return await self._carry(item)
        except Refused as exc:
            if exc.rule not in FINAL:
                raise
            return self._noted(item, "refused", exc.reason)

    async def _carry(self, item: QueueItem) -> Unit[None]:
        if "kind" in item.payload:
            change: ChatChange = from_tagged(CHAT_CHANGES, item.payload)
            async with self._chats.holding(change.chat):
                portal, room_id = await self._room_of(change.chat)
                await self._moves.room_to_write(room_id)
                outcome = await self._changes.show(
                    change,
                    portal,
                    room_id,
                    txn=inbox_transaction(self._database.epoch, item.id, 0),
                    trace=item.trace_id,
                )
            return self._noted(item, outcome, str(item.payload["kind"]))
        message = from_json(ChatMessage, item.payload)
        chat = message.to_chat or ""
        async with self._chats.holding(chat):
            portal, room_id = await self._room_of(chat)
            await self._moves.room_to_write(room_id)
            try:
                sent = await self._send(item, message, portal, room_id)
            except Refused:
                await self._moves.check_refusal(room_id)
                raise
        return self._finish(message, chat, room_id, sent)

    async def _room_of(self, chat: str) -> tuple[Portal, RoomId]:
        portal = await self._chats.find(chat)
        if portal is None or portal.room_id is None:
            raise Refused(f"{chat} has no room any more", rule="no-room")
        return portal, portal.room_id

    async def _send(
        self, item: QueueItem, message: ChatMessage, portal: Portal, room_id: RoomId
    ) -> Sequence[EventId]:
        info = await self._backend.room(room_id)
        await self._moves.check_open(info)
        ghost = await self._occupants.speaker(portal, room_id, message.sender, message.sender_name)
        readable = await fetched(
            message.message, self._files, item, ghost, epoch=self._database.epoch
        )
        parts = split_message(readable, extensible=info.extensible)
        if not parts:
            raise Refused("there is nothing in this message", rule="empty")
        sent: list[EventId] = []
        for number, part in enumerate(parts):
            event_type, content = to_event(part, extensible=info.extensible)
            sent.append(
                await self._backend.send(
                    room_id=room_id,
                    sender=ghost,
                    type=event_type,
                    content=content,
                    txn=inbox_transaction(self._database.epoch, item.id, number),
                    trace=message.trace,
                    at_ms=message.at_ms,
                )
            )
        return sent

    def _finish(
        self, message: ChatMessage, chat: str, room_id: RoomId, sent: Sequence[EventId]
    ) -> Unit[None]:
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            for number, event_id in enumerate(sent):
                messages.put(
                    tx,
                    MappedMessage(
                        adapter=self._adapter,
                        room_id=room_id,
                        event_id=event_id,
                        part=number,
                        chat=chat,
                        sender=message.sender,
                        stanza_id=message.archive_id or message.stanza_id,
                        origin_id=message.origin_id or message.stanza_id,
                        origin="chat",
                        receipt_due=False,
                        session=message.session,
                        sent_to=message.sent_to,
                        pending=False,
                        noticed_ms=None,
                        at_ms=now_ms,
                    ),
                )
            _record(tx, message.trace, STEP, "sent", " ".join(sent), now_ms)

        return unit

    def on_parked(self, item: QueueItem, reason: str) -> Unit[None]:
        """Nobody can be told: who writes in a chat does not know that we listen."""
        log.info("not shown", lane=item.lane, reason=reason)
        return self._noted(item, "refused", reason)

    def _noted(self, item: QueueItem, decision: str, detail: str) -> Unit[None]:
        now_ms = self._clock.now_ms()
        return lambda tx: _record(tx, item.trace_id, STEP, decision, detail, now_ms)


def is_of_chat(item: QueueItem) -> bool:
    """Whether an inbox row came from a foreign chat."""
    return "kind" in item.payload or item.payload.get("to_chat") is not None


def _record(
    tx: Transaction, trace: TraceId, step: str, decision: str, detail: str, now_ms: int
) -> None:
    journal.record(tx, trace_id=trace, step=step, decision=decision, detail=detail, now_ms=now_ms)
