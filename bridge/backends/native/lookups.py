"""What the Matrix side asks about names of our server, answered by the bridge side."""

from __future__ import annotations

from bridge.errors import Unavailable
from bridge.ids import RoomAlias, RoomId, UserId
from bridge.ports.matrix import MatrixListener
from bridge.rooms.network import UserProfile


class ListenerLookups:
    """Fits `rooms.network.Lookups`. The bridge side is built on the back end, so it comes later."""

    def __init__(self) -> None:
        self._listener: MatrixListener | None = None

    def attach(self, listener: MatrixListener) -> None:
        self._listener = listener

    def _there(self) -> MatrixListener:
        if self._listener is None:
            raise Unavailable("the bridge is still starting")
        return self._listener

    async def user_exists(self, user_id: UserId) -> bool:
        return await self._there().on_user_query(user_id)

    async def profile(self, user_id: UserId) -> UserProfile | None:
        found = await self._there().on_profile_query(user_id)
        if found is None:
            return None
        return UserProfile(displayname=found.displayname, avatar_url=found.avatar_url)

    async def alias(self, alias: RoomAlias) -> RoomId | None:
        return await self._there().on_alias_query(alias)
