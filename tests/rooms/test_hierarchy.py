"""Spaces: what we tell of ours, and a walk over those of several servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engine.versions import get_version
from bridge.errors import NotFound, Unavailable
from bridge.ids import RoomId, RoomVersionId, ServerName
from bridge.rooms.network import Json
from bridge.rooms.spaces import MAX_CHILDREN, read_children
from tests.rooms.test_policy import obey
from tests.support.network import Network, Server, trace


async def make(
    server: Server, name: str, *, space: bool = False, version: str = "11", **more: Any
) -> RoomId:
    return await server.rooms.creator.create(
        creator=server.user("maker"),
        version=get_version(RoomVersionId(version)),
        transaction_id=f"make-{name}",
        trace_id=trace(),
        name=name,
        creation_content={"type": "m.space"} if space else None,
        **{"public": True, **more},
    )


async def put(
    server: Server, room_id: RoomId, kind: str, content: Json, state_key: str = ""
) -> None:
    await server.rooms.sender.send(
        room_id=room_id,
        sender=server.user("maker"),
        type=kind,
        state_key=state_key,
        content=content,
        trace_id=trace(),
    )


async def place(
    server: Server, space: RoomId, child: RoomId, *via: ServerName, **more: Any
) -> None:
    content = {"via": list(via or (server.name,)), **more}
    await put(server, space, "m.space.child", content, child)


async def told(here: Server, origin: str, room_id: RoomId, **more: Any) -> Json:
    wanted = {"suggested_only": False, **more}
    return await here.rooms.spaces.answer(ServerName(origin), room_id, **wanted)


def ids(rooms: Sequence[Json]) -> list[str]:
    return [str(one.get("state_key") or one["room_id"]) for one in rooms]


async def test_who_may_see_a_room_is_said_by_its_rules_and_its_members(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    space = await make(here, "space", space=True)
    rooms = {name: await make(here, name, public=False) for name in "abcdefgh"}
    await put(here, rooms["a"], "m.room.join_rules", {"join_rule": "knock"})
    await put(
        here, rooms["b"], "m.room.history_visibility", {"history_visibility": "world_readable"}
    )
    club = await make(here, "club")
    await there.backend.join(user_id=there.user("guest"), room_id=club, via=[here.name])
    allow = [{"type": "m.room_membership", "room_id": club}]
    await put(here, rooms["c"], "m.room.join_rules", {"join_rule": "restricted", "allow": allow})
    await put(here, rooms["d"], "m.room.join_rules", {"join_rule": "restricted", "allow": []})
    await here.backend.invite(
        room_id=rooms["e"], sender=here.user("maker"), target=there.user("guest"), txn="i"
    )
    await put(here, rooms["f"], "m.room.join_rules", {"join_rule": "public"})
    acl = {"allow": ["*"], "deny": [there.name]}
    await put(here, rooms["f"], "m.room.server_acl", acl)
    await put(here, rooms["g"], "m.room.join_rules", {"join_rule": "public"})
    obey(here, f"deny room {rooms['g']} joins")
    for name in rooms:
        await place(here, space, rooms[name], order=name)
    answer = await told(here, there.name, space)
    names = {room_id: name for name, room_id in rooms.items()}
    assert [one["name"] for one in answer["children"]] == ["a", "b", "c", "e"]
    assert [names[one] for one in answer["inaccessible_children"]] == ["d", "f", "g", "h"]
    assert answer["children"][2]["allowed_room_ids"] == [club]
    # Who has no member in the club sees less.
    others = await told(here, "else.example", space)
    assert [one["name"] for one in others["children"]] == ["a", "b", "f"]
    for name in ("d", "f", "h"):
        with pytest.raises(NotFound):
            await told(here, there.name, rooms[name])


async def test_a_join_rule_counts_only_where_the_version_knows_it(network: Network) -> None:
    here = await network.add("here.example")
    old = await make(here, "old", version="6", public=False)
    await put(here, old, "m.room.join_rules", {"join_rule": "knock"})
    with pytest.raises(NotFound):
        await told(here, "there.example", old)


async def test_children_that_count_are_told_in_their_order(network: Network) -> None:
    here = await network.add("here.example")
    space = await make(here, "space", space=True)
    rooms = [await make(here, f"room {number}") for number in range(4)]
    await place(here, space, rooms[0])
    network.clock.shift(1.0)
    await place(here, space, rooms[1], suggested=True)
    await place(here, space, rooms[2], order="b", suggested=True)
    await place(here, space, rooms[3], order="a")
    await put(here, space, "m.space.child", {}, "!removed")
    await put(here, space, "m.space.child", {"via": []}, "!empty")
    await put(here, space, "m.space.child", {"via": ["here.example"]}, "no room")
    answer = await told(here, "there.example", space)
    wanted = [rooms[3], rooms[2], rooms[0], rooms[1]]
    assert ids(answer["room"]["children_state"]) == wanted
    assert ids(answer["children"]) == wanted
    assert all("origin_server_ts" in one for one in answer["room"]["children_state"])
    only = await told(here, "there.example", space, suggested_only=True)
    assert ids(only["room"]["children_state"]) == [rooms[2], rooms[1]]
    assert ids(only["children"]) == [rooms[2], rooms[1]]


async def test_a_room_that_is_no_space_has_no_children(network: Network) -> None:
    here = await network.add("here.example")
    room_id, child = await make(here, "room"), await make(here, "child")
    await place(here, room_id, child)
    answer = await told(here, "there.example", room_id)
    assert (answer["room"]["children_state"], answer["children"]) == ([], [])


async def test_a_crowded_space_tells_a_bounded_number_of_children(network: Network) -> None:
    here = await network.add("here.example")
    space = await make(here, "space", space=True)
    for number in range(MAX_CHILDREN + 5):
        await place(here, space, RoomId(f"!{number}:here.example"))
    answer = await told(here, "there.example", space)
    assert len(answer["room"]["children_state"]) == MAX_CHILDREN


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["type", "content", "via", "state_key", "order", "x"]), inner
                )
            ),
            max_leaves=10,
        )
        | st.fixed_dictionaries(
            {
                "type": st.just("m.space.child"),
                "state_key": st.sampled_from(["!a:b", "!c", "d"]) | st.none(),
                "content": st.fixed_dictionaries(
                    {
                        "via": st.lists(st.sampled_from(["a.example", "no!", 7])) | st.none(),
                        "order": st.text(max_size=60) | st.integers(),
                    }
                ),
                "origin_server_ts": st.integers() | st.text(max_size=3),
            }
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_whatever_is_said_to_be_a_child_is_one_or_is_left_out(
    events: list[object], suggested_only: bool
) -> None:
    children = read_children(events, suggested_only=suggested_only)
    assert len({child.room_id for child in children}) == len(children)
    assert all(child.via and child.room_id.startswith("!") for child in children)


# --- a walk -----------------------------------------------------------------------------------


async def three_servers(network: Network) -> tuple[Server, Server, Server]:
    return (
        await network.add("here.example"),
        await network.add("there.example"),
        await network.add("else.example"),
    )


async def walked(server: Server, room_id: RoomId, **more: Any) -> list[tuple[int, str | None]]:
    found = await server.rooms.walker.walk(room_id, **more)
    return [(one.depth, one.entry.name) for one in found]


async def test_a_walk_goes_over_servers_depth_first(network: Network) -> None:
    here, there, other = await three_servers(network)
    top = await make(there, "top", space=True)
    sub = await make(other, "sub", space=True)
    await place(there, top, await make(there, "first"), order="a")
    await place(there, top, sub, other.name, order="b")
    await place(there, top, await make(here, "ours"), here.name, order="c")
    await place(other, sub, await make(other, "deep"))
    assert await walked(here, top, via=[there.name]) == [
        (0, "top"), (1, "first"), (1, "sub"), (2, "deep"), (1, "ours"),
    ]  # fmt: skip
    # Told once, it is not asked for again for a while.
    asked = len(network.requests)
    await walked(here, top, via=[there.name])
    assert len(network.requests) == asked
    network.clock.shift(301.0)
    await walked(here, top, via=[there.name])
    assert len(network.requests) == asked + 2
    assert await walked(here, top, via=[there.name], depth=1) == [
        (0, "top"), (1, "first"), (1, "sub"), (1, "ours"),
    ]  # fmt: skip
    assert await walked(here, top, via=[there.name], limit=2) == [(0, "top"), (1, "first")]


async def test_a_circle_of_spaces_is_walked_once(network: Network) -> None:
    here, there, other = await three_servers(network)
    one, two = await make(there, "one", space=True), await make(other, "two", space=True)
    await place(there, one, two, other.name)
    await place(there, one, one)
    await place(other, two, one, there.name)
    assert await walked(here, one, via=[there.name], depth=9) == [(0, "one"), (1, "two")]


async def test_what_is_down_is_left_out_and_what_was_told_of_it_stays(network: Network) -> None:
    here, there, other = await three_servers(network)
    top = await make(there, "top", space=True)
    # Both are in it, so that the one can tell what it is while the other is down.
    sub = await make(other, "sub", space=True)
    await there.backend.join(user_id=there.user("maker"), room_id=sub, via=[other.name])
    unknown = await make(other, "unknown")
    await place(there, top, sub, other.name)
    await place(there, top, unknown, other.name)
    other.down = True
    assert await walked(here, top, via=[there.name]) == [(0, "top"), (1, "sub")]
    there.down = True
    network.clock.shift(301.0)
    with pytest.raises(Unavailable):
        await walked(here, top, via=[there.name])
    with pytest.raises(NotFound):
        await walked(here, top)


async def test_a_person_is_shown_what_they_could_enter(network: Network) -> None:
    here, there, _ = await three_servers(network)
    anna, ben = here.user("anna"), here.user("ben")
    top = await make(there, "top", space=True)
    club, closed = await make(there, "club"), await make(there, "closed", public=False)
    await here.backend.join(user_id=anna, room_id=club, via=[there.name])
    allow = [{"type": "m.room_membership", "room_id": club}]
    members = await make(there, "members", public=False)
    rules = {"join_rule": "restricted", "allow": allow}
    await put(there, members, "m.room.join_rules", rules)
    await there.backend.invite(room_id=closed, sender=there.user("maker"), target=ben, txn="invite")
    for order, room_id in enumerate((club, members, closed)):
        await place(there, top, room_id, order=str(order))
    via = [there.name]
    assert [name for _, name in await walked(here, top, via=via, viewer=anna)] == [
        "top", "club", "members",
    ]  # fmt: skip
    assert [name for _, name in await walked(here, top, via=via, viewer=ben)] == [
        "top", "club", "closed",
    ]  # fmt: skip
    with pytest.raises(NotFound):
        await walked(here, closed, via=via, viewer=anna)


async def test_an_answer_about_another_room_is_no_answer(network: Network) -> None:
    here, there, _ = await three_servers(network)
    top = await make(there, "top", space=True)
    wrong: Json = {"room": {"room_id": "!other", "children_state": []}, "children": []}
    network.tamper = lambda endpoint, answer: wrong if endpoint == "hierarchy" else answer
    with pytest.raises(Exception, match="about !other"):
        await walked(here, top, via=[there.name])
    # Rooms that the space does not name are nobody's business.
    network.tamper = lambda endpoint, answer: (
        {**answer, "children": [{"room_id": "!planted", "name": "planted"}]}
        if endpoint == "hierarchy"
        else answer
    )
    assert await walked(here, top, via=[there.name]) == [(0, "top")]
