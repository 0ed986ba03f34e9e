"""What a broken or hostile server may try at the doors that are open to it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy import delete

from bridge.engine.build import Draft, PrevEvent, build_pdu
from bridge.engine.pdu import Pdu
from bridge.engine.versions import get_version
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomId, RoomVersionId, UserId
from bridge.rooms.outside import OutsideBounds
from bridge.storage import events as event_rows
from bridge.storage import invites
from bridge.storage import rooms as room_rows
from bridge.storage.database import Transaction
from bridge.storage.schema import event_edges
from tests.support.network import Network, Server, trace, wire
from tests.support.talk import forge, heard, make_room, room_at, say, two_in_a_room


def invite_event(
    origin: Server, room_id: RoomId, target: UserId, *, version: str, ts: int = 1, **content: Any
) -> Pdu:
    """Signed by its sender's server; the room need not exist."""
    return build_pdu(
        Draft(
            room_id=room_id,
            type="m.room.member",
            sender=origin.user("eve"),
            state_key=target,
            content={"membership": "invite", **content},
        ),
        prev_events=[PrevEvent(event_id=EventId("$before"), depth=4)],
        auth_events=[],
        version=get_version(version),
        key=origin.key,
        server=origin.name,
        origin_server_ts=ts,
    )


async def give_invite(
    origin: Server, to: Server, pdu: Pdu, version: str, told: Sequence[Any] = ()
) -> Any:
    return await to.rooms.answers.invite(
        origin.name, pdu.room_id, pdu.event_id, wire(pdu.wire()), RoomVersionId(version), told
    )


async def stored_invites(server: Server, room_id: RoomId) -> list[EventId]:
    rows = await server.database.read(lambda tx: invites.of_room(tx, room_id))
    return [row.event_id for row in rows]


async def test_a_template_puts_no_words_into_our_users_mouth(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)

    def smuggle(endpoint: str, answer: Any) -> Any:
        if endpoint != "make_join":
            return answer
        version, event = answer["room_version"], answer["event"]
        content = {**event["content"], "displayname": "Fool", "org.example.owes": 1000}
        return {"room_version": version, "event": {**event, "content": content, "extra": True}}

    network.tamper = smuggle
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    member = await there.rooms.queries.member(room_id, there.user("guest"))
    assert member is not None
    assert member.content == {"membership": "join"}
    assert "extra" not in member.json


async def test_an_invite_says_nothing_final_about_the_rooms_version(network: Network) -> None:
    """The room is a 12; an invite that says 11 must not spoil the join."""
    here, there, eve = [await network.add(f"{one}.example") for one in ("here", "there", "eve")]
    room_id = await make_room(here)
    guest = there.user("guest")
    odd = RoomId("!odd:here.example")
    for version, ts in (("11", 1), ("10", 2)):
        pdu = invite_event(eve, odd, guest, version=version, ts=ts)
        await give_invite(eve, there, pdu, version)
        row = await there.database.read(lambda tx: room_rows.find(tx, odd))
        assert row is not None
        assert row.version == version
    with pytest.raises(BadInput):
        await give_invite(eve, there, invite_event(eve, room_id, guest, version="11"), "11")
    with pytest.raises(BadInput):
        await give_invite(eve, there, invite_event(eve, odd, guest, version="12"), "12")
    eleven = await make_room(here, "11")
    await give_invite(eve, there, invite_event(eve, eleven, guest, version="10"), "10")
    await there.backend.join(user_id=guest, room_id=eleven, via=[here.name])
    assert (await room_at(there, eleven)).version.id == "11"
    assert await stored_invites(there, eleven) == []
    with pytest.raises(BadInput):
        await give_invite(eve, there, invite_event(eve, eleven, guest, version="10"), "10")
    await there.backend.leave(user_id=guest, room_id=eleven)
    with pytest.raises(BadInput):
        await give_invite(eve, there, invite_event(eve, eleven, guest, version="10"), "10")
    assert await stored_invites(there, eleven) == []


@pytest.mark.parametrize(
    ("bounds", "others_may"),
    [(OutsideBounds(invites_per_user=5), True), (OutsideBounds(invites_per_server=5), False)],
    ids=["per user", "per server"],
)
async def test_invites_of_one_server_are_bounded(
    network: Network, bounds: OutsideBounds, others_may: bool
) -> None:
    network.outside_bounds = bounds
    here, eve = await network.add("here.example"), await network.add("eve.example")
    target = here.user("guest")

    async def give(number: int, user: UserId) -> None:
        room_id = RoomId(f"!{number}:eve.example")
        await give_invite(eve, here, invite_event(eve, room_id, user, version="11"), "11")

    for number in range(5):
        await give(number, target)
    with pytest.raises(Unavailable) as refused:
        await give(1000, target)
    assert refused.value.retry_after_s
    assert refused.value.errcode == "M_LIMIT_EXCEEDED"
    assert await stored_invites(here, RoomId("!1000:eve.example")) == []
    other = here.user("other")
    if others_may:
        await give(1001, other)
    else:
        with pytest.raises(Unavailable):
            await give(1001, other)
    # There is room again as soon as one is answered.
    await here.backend.leave(user_id=target, room_id=RoomId("!0:eve.example"))
    await give(1000, target)


async def test_an_answered_invite_does_not_come_back(network: Network) -> None:
    here, eve = await network.add("here.example"), await network.add("eve.example")
    room_id = await make_room(eve, public=False)
    await eve.backend.invite(
        room_id=room_id, sender=eve.user("maker"), target=here.user("guest"), txn="i"
    )
    (event_id,) = await stored_invites(here, room_id)
    pdu = (await eve.rooms.queries.member(room_id, here.user("guest"))) or pytest.fail("no member")
    await here.backend.leave(user_id=here.user("guest"), room_id=room_id)
    assert await stored_invites(here, room_id) == []
    told = [one.wire() for one in await eve.rooms.queries.state(room_id, "m.room.create")]
    await give_invite(eve, here, pdu, "12", told)
    assert pdu.event_id == event_id
    assert await stored_invites(here, room_id) == []


async def test_a_server_that_the_room_keeps_out_cannot_invite(network: Network) -> None:
    here, eve = await network.add("here.example"), await network.add("eve.example")
    room_id = await make_room(here, "11")
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.server_acl",
        state_key="",
        content={"allow": ["*"], "deny": ["eve.example"]},
        txn="acl",
        trace=trace(),
    )
    pdu = invite_event(eve, room_id, here.user("guest"), version="11")
    with pytest.raises(Refused, match="not allowed"):
        await give_invite(eve, here, pdu, "11")


async def test_a_join_that_stands_on_nothing_is_bad_input(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    late = there.user("late")
    content = {"membership": "join"}
    member: dict[str, Any] = {"type": "m.room.member", "content": content, "state_key": late}
    for wrong in ({"auth": [EventId("$nowhere")]}, {"on": [(EventId("$nowhere"), 5)]}):
        pdu = await forge(network, there, room_id, late, **member, **wrong)
        with pytest.raises(BadInput):
            await here.rooms.answers.send_join(there.name, room_id, pdu.event_id, wire(pdu.wire()))
        known = await here.database.read(partial(event_rows.find, event_ids=[pdu.event_id]))
        assert known == {}


async def test_nobody_of_ours_is_invited_who_does_not_exist(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here)
    here.listener.users = lambda user_id: not user_id.startswith("@no")
    with pytest.raises(NotFound):
        await here.backend.invite(
            room_id=room_id, sender=here.user("maker"), target=here.user("nobody"), txn="i"
        )
    assert await here.backend.member(room_id, here.user("nobody")) is None


async def test_an_invite_from_outside_gets_its_place_in_the_graph_later(network: Network) -> None:
    """It was told when it came; its second coming must not stop the room."""
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(there)
    await there.backend.invite(
        room_id=room_id, sender=there.user("maker"), target=here.user("guest"), txn="i"
    )
    invite = (await there.rooms.queries.member(room_id, here.user("guest"))) or pytest.fail(
        "no member"
    )
    await here.backend.join(user_id=here.user("other"), room_id=room_id, via=[there.name])
    # As if our join stood on another branch: nothing that we have names the invite.
    forgotten = delete(event_edges).where(event_edges.c.prev_event_id == invite.event_id)
    await here.database.write(partial(Transaction.execute, statement=forgotten))
    answer = await network.hand_over(there.name, here.name, [invite.wire()])
    assert answer == {invite.event_id: {}}
    found = await here.database.read(lambda tx: event_rows.find(tx, [invite.event_id]))
    assert not found[invite.event_id].outlier
    told = [one.pdu.event_id for one in await here.timeline(room_id)]
    assert told.count(invite.event_id) == 1


async def test_what_the_sender_wrote_into_unsigned_is_not_stored(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    pdu = await forge(network, there, room_id, there.user("guest"))
    json = pdu.wire() | {"unsigned": {"padding": "x" * 300_000}}
    assert await network.hand_over(there.name, here.name, [json]) == {pdu.event_id: {}}
    assert await heard(here, room_id) == ["forged"]


async def test_a_type_with_a_nul_is_an_event_like_others(network: Network) -> None:
    here, there, room_id = await two_in_a_room(network)
    pdu = await forge(network, there, room_id, there.user("guest"), type="org.example\0odd")
    assert await network.hand_over(there.name, here.name, [pdu.wire()]) == {pdu.event_id: {}}
    row = (await here.database.read(lambda tx: event_rows.find(tx, [pdu.event_id])))[pdu.event_id]
    assert "\0" not in row.type
    await say(here, room_id, "maker", "after it")
    await network.deliver()
    assert await heard(there, room_id) == ["after it"]
