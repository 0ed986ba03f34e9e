"""A third-party invite becomes an invite when the invited one's server asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from bridge.engine.keys import SigningKey
from bridge.engine.signing import sign_json
from bridge.errors import BadInput, NotFound, Refused
from bridge.ids import RoomId, ServerName, UserId
from tests.support.network import Network, Server, trace
from tests.support.talk import VERSION_IDS, heard, make_room, say

IDENTITY = ServerName("id.example")
KEY = SigningKey.from_seed("0", b"i" * 32)
TOKEN = "abc123"


@dataclass
class Offer:
    here: Server
    there: Server
    room_id: RoomId
    guest: UserId

    def signed(self, key: SigningKey = KEY, **wrong: Any) -> dict[str, Any]:
        block = {"mxid": str(self.guest), "token": TOKEN, **wrong}
        return sign_json(block, server=IDENTITY, key=key)

    def event(self, signed: Any = None, **wrong: Any) -> dict[str, Any]:
        return {
            "type": "m.room.member",
            "room_id": str(self.room_id),
            "sender": str(self.here.user("maker")),
            "state_key": str(self.guest),
            "content": {
                "membership": "invite",
                "third_party_invite": {
                    "display_name": "not the name",
                    "signed": signed or self.signed(),
                },
            },
            **wrong,
        }

    async def ask(self, event: Mapping[str, Any], origin: Server | None = None) -> None:
        asker = origin or self.there
        await self.here.rooms.answers.exchange_third_party_invite(
            asker.name, self.room_id, dict(event)
        )

    async def membership(self) -> str | None:
        member = await self.here.backend.member(self.room_id, self.guest)
        return None if member is None else member.membership


async def offered(network: Network, version: str = "12") -> Offer:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version, public=False)
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.third_party_invite",
        state_key=TOKEN,
        content={
            "display_name": "g...@mail.example",
            "key_validity_url": "https://id.example/valid",
            "public_key": KEY.verify_key_base64,
            "public_keys": [{"public_key": KEY.verify_key_base64}],
        },
        txn="offer",
        trace=trace(),
    )
    return Offer(here, there, room_id, there.user("guest"))


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_who_is_known_by_an_address_is_invited_and_joins(
    network: Network, version: str
) -> None:
    offer = await offered(network, version)
    await offer.ask(offer.event())
    assert await offer.membership() == "invite"
    member = (await offer.here.timeline(offer.room_id))[-1].pdu
    assert member.content["third_party_invite"] == {
        "display_name": "g...@mail.example",
        "signed": offer.signed(),
    }
    assert set(member.json["signatures"]) == {offer.here.name, offer.there.name}
    # The invited server was told as of any invite.
    told = await offer.there.backend.member(offer.room_id, offer.guest)
    assert told is not None
    assert told.membership == "invite"
    await offer.there.backend.join(user_id=offer.guest, room_id=offer.room_id, via=[])
    await network.deliver()
    await say(offer.here, offer.room_id, "maker", "welcome")
    await network.deliver()
    assert await heard(offer.there, offer.room_id) == ["welcome"]


async def test_asking_again_changes_nothing(network: Network) -> None:
    offer = await offered(network)
    await offer.ask(offer.event())
    await offer.ask(offer.event())
    invites = [
        one for one in await offer.here.timeline(offer.room_id) if one.pdu.membership == "invite"
    ]
    assert len(invites) == 1
    await offer.there.backend.join(user_id=offer.guest, room_id=offer.room_id, via=[])
    await offer.ask(offer.event())
    assert await offer.membership() == "join"


async def test_the_others_in_the_room_hear_of_it(network: Network) -> None:
    offer = await offered(network, "11")
    third = await network.add("third.example")
    friend = third.user("friend")
    await offer.here.backend.invite(
        room_id=offer.room_id, sender=offer.here.user("maker"), target=friend, txn="i"
    )
    await third.backend.join(user_id=friend, room_id=offer.room_id, via=[])
    await network.deliver()
    await offer.ask(offer.event())
    await network.deliver()
    seen = await third.backend.member(offer.room_id, offer.guest)
    assert seen is not None
    assert seen.membership == "invite"


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "m.room.name"},
        {"room_id": "!other:here.example"},
        {"state_key": None},
        {"state_key": "guest"},
        {"sender": 3},
        {"content": None},
        {"content": {"membership": "invite"}},
        {"content": {"membership": "join", "third_party_invite": {"signed": {"token": TOKEN}}}},
        {"content": {"membership": "invite", "third_party_invite": {"signed": {"token": 3}}}},
        {"content": {"membership": "invite", "third_party_invite": "x"}},
    ],
)
async def test_what_is_no_third_party_invite_is_bad_input(
    network: Network, wrong: dict[str, Any]
) -> None:
    offer = await offered(network)
    with pytest.raises(BadInput):
        await offer.ask(offer.event(**wrong))
    assert await offer.membership() is None


async def test_nobody_gets_in_by_a_block_that_the_identity_server_did_not_sign(
    network: Network,
) -> None:
    offer = await offered(network)
    other_key = SigningKey.from_seed("0", b"x" * 32)
    unsigned = {**offer.signed(), "signatures": {}}
    stolen = {**offer.signed(), "mxid": str(offer.there.user("thief"))}
    for signed in (
        offer.signed(other_key),
        unsigned,
        stolen,
        offer.signed(token="another"),
        offer.signed(mxid=str(offer.there.user("thief"))),
    ):
        with pytest.raises(Refused):
            await offer.ask(offer.event(signed))
    assert await offer.membership() is None


async def test_only_the_invited_server_asks_and_only_for_offers_of_ours(network: Network) -> None:
    offer = await offered(network)
    eve = await network.add("eve.example")
    with pytest.raises(Refused, match="no user of eve"):
        await offer.ask(offer.event(), eve)
    with pytest.raises(Refused, match="no user of ours"):
        await offer.ask(offer.event(sender=str(eve.user("maker"))))
    # Somebody else of ours did not make this offer.
    with pytest.raises(Refused):
        await offer.ask(offer.event(sender=str(offer.here.user("other"))))
    with pytest.raises(NotFound):
        await offer.here.rooms.answers.exchange_third_party_invite(
            offer.there.name, RoomId("!none:here.example"), offer.event()
        )
    assert await offer.membership() is None


async def test_the_banned_and_servers_that_the_room_shuts_out_are_refused(
    network: Network,
) -> None:
    offer = await offered(network)
    maker = offer.here.user("maker")
    for kind, key, content in (
        ("m.room.member", str(offer.guest), {"membership": "ban"}),
        ("m.room.server_acl", "", {"allow": ["*"], "deny": [offer.there.name]}),
    ):
        await offer.here.backend.send(
            room_id=offer.room_id,
            sender=maker,
            type=kind,
            state_key=key,
            content=content,
            txn=kind,
            trace=trace(),
        )
        with pytest.raises(Refused):
            await offer.ask(offer.event())
    assert await offer.membership() == "ban"


async def test_an_invited_server_that_does_not_take_it_leaves_no_invite(network: Network) -> None:
    offer = await offered(network)
    offer.there.lookups.attach(offer.there.listener)
    offer.there.listener.users = lambda user_id: False
    with pytest.raises(NotFound):
        await offer.ask(offer.event())
    assert await offer.membership() is None
