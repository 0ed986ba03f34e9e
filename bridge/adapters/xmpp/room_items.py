"""The rooms that we list for everybody, as items of our domain, page by page.

An item is named by its room's ID, which is what a client pages by; its address is the room's alias
where it has one. Foreign chats are not listed: they have addresses of their own.
Spec: XEP-0045, 6.3; XEP-0059.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import outbound
from bridge.adapters.xmpp.addresses import to_local
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import DISCO_ITEMS, RSM, add
from bridge.adapters.xmpp.xmltext import xml_text
from bridge.errors import BadInput, NotFound
from bridge.ids import RoomId, parse_room_id
from bridge.ports.chat import ChatListener
from bridge.ports.matrix import PublicRoom, PublicRooms

PAGE = 50
"""Items of one answer, which has to fit into one stanza."""
MAX_NAME = 200
MAX_LOCAL_BYTES = 1023


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """What part of the list a client wants."""

    limit: int = PAGE
    after: RoomId | None = None
    before: RoomId | None = None
    from_end: bool = False
    is_asked: bool = False


async def list_rooms(request: Stanza, listener: ChatListener) -> ET.Element:
    try:
        window = _read(request)
    except BadInput as exc:
        return outbound.error_for(request, "bad-request", exc.reason)
    try:
        page = await listener.public_rooms(
            limit=max(1, window.limit),
            after=window.after,
            before=window.before,
            from_end=window.from_end,
        )
    except NotFound as exc:
        return outbound.error_for(request, "item-not-found", exc.reason)
    answer = outbound.result_of(request)
    query = add(answer, DISCO_ITEMS, "query")
    rooms = page.rooms[: window.limit]
    for room in rooms:
        local = to_local(room.canonical_alias or room.room_id)
        if len(local.encode()) > MAX_LOCAL_BYTES:
            continue
        item = add(query, DISCO_ITEMS, "item")
        item.set("jid", str(Jid(local, request.to.domain)))
        name = " ".join((room.name or room.canonical_alias or "").split())[:MAX_NAME]
        if name:
            item.set("name", xml_text(name))
    if window.is_asked or page.next is not None:
        _add_window(query, page, rooms)
    return answer


def _add_window(query: ET.Element, page: PublicRooms, rooms: Sequence[PublicRoom]) -> None:
    window = add(query, RSM, "set")
    if rooms:
        first = add(window, RSM, "first", xml_text(rooms[0].room_id))
        if page.previous is None:
            first.set("index", "0")
        add(window, RSM, "last", xml_text(rooms[-1].room_id))
    if page.total is not None:
        add(window, RSM, "count", str(page.total))


def _read(request: Stanza) -> _Window:
    """Raises BadInput."""
    query = request.find(DISCO_ITEMS, "query")
    window = None if query is None else query.find(f"{{{RSM}}}set")
    if window is None:
        return _Window()
    most = window.findtext(f"{{{RSM}}}max")
    if most is not None and not (most.isascii() and most.isdigit() and len(most) < 10):
        raise BadInput("max is no number")
    after = window.findtext(f"{{{RSM}}}after")
    before = window.findtext(f"{{{RSM}}}before")
    if after and before:
        raise BadInput("after one room and before another is no page")
    return _Window(
        limit=PAGE if most is None else min(PAGE, int(most)),
        after=parse_room_id(after) if after else None,
        before=parse_room_id(before) if before else None,
        from_end=before == "",
        is_asked=True,
    )
