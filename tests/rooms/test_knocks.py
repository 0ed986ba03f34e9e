"""Our users knock on rooms that we are not in; how a knock ends."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.engine.build import Draft, PrevEvent, build_pdu
from bridge.engine.pdu import Pdu
from bridge.engine.versions import get_version
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomId, UserId
from bridge.rooms import outside
from bridge.rooms.handshake import KNOCKED_VERSIONS, SAME_KNOCK_MS
from bridge.rooms.query import TimelineEvent
from bridge.storage import streams
from bridge.storage.schema import stream_events
from tests.support.network import Network, Server, trace
from tests.support.talk import heard, make_room, say

VERSIONS = ("7", "9", "10", "11", "12", "I.1")


async def knocked_room(
    network: Network, version: str = "12", rule: str = "knock"
) -> tuple[Server, Server, RoomId, UserId]:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version, public=False)
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.join_rules",
        state_key="",
        content={"join_rule": rule},
        txn="rules",
        trace=trace(),
    )
    return here, there, room_id, there.user("guest")


async def knock(here: Server, there: Server, room_id: RoomId, **more: Any) -> None:
    await there.backend.knock(user_id=there.user("guest"), room_id=room_id, via=[here.name], **more)


async def told(server: Server) -> list[TimelineEvent]:
    rows = await server.database.read(lambda tx: streams.read_since(tx, stream_events, 0, 1000))
    ids = [EventId(row["event_id"]) for row in rows if not row["historic"]]
    shown = await server.rooms.queries.streamed(ids)
    return [shown[one] for one in ids if one in shown]


async def memberships(server: Server) -> list[tuple[str | None, str | None]]:
    """What the bridge side is told: each membership, and the one before."""
    return [(one.pdu.membership, one.previous_membership) for one in await told(server)]


async def membership_at(server: Server, room_id: RoomId, user_id: UserId) -> str | None:
    member = await server.backend.member(room_id, user_id)
    return None if member is None else member.membership


async def invite(here: Server, room_id: RoomId, guest: UserId) -> None:
    await here.backend.invite(
        room_id=room_id, sender=here.user("maker"), target=guest, txn="welcome"
    )


@pytest.mark.parametrize("version", VERSIONS)
async def test_who_knocked_is_invited_and_joins(network: Network, version: str) -> None:
    here, there, room_id, guest = await knocked_room(network, version)
    await knock(here, there, room_id, reason="It rains.")
    assert await membership_at(here, room_id, guest) == "knock"
    (shown,) = await told(there)
    assert shown.pdu.content["reason"] == "It rains."
    assert shown.invite is not None
    kinds = {one["type"]: one["content"] for one in shown.invite.room_state}
    assert kinds["m.room.name"] == {"name": "Garden"}
    assert "m.room.create" in kinds
    assert "m.room.member" not in kinds

    await invite(here, room_id, guest)
    assert await memberships(there) == [("knock", None), ("invite", "knock")]
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    await network.deliver()
    await say(here, room_id, "maker", "come in")
    await network.deliver()
    assert await heard(there, room_id) == ["come in"]
    assert await membership_at(here, room_id, guest) == "join"


@pytest.mark.parametrize("version", VERSIONS)
async def test_who_is_refused_is_told_with_the_reason(network: Network, version: str) -> None:
    here, there, room_id, guest = await knocked_room(network, version)
    await knock(here, there, room_id)
    await here.backend.kick(
        room_id=room_id, sender=here.user("maker"), target=guest, reason="We are full."
    )
    await network.deliver()
    assert await memberships(there) == [("knock", None), ("leave", "knock")]
    end = (await told(there))[-1].pdu
    assert (end.sender, end.content["reason"]) == (here.user("maker"), "We are full.")
    assert await membership_at(there, room_id, guest) == "leave"
    # They may ask again.
    await knock(here, there, room_id)
    assert await membership_at(here, room_id, guest) == "knock"


async def test_a_ban_ends_a_knock_too(network: Network) -> None:
    here, there, room_id, guest = await knocked_room(network)
    await knock(here, there, room_id)
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.member",
        state_key=guest,
        content={"membership": "ban"},
        txn="ban",
        trace=trace(),
    )
    await network.deliver()
    assert await memberships(there) == [("knock", None), ("ban", "knock")]
    with pytest.raises(Refused):
        await knock(here, there, room_id)


async def test_any_server_of_the_room_may_refuse(network: Network) -> None:
    here, there, room_id, guest = await knocked_room(network)
    third = await network.add("third.example")
    friend = third.user("friend")
    await invite(here, room_id, friend)
    await third.backend.join(user_id=friend, room_id=room_id, via=[])
    await network.deliver()
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.power_levels",
        state_key="",
        content={"users": {friend: 60}},
        txn="levels",
        trace=trace(),
    )
    await network.deliver()
    await knock(here, there, room_id)
    await network.deliver()
    await third.backend.kick(room_id=room_id, sender=friend, target=guest, reason=None)
    await network.deliver()
    assert await memberships(there) == [("knock", None), ("leave", "knock")]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_knock_is_taken_back(network: Network, version: str) -> None:
    here, there, room_id, guest = await knocked_room(network, version)
    await knock(here, there, room_id)
    await there.backend.leave(user_id=guest, room_id=room_id, reason="Found another garden.")
    assert await memberships(there) == [("knock", None), ("leave", "knock")]
    assert await membership_at(here, room_id, guest) == "leave"
    await there.backend.leave(user_id=guest, room_id=room_id)
    assert len(await told(there)) == 2


async def test_a_knock_that_nobody_can_take_back_is_forgotten(network: Network) -> None:
    here, there, room_id, guest = await knocked_room(network)
    await knock(here, there, room_id)
    network.lose_pdu = lambda peer, pdu: True
    await here.backend.kick(room_id=room_id, sender=here.user("maker"), target=guest, reason=None)
    await network.deliver()
    assert await membership_at(there, room_id, guest) == "knock"
    await there.backend.leave(user_id=guest, room_id=room_id)
    assert await membership_at(there, room_id, guest) is None


async def test_knocking_again_soon_is_the_same_knock_and_later_a_new_one(network: Network) -> None:
    here, there, room_id, guest = await knocked_room(network)
    await knock(here, there, room_id)
    await knock(here, there, room_id)
    assert len(await told(there)) == 1
    # A server that refuses without telling anybody must not keep somebody knocking for ever.
    network.lose_pdu = lambda peer, pdu: True
    await here.backend.kick(room_id=room_id, sender=here.user("maker"), target=guest, reason=None)
    await network.deliver()
    await network.clock.advance(SAME_KNOCK_MS / 1000 + 1)
    await knock(here, there, room_id)
    assert await membership_at(here, room_id, guest) == "knock"
    assert len(await told(there)) == 2


async def test_a_knock_outlives_a_restart(network: Network) -> None:
    here, there, room_id, guest = await knocked_room(network)
    await knock(here, there, room_id)
    there = await network.restart(there)
    await invite(here, room_id, guest)
    assert await memberships(there) == [("knock", None), ("invite", "knock")]


@pytest.mark.parametrize("version", ["1", "2", "3", "6"])
async def test_rooms_of_versions_before_7_are_not_knocked_on(
    network: Network, version: str
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version, public=False)
    assert version not in KNOCKED_VERSIONS
    with pytest.raises(Refused) as caught:
        await knock(here, there, room_id)
    assert caught.value.errcode == "M_INCOMPATIBLE_ROOM_VERSION"
    # Nor where a peer says that it could be done.
    network.tamper = lambda endpoint, answer: {**answer, "room_version": version}
    other = await make_room(here, "12", public=False, creator="other")
    await here.backend.send(
        room_id=other,
        sender=here.user("other"),
        type="m.room.join_rules",
        state_key="",
        content={"join_rule": "knock"},
        txn="rules",
        trace=trace(),
    )
    with pytest.raises(BadInput):
        await knock(here, there, other)
    assert await told(there) == []


async def test_a_room_that_takes_no_knocks_refuses(network: Network) -> None:
    here, there, room_id, _ = await knocked_room(network, rule="invite")
    with pytest.raises(Refused):
        await knock(here, there, room_id)
    with pytest.raises(NotFound):
        await there.backend.knock(user_id=there.user("guest"), room_id=room_id, via=[])
    here.down = True
    with pytest.raises(Unavailable):
        await knock(here, there, room_id)
    assert await told(there) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"membership": "join"},
        {"sender": "@maker:here.example"},
        {"state_key": "@other:there.example"},
        {"type": "m.room.message"},
        {"room_id": "!other:here.example"},
        {"content": None},
    ],
)
async def test_only_a_knock_of_our_user_is_signed(network: Network, wrong: dict[str, Any]) -> None:
    here, there, room_id, _ = await knocked_room(network, "11")

    def tampered(endpoint: str, answer: Any) -> Any:
        if endpoint != "make_knock":
            return answer
        event = {**answer["event"], **wrong}
        if "membership" in wrong:
            event = {**answer["event"], "content": wrong}
        return {**answer, "event": event}

    network.tamper = tampered
    with pytest.raises(BadInput):
        await knock(here, there, room_id)
    assert "send_knock" not in {one[0] for one in network.requests}


async def test_what_comes_with_a_knock_is_bounded(network: Network) -> None:
    here, there, room_id, _ = await knocked_room(network)
    junk: list[Any] = [None, 3, "x", {"type": "m.room.name", "content": {"name": "x" * 70_000}}]

    def tampered(endpoint: str, answer: Any) -> Any:
        if endpoint != "send_knock":
            return answer
        return {"knock_room_state": [*junk, *answer["knock_room_state"] * 20]}

    network.tamper = tampered
    await knock(here, there, room_id)
    (shown,) = await told(there)
    assert shown.invite is not None
    assert len(shown.invite.room_state) <= outside.MAX_STRIPPED_EVENTS
    assert all(set(one) <= set(outside.STRIPPED_KEYS) for one in shown.invite.room_state)


async def test_nobody_keeps_too_many_knocks(network: Network) -> None:
    network.outside_bounds = outside.OutsideBounds(knocks_per_user=1)
    here, there, room_id, guest = await knocked_room(network)
    await knock(here, there, room_id)
    with pytest.raises(Refused, match="too many knocks"):
        await there.backend.knock(
            user_id=guest, room_id=RoomId("!other:here.example"), via=[here.name]
        )


def forged(server: Server, room_id: RoomId, guest: UserId, auth: list[EventId]) -> Pdu:
    return build_pdu(
        Draft(
            room_id=room_id,
            type="m.room.member",
            sender=server.user("eve"),
            content={"membership": "leave"},
            state_key=guest,
        ),
        prev_events=[PrevEvent(event_id=EventId("$" + "p" * 43), depth=3)],
        auth_events=auth,
        version=get_version("12"),
        key=server.key,
        server=server.name,
        origin_server_ts=1_700_000_000_000,
    )


async def test_strangers_cannot_end_a_knock(network: Network) -> None:
    here, there, room_id, guest = await knocked_room(network)
    eve = await network.add("eve.example")
    await knock(here, there, room_id)
    (own,) = [one.pdu for one in await told(there)]
    for auth in ([], [EventId("$" + "a" * 43)]):
        pdu = forged(eve, room_id, guest, auth)
        verdicts = await network.hand_over(eve.name, there.name, [pdu.wire()])
        assert "error" in verdicts[pdu.event_id]
    # Not even with the knock's ID, where the event is another server's.
    pdu = forged(here, room_id, guest, [own.event_id])
    verdicts = await network.hand_over(eve.name, there.name, [pdu.wire()])
    assert "error" in verdicts[pdu.event_id]
    assert await membership_at(there, room_id, guest) == "knock"


async def test_a_knock_on_a_room_where_we_are_is_sent_like_any_event(network: Network) -> None:
    here, _, room_id, _ = await knocked_room(network)
    other = here.user("other")
    await here.backend.knock(user_id=other, room_id=room_id, via=[], reason="hello")
    await here.backend.knock(user_id=other, room_id=room_id, via=[])
    assert await membership_at(here, room_id, other) == "knock"
    assert [one.pdu.membership for one in await told(here)].count("knock") == 1
    with pytest.raises(Refused):
        await here.backend.knock(user_id=here.user("maker"), room_id=room_id, via=[])
