"""What happens on the Matrix side, on its way to the chat side (`MatrixListener`).

Each event becomes at most one outbox row per portal, unique by its cause: an event that is seen
twice is delivered once. This file only sequences; conversion is `content`'s, members are
`membership`'s, words are `notices`'.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bridge.clock import Clock
from bridge.content.events import from_event
from bridge.content.model import Encrypted, Message, NotRendered
from bridge.errors import NotFound
from bridge.ids import RoomAlias, RoomId, TraceId, UserId, localpart_of
from bridge.portals.directory import Directory, direct_lane, room_lane
from bridge.portals.from_chat import find_inbox_id, put_receipt
from bridge.portals.ghosts import Ghosts
from bridge.portals.membership import Membership
from bridge.portals.notices import Notices
from bridge.ports.chat import (
    AddressMap,
    ChatMessage,
    Delivery,
    DirectMessage,
    RoomMember,
    RoomMessage,
    RoomSubject,
)
from bridge.ports.codec import from_json, to_tagged
from bridge.ports.command import Caller
from bridge.ports.matrix import Acceptance, MatrixBackend, Profile, RoomEvent
from bridge.storage import journal, messages, queues
from bridge.storage.database import Database, Transaction
from bridge.storage.portals import DIRECT, ENCRYPTED, MANAGEMENT, SERVED, Portal
from bridge.telemetry.log import get_logger

log = get_logger(__name__)

OnCommand = Callable[[Caller, str], Awaitable[str]]
ENCRYPTED_LINE = "[an encrypted message that this gateway cannot read]"
UNREAD_TEXT = (
    "This message was not delivered: it is encrypted, and the gateway cannot read it. "
    "Please use the chat without encryption that I have invited you to."
)


class FromMatrix:
    """Fills `ports.matrix.MatrixListener`."""

    def __init__(
        self,
        *,
        database: Database,
        backend: MatrixBackend,
        directory: Directory,
        ghosts: Ghosts,
        membership: Membership,
        notices: Notices,
        addresses: AddressMap,
        clock: Clock,
        on_command: OnCommand,
    ) -> None:
        self._database = database
        self._backend = backend
        self._directory = directory
        self._ghosts = ghosts
        self._membership = membership
        self._notices = notices
        self._addresses = addresses
        self._clock = clock
        self._on_command = on_command

    async def on_event(self, event: RoomEvent) -> None:
        if self._notices.is_notice(event.transaction_id):
            return
        if event.type == "m.room.member" and event.state_key is not None:
            await self._membership.on_member(event)
        for portal in await self._directory.of_room(event.room_id):
            if portal.kind == SERVED:
                await self._to_served(event, portal)
            elif portal.kind == DIRECT:
                await self._to_direct(event, portal)
            elif portal.kind == ENCRYPTED:
                await self._to_encrypted(event, portal)
            elif portal.kind == MANAGEMENT:
                await self._to_bot(event)

    # --- direct chats ------------------------------------------------------------------------

    async def _to_direct(self, event: RoomEvent, portal: Portal) -> None:
        if event.own:
            return
        if event.type == "m.room.encryption":
            await self._membership.refuse_encrypted(
                event, address=portal.chat, user_id=portal.user_id
            )
            return
        if event.state_key is not None or event.redacted:
            return
        outcome = from_event(event.type, event.content, extensible=event.extensible)
        if isinstance(outcome, NotRendered):
            await self._note(event, outcome.reason)
        elif isinstance(outcome, Encrypted):
            await self._membership.refuse_encrypted(
                event, address=portal.chat, user_id=portal.user_id
            )
            await self._report_unread(event, portal)
        else:
            await self._put(
                event,
                portal,
                DirectMessage(
                    to=portal.chat,
                    sender=event.sender,
                    event_id=event.event_id,
                    at_ms=event.origin_server_ts,
                    message=outcome,
                ),
            )

    async def _to_encrypted(self, event: RoomEvent, portal: Portal) -> None:
        """A room that we cannot read: what is readable goes on, the rest is reported."""
        if event.own or event.state_key is not None or event.redacted:
            return
        outcome = from_event(event.type, event.content, extensible=event.extensible)
        if isinstance(outcome, Encrypted):
            await self._report_unread(event, portal)
        elif isinstance(outcome, Message):
            await self._to_direct(event, portal)

    async def _report_unread(self, event: RoomEvent, portal: Portal) -> None:
        await self._note(event, "encrypted")
        await self._notices.tell_room(
            room_id=event.room_id,
            sender=await self._ghosts.ensure(portal.chat),
            text=UNREAD_TEXT,
            cause=f"unread/{event.event_id}",
            trace=event.trace_id,
        )

    # --- rooms that we serve -----------------------------------------------------------------

    async def _to_served(self, event: RoomEvent, portal: Portal) -> None:
        delivery = await self._served_delivery(event)
        if delivery is not None:
            await self._put(event, portal, delivery)

    async def _served_delivery(self, event: RoomEvent) -> Delivery | None:
        content = event.content
        if event.type == "m.room.member" and event.state_key is not None:
            return RoomMember(
                room_id=event.room_id,
                position=event.position,
                user_id=UserId(event.state_key),
                membership=str(content.get("membership")),
                previous=event.previous_membership,
                displayname=_text(content.get("displayname")),
                actor=event.sender,
                reason=_text(content.get("reason")),
            )
        if event.type == "m.room.topic" and event.state_key == "":
            return RoomSubject(
                room_id=event.room_id,
                position=event.position,
                sender=event.sender,
                at_ms=event.origin_server_ts,
                text=_text(content.get("topic")) or "",
            )
        if event.state_key is not None or event.redacted:
            return None
        outcome = from_event(event.type, content, extensible=event.extensible)
        if isinstance(outcome, NotRendered):
            await self._note(event, outcome.reason)
            return None
        if isinstance(outcome, Encrypted):
            outcome = Message(text=ENCRYPTED_LINE, kind="unknown", stands_for=event.type)
        written = await self._written(event)
        return RoomMessage(
            room_id=event.room_id,
            position=event.position,
            event_id=event.event_id,
            sender=event.sender,
            at_ms=event.origin_server_ts,
            message=outcome,
            stanza_id=None if written is None else written.stanza_id,
            origin_id=None if written is None else written.origin_id,
        )

    async def _written(self, event: RoomEvent) -> ChatMessage | None:
        """The chat message that became this event, if it was written on the chat side."""
        inbox_id = find_inbox_id(self._database.epoch, event.transaction_id)
        if inbox_id is None:
            return None
        try:
            item = await self._database.read(lambda tx: queues.get(tx, queues.INBOX, inbox_id))
        except NotFound:
            return None
        return from_json(ChatMessage, item.payload)

    # --- the bot -----------------------------------------------------------------------------

    async def _to_bot(self, event: RoomEvent) -> None:
        if event.own or event.state_key is not None or event.redacted:
            return
        outcome = from_event(event.type, event.content, extensible=event.extensible)
        if not isinstance(outcome, Message) or outcome.kind == "notice":
            return
        answer = await self._on_command(Caller(user_id=event.sender), outcome.text)
        await self._notices.tell_room(
            room_id=event.room_id,
            sender=self._backend.bot,
            text=answer,
            cause=f"answer/{event.event_id}",
            trace=event.trace_id,
        )

    # --- rows --------------------------------------------------------------------------------

    async def _put(self, event: RoomEvent, portal: Portal, delivery: Delivery) -> None:
        if portal.kind == SERVED:
            lane = room_lane(portal.adapter, event.room_id)
        else:
            lane = direct_lane(portal.adapter, portal.chat, portal.user_id)
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            outbox_id = queues.put_outbox(
                tx,
                lane=lane,
                adapter=portal.adapter,
                cause=f"{event.event_id}/{portal.portal_id}",
                payload=to_tagged(delivery),
                trace_id=event.trace_id,
                now_ms=now_ms,
            )
            if outbox_id is not None:
                journal.record(
                    tx,
                    trace_id=event.trace_id,
                    step="to chat",
                    decision="stored",
                    detail=f"outbox {outbox_id}",
                    now_ms=now_ms,
                )

        await self._database.write(unit)

    async def _note(self, event: RoomEvent, decision: str) -> None:
        """What is not shown is journalled, so that `why` can tell."""
        now_ms = self._clock.now_ms()
        await self._database.write(
            lambda tx: journal.record(
                tx,
                trace_id=event.trace_id,
                step="to chat",
                decision=decision,
                detail=event.type,
                now_ms=now_ms,
            )
        )

    async def on_acceptance(self, acceptance: Acceptance) -> None:
        """A recipient's server has an event of ours: pending receipts are due."""
        if acceptance.error is not None:
            log.warning(
                "a peer refused an event",
                event_id=acceptance.event_id,
                peer=acceptance.server,
                error=acceptance.error,
            )
            return
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            for message in messages.settle(tx, acceptance.event_id):
                if message.receipt_due:
                    put_receipt(
                        tx,
                        adapter=message.adapter,
                        session=message.session,
                        sent_to=message.sent_to,
                        stanza_id=message.stanza_id,
                        trace=TraceId(message.event_id),
                        now_ms=now_ms,
                    )

        await self._database.write(unit)

    # --- look-ups ----------------------------------------------------------------------------

    async def on_user_query(self, user_id: UserId) -> bool:
        if user_id == self._backend.bot:
            return True
        return await self._ghosts.find_address(user_id) is not None

    async def on_profile_query(self, user_id: UserId) -> Profile | None:
        if user_id == self._backend.bot:
            return Profile(displayname=localpart_of(user_id).capitalize())
        address = await self._ghosts.find_address(user_id)
        if address is None:
            return None
        return Profile(displayname=self._addresses.default_name(address))

    async def on_alias_query(self, alias: RoomAlias) -> RoomId | None:
        """Foreign chats have no rooms yet; aliases of rooms made here are the Matrix side's."""
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
