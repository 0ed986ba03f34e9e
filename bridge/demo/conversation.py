"""What the people of the demo say to each other, and whether it arrived.

Each scene is a tuple of lines and a function that plays it. A line counts as arrived when every
reader got exactly that text (and, where it is formatted, the formatting) from its author. A scene
that cannot go on ends; the lines it still had are then missing.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bridge.adapters.xmpp.addresses import AddressBook, Jid
from bridge.demo.people import MatrixPerson, NotSeen, SeenEvent, XmppPerson
from bridge.demo.view import Side, View
from bridge.errors import IsthmusError, Unavailable
from bridge.identity.localparts import alias_for
from bridge.ids import RoomAlias, UserId

ALIAS: Final = "garden"
MUC: Final = "coven"
TOPIC: Final = "Roses, thorns and gateways"
FIRST_WAIT_S: Final = 60.0
WAIT_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What is said. `arrives_as` is the text on the other side where it differs."""

    author: str
    readers: tuple[str, ...]
    text: str
    html: str | None = None
    arrives_as: str | None = None
    arrives_with_html: str | None = None

    @property
    def expected(self) -> str:
        return self.arrives_as or self.text


MATRIX_BEGINS: Final = (
    Line(author="alice", readers=("juliet",), text="Good morning, Juliet! This is Alice."),
    Line(author="juliet", readers=("alice",), text="Good morning! I am on XMPP, and you?"),
    Line(
        author="alice",
        readers=("juliet",),
        text="On Matrix. Can you see bold, quiet and code?",
        html="On Matrix. Can you see <strong>bold</strong>, <em>quiet</em> and <code>code</code>?",
        arrives_as="On Matrix. Can you see *bold*, _quiet_ and `code`?",
    ),
    Line(
        author="juliet",
        readers=("alice",),
        text="Yes, all three. Is this *bold* on your side?",
        arrives_with_html="<strong>bold</strong>",
    ),
    Line(author="alice", readers=("juliet",), text="It is. 🌹"),
)
XMPP_BEGINS: Final = (
    Line(author="romeo", readers=("bob",), text="Bob, are you there? It is Romeo."),
    Line(author="bob", readers=("romeo",), text="Just came in, and your message was waiting."),
    Line(author="romeo", readers=("bob",), text="Meet us in Alice's garden."),
)
ROOM: Final = (
    Line(author="alice", readers=("juliet", "romeo", "bob"), text="Welcome to the garden."),
    Line(author="juliet", readers=("alice", "bob", "romeo"), text="What is in a name?"),
    Line(author="romeo", readers=("alice", "bob", "juliet"), text="A rose, by any other ..."),
    Line(author="bob", readers=("juliet", "romeo", "alice"), text="... protocol, still a room."),
)
FOREIGN: Final = (
    Line(author="romeo", readers=("juliet", "alice", "bob"), text="This room lives on XMPP."),
    Line(author="alice", readers=("romeo", "juliet", "bob"), text="I came in by its alias."),
    Line(author="juliet", readers=("romeo", "alice", "bob"), text="We see you as one of us."),
    Line(author="bob", readers=("romeo", "juliet", "alice"), text="Then the gateway does its job."),
)
SCRIPT: Final = (*MATRIX_BEGINS, *XMPP_BEGINS, *ROOM, *FOREIGN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Who plays, by name, and the addresses of both worlds."""

    xmpp: Mapping[str, XmppPerson]
    matrix: Mapping[str, MatrixPerson]
    book: AddressBook
    muc_domain: str

    def ghost_of(self, name: str) -> str:
        """The Matrix user ID of somebody on XMPP."""
        return self.book.user_of(Jid.parse(self.xmpp[name].address)).user_id

    def address_of(self, name: str) -> str:
        """The JID of somebody on Matrix."""
        return str(self.book.jid_of(UserId(self.matrix[name].user_id)))

    @property
    def alias(self) -> str:
        """The garden, on Matrix."""
        server = self.matrix["alice"].user_id.partition(":")[2]
        return f"#{ALIAS}:{server}"

    @property
    def muc(self) -> str:
        """A room of the XMPP server."""
        return f"{MUC}@{self.muc_domain}"

    @property
    def muc_alias(self) -> str:
        """The same, on Matrix."""
        return alias_for(self.muc, self.book.server)

    @property
    def room(self) -> str:
        """The garden, on XMPP."""
        return str(self.book.jid_of(RoomAlias(self.alias)))


Say = Callable[[Line], Awaitable[object] | object]
Hear = Callable[[str, Line], Awaitable[None]]


class Conversation:
    """Plays the script once. `missing` and `first_message_s` tell how it went."""

    def __init__(self, *, cast: Cast, view: View) -> None:
        self._cast = cast
        self._view = view
        self._arrived: set[tuple[Line, str]] = set()
        self.first_message_s: float | None = None
        """Of `time.monotonic()`: when the first line had crossed."""
        self.failures: list[str] = []

    @property
    def missing(self) -> list[str]:
        """A line for each text that somebody did not get, and for what was to be seen besides."""
        return self.failures + [
            f"{line.author} -> {reader}: {line.expected}"
            for line in SCRIPT
            for reader in line.readers
            if (line, reader) not in self._arrived
        ]

    @property
    def arrived_count(self) -> int:
        return len(self._arrived)

    async def play(self) -> None:
        await self._scene("A direct chat, begun on Matrix", self._matrix_begins)
        await self._scene("A direct chat, begun on XMPP", self._xmpp_begins)
        await self._scene("A room made on Matrix, entered from XMPP", self._meet_in_room)
        await self._scene("A room of the XMPP server, entered from Matrix", self._meet_in_muc)

    async def _scene(self, title: str, play: Callable[[], Awaitable[None]]) -> None:
        self._view.heading(title)
        try:
            await play()
        except NotSeen as exc:
            self._fail(title, exc.reason.partition(";")[0])
        except IsthmusError as exc:
            self._fail(title, exc.reason)

    def _fail(self, title: str, reason: str) -> None:
        self.failures.append(f"{title}: {reason}")
        self._view.note(f"!! {reason}")

    async def _pass_on(self, line: Line, say: Say, hear: Hear) -> None:
        """Says it and waits until every reader has it."""
        side: Side = "XMPP" if line.author in self._cast.xmpp else "Matrix"
        self._view.line(side, line.author, f"-> {line.text}")
        said = say(line)
        if inspect.isawaitable(said):
            await said
        for reader in line.readers:
            await hear(reader, line)
            self._arrived.add((line, reader))
            if self.first_message_s is None:
                self.first_message_s = time.monotonic()

    # -- direct chats ---------------------------------------------------------------------------

    async def _matrix_begins(self) -> None:
        alice = self._cast.matrix["alice"]
        ghost = self._cast.ghost_of("juliet")
        room = await alice.create_direct(ghost)
        await self._talk(MATRIX_BEGINS, "alice", "juliet", room)

    async def _xmpp_begins(self) -> None:
        romeo, bob = self._cast.xmpp["romeo"], self._cast.matrix["bob"]
        first, *rest = XMPP_BEGINS
        room = ""

        async def join_and_hear(_: str, line: Line) -> None:
            nonlocal room
            ghost = self._cast.ghost_of("romeo")
            invite = await bob.see_invite(sender=ghost, timeout_s=WAIT_S)
            room = invite.room_id
            await bob.join(room, via=(self._cast.book.server,))
            self._view.line("Matrix", "bob", "joins")
            await bob.hear(line.expected, room=room, sender=ghost, timeout_s=WAIT_S)

        await self._pass_on(
            first, lambda line: romeo.say(self._cast.address_of("bob"), line.text), join_and_hear
        )
        await self._talk(rest, "bob", "romeo", room)

    async def _talk(self, lines: Sequence[Line], matrix: str, xmpp: str, room: str) -> None:
        """Lines between two people in their direct chat."""
        there, here = self._cast.matrix[matrix], self._cast.xmpp[xmpp]
        address, ghost = self._cast.address_of(matrix), self._cast.ghost_of(xmpp)

        async def hear_on_xmpp(_: str, line: Line) -> None:
            await here.hear(line.expected, sender=address, timeout_s=self._patience_s)

        async def hear_on_matrix(_: str, line: Line) -> None:
            seen = await there.hear(
                line.expected, room=room, sender=ghost, timeout_s=self._patience_s
            )
            _check_formatting(line, seen)

        for line in lines:
            if line.author == matrix:
                await self._pass_on(line, lambda said: _say(there, room, said), hear_on_xmpp)
            else:
                await self._pass_on(line, lambda said: here.say(address, said.text), hear_on_matrix)

    @property
    def _patience_s(self) -> float:
        """The first message waits for the servers to get to know each other."""
        return FIRST_WAIT_S if self.first_message_s is None else WAIT_S

    # -- the room -------------------------------------------------------------------------------

    async def _meet_in_room(self) -> None:
        alice, bob = self._cast.matrix["alice"], self._cast.matrix["bob"]
        garden = await alice.create_room(
            name="The garden", topic=TOPIC, alias=ALIAS, preset="public_chat"
        )
        self._view.line("Matrix", "alice", f"makes {self._cast.alias}, topic: {TOPIC}")
        await bob.join(self._cast.alias)
        for name, person in self._cast.xmpp.items():
            self._view.line("XMPP", name, f"enters {self._cast.room}")
            entry = await person.enter(self._cast.room, name.capitalize(), timeout_s=FIRST_WAIT_S)
            if entry.subject.subject != TOPIC:
                self._fail("The room", f"{name} sees the topic {entry.subject.subject!r}")
            await alice.see_membership(garden, self._cast.ghost_of(name), "join", timeout_s=WAIT_S)
        nicknames = {
            **{
                name: person.nickname_in(self._cast.room)
                for name, person in self._cast.xmpp.items()
            },
            **{name: name.capitalize() for name in self._cast.matrix},
        }

        async def hear(reader: str, line: Line) -> None:
            if reader in self._cast.xmpp:
                stanza = await self._cast.xmpp[reader].hear(
                    line.expected, sender=self._cast.room, timeout_s=WAIT_S
                )
                if stanza.nickname != nicknames[line.author]:
                    raise Unavailable(f"{reader} heard {line.author} as {stanza.nickname!r}")
                return
            author = (
                self._cast.ghost_of(line.author)
                if line.author in self._cast.xmpp
                else self._cast.matrix[line.author].user_id
            )
            await self._cast.matrix[reader].hear(
                line.expected, room=garden, sender=author, timeout_s=WAIT_S
            )

        def say(line: Line) -> Awaitable[object] | object:
            if line.author in self._cast.xmpp:
                return self._cast.xmpp[line.author].say_in(self._cast.room, line.text)
            return _say(self._cast.matrix[line.author], garden, line)

        for line in ROOM:
            await self._pass_on(line, say, hear)

    async def _meet_in_muc(self) -> None:
        cast = self._cast
        for name, person in cast.xmpp.items():
            self._view.line("XMPP", name, f"enters {cast.muc}")
            await person.enter(cast.muc, name.capitalize(), timeout_s=WAIT_S)
        rooms: dict[str, str] = {}
        for name, user in cast.matrix.items():
            self._view.line("Matrix", name, f"joins {cast.muc_alias}")
            rooms[name] = await user.join(cast.muc_alias)
            for witness in cast.xmpp.values():
                await witness.see_arrive(cast.muc, name.capitalize(), timeout_s=WAIT_S)

        async def hear(reader: str, line: Line) -> None:
            if reader in cast.matrix:
                await cast.matrix[reader].hear(line.expected, room=rooms[reader], timeout_s=WAIT_S)
                return
            stanza = await cast.xmpp[reader].hear(line.expected, sender=cast.muc, timeout_s=WAIT_S)
            if stanza.nickname != line.author.capitalize():
                raise Unavailable(f"{reader} heard {line.author} as {stanza.nickname!r}")

        def say(line: Line) -> Awaitable[object] | object:
            if line.author in cast.xmpp:
                return cast.xmpp[line.author].say_in(cast.muc, line.text)
            return _say(cast.matrix[line.author], rooms[line.author], line)

        for line in FOREIGN:
            await self._pass_on(line, say, hear)


def _say(person: MatrixPerson, room: str, line: Line) -> Awaitable[object]:
    if line.html is not None:
        return person.say_html(room, line.text, line.html)
    return person.say(room, line.text)


def _check_formatting(line: Line, seen: SeenEvent) -> None:
    if line.arrives_with_html is None:
        return
    html = str(seen.content.get("formatted_body", ""))
    if line.arrives_with_html not in html:
        raise Unavailable(f"the formatting of {line.text!r} was lost: {html!r}")
