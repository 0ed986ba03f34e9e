"""Receipts: whose count, which is the newest, and what the others are told."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from bridge.engine.edu import Receipt
from bridge.errors import BadInput, Refused
from bridge.ids import EventId, RoomId
from bridge.rooms import receipts as receipts_module
from bridge.storage import edus, receipts
from bridge.storage.receipts import MAX_THREADS
from tests.support.clock import FakeClock
from tests.support.network import Network, Server
from tests.support.passing import Wire
from tests.support.talk import make_room, say


class World:
    def __init__(self, network: Network, here: Server, there: Server, room_id: RoomId) -> None:
        self.network, self.here, self.there, self.room_id = network, here, there, room_id
        self.maker, self.guest = here.user("maker"), there.user("guest")
        self.wire = Wire(network)
        self.wire.connect(here, there)

    async def tell(
        self,
        event_id: Any,
        *,
        ts: Any = 1,
        thread: Any = None,
        user: str | None = None,
        room: str | None = None,
        kind: str = "m.read",
    ) -> None:
        """`there` tells `here`."""
        data = {"ts": ts} if thread is None else {"ts": ts, "thread_id": thread}
        entry = {"event_ids": [event_id], "data": data}
        content = {room or self.room_id: {kind: {user or self.guest: entry}}}
        await self.send(content)

    async def send(self, content: Any) -> None:
        edu = {"edu_type": "m.receipt", "content": content}
        await self.wire.hand_over(self.there.name, self.here, edu)

    async def read(self, event_id: EventId, thread: str | None = None) -> None:
        """Our own user has."""
        await self.here.backend.read_up_to(
            room_id=self.room_id, user_id=self.maker, event_id=event_id, thread_id=thread
        )

    def heard(self) -> list[tuple[str, str, str | None]]:
        new = self.wire.ears[self.here.name].hear()
        return [
            (one.user_id, one.event_id, one.thread_id) for one in new if isinstance(one, Receipt)
        ]

    async def kept(self, server: Server | None = None) -> list[tuple[str, str, str | None]]:
        rows = await (server or self.here).rooms.ephemeral.receipts.of_room(self.room_id)
        return [(row.user_id, row.event_id, row.thread_id) for row in rows]


@pytest.fixture
async def world(network: Network) -> World:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    return World(network, here, there, room_id)


# --- in ------------------------------------------------------------------------------------------


async def test_a_receipt_is_kept_and_told_whether_the_event_is_known_or_not(world: World) -> None:
    await world.tell("$unknown")
    assert world.heard() == [(world.guest, "$unknown", None)]
    assert await world.kept() == [(world.guest, "$unknown", None)]


async def test_receipts_outlive_a_restart(world: World) -> None:
    await world.tell("$event", thread="main")
    world.here = await world.network.restart(world.here)
    assert await world.kept() == [(world.guest, "$event", "main")]


async def test_every_thread_has_its_own(world: World) -> None:
    await world.tell("$1")
    await world.tell("$2", thread="main", ts=2)
    await world.tell("$3", thread="$root", ts=3)
    await world.tell("$4", thread="main", ts=4)
    assert await world.kept() == [
        (world.guest, "$1", None),
        (world.guest, "$3", "$root"),
        (world.guest, "$4", "main"),
    ]
    assert [thread for _, _, thread in world.heard()] == [None, "main", "$root", "main"]


async def test_the_newest_wins_and_a_repetition_is_no_news(world: World) -> None:
    await world.tell("$2", ts=20)
    await world.tell("$1", ts=10)
    await world.tell("$2", ts=20)
    assert await world.kept() == [(world.guest, "$2", None)]
    assert len(world.heard()) == 1


async def test_a_clock_that_is_ahead_does_not_win_for_ever(world: World, clock: FakeClock) -> None:
    await world.tell("$1", ts=clock.now_ms() + 10**9)
    clock.shift(1)
    await world.tell("$2", ts=clock.now_ms() + 10)
    assert await world.kept() == [(world.guest, "$2", None)]


async def test_only_users_of_the_origin_who_are_in_the_room_have_read(world: World) -> None:
    for user, room in (
        (world.maker, world.room_id),
        ("@x:third.example", world.room_id),
        (world.there.user("stranger"), world.room_id),
        (world.guest, "!nowhere:x.example"),
    ):
        await world.tell("$1", user=user, room=room)
    assert world.heard() == []
    assert len(world.wire.refused) == 4


async def test_what_is_private_is_neither_kept_nor_told(world: World) -> None:
    await world.tell("$1", kind="m.read.private")
    assert world.heard() == []
    assert await world.kept() == []


async def test_one_bad_receipt_spoils_no_other(world: World) -> None:
    good = {"event_ids": ["$1"], "data": {"ts": 1}}
    other = world.there.user("stranger")
    await world.send(
        {
            "!nowhere:x.example": {"m.read": {world.guest: good}},
            "no room": {"m.read": {world.guest: good}},
            world.room_id: {
                "m.read": {world.guest: good, other: good, "nobody": good, "@a:b": {"data": {}}},
                "m.other": 7,
            },
        }
    )
    assert world.heard() == [(world.guest, "$1", None)]


@pytest.mark.parametrize(
    "changes",
    [
        {"event_id": 7},
        {"event_id": ["$1"]},
        {"event_id": "no event"},
        {"event_id": "$" + "x" * 300},
        {"ts": -1},
        {"ts": "1"},
        {"ts": True},
        {"thread": 7},
        {"thread": "root"},
    ],
    ids=str,
)
async def test_what_is_no_receipt_is_not_kept(world: World, changes: dict[str, Any]) -> None:
    await world.tell(**({"event_id": "$1"} | changes))
    assert world.heard() == []
    assert await world.kept() == []


async def test_of_too_many_rooms_the_first_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts_module, "MAX_ROOMS", 2)
    good = {"m.read": {world.guest: {"event_ids": ["$1"], "data": {"ts": 1}}}}
    await world.send({"!a:x": good, "!b:x": good, world.room_id: good})
    assert world.heard() == []
    await world.send({"!a:x": good, world.room_id: good})
    assert world.heard() == [(world.guest, "$1", None)]


async def test_of_too_many_threads_the_oldest_are_forgotten(world: World) -> None:
    await world.tell("$whole", ts=1)
    for number in range(MAX_THREADS + 2):
        await world.tell("$1", thread=f"${number:04}", ts=2 + number)
    threads = [thread for _, _, thread in await world.kept()]
    assert threads == [None, *(f"${number:04}" for number in range(2, MAX_THREADS + 2))]


# --- out -----------------------------------------------------------------------------------------


async def test_what_our_user_has_read_goes_to_the_servers_of_the_room(
    world: World, clock: FakeClock
) -> None:
    await world.read(EventId("$1"))
    assert world.wire.woken[world.here.name] == {world.there.name: 1}
    (edu,) = await world.wire.carry()
    entry = {"event_ids": ["$1"], "data": {"ts": clock.now_ms()}}
    assert edu == {
        "edu_type": "m.receipt",
        "content": {world.room_id: {"m.read": {world.maker: entry}}},
    }
    assert await world.kept(world.there) == [(world.maker, "$1", None)]
    assert await world.wire.carry() == []


async def test_several_threads_of_one_user_go_into_several_edus(world: World) -> None:
    await world.read(EventId("$1"))
    await world.read(EventId("$2"), "main")
    await world.read(EventId("$3"), "$root")
    sent = await world.wire.carry()
    users = [edu["content"][world.room_id]["m.read"][world.maker] for edu in sent]
    assert [(one["event_ids"], one["data"].get("thread_id")) for one in users] == [
        (["$1"], None),
        (["$3"], "$root"),
        (["$2"], "main"),
    ]
    assert sorted(await world.kept(world.there)) == sorted(await world.kept())


async def test_receipts_of_several_users_go_into_one_edu(world: World) -> None:
    other = world.here.user("other")
    await world.here.backend.join(user_id=other, room_id=world.room_id, via=[])
    await world.read(EventId("$1"))
    await world.here.backend.read_up_to(
        room_id=world.room_id, user_id=other, event_id=EventId("$2")
    )
    (edu,) = await world.wire.carry()
    assert set(edu["content"][world.room_id]["m.read"]) == {world.maker, other}


async def test_what_was_read_before_it_was_sent_is_told_once(world: World) -> None:
    for event_id in ("$1", "$2", "$3"):
        await world.read(EventId(event_id))
    (edu,) = await world.wire.carry()
    assert edu["content"][world.room_id]["m.read"][world.maker]["event_ids"] == ["$3"]


async def test_receipts_wait_for_a_peer_over_a_restart(world: World) -> None:
    await world.read(EventId("$1"))
    world.here = await world.network.restart(world.here)
    assert await world.here.database.read(edus.servers_with_receipts) == {world.there.name}
    assert len(await world.wire.carry()) == 1
    assert await world.here.database.read(edus.servers_with_receipts) == frozenset()


async def test_who_was_sent_away_is_told_nothing_more(world: World) -> None:
    await world.read(EventId("$1"))
    await world.here.backend.kick(
        room_id=world.room_id, sender=world.maker, target=world.guest, reason=None
    )
    assert await world.wire.carry() == []
    assert await world.here.database.read(edus.servers_with_receipts) == frozenset()


async def test_nobody_reads_backwards(world: World) -> None:
    old = await say(world.there, world.room_id, "guest", "one")
    new = await say(world.there, world.room_id, "guest", "two")
    await world.network.deliver()
    await world.read(new)
    await world.read(old)
    assert await world.kept() == [(world.maker, new, None)]


async def test_what_one_has_said_oneself_one_has_read(world: World) -> None:
    said = await say(world.here, world.room_id, "maker", "hello")
    await world.read(said)
    assert await world.wire.carry() == []
    assert await world.kept() == [(world.maker, said, None)]


async def test_private_receipts_never_leave(world: World) -> None:
    row = edus.ReceiptRow(
        room_id=world.room_id,
        user_id=world.maker,
        thread_id=None,
        event_id=EventId("$secret"),
        at_ms=1,
    )
    await world.here.database.write(partial(receipts.put, rows=[row], kind="m.read.private"))
    await world.read(EventId("$1"))
    (edu,) = await world.wire.carry()
    assert "$secret" not in str(edu)
    assert "private" not in str(edu)
    assert await world.kept() == [(world.maker, "$1", None)]


async def test_only_our_own_users_in_the_room_read(world: World) -> None:
    for user_id in (world.guest, world.here.user("stranger")):
        with pytest.raises(Refused):
            await world.here.backend.read_up_to(
                room_id=world.room_id, user_id=user_id, event_id=EventId("$1")
            )
    with pytest.raises(BadInput):
        await world.read(EventId("no event"))
    with pytest.raises(BadInput):
        await world.read(EventId("$1"), "no thread")
    assert await world.wire.carry() == []


async def test_in_a_big_room_receipts_are_gathered(
    world: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts_module, "MANY_SERVERS", 0)
    monkeypatch.setattr(receipts_module, "PAUSE_PER_SERVER_S", 10)
    await world.read(EventId("$1"))
    clock.shift(9)
    await world.read(EventId("$2"))
    await world.here.rooms.ephemeral.tick()
    assert await world.wire.carry() == []
    clock.shift(1)
    await world.here.rooms.ephemeral.tick()
    (edu,) = await world.wire.carry()
    assert edu["content"][world.room_id]["m.read"][world.maker]["event_ids"] == ["$2"]
    assert world.wire.woken[world.here.name] == {world.there.name: 1}
    await world.read(EventId("$3"))
    clock.shift(10)
    await world.here.rooms.ephemeral.tick()
    assert len(await world.wire.carry()) == 1


async def test_a_room_that_is_purged_takes_its_receipts_along(world: World) -> None:
    await world.read(EventId("$1"))
    await world.tell("$2")
    await world.there.backend.leave(user_id=world.guest, room_id=world.room_id)
    await world.network.deliver()
    await world.here.backend.purge(world.room_id)
    assert await world.kept() == []
    assert await world.here.database.read(edus.servers_with_receipts) == frozenset()
