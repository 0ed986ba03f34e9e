"""Foreign MUCs for scenarios: a moderator inside, a Matrix user who comes in by the alias."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pytest

from bridge.demo.people import MatrixPerson, Muc, SeenEvent, XmppPerson
from bridge.demo.servers import Synapse, XmppServer
from bridge.identity import localparts
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

ARRIVAL_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coven:
    """A MUC that its owner Romeo has entered; `alice` is on Matrix and not in yet.

    Nothing of Romeo's address stands in his nickname, so that it can be searched for.
    """

    gateway: Gateway
    alice: MatrixPerson
    romeo: Muc
    label: str

    @property
    def chat(self) -> str:
        return self.romeo.address

    @property
    def alias(self) -> str:
        return localparts.alias_for(self.chat, self.gateway.server_name)

    @property
    def guest_address(self) -> str:
        """Alice's address in the MUC."""
        return self.gateway.address(self.alice.user_id)

    async def join(self, nickname: str = "Alice") -> str:
        """Alice comes in, and Romeo sees her; the room's ID."""
        room_id = await self.alice.join(self.alias)
        await self.romeo.see_arrive(nickname, timeout_s=ARRIVAL_S)
        return room_id

    async def ghost_of(self, nickname: str, room_id: str) -> str:
        """The joined ghost with this name."""
        seen = await self.alice.wait_for(
            lambda seen: (
                seen.room_id == room_id
                and seen.membership == "join"
                and nickname in str(seen.content.get("displayname"))
                and (seen.state_key or "").endswith(f":{self.gateway.server_name}")
            ),
            what=f"{nickname} as a member",
            timeout_s=ARRIVAL_S,
        )
        return str(seen.state_key)


@pytest.fixture
async def coven(
    request: pytest.FixtureRequest,
    gateway: Gateway,
    xmpp_server: XmppServer,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> Coven:
    """People and a MUC of this test alone."""
    label = hashlib.sha256(request.node.name.encode()).hexdigest()[:6]
    alice = await matrix_person(synapse, f"alice-{label}")
    await alice.set_display_name("Alice")
    person = await xmpp_person(xmpp_server, f"montague-{label}")
    romeo = Muc(person, f"coven-{label}@{xmpp_server.muc_domain}")
    await romeo.enter("Romeo")
    return Coven(gateway=gateway, alice=alice, romeo=romeo, label=label)


async def open_bot_chat(person: MatrixPerson, gateway: Gateway) -> str:
    """A direct chat with the bot, which has greeted; the room's ID."""
    room_id = await person.create_direct(gateway.bot_id)
    await person.wait_for(
        lambda seen: (
            seen.room_id == room_id and seen.sender == gateway.bot_id and seen.body is not None
        ),
        what="the bot's greeting",
        timeout_s=ARRIVAL_S,
    )
    return room_id


async def ask_in_room(
    person: MatrixPerson, gateway: Gateway, room_id: str, line: str, *, expect: str = ""
) -> str:
    """Say a line; the bot's answer, which contains what is expected."""
    start = person.position
    await person.say(room_id, line)
    seen = await person.wait_for(
        lambda seen: (
            seen.room_id == room_id
            and seen.sender == gateway.bot_id
            and expect.lower() in (seen.body or "").lower()
            and seen.body is not None
        ),
        what=f"the answer to {line!r} with {expect!r}",
        timeout_s=ARRIVAL_S,
        since=start,
    )
    return seen.body or ""


async def ask_on_xmpp(person: XmppPerson, bot: str, line: str, *, expect: str = "") -> str:
    """The same, to an address of the bot."""
    start = person.position
    person.say(bot, line)
    stanza = await person.wait_for(
        lambda stanza: (
            stanza.kind == "message"
            and stanza.bare_sender == bot
            and stanza.type != "error"
            and stanza.body is not None
            and expect.lower() in stanza.body.lower()
        ),
        what=f"the answer to {line!r} with {expect!r}",
        timeout_s=ARRIVAL_S,
        since=start,
    )
    return stanza.body or ""


def bodies(events: list[SeenEvent], room_id: str, sender: str | None = None) -> list[str]:
    """What people said in a room, in the order of arrival."""
    return [
        seen.body
        for seen in events
        if seen.section == "timeline"
        and seen.room_id == room_id
        and seen.body is not None
        and seen.type in ("m.room.message", "m.message")
        and seen.content.get("msgtype") != "m.notice"
        and sender in (None, seen.sender)
    ]


def moves(events: list[SeenEvent], room_id: str) -> list[str]:
    """Memberships that changed in a room: `USER MEMBERSHIP`."""
    return [
        f"{seen.state_key} {seen.membership}"
        for seen in events
        if seen.section in ("timeline", "left")
        and seen.room_id == room_id
        and seen.membership is not None
    ]


def said_in(person: XmppPerson, room: str, since: int = 0) -> list[str]:
    """Live messages of a MUC as somebody in it heard them."""
    return [
        stanza.body
        for stanza in person.transcript.since(since)
        if stanza.type == "groupchat"
        and stanza.bare_sender == room
        and stanza.body is not None
        and not stanza.is_delayed
    ]
