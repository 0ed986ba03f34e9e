"""Our list of rooms: what is in it, in which order, page by page; and that of others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engine.pdu import Pdu
from bridge.engine.state import StateKey
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import RoomAlias, RoomId, RoomVersionId, ServerName, TraceId, UserId
from bridge.rooms.network import Json
from bridge.rooms.public_rooms import ListQuery, RoomPage, Token, read_page
from bridge.storage import portals
from bridge.storage.database import Transaction
from bridge.storage.published import Place
from tests.rooms.test_policy import obey
from tests.support.network import Network, Server

ALL = ListQuery()


async def make(server: Server, name: str, **more: Any) -> RoomId:
    """Public and listed, unless `more` says otherwise."""
    wanted = {"public": True, "listed": True, "name": name, **more}
    return await server.backend.create_room(
        creator=server.user("maker"), txn=f"make-{name}", **wanted
    )


async def put(server: Server, room_id: RoomId, kind: str, content: Json) -> None:
    await server.rooms.sender.send(
        room_id=room_id,
        sender=server.user("maker"),
        type=kind,
        state_key="",
        content=content,
        trace_id=TraceId("t"),
    )


async def enter(server: Server, room_id: RoomId, *users: str) -> None:
    for user in users:
        await server.backend.join(user_id=server.user(user), room_id=room_id, via=[])


async def names(server: Server, query: ListQuery = ALL, **more: Any) -> list[str | None]:
    page = await server.rooms.public_rooms.page(query, **more)
    return [one.name for one in page.rooms]


async def test_rooms_are_listed_from_creation_or_when_they_are_published(network: Network) -> None:
    here = await network.add("here.example")
    await make(here, "listed")
    other = await make(here, "other", listed=False)
    assert await names(here) == ["listed"]
    for _ in range(2):
        await here.backend.publish(other, by=here.user("maker"))
    assert sorted(map(str, await names(here))) == ["listed", "other"]
    assert await here.backend.unpublish(other)
    assert not await here.backend.unpublish(other)
    assert await names(here) == ["listed"]
    with pytest.raises(NotFound):
        await here.backend.publish(RoomId("!nowhere"), by=here.user("maker"))


async def test_the_biggest_room_comes_first_and_the_numbers_follow_the_room(
    network: Network,
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    small, big = await make(here, "small"), await make(here, "big")
    await enter(here, big, "a", "b")
    assert await names(here) == ["big", "small"]
    await enter(here, small, "a", "b")
    await there.backend.join(user_id=there.user("guest"), room_id=small, via=[here.name])
    page = await here.rooms.public_rooms.page(ALL)
    assert [(one.name, one.joined_members) for one in page.rooms] == [("small", 4), ("big", 3)]
    await here.backend.leave(user_id=here.user("a"), room_id=small)
    await here.backend.leave(user_id=here.user("b"), room_id=small)
    assert await names(here) == ["big", "small"]


async def test_what_another_process_changes_meanwhile_is_not_lost(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await network.add("here.example")
    room_id = await make(here, "before", listed=False)
    other = await network.add("here.example", path=tmp_path / "here.example.sqlite")
    states = here.rooms.public_rooms._states
    pick, looks = states.pick, 0

    async def late(*given: Any) -> dict[StateKey, Pdu]:
        nonlocal looks
        looks += 1
        found = await pick(*given)
        if looks == 1:
            await put(other, room_id, "m.room.name", {"name": "after"})
        return found

    monkeypatch.setattr(states, "pick", late)
    try:
        await here.backend.publish(room_id, by=here.user("maker"))
        assert await names(here) == ["after"]
    finally:
        await here.database.close()
    assert looks == 2


async def test_what_is_shown_follows_the_state_of_the_room(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make(here, "before", alias=RoomAlias("#tea:here.example"))
    await put(here, room_id, "m.room.name", {"name": "after"})
    await put(here, room_id, "m.room.topic", {"topic": "old", "m.topic": {"m.text": [
        {"mimetype": "text/html", "body": "<b>new</b>"}, {"body": "new"}
    ]}})  # fmt: skip
    await put(here, room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    await put(here, room_id, "m.room.guest_access", {"guest_access": "can_join"})
    await put(here, room_id, "m.room.avatar", {"url": "mxc://here.example/a"})
    await put(here, room_id, "m.room.join_rules", {"join_rule": "knock"})
    (one,) = (await here.rooms.public_rooms.page(ALL)).rooms
    assert one.to_json() == {
        "room_id": room_id,
        "num_joined_members": 1,
        "name": "after",
        "topic": "new",
        "canonical_alias": "#tea:here.example",
        "avatar_url": "mxc://here.example/a",
        "join_rule": "knock",
        "world_readable": True,
        "guest_can_join": True,
    }
    # Publishing again changes nothing about it: the row says what the room's state says.
    await here.backend.publish(room_id, by=here.user("maker"))
    assert (await here.rooms.public_rooms.page(ALL)).rooms == [one]
    await put(here, room_id, "m.room.name", {"name": ["of", "no", "type"]})
    await put(here, room_id, "m.room.avatar", {"url": "https://example.org/track.png"})
    (one,) = (await here.rooms.public_rooms.page(ALL)).rooms
    assert (one.name, one.avatar_url) == (None, None)


async def test_a_redacted_topic_is_gone_from_the_list(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make(here, "tea")
    await put(here, room_id, "m.room.topic", {"topic": "regrettable"})
    state = await here.rooms.queries.state(room_id, "m.room.topic")
    await here.backend.redact(
        room_id=room_id,
        sender=here.user("maker"),
        target=state[0].event_id,
        txn="r",
        reason=None,
    )
    (one,) = (await here.rooms.public_rooms.page(ALL)).rooms
    assert one.topic is None
    assert await names(here, ListQuery(term="regrettable")) == []


async def test_closed_rooms_and_rooms_that_we_left_are_not_shown(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make(here, "tea")
    await put(here, room_id, "m.room.join_rules", {"join_rule": "invite"})
    assert await names(here) == []
    await put(here, room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    assert await names(here) == ["tea"]
    await here.backend.leave(user_id=here.user("maker"), room_id=room_id)
    assert await names(here) == []
    assert await here.rooms.public_rooms.is_published(room_id)


async def test_a_room_that_we_come_back_to_is_shown_as_it_is_now(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make(there, "before", listed=False, topic="old")
    await here.backend.join(user_id=here.user("a"), room_id=room_id, via=[there.name])
    await here.backend.publish(room_id, by=here.user("a"))
    await here.backend.leave(user_id=here.user("a"), room_id=room_id)
    await network.deliver()
    await put(there, room_id, "m.room.name", {"name": "after"})
    await here.backend.join(user_id=here.user("a"), room_id=room_id, via=[there.name])
    (one,) = (await here.rooms.public_rooms.page(ALL)).rooms
    assert (one.name, one.topic, one.joined_members) == ("after", "old", 2)


async def test_the_successor_takes_the_place_of_an_upgraded_room(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make(here, "tea", version=RoomVersionId("10"))
    successor = await here.backend.upgrade(
        room_id=room_id, sender=here.user("maker"), version=RoomVersionId("12"), txn="up"
    )
    (one,) = (await here.rooms.public_rooms.page(ALL)).rooms
    assert (one.room_id, one.name, one.joined_members) == (successor, "tea", 1)


async def test_a_purged_room_is_gone_from_the_list(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make(here, "tea")
    await here.backend.purge(room_id)
    assert not await here.rooms.public_rooms.is_published(room_id)


async def test_search_looks_for_every_word_in_name_topic_and_alias(network: Network) -> None:
    here = await network.add("here.example")
    await make(here, "Grüner Tee", topic="Blätter", alias=RoomAlias("#tea:here.example"))
    await make(here, "100% Kaffee", topic="Bohnen_und_mehr")
    for term, found in (
        ("GRÜNER", ["Grüner Tee"]),
        ("blätter tee", ["Grüner Tee"]),
        ("#TEA:here", ["Grüner Tee"]),
        ("100%", ["100% Kaffee"]),
        ("bohnen_und", ["100% Kaffee"]),
        ("%", ["100% Kaffee"]),
        ("ee", ["100% Kaffee", "Grüner Tee"]),
        ("tee kaffee", []),
        ("  ", ["100% Kaffee", "Grüner Tee"]),
    ):
        assert sorted(map(str, await names(here, ListQuery(term=term)))) == found, term


async def test_rooms_of_foreign_chats_stand_in_the_list_of_their_network(network: Network) -> None:
    here = await network.add("here.example")
    native, muc = await make(here, "native"), await make(here, "muc")

    def bind(tx: Transaction) -> None:
        portals.bind(
            tx,
            adapter="xmpp",
            kind=portals.PLUMBED,
            chat="tea@muc.example",
            user_id=UserId(""),
            room_id=muc,
            now_ms=1,
        )
        # A Matrix room that XMPP people enter is a Matrix room.
        portals.bind(
            tx,
            adapter="xmpp",
            kind=portals.SERVED,
            chat=native,
            user_id=UserId(""),
            room_id=native,
            now_ms=1,
        )

    await here.database.write(bind)
    assert await names(here) == ["native"]
    assert await names(here, ListQuery(network="xmpp")) == ["muc"]
    assert await names(here, ListQuery(network="irc")) == []
    assert sorted(map(str, await names(here, ListQuery(all_networks=True)))) == ["muc", "native"]
    assert (await here.rooms.public_rooms.page(ListQuery(network="xmpp"))).total == 1


async def test_another_server_is_not_shown_what_a_room_keeps_from_it(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make(here, "tea")
    bad, good = ServerName("bad.example"), ServerName("good.example")
    await put(here, room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["bad.*"]})
    await here.rooms.creator.create(
        creator=here.user("maker"),
        version=(await here.rooms.queries.summary(room_id)).version,
        transaction_id="local",
        trace_id=TraceId("t"),
        name="ours alone",
        public=True,
        listed=True,
        creation_content={"m.federate": False},
    )
    assert await names(here, origin=bad) == []
    assert await names(here, origin=good) == ["tea"]
    assert sorted(map(str, await names(here))) == ["ours alone", "tea"]
    obey(here, f"deny room {room_id} joins")
    assert await names(here, origin=good) == []
    assert await names(here) == ["ours alone"]


async def test_an_alias_of_ours_is_shown_by_the_room_that_it_names(network: Network) -> None:
    here = await network.add("here.example")
    alias = RoomAlias("#tea:here.example")
    await make(here, "true", alias=alias)
    thief = await make(here, "thief")
    await put(here, thief, "m.room.canonical_alias", {"alias": alias})
    shown = {one.name: one.canonical_alias for one in (await page_of(here)).rooms}
    assert shown == {"true": alias, "thief": None}


async def page_of(server: Server, query: ListQuery = ALL) -> RoomPage:
    return await server.rooms.public_rooms.page(query)


async def test_pages_fit_together_in_both_directions(network: Network) -> None:
    here = await network.add("here.example")
    for number in range(7):
        room_id = await make(here, f"room {number}")
        await enter(here, room_id, *(f"user{one}" for one in range(number // 2)))
    whole = [one.room_id for one in (await page_of(here)).rooms]
    assert len(whole) == 7

    query, seen = ListQuery(limit=3), []
    pages = []
    while True:
        page = await page_of(here, query)
        pages.append(page)
        seen += [one.room_id for one in page.rooms]
        assert page.total == 7
        if page.next is None:
            break
        query = replace(query, since=page.next)
    assert seen == whole
    assert [len(one.rooms) for one in pages] == [3, 3, 1]
    assert pages[0].previous is None
    assert [one.previous is None for one in pages] == [True, False, False]

    # And back again, from the last page.
    back, at = [one.room_id for one in pages[-1].rooms], pages[-1]
    while at.previous is not None:
        at = await page_of(here, ListQuery(limit=3, since=at.previous))
        back = [one.room_id for one in at.rooms] + back
        assert at.next is not None
    assert back == whole
    assert (await page_of(here, ListQuery(limit=7))).next is None


async def test_behind_the_end_there_is_a_way_back(network: Network) -> None:
    here = await network.add("here.example")
    for number in range(3):
        await make(here, f"room {number}")
    beyond = str(Token(True, Place(joined_members=0, room_id="!")))
    page = await page_of(here, ListQuery(limit=2, since=beyond))
    assert (page.rooms, page.next) == ([], None)
    assert page.previous is not None
    last = await page_of(here, ListQuery(limit=2, since=page.previous))
    assert [one.room_id for one in last.rooms] == [
        one.room_id for one in (await page_of(here)).rooms
    ][1:]
    assert last.next is None


async def test_long_topics_make_short_pages(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await network.add("here.example")
    for number in range(4):
        await make(here, f"room {number}", topic="x" * 100)
    monkeypatch.setattr("bridge.rooms.public_rooms.MAX_PAGE_CHARACTERS", 250)
    page = await page_of(here)
    assert len(page.rooms) == 2
    assert page.next is not None
    assert len((await page_of(here, ListQuery(since=page.next))).rooms) == 2


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.hex()))
def test_whatever_comes_is_a_token_or_refused(text: str) -> None:
    def read(said: str) -> Token | str:
        try:
            return Token.parse(said)
        except BadInput as exc:
            return exc.errcode

    token = read(text)
    assert token == "M_INVALID_PARAM" if isinstance(token, str) else read(str(token)) == token


@given(
    st.booleans(),
    st.none()
    | st.builds(
        lambda members, name: Place(joined_members=members, room_id=f"!{name}"),
        st.integers(0, 2**31 - 1),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=100),
    ),
)
def test_tokens_come_back_as_they_went(forwards: bool, place: Place | None) -> None:
    assert Token.parse(str(Token(forwards, place))) == Token(forwards, place)


# --- of other servers -------------------------------------------------------------------------


async def test_the_list_of_another_server_is_read_and_searched(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    for name in ("tea", "coffee", "cocoa"):
        await make(there, name)
    page = await here.backend.public_rooms(there.name, limit=2)
    assert len(page.rooms) == 2
    assert page.total == 3
    rest = await here.backend.public_rooms(there.name, limit=2, since=page.next)
    assert {one.name for one in (*page.rooms, *rest.rooms)} == {"tea", "coffee", "cocoa"}
    found = await here.backend.public_rooms(there.name, words="COFFEE")
    assert [one.name for one in found.rooms] == ["coffee"]
    assert [one.name for one in (await there.backend.public_rooms(there.name, words="tea")).rooms]
    there.down = True
    with pytest.raises(Unavailable):
        await here.backend.public_rooms(there.name)


async def test_where_a_server_cannot_search_we_look_through_its_page(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    for name in ("tea", "coffee"):
        await make(there, name)
    own = there.rooms.public_rooms
    read = own.page

    async def page(query: ListQuery, **more: Any) -> RoomPage:
        if query.term:
            raise Refused("what?", errcode="M_UNRECOGNIZED")
        return await read(query, **more)

    monkeypatch.setattr(own, "page", page)
    found = await here.backend.public_rooms(there.name, words="TEA")
    assert [one.name for one in found.rooms] == ["tea"]


def test_of_an_answer_only_what_makes_sense_is_taken() -> None:
    page = read_page(
        {
            "chunk": [
                {"room_id": "!a:b", "num_joined_members": 2, "name": "A", "topic": 7},
                {"room_id": "nothing"},
                "nothing",
                {"room_id": "!c", "num_joined_members": -5, "canonical_alias": "#no", "name": ""},
                {"room_id": "!d", "num_joined_members": True, "avatar_url": "https://x/y"},
            ],
            "next_batch": "x" * 5000,
            "total_room_count_estimate": "many",
        }
    )
    assert [(one.room_id, one.joined_members) for one in page.rooms] == [
        ("!a:b", 2),
        ("!c", 0),
        ("!d", 0),
    ]
    assert page.rooms[0].topic is None
    assert (page.rooms[1].canonical_alias, page.rooms[1].name) == (None, None)
    assert page.rooms[2].avatar_url is None
    assert (page.next, page.previous, page.total) == (None, None, None)
    with pytest.raises(BadInput):
        read_page({"chunk": {}})
