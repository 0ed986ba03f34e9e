"""Messages from the chat side into rooms, and what else an adapter asks (`ChatListener`).

`accept` commits a message to the inbox (one that comes again is only answered again); one lane
per chat then carries it into its room:

1. the room: a served room as it is, a direct chat's room found or opened;
2. a direct message waits until the other has joined: an event sent before would reach their
   server only by chance;
3. the content, in the form of the room's version, in parts where it is too long;
4. each part sent under a transaction ID made of the inbox row;
5. the message map, in the commit that finishes the row.

A message that cannot become an event is told to its author as an error on that very message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from bridge.clock import Clock
from bridge.content.events import from_event, split_message, to_event
from bridge.content.model import Message
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomAlias, RoomId, ServerName, TraceId, UserId, server_of
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.portals.again import answer_again
from bridge.portals.directory import Directory, direct_lane, room_lane
from bridge.portals.ephemeral import EphemeralPortal
from bridge.portals.following import Following, is_follow
from bridge.portals.ghosts import Ghosts
from bridge.portals.in_chat import InChat, inbox_transaction, is_of_chat
from bridge.portals.media import Files, fetched, shown
from bridge.portals.moves import Moves
from bridge.portals.notices import Notices
from bridge.portals.receipts import MAX_REASON, put_failure, put_receipt, put_refusal
from bridge.ports.chat import (
    AddressMap,
    ChatChange,
    ChatMessage,
    HistoryMessage,
    RoomView,
)
from bridge.ports.codec import from_json, to_json
from bridge.ports.command import Caller
from bridge.ports.ephemeral import ChatEphemeral
from bridge.ports.matrix import MatrixBackend, Profile, PublicRooms, RoomInfo
from bridge.storage import journal, messages, queues
from bridge.storage.database import Database, Transaction, Unit
from bridge.storage.messages import MappedMessage
from bridge.storage.portals import DIRECT, ENCRYPTED, FORMER
from bridge.storage.queues import QueueItem
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
MAX_WAITING = 2_000
"""Messages of one chat that wait; more are turned away, with an error to their author."""

EVENTS_PER_MESSAGE = 5
"""Events looked through for one message of a room's past."""

OnCommand = Callable[[Caller, str], Awaitable[str]]


class FromChat:
    """Fills `ports.chat.ChatListener`; `deliver` and `on_parked` are the inbox's callables."""

    def __init__(
        self,
        *,
        files: Files | None,
        database: Database,
        backend: MatrixBackend,
        directory: Directory,
        ghosts: Ghosts,
        notices: Notices,
        addresses: AddressMap,
        clock: Clock,
        on_command: OnCommand,
        in_chat: InChat,
        moves: Moves,
        following: Following,
        house: House,
        ephemeral: EphemeralPortal,
    ) -> None:
        self._ephemeral = ephemeral
        self._house = house
        self._moves = moves
        self._following = following
        self._files = files
        self._database = database
        self._backend = backend
        self._directory = directory
        self._ghosts = ghosts
        self._notices = notices
        self._addresses = addresses
        self._clock = clock
        self._on_command = on_command
        self._in_chat = in_chat

    # --- foreign chats ---------------------------------------------------------------------

    async def accept_change(self, change: ChatChange) -> None:
        await self._in_chat.accept_change(change)

    def on_ephemeral(self, change: ChatEphemeral) -> None:
        self._ephemeral.on_chat(change)

    async def is_visited(self, chat: str) -> bool:
        return await self._in_chat.is_visited(chat)

    # --- messages --------------------------------------------------------------------------

    async def accept(self, message: ChatMessage) -> bool:
        ghost = self._addresses.user_of(message.sender)
        if message.to_chat is not None:
            try:
                self._house.check_user(ghost, Scope.ALL, door="from chat")
            except Refused:
                return False  # All the chat has read it: there is nobody to answer.
            return await self._in_chat.accept(message, message.to_chat)
        if message.to_room is not None:
            lane = room_lane(message.adapter, message.to_room)
        elif message.to_user is not None:
            lane = direct_lane(message.adapter, message.sender, message.to_user)
        else:
            raise Refused("a message to nobody", errcode="M_INVALID_PARAM")
        source_id = f"{message.origin_id or message.stanza_id}/{message.fingerprint}"
        self._house.check_user(ghost, Scope.ALL, door="from chat")
        if message.to_user is not None:
            self._house.check_user(message.to_user, Scope.ALL, door="from chat")
        if message.to_room is not None:
            self._house.check_room(message.to_room, Scope.ALL, door="from chat")
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> bool:
            if queues.is_full(tx, queues.INBOX, lane, bound=MAX_WAITING):
                raise Unavailable("too many messages of this chat wait already")
            # What is sent again after an upgrade is the same message.
            to = message.to_user or self._moves.first(tx, message.to_room or RoomId(""))
            source = f"{message.adapter}:{message.sender}>{to}"
            inbox_id = queues.put_inbox(
                tx,
                lane=lane,
                adapter=message.adapter,
                source=source,
                source_id=source_id,
                payload=to_json(message),
                trace_id=message.trace,
                now_ms=now_ms,
            )
            if inbox_id is not None:
                journal.record(
                    tx,
                    trace_id=message.trace,
                    step="accept",
                    decision="stored",
                    detail=f"inbox {inbox_id}",
                    now_ms=now_ms,
                )
            else:
                first = queues.find_inbox(tx, source=source, source_id=source_id)
                if first is not None:
                    answer_again(tx, message, first, ghost=ghost, now_ms=now_ms)
            return inbox_id is not None

        return await self._database.write(unit)

    async def deliver(self, item: QueueItem) -> Unit[None]:
        """Carries one inbox row into its room."""
        if is_follow(item):
            return await self._following.deliver(item)
        if is_of_chat(item):
            return await self._in_chat.deliver(item)
        message = from_json(ChatMessage, item.payload)
        if message.to_room is not None:
            room_id = message.to_room
        elif message.to_user is not None:
            room_id = await self._direct_room(item, message, message.to_user)
        else:
            raise BadInput("a message to nobody")
        room_id = await self._moves.room_to_write(room_id)
        try:
            return await self._send(item, message, room_id)
        except Refused:
            await self._moves.check_refusal(room_id)
            raise

    async def _direct_room(self, item: QueueItem, message: ChatMessage, target: UserId) -> RoomId:
        if server_of(target) == self._backend.server_name:
            raise NotFound(f"there is no {target} here")
        room_id = await self._directory.open_direct(
            address=message.sender,
            user_id=target,
            trace=message.trace,
            written_ms=item.created_ms,
        )
        member = await self._backend.member(room_id, target)
        if member is None or member.membership != "join":
            raise Unavailable(f"{target} has not accepted the invitation yet")
        return room_id

    async def _send(self, item: QueueItem, message: ChatMessage, room_id: RoomId) -> Unit[None]:
        info = await self._backend.room(room_id)
        await self._moves.check_open(info)
        ghost = await self._ghosts.ensure(message.sender)
        sent: list[EventId] = []
        readable = await fetched(
            message.message, self._files, item, ghost, epoch=self._database.epoch
        )
        parts = split_message(readable, extensible=info.extensible)
        if not parts:
            raise Refused("there is nothing in this message", rule="empty")
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
                )
            )
        return self._finish(message, room_id, sent)

    def _finish(self, message: ChatMessage, room_id: RoomId, sent: Sequence[EventId]) -> Unit[None]:
        now_ms = self._clock.now_ms()
        is_direct = message.to_room is None

        def unit(tx: Transaction) -> None:
            for number, event_id in enumerate(sent):
                # Their server may have answered before we came to write this.
                taken = not is_direct or messages.is_accepted(tx, event_id)
                refusal = None if taken else messages.find_refusal(tx, event_id)
                is_awaited = not taken and refusal is None
                receipt_due = (
                    is_direct and message.wants_receipt and number == len(sent) - 1
                ) and refusal is None
                mapped = MappedMessage(
                    adapter=message.adapter,
                    room_id=room_id,
                    event_id=event_id,
                    part=number,
                    chat=message.to_user or message.to_room or room_id,
                    sender=message.sender,
                    stanza_id=message.stanza_id,
                    origin_id=message.origin_id,
                    origin="chat",
                    receipt_due=receipt_due and is_awaited,
                    session=message.session,
                    sent_to=message.sent_to,
                    pending=is_awaited,
                    noticed_ms=None,
                    at_ms=now_ms,
                )
                messages.put(tx, mapped)
                if refusal is not None:
                    put_refusal(tx, mapped, error=refusal, trace=message.trace, now_ms=now_ms)
                elif receipt_due and taken:
                    put_receipt(
                        tx,
                        adapter=message.adapter,
                        session=message.session,
                        sent_to=message.sent_to,
                        stanza_id=message.stanza_id,
                        trace=message.trace,
                        now_ms=now_ms,
                    )
            journal.record(
                tx,
                trace_id=message.trace,
                step="bridge",
                decision="sent",
                detail=" ".join(sent),
                now_ms=now_ms,
            )

        return unit

    async def on_parked(self, item: QueueItem, reason: str, errcode: str) -> Unit[None]:
        """The inbox gave up a message: its author gets an error on it."""
        if is_follow(item):
            return await self._following.on_parked(item, reason)
        if is_of_chat(item):
            return self._in_chat.on_parked(item, reason)
        message = from_json(ChatMessage, item.payload)
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            put_failure(
                tx,
                message,
                reason=reason,
                errcode=errcode,
                cause=f"failure/{item.id}",
                now_ms=now_ms,
            )
            journal.record(
                tx,
                trace_id=message.trace,
                step="bridge",
                decision="refused",
                detail=reason,
                now_ms=now_ms,
            )

        await self._give_up_invitation(item, message)
        return unit

    async def _give_up_invitation(self, item: QueueItem, message: ChatMessage) -> None:
        """The last message that waited for somebody to accept our invitation is given up: so is
        the invitation."""
        target = message.to_user
        if target is None:
            return
        portal = await self._directory.find_direct(address=message.sender, user_id=target)
        if portal is None or portal.room_id is None or portal.status != "open":
            return
        waiting = await self._database.read(
            lambda tx: queues.waiting_in_lane(tx, queues.INBOX, item.lane, limit=2)
        )
        member = await self._backend.member(portal.room_id, target)
        if waiting not in ([], [item.id]) or member is None or member.membership != "invite":
            return
        ghost, room_id = self._addresses.user_of(message.sender), portal.room_id
        try:
            await self._backend.kick(room_id=room_id, sender=ghost, target=target, reason=None)
        except (Refused, NotFound) as exc:
            # Where both have the same level an invitation cannot be taken back.
            log.info("an invitation stays", room_id=room_id, reason=exc.reason)
        await self._directory.leave(user_id=ghost, room_id=room_id)
        await self._directory.close(portal)

    async def on_waiting(self, item: QueueItem, waited_s: float) -> None:
        """A message waits before it became an event: its author is told, not alarmed."""
        if is_follow(item):
            await self._following.on_waiting(item)
            return
        if is_of_chat(item):
            return
        message = from_json(ChatMessage, item.payload)
        if message.to_user is None:
            return
        head = await self._database.read(
            lambda tx: queues.waiting_in_lane(tx, queues.INBOX, item.lane, limit=1)
        )
        await self._notices.tell_address(
            address=message.sender,
            text=f"What you wrote to {message.to_user} is waiting: "
            f"{item.reason or 'not delivered yet'}. It will be delivered as soon as possible; "
            "there is no need to send it again.",
            # One notice for all that waits for the same.
            cause=f"waiting/in/{next(iter(head), item.id)}",
            trace=message.trace,
        )

    # --- rooms -----------------------------------------------------------------------------

    async def find_room(self, target: RoomAlias | RoomId) -> RoomId:
        room_id, _ = await self._resolve(target)
        await self._moves.check_place(room_id)
        return room_id

    async def describe_room(
        self, target: RoomAlias | RoomId, *, address: str | None = None
    ) -> RoomInfo | None:
        room_id = await self.find_room(target)
        try:
            info = await self._backend.room(room_id)
        except NotFound:
            return None
        if info.join_rule == "public":
            return info
        if address is None:
            return None
        member = await self._backend.member(room_id, self._addresses.user_of(address))
        may_know = member is not None and member.membership in ("join", "invite")
        return info if may_know else None

    async def enter(
        self, *, address: str, target: RoomAlias | RoomId, nickname: str, history_limit: int
    ) -> RoomView:
        room_id, via = await self._resolve(target)
        await self._moves.check_place(room_id)
        for portal in await self._directory.of_room(room_id):
            if portal.kind in (DIRECT, FORMER, ENCRYPTED) and portal.chat == address:
                raise Refused(
                    f"this is your chat with {portal.user_id}: write to them directly",
                    rule="direct",
                )
        ghost = await self._ghosts.ensure(address, name=nickname)
        await self._backend.join(user_id=ghost, room_id=room_id, via=via)
        # The portal stands before the view is read: what comes later arrives as a delivery.
        await self._directory.serve(room_id)
        info = await self._backend.room(room_id)
        if info.replacement is not None:
            await self._moves.look(room_id)
        view = RoomView(
            info=info,
            power=await self._backend.power(room_id),
            members=await self._backend.members(room_id),
            history=await self._past(info, history_limit, viewer=ghost),
            first_room=await self._moves.first_room(room_id),
        )
        await self._moves.check_place(room_id)
        return view

    async def view_room(self, room_id: RoomId) -> RoomView:
        return RoomView(
            info=await self._backend.room(room_id),
            power=await self._backend.power(room_id),
            members=await self._backend.members(room_id),
            history=(),
            first_room=await self._moves.first_room(room_id),
        )

    async def _past(
        self, info: RoomInfo, limit: int, *, viewer: UserId
    ) -> Sequence[HistoryMessage]:
        """The newest of what was said; before that of a successor stands what was said in the rooms
        that it replaces, up to their tombstones."""
        past = await self._history(info.room_id, info.position, limit, viewer)
        for move in await self._moves.predecessors(info.room_id):
            if len(past) >= limit:
                break
            try:
                before = await self._history(move.room_id, move.position, limit - len(past), viewer)
            except NotFound:
                break  # nobody of ours is left there
            past = [*before, *past]
        return past

    async def _history(
        self, room_id: RoomId, upto: int, limit: int, viewer: UserId
    ) -> Sequence[HistoryMessage]:
        past: list[HistoryMessage] = []
        if limit <= 0:
            return past
        # Much of what happens in a room is not said.
        for event in await self._backend.timeline(
            room_id, limit=limit * EVENTS_PER_MESSAGE, before=upto, viewer=viewer
        ):
            if event.redacted or event.state_key is not None:
                continue
            outcome = shown(
                from_event(event.type, event.content, extensible=event.extensible),
                self._files,
                event.sender,
            )
            if isinstance(outcome, Message):
                past.append(
                    HistoryMessage(
                        event_id=event.event_id,
                        sender=event.sender,
                        at_ms=event.origin_server_ts,
                        message=outcome,
                    )
                )
        return past[-limit:]

    async def _resolve(self, target: RoomAlias | RoomId) -> tuple[RoomId, Sequence[ServerName]]:
        if target.startswith("#"):
            return await self._backend.resolve_alias(RoomAlias(target))
        _, colon, server = target.partition(":")
        return RoomId(target), [ServerName(server)] if colon else []

    async def leave(self, *, address: str, room_id: RoomId, reason: str | None) -> None:
        ghost = self._addresses.user_of(address)
        await self._backend.leave(user_id=ghost, room_id=room_id, reason=reason)
        for move in await self._moves.predecessors(room_id):
            await self._directory.leave(user_id=ghost, room_id=move.room_id)

    async def set_topic(self, *, address: str, room_id: RoomId, topic: str, txn: str) -> None:
        await self._backend.send(
            room_id=room_id,
            sender=self._addresses.user_of(address),
            type="m.room.topic",
            state_key="",
            content={"topic": topic},
            txn=f"{self._database.epoch}.topic.{txn}",
            trace=TraceId(txn),
        )

    async def rooms_of(self, address: str) -> Sequence[RoomInfo]:
        ghost = self._addresses.user_of(address)
        found: list[RoomInfo] = []
        for room_id in await self._backend.joined_rooms(ghost):
            try:
                info = await self._backend.room(room_id)
            except NotFound:
                continue  # left in the meantime
            if not info.direct:
                found.append(info)
        return found

    async def public_rooms(
        self,
        *,
        limit: int,
        after: RoomId | None = None,
        before: RoomId | None = None,
        from_end: bool = False,
    ) -> PublicRooms:
        return await self._backend.own_public_rooms(
            limit=limit, after=after, before=before, from_end=from_end
        )

    async def find_member_name(self, user_id: UserId) -> str | None:
        try:
            profile: Profile = await self._backend.profile(user_id)
        except (NotFound, Unavailable, Refused):
            return None
        return profile.displayname

    # --- what comes back -------------------------------------------------------------------

    async def on_bounced(
        self, *, address: str, outbox_id: int, condition: str, text: str | None
    ) -> None:
        """A stanza of ours came back as an error: whoever wrote the message is told."""
        try:
            item = await self._database.read(lambda tx: queues.get(tx, queues.OUTBOX, outbox_id))
        except NotFound:
            log.info("bounce of a forgotten delivery", outbox_id=outbox_id, condition=condition)
            return
        if item.payload.get("to") != address:
            log.info("bounce by somebody else", outbox_id=outbox_id, address=address)
            return
        reason = (text or condition)[:MAX_REASON]
        await self._notices.tell_author(item, reason=reason, cause="bounce")

    async def on_command(self, *, address: str, text: str) -> str:
        ghost = await self._ghosts.ensure(address)
        return await self._on_command(Caller(user_id=ghost), text)
