"""The XMPP side as a whole: wires the parts, and decides which part a stanza belongs to.

A stanza's way: `occupant` takes it at its arrival if it belongs to a foreign chat that we visit;
else `connection` (bounded queue) -> a lane per chat -> by its address: a room, a person, the bot;
or an answer that tells the real address (`<gone/>` for another spelling, `<redirect/>` for somebody
who is not behind the gateway at all). Errors are never answered.
"""

from __future__ import annotations

import asyncio
import random as random_module
import re
from collections.abc import Callable
from functools import partial
from typing import ClassVar
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import inbound, outbound
from bridge.adapters.xmpp.addresses import (
    AddressBook,
    Bot,
    Moved,
    Person,
    Room,
    parse_uri,
    to_uri,
)
from bridge.adapters.xmpp.commands import AdHoc
from bridge.adapters.xmpp.config import XmppSettings
from bridge.adapters.xmpp.connection import Connection, Status
from bridge.adapters.xmpp.conversions import number_in
from bridge.adapters.xmpp.direct import Direct
from bridge.adapters.xmpp.disco import Disco
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.lanes import StanzaLanes
from bridge.adapters.xmpp.namespaces import MUC
from bridge.adapters.xmpp.occupant.sessions import Occupants
from bridge.adapters.xmpp.roomservice.occupants import People
from bridge.adapters.xmpp.roomservice.rooms import RoomService
from bridge.adapters.xmpp.states import States
from bridge.adapters.xmpp.stream import Received
from bridge.clock import Clock
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.identity.localparts import alias_for
from bridge.identity.resolver import Resolver
from bridge.ids import RoomAlias, RoomId, ServerName, TraceId, UserId
from bridge.ports.chat import (
    BotNotice,
    ChatInfo,
    ChatListener,
    Delivery,
    DirectMessage,
    Failure,
    Receipt,
    Reflection,
    RoomInvite,
    RoomMember,
    RoomMessage,
    RoomMoved,
    RoomNotice,
    RoomPower,
    RoomSubject,
)
from bridge.ports.command import Caller, CommandTable
from bridge.ports.ephemeral import Passing, ShowPresence, ShowRead, ShowTyping
from bridge.storage.database import Database
from bridge.telemetry.log import get_logger

log = get_logger("xmpp")

NAME = "xmpp"
_DRAIN_S = 5.0
_NO_LINE = ("error", "groupchat")
_CHATS_KEPT = 10_000
_NUMBER = re.compile(r"\+?[0-9]+")


class XmppAddresses:
    """Fills `ports.chat.AddressMap`: known before anything is connected."""

    def __init__(
        self, *, domain: str, server_name: ServerName, bot: str = "isthmus", prefix: str = ""
    ) -> None:
        self.book = AddressBook(component=domain, server=server_name, bot=bot, prefix=prefix)
        self.chats: dict[str, None] = {}

    @property
    def adapter(self) -> str:
        return NAME

    def address_of(self, user_id: UserId) -> str | None:
        jid = self.book.unwrap(user_id)
        return None if jid is None else str(jid)

    def user_of(self, address: str) -> UserId:
        return self.book.user_of_address(address)

    def chat_of(self, alias: RoomAlias) -> str | None:
        jid = self.book.unwrap(alias)
        return None if jid is None or jid.domain == self.book.component else str(jid.bare)

    def alias_of(self, chat: str) -> RoomAlias:
        jid = Jid.parse(chat).prepared()
        if jid.resource or jid.domain == self.book.component:
            raise BadInput(f"not the address of a foreign chat: {chat[:80]!r}")
        return alias_for(str(jid), self.book.server, prefix=self.book.prefix)

    def link_of(self, address: str) -> str:
        """`?join` for what has shown itself as a chat; an address alone does not tell."""
        jid = Jid.parse(address).bare
        is_ours = jid.domain == self.book.component and jid.local[:1] in ("#", "!")
        is_chat = is_ours or str(jid) in self.chats
        return to_uri(jid, "join" if is_chat else "")

    def note_chat(self, chat: str) -> None:
        """This address is a chat's: it has said so."""
        self.chats.pop(chat, None)
        self.chats[chat] = None
        while len(self.chats) > _CHATS_KEPT:
            del self.chats[next(iter(self.chats))]

    def room_of(self, text: str) -> RoomAlias | RoomId | None:
        """The room behind a JID of ours or an `xmpp:` link to it, as somebody types it."""
        try:
            jid = parse_uri(text).jid if text.startswith("xmpp:") else Jid.parse(text)
            where = self.book.destination_of(jid)
            if isinstance(where, Moved):
                where = self.book.destination_of(where.to)
        except (BadInput, NotFound):
            return None
        return where.room if isinstance(where, Room) else None

    def default_name(self, address: str) -> str:
        """Nobody vouches for a localpart that looks like a number: it is no name."""
        jid = Jid.parse(address)
        if jid.resource[:1] == "n" and jid.resource[1:]:
            return jid.resource[1:]
        if _NUMBER.fullmatch(jid.local):
            return str(jid.bare)
        return jid.local or jid.domain


class XmppAdapter:
    """Fills `ports.chat.ChatAdapter`."""

    NAME: ClassVar[str] = NAME

    def __init__(
        self,
        *,
        settings: XmppSettings,
        addresses: XmppAddresses,
        database: Database,
        listener: ChatListener,
        commands: CommandTable | None,
        clock: Clock,
        random: random_module.Random,
        on_status: Callable[[Status], None] = lambda _: None,
        resolver: Resolver | None = None,
    ) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._database = database
        self._listener = listener
        self._clock = clock
        self._random = random
        self._book = addresses.book
        self._commands = commands
        self._resolver = resolver
        self._connection = Connection(
            settings=settings,
            clock=clock,
            random=random,
            on_connected=self._on_connected,
            on_status=on_status,
            drops=self._drops,
            take=self._take,
        )
        self._lanes = StanzaLanes(
            self._on_stanza,
            per_lane=settings.limits.lane_stanzas,
            total=settings.limits.waiting_stanzas,
            beside=settings.limits.beside,
            lane_bytes=settings.limits.lane_bytes,
            total_bytes=settings.limits.waiting_bytes,
        )
        people = People(self._book)
        self._states = States(
            wire=self._connection,
            database=database,
            listener=listener,
            jid_of=self._book.jid_of,
            clock=clock,
            probes_per_s=settings.limits.session_pings_per_s,
        )
        self._rooms = RoomService(
            wire=self._connection,
            database=database,
            listener=listener,
            people=people,
            domain=settings.domain,
            bot=self._book.bot_jid,
            clock=clock,
            random=random,
            limits=settings.limits,
            spawn=self._lanes.spawn,
            on_gone=self._states.on_gone,
            on_there=self._states.on_there,
        )
        self._direct = Direct(
            adapter=NAME,
            wire=self._connection,
            database=database,
            listener=listener,
            jid_of=self._book.jid_of,
            bot=self._book.bot_jid,
            clock=clock,
            new_trace=self._new_trace,
            states=self._states,
        )
        self._disco = Disco(
            listener=listener,
            rooms=self._rooms,
            people=people,
            commands=None
            if commands is None
            else AdHoc(table=commands, clock=clock, new_id=self._new_trace),
            resolver=resolver,
            timeout_s=settings.limits.lookup_timeout_s,
            lookups=settings.limits.joins,
        )
        self._occupants = Occupants(
            adapter=NAME,
            wire=self._connection,
            database=database,
            listener=listener,
            book=self._book,
            clock=clock,
            random=random,
            limits=settings.limits,
            new_trace=self._new_trace,
        )
        self._addresses = addresses
        self._is_loaded = False

    @property
    def name(self) -> str:
        return NAME

    @property
    def status(self) -> Status:
        """Whether the XMPP server has us, in words for the operator."""
        return self._connection.status

    async def wait_connected(self) -> None:
        await self._connection.connected.wait()

    async def run(self) -> None:
        await self._rooms.load()
        for chat in await self._occupants.load():
            self._addresses.note_chat(chat)
        self._is_loaded = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lanes.run())
            group.create_task(self._connection.run())
            group.create_task(self._sort())
            group.create_task(self._rooms.checking.run())
            group.create_task(self._occupants.run())
            group.create_task(self._states.run())

    def _on_connected(self) -> None:
        self._rooms.checking.on_connected()
        self._occupants.on_connected()
        self._states.on_connected()

    async def stop(self) -> None:
        """Accepts nothing more; returns when what was accepted is stored. `run` goes on.

        Deliveries are `Unavailable` from now on: finish those in hand first.
        """
        await self._connection.stop()
        try:
            async with asyncio.timeout(_DRAIN_S):
                while self._connection.has_unread or not self._lanes.is_empty:
                    await self._lanes.wait_empty()
                    await asyncio.sleep(0)  # what is unread goes into lanes now
                await self._occupants.wait_idle()
        except TimeoutError:
            log.warning("stanzas dropped at the end")

    # --- deliveries -----------------------------------------------------------------------------

    async def deliver(self, delivery: Delivery, *, outbox_id: int, trace: TraceId) -> str | None:
        if not self._is_loaded:
            raise Unavailable("the XMPP side is not running yet")
        own_id = outbound.outgoing_id(self._database.epoch, outbox_id)
        key = str(outbox_id)
        try:
            match delivery:
                case (
                    RoomMessage()
                    | Reflection()
                    | RoomMember()
                    | RoomSubject()
                    | RoomPower()
                    | RoomMoved()
                    | RoomNotice()
                ):
                    await self._rooms.deliver(delivery, key=key, own_id=own_id)
                case RoomInvite():
                    await self._rooms.invite(delivery, key=key, own_id=own_id)
                case DirectMessage() | Receipt() | Failure() | BotNotice():
                    await self._direct.deliver(delivery, key=key, own_id=own_id)
                case _:
                    return await self._occupants.deliver(delivery, key=key, own_id=own_id)
        except BadInput as exc:
            raise Refused(exc.reason, rule="address") from exc
        return None

    def has_audience(self, *, room_id: RoomId | None = None, chat: str | None = None) -> bool:
        if room_id is not None:
            return self._rooms.has_audience(room_id)
        return chat is not None and self._occupants.has_audience(chat)

    async def show(self, passing: Passing) -> None:
        if not self._is_loaded:
            return
        try:
            match passing:
                case ShowPresence():
                    await self._states.show_presence(passing)
                case ShowTyping(to=str(to)):
                    await self._states.show_typing(passing, Jid.parse(to))
                case ShowRead(to=str(to)):
                    await self._states.show_read(passing, Jid.parse(to))
                case ShowTyping(chat=str()) | ShowRead(chat=str()):
                    await self._occupants.show(passing)
                case _:
                    await self._rooms.show(passing)
        except IsthmusError as exc:
            log.debug("not shown", kind=type(passing).__name__, reason=exc.reason)

    # --- foreign chats --------------------------------------------------------------------------

    async def describe(self, chat: str) -> ChatInfo:
        info = await self._occupants.describe(chat)
        self._addresses.note_chat(info.chat)
        return info

    async def affiliation(self, chat: str, user_id: UserId) -> str | None:
        return await self._occupants.affiliation(chat, user_id)

    async def await_confirmation(self, chat: str, code: str, *, timeout_s: float) -> str | None:
        return await self._occupants.await_confirmation(chat, code, timeout_s=timeout_s)

    # --- stanzas --------------------------------------------------------------------------------

    def _drops(self, kind: str, sender: str, to: str, type: str) -> bool:
        return self._occupants.drops(kind, sender, to, type)

    def _take(self, xml: ET.Element) -> bool:
        return self._occupants.take(xml)

    async def _sort(self) -> None:
        """Takes stanzas from the connection into their lanes."""
        while True:
            received = await self._connection.receive()
            if self._rooms.checking.take(received.element):
                continue
            if not await self._lanes.put(_lane(received), received):
                try:
                    await self._refuse_received(received, "resource-constraint")
                except IsthmusError as exc:
                    log.info("stanza dropped", reason=exc.reason)

    async def _on_stanza(self, received: Received) -> None:
        if received.flaw is not None:
            what = "big" if received.flaw == "too-big" else "deeply nested"
            text = f"The stanza is too {what} for the gateway."
            await self._refuse_received(received, "policy-violation", text)
            return
        stanza = inbound.read_stanza(received.element)
        if stanza.sender.domain == self._settings.domain:
            return  # from ourselves: an answer would come back, too
        try:
            await self._route(stanza)
        except (BadInput, NotFound) as exc:
            await self._refuse(stanza, "item-not-found", exc.reason)
        except Refused as exc:
            await self._refuse(stanza, outbound.condition_for(exc.errcode), exc.reason)
        except Unavailable as exc:
            await self._refuse(stanza, "resource-constraint", exc.reason)
        except TimeoutError:
            await self._refuse(stanza, "remote-server-timeout", "It takes too long.")

    async def _route(self, stanza: Stanza) -> None:
        if stanza.kind == "iq" and stanza.type not in ("get", "set"):
            return  # the answer to a question that we do not ask any more
        number = number_in(stanza.to.local)
        if number is not None and self._resolver is not None:
            found = await self._resolver.resolve_number(number)
            await self._redirect(stanza, found.address)
            return
        where = self._book.destination_of(stanza.to)
        if isinstance(where, Moved):
            is_ours = where.to.domain == self._settings.domain
            await self._refuse(
                stanza,
                "gone" if is_ours else "redirect",
                f"The address is {where.to}",
                uri=to_uri(where.to),
            )
        elif stanza.kind == "iq":
            await self._connection.send([await self._disco.answer(stanza, where)])
        elif stanza.kind == "presence":
            await self._on_presence(stanza, where)
        else:
            await self._on_message(stanza, where)

    async def _on_presence(self, stanza: Stanza, where: Bot | Person | Room) -> None:
        match where:
            case Room():
                await self._rooms.on_presence(stanza, where)
                is_there = self._rooms.room_of(stanza.sender, stanza.to.bare) is not None
                if is_there or stanza.type == "unavailable" or stanza.has(MUC, "x"):
                    self._states.on_presence(stanza)
            case Person(user_id=user_id):
                await self._direct.on_presence(stanza, user_id)
            case Bot():
                if stanza.type == "subscribe":
                    await self._greet(stanza)
                await self._direct.on_presence(stanza, self._book.bot_id)

    async def _greet(self, stanza: Stanza) -> None:
        """Whoever opens a chat with the bot hears once what they may do."""
        if self._commands is None:
            return
        if await self._direct.meets(stanza.sender.bare, self._book.bot_id):
            caller = Caller(user_id=self._book.user_of(stanza.sender).user_id)
            await self._direct.say_as_bot(stanza, await self._commands.greet(caller))

    async def _redirect(self, stanza: Stanza, address: str | None) -> None:
        """Somebody wrote to a phone number: never passed on in silence, the address is told."""
        if address is None:
            raise NotFound("this number has no address on XMPP")
        uri = to_uri(Jid.parse(address))
        await self._refuse(stanza, "redirect", f"The address is {address}", uri=uri)

    async def _on_message(self, stanza: Stanza, where: Bot | Person | Room) -> None:
        match where:
            case Bot():
                if inbound.to_message(stanza) is not None and stanza.type not in _NO_LINE:
                    await self._greet(stanza)
                await self._direct.on_command(stanza)
            case Person(user_id=user_id):
                await self._direct.on_message(stanza, user_id)
            case Room():
                reason = inbound.declined_reason(stanza)
                if reason is not None and stanza.type != "error":
                    if not self._lanes.spawn(partial(self._decline, stanza, where, reason)):
                        await self._refuse(stanza, "resource-constraint")
                else:
                    await self._rooms.on_message(stanza, self._accept)

    async def _accept(self, stanza: Stanza, room_id: RoomId) -> None:
        """What an occupant says to the room: a message, or a new subject."""
        self._states.on_message(stanza, to_room=room_id)
        subject = inbound.to_subject(stanza)
        if subject is None:
            await self._direct.accept(stanza, to_room=room_id)
            return
        async with asyncio.timeout(self._limits.lookup_timeout_s):
            await self._listener.set_topic(
                address=str(stanza.sender.bare),
                room_id=room_id,
                topic=subject,
                txn=str(self._new_trace()),
            )

    async def _decline(self, stanza: Stanza, where: Room, reason: str) -> None:
        async with asyncio.timeout(self._limits.join_deadline_s):
            room_id = await self._listener.find_room(where.room)
            await self._listener.leave(
                address=str(stanza.sender.bare), room_id=room_id, reason=reason or None
            )

    async def _refuse_received(self, received: Received, condition: str, text: str = "") -> None:
        stanza = inbound.read_stanza(received.element)
        await self._refuse(stanza, condition, text)

    async def _refuse(
        self, stanza: Stanza, condition: str, text: str = "", *, uri: str = ""
    ) -> None:
        if _may_be_answered(stanza):
            await self._connection.send(
                [outbound.error_for(stanza, condition, text, uri=uri, by=stanza.to.bare)]
            )

    def _new_trace(self) -> TraceId:
        return TraceId(f"{self._random.getrandbits(96):024x}")


def _lane(received: Received) -> str:
    """Stanzas of one room, or between two people, stay in order; questions are on their own."""
    xml = received.element
    to, sender = xml.get("to", ""), xml.get("from", "")
    to_bare, sender_bare = to.partition("/")[0], sender.partition("/")[0]
    if xml.tag.endswith("}iq"):
        return f"iq {sender} {to_bare}"
    if to_bare[:1] in ("#", "!"):
        return f"room {to_bare}"
    return f"person {sender_bare} {to_bare}"


def _may_be_answered(stanza: Stanza) -> bool:
    match stanza.kind:
        case "iq":
            return stanza.type in ("get", "set")
        case "message":
            return stanza.type != "error"
        case _:
            return stanza.type in ("", "subscribe") and (
                stanza.type == "subscribe" or stanza.has(MUC, "x")
            )
