"""Aliases and profiles: ours from storage and the bridge side, others' from their server.

Spec: S2S, querying for information; client-server API, room aliases, profiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.errors import BadInput, NotFound, Refused
from bridge.ids import RoomAlias, RoomId, ServerName, UserId, parse_room_alias, server_of
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.rooms.network import Lookups, Peers, UserProfile
from bridge.storage import aliases, profiles
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database

MAX_SERVERS = 20
"""Candidates for a join that one answer names."""
MAX_ALIASES = 20
"""Of other servers or ours that one event may name anew."""

Json = Mapping[str, Any]


class Directory:
    """Names of rooms and people."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        database: Database,
        lookups: Lookups,
        peers: Peers,
        house: House | None = None,
    ) -> None:
        self._house = house or House(own_name=server_name)
        self._server_name = server_name
        self._database = database
        self._lookups = lookups
        self._peers = peers

    async def resolve_alias(self, alias: RoomAlias) -> tuple[RoomId, Sequence[ServerName]]:
        """Ours or another server's. `NotFound`, `Refused`, `Unavailable`."""
        self._house.check_alias(alias, Scope.JOINS, door="alias")
        server = server_of(alias)
        if server == self._server_name:
            return await self.local_alias(alias)
        room_id, servers = await self._peers.query_directory(server, alias)
        return room_id, list(dict.fromkeys([server, *servers]))[:MAX_SERVERS]

    async def local_alias(self, alias: RoomAlias) -> tuple[RoomId, Sequence[ServerName]]:
        """For `/query/directory`: only aliases of our own server. `NotFound`."""
        if server_of(alias) != self._server_name:
            raise NotFound(f"{alias} is no alias of ours")
        room_id = await self._database.read(lambda tx: aliases.find(tx, alias))
        if room_id is None:
            room_id = await self._lookups.alias(alias)
        if room_id is None:
            raise NotFound(f"{alias} names no room")
        found = room_id
        servers = await self._database.read(lambda tx: room_rows.servers(tx, found))
        # We ourselves first, but of a room that we have left only those who are still in it.
        resident = sorted(servers, key=lambda one: (one != self._server_name, one))[:MAX_SERVERS]
        if not resident:
            raise NotFound(f"{alias} names a room that nobody is in")
        return found, resident

    async def check_names(
        self, room_id: RoomId, content: Json, before: Json, *, may_name: bool
    ) -> None:
        """Whether a canonical alias event names aliases of this room; those that stood in the one
        before are not looked at again. `may_name`: of aliases of ours that are written down
        nowhere (names of foreign chats) the sender says where they lead.

        `BadInput` M_INVALID_PARAM for what is no alias, M_BAD_ALIAS for one of another room;
        `Unavailable`. Spec: client-server API, PUT /rooms/{roomId}/state/{eventType}/{stateKey}.
        """
        known = set(_aliases_of(before, strict=False))
        for alias in _aliases_of(content, strict=True):
            if alias in known or await self._leads_to(alias, may_name=may_name) in (None, room_id):
                continue
            raise BadInput(f"{alias} does not lead to this room", errcode="M_BAD_ALIAS")

    async def _leads_to(self, alias: RoomAlias, *, may_name: bool) -> RoomId | None:
        """None: the sender may say."""
        server = server_of(alias)
        try:
            if server != self._server_name:
                return (await self._peers.query_directory(server, alias))[0]
            found = await self._database.read(lambda tx: aliases.find(tx, alias))
        except (NotFound, Refused) as exc:
            raise BadInput(f"{alias} leads nowhere", errcode="M_BAD_ALIAS") from exc
        if found is None and not may_name:
            raise BadInput(f"{alias} leads nowhere", errcode="M_BAD_ALIAS")
        return found

    async def profile(self, user_id: UserId) -> UserProfile:
        """Ours or another server's. `NotFound`, `Unavailable`."""
        server = server_of(user_id)
        if server == self._server_name:
            return await self.local_profile(user_id)
        try:
            answer = await self._peers.query_profile(server, user_id)
        except BadInput as exc:
            raise NotFound(f"{server} has no profile of {user_id}") from exc
        return UserProfile(
            displayname=_text(answer.get("displayname")),
            avatar_url=_text(answer.get("avatar_url")),
        )

    async def local_profile(self, user_id: UserId) -> UserProfile:
        """For `/query/profile`: only users of our own server. `NotFound`."""
        if server_of(user_id) != self._server_name:
            raise NotFound(f"{user_id} is no user of ours")
        stored = await self.stored_profile(user_id)
        if stored is not None:
            return stored
        known = await self._lookups.profile(user_id)
        if known is not None:
            return known
        if not await self._lookups.user_exists(user_id):
            raise NotFound(f"{user_id} does not exist")
        return UserProfile()

    async def stored_profile(self, user_id: UserId) -> UserProfile | None:
        """What was set for a user of ours."""
        row = await self._database.read(lambda tx: profiles.find(tx, user_id))
        return None if row is None else UserProfile(displayname=row[0], avatar_url=row[1])

    async def put_profile(self, user_id: UserId, profile: UserProfile) -> None:
        await self._database.write(
            lambda tx: profiles.put(
                tx, user_id, displayname=profile.displayname, avatar_url=profile.avatar_url
            )
        )


def _aliases_of(content: Json, *, strict: bool) -> list[RoomAlias]:
    """`alias` (no text or an empty one is none) and `alt_aliases`. `strict`: raise `BadInput`."""
    others = content.get("alt_aliases")
    said = [content["alias"]] if content.get("alias") not in (None, "") else []
    if isinstance(others, list):
        said += others[:MAX_ALIASES]
    found: list[RoomAlias] = []
    for text in said:
        try:
            found.append(parse_room_alias(text))
        except BadInput:
            if strict:
                raise
    if strict and (not isinstance(others, list | None) or len(said) > MAX_ALIASES):
        raise BadInput("alt_aliases is no list of them", errcode="M_INVALID_PARAM")
    return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
