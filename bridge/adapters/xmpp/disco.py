"""Questions about us: what an address is and can do, pings, versions, name cards.

A feature is announced only if something here answers it. The domain is a gateway and a service of
rooms; a room has room features only; a person is a registered account without `muc`. An unknown
question gets `service-unavailable`; an answer is never answered.
Spec: XEP-0030; XEP-0045, 6; XEP-0059; XEP-0054; XEP-0092; XEP-0128; XEP-0199; XEP-0410.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from bridge import __version__
from bridge.adapters.xmpp import outbound
from bridge.adapters.xmpp.addresses import Bot, Person, Room, to_local, to_uri
from bridge.adapters.xmpp.commands import AdHoc
from bridge.adapters.xmpp.inbound import Stanza, payload_of
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import (
    CHAT_MARKERS,
    CHAT_STATES,
    COMMANDS,
    DATA_FORMS,
    DISCO_INFO,
    DISCO_ITEMS,
    GATEWAY,
    MUC,
    MUC_ROOMINFO,
    MUC_STABLE_ID,
    OCCUPANT_ID,
    PING,
    RECEIPTS,
    RSM,
    SELF_PING,
    STANZA_ID,
    VCARD,
    VERSION,
    add,
)
from bridge.adapters.xmpp.prompt import answer_prompt
from bridge.adapters.xmpp.room_items import list_rooms
from bridge.adapters.xmpp.roomservice.occupants import People
from bridge.adapters.xmpp.roomservice.rooms import RoomService
from bridge.adapters.xmpp.xmltext import xml_text
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.identity.resolver import Resolver
from bridge.ids import RoomId, UserId, localpart_of
from bridge.ports.chat import ChatListener, Replaced
from bridge.ports.command import Caller
from bridge.ports.matrix import RoomInfo

_Identity = tuple[str, str, str]


class Disco:
    """`answer` gives the stanza that answers an iq of type get or set."""

    def __init__(
        self,
        *,
        listener: ChatListener,
        rooms: RoomService,
        people: People,
        commands: AdHoc | None,
        resolver: Resolver | None,
        timeout_s: float,
        lookups: int,
    ) -> None:
        self._listener = listener
        self._rooms = rooms
        self._people = people
        self._commands = commands
        self._resolver = resolver
        self._timeout_s = timeout_s
        self._lookups = lookups
        """How many rooms may be asked for at the same time: each may be a question to a server."""
        self._looking = 0

    async def answer(self, request: Stanza, where: Bot | Person | Room) -> ET.Element:
        if self._commands is not None and isinstance(where, Bot) and _is_command(request):
            # It has a longer time limit of its own.
            return await self._commands.execute(request, self._caller(request))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._answer(request, where)
        except TimeoutError:
            return outbound.error_for(request, "remote-server-timeout")

    async def _answer(self, request: Stanza, where: Bot | Person | Room) -> ET.Element:
        try:
            payload = payload_of(request)
        except BadInput as exc:
            return outbound.error_for(request, "bad-request", exc.reason)
        if isinstance(where, Room) and request.to.resource:
            return self._to_occupant(request, payload)
        if request.type == "set":
            if payload == (COMMANDS, "command") and isinstance(where, Room):
                return await self._run_command(request, where)
            if payload == (GATEWAY, "query"):
                return await self._answer_prompt(request, where)
            return outbound.error_for(request, "service-unavailable")
        match payload:
            case (namespace, "ping") if namespace == PING:
                return outbound.result_of(request)
            case (namespace, "query") if namespace == DISCO_INFO:
                return await self._info(request, where)
            case (namespace, "query") if namespace == DISCO_ITEMS:
                return await self._items(request, where)
            case (namespace, "query") if namespace == GATEWAY:
                return await self._answer_prompt(request, where)
            case (namespace, "query") if namespace == VERSION and isinstance(where, Bot):
                return _version(request)
            case (namespace, "vCard") if namespace == VCARD and not isinstance(where, Room):
                return await self._card(request, where)
        return outbound.error_for(request, "service-unavailable")

    def _to_occupant(self, request: Stanza, payload: tuple[str, str]) -> ET.Element:
        """The self-ping of a client that wants to know whether it is still in."""
        if self._rooms.room_of(request.sender, request.to.bare) is None:
            return outbound.error_for(
                request, "not-acceptable", "You are not in this room.", by=request.to.bare
            )
        is_self = self._rooms.is_occupant(request.sender, request.to)
        if payload == (PING, "ping") and request.type == "get":
            if is_self:
                return outbound.result_of(request)
            return outbound.error_for(request, "item-not-found", by=request.to.bare)
        return outbound.error_for(request, "service-unavailable")

    # --- XEP-0030 -------------------------------------------------------------------------------

    async def _info(self, request: Stanza, where: Bot | Person | Room) -> ET.Element:
        query_in = request.find(DISCO_INFO, "query")
        node = "" if query_in is None else query_in.get("node", "")
        if node:
            if self._commands is None or isinstance(where, Person):
                return outbound.error_for(request, "item-not-found")
            return self._commands.describe(
                request, node, self._caller(request), in_room=isinstance(where, Room)
            )
        match where:
            case Bot():
                return self._own_info(request)
            case Person():
                return _info(
                    request,
                    [("account", "registered", "")],
                    [CHAT_MARKERS, CHAT_STATES, DISCO_INFO, PING, RECEIPTS, VCARD],
                )
            case Room():
                return await self._room_info(request, where)

    def _own_info(self, request: Stanza) -> ET.Element:
        features = [DISCO_INFO, DISCO_ITEMS, PING, VERSION, VCARD]
        if self._commands is not None:
            features.append(COMMANDS)
        if request.to.local:
            return _info(request, [("client", "bot", "Isthmus")], features)
        features += [MUC, RSM]
        if self._resolver is not None:
            features.append(GATEWAY)
        return _info(
            request,
            [("conference", "text", "Matrix rooms"), ("gateway", "matrix", "Isthmus")],
            features,
        )

    async def _room_info(self, request: Stanza, where: Room) -> ET.Element:
        if self._looking >= self._lookups:
            return outbound.error_for(request, "resource-constraint", "Too many questions.")
        self._looking += 1
        try:
            info = await self._listener.describe_room(where.room, address=str(request.sender.bare))
        except Replaced as exc:
            successor = Jid(to_local(exc.successor), request.to.domain)
            uri = to_uri(successor, "join")
            return outbound.error_for(request, "gone", exc.reason, uri=uri)
        except (NotFound, Refused) as exc:
            return outbound.error_for(request, "item-not-found", exc.reason)
        except Unavailable as exc:
            return outbound.error_for(request, "remote-server-timeout", exc.reason)
        finally:
            self._looking -= 1
        features = [DISCO_INFO, DISCO_ITEMS, MUC, *_room_features(info)]
        if self._commands is not None:
            features.append(COMMANDS)
        name = (info.name if info is not None else None) or str(where.room)
        answer = _info(request, [("conference", "text", name)], features)
        if info is not None:
            _add_room_form(answer, info)
        return answer

    async def _items(self, request: Stanza, where: Bot | Person | Room) -> ET.Element:
        query_in = request.find(DISCO_ITEMS, "query")
        node = "" if query_in is None else query_in.get("node", "")
        if node == COMMANDS and self._commands is not None and not isinstance(where, Person):
            return self._commands.listing(
                request, self._caller(request), in_room=isinstance(where, Room)
            )
        if node:
            return outbound.error_for(request, "item-not-found")
        if isinstance(where, Bot) and not request.to.local:
            return await list_rooms(request, self._listener)
        answer = outbound.result_of(request)
        add(answer, DISCO_ITEMS, "query")
        return answer

    # --- the rest -------------------------------------------------------------------------------

    async def _run_command(self, request: Stanza, where: Room) -> ET.Element:
        if self._commands is None:
            return outbound.error_for(request, "service-unavailable")
        room_id = self._rooms.room_of(request.sender, request.to.bare)
        if room_id is None:
            try:
                room_id = await self._listener.find_room(where.room)
            except (NotFound, Refused) as exc:
                return outbound.error_for(request, "item-not-found", exc.reason)
            except Unavailable as exc:
                return outbound.error_for(request, "remote-server-timeout", exc.reason)
        return await self._commands.execute(request, self._caller(request, room_id))

    def _caller(self, request: Stanza, room_id: RoomId | None = None) -> Caller:
        return Caller(user_id=self._people.user_of(request.sender), room_id=room_id)

    async def _answer_prompt(self, request: Stanza, where: Bot | Person | Room) -> ET.Element:
        if self._resolver is None or not isinstance(where, Bot) or request.to.local:
            return outbound.error_for(request, "service-unavailable")
        return await answer_prompt(request, self._resolver)

    async def _card(self, request: Stanza, where: Bot | Person) -> ET.Element:
        answer = outbound.result_of(request)
        card = add(answer, VCARD, "vCard")
        if isinstance(where, Bot):
            name, nickname = "Isthmus", "isthmus"
        else:
            name, nickname = await self._names(where.user_id)
        add(card, VCARD, "FN", xml_text(name))
        add(card, VCARD, "NICKNAME", xml_text(nickname))
        return answer

    async def _names(self, user_id: UserId) -> tuple[str, str]:
        localpart = localpart_of(user_id)
        return await self._listener.find_member_name(user_id) or localpart, localpart


def _is_command(request: Stanza) -> bool:
    return request.type == "set" and len(request.xml) == 1 and request.has(COMMANDS, "command")


def _info(request: Stanza, identities: Sequence[_Identity], features: Sequence[str]) -> ET.Element:
    answer = outbound.result_of(request)
    query = add(answer, DISCO_INFO, "query")
    query_in = request.find(DISCO_INFO, "query")
    if query_in is not None and query_in.get("node"):
        query.set("node", query_in.get("node", ""))
    for category, type, name in identities:
        identity = add(query, DISCO_INFO, "identity")
        identity.set("category", category)
        identity.set("type", type)
        if name:
            identity.set("name", xml_text(name))
    for feature in features:
        add(query, DISCO_INFO, "feature").set("var", feature)
    return answer


def _room_features(info: RoomInfo | None) -> list[str]:
    features = [
        MUC_STABLE_ID,
        OCCUPANT_ID,
        PING,
        SELF_PING,
        STANZA_ID,
        "muc_nonanonymous",
        "muc_persistent",
        "muc_unsecured",
    ]
    if info is not None:
        is_open = info.join_rule == "public"
        features.append("muc_open" if is_open else "muc_membersonly")
    return features


def _add_room_form(answer: ET.Element, info: RoomInfo) -> None:
    """Spec: XEP-0045, 15.5.1; XEP-0128."""
    query = answer[0]
    form = add(query, DATA_FORMS, "x")
    form.set("type", "result")
    fields = [
        ("FORM_TYPE", "hidden", f"{MUC_ROOMINFO}"),
        ("muc#roominfo_description", "text-single", info.name or ""),
        ("muc#roominfo_subject", "text-single", info.topic or ""),
    ]
    for name, type, value in fields:
        field = add(form, DATA_FORMS, "field")
        field.set("var", name)
        field.set("type", type)
        add(field, DATA_FORMS, "value", xml_text(value))


def _version(request: Stanza) -> ET.Element:
    answer = outbound.result_of(request)
    query = add(answer, VERSION, "query")
    add(query, VERSION, "name", "Isthmus")
    add(query, VERSION, "version", __version__)
    return answer
