"""What we ask of peers: one function per endpoint. Signatures; the bodies follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bridge.ids import EventId, RoomAlias, RoomId, RoomVersionId, ServerName, UserId

Json = dict[str, Any]


class PeerRequests(Protocol):
    """Errors of all: `Refused` (4xx, with the peer's errcode), `Unavailable`, `BadInput`."""

    async def make_join(
        self, peer: ServerName, room_id: RoomId, user_id: UserId, versions: Sequence[RoomVersionId]
    ) -> tuple[RoomVersionId, Json]: ...

    async def send_join(
        self, peer: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> Json:
        """`state`, `auth_chain`, maybe `event`."""

    async def make_leave(
        self, peer: ServerName, room_id: RoomId, user_id: UserId
    ) -> tuple[RoomVersionId, Json]: ...

    async def send_leave(
        self, peer: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> None: ...

    async def invite(
        self,
        peer: ServerName,
        room_id: RoomId,
        event_id: EventId,
        pdu: Json,
        room_version: RoomVersionId,
        invite_room_state: Sequence[Json],
    ) -> Json:
        """The invite with the peer's signature added."""

    async def send_transaction(
        self, peer: ServerName, txn_id: str, pdus: Sequence[Json], edus: Sequence[Json]
    ) -> Mapping[EventId, str]:
        """Reasons by event ID of the PDUs that the peer refused."""

    async def event(self, peer: ServerName, event_id: EventId) -> Json: ...

    async def state(
        self, peer: ServerName, room_id: RoomId, event_id: EventId
    ) -> tuple[list[Json], list[Json]]:
        """State and its auth chain before the event."""

    async def state_ids(
        self, peer: ServerName, room_id: RoomId, event_id: EventId
    ) -> tuple[list[EventId], list[EventId]]: ...

    async def event_auth(
        self, peer: ServerName, room_id: RoomId, event_id: EventId
    ) -> list[Json]: ...

    async def backfill(
        self, peer: ServerName, room_id: RoomId, event_ids: Sequence[EventId], limit: int
    ) -> list[Json]: ...

    async def get_missing_events(
        self,
        peer: ServerName,
        room_id: RoomId,
        earliest: Sequence[EventId],
        latest: Sequence[EventId],
        limit: int,
        min_depth: int = 0,
    ) -> list[Json]: ...

    async def query_profile(
        self, peer: ServerName, user_id: UserId, field: str | None = None
    ) -> Json: ...

    async def query_directory(
        self, peer: ServerName, alias: RoomAlias
    ) -> tuple[RoomId, list[ServerName]]: ...

    async def version(self, peer: ServerName) -> Json: ...
