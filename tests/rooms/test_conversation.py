"""Rooms over several servers: create, invite, join, talk, leave; every version."""

from __future__ import annotations

import pytest

from bridge.errors import NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomAlias
from bridge.ports.matrix import Profile
from bridge.storage import events as event_rows
from bridge.storage import streams
from bridge.storage.schema import stream_events
from tests.support.network import Network, Server, trace
from tests.support.talk import VERSION_IDS, forge, heard, make_room, say


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_two_servers_talk_in_every_version(network: Network, version: str) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    await say(here, room_id, "maker", "hello")
    await network.deliver()
    await say(there, room_id, "guest", "hi")
    await network.deliver()
    assert await heard(here, room_id) == ["hello", "hi"]
    assert await heard(there, room_id) == ["hello", "hi"]
    info = await there.backend.room(room_id)
    assert (info.name, info.topic, info.join_rule) == ("Garden", "roses", "public")
    assert info.version == version


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_an_invite_into_a_closed_room_is_shown_and_accepted(
    network: Network, version: str
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version, public=False)
    guest = there.user("guest")
    with pytest.raises(Refused):
        await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
    await here.backend.invite(room_id=room_id, sender=here.user("maker"), target=guest, txn="i1")
    member = await there.backend.member(room_id, guest)
    assert member is not None
    assert member.membership == "invite"
    with pytest.raises(NotFound):
        await there.backend.room(room_id)
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    await network.deliver()
    members = await here.backend.members(room_id)
    assert [one.user_id for one in members] == [here.user("maker"), guest]


async def test_an_invite_is_refused(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, public=False)
    guest = there.user("guest")
    await here.backend.invite(room_id=room_id, sender=here.user("maker"), target=guest, txn="i1")
    await there.backend.leave(user_id=guest, room_id=room_id)
    await there.backend.leave(user_id=guest, room_id=room_id)
    member = await here.backend.member(room_id, guest)
    assert member is not None
    assert member.membership == "leave"
    shown = await there.rooms.queries.streamed([EventId(one) for one in await _streamed_ids(there)])
    in_order = sorted(shown.values(), key=lambda one: one.position)
    assert [one.pdu.membership for one in in_order] == ["invite", "leave"]


async def test_an_invite_is_taken_back(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, public=False)
    guest = there.user("guest")
    await here.backend.invite(room_id=room_id, sender=here.user("maker"), target=guest, txn="i1")
    await network.deliver()
    await here.backend.kick(
        room_id=room_id, sender=here.user("maker"), target=guest, reason="a mistake"
    )
    await network.deliver()
    member = await there.backend.member(room_id, guest)
    assert member is not None
    assert member.membership == "leave"


async def test_a_room_that_all_our_users_left_is_entered_again(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    guest = there.user("guest")
    await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
    await network.deliver()
    await there.backend.leave(user_id=guest, room_id=room_id)
    await network.deliver()
    with pytest.raises(NotFound):
        await there.backend.room(room_id)
    await say(here, room_id, "maker", "while you were away")
    await network.deliver()
    await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
    await network.deliver()
    await say(here, room_id, "maker", "welcome back")
    await network.deliver()
    assert await heard(there, room_id) == ["while you were away", "welcome back"]
    assert [one.user_id for one in await there.backend.members(room_id)] == [
        here.user("maker"),
        guest,
    ]


async def test_users_of_one_server_need_no_federation(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here, public=False)
    ghost = here.user("ghost=40chat")
    await here.backend.invite(room_id=room_id, sender=here.user("maker"), target=ghost, txn="i1")
    await here.backend.join(user_id=ghost, room_id=room_id, via=[])
    await say(here, room_id, "ghost=40chat", "boo")
    assert await heard(here, room_id) == ["boo"]
    assert network.requests == []


async def test_the_same_transaction_id_is_one_event(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here)
    first = await say(here, room_id, "maker", "once", txn="x")
    assert await say(here, room_id, "maker", "once", txn="x") == first
    assert await make_room(here) == room_id
    assert await heard(here, room_id) == ["once"]


async def test_a_transaction_id_survives_a_restart(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here)
    first = await say(here, room_id, "maker", "once", txn="x")
    here = await network.restart(here)
    assert await say(here, room_id, "maker", "once", txn="x") == first
    await say(here, room_id, "maker", "twice")
    assert await heard(here, room_id) == ["once", "twice"]


async def test_a_join_whose_answer_was_lost_is_done_again(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    guest = there.user("guest")
    network.lose_answer = lambda endpoint, peer: endpoint == "send_join"
    with pytest.raises(Unavailable):
        await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
    network.lose_answer = lambda endpoint, peer: False
    there = await network.restart(there)
    await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
    await network.deliver()
    await say(there, room_id, "guest", "hi")
    await network.deliver()
    assert await heard(here, room_id) == ["hi"]
    joined = [one.user_id for one in await here.backend.members(room_id)]
    assert joined == [here.user("maker"), guest]


async def test_the_next_server_of_via_is_tried(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    gone = await network.add("gone.example")
    gone.down = True
    room_id = await make_room(here)
    await there.backend.join(
        user_id=there.user("guest"), room_id=room_id, via=[gone.name, here.name]
    )
    assert (await there.backend.room(room_id)).name == "Garden"


async def test_a_third_server_hears_of_who_is_let_in(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    third = await network.add("third.example")
    room_id = await make_room(here)
    await there.backend.join(user_id=there.user("one"), room_id=room_id, via=[here.name])
    await network.deliver()
    await third.backend.join(user_id=third.user("two"), room_id=room_id, via=[there.name])
    await network.deliver()
    await say(third, room_id, "two", "hello all")
    await network.deliver()
    for server in (here, there, third):
        assert await heard(server, room_id) == ["hello all"]
        assert len(await server.backend.members(room_id)) == 3


async def test_a_kicked_server_hears_of_its_kick(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    guest = there.user("guest")
    await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
    await network.deliver()
    await here.backend.kick(
        room_id=room_id, sender=here.user("maker"), target=guest, reason="enough"
    )
    await network.deliver()
    member = await there.backend.member(room_id, guest)
    assert member is not None
    assert member.membership == "leave"
    with pytest.raises(NotFound):
        await there.backend.room(room_id)


async def test_a_user_that_does_not_exist_is_not_invited(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    there.listener.users = lambda user_id: False
    room_id = await make_room(here, public=False)
    with pytest.raises(NotFound):
        await here.backend.invite(
            room_id=room_id, sender=here.user("maker"), target=there.user("x"), txn="i"
        )


async def test_legacy_types_are_not_sent_into_extensible_rooms(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here, "I.1")
    with pytest.raises(Refused) as refused:
        await here.backend.send(
            room_id=room_id,
            sender=here.user("maker"),
            type="m.room.message",
            content={"body": "x", "msgtype": "m.text"},
            txn="x",
            trace=trace(),
        )
    assert refused.value.rule == "extensible"


async def test_an_alias_leads_another_server_into_the_room(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    alias = RoomAlias("#garden:here.example")
    room_id = await here.backend.create_room(
        creator=here.user("maker"), txn="m", alias=alias, public=True
    )
    found, servers = await there.backend.resolve_alias(alias)
    assert found == room_id
    await there.backend.join(user_id=there.user("guest"), room_id=found, via=servers)
    assert (await there.backend.room(room_id)).canonical_alias == alias
    with pytest.raises(NotFound):
        await there.backend.resolve_alias(RoomAlias("#nothing:here.example"))


async def test_a_profile_is_shown_in_rooms(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    await there.backend.set_profile(there.user("guest"), Profile(displayname="Juliet"))
    await there.backend.set_profile(there.user("guest"), Profile(displayname="Juliet"))
    await network.deliver()
    member = await here.backend.member(room_id, there.user("guest"))
    assert member is not None
    assert member.displayname == "Juliet"
    assert (await here.backend.profile(there.user("guest"))).displayname == "Juliet"


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_a_redaction_takes_the_text_everywhere(network: Network, version: str) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    said = await say(there, room_id, "guest", "oops")
    await network.deliver()
    await here.backend.redact(
        room_id=room_id, sender=here.user("maker"), target=said, txn="r", reason="rude"
    )
    await network.deliver()
    assert await heard(here, room_id) == ["(redacted)"]
    assert await heard(there, room_id) == ["(redacted)"]
    last = (await there.backend.timeline(room_id, limit=1))[0]
    assert last.redacts == said


async def test_a_redaction_without_the_right_to_it_changes_nothing(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    said = await say(here, room_id, "maker", "stays")
    await network.deliver()
    guest = there.user("guest")
    with pytest.raises(Refused):
        await there.backend.redact(room_id=room_id, sender=guest, target=said, txn="r", reason=None)
    # A server that does not tell its user sends it.
    useless = await forge(
        network, there, room_id, guest, type="m.room.redaction", content={"redacts": said}
    )
    await network.hand_over(there.name, here.name, [useless.wire()])
    stored = await here.database.read(lambda tx: event_rows.find(tx, [useless.event_id]))
    assert stored[useless.event_id].verdict == event_rows.ACCEPTED
    assert await heard(here, room_id) == ["stays"]
    assert "m.room.redaction" not in [
        one.type for one in await here.backend.timeline(room_id, limit=50)
    ]


async def _streamed_ids(server: Server) -> list[str]:
    rows = await server.database.read(lambda tx: streams.read_since(tx, stream_events, 0, 1000))
    return [row["event_id"] for row in rows]
