"""What is true in a room now, and who must hear of an event. Signatures; bodies follow."""

from __future__ import annotations

from bridge.ids import EventId, RoomId, ServerName, UserId


class RoomQueries:
    async def servers(self, room_id: RoomId) -> frozenset[ServerName]:
        """Servers with a joined user now, ours included."""
        raise NotImplementedError

    async def destinations(self, event_id: EventId) -> frozenset[ServerName]:
        """Who must be sent this event of ours: servers joined in the state before it, an invited
        user's server, everybody but the joining server for one that we let in. Never ourselves."""
        raise NotImplementedError

    async def joined_rooms(self, user_id: UserId) -> frozenset[RoomId]:
        raise NotImplementedError

    async def is_server_allowed(self, room_id: RoomId, server: ServerName) -> bool:
        """The room's server ACL (true where there is none). Spec: S2S, server ACLs."""
        raise NotImplementedError
