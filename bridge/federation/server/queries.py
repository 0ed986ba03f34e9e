"""Queries: profiles and aliases of our own server. Spec: S2S, querying for information."""

from __future__ import annotations

from bridge.engine.canonical import JsonObject
from bridge.errors import BadInput, NotFound
from bridge.ids import ServerName, parse_room_alias, parse_user_id, server_of
from bridge.rooms.directory import Directory
from bridge.web.routing import Request, Response

PROFILE_FIELDS = ("displayname", "avatar_url")


class Queries:
    def __init__(self, *, own_name: ServerName, directory: Directory) -> None:
        self._own_name = own_name
        self._directory = directory

    async def profile(self, request: Request, _: ServerName) -> Response:
        user_id = parse_user_id(_parameter(request, "user_id"))
        if server_of(user_id) != self._own_name:
            raise NotFound("not a user of this server")
        field = request.query_one("field")
        if field is not None and field not in PROFILE_FIELDS:
            raise NotFound(f"no profile has a field {field!r} here")
        profile = await self._directory.local_profile(user_id)
        known: JsonObject = {
            "displayname": profile.displayname,
            "avatar_url": profile.avatar_url,
        }
        return Response(
            json={
                name: value
                for name, value in known.items()
                if value is not None and field in (None, name)
            }
        )

    async def directory(self, request: Request, _: ServerName) -> Response:
        alias = parse_room_alias(_parameter(request, "room_alias"))
        if server_of(alias) != self._own_name:
            raise NotFound("not an alias of this server")
        room_id, servers = await self._directory.local_alias(alias)
        return Response(json={"room_id": room_id, "servers": list(servers)})


def _parameter(request: Request, name: str) -> str:
    value = request.query_one(name)
    if value is None:
        raise BadInput(f"{name} is missing", errcode="M_MISSING_PARAM")
    return value
