"""Direct chats: the version a peer gets, refusals, crashes between the steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select

from bridge.errors import NotFound, Refused, Unavailable
from bridge.ids import RoomId, RoomVersionId, ServerName
from bridge.storage import rooms as room_rows
from bridge.storage import version_hints
from bridge.storage.schema import rooms as rooms_table
from tests.support.network import Network, Server, trace
from tests.support.talk import heard, say

_SPEAKS_ALL = {RoomVersionId("I.1"): True, RoomVersionId("12"): True}


async def open_direct(server: Server, peer: Server, txn: str = "d1") -> RoomId:
    return await server.backend.open_direct(
        creator=server.user("juliet=40capulet.lit"),
        target=peer.user("romeo"),
        txn=txn,
        trace=trace(),
    )


async def stored_rooms(server: Server) -> list[str]:
    return await server.database.read(
        lambda tx: [row.room_id for row in tx.execute(select(rooms_table.c.room_id))]
    )


async def test_two_isthmuses_get_an_extensible_room(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await open_direct(here, there)
    info = await here.backend.room(room_id)
    assert (info.version, info.extensible, info.direct) == ("I.1", True, True)
    await there.backend.join(user_id=there.user("romeo"), room_id=room_id, via=[])
    await network.deliver()
    await say(here, room_id, "juliet=40capulet.lit", "o")
    await network.deliver()
    assert await heard(there, room_id) == ["o"]
    assert (await there.backend.room(room_id)).direct
    assert await there.database.read(lambda tx: version_hints.find(tx, here.name)) == {"I.1": True}


async def test_another_server_gets_the_first_configured_version(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    there.software = "Synapse"
    room_id = await open_direct(here, there)
    assert (await here.backend.room(room_id)).version == "12"
    await open_direct(here, there, txn="d2")
    assert [endpoint for endpoint, _, _ in network.requests].count("version") == 1


async def test_a_refused_version_is_followed_by_the_next_and_leaves_no_room(
    network: Network,
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    there.software = "Isthmus"
    there.refuses_versions = {"I.1", "12"}
    room_id = await open_direct(here, there)
    assert (await here.backend.room(room_id)).version == "11"
    assert await stored_rooms(here) == [room_id]
    ghost = here.user("juliet=40capulet.lit")
    assert await here.backend.joined_rooms(ghost) == [room_id]
    hints = await here.database.read(lambda tx: version_hints.find(tx, there.name))
    assert hints == {"I.1": False, "12": False, "11": True}
    network.requests.clear()
    await open_direct(here, there, txn="d2")
    assert [endpoint for endpoint, _, _ in network.requests] == ["invite"]


async def test_a_server_that_takes_no_version_is_a_refusal(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    there.refuses_versions = {"I.1", "12", "11", "10"}
    for txn in ("d1", "d1", "d2"):
        with pytest.raises(Refused):
            await open_direct(here, there, txn=txn)
    assert await stored_rooms(here) == []


async def test_an_unknown_user_leaves_no_room(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    there.listener.users = lambda user_id: False
    with pytest.raises(NotFound):
        await open_direct(here, there)
    assert await stored_rooms(here) == []


async def test_for_a_server_that_is_down_no_room_is_made_yet(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    there.down = True
    with pytest.raises(Unavailable):
        await open_direct(here, there)
    assert await stored_rooms(here) == []


async def test_a_lost_answer_and_a_restart_make_no_second_room(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    there.software = "Synapse"
    network.lose_answer = losing("invite")
    with pytest.raises(Unavailable):
        await open_direct(here, there)
    network.lose_answer = losing("")
    (waiting,) = await stored_rooms(here)
    here = await network.restart(here)
    # What is known of the peer may change in between; the room is the one that was begun.
    await here.database.write(lambda tx: version_hints.put(tx, there.name, _SPEAKS_ALL))
    assert await open_direct(here, there) == waiting
    assert await open_direct(here, there) == waiting
    assert await stored_rooms(here) == [waiting]
    await there.backend.join(user_id=there.user("romeo"), room_id=RoomId(waiting), via=[])
    await network.deliver()
    assert len(await here.backend.members(RoomId(waiting))) == 2


async def test_rooms_made_in_the_same_millisecond_are_different(network: Network) -> None:
    here = await network.add("here.example")
    made = {
        await here.backend.create_room(creator=here.user("bot"), txn=f"m{number}")
        for number in range(5)
    }
    assert len(made) == 5


async def test_a_direct_room_between_our_own_users_needs_nobody(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await open_direct(here, here)
    member = await here.backend.member(room_id, here.user("romeo"))
    assert member is not None
    assert member.membership == "invite"
    assert network.requests == []


async def test_a_purged_room_is_left_when_others_are_in_it(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await open_direct(here, there)
    await there.backend.join(user_id=there.user("romeo"), room_id=room_id, via=[])
    await network.deliver()
    await here.backend.purge(room_id)
    await network.deliver()
    members = await there.backend.members(room_id)
    assert [one.user_id for one in members] == [there.user("romeo")]
    row = await here.database.read(lambda tx: room_rows.find(tx, room_id))
    assert row is not None
    assert not row.joined


async def test_power_is_judged_by_effective_levels(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    there.software = "Synapse"
    room_id = await open_direct(here, there)
    power = await here.backend.power(room_id)
    creator, other = here.user("juliet=40capulet.lit"), there.user("romeo")
    assert power.level(creator) == float("inf")
    assert power.level(other) == 100
    assert power.needed("ban") == 50
    assert power.needed("state:m.room.tombstone") == 150
    assert power.may(other, "event:m.room.message")
    assert not power.may(other, "kick", creator)
    assert power.may(creator, "kick", other)
    assert not power.may(here.user("nobody"), "redact")


def losing(endpoint: str) -> Callable[[str, ServerName], bool]:
    return lambda asked, peer: asked == endpoint
