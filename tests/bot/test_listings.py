"""Lists of rooms on somebody's word: who may list a room, and how a list is read."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.bot.listings import PAGE, RoomListings
from bridge.engine.versions import get_version
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import RoomAlias, RoomId, RoomVersionId, ServerName, UserId
from bridge.storage import portals
from tests.bot.test_upgrades import ALIAS, parlour
from tests.support.network import trace
from tests.support.world import ALICE, BOB, GATEWAY, HOME, JULIET, ROMEO, World

# Rooms that are hashes of one event in one millisecond would be one.
V11 = RoomVersionId("11")


def listings(world: World) -> RoomListings:
    return RoomListings(backend=world.gateway.backend)


async def listed(world: World) -> list[str | None]:
    page = await world.home.backend.public_rooms(ServerName(GATEWAY))
    return [one.name for one in page.rooms]


async def test_whoever_may_name_a_room_may_list_it(world: World) -> None:
    room_id, desk = await parlour(world), listings(world)
    for caller in (BOB, world.home.user("stranger")):
        with pytest.raises(Refused, match="canonical alias"):
            await desk.publish(caller=caller, is_admin=False, room_id=room_id)
    assert await listed(world) == []
    said = await desk.publish(caller=ALICE, is_admin=False, room_id=room_id)
    assert said == f"{ALIAS} stands in the list of rooms of {GATEWAY} now."
    assert await listed(world) == ["Parlour"]
    with pytest.raises(Refused):
        await desk.unpublish(caller=BOB, is_admin=False, room_id=room_id)
    said = await desk.unpublish(caller=BOB, is_admin=True, room_id=room_id)
    assert said == f"{room_id} is not listed any more."
    assert "in no list" in await desk.unpublish(caller=ALICE, is_admin=False, room_id=room_id)
    assert await listed(world) == []


async def test_of_a_room_that_we_are_not_in_nothing_is_told(world: World) -> None:
    theirs = await world.home.backend.create_room(creator=ALICE, txn="theirs", public=True)
    for room_id in (theirs, RoomId("!nowhere")):
        with pytest.raises(Refused, match="you may not"):
            await listings(world).publish(caller=ALICE, is_admin=False, room_id=room_id)
        with pytest.raises(NotFound):
            await listings(world).publish(caller=ALICE, is_admin=True, room_id=room_id)


async def test_a_room_for_invited_people_is_not_listed(world: World) -> None:
    room_id = await parlour(world, public=False)
    with pytest.raises(Refused, match="only invited people"):
        await listings(world).publish(caller=ALICE, is_admin=True, room_id=room_id)


async def test_the_room_of_a_chat_is_listed_under_its_network(world: World) -> None:
    room_id = await parlour(world)
    await world.database.write(
        lambda tx: portals.bind(
            tx,
            adapter="loopback",
            kind=portals.PLUMBED,
            chat="tea@muc.example",
            user_id=world.gateway.user(""),
            room_id=room_id,
            now_ms=1,
        )
    )
    await listings(world).publish(caller=ALICE, is_admin=False, room_id=room_id)
    assert await listed(world) == []


async def test_a_list_is_read_page_by_page(world: World) -> None:
    for number in range(PAGE + 3):
        await world.home.backend.create_room(
            creator=ALICE,
            txn=f"r{number}",
            name=f"Room {number}",
            topic="line\nbreak " + "x" * 500,
            public=True,
            listed=True,
            version=V11,
        )
    desk = listings(world)
    first = (await desk.browse(caller=ALICE, words=[HOME.upper()])).splitlines()
    assert first[0] == f"Rooms of {HOME}, {PAGE} of {PAGE + 3}:"
    assert len(first) == PAGE + 2
    assert first[-1] == "There are more: write `rooms more`."
    assert "(1 person): line break xxx" in first[1]
    assert all(len(line) < 300 for line in first)
    # Everybody reads on in their own list.
    with pytest.raises(BadInput, match="no list"):
        await desk.browse(caller=BOB, words=["more"])
    rest = (await desk.browse(caller=ALICE, words=["more"])).splitlines()
    assert rest[0] == f"Rooms of {HOME}, {PAGE + 3} of {PAGE + 3}:"
    assert len(rest) == 4
    assert len({*first, *rest} & {*first[1:-1], *rest[1:]}) == PAGE + 3
    with pytest.raises(BadInput, match="no list"):
        await desk.browse(caller=ALICE, words=["more"])


async def test_a_list_is_searched(world: World) -> None:
    for name in ("Tea house", "Coffee house"):
        await world.home.backend.create_room(
            creator=ALICE, txn=name, name=name, public=True, listed=True, version=V11
        )
    desk = listings(world)
    found = await desk.browse(caller=BOB, words=[HOME, "house", "TEA"])
    assert "Tea house" in found
    assert "Coffee" not in found
    assert await desk.browse(caller=BOB, words=[HOME, "milk"]) == (
        f"{HOME} lists no rooms about 'milk'."
    )


async def test_a_server_that_is_down_or_no_server_is_said(world: World) -> None:
    world.home.down = True
    with pytest.raises(Unavailable):
        await listings(world).browse(caller=BOB, words=[HOME])
    with pytest.raises(BadInput):
        await listings(world).browse(caller=BOB, words=["no server!"])


async def test_a_space_is_read_with_what_the_caller_could_enter(world: World) -> None:
    home = world.home
    alias = RoomAlias(f"#space:{HOME}")

    async def make(name: str, **more: Any) -> RoomId:
        return await home.rooms.creator.create(
            creator=ALICE,
            version=get_version(V11),
            transaction_id=name,
            trace_id=trace(),
            name=name,
            **{"public": True, **more},
        )

    space = await make("Space", creation_content={"type": "m.space"}, alias=alias)
    closed = await make("Closed", public=False)
    await home.backend.invite(
        room_id=closed, sender=ALICE, target=world.ghost(JULIET), txn="invite"
    )
    for child in (await make("Tea house"), closed, await make("Garden")):
        await home.backend.send(
            room_id=space,
            sender=ALICE,
            type="m.space.child",
            state_key=child,
            content={"via": [HOME]},
            txn=f"place-{child}",
            trace=trace(),
        )
    desk = listings(world)

    async def read(caller: UserId, *words: str) -> list[str]:
        said = await desk.browse_space(caller=caller, space=alias, words=words)
        return [line.split("(")[0] for line in said.splitlines()]

    top = f"{alias} Space "
    lines = await read(world.ghost(ROMEO))
    assert lines[0] == top
    assert sorted(line.split(maxsplit=1)[1] for line in lines[1:]) == ["Garden ", "Tea house "]
    assert all(line.startswith("  !") for line in lines[1:])
    assert len(await read(world.ghost(JULIET))) == 4
    # Whose server asks us is not shown what ours alone may see.
    assert len(await read(BOB)) == 3
    assert len(await read(world.ghost(ROMEO), "HOUSE", "tea")) == 2
    assert (await read(world.ghost(ROMEO), "milk"))[1] == "There is nothing of that in it."
    with pytest.raises(NotFound):
        await desk.browse_space(caller=world.ghost(ROMEO), space=closed, words=())


async def test_what_the_bot_may_see_is_not_shown_to_strangers(world: World) -> None:
    room_id, desk = await parlour(world, public=False), listings(world)
    assert "Parlour" in await desk.browse_space(caller=ALICE, space=room_id, words=())
    for stranger in (world.home.user("stranger"), world.ghost(ROMEO)):
        with pytest.raises(NotFound):
            await desk.browse_space(caller=stranger, space=room_id, words=())
