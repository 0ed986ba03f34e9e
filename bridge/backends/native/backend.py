"""`MatrixBackend` over `rooms/`: our own homeserver in this process."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping, Sequence
from typing import Any

from bridge.backends.native.direct import DirectRooms
from bridge.backends.native.media import MediaFiles
from bridge.backends.native.values import (
    RoomPower,
    to_member,
    to_public_room,
    to_public_rooms,
    to_room_event,
    to_room_info,
    to_state_entry,
)
from bridge.clock import Clock
from bridge.engine.state import MEMBER
from bridge.engine.versions import get_creatable, get_version
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import (
    EventId,
    RoomAlias,
    RoomId,
    RoomVersionId,
    ServerName,
    TraceId,
    UserId,
    server_of,
)
from bridge.ports.matrix import (
    Media,
    MediaStream,
    Member,
    Power,
    PresenceState,
    Profile,
    PublicRooms,
    RoomEvent,
    RoomInfo,
    SpaceRoom,
    StateEntry,
)
from bridge.rooms.assembly import Rooms, new_trace
from bridge.rooms.create import member_content
from bridge.rooms.listing import ALIAS
from bridge.rooms.network import Peers, UserProfile
from bridge.rooms.public_rooms import ListQuery
from bridge.storage.database import Database
from bridge.telemetry.log import get_logger

MAX_ASKED = 100
"""Servers of a room that are asked what they speak."""

log = get_logger("backend")


class NativeBackend:
    """Fits `ports.matrix.MatrixBackend`."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        bot: UserId,
        rooms: Rooms,
        peers: Peers,
        database: Database,
        clock: Clock,
        versions: Sequence[RoomVersionId],
        media: MediaFiles,
        extensible_direct_chats: bool = True,
    ) -> None:
        """`versions`: what new rooms get, the preferred one first. `extensible_direct_chats`:
        direct chats with a server known to speak an extensible version use it."""
        self._server_name = server_name
        self._bot = bot
        self._rooms = rooms
        self._versions = versions
        self._media = media
        self._direct = DirectRooms(
            server_name=server_name,
            rooms=rooms,
            peers=peers,
            database=database,
            clock=clock,
            versions=versions,
            extensible=extensible_direct_chats,
        )

    @property
    def server_name(self) -> ServerName:
        return self._server_name

    @property
    def bot(self) -> UserId:
        return self._bot

    # --- making rooms -----------------------------------------------------------------------

    async def open_direct(
        self, *, creator: UserId, target: UserId, txn: str, trace: TraceId, name: str | None = None
    ) -> RoomId:
        return await self._direct.open(
            creator=creator,
            target=target,
            transaction_id=txn,
            trace_id=trace,
            name=name,
            profile=await self._own_profile(creator),
        )

    async def create_room(
        self,
        *,
        creator: UserId,
        txn: str,
        name: str | None = None,
        topic: str | None = None,
        alias: RoomAlias | None = None,
        public: bool = False,
        listed: bool = False,
        version: RoomVersionId | None = None,
    ) -> RoomId:
        return await self._rooms.creator.create(
            creator=creator,
            version=get_version(version or self._versions[0]),
            transaction_id=txn,
            trace_id=new_trace(),
            name=name,
            topic=topic,
            alias=alias,
            public=public,
            listed=listed,
            profile=await self._own_profile(creator),
        )

    async def upgrade(
        self,
        *,
        room_id: RoomId,
        sender: UserId,
        version: RoomVersionId,
        txn: str,
        additional_creators: Sequence[UserId] = (),
    ) -> RoomId:
        wanted = get_creatable(version)
        if additional_creators and not wanted.auth.privileged_creators:
            raise BadInput(
                f"rooms of version {version} have no creators who stand above others",
                errcode="M_INVALID_PARAM",
            )
        return await self._rooms.upgrader.upgrade(
            room_id=room_id,
            sender=sender,
            version=wanted,
            transaction_id=txn,
            trace_id=new_trace(),
            additional_creators=additional_creators,
            profile=await self._own_profile(sender),
        )

    async def left_behind(self, room_id: RoomId, version: RoomVersionId) -> Sequence[ServerName]:
        wanted = get_creatable(version)
        others = sorted(await self._rooms.queries.servers(room_id) - {self._server_name})
        return [
            peer for peer in others[:MAX_ASKED] if await self._direct.speaks(peer, wanted) is False
        ]

    async def purge(self, room_id: RoomId) -> None:
        await self._rooms.purger.purge(room_id, trace_id=new_trace())

    # --- sending ----------------------------------------------------------------------------

    async def send(
        self,
        *,
        room_id: RoomId,
        sender: UserId,
        type: str,
        content: Mapping[str, Any],
        txn: str,
        trace: TraceId,
        state_key: str | None = None,
        at_ms: int | None = None,
    ) -> EventId:
        if (type, state_key) == ALIAS:
            said = await self._rooms.queries.state(room_id, type)
            before = next((one.content for one in said if one.state_key == ""), {})
            await self._rooms.directory.check_names(
                room_id, content, before, may_name=sender == self._bot
            )
        return await self._rooms.sender.send(
            room_id=room_id,
            sender=sender,
            type=type,
            content=content,
            state_key=state_key,
            transaction_id=txn,
            trace_id=trace,
            at_ms=at_ms,
        )

    async def redact(
        self, *, room_id: RoomId, sender: UserId, target: EventId, txn: str, reason: str | None
    ) -> EventId:
        return await self._rooms.sender.send(
            room_id=room_id,
            sender=sender,
            type="m.room.redaction",
            content={} if reason is None else {"reason": reason},
            redacts=target,
            transaction_id=txn,
            trace_id=new_trace(),
        )

    # --- memberships ------------------------------------------------------------------------

    async def invite(
        self,
        *,
        room_id: RoomId,
        sender: UserId,
        target: UserId,
        txn: str,
        is_direct: bool = False,
        reason: str | None = None,
    ) -> None:
        await self._rooms.handshake.invite(
            room_id=room_id,
            sender=sender,
            target=target,
            transaction_id=txn,
            trace_id=new_trace(),
            is_direct=is_direct,
            reason=reason,
        )

    async def join(self, *, user_id: UserId, room_id: RoomId, via: Sequence[ServerName]) -> None:
        await self._rooms.handshake.join(
            user_id=user_id,
            room_id=room_id,
            via=via,
            trace_id=new_trace(),
            profile=await self._own_profile(user_id),
        )

    async def knock(
        self,
        *,
        user_id: UserId,
        room_id: RoomId,
        via: Sequence[ServerName],
        reason: str | None = None,
    ) -> None:
        await self._rooms.handshake.knock(
            user_id=user_id,
            room_id=room_id,
            via=via,
            trace_id=new_trace(),
            profile=await self._own_profile(user_id),
            reason=reason,
        )

    async def leave(self, *, user_id: UserId, room_id: RoomId, reason: str | None = None) -> None:
        await self._rooms.handshake.leave(
            user_id=user_id, room_id=room_id, trace_id=new_trace(), reason=reason
        )

    async def kick(
        self, *, room_id: RoomId, sender: UserId, target: UserId, reason: str | None
    ) -> None:
        member = await self._rooms.queries.member(room_id, target)
        if member is None or member.membership in ("leave", "ban"):
            return
        await self._rooms.sender.send(
            room_id=room_id,
            sender=sender,
            type=MEMBER,
            state_key=target,
            content=member_content("leave", None, reason=reason),
            trace_id=new_trace(),
        )

    # --- reading ----------------------------------------------------------------------------

    async def room(self, room_id: RoomId) -> RoomInfo:
        return to_room_info(await self._rooms.queries.summary(room_id))

    async def state(self, room_id: RoomId, type: str) -> Sequence[StateEntry]:
        return [to_state_entry(pdu) for pdu in await self._rooms.queries.state(room_id, type)]

    async def power(self, room_id: RoomId) -> Power:
        return RoomPower(await self._rooms.queries.power(room_id))

    async def members(
        self, room_id: RoomId, memberships: Sequence[str] = ("join",)
    ) -> Sequence[Member]:
        return [to_member(pdu) for pdu in await self._rooms.queries.members(room_id, memberships)]

    async def member(self, room_id: RoomId, user_id: UserId) -> Member | None:
        pdu = await self._rooms.queries.member(room_id, user_id)
        return None if pdu is None else to_member(pdu)

    async def joined_rooms(self, user_id: UserId) -> Sequence[RoomId]:
        return sorted(await self._rooms.queries.joined_rooms(user_id))

    async def timeline(
        self,
        room_id: RoomId,
        *,
        limit: int,
        before: int | None = None,
        viewer: UserId | None = None,
    ) -> Sequence[RoomEvent]:
        found = await self._rooms.queries.timeline(
            room_id, limit=limit, before=before, viewer=viewer
        )
        return [to_room_event(one, self._server_name) for one in found if one.applies]

    async def unseen_at(
        self,
        server: ServerName,
        *,
        room_id: RoomId,
        user_id: UserId,
        candidates: Sequence[EventId],
    ) -> Sequence[EventId]:
        heads = await self._rooms.handshake.heads_at(server, user_id=user_id, room_id=room_id)
        try:
            return await self._rooms.queries.outside_past(heads, candidates)
        except NotFound as exc:
            raise Unavailable(exc.reason) from exc

    # --- names ------------------------------------------------------------------------------

    async def resolve_alias(self, alias: RoomAlias) -> tuple[RoomId, Sequence[ServerName]]:
        return await self._rooms.directory.resolve_alias(alias)

    async def publish(self, room_id: RoomId, *, by: UserId) -> None:
        await self._rooms.public_rooms.publish(room_id, by=by)

    async def unpublish(self, room_id: RoomId) -> bool:
        return await self._rooms.public_rooms.unpublish(room_id)

    async def public_rooms(
        self,
        server: ServerName,
        *,
        words: str | None = None,
        limit: int = 0,
        since: str | None = None,
    ) -> PublicRooms:
        query = ListQuery(limit=limit, since=since, term=words)
        return to_public_rooms(await self._rooms.public_rooms.page_of(server, query))

    async def own_public_rooms(
        self,
        *,
        limit: int,
        after: RoomId | None = None,
        before: RoomId | None = None,
        from_end: bool = False,
    ) -> PublicRooms:
        is_backwards = before is not None or from_end
        page = await self._rooms.public_rooms.page_beside(
            before if is_backwards else after, forwards=not is_backwards, limit=limit
        )
        return to_public_rooms(page)

    async def hierarchy(
        self,
        room_id: RoomId,
        *,
        via: Sequence[ServerName] = (),
        viewer: UserId | None = None,
        suggested_only: bool = False,
        depth: int = 3,
        limit: int = 100,
    ) -> Sequence[SpaceRoom]:
        found = await self._rooms.walker.walk(
            room_id,
            via=via,
            viewer=viewer,
            suggested_only=suggested_only,
            depth=depth,
            limit=limit,
        )
        return [
            SpaceRoom(
                room=to_public_room(one.entry), depth=one.depth, parent=one.parent, via=one.via
            )
            for one in found
        ]

    async def profile(self, user_id: UserId) -> Profile:
        found = await self._rooms.directory.profile(user_id)
        return Profile(displayname=found.displayname, avatar_url=found.avatar_url)

    async def set_profile(self, user_id: UserId, profile: Profile) -> None:
        if server_of(user_id) != self._server_name:
            raise Refused(f"{user_id} is no user of ours", rule="sender")
        wanted = UserProfile(displayname=profile.displayname, avatar_url=profile.avatar_url)
        if await self._rooms.directory.stored_profile(user_id) != wanted:
            await self._rooms.directory.put_profile(user_id, wanted)
        for room_id in sorted(await self._rooms.queries.joined_rooms(user_id)):
            await self._show_profile(room_id, user_id, wanted)

    # --- what passes ------------------------------------------------------------------------

    async def set_typing(
        self, *, room_id: RoomId, user_id: UserId, typing: bool, timeout_ms: int = 30_000
    ) -> None:
        await self._rooms.ephemeral.typing.set(room_id, user_id, typing, timeout_ms=timeout_ms)

    async def read_up_to(
        self, *, room_id: RoomId, user_id: UserId, event_id: EventId, thread_id: str | None = None
    ) -> None:
        await self._rooms.ephemeral.receipts.read_up_to(
            room_id, user_id, event_id, thread_id=thread_id
        )

    async def set_presence(
        self, *, user_id: UserId, presence: PresenceState, status_text: str | None = None
    ) -> None:
        self._rooms.ephemeral.presence.set(user_id, presence, status=status_text)

    async def _show_profile(self, room_id: RoomId, user_id: UserId, profile: UserProfile) -> None:
        member = await self._rooms.queries.member(room_id, user_id)
        if member is None or member.membership != "join":
            return
        content = {
            name: value
            for name, value in member.content.items()
            if name not in ("displayname", "avatar_url", "reason", "is_direct")
        } | member_content("join", profile)
        if content == member.content:
            return
        try:
            await self._rooms.sender.send(
                room_id=room_id,
                sender=user_id,
                type=MEMBER,
                state_key=user_id,
                content=content,
                trace_id=new_trace(),
            )
        except (NotFound, Refused) as exc:
            log.info("profile not shown", room_id=room_id, reason=exc.reason)

    # --- media ------------------------------------------------------------------------------

    async def upload(
        self,
        *,
        chunks: AsyncIterable[bytes],
        uploader: UserId,
        content_type: str | None,
        name: str | None,
        txn: str,
    ) -> Media:
        if server_of(uploader) != self._server_name:
            raise Refused(f"{uploader} is no user of ours", rule="sender")
        return await self._media.upload(
            chunks=chunks, uploader=uploader, content_type=content_type, name=name, txn=txn
        )

    async def find_upload(self, txn: str) -> Media | None:
        return await self._media.find_upload(txn)

    async def media(self, mxc: str) -> Media:
        return await self._media.media(mxc)

    async def open_media(
        self, mxc: str, *, start: int = 0, length: int | None = None
    ) -> MediaStream:
        return await self._media.open_media(mxc, start=start, length=length)

    async def _own_profile(self, user_id: UserId) -> UserProfile:
        try:
            return await self._rooms.directory.local_profile(user_id)
        except NotFound:
            return UserProfile()
