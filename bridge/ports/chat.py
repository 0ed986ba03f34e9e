"""The chat port: what an adapter tells the bridge, and what the bridge hands to an adapter.

`ChatListener` is filled by `portals/`, `ChatAdapter` by each folder of `adapters/`. Addresses are
foreign identities in the adapter's own canonical spelling (XMPP: a bare JID); a *session* is one
client of an address (XMPP: a full JID). What an adapter must deliver arrives as one of the
`Delivery` values, out of a durable queue: `deliver` may be called twice for the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.content.model import Message
from bridge.ids import EventId, RoomAlias, RoomId, TraceId, UserId
from bridge.ports.matrix import Member, Power, RoomInfo

# --- what comes from the chat side ----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One message that somebody wrote on the chat side.

    Exactly one of `to_user` (one-to-one) and `to_room` (a room that we serve) is set.
    """

    adapter: str
    sender: str
    """The author's address."""
    session: str
    """The client that wrote it; errors and receipts go back there."""
    to_user: UserId | None
    to_room: RoomId | None
    sent_to: str
    """The address it was sent to, as the author wrote it: answers come `from` there."""
    stanza_id: str
    """The id that the author gave it; never empty (the adapter makes one up)."""
    origin_id: str | None
    fingerprint: str
    """With `stanza_id` it tells a resent message from a client that counts its ids anew."""
    wants_receipt: bool
    message: Message
    trace: TraceId


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryMessage:
    """A message of the past, for somebody who enters a room."""

    event_id: EventId
    sender: UserId
    at_ms: int
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomView:
    """A room at the moment somebody enters it: everything up to `info.position`."""

    info: RoomInfo
    power: Power
    members: Sequence[Member]
    history: Sequence[HistoryMessage]


class ChatListener(Protocol):
    """What an adapter asks of the bridge. Methods raise `Refused`, `NotFound`, `Unavailable`."""

    async def accept(self, message: ChatMessage) -> bool:
        """Commits the message to the inbox. False: it stands there already."""
        ...

    async def find_room(self, target: RoomAlias | RoomId) -> RoomId:
        """The room behind an alias or a room ID, asked of its server where it is not ours."""
        ...

    async def describe_room(
        self, target: RoomAlias | RoomId, *, address: str | None = None
    ) -> RoomInfo | None:
        """What `address` may know of a room without entering it; None: it exists, and we are not in
        it, or it is closed and they are neither member nor invited."""
        ...

    async def enter(
        self, *, address: str, target: RoomAlias | RoomId, nickname: str, history_limit: int
    ) -> RoomView:
        """Makes the address' ghost a member (accepting an invite if there is one)."""
        ...

    async def view_room(self, room_id: RoomId) -> RoomView:
        """The room as it is now, without its past."""
        ...

    async def leave(self, *, address: str, room_id: RoomId, reason: str | None) -> None:
        """Ends the ghost's Matrix membership, or refuses its invite."""
        ...

    async def set_topic(self, *, address: str, room_id: RoomId, topic: str, txn: str) -> None: ...

    async def rooms_of(self, address: str) -> Sequence[RoomInfo]:
        """The rooms where the address' ghost is a member, direct chats left out."""
        ...

    async def find_member_name(self, user_id: UserId) -> str | None:
        """Display name of a Matrix user, for a nickname or a vCard; None: it has none."""
        ...

    async def on_bounced(
        self, *, address: str, outbox_id: int, condition: str, text: str | None
    ) -> None:
        """`address` returned a delivery as undeliverable (a stanza of type error). What was not
        sent there is not theirs to return."""
        ...

    async def on_command(self, *, address: str, text: str) -> str:
        """A line to the bot from a management chat; its answer."""
        ...


# --- what goes to the chat side ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectMessage:
    to: str
    sender: UserId
    event_id: EventId
    at_ms: int
    message: Message
    room_id: RoomId | None = None
    """Where it was written, and its author is told what became of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The author asked for it; at least one recipient's server has the message."""

    to: str
    sent_from: str
    """The address the message had been sent to."""
    stanza_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A message that will not arrive, told to its author as an error on that very message."""

    to: str
    sent_from: str
    stanza_id: str
    in_room: bool
    errcode: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BotNotice:
    """A line from the bot to a person, outside any room."""

    to: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomMessage:
    """A message for everybody in a room that we serve."""

    room_id: RoomId
    position: int
    event_id: EventId
    sender: UserId
    at_ms: int
    message: Message
    stanza_id: str | None = None
    """The author's own id, where it was written on the chat side: reflected with it."""
    origin_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflection:
    """A message in a room, shown again to its author alone, who sent it again."""

    to: str
    """The author's client."""
    room_id: RoomId
    event_id: EventId
    sender: UserId
    message: Message
    stanza_id: str
    origin_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomMember:
    """A member came, went, was removed or took another name."""

    room_id: RoomId
    position: int
    user_id: UserId
    membership: str
    previous: str | None
    displayname: str | None
    actor: UserId
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSubject:
    room_id: RoomId
    position: int
    sender: UserId
    at_ms: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomPower:
    """Who may do what has changed: `ChatListener.view_room` says how."""

    room_id: RoomId
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomInvite:
    """Somebody invited an address to a room; entering accepts, declining refuses."""

    to: str
    room_id: RoomId
    alias: RoomAlias | None
    name: str | None
    inviter: UserId
    reason: str | None


Delivery = (
    DirectMessage
    | Receipt
    | Failure
    | BotNotice
    | RoomMessage
    | Reflection
    | RoomMember
    | RoomSubject
    | RoomPower
    | RoomInvite
)
DELIVERIES: tuple[type, ...] = (
    DirectMessage,
    Receipt,
    Failure,
    BotNotice,
    RoomMessage,
    Reflection,
    RoomMember,
    RoomSubject,
    RoomPower,
    RoomInvite,
)


class AddressMap(Protocol):
    """Which address is which user: pure, known before anything is connected."""

    @property
    def adapter(self) -> str: ...

    def address_of(self, user_id: UserId) -> str | None:
        """The address behind one of our ghosts; None where the localpart is none of ours."""
        ...

    def user_of(self, address: str) -> UserId:
        """The ghost of an address, or the Matrix user behind one of our own addresses."""
        ...

    def default_name(self, address: str) -> str:
        """What to call somebody of whom we know the address only."""
        ...


class ChatAdapter(Protocol):
    """A foreign network."""

    @property
    def name(self) -> str: ...

    async def deliver(self, delivery: Delivery, *, outbox_id: int, trace: TraceId) -> None:
        """Returns when the chat side has provably taken it; `Unavailable`: not now; `Refused`:
        never. The same `outbox_id` goes out with the same stanza id."""
        ...

    async def run(self) -> None: ...
