"""What we answer as resident server, and to invites from outside. Signatures; bodies follow."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.errors import Refused
from bridge.ids import EventId, RoomId, RoomVersionId, ServerName, UserId
from bridge.rooms.network import Json


class IncompatibleVersion(Refused):
    """`room_version` belongs into the error's body beside `errcode`."""

    errcode = "M_INCOMPATIBLE_ROOM_VERSION"

    def __init__(self, room_version: RoomVersionId) -> None:
        super().__init__(f"the room's version is {room_version}", rule="room_version")
        self.room_version = room_version


class Answers:
    """One method per endpoint. `origin` is authenticated by the caller; server ACLs, membership
    and history visibility are checked here. Errors: `Refused` (403 unless the errcode says more),
    `NotFound`, `BadInput`, `Unavailable`."""

    async def make_join(
        self,
        origin: ServerName,
        room_id: RoomId,
        user_id: UserId,
        versions: Sequence[RoomVersionId],
    ) -> Json:
        """`{"room_version", "event"}`. Raises `IncompatibleVersion`."""
        raise NotImplementedError

    async def send_join(
        self, origin: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> Json:
        """The version 2 answer: `state`, `auth_chain`, `event`, `origin`, `members_omitted`."""
        raise NotImplementedError

    async def make_leave(self, origin: ServerName, room_id: RoomId, user_id: UserId) -> Json:
        """`{"room_version", "event"}`."""
        raise NotImplementedError

    async def send_leave(
        self, origin: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> None:
        raise NotImplementedError

    async def invite(
        self,
        origin: ServerName,
        room_id: RoomId,
        event_id: EventId,
        pdu: Json,
        room_version: RoomVersionId,
        invite_room_state: Sequence[Json],
    ) -> Json:
        """The event with our signature: `{"event": this}` in v2, `[200, {"event": this}]` in v1.

        For v1 the caller passes room version 1 (which we do not know: refused).
        """
        raise NotImplementedError

    async def event(self, origin: ServerName, event_id: EventId) -> Json:
        """The PDU; the caller wraps it as a transaction."""
        raise NotImplementedError

    async def state(self, origin: ServerName, room_id: RoomId, event_id: EventId) -> Json:
        """`{"pdus", "auth_chain"}` before the event."""
        raise NotImplementedError

    async def state_ids(self, origin: ServerName, room_id: RoomId, event_id: EventId) -> Json:
        """`{"pdu_ids", "auth_chain_ids"}` before the event."""
        raise NotImplementedError

    async def event_auth(self, origin: ServerName, room_id: RoomId, event_id: EventId) -> Json:
        """`{"auth_chain"}`."""
        raise NotImplementedError

    async def backfill(
        self, origin: ServerName, room_id: RoomId, event_ids: Sequence[EventId], limit: int
    ) -> list[Json]:
        """PDUs, newest first; the caller wraps them as a transaction."""
        raise NotImplementedError

    async def get_missing_events(
        self,
        origin: ServerName,
        room_id: RoomId,
        earliest: Sequence[EventId],
        latest: Sequence[EventId],
        limit: int,
        min_depth: int,
    ) -> list[Json]:
        """`{"events": this}`, oldest first."""
        raise NotImplementedError
