"""Aliases and profiles: ours from storage and the bridge side, others' from their server."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.ids import RoomAlias, RoomId, ServerName, UserId
from bridge.rooms.network import UserProfile


class Directory:
    async def resolve_alias(self, alias: RoomAlias) -> tuple[RoomId, Sequence[ServerName]]:
        """Ours or another server's. `NotFound`, `Unavailable`."""
        raise NotImplementedError

    async def local_alias(self, alias: RoomAlias) -> tuple[RoomId, Sequence[ServerName]]:
        """For `/query/directory`: only aliases of our own server. `NotFound`."""
        raise NotImplementedError

    async def profile(self, user_id: UserId) -> UserProfile:
        """Ours or another server's. `NotFound`, `Unavailable`."""
        raise NotImplementedError

    async def local_profile(self, user_id: UserId) -> UserProfile:
        """For `/query/profile`: only users of our own server. `NotFound`."""
        raise NotImplementedError
