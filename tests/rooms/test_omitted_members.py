"""What a joining server is given when it asks for a state without members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bridge.engine.build import chosen_event_id, complete
from bridge.engine.pdu import Pdu
from bridge.engine.versions import get_version
from bridge.ids import RoomId, RoomVersionId, UserId
from tests.support.network import Network, Server, trace, wire
from tests.support.talk import VERSION_IDS, make_room

MEMBER = "m.room.member"


async def crowd(network: Network, version: str, count: int = 7) -> tuple[Server, Server, RoomId]:
    """A room with `count` more people of the first server, the second joined, the third invited."""
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version)
    for number in range(count):
        user_id = here.user(f"friend{number}")
        await here.backend.join(user_id=user_id, room_id=room_id, via=[])
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    return here, there, room_id


async def rename(here: Server, room_id: RoomId, name: str) -> None:
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.name",
        state_key="",
        content={"name": name},
        txn=f"name-{name}",
        trace=trace(),
    )


async def send_join(
    network: Network, here: Server, room_id: RoomId, version_id: str, *, omit: bool = True
) -> tuple[UserId, Pdu, dict[str, Any]]:
    """A third server joins by hand."""
    joiner = await network.add("joiner.example")
    user_id, version = joiner.user("late"), get_version(version_id)
    made = await here.rooms.answers.make_join(
        joiner.name, room_id, user_id, [RoomVersionId(version_id)]
    )
    template = {**wire(made["event"]), "origin_server_ts": network.clock.now_ms()}
    event_id = chosen_event_id(version, joiner.name, lambda: "late")
    join = complete(
        template, version=version, key=joiner.key, server=joiner.name, event_id=event_id
    )
    answer = await here.rooms.answers.send_join(
        joiner.name, room_id, join.event_id, wire(join.wire()), omit_members=omit
    )
    return user_id, join, wire(answer)


def parsed(jsons: Sequence[Any], version: str) -> dict[str, Pdu]:
    pdus = [Pdu.parse(one, get_version(version)) for one in jsons]
    assert len({pdu.event_id for pdu in pdus}) == len(pdus)
    return {pdu.event_id: pdu for pdu in pdus}


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_of_a_named_room_no_member_is_told_but_what_proves_it_is(
    network: Network, version: str
) -> None:
    here, there, room_id = await crowd(network, version)
    _, join, answer = await send_join(network, here, room_id, version)
    state, chain = parsed(answer["state"], version), parsed(answer["auth_chain"], version)
    assert answer["members_omitted"] is True
    assert answer["servers_in_room"] == [here.name, there.name]
    kinds = {pdu.type for pdu in state.values()}
    assert MEMBER not in kinds
    assert {"m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.name"} <= kinds
    # Nothing twice, and everything that an event rests on is there.
    assert state.keys() & chain.keys() == set()
    given = state | chain
    for pdu in (join, *given.values()):
        assert set(pdu.auth_events) <= given.keys()
    # No more members than the rest needs.
    needed = {one for pdu in (join, *given.values()) for one in pdu.auth_events}
    assert chain.keys() <= needed


@pytest.mark.parametrize("version", ["2", "6", "12", "I.1"])
async def test_of_a_room_without_a_name_its_heroes_are_told(network: Network, version: str) -> None:
    here, _, room_id = await crowd(network, version)
    await rename(here, room_id, "")
    _, _, answer = await send_join(network, here, room_id, version)
    state, chain = parsed(answer["state"], version), parsed(answer["auth_chain"], version)
    told = {pdu.state_key for pdu in state.values() if pdu.type == MEMBER}
    assert told == {here.user("maker"), *(here.user(f"friend{one}") for one in range(4))}
    assert answer["members_omitted"] is True
    for pdu in state.values():
        assert set(pdu.auth_events) <= state.keys() | chain.keys()


async def test_who_joins_is_no_hero_of_theirs(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here, public=False)
    await rename(here, room_id, "")
    joiner = await network.add("joiner.example")
    await here.backend.invite(
        room_id=room_id, sender=here.user("maker"), target=joiner.user("late"), txn="i"
    )
    version = get_version("12")
    made = await here.rooms.answers.make_join(
        joiner.name, room_id, joiner.user("late"), [version.id]
    )
    join = complete(
        {**wire(made["event"]), "origin_server_ts": network.clock.now_ms()},
        version=version,
        key=joiner.key,
        server=joiner.name,
    )
    answer = await here.rooms.answers.send_join(
        joiner.name, room_id, join.event_id, wire(join.wire()), omit_members=True
    )
    state, chain = parsed(answer["state"], "12"), parsed(answer["auth_chain"], "12")
    assert [one.state_key for one in state.values() if one.type == MEMBER] == [here.user("maker")]
    assert answer["members_omitted"] is True
    assert answer["servers_in_room"] == [here.name]
    # The invite proves the join.
    assert "invite" in {pdu.membership for pdu in chain.values()}


async def test_where_everybody_is_told_nothing_is_said_to_be_left_out(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here)
    await rename(here, room_id, "")
    _, _, answer = await send_join(network, here, room_id, "12")
    assert answer["members_omitted"] is False
    assert [one["state_key"] for one in answer["state"] if one["type"] == MEMBER] == [
        here.user("maker")
    ]


@pytest.mark.parametrize("version", ["1", "10", "12"])
async def test_who_does_not_ask_for_less_is_told_everything(network: Network, version: str) -> None:
    here, there, room_id = await crowd(network, version, 2)
    _, join, answer = await send_join(network, here, room_id, version, omit=False)
    state, chain = parsed(answer["state"], version), parsed(answer["auth_chain"], version)
    assert answer["members_omitted"] is False
    assert "servers_in_room" not in answer
    told = {pdu.state_key for pdu in state.values() if pdu.type == MEMBER}
    friends = (here.user("friend0"), here.user("friend1"))
    assert told == {here.user("maker"), there.user("guest"), *friends}
    for pdu in (join, *state.values(), *chain.values()):
        assert set(pdu.auth_events) <= chain.keys()
