"""Whoever enters a room first finds its recent past, in order; nobody is told of it as of news."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from bridge.ids import EventId, RoomId, UserId
from bridge.rooms.bounds import DEFAULTS
from bridge.rooms.past import ENOUGH_MESSAGES
from bridge.storage import events as event_rows
from bridge.storage import streams
from bridge.storage.schema import stream_events
from tests.backends.test_feed import feeding, until
from tests.support.clock import FakeClock
from tests.support.network import Network, Server, trace
from tests.support.talk import VERSION_IDS, heard, make_room, room_at, say


async def room_with_past(
    network: Network, texts: list[str], version: str = "12"
) -> tuple[Server, Server, RoomId]:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version)
    for text in texts:
        network.clock.shift(1)
        await say(here, room_id, "maker", text)
    return here, there, room_id


async def enter(here: Server, there: Server, room_id: RoomId, user: str = "guest") -> None:
    await there.backend.join(user_id=there.user(user), room_id=room_id, via=[here.name])


async def change(
    server: Server, room_id: RoomId, type: str, content: dict[str, Any], state_key: str = ""
) -> EventId:
    return await server.backend.send(
        room_id=room_id,
        sender=server.user("maker"),
        type=type,
        state_key=state_key,
        content=content,
        txn=f"{type}{content}",
        trace=trace(),
    )


async def told(server: Server) -> list[dict[str, Any]]:
    """Rows of the arrival order that the bridge side hears of, or that are sent."""
    rows = await server.database.read(lambda tx: streams.read_since(tx, stream_events, 0, 1000))
    return [row for row in rows if row["outgoing"] or not row["historic"]]


async def seen_by(server: Server, room_id: RoomId, user: UserId) -> list[str]:
    return [
        one.content["body"]
        for one in await server.backend.timeline(room_id, limit=200, viewer=user)
        if one.state_key is None and not one.redacted and "body" in one.content
    ]


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_it_stands_before_the_join_in_order_with_its_times(
    network: Network, version: str
) -> None:
    here, there, room_id = await room_with_past(network, ["one", "two", "three"], version)
    await enter(here, there, room_id)
    await network.deliver()
    await say(here, room_id, "maker", "four")
    await network.deliver()
    assert await heard(there, room_id) == ["one", "two", "three", "four"]
    times = {one.pdu.event_id: one.pdu.origin_server_ts for one in await here.timeline(room_id)}
    line = await there.timeline(room_id)
    assert [one.pdu.event_id for one in line] == list(times)
    assert all(one.pdu.origin_server_ts == times[one.pdu.event_id] for one in line)


async def test_nobody_is_told_of_it_and_nothing_of_it_is_sent(network: Network) -> None:
    here, there, room_id = await room_with_past(network, ["one", "two"])
    await enter(here, there, room_id)
    rows = await told(there)
    line = await there.timeline(room_id)
    assert [row["event_id"] for row in rows] == [line[-1].pdu.event_id]
    assert line[-1].pdu.membership == "join"
    assert not any(row["outgoing"] for row in rows)


async def test_the_feed_passes_over_it(network: Network, clock: FakeClock) -> None:
    here, there, room_id = await room_with_past(network, ["one", "two"])
    await enter(here, there, room_id)
    await network.deliver()
    await say(here, room_id, "maker", "three")
    await network.deliver()
    async with feeding(there, clock) as feed:
        await until(lambda: len(there.listener.events) == 2, clock)
        newest = await there.database.read(lambda tx: streams.head(tx, stream_events))
        await until(lambda: feed.told_to == newest, clock)
    assert [one.content.get("body") for one in there.listener.events] == [None, "three"]
    assert there.listener.events[0].state_key == there.user("guest")


async def test_the_state_of_then_is_known(network: Network) -> None:
    here, there, room_id = await room_with_past(network, ["one"])
    await change(here, room_id, "m.room.topic", {"topic": "thorns"})
    await say(here, room_id, "maker", "two")
    await change(here, room_id, "m.room.topic", {"topic": "lilies"})
    await enter(here, there, room_id)
    mine, theirs = await room_at(here, room_id), await room_at(there, room_id)
    assert dict(mine.state) == dict(theirs.state)
    for one in await here.timeline(room_id):
        ids, _ = (
            await there.rooms.answers.state_ids(here.name, room_id, one.pdu.event_id)
        ).values()
        expected = await here.rooms.answers.state_ids(there.name, room_id, one.pdu.event_id)
        assert sorted(ids) == sorted(expected["pdu_ids"])


async def test_of_a_long_past_the_newest_is_shown_on_the_state_of_then(network: Network) -> None:
    here, there, room_id = await room_with_past(network, [])
    for number in range(DEFAULTS.past_events + 50):
        if number % 10 == 0:
            # State that is none any more when we come in.
            await change(here, room_id, "m.room.topic", {"topic": f"topic {number}"})
        await say(here, room_id, "maker", f"{number}")
    await enter(here, there, room_id)
    texts = await heard(there, room_id)
    assert ENOUGH_MESSAGES <= len(texts) <= DEFAULTS.past_events
    assert texts == [f"{number}" for number in range(DEFAULTS.past_events + 50)][-len(texts) :]
    asked = [one for one, _, _ in network.requests]
    assert asked.count("backfill") <= DEFAULTS.past_rounds
    assert asked.count("state_ids") == 1
    for one in await there.timeline(room_id):
        event_id = one.pdu.event_id
        given = await there.rooms.answers.state_ids(here.name, room_id, event_id)
        expected = await here.rooms.answers.state_ids(there.name, room_id, event_id)
        assert sorted(given["pdu_ids"]) == sorted(expected["pdu_ids"])


@pytest.mark.parametrize("endpoint", ["backfill", "state_ids"])
async def test_a_peer_that_does_not_tell_does_not_keep_us_out(
    network: Network, endpoint: str
) -> None:
    here, there, room_id = await room_with_past(
        network, [f"{n}" for n in range(DEFAULTS.past_events)]
    )
    network.lose_answer = lambda asked, peer: asked == endpoint
    await enter(here, there, room_id)
    await network.deliver()
    await say(here, room_id, "maker", "after")
    await network.deliver()
    assert await heard(there, room_id) == ["after"]


async def test_a_peer_that_takes_its_time_does_not_keep_us_waiting(network: Network) -> None:
    network.bounds = replace(DEFAULTS, past_timeout_s=0.05)
    here, there, room_id = await room_with_past(network, ["one"])

    async def dawdle(endpoint: str) -> None:
        if endpoint == "backfill":
            await asyncio.Event().wait()

    network.after_answer = dawdle
    await enter(here, there, room_id)
    assert await heard(there, room_id) == []


async def test_what_is_forged_or_not_allowed_is_left_out(network: Network) -> None:
    here, there, room_id = await room_with_past(network, ["one", "two", "three"])
    answers: list[Any] = []

    def change_one(endpoint: str, answer: Any) -> Any:
        if endpoint != "backfill":
            return answer
        answers.append(answer)
        return [
            {**pdu, "sender": str(there.user("guest"))}
            if pdu["content"].get("body") == "two"
            else pdu
            for pdu in answer
        ]

    network.tamper = change_one
    await enter(here, there, room_id)
    assert "two" not in await heard(there, room_id)
    assert "three" in await heard(there, room_id)
    assert answers


async def test_a_peer_is_asked_for_few_states_however_broken_its_answer_is(
    network: Network,
) -> None:
    here, there, room_id = await room_with_past(network, [f"{n}" for n in range(40)])
    network.tamper = lambda endpoint, answer: (
        [pdu for pdu in answer if pdu["depth"] % 2] if endpoint == "backfill" else answer
    )
    await enter(here, there, room_id)
    asked = [one for one, _, _ in network.requests]
    assert asked.count("state_ids") <= DEFAULTS.past_state_requests
    assert asked.count("backfill") <= DEFAULTS.past_rounds
    await network.deliver()
    await say(here, room_id, "maker", "after")
    await network.deliver()
    assert (await heard(there, room_id))[-1] == "after"


async def test_what_was_taken_back_is_not_shown(network: Network) -> None:
    here, there, room_id = await room_with_past(network, ["one", "two", "three"])
    target = next(
        one.pdu.event_id
        for one in await here.timeline(room_id)
        if one.pdu.content.get("body") == "two"
    )
    version = (await here.backend.room(room_id)).version
    assert version == "12"
    await here.backend.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.redaction",
        content={"redacts": target},
        txn="r1",
        trace=trace(),
    )
    await enter(here, there, room_id)
    assert await seen_by(there, room_id, there.user("guest")) == ["one", "three"]


async def test_after_an_absence_what_was_said_meanwhile_is_shown_once(network: Network) -> None:
    here, there, room_id = await room_with_past(network, ["one"])
    await enter(here, there, room_id)
    await network.deliver()
    await say(here, room_id, "maker", "two")
    await network.deliver()
    await there.backend.leave(user_id=there.user("guest"), room_id=room_id, reason=None)
    await network.deliver()
    for text in ("three", "four"):
        await say(here, room_id, "maker", text)
    await network.deliver()
    before = len(await told(there))
    await enter(here, there, room_id)
    await network.deliver()
    await say(here, room_id, "maker", "five")
    await network.deliver()
    assert await heard(there, room_id) == ["one", "two", "three", "four", "five"]
    # Our return and what came after it.
    assert len(await told(there)) == before + 2
    line = [one.pdu.event_id for one in await there.timeline(room_id)]
    assert line == [one.pdu.event_id for one in await here.timeline(room_id)]


async def test_after_an_absence_in_which_nothing_happened_nothing_is_asked(
    network: Network,
) -> None:
    here, there, room_id = await room_with_past(network, ["one"])
    await enter(here, there, room_id)
    await network.deliver()
    await there.backend.leave(user_id=there.user("guest"), room_id=room_id, reason=None)
    await network.deliver()
    network.requests.clear()
    await enter(here, there, room_id)
    assert "backfill" not in [one for one, _, _ in network.requests]
    assert await heard(there, room_id) == ["one"]


async def test_an_invite_that_was_told_keeps_its_place(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, public=False)
    guest = there.user("guest")
    await say(here, room_id, "maker", "one")
    await here.backend.invite(
        room_id=room_id, sender=here.user("maker"), target=guest, txn="i1", is_direct=False
    )
    await say(here, room_id, "maker", "two")
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    assert await heard(there, room_id) == ["one", "two"]
    memberships = [
        one.pdu.membership for one in await there.timeline(room_id) if one.pdu.state_key == guest
    ]
    assert memberships == ["invite", "join"]
    assert len(await told(there)) == 2


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("joined", ["after"]),
        ("invited", ["invited", "after"]),
        ("shared", ["before", "invited", "after"]),
        ("world_readable", ["before", "invited", "after"]),
        ("?", ["before", "invited", "after"]),
    ],
)
async def test_a_member_sees_what_the_history_visibility_shows(
    network: Network, value: str, shown: list[str]
) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here, public=False)
    guest = here.user("guest")
    await change(here, room_id, "m.room.history_visibility", {"history_visibility": value})
    await say(here, room_id, "maker", "before")
    await here.backend.invite(
        room_id=room_id, sender=here.user("maker"), target=guest, txn="i1", is_direct=False
    )
    await say(here, room_id, "maker", "invited")
    await here.backend.join(user_id=guest, room_id=room_id, via=[])
    await say(here, room_id, "maker", "after")
    assert await seen_by(here, room_id, guest) == shown
    assert await seen_by(here, room_id, here.user("maker")) == ["before", "invited", "after"]
    stranger = ["before", "invited", "after"] if value == "world_readable" else []
    assert await seen_by(here, room_id, here.user("stranger")) == stranger


async def test_who_has_left_sees_what_was_said_while_they_were_there(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make_room(here)
    guest = here.user("guest")
    await here.backend.join(user_id=guest, room_id=room_id, via=[])
    await say(here, room_id, "maker", "there")
    await here.backend.leave(user_id=guest, room_id=room_id, reason=None)
    await say(here, room_id, "maker", "gone")
    assert await seen_by(here, room_id, guest) == ["there"]


async def test_what_a_peer_may_not_have_is_not_shown(network: Network) -> None:
    here, there, room_id = await room_with_past(network, [])
    await change(here, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    await say(here, room_id, "maker", "secret")
    await enter(here, there, room_id)
    await network.deliver()
    await say(here, room_id, "maker", "hello")
    await network.deliver()
    assert await seen_by(there, room_id, there.user("guest")) == ["hello"]
    rows = await there.database.read(
        lambda tx: [
            one.event.json for one in event_rows.timeline(tx, room_id, limit=99, before=None)
        ]
    )
    assert not any("secret" in text for text in rows)


async def test_visibility_of_then_counts_not_of_now(network: Network) -> None:
    """Also where a peer gives us more than it should."""
    here, there, room_id = await room_with_past(network, [])
    await change(here, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    for number in range(DEFAULTS.past_events):
        await say(here, room_id, "maker", f"secret {number}")
    await change(here, room_id, "m.room.history_visibility", {"history_visibility": "shared"})
    await say(here, room_id, "maker", "open")
    whole = {one.pdu.event_id: one.pdu.wire() for one in await here.timeline(room_id)}

    def unprune(endpoint: str, answer: Any) -> Any:
        if endpoint != "backfill":
            return answer
        by_hash = {pdu["hashes"]["sha256"]: pdu for pdu in whole.values()}
        return [by_hash[pdu["hashes"]["sha256"]] for pdu in answer]

    network.tamper = unprune
    await enter(here, there, room_id)
    assert "secret 99" in await heard(there, room_id)
    assert await seen_by(there, room_id, there.user("guest")) == ["open"]
