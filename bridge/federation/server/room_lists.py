"""Lists of rooms, and spaces, for other servers. Spec: S2S, public room directory, spaces."""

from __future__ import annotations

from bridge.errors import BadInput
from bridge.ids import ServerName, parse_room_id
from bridge.rooms.public_rooms import MAX_NETWORK, MAX_ROOM_TYPES, MAX_TERM, ListQuery, PublicRooms
from bridge.rooms.spaces import Spaces
from bridge.web.routing import Request, Response

MAX_LIMIT = 2**53


class RoomLists:
    def __init__(self, *, public_rooms: PublicRooms, spaces: Spaces) -> None:
        self._public_rooms = public_rooms
        self._spaces = spaces

    async def hierarchy(self, request: Request, origin: ServerName) -> Response:
        return Response(
            json=await self._spaces.answer(
                origin,
                parse_room_id(request.params["room_id"]),
                suggested_only=_flag(request, "suggested_only"),
            )
        )

    async def public_rooms(self, request: Request, origin: ServerName) -> Response:
        limit = request.query_one("limit")
        return await self._page(
            origin,
            ListQuery(
                limit=0 if limit is None else _number(limit),
                since=request.query_one("since"),
                all_networks=_flag(request, "include_all_networks"),
                network=_network(request.query_one("third_party_instance_id")),
            ),
        )

    async def search(self, request: Request, origin: ServerName) -> Response:
        body = request.json_object()
        wanted = body.get("filter")
        if wanted is not None and not isinstance(wanted, dict):
            raise _wrong("filter is no object")
        wanted = wanted or {}
        limit, since = body.get("limit", 0), body.get("since")
        every = body.get("include_all_networks", False)
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= MAX_LIMIT:
            raise _wrong("limit is no count")
        if since is not None and not isinstance(since, str):
            raise _wrong("since is no text")
        if not isinstance(every, bool):
            raise _wrong("include_all_networks is neither true nor false")
        return await self._page(
            origin,
            ListQuery(
                limit=limit,
                since=since,
                term=_term(wanted.get("generic_search_term")),
                room_types=_room_types(wanted.get("room_types")),
                all_networks=every,
                network=_network(body.get("third_party_instance_id")),
            ),
        )

    async def _page(self, origin: ServerName, query: ListQuery) -> Response:
        if query.all_networks and query.network is not None:
            raise _wrong("one network and all networks are asked for")
        page = await self._public_rooms.page(query, origin=origin)
        return Response(json=page.to_json())


def _wrong(reason: str) -> BadInput:
    return BadInput(reason, errcode="M_INVALID_PARAM")


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise _wrong("limit is no count")
    return min(int(text[:20]), MAX_LIMIT)


def _flag(request: Request, name: str) -> bool:
    value = request.query_one(name)
    if value not in (None, "true", "false"):
        raise _wrong(f"{name} is neither true nor false")
    return value == "true"


def _network(value: object) -> str | None:
    """Some servers write the name of a bridge in front of the network's, with a bar between."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_NETWORK or "\0" in value:
        raise _wrong("third_party_instance_id names no network")
    return value.rpartition("|")[2]


def _term(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_TERM:
        raise _wrong(f"generic_search_term is no text of at most {MAX_TERM} characters")
    return value.replace("\0", " ")


def _room_types(value: object) -> list[str | None] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > MAX_ROOM_TYPES:
        raise _wrong("room_types is no list of them")
    if not all(one is None or (isinstance(one, str) and "\0" not in one) for one in value):
        raise _wrong("a room type is a text or null")
    return value
