"""The rules of the house at the doors of rooms: in, out, and what others tell of the denied."""

from __future__ import annotations

import pytest

from bridge.engine.versions import VERSIONS
from bridge.errors import Refused, Unavailable
from bridge.ids import RoomAlias, RoomId
from bridge.policy.limits import Buckets, Limits, Rate
from bridge.policy.rules import Action, RuleTable, read_rule
from tests.support.network import Network, Server
from tests.support.talk import forge, make_room, say

EVERY_VERSION = list(VERSIONS)


def obey(server: Server, *lines: str) -> None:
    rules = []
    for number, line in enumerate(lines, 1):
        action, *words = line.split()
        rules.append(read_rule(words, action=Action(action), rule_id=number))
    server.house.replace(RuleTable.of(rules))


async def shared_room(network: Network) -> tuple[Server, Server, RoomId]:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    return here, there, room_id


async def test_a_transaction_of_a_denied_server_is_refused_and_nothing_is_stored(
    network: Network,
) -> None:
    here, there, room_id = await shared_room(network)
    pdu = await forge(network, there, room_id, there.user("guest"))
    obey(here, "deny server there.example")
    with pytest.raises(Refused) as caught:
        await network.hand_over(there.name, here.name, [pdu.wire()])
    assert caught.value.rule == "policy.1"
    obey(here)
    # What the peer sends again comes in as if nothing had been.
    told = await network.hand_over(there.name, here.name, [pdu.wire()])
    assert told == {pdu.event_id: {}}
    assert pdu.event_id in [one.pdu.event_id for one in await here.timeline(room_id)]


async def test_what_others_hand_on_of_a_denied_server_is_dropped_with_the_rule(
    network: Network,
) -> None:
    here, there, room_id = await shared_room(network)
    third = await network.add("third.example")
    pdu = await forge(network, there, room_id, there.user("guest"))
    obey(here, "deny server there.example")
    told = await network.hand_over(third.name, here.name, [pdu.wire()])
    assert "bot rule 1" in told[pdu.event_id]["error"]
    assert pdu.event_id not in [one.pdu.event_id for one in await here.timeline(room_id)]


async def test_events_of_a_denied_room_are_dropped(network: Network) -> None:
    here, there, room_id = await shared_room(network)
    pdu = await forge(network, there, room_id, there.user("guest"))
    obey(here, f"deny room {room_id}")
    told = await network.hand_over(there.name, here.name, [pdu.wire()])
    assert "is denied here" in told[pdu.event_id]["error"]


@pytest.mark.parametrize(
    "line",
    [
        "deny server there.example joins knocks",
        "deny user @other:there.example joins knocks",
        "deny room !* joins knocks",
    ],
)
async def test_who_is_denied_joins_and_knocks_on_no_room_of_ours(
    network: Network, line: str
) -> None:
    here, there, room_id = await shared_room(network)
    answers, other = here.rooms.answers, there.user("other")
    obey(here, line)
    for make in (answers.make_join, answers.make_knock):
        with pytest.raises(Refused) as caught:
            await make(there.name, room_id, other, EVERY_VERSION)
        assert caught.value.rule == "policy.1"
    # Who is in may go on.
    await say(there, room_id, "guest", "still here")
    await network.deliver()
    assert await here.bodies(room_id) == ["still here"]


async def test_an_exception_lets_one_user_of_a_denied_server_in(network: Network) -> None:
    here, there, room_id = await shared_room(network)
    obey(here, "deny server there.example joins", "allow user @other:there.example joins")
    await there.backend.join(user_id=there.user("other"), room_id=room_id, via=[here.name])


@pytest.mark.parametrize(
    "line", ["deny server there.example invites", "deny user @maker:there.example invites"]
)
async def test_no_invite_of_the_denied_comes_in(network: Network, line: str) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(there)
    obey(here, line)
    with pytest.raises(Refused, match="bot rule 1"):
        await there.backend.invite(
            room_id=room_id,
            sender=there.user("maker"),
            target=here.user("alice"),
            txn="i",
        )
    obey(here)
    await there.backend.invite(
        room_id=room_id,
        sender=there.user("maker"),
        target=here.user("alice"),
        txn="i",
    )
    member = await here.backend.member(room_id, here.user("alice"))
    assert member is not None
    assert member.membership == "invite"


async def test_we_invite_nobody_of_a_denied_server(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    obey(here, "deny server there.example invites")
    with pytest.raises(Refused, match="bot rule 1"):
        await here.backend.invite(
            room_id=room_id,
            sender=here.user("maker"),
            target=there.user("bob"),
            txn="i",
        )
    assert ("invite", here.name, there.name) not in network.requests


async def test_we_join_through_no_denied_server_and_into_no_denied_room(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(there)
    for line in ("deny server there.example joins", "deny room !* joins"):
        obey(here, line)
        with pytest.raises(Refused, match="bot rule 1"):
            await here.backend.join(user_id=here.user("bob"), room_id=room_id, via=[there.name])
    assert [one for one in network.requests if one[0] == "make_join"] == []
    obey(here)
    await here.backend.join(user_id=here.user("bob"), room_id=room_id, via=[there.name])


async def test_nobody_finds_a_room_by_a_denied_alias(network: Network) -> None:
    here, there, _ = await shared_room(network)
    alias = RoomAlias(f"#bad:{there.name}")
    obey(here, f"deny room {alias} joins")
    with pytest.raises(Refused, match="bot rule 1"):
        await here.backend.resolve_alias(alias)
    assert [one for one in network.requests if one[0] == "query_directory"] == []


@pytest.mark.parametrize("kind", ["empty", "of no room of ours", "repeated"])
async def test_transactions_that_bring_nothing_count_as_requests(
    network: Network, kind: str
) -> None:
    here, there, room_id = await shared_room(network)
    pdu = await forge(network, there, room_id, there.user("guest"), content={"body": "x"})
    await here.rooms.receiver.take(there.name, "repeated", [pdu.wire()], wait_s=0)
    pdus = {
        "empty": [],
        "of no room of ours": [{**pdu.wire(), "room_id": "!elsewhere:there.example"}],
        "repeated": [pdu.wire()],
    }[kind]
    here.rooms.receiver._limits = Limits(requests=Buckets(Rate(per_s=1, burst=3)))

    async def take(number: int) -> None:
        name = kind if kind == "repeated" else f"{kind} {number}"
        await here.rooms.receiver.take(there.name, name, pdus, wait_s=0)

    for number in range(3):
        await take(number)
    with pytest.raises(Unavailable) as caught:
        await take(3)
    assert (caught.value.errcode, caught.value.retry_after_s) == ("M_LIMIT_EXCEEDED", 1)
    network.clock.shift(1)
    await take(3)


@pytest.mark.parametrize("kind", ["server_events", "room_events"])
async def test_over_the_limit_nothing_is_stored_and_later_it_is(
    network: Network, kind: str
) -> None:
    network.limits = Limits(**{kind: Buckets(Rate(per_s=1, burst=2))})
    here, there, room_id = await shared_room(network)
    events = []
    for number in range(4):
        pdu = await forge(
            network, there, room_id, there.user("guest"), content={"body": str(number)}
        )
        events.append(pdu.wire())
    network.clock.shift(60)
    take = here.rooms.receiver.take
    await take(there.name, "first", events[:2], wait_s=0)
    with pytest.raises(Unavailable) as caught:
        await take(there.name, "second", events[2:], wait_s=0)
    assert caught.value.errcode == "M_LIMIT_EXCEEDED"
    assert caught.value.retry_after_s == 2
    # What was stored is answered as before; what is new is taken when the time has come.
    assert len(await take(there.name, "first", events[:2], wait_s=0)) == 2
    network.clock.shift(2)
    assert len(await take(there.name, "second", events[2:], wait_s=0)) == 2
