"""Eve on a fake Matrix server, in a direct chat or a room with people on a real Prosody."""

from __future__ import annotations

import secrets

from bridge.demo.people import XmppPerson
from bridge.engine.pdu import Pdu
from bridge.ids import UserId
from tests.support.gateway import Gateway
from tests.support.peer import FakePeer, PeerRoom

PDUS = 50
"""As many as a transaction may have. Spec: S2S, transactions."""


async def make_direct_chat(gateway: Gateway, peer: FakePeer, person: XmppPerson) -> PeerRoom:
    """Eve's direct chat with the person's ghost, which has joined."""
    eve, ghost = peer.user("eve"), gateway.ghost(person.address)
    room = peer.make_room(eve)
    content = {"membership": "invite", "is_direct": True}
    invite = peer.build(room, eve, "m.room.member", content, state_key=ghost)
    status, answer = await peer.invite(gateway.server_name, room, invite)
    assert status == 200, answer
    await gateway.see_membership(ghost, room.room_id, "join")
    return room


def make_public_room(peer: FakePeer, *, members: int = 0) -> tuple[PeerRoom, str]:
    """Eve's room that anybody may join, with so many others in it; the room and its alias."""
    eve = peer.user("eve")
    room = peer.make_room(eve)
    peer.extend(room, eve, "m.room.join_rules", {"join_rule": "public"}, state_key="")
    for number in range(members):
        member = peer.user(f"member{number}")
        content = {"membership": "join", "displayname": f"Member {number}"}
        peer.extend(room, member, "m.room.member", content, state_key=member)
    alias = f"#room-{secrets.token_hex(4)}:{peer.name}"
    peer.aliases[alias] = room.room_id
    return room, alias


def write(peer: FakePeer, room: PeerRoom, bodies: list[str]) -> list[Pdu]:
    """Built and added to the room, not sent."""
    eve: UserId = peer.user("eve")
    content = ({"msgtype": "m.text", "body": body} for body in bodies)
    return [peer.extend(room, eve, "m.room.message", one) for one in content]


async def send_all(peer: FakePeer, server: str, pdus: list[Pdu]) -> None:
    """Transaction after transaction, as full as they may be."""
    for start in range(0, len(pdus), PDUS):
        await peer.send(server, *(pdu.wire() for pdu in pdus[start : start + PDUS]))
