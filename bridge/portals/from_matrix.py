"""What happens on the Matrix side, on its way to the chat side (`MatrixListener`).

Each event becomes at most one outbox row per portal, unique by its cause: an event that is seen
twice is delivered once. This file only sequences; conversion is `content`'s, members are
`membership`'s, words are `notices`'.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from bridge.clock import Clock
from bridge.content.events import from_event
from bridge.content.model import Encrypted, Message, NotRendered, Outcome
from bridge.errors import NotFound, Refused
from bridge.ids import RoomAlias, RoomId, TraceId, UserId, localpart_of
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.portals.chats import Chats
from bridge.portals.directory import Directory, direct_lane, room_lane
from bridge.portals.ephemeral import EphemeralPortal
from bridge.portals.ghosts import Ghosts
from bridge.portals.in_chat import find_inbox_part, is_of_chat
from bridge.portals.media import Files, shown
from bridge.portals.membership import Membership
from bridge.portals.moves import TOMBSTONE, Moves
from bridge.portals.notices import Notices
from bridge.portals.policy_rooms import PolicyRooms
from bridge.portals.receipts import put_receipt, put_refusal
from bridge.portals.to_chat import ToChat
from bridge.ports.chat import (
    AddressMap,
    BotNotice,
    ChatMessage,
    Delivery,
    DirectMessage,
    RoomMember,
    RoomMessage,
    RoomPower,
    RoomSubject,
)
from bridge.ports.codec import from_json, to_tagged
from bridge.ports.command import Caller
from bridge.ports.matrix import Acceptance, Ephemeral, MatrixBackend, Profile, RoomEvent
from bridge.storage import journal, messages, queues
from bridge.storage.database import Database, Transaction
from bridge.storage.moves import Move
from bridge.storage.portals import (
    DIRECT,
    ENCRYPTED,
    FORMER,
    MANAGEMENT,
    OF_CHAT,
    SERVED,
    Portal,
)
from bridge.telemetry.log import get_logger

log = get_logger(__name__)

OnCommand = Callable[[Caller, str], Awaitable[str]]
OnLeftBehind = Callable[[RoomEvent, Move], Awaitable[None]]
ENCRYPTED_LINE = "[an encrypted message that this gateway cannot read]"
UNREAD_TEXT = "This message was not delivered: it is encrypted, and the gateway cannot read it."
READABLE_TEXT = "Please use the chat without encryption that I have invited you to."
NO_READABLE_TEXT = "Please invite me to a direct chat without encryption."
UNREAD_COMMAND_TEXT = (
    "I cannot read what is encrypted. Please write to me in a chat without encryption."
)


class FromMatrix:
    """Fills `ports.matrix.MatrixListener`."""

    def __init__(
        self,
        *,
        files: Files | None,
        database: Database,
        backend: MatrixBackend,
        directory: Directory,
        ghosts: Ghosts,
        membership: Membership,
        notices: Notices,
        addresses: AddressMap,
        clock: Clock,
        on_command: OnCommand,
        chats: Chats,
        to_chat: ToChat,
        moves: Moves,
        house: House,
        policy_rooms: PolicyRooms,
        ephemeral: EphemeralPortal,
    ) -> None:
        self._policy_rooms = policy_rooms
        self._ephemeral = ephemeral
        self._moves = moves
        self._house = house
        self._on_left_behind: OnLeftBehind | None = None
        self._files = files
        self._database = database
        self._backend = backend
        self._directory = directory
        self._ghosts = ghosts
        self._membership = membership
        self._notices = notices
        self._addresses = addresses
        self._clock = clock
        self._on_command = on_command
        self._chats = chats
        self._to_chat = to_chat

    def attach(self, on_left_behind: OnLeftBehind) -> None:
        """What is done about events of rooms that everybody has left behind."""
        self._on_left_behind = on_left_behind

    async def on_event(self, event: RoomEvent) -> None:
        self._policy_rooms.on_event(event)
        if self._notices.is_notice(event.transaction_id):
            return
        is_member = event.type == "m.room.member" and event.state_key is not None
        if is_member and event.content.get("membership") == "invite":
            await self._membership.on_member(event)  # a room may wait for it
        if event.type == TOMBSTONE and event.state_key == "":
            await self._moves.on_tombstone(event)
        move = await self._moves.check_event(event)
        if move is not None:
            if self._on_left_behind is not None:
                await self._on_left_behind(event, move)
            return
        if is_member and event.content.get("membership") != "invite":
            await self._membership.on_member(event)
        await self.carry(event)

    async def carry_past(self, event: RoomEvent) -> None:
        """As `carry`, of an event that may have been told before: no command is carried out."""
        await self.carry(event, is_past=True)

    async def carry(self, event: RoomEvent, *, is_past: bool = False) -> None:
        """To where the portals of its room lead; idempotent."""
        portals = await self._directory.of_room(event.room_id)
        if event.state_key is None and not event.own:
            try:
                self._house.check_member(event.sender, event.room_id, Scope.ALL, door="from matrix")
            except Refused as exc:
                await self._refuse(event, portals, exc)
                return
        if not portals and not event.own and event.state_key is None:
            portals = await self._membership.find_again(event)
        in_chat = any(portal.kind in OF_CHAT for portal in portals)
        is_command = is_shown = False
        for portal in portals:
            if portal.kind == SERVED:
                is_shown = await self._to_served(event, portal) or is_shown
            elif portal.kind in (DIRECT, FORMER, ENCRYPTED):
                is_shown = await self._to_direct(event, portal) or is_shown
            elif portal.kind == MANAGEMENT:
                is_meant = await self._to_bot(event, portal, in_chat=in_chat, is_past=is_past)
                is_command = is_meant or is_command
        for portal in portals:
            # What is said to the bot is nobody else's.
            if portal.kind in OF_CHAT and not is_command:
                await self._to_chat.on_event(event, portal)
        self._ephemeral.on_event(event, shown=is_shown)

    async def _refuse(self, event: RoomEvent, portals: Sequence[Portal], error: Refused) -> None:
        """What a rule of the house keeps from the chat side; its author is told once for each rule,
        where they can be told by one of ours, and the admins once for each rule and room."""
        if not portals:
            return
        await self._note(event, f"denied: {error.reason}")
        await self._tell_admins(event, error)
        portal = portals[0]
        if portal.kind == SERVED:
            # In the room everybody would read it: they are told where they talk to the bot.
            await self._tell_in_private(
                event,
                await self._directory.chats_with_bot(event.sender),
                text=f"What you write in {event.room_id} does not reach XMPP: {error.reason}.",
                cause=f"denied/{error.rule}/{event.room_id}/{event.sender}",
            )
            return
        is_direct = portal.kind in (DIRECT, FORMER, ENCRYPTED)
        await self._notices.tell_room(
            room_id=event.room_id,
            sender=await self._ghosts.ensure(portal.chat) if is_direct else self._backend.bot,
            text=f"This message was not delivered: {error.reason}.",
            cause=f"denied/{error.rule}/{event.room_id}/{event.sender}",
            trace=event.trace_id,
        )

    async def _tell_admins(self, event: RoomEvent, error: Refused) -> None:
        chats = await self._directory.chats_with_bot()
        await self._tell_in_private(
            event,
            [one for one in chats if self._house.is_admin(one.user_id)],
            text=f"What {event.sender} writes in {event.room_id} does not reach XMPP: "
            f"{error.reason}. `why {error.rule}` shows whom else this rule has met.",
            cause=f"denied-admin/{error.rule}/{event.room_id}",
        )

    async def _tell_in_private(
        self, event: RoomEvent, chats: Sequence[Portal], *, text: str, cause: str
    ) -> None:
        """By the bot, each of them once, where nobody but the two reads it."""
        told: set[UserId] = set()
        for portal in chats:
            if portal.room_id is None or portal.room_id == event.room_id:
                continue
            if portal.user_id in told:
                continue
            try:
                members = await self._backend.members(portal.room_id)
            except NotFound:
                continue
            if {one.user_id for one in members} == {self._backend.bot, portal.user_id}:
                await self._notices.tell_room(
                    room_id=portal.room_id,
                    sender=self._backend.bot,
                    text=text,
                    cause=f"{cause}/{portal.user_id}",
                    trace=event.trace_id,
                )
                told.add(portal.user_id)

    # --- direct chats ------------------------------------------------------------------------

    async def _to_direct(self, event: RoomEvent, portal: Portal) -> bool:
        """To the one person of a direct chat; whether it is shown to them. A room that we cannot
        read: what is readable goes on, the rest is reported."""
        if event.type == "m.room.encryption" and event.state_key == "":
            await self._membership.refuse_encrypted(
                event, address=portal.chat, user_id=portal.user_id
            )
            return False
        if event.state_key is not None:
            return False
        outcome = self._read(event)
        if event.own:
            await self._from_neighbour(event, portal, outcome)
        elif isinstance(outcome, NotRendered):
            await self._note(event, outcome.reason)
        elif isinstance(outcome, Encrypted):
            await self._report_unread(event, portal)
        else:
            if portal.kind == FORMER and event.sender == portal.user_id:
                # The answer goes where the question was asked.
                await self._directory.bind_direct(
                    address=portal.chat, user_id=portal.user_id, room_id=event.room_id
                )
            await self._put(
                event,
                direct_lane(portal.adapter, portal.chat, portal.user_id),
                f"direct/{portal.chat}",
                DirectMessage(
                    to=portal.chat,
                    sender=event.sender,
                    event_id=event.event_id,
                    at_ms=event.origin_server_ts,
                    message=outcome,
                    room_id=event.room_id,
                ),
            )
            return True
        return False

    def _read(self, event: RoomEvent) -> Outcome:
        if event.redacted:
            return NotRendered(reason="no-content")
        return shown(
            from_event(event.type, event.content, extensible=event.extensible),
            self._files,
            event.sender,
        )

    async def _from_neighbour(self, event: RoomEvent, portal: Portal, outcome: Outcome) -> None:
        """Somebody else of the chat side is in a direct room, too. Their address is not ours to
        send from, so that the bot tells what they say there."""
        address = await self._ghosts.find_address(event.sender)
        if address is None or address == portal.chat or not isinstance(outcome, Message):
            return
        await self._put(
            event,
            direct_lane(portal.adapter, portal.chat, portal.user_id),
            f"direct/{portal.chat}",
            BotNotice(
                to=portal.chat,
                text=f"{address}, in your chat with {portal.user_id}: {outcome.text}",
            ),
        )

    async def _report_unread(self, event: RoomEvent, portal: Portal) -> None:
        await self._note(event, "encrypted")
        can_write = await self._membership.refuse_encrypted(
            event, address=portal.chat, user_id=portal.user_id
        )
        await self._notices.tell_room(
            room_id=event.room_id,
            sender=await self._ghosts.ensure(portal.chat),
            text=f"{UNREAD_TEXT} {READABLE_TEXT if can_write else NO_READABLE_TEXT}",
            cause=f"unread/{event.event_id}",
            trace=event.trace_id,
        )

    # --- rooms that we serve -----------------------------------------------------------------

    async def _to_served(self, event: RoomEvent, portal: Portal) -> bool:
        """Whether it is a message there."""
        delivery = await self._served_delivery(event)
        if delivery is not None:
            await self._put(event, room_lane(portal.adapter, event.room_id), "room", delivery)
        return isinstance(delivery, RoomMessage)

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
        if event.type == "m.room.power_levels" and event.state_key == "":
            return RoomPower(room_id=event.room_id, position=event.position)
        if event.state_key is not None:
            return None
        outcome = self._read(event)
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
        """The message that became this event, if somebody wrote it into this room on the chat side;
        of several events from one message the first has its ids."""
        found = find_inbox_part(self._database.epoch, event.transaction_id)
        if found is None or found[1] != 0:
            return None
        inbox_id = found[0]
        try:
            item = await self._database.read(lambda tx: queues.get(tx, queues.INBOX, inbox_id))
        except NotFound:
            return None
        if is_of_chat(item):
            return None  # it was written in a foreign chat
        return from_json(ChatMessage, item.payload)

    # --- the bot -----------------------------------------------------------------------------

    async def _to_bot(
        self, event: RoomEvent, portal: Portal, *, in_chat: bool, is_past: bool
    ) -> bool:
        """True: it was meant for the bot. `in_chat`: the room is a foreign chat's, too, and what is
        said there is for its people unless it begins with the bot's name."""
        if event.own or event.state_key is not None:
            return False
        outcome = self._read(event)
        text: str | None = None
        if isinstance(outcome, Encrypted):
            is_meant = event.sender == portal.user_id and not in_chat
            text = UNREAD_COMMAND_TEXT if is_meant else None
        elif isinstance(outcome, Message) and outcome.kind != "notice":
            line = await self._command_in(event, outcome.text, in_chat=in_chat)
            if line is not None and is_past:
                return True
            if line is not None:
                caller = Caller(user_id=event.sender, room_id=event.room_id)
                text = await self._on_command(caller, line)
        if text is None:
            return False
        await self._notices.tell_room(
            room_id=event.room_id,
            sender=self._backend.bot,
            text=text,
            cause=f"answer/{event.event_id}",
            trace=event.trace_id,
        )
        return True

    async def _command_in(self, event: RoomEvent, text: str, *, in_chat: bool) -> str | None:
        """What was said to the bot: everything between two, elsewhere what begins with its name."""
        name = localpart_of(self._backend.bot)
        for called in (self._backend.bot, f"!{name}", f"@{name}", name):
            if text[: len(called)].lower() == called.lower():
                rest = text[len(called) :]
                if not rest or rest[0] in " :,\n":
                    return rest.lstrip(" :,\n")
        if in_chat:
            return None
        members = await self._backend.members(event.room_id)
        return text if len(members) <= 2 else None

    # --- rows --------------------------------------------------------------------------------

    async def _put(self, event: RoomEvent, lane: str, to: str, delivery: Delivery) -> None:
        """One row per event and receiver, whatever portals of theirs it stands in."""
        adapter, now_ms = self._addresses.adapter, self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            outbox_id = queues.put_outbox(
                tx,
                lane=lane,
                adapter=adapter,
                cause=f"{event.event_id}/{to}",
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
        """A recipient's server has an event of ours: pending receipts are due. Or it will not have
        it: whoever wrote it is told."""
        event_id, error = acceptance.event_id, acceptance.error
        if error is not None:
            log.warning("event refused", event_id=event_id, peer=acceptance.server, error=error)
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            for message in messages.settle(tx, event_id):
                trace = TraceId(message.event_id)
                if error is not None:
                    put_refusal(tx, message, error=error, trace=trace, now_ms=now_ms)
                elif message.receipt_due:
                    put_receipt(
                        tx,
                        adapter=message.adapter,
                        session=message.session,
                        sent_to=message.sent_to,
                        stanza_id=message.stanza_id,
                        trace=trace,
                        now_ms=now_ms,
                    )

        await self._database.write(unit)

    async def on_ephemeral(self, change: Ephemeral) -> None:
        self._ephemeral.on_matrix(change)

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
        """A foreign chat's room; aliases of rooms made here are the Matrix side's."""
        return await self._chats.find_room(alias)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
