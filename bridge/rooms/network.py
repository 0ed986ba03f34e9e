"""What rooms need from outside, as protocols: peers, their keys, and the bridge side's answers.

`federation/client` fits `Peers` and `KeyRing` structurally; the back end fits `Lookups`. Rooms
never call a sender: what leaves is a stored position in `stream_events`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bridge.ids import EventId, KeyId, RoomAlias, RoomId, RoomVersionId, ServerName, UserId

Json = dict[str, Any]


class Peers(Protocol):
    """Requests to other servers. Errors of all: `Refused` (4xx, the peer's errcode), `NotFound`,
    `Unavailable`, `BadInput` (an answer that makes no sense)."""

    async def make_join(
        self, peer: ServerName, room_id: RoomId, user_id: UserId, versions: Sequence[RoomVersionId]
    ) -> tuple[RoomVersionId, Json]: ...

    async def send_join(
        self, peer: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> Json: ...

    async def make_knock(
        self, peer: ServerName, room_id: RoomId, user_id: UserId, versions: Sequence[RoomVersionId]
    ) -> tuple[RoomVersionId, Json]: ...

    async def send_knock(
        self, peer: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> list[Json]:
        """What the peer tells of the room (`knock_room_state`)."""
        ...

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
    ) -> Json: ...

    async def event(self, peer: ServerName, event_id: EventId) -> Json: ...

    async def state(
        self, peer: ServerName, room_id: RoomId, event_id: EventId
    ) -> tuple[list[Json], list[Json]]: ...

    async def state_ids(
        self, peer: ServerName, room_id: RoomId, event_id: EventId
    ) -> tuple[list[EventId], list[EventId]]: ...

    async def event_auth(
        self, peer: ServerName, room_id: RoomId, event_id: EventId
    ) -> list[Json]: ...

    async def backfill(
        self, peer: ServerName, room_id: RoomId, event_ids: Sequence[EventId], limit: int
    ) -> list[Json]:
        """The given events and what came before them, newest first."""
        ...

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

    async def public_rooms(
        self,
        peer: ServerName,
        *,
        limit: int,
        since: str | None = None,
        term: str | None = None,
        room_types: Sequence[str | None] | None = None,
        all_networks: bool = False,
        network: str | None = None,
    ) -> Json:
        """A page of its list of rooms, as it was sent."""
        ...

    async def policy_sign(
        self, peer: ServerName, path: str, pdu: Json, *, timeout_s: float
    ) -> Json:
        """By server name and key ID, the signature of a policy server; `Refused`: it will not."""
        ...

    async def hierarchy(
        self, peer: ServerName, room_id: RoomId, *, suggested_only: bool = False
    ) -> Json:
        """What it says of a space and its children, as it was sent."""
        ...

    async def version(self, peer: ServerName) -> Json:
        """`name` and `version` of its software, where it says so."""
        ...


class KeyRing(Protocol):
    """Keys of servers, ours included."""

    async def verify_key(
        self, server: ServerName, key_id: KeyId, minimum_valid_until_ts: int
    ) -> str | None:
        """Unpadded Base64, or None: no key that counts at that time (milliseconds).

        `Unavailable` when the server (and whoever could vouch) cannot be asked now.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UserProfile:
    displayname: str | None = None
    avatar_url: str | None = None


class Lookups(Protocol):
    """What only the bridge side knows about names of our own server."""

    async def user_exists(self, user_id: UserId) -> bool: ...

    async def profile(self, user_id: UserId) -> UserProfile | None: ...

    async def alias(self, alias: RoomAlias) -> RoomId | None: ...


class EduTaker(Protocol):
    """Takes the EDUs of one type that other servers send. What must not be lost is committed before
    it returns; the same EDU may come again."""

    async def take(self, origin: ServerName, content: Json) -> None:
        """`content` is bounded in size and depth, and otherwise as it came. `BadInput`, `Refused`
        and `NotFound`: it is skipped; `Unavailable` fails the transaction, which comes again."""
        ...


Answer = Mapping[str, Any]
