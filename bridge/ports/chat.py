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
from bridge.errors import Refused
from bridge.ids import EventId, RoomAlias, RoomId, TraceId, UserId
from bridge.ports.ephemeral import ChatEphemeral, Passing
from bridge.ports.matrix import Member, Power, PublicRooms, RoomInfo

# --- what comes from the chat side ----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One message that somebody wrote on the chat side.

    Exactly one of `to_user` (one-to-one), `to_room` (a room that we serve) and `to_chat` (a foreign
    chat that we visit) is set.
    """

    adapter: str
    sender: str
    """The author's address; in a foreign chat that hides it, an occupant's (`Occupant.address`)."""
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
    wants_marker: bool = False
    """The author asks to be told when it has been read."""
    to_chat: str | None = None
    sender_name: str | None = None
    """The author's nickname in the foreign chat."""
    archive_id: str | None = None
    """The foreign chat's own ID of it, if the chat gives IDs: where a catch-up goes on."""
    at_ms: int | None = None
    """When it was written, if that was some time ago."""


# --- foreign chats: what happens in them, and to our people there -----------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatInfo:
    """A foreign chat as it describes itself."""

    chat: str
    name: str | None
    is_open: bool
    """Anybody may enter: neither for members only nor behind a password."""
    shows_addresses: bool
    """Everybody in it sees everybody's real address."""
    has_occupant_ids: bool
    has_archive: bool
    is_hidden: bool = False
    """Its service does not list it either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """Somebody in a foreign chat who is none of ours.

    `address` is the real one only where the chat shows it to everybody; otherwise it stands for
    this occupant of this chat alone, by occupant-id or else by nickname, and leads nowhere.
    """

    address: str
    nickname: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OccupantCame:
    """Came in, or took another nickname: the address stays the same."""

    chat: str
    occupant: Occupant


@dataclass(frozen=True, slots=True, kw_only=True)
class OccupantGone:
    chat: str
    occupant: Occupant
    how: str
    """`left`, `kicked` or `banned`."""
    actor: str | None = None
    """Nickname of who removed them, where it is said."""
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OccupantRoll:
    """Everybody who is in the chat now, ours left out: said after each (re)entering."""

    chat: str
    occupants: tuple[Occupant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectChanged:
    chat: str
    occupant: Occupant | None
    """Who set it, where that is known."""
    text: str
    at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRenamed:
    chat: str
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestEntered:
    """One of our people is in the chat, under this nickname."""

    chat: str
    user_id: UserId
    nickname: str
    wanted: str
    """The nickname that they would have had without a conflict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRemoved:
    """One of our people was removed from the chat by its own people."""

    chat: str
    user_id: UserId
    how: str
    """`kicked`, `banned`, `not-a-member` (it is for members only now)."""
    actor: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDestroyed:
    """The chat exists no more; perhaps it went on at another address."""

    chat: str
    alternative: str | None
    reason: str | None


ChatChange = (
    OccupantCame
    | OccupantGone
    | OccupantRoll
    | SubjectChanged
    | ChatRenamed
    | GuestEntered
    | GuestRemoved
    | ChatDestroyed
)
CHAT_CHANGES: tuple[type, ...] = (
    OccupantCame,
    OccupantGone,
    OccupantRoll,
    SubjectChanged,
    ChatRenamed,
    GuestEntered,
    GuestRemoved,
    ChatDestroyed,
)


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
    first_room: RoomId | None = None
    """The room with which its line of upgrades began. None: it replaces none."""


class Replaced(Refused):
    """The room was upgraded, and everybody has moved on: `successor` is where it goes on."""

    def __init__(self, reason: str, *, successor: RoomAlias | RoomId) -> None:
        super().__init__(reason, rule="replaced")
        self.successor = successor


class ChatListener(Protocol):
    """What an adapter asks of the bridge. Methods raise `Refused`, `NotFound`, `Unavailable`."""

    async def accept(self, message: ChatMessage) -> bool:
        """Commits the message to the inbox, and with one of a foreign chat how far its archive has
        been read. False: it stands there already."""
        ...

    async def accept_change(self, change: ChatChange) -> None:
        """Commits what happened in a foreign chat to the inbox, behind what was said before."""
        ...

    def on_ephemeral(self, change: ChatEphemeral) -> None:
        """Only remembers it, within a bound. Never raises, never waits for the Matrix side."""
        ...

    async def is_visited(self, chat: str) -> bool:
        """Whether the foreign chat has a room, and so guests of ours may be in it."""
        ...

    async def find_room(self, target: RoomAlias | RoomId) -> RoomId:
        """The room behind an alias or a room ID, asked of its server where it is not ours.

        Replaced, here and in `describe_room` and `enter`, where it was upgraded.
        """
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

    async def public_rooms(
        self,
        *,
        limit: int,
        after: RoomId | None = None,
        before: RoomId | None = None,
        from_end: bool = False,
    ) -> PublicRooms:
        """The Matrix rooms that this gateway lists for everybody: a page behind a room, or the one
        before a room or before the end. NotFound where that room is not listed any more."""
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
class RoomMoved:
    """A room that we serve was upgraded. Whoever is in `replaces` under an address that leads to
    `room_id` now is in `room_id`; everybody else is told the new address (`Replaced`).

    It stands behind everything of the old room and before everything of the new one.
    """

    room_id: RoomId
    replaces: RoomId
    alias: RoomAlias | None
    """Of the old room; perhaps the new one's by now."""
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomNotice:
    """A line of the gateway's own to everybody in a room that we serve."""

    room_id: RoomId
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomInvite:
    """Somebody invited an address to a room; entering accepts, declining refuses."""

    to: str
    room_id: RoomId
    alias: RoomAlias | None
    name: str | None
    inviter: UserId
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestEnter:
    """A Matrix user came into the room of a foreign chat: they enter it, too.

    Delivered when the chat has let them in; Refused when it will not have them.
    """

    chat: str
    user_id: UserId
    displayname: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestLeave:
    """Idempotent: whoever is not in is not in."""

    chat: str
    user_id: UserId
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRename:
    """The display name has changed: they ask for a nickname that shows it."""

    chat: str
    user_id: UserId
    displayname: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPost:
    """A message for a foreign chat; its author enters first where needed.

    Who has no address of ours to speak from (a ghost in a plumbed room) or is one too many is
    spoken for by the relay, with `sender_name` before the text.
    """

    chat: str
    sender: UserId
    sender_name: str
    event_id: EventId
    room_id: RoomId
    at_ms: int
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSubject:
    chat: str
    sender: UserId
    text: str
    room_id: RoomId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAbandon:
    """The chat has no room any more: every guest of ours leaves it, the relay too."""

    chat: str
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
    | RoomMoved
    | RoomNotice
    | RoomInvite
    | GuestEnter
    | GuestLeave
    | GuestRename
    | ChatPost
    | ChatSubject
    | ChatAbandon
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
    RoomMoved,
    RoomNotice,
    RoomInvite,
    GuestEnter,
    GuestLeave,
    GuestRename,
    ChatPost,
    ChatSubject,
    ChatAbandon,
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

    def chat_of(self, alias: RoomAlias) -> str | None:
        """The foreign chat behind an alias of our server; None: it is an ordinary alias."""
        ...

    def alias_of(self, chat: str) -> RoomAlias:
        """Raises BadInput where the address is no chat's, or too long for an alias."""
        ...

    def link_of(self, address: str) -> str:
        """A link that opens the address in a client of the chat side (`xmpp:...`)."""
        ...


class ChatAdapter(Protocol):
    """A foreign network."""

    @property
    def name(self) -> str: ...

    async def deliver(self, delivery: Delivery, *, outbox_id: int, trace: TraceId) -> str | None:
        """Returns when the chat side has provably taken it, with the chat's own ID of a `ChatPost`
        if it gave one; `Unavailable`: not now; `Refused`: never. The same `outbox_id` goes out with
        the same stanza id."""
        ...

    async def describe(self, chat: str) -> ChatInfo:
        """Asks the chat, within a bound. NotFound: there is none; Refused: it does not say;
        Unavailable."""
        ...

    async def affiliation(self, chat: str, user_id: UserId) -> str | None:
        """What the chat says of a Matrix user, or of the address behind a ghost: `owner`, `admin`,
        `member`, `none` or `outcast`. None: nobody tells us, which allows nothing."""
        ...

    async def await_confirmation(self, chat: str, code: str, *, timeout_s: float) -> str | None:
        """Waits in the chat until an owner or admin of it writes `code` and nothing else; their
        nickname. None: nobody did in time."""
        ...

    def has_audience(self, *, room_id: RoomId | None = None, chat: str | None = None) -> bool:
        """Whether people of a room that we serve, or of a foreign chat, are shown who types and who
        has read: there are some, and not too many."""
        ...

    async def show(self, passing: Passing) -> None:
        """Shows it to whoever may see it and is there now. Never raises for what cannot be shown;
        nothing is tried again."""
        ...

    async def run(self) -> None: ...
