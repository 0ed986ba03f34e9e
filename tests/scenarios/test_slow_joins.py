"""Entering a Matrix room whose server takes its time: what somebody on a real Prosody sees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from bridge.demo.people import Stanza, XmppPerson
from bridge.demo.servers import CertificateAuthority, Prosody
from bridge.errors import Refused
from bridge.ids import RoomAlias
from tests.support.gateway import Gateway
from tests.support.peer import FakePeer
from tests.support.servers import MakeXmppPerson

IMPATIENT = {"xmpp": {"limits": {"join_hint_s": 0.3, "join_timeout_s": 2}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(prosody: Prosody, certificates: CertificateAuthority) -> AsyncIterator[Gateway]:
    async with Gateway(prosody, certificates, settings=IMPATIENT) as server:
        yield server


def open_room(peer: FakePeer, gateway: Gateway) -> str:
    """A public room of the peer; its address on XMPP."""
    gardener = peer.user("gardener")
    room = peer.make_room(gardener)
    peer.extend(room, gardener, "m.room.join_rules", {"join_rule": "public"}, state_key="")
    alias = RoomAlias(f"#garden:{peer.name}")
    peer.aliases[alias] = room.room_id
    return gateway.address(alias)


def by_bot(gateway: Gateway, begin: str) -> Callable[[Stanza], bool]:
    return lambda s: s.bare_sender == gateway.bot_address and (s.body or "").startswith(begin)


async def see_under_way(romeo: XmppPerson, gateway: Gateway, room: str, *, since: int = 0) -> None:
    begin = f"Entering {room} takes a while"
    await romeo.wait_for(by_bot(gateway, begin), what="that it is under way", since=since)


async def test_a_slow_server_is_spoken_of_and_then_they_are_in(
    gateway: Gateway, prosody: Prosody, peer: FakePeer, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(prosody, "romeo")
    room = open_room(peer, gateway)
    peer.lets_in.clear()
    romeo.send_raw(
        f"<presence to='{room}/Romeo'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
    )
    await see_under_way(romeo, gateway, room)
    peer.lets_in.set()
    await romeo.see_arrive(room, "Romeo")
    hints = [s for s in romeo.transcript.since(0) if by_bot(gateway, "Entering")(s)]
    assert len(hints) == 1


async def test_a_very_slow_server_ends_in_an_invitation_or_in_the_reason(
    gateway: Gateway, prosody: Prosody, peer: FakePeer, xmpp_person: MakeXmppPerson
) -> None:
    juliet = await xmpp_person(prosody, "juliet")
    room = open_room(peer, gateway)
    peer.lets_in.clear()
    peer.refuses_joins = True
    with pytest.raises(Refused) as late:
        await juliet.enter(room, "Juliet")
    assert late.value.rule == "remote-server-timeout"
    await see_under_way(juliet, gateway, room)
    peer.lets_in.set()
    told = await juliet.wait_for(
        by_bot(gateway, f"You could not enter {room} after all:"), what="why not"
    )
    assert "nobody comes in any more" in (told.body or "")

    since = juliet.position
    peer.lets_in.clear()
    peer.refuses_joins = False
    with pytest.raises(Refused):
        await juliet.enter(room, "Juliet")
    peer.lets_in.set()

    def is_invitation(stanza: Stanza) -> bool:
        return stanza.sender == room and any(
            node.tag.endswith("}invite") for node in stanza.element.iter()
        )

    await juliet.wait_for(is_invitation, what="the invitation", since=since)
    await juliet.enter(room, "Juliet")
