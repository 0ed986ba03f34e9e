"""The Matrix port: what the bridge side asks of Matrix, and what it is told.

`MatrixBackend` is filled by `backends/native` (in process) and later by `backends/appservice`;
`MatrixListener` is filled by `portals/`. Everything that writes takes a transaction ID: the same ID
twice is one event. Methods raise `Refused` (final, with an errcode), `NotFound`, or `Unavailable`
(a lane tries again).
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from bridge.ids import EventId, RoomAlias, RoomId, RoomVersionId, ServerName, TraceId, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomEvent:
    """An event as the bridge side sees it: accepted, in arrival order, never an outlier
    (except an invite or a knock of one of our users in a room that we are not in, and its end)."""

    position: int
    room_id: RoomId
    event_id: EventId
    type: str
    sender: UserId
    state_key: str | None
    content: Mapping[str, Any]
    origin_server_ts: int
    extensible: bool
    """The room's version says extensible_events (I.1): choose the content form by this."""
    own: bool
    """Sent by a user of this server."""
    transaction_id: str | None
    """The ID under which we sent it, if we did."""
    trace_id: TraceId
    redacts: EventId | None = None
    redacted: bool = False
    previous_membership: str | None = None
    """m.room.member only: what the membership was before."""
    invite_state: Sequence[Mapping[str, Any]] = ()
    """Stripped state that came with an invite from outside, or answered a knock of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A peer has received one of our events. `error` is its own word when it refused the PDU."""

    position: int
    event_id: EventId
    room_id: RoomId
    server: ServerName
    error: str | None


PresenceState: TypeAlias = Literal["online", "unavailable", "offline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Typing:
    """Somebody of another server starts or stops typing; who says no more has stopped."""

    room_id: RoomId
    user_id: UserId
    typing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadUpTo:
    """A public `m.read` receipt: everything up to this event, the event included."""

    room_id: RoomId
    user_id: UserId
    event_id: EventId
    thread_id: str | None
    """Root event or `main`; None: it is unthreaded."""
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceChange:
    """How a user of another server is there now."""

    user_id: UserId
    presence: PresenceState
    status_text: str | None
    last_active_ms: int | None
    """When they were last active, as a time."""
    currently_active: bool


Ephemeral: TypeAlias = Typing | ReadUpTo | PresenceChange


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    displayname: str | None = None
    avatar_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    user_id: UserId
    membership: str
    displayname: str | None
    avatar_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomInfo:
    room_id: RoomId
    version: RoomVersionId
    extensible: bool
    name: str | None
    topic: str | None
    topic_sender: UserId | None
    topic_ts: int | None
    canonical_alias: RoomAlias | None
    join_rule: str
    encrypted: bool
    direct: bool
    """One of the member events carried `is_direct`."""
    replacement: RoomId | None
    position: int
    """Newest position of the stream at which this was true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateEntry:
    """One event of a room's current state."""

    state_key: str
    sender: UserId
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRoom:
    """A room as a list of rooms shows it, of any server."""

    room_id: RoomId
    members: int
    name: str | None = None
    topic: str | None = None
    canonical_alias: RoomAlias | None = None
    join_rule: str = "public"
    is_space: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRooms:
    """One page. `next` and `previous` are `since` of the neighbouring pages, None at an end."""

    rooms: Sequence[PublicRoom]
    next: str | None
    previous: str | None
    total: int | None
    """As far as the server says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A file, without its bytes. Width and height in pixels, of images where they are known."""

    mxc: str
    content_type: str
    size_bytes: int
    name: str | None
    sha256: str
    width: int | None = None
    height: int | None = None


class MediaStream(Protocol):
    """The bytes of a file, or of a part of it. Whoever has one closes it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRoom:
    """A room of a space. `depth`: 0 for the space itself. `via`: servers to join it by."""

    room: PublicRoom
    depth: int
    parent: RoomId | None
    via: Sequence[ServerName]


class Power(Protocol):
    """Effective power in a room (creators of version 12 stand above every number)."""

    def level(self, user_id: UserId) -> float:
        """`math.inf` for creators of version 12."""
        ...

    def needed(self, action: str) -> int:
        """`ban`, `kick`, `invite`, `redact`, or `event:TYPE` / `state:TYPE`."""
        ...

    def may(self, user_id: UserId, action: str, target: UserId | None = None) -> bool:
        """With a target (kick, ban): also whether the target stands below. Missing means no."""
        ...


class MatrixBackend(Protocol):
    """What the bridge side may ask of the Matrix side."""

    @property
    def server_name(self) -> ServerName: ...

    @property
    def bot(self) -> UserId: ...

    async def open_direct(
        self, *, creator: UserId, target: UserId, txn: str, trace: TraceId, name: str | None = None
    ) -> RoomId:
        """A direct room with `target` invited (`is_direct`), made once per `txn`.

        Chooses the version (DESIGN, which version a new room gets), purges and tries the next one
        when the first invite is refused for its version. Returns when the target's server took the
        invite.
        """
        ...

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
        """`public`: anybody may join. `listed`: it stands in our list of rooms from the start."""
        ...

    async def upgrade(
        self,
        *,
        room_id: RoomId,
        sender: UserId,
        version: RoomVersionId,
        txn: str,
        additional_creators: Sequence[UserId] = (),
    ) -> RoomId:
        """The room's successor, made once per `txn`, complete with the tombstone that leads to it.

        `sender`, one of our own users, becomes its creator; from version 12 `additional_creators`
        stand beside them. `BadInput` for a version that we do not make
        (`M_UNSUPPORTED_ROOM_VERSION`), and for additional creators where it has none; `Refused` for
        whoever may not send the tombstone, and for a room that was replaced before. Members who
        could not enter by themselves are invited: the same `txn` again invites those whose server
        was down.
        """
        ...

    async def left_behind(self, room_id: RoomId, version: RoomVersionId) -> Sequence[ServerName]:
        """Servers in the room that are known not to take part in rooms of a version."""
        ...

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
        """Returns when the event is committed. `at_ms`: when it was written, if not just now."""
        ...

    async def redact(
        self, *, room_id: RoomId, sender: UserId, target: EventId, txn: str, reason: str | None
    ) -> EventId: ...

    async def invite(
        self,
        *,
        room_id: RoomId,
        sender: UserId,
        target: UserId,
        txn: str,
        is_direct: bool = False,
        reason: str | None = None,
    ) -> None: ...

    async def join(self, *, user_id: UserId, room_id: RoomId, via: Sequence[ServerName]) -> None:
        """Idempotent. Joins through `via`, in order, where our server is not in the room."""
        ...

    async def knock(
        self,
        *,
        user_id: UserId,
        room_id: RoomId,
        via: Sequence[ServerName],
        reason: str | None = None,
    ) -> None:
        """Ask those in the room to let this user of ours in; nothing to do for who just did.

        What comes of it is told as events of the room: the knock itself, with the `invite_state`
        that tells what room it is; an invite; a leave or ban by somebody else (refused, with its
        `reason` where there is one; some servers never tell). `leave` takes a knock back. Refused
        where the room takes no knocks.
        """
        ...

    async def leave(self, *, user_id: UserId, room_id: RoomId, reason: str | None = None) -> None:
        """Leaves, refuses an invite, or takes back a knock. Idempotent."""
        ...

    async def kick(
        self, *, room_id: RoomId, sender: UserId, target: UserId, reason: str | None
    ) -> None: ...

    async def purge(self, room_id: RoomId) -> None:
        """Forget a room that is given up: our users leave, its rows go."""
        ...

    async def room(self, room_id: RoomId) -> RoomInfo:
        """NotFound unless we are in it."""
        ...

    async def state(self, room_id: RoomId, type: str) -> Sequence[StateEntry]:
        """The current state events of a type, one per state key. NotFound as for `room`."""
        ...

    async def power(self, room_id: RoomId) -> Power: ...

    async def members(
        self, room_id: RoomId, memberships: Sequence[str] = ("join",)
    ) -> Sequence[Member]:
        """In the order in which they came."""
        ...

    async def member(self, room_id: RoomId, user_id: UserId) -> Member | None: ...

    async def joined_rooms(self, user_id: UserId) -> Sequence[RoomId]:
        """Of one of our own users."""
        ...

    async def timeline(
        self,
        room_id: RoomId,
        *,
        limit: int,
        before: int | None = None,
        viewer: UserId | None = None,
    ) -> Sequence[RoomEvent]:
        """The newest events up to position `before` (inclusive), oldest first; of these, with a
        `viewer` (one of our own users), what the room lets them see of its history."""
        ...

    async def unseen_at(
        self,
        server: ServerName,
        *,
        room_id: RoomId,
        user_id: UserId,
        candidates: Sequence[EventId],
    ) -> Sequence[EventId]:
        """Of events of a room those that a server of it shows nobody, though it may have them, in
        order. `user_id`: one of ours in the room. Unavailable while that cannot be told."""
        ...

    async def resolve_alias(self, alias: RoomAlias) -> tuple[RoomId, Sequence[ServerName]]:
        """Asks the alias' server where it is not ours. NotFound, Unavailable."""
        ...

    async def publish(self, room_id: RoomId, *, by: UserId) -> None:
        """List the room for everybody, as long as somebody of ours is in it. Idempotent. NotFound
        unless we are in it. A foreign chat's room stands in the list of its own network."""
        ...

    async def unpublish(self, room_id: RoomId) -> bool:
        """False: it was not listed."""
        ...

    async def public_rooms(
        self,
        server: ServerName,
        *,
        words: str | None = None,
        limit: int = 0,
        since: str | None = None,
    ) -> PublicRooms:
        """A page of a server's list (ours as well), of rooms with these words in name, topic or
        alias. BadInput for a `since` that no page gave."""
        ...

    async def own_public_rooms(
        self,
        *,
        limit: int,
        after: RoomId | None = None,
        before: RoomId | None = None,
        from_end: bool = False,
    ) -> PublicRooms:
        """Of our own list a page behind a room, or the one before a room or before the end.
        NotFound where that room is not listed any more."""
        ...

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
        """A space and its rooms, of whatever servers, depth first: those that `viewer` could enter
        or knock on, for None those that our server could. NotFound, Unavailable."""
        ...

    async def profile(self, user_id: UserId) -> Profile:
        """Asks the user's server where it is not ours. NotFound, Unavailable."""
        ...

    async def set_profile(self, user_id: UserId, profile: Profile) -> None:
        """Of one of our own ghosts: stored, and shown in the rooms where it is a member."""
        ...

    async def set_typing(
        self, *, room_id: RoomId, user_id: UserId, typing: bool, timeout_ms: int = 30_000
    ) -> None:
        """One of our own users types, or has stopped: nobody needs to tell again within the
        timeout, and after it they have. Best effort, in memory."""
        ...

    async def read_up_to(
        self, *, room_id: RoomId, user_id: UserId, event_id: EventId, thread_id: str | None = None
    ) -> None:
        """One of our own users has read everything up to this event. The newest wins."""
        ...

    async def set_presence(
        self, *, user_id: UserId, presence: PresenceState, status_text: str | None = None
    ) -> None:
        """Of one of our own users, told to the servers that share a room with them. Best effort,
        in memory."""
        ...

    async def upload(
        self,
        *,
        chunks: AsyncIterable[bytes],
        uploader: UserId,
        content_type: str | None,
        name: str | None,
        txn: str,
    ) -> Media:
        """Stores a file of one of our own users, once per `txn`: of one that is there `chunks` are
        not read. BadInput for what is too large, Refused where the person's quota is reached;
        whatever `chunks` raises passes through."""
        ...

    async def find_upload(self, txn: str) -> Media | None:
        """What was stored under that `txn`."""
        ...

    async def media(self, mxc: str) -> Media:
        """Fetched from its server where it is not ours and not here yet, which may take long.
        BadInput, NotFound, Refused, Unavailable."""
        ...

    async def open_media(
        self, mxc: str, *, start: int = 0, length: int | None = None
    ) -> MediaStream:
        """As `media`, and opened."""
        ...


class MatrixListener(Protocol):
    """What the bridge side is told. Calls come in stream order, at least once."""

    async def on_event(self, event: RoomEvent) -> None:
        """Idempotent. Whoever raises `Unavailable` is called again; nothing is skipped."""
        ...

    async def on_acceptance(self, acceptance: Acceptance) -> None: ...

    async def on_user_query(self, user_id: UserId) -> bool:
        """Does this user of our server exist (a ghost for any well-formed address does)?"""
        ...

    async def on_profile_query(self, user_id: UserId) -> Profile | None: ...

    async def on_alias_query(self, alias: RoomAlias) -> RoomId | None: ...

    async def on_ephemeral(self, change: Ephemeral) -> None:
        """Beside the stream, at most once. Never raises for what it cannot place; bounded, and
        never waits for a chat side that does not take it."""
        ...
