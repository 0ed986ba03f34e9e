"""Graphs that a peer makes to keep us busy: bounded requests, bounded rows, a room that goes on.

Spec: S2S, checks on receipt of a PDU; backfilling and retrieving missing events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
from sqlalchemy import func, select
from structlog.testing import capture_logs

from bridge.engine.build import Draft, PrevEvent, build_pdu
from bridge.engine.pdu import Pdu
from bridge.errors import NotFound
from bridge.ids import EventId, RoomId, ServerName
from bridge.rooms.bounds import DEFAULTS
from bridge.rooms.load import Room, choose_auth_events
from bridge.rooms.network import Json
from bridge.storage import events as event_rows
from bridge.storage.database import Transaction
from bridge.storage.schema import events, stream_events
from tests.support.network import Network, Server
from tests.support.talk import forge, heard, make_room, room_at, say

FEW = replace(
    DEFAULTS,
    gap_rounds=4,
    gap_events=60,
    gap_requests=30,
    gap_state_requests=3,
    gap_peers=2,
    auth_depth=5,
    single_events=5,
    auth_chain_events=40,
    state_events=60,
    attempts=2,
)
"""Small, so that a test reaches them; the defaults are the same bounds with greater numbers."""


class Hostile:
    """What a peer answers: the given events, and where asked for them, whatever it likes."""

    def __init__(self, honest: Any) -> None:
        self._honest = honest
        self.events: dict[EventId, Pdu] = {}
        self.states: Callable[[EventId], tuple[list[EventId], list[EventId]]] | None = None
        self.tells_missing = True
        self.auth: Callable[[EventId], Sequence[Pdu]] = lambda event_id: ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def have(self, *pdus: Pdu) -> None:
        self.events.update((pdu.event_id, pdu) for pdu in pdus)

    async def get_missing_events(
        self,
        origin: ServerName,
        room_id: RoomId,
        earliest: Sequence[EventId],
        latest: Sequence[EventId],
        limit: int,
        min_depth: int,
    ) -> list[Json]:
        found: dict[EventId, Pdu] = {}
        front = list(latest)
        while front and len(found) < limit and self.tells_missing:
            for prev in self.events[front.pop(0)].prev_events:
                if prev in self.events and prev not in found:
                    found[prev] = self.events[prev]
                    front.append(prev)
        return [pdu.wire() for pdu in list(found.values())[:limit]]

    async def event(self, origin: ServerName, event_id: EventId) -> Json:
        if event_id in self.events:
            return self.events[event_id].wire()
        event: Json = await self._honest.event(origin, event_id)
        return event

    async def event_auth(self, origin: ServerName, room_id: RoomId, event_id: EventId) -> Json:
        return {"auth_chain": [pdu.wire() for pdu in self.auth(event_id)]}

    async def state_ids(self, origin: ServerName, room_id: RoomId, event_id: EventId) -> Json:
        if self.states is None:
            raise NotFound("no")
        state, chain = self.states(event_id)
        return {"pdu_ids": state, "auth_chain_ids": chain}

    async def state(self, origin: ServerName, room_id: RoomId, event_id: EventId) -> Json:
        if self.states is None:
            raise NotFound("no")
        state, chain = self.states(event_id)
        return {
            "pdus": [await self.event(origin, one) for one in state],
            "auth_chain": [await self.event(origin, one) for one in chain],
        }


class Scene:
    """`here` (watched), `honest`, and `eve`, all in one room."""

    def __init__(self, network: Network, here: Server, honest: Server, eve: Server) -> None:
        self.network, self.here, self.honest, self.eve = network, here, honest, eve
        self.hostile = Hostile(eve.rooms.answers)
        self.room_id = RoomId("")
        self.said = 0

    async def open(self, version: str = "12") -> Scene:
        self.room_id = await make_room(self.here, version)
        for server, user in ((self.honest, "guest"), (self.eve, "eve")):
            await server.backend.join(
                user_id=server.user(user), room_id=self.room_id, via=[self.here.name]
            )
            await self.network.deliver()
        self.eve.rooms = replace(self.eve.rooms, answers=cast(Any, self.hostile))
        self.network.requests.clear()
        return self

    async def room(self) -> Room:
        return await room_at(self.here, self.room_id)

    async def ends(self) -> list[tuple[EventId, int]]:
        return list((await self.room()).extremities.items())

    async def forger(self) -> Callable[..., Pdu]:
        """Makes eve's events: much quicker than asking the room for each."""
        room = await self.room()

        def make(
            on: Sequence[tuple[EventId, int]],
            *,
            body: str = "junk",
            type: str = "m.room.message",
            state_key: str | None = None,
            auth: Sequence[EventId] | None = None,
            content: dict[str, Any] | None = None,
        ) -> Pdu:
            sender = self.eve.user("eve")
            said = {"msgtype": "m.text", "body": body} if content is None else content
            chosen = choose_auth_events(
                room.state,
                event_type=type,
                sender=sender,
                state_key=state_key,
                content=said,
                version=room.version,
            )
            return build_pdu(
                Draft(
                    room_id=self.room_id,
                    type=type,
                    sender=sender,
                    content=said,
                    state_key=state_key,
                ),
                prev_events=[PrevEvent(event_id=one, depth=depth) for one, depth in on],
                auth_events=list(auth) if auth is not None else chosen,
                version=room.version,
                key=self.eve.key,
                server=self.eve.name,
                origin_server_ts=self.network.clock.now_ms(),
            )

        return make

    def chain(self, make: Callable[..., Pdu], length: int, first: tuple[EventId, int]) -> list[Pdu]:
        made: list[Pdu] = []
        on = first
        for _ in range(length):
            made.append(make([on]))
            on = (made[-1].event_id, made[-1].depth)
        return made

    async def send(self, *pdus: Pdu, until_given_up: bool = True) -> None:
        """From eve; and again, as often as it is tried."""
        await self.network.hand_over(self.eve.name, self.here.name, [pdu.wire() for pdu in pdus])
        for _ in range(FEW.attempts if until_given_up else 0):
            self.network.clock.shift(3600)
            await self.here.rooms.receiver.work_off_due()

    async def rows(self) -> int:
        query = select(func.count()).select_from(events).where(events.c.room_id == self.room_id)
        return await self.here.database.read(lambda tx: int(tx.execute(query).scalar_one()))

    async def knows(self, event_id: EventId) -> str | None:
        found = await self.here.database.read(lambda tx: event_rows.find(tx, [event_id]))
        return found[event_id].verdict if event_id in found else None

    async def check_usable(self) -> None:
        """Both honest servers hear each other, and agree about the state."""
        for server, user in ((self.honest, "guest"), (self.here, "maker")):
            self.said += 1
            await say(server, self.room_id, user, f"honest {self.said}")
            await self.network.deliver()
        for server in (self.here, self.honest):
            texts = [text for text in await heard(server, self.room_id) if "honest" in text]
            assert texts == [f"honest {number + 1}" for number in range(self.said)]
        assert (await self.here.backend.room(self.room_id)).topic == "roses"


@pytest.fixture
async def scene(network: Network) -> Scene:
    network.bounds = FEW
    servers = [await network.add(f"{name}.example") for name in ("here", "honest", "eve")]
    return await Scene(network, *servers).open()


def bounds_in(logs: Sequence[Any]) -> set[str]:
    return {one["bound"] for one in logs if one["event"] == "bound reached"}


# --- missing parents --------------------------------------------------------------------------


@pytest.mark.parametrize("with_state", [False, True])
async def test_parents_without_end(scene: Scene, with_state: bool) -> None:
    make = await scene.forger()
    chain = scene.chain(make, 500, (EventId("$before-everything"), 50))
    scene.hostile.have(*chain)
    state = list((await scene.room()).state.values())
    if with_state:
        scene.hostile.states = lambda event_id: (state, [])
    before = await scene.rows()
    with capture_logs() as logs:
        await scene.send(chain[-1])
    tries = FEW.attempts * FEW.gap_peers
    assert len(scene.network.requests) <= tries * (FEW.gap_requests + 1)
    assert await scene.rows() - before <= FEW.attempts * (FEW.gap_events + 50 + 1)
    assert "rooms.bounds.gap_events" in bounds_in(logs)
    assert await scene.knows(chain[-1].event_id) == ("accepted" if with_state else None)
    await scene.check_usable()


async def test_twenty_unknown_parents_with_twenty_unknown_parents_each(scene: Scene) -> None:
    make = await scene.forger()
    leaves = [
        make([(EventId(f"$unknown-{one}-{two}"), 60) for two in range(20)], body=f"{one}")
        for one in range(20)
    ]
    top = make([(pdu.event_id, pdu.depth) for pdu in leaves])
    scene.hostile.have(*leaves, top)
    before = await scene.rows()
    with capture_logs() as logs:
        await scene.send(top)
    assert await scene.rows() == before
    # Nobody is asked for a state when there are too many holes to close.
    assert "state_ids" not in {endpoint for endpoint, _, _ in scene.network.requests}
    assert len(scene.network.requests) < 20
    assert {"rooms.bounds.gap_state_requests", "rooms.bounds.attempts"} <= bounds_in(logs)
    await scene.check_usable()


async def test_every_hole_with_auth_events_of_its_own(scene: Scene) -> None:
    """Each fetched event asks for more: the requests for one received event are counted."""
    make = await scene.forger()
    chain: list[Pdu] = []
    on = ((await scene.ends())[0][0], 50)
    for number in range(50):
        chain.append(make([on], auth=[EventId(f"$auth{number}")]))
        on = (chain[-1].event_id, chain[-1].depth)
    top = make([on])
    scene.hostile.have(*chain, top)
    with capture_logs() as logs:
        await scene.send(top)
    asked = [peer for _, origin, peer in scene.network.requests if origin == scene.here.name]
    assert asked.count(scene.eve.name) <= FEW.attempts * FEW.gap_requests
    assert "rooms.bounds.gap_requests" in bounds_in(logs)
    await scene.check_usable()


async def test_a_peer_that_never_answers_holds_up_nobody_for_long(network: Network) -> None:
    network.bounds = replace(FEW, gap_timeout_s=0.05)
    servers = [await network.add(f"{name}.example") for name in ("here", "honest", "eve")]
    scene = await Scene(network, *servers).open()
    make = await scene.forger()
    lost = make(await scene.ends(), body="first")
    pdu = make([(lost.event_id, lost.depth)], body="second")
    scene.hostile.have(lost, pdu)
    silent = True

    async def never(endpoint: str) -> None:
        if silent and endpoint == "get_missing_events":
            await asyncio.Event().wait()

    network.after_answer = never
    with capture_logs() as logs:
        await scene.send(pdu, until_given_up=False)
    assert "rooms.bounds.gap_timeout_s" in bounds_in(logs)
    silent = False
    network.clock.shift(3600)
    await scene.here.rooms.receiver.work_off_due()
    assert await heard(scene.here, scene.room_id) == ["first", "second"]
    await scene.check_usable()


async def test_what_needs_nobody_is_heard_before_what_needs_a_peer(scene: Scene) -> None:
    make = await scene.forger()
    lost = make([(EventId("$lost"), 40)], body="junk")
    after_it = make([(lost.event_id, lost.depth)], body="junk")
    scene.hostile.have(lost, after_it)
    honest = await forge(scene.network, scene.honest, scene.room_id, scene.honest.user("guest"))
    receiver = scene.here.rooms.receiver
    await receiver.take(scene.eve.name, "t", [lost.wire(), after_it.wire()], wait_s=0)
    await receiver.take(scene.honest.name, "t", [honest.wire()], wait_s=0)
    heard_then: list[list[str]] = []

    async def look(endpoint: str) -> None:
        heard_then.append(await heard(scene.here, scene.room_id))

    scene.network.after_answer = look
    await receiver.work_off_due()
    assert heard_then
    assert heard_then[0] == ["forged"]


async def test_a_peer_that_dawdles_does_not_take_all_of_the_time(scene: Scene) -> None:
    """Each of its events would keep the room waiting; it is asked about a few of them."""
    make = await scene.forger()
    lost = [make([(EventId(f"$lost{number}"), 40)], body=f"{number}") for number in range(10)]
    scene.hostile.have(*lost)

    async def dawdle(endpoint: str) -> None:
        if scene.network.requests[-1][2] == scene.eve.name:
            scene.network.clock.shift(20)

    scene.network.after_answer = dawdle
    before_s = scene.network.clock.monotonic_s()
    with capture_logs() as logs:
        await scene.send(*lost, until_given_up=False)
    assert scene.network.clock.monotonic_s() - before_s <= 100
    assert "rooms.bounds.gap_rest" in bounds_in(logs)
    scene.network.after_answer = None
    await scene.check_usable()


async def test_a_peer_is_asked_about_so_many_gaps_at_once(network: Network) -> None:
    network.bounds = replace(FEW, gap_at_once=2, gap_timeout_s=0.2)
    servers = [await network.add(f"{name}.example") for name in ("here", "honest", "eve")]
    scene = await Scene(network, *servers).open()
    rooms: list[RoomId] = []  # Only eve is in them: nobody else is asked.
    for number in range(5):
        more = await make_room(scene.here, creator=f"maker{number}")
        await scene.eve.backend.join(
            user_id=scene.eve.user("eve"), room_id=more, via=[scene.here.name]
        )
        rooms.append(more)
    await network.deliver()
    network.requests.clear()
    asked, most = 0, 0

    async def never(endpoint: str) -> None:
        nonlocal asked, most
        if endpoint == "get_missing_events":
            asked += 1
            most = max(most, asked)
            try:
                await asyncio.Event().wait()
            finally:
                asked -= 1

    network.after_answer = never
    receiver = scene.here.rooms.receiver
    for number, room_id in enumerate(rooms):
        scene.room_id = room_id
        pdu = (await scene.forger())([(EventId(f"$lost{number}"), 40)])
        scene.hostile.have(pdu)
        await receiver.take(scene.eve.name, f"t{number}", [pdu.wire()], wait_s=0)
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(receiver.run())
            while len([one for one in logs if one["event"] == "pdu put off"]) < len(rooms):
                await asyncio.sleep(0)
            running.cancel()
    assert most == 2
    assert "rooms.bounds.gap_at_once" in bounds_in(logs)


# --- auth events ------------------------------------------------------------------------------


@pytest.mark.parametrize("as_chain", [False, True])
async def test_a_chain_of_auth_events_without_end(scene: Scene, as_chain: bool) -> None:
    make, ends = await scene.forger(), await scene.ends()
    chain: list[Pdu] = []
    for number in range(300):
        auth = [chain[-1].event_id] if chain else [EventId("$beginning")]
        member: dict[str, Any] = {"type": "m.room.member", "state_key": scene.eve.user("eve")}
        content = {"membership": "join", "displayname": f"{number}"}
        chain.append(make(ends, auth=auth, content=content, **member))
    top = make(ends, auth=[chain[-1].event_id])
    scene.hostile.have(*chain, top)
    if as_chain:
        scene.hostile.auth = lambda event_id: chain
    before = await scene.rows()
    with capture_logs() as logs:
        await scene.send(top)
    assert await scene.rows() == before
    assert len(scene.network.requests) <= FEW.attempts * FEW.gap_peers * FEW.gap_requests
    wanted = "auth_chain_events" if as_chain else "auth_depth"
    assert f"rooms.bounds.{wanted}" in bounds_in(logs)
    await scene.check_usable()


async def test_what_an_auth_chain_holds_beside_is_not_stored(scene: Scene) -> None:
    make, ends = await scene.forger(), await scene.ends()
    member: dict[str, Any] = {"type": "m.room.member", "state_key": scene.eve.user("eve")}
    wanted = make(ends, content={"membership": "join", "displayname": "new"}, **member)
    junk = [make(ends, body=f"{number}") for number in range(10)]
    room = await scene.room()
    levels = room.state["m.room.power_levels", ""]
    top = make(ends, auth=[levels, wanted.event_id], body="top")
    scene.hostile.have(wanted, top)
    scene.hostile.auth = lambda event_id: [*junk, wanted]
    await scene.send(top)
    assert await scene.knows(wanted.event_id) == "accepted"
    assert [await scene.knows(pdu.event_id) for pdu in junk] == [None] * 10
    await scene.check_usable()


async def test_an_auth_chain_that_mixes_rooms(scene: Scene) -> None:
    """The other room is eve's: there she has all power."""
    other = await make_room(scene.eve, "12", creator="eve")
    theirs = (await room_at(scene.eve, other)).state
    make, ends = await scene.forger(), await scene.ends()
    levels = theirs["m.room.power_levels", ""]
    mine = theirs["m.room.member", scene.eve.user("eve")]
    topic: dict[str, Any] = {"type": "m.room.topic", "state_key": ""}
    unknown = make(ends, auth=[levels, mine], content={"topic": "mine"}, **topic)
    scene.hostile.have(unknown)
    await scene.send(unknown)
    assert await scene.knows(unknown.event_id) in (None, "rejected")
    # The same when we know that room.
    await scene.here.backend.join(
        user_id=scene.here.user("maker"), room_id=other, via=[scene.eve.name]
    )
    known = make(ends, auth=[levels, mine], content={"topic": "mine, too"}, **topic)
    await scene.send(known)
    assert await scene.knows(known.event_id) == "rejected"
    await scene.check_usable()


# --- states -----------------------------------------------------------------------------------


async def behind_a_hole(scene: Scene) -> tuple[Pdu, Pdu]:
    """An event that can be placed only on the state that eve gives, and the one before it."""
    make = await scene.forger()
    hole = make([(EventId("$nobody-has-it"), 50)], body="hole")
    top = make([(hole.event_id, hole.depth)], body="top")
    scene.hostile.have(hole, top)
    scene.hostile.tells_missing = False
    return hole, top


async def test_a_state_that_is_too_large_is_not_looked_at(scene: Scene) -> None:
    _, top = await behind_a_hole(scene)
    many = [EventId(f"$state{number}") for number in range(FEW.state_events + 1)]
    scene.hostile.states = lambda event_id: (many, [])
    with capture_logs() as logs:
        await scene.send(top)
    assert await scene.knows(top.event_id) is None
    assert "rooms.bounds.state_events" in bounds_in(logs)
    await scene.check_usable()


async def test_a_state_with_two_events_of_one_key_is_none(scene: Scene) -> None:
    _, top = await behind_a_hole(scene)
    make, ends = await scene.forger(), await scene.ends()
    member: dict[str, Any] = {"type": "m.room.member", "state_key": scene.eve.user("eve")}
    other = make(ends, content={"membership": "join", "displayname": "other"}, **member)
    scene.hostile.have(other)
    state = list((await scene.room()).state.values())
    scene.hostile.states = lambda event_id: ([*state, other.event_id], [])
    await scene.send(top)
    assert await scene.knows(top.event_id) is None
    await scene.check_usable()


async def test_a_state_without_its_create_event_or_of_another_room_is_none(scene: Scene) -> None:
    _, top = await behind_a_hole(scene)
    room = await scene.room()
    headless = [one for key, one in room.state.items() if key != ("m.room.create", "")]
    scene.hostile.states = lambda event_id: (headless, [])
    await scene.send(top)
    assert await scene.knows(top.event_id) is None
    other = list((await room_at(scene.eve, await make_room(scene.eve))).state.values())
    scene.hostile.states = lambda event_id: (other, [])
    again = (await scene.forger())(list(zip(top.prev_events, [top.depth - 1], strict=True)))
    scene.hostile.have(again)
    await scene.send(again)
    assert await scene.knows(again.event_id) is None
    await scene.check_usable()


async def test_what_we_reject_is_no_state_whoever_lists_it(scene: Scene) -> None:
    """Eve makes herself mighty in a state of her own; nobody else's state moves."""
    hole, top = await behind_a_hole(scene)
    make, ends = await scene.forger(), await scene.ends()
    levels = {"users": {scene.eve.user("eve"): 100}}
    crown = make(ends, type="m.room.power_levels", state_key="", content=levels)
    scene.hostile.have(crown)
    room = await scene.room()
    listed = [one for key, one in room.state.items() if key != ("m.room.power_levels", "")]
    scene.hostile.states = lambda event_id: ([*listed, crown.event_id], [])
    await scene.send(top)
    assert await scene.knows(crown.event_id) == "rejected"
    after = await scene.room()
    assert crown.event_id not in after.state.values()
    key = ("m.room.power_levels", "")
    assert after.state[key] == room.state[key]
    topic = make(
        [(hole.event_id, hole.depth)], type="m.room.topic", state_key="", content={"topic": "mine"}
    )
    await scene.send(topic)
    assert await scene.knows(topic.event_id) in (None, "rejected")
    await scene.check_usable()


# --- width and depth --------------------------------------------------------------------------


async def test_the_same_event_from_many_peers_is_one(scene: Scene) -> None:
    pdu = (await scene.forger())(await scene.ends(), body="once")
    receiver = scene.here.rooms.receiver
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            for origin in (scene.eve.name, scene.honest.name):
                group.create_task(receiver.take(origin, f"t{number}", [pdu.wire()], wait_s=0))
    await receiver.work_off_due()
    assert await heard(scene.here, scene.room_id) == ["once"]
    for origin in (scene.eve.name, scene.honest.name):
        assert await receiver.take(origin, "t3", [pdu.wire()], wait_s=0) == {pdu.event_id: {}}
    await scene.check_usable()


async def test_depths_beyond_measure(scene: Scene) -> None:
    make, (end,) = await scene.forger(), await scene.ends()
    deepest = make([(end[0], 2**53 - 2)], body="deep")
    assert deepest.depth == 2**53 - 1
    negative = deepest.wire() | {"depth": -1}
    answer = await scene.network.hand_over(scene.eve.name, scene.here.name, [negative])
    assert answer == {}
    await scene.send(deepest, until_given_up=False)
    await scene.check_usable()
    room = await scene.room()
    assert set(room.extremities.values()) == {2**53 - 1}
    # What stands beside it at its true depth is heard as well.
    await scene.send(make([end], body="true"), until_given_up=False)
    assert {"deep", "true"} <= set(await heard(scene.here, scene.room_id))


async def test_nobody_pushes_out_what_another_server_said(network: Network) -> None:
    """Far more states beside each other than are kept: eve's own are let go."""
    network.bounds = replace(DEFAULTS, extremity_states=12, extremities=10)
    servers = [await network.add(f"{name}.example") for name in ("here", "honest", "eve")]
    scene = await Scene(network, *servers).open()
    make, (end,) = await scene.forger(), await scene.ends()
    guest = scene.honest.user("guest")
    renamed = await forge(
        network,
        scene.honest,
        scene.room_id,
        guest,
        type="m.room.member",
        state_key=guest,
        content={"membership": "join", "displayname": "Honest"},
        on=[end],
    )
    name = {"type": "m.room.member", "state_key": scene.eve.user("eve")}
    flood = [
        make([end], content={"membership": "join", "displayname": f"{number}"}, **name)
        for number in range(40)
    ]
    with capture_logs() as logs:
        await scene.send(*flood[:20], until_given_up=False)
        await network.hand_over(scene.honest.name, scene.here.name, [renamed.wire()])
        await scene.send(*flood[20:], until_given_up=False)
    assert "rooms.bounds.extremity_states" in bounds_in(logs)
    room = await scene.room()
    assert len(room.extremities) == 12
    assert renamed.event_id in room.extremities
    assert room.state["m.room.member", guest] == renamed.event_id
    # Our events join them, ten at a time.
    for number in range(3):
        await say(scene.here, scene.room_id, "maker", f"{number}")
    assert len((await scene.room()).extremities) == 1
    assert (await scene.room()).state["m.room.member", guest] == renamed.event_id


async def test_a_message_beside_other_states_changes_no_state(scene: Scene) -> None:
    """Nothing is resolved for it, and what is remembered is what would be found anew."""
    make, (end,) = await scene.forger(), await scene.ends()
    name = {"type": "m.room.member", "state_key": scene.eve.user("eve")}
    for number in range(4):
        content = {"membership": "join", "displayname": f"{number}"}
        await scene.send(make([end], content=content, **name), until_given_up=False)
    before = await scene.room()
    first = min(before.extremities.items())
    await scene.send(make([first], body="on one of them"), until_given_up=False)
    after = await scene.room()
    assert after.extremities.keys() != before.extremities.keys()
    assert after.snapshot.row_id == before.snapshot.row_id
    again = await scene.network.restart(scene.here)
    scene.here = again
    await scene.check_usable()


async def test_a_flood_of_one_server_is_put_off_and_the_others_are_heard(network: Network) -> None:
    network.bounds = replace(FEW, waiting_per_origin=5)
    servers = [await network.add(f"{name}.example") for name in ("here", "honest", "eve")]
    scene = await Scene(network, *servers).open()
    make = await scene.forger()
    pdus = [make([(EventId("$nobody-has-it"), 50)], body=f"{number}") for number in range(5)]
    await scene.send(*pdus, until_given_up=False)
    more = make(await scene.ends(), body="more").wire()
    with capture_logs() as logs, pytest.raises(Exception, match="too many events"):
        await scene.here.rooms.receiver.take(scene.eve.name, "more", [more], wait_s=0)
    assert "rooms.bounds.waiting_per_origin" in bounds_in(logs)
    await scene.check_usable()


async def test_rejected_events_are_answered_alike_on_every_replay(scene: Scene) -> None:
    make = await scene.forger()
    topic = make(await scene.ends(), type="m.room.topic", state_key="", content={"topic": "eve's"})
    answers = [
        await scene.network.hand_over(origin.name, scene.here.name, [topic.wire()])
        for origin in (scene.eve, scene.eve, scene.honest)
    ]
    scene.here = await scene.network.restart(scene.here)
    answers.append(await scene.network.hand_over(scene.eve.name, scene.here.name, [topic.wire()]))
    assert answers[0][topic.event_id]["error"]
    assert answers == [answers[0]] * 4

    def streamed(tx: Transaction) -> int:
        query = select(stream_events).where(stream_events.c.event_id == topic.event_id)
        return len(tx.execute(query).all())

    assert await scene.here.database.read(streamed) == 0
    await scene.check_usable()


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("with_state", [False, True])
async def test_events_that_are_their_own_ancestors(
    network: Network, version: str, with_state: bool
) -> None:
    """Where servers name their events, links may go in a circle, those of auth events too. (An
    event that names itself is none: `engine.format`.)"""
    network.bounds = FEW
    servers = [await network.add(f"{name}.example") for name in ("here", "honest", "eve")]
    scene = await Scene(network, *servers).open(version)
    eve, user = scene.eve, scene.eve.user("eve")
    state = list((await scene.room()).state.values())
    if with_state:
        scene.hostile.states = lambda event_id: (state, [])
    names = [EventId(f"${name}:{eve.name}") for name in ("one", "two", "three", "four")]
    one, two, three, four = names

    def links(*names: EventId) -> list[Any]:
        return [[name, {"sha256": "round"}] for name in names]

    make = partial(forge, network, eve, scene.room_id, user)
    circles = [
        await make(event_id=name, extra={"prev_events": links(on), "depth": 20})
        for name, on in ((one, two), (two, one))
    ]
    member: dict[str, Any] = {"type": "m.room.member", "state_key": user}
    content = {"membership": "join", "displayname": "round"}
    circles += [
        await make(event_id=name, content=content, extra={"auth_events": links(on)}, **member)
        for name, on in ((three, four), (four, three))
    ]
    scene.hostile.have(*circles)
    scene.network.requests.clear()
    for pdu in circles:
        await scene.send(pdu)
    tries = len(circles) * FEW.attempts * FEW.gap_peers
    assert len(scene.network.requests) <= tries * (FEW.gap_requests + 1)
    assert {await scene.knows(name) for name in (three, four)} <= {None, "rejected"}
    placed = {await scene.knows(name) for name in (one, two)}
    assert placed == ({"accepted"} if with_state else {None})
    await scene.check_usable()
    await scene.here.rooms.answers.backfill(scene.honest.name, scene.room_id, names, 50)
