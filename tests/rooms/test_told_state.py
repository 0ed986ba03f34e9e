"""What others tell of a room beside an invite or a knock, and what we tell them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bridge.engine.pdu import Pdu
from bridge.engine.versions import get_version
from bridge.errors import BadInput
from bridge.ids import RoomId, RoomVersionId, ServerName, UserId
from bridge.rooms.handshake import KNOCKED_VERSIONS
from bridge.storage import invites
from tests.support.network import Network, Server, trace, wire
from tests.support.talk import VERSION_IDS, forge, make_room

Json = dict[str, Any]
Change = Callable[[list[Json]], list[Json]]


async def rooms_of(network: Network, version: str) -> tuple[Server, Server, RoomId, UserId]:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version, public=False)
    return here, there, room_id, there.user("guest")


async def whole_state(server: Server, room_id: RoomId) -> list[Json]:
    kinds = ("m.room.name", "m.room.topic", "m.room.create")
    found = [await server.rooms.queries.state(room_id, kind) for kind in kinds]
    return [wire(pdu.wire()) for (pdu,) in found]


async def give(here: Server, there: Server, network: Network, room_id: RoomId, told: Any) -> None:
    """An invite by `maker`, with this beside it."""
    maker, guest = here.user("maker"), there.user("guest")
    content = {"membership": "invite"}
    kind = "m.room.member"
    pdu = await forge(network, here, room_id, maker, type=kind, state_key=guest, content=content)
    await there.rooms.answers.invite(
        here.name, room_id, pdu.event_id, wire(pdu.wire()), pdu.version.id, wire(told)
    )


async def kept(there: Server, room_id: RoomId) -> dict[str, Any] | None:
    guest = there.user("guest")
    row = await there.database.read(lambda tx: invites.find(tx, room_id, guest))
    return None if row is None else {one["type"]: one["content"] for one in row.room_state}


def without_create(told: list[Json]) -> list[Json]:
    return [one for one in told if one["type"] != "m.room.create"]


def bare(told: list[Json]) -> list[Json]:
    keys = ("type", "state_key", "sender", "content")
    return [{key: one[key] for key in keys} for one in told]


def with_bare_name(told: list[Json]) -> list[Json]:
    return [*bare(told[:1]), *told[1:]]


def unsigned(told: list[Json]) -> list[Json]:
    return [{**told[0], "signatures": {}}, *told[1:]]


def forged(told: list[Json]) -> list[Json]:
    return [{**told[0], "origin_server_ts": 5}, *told[1:]]


def misshapen(told: list[Json]) -> list[Json]:
    return [{**told[0], "depth": "deep"}, *told[1:]]


def elsewhere(told: list[Json]) -> list[Json]:
    return [{**told[0], "room_id": "!elsewhere:here.example"}, *told[1:]]


WRONGS = (without_create, bare, with_bare_name, unsigned, forged, misshapen, elsewhere)


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_we_tell_whole_events_with_the_create_event(
    network: Network, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, room_id, guest = await rooms_of(network, version)
    told: list[Any] = []
    answer = there.rooms.answers.invite

    async def listen(*arguments: Any) -> Any:
        told.extend(arguments[5])
        return await answer(*arguments)

    monkeypatch.setattr(there.rooms.answers, "invite", listen)
    await here.backend.invite(
        room_id=room_id, sender=here.user("maker"), target=guest, txn="invite"
    )
    pdus = [Pdu.parse(one, get_version(version)) for one in told]
    assert {pdu.room_id for pdu in pdus} == {room_id}
    assert {"m.room.create", "m.room.name", "m.room.member"} <= {pdu.type for pdu in pdus}
    shown = await kept(there, room_id)
    assert shown is not None
    assert shown["m.room.name"] == {"name": "Garden"}


@pytest.mark.parametrize("change", WRONGS, ids=lambda one: str(one.__name__))
async def test_an_invite_into_a_12_needs_whole_events_of_the_room(
    network: Network, change: Change
) -> None:
    here, there, room_id, _ = await rooms_of(network, "12")
    told = await whole_state(here, room_id)
    with pytest.raises(BadInput) as caught:
        await give(here, there, network, room_id, change(told))
    assert caught.value.errcode == "M_INVALID_PARAM"
    assert await kept(there, room_id) is None
    await give(here, there, network, room_id, told)
    assert await kept(there, room_id) is not None


async def test_the_create_event_of_another_room_does_not_do_for_a_12(network: Network) -> None:
    here, there, room_id, _ = await rooms_of(network, "12")
    other = await make_room(here, "12", public=False, creator="other")
    told = await whole_state(here, room_id)
    theirs = (await whole_state(here, other))[-1]
    for wrong in ([*told[:2], theirs], [*told, theirs]):
        with pytest.raises(BadInput):
            await give(here, there, network, room_id, wrong)


@pytest.mark.parametrize("version", ["1", "6", "10", "11", "I.1"])
@pytest.mark.parametrize("change", WRONGS, ids=lambda one: str(one.__name__))
async def test_before_12_what_is_wrong_is_left_out(
    network: Network, change: Change, version: str
) -> None:
    here, there, room_id, _ = await rooms_of(network, version)
    told = await whole_state(here, room_id)
    await give(here, there, network, room_id, change(told))
    shown = await kept(there, room_id)
    assert shown is not None
    assert shown["m.room.topic"] == {"topic": "roses"}
    # A stripped event proves nothing and is shown; one that claims more must hold.
    is_bare = change in (bare, with_bare_name, without_create)
    assert ("m.room.name" in shown) == is_bare
    assert ("m.room.create" in shown) == (change is not without_create)


async def test_a_server_whose_keys_are_gone_keeps_nobody_out(network: Network) -> None:
    """The creator's server is long dead: the room ID proves the create event by itself."""
    here, there, _, _ = await rooms_of(network, "12")
    gone = await network.add("gone.example")
    other = await make_room(gone, "12", public=True)
    told = await whole_state(gone, other)
    await here.backend.join(user_id=here.user("maker"), room_id=other, via=[gone.name])
    await gone.backend.send(
        room_id=other,
        sender=gone.user("maker"),
        type="m.room.power_levels",
        state_key="",
        content={"invite": 0},
        txn="levels",
        trace=trace(),
    )
    await network.deliver()
    network.keys_away.add(ServerName("gone.example"))
    await give(here, there, network, other, told)
    shown = await kept(there, other)
    assert shown is not None
    assert set(shown) == {"m.room.create"}


@pytest.mark.parametrize("version", ["11", "12"])
async def test_of_a_knocks_answer_only_what_holds_is_shown(network: Network, version: str) -> None:
    assert RoomVersionId(version) in KNOCKED_VERSIONS
    here, there, room_id, guest = await rooms_of(network, version)
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.join_rules",
        state_key="",
        content={"join_rule": "knock"},
        txn="rules",
        trace=trace(),
    )
    told = await whole_state(here, room_id)

    def tampered(endpoint: str, answer: Any) -> Any:
        if endpoint != "send_knock":
            return answer
        return {"knock_room_state": [*unsigned(told), *bare([told[1]])[:1]]}

    network.tamper = tampered
    await there.backend.knock(user_id=guest, room_id=room_id, via=[here.name])
    shown = await kept(there, room_id)
    assert shown is not None
    assert set(shown) == {"m.room.create", "m.room.topic"}
    # Nothing that is stripped of what proves it, where whole events are the rule.
    network.tamper = lambda endpoint, answer: (
        {"knock_room_state": bare(told)} if endpoint == "send_knock" else answer
    )
    await network.clock.advance(61)
    await there.backend.knock(user_id=guest, room_id=room_id, via=[here.name])
    shown = await kept(there, room_id)
    assert shown is not None
    assert set(shown) == (set() if version == "12" else {one["type"] for one in told})
