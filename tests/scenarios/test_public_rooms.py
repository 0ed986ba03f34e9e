"""Public rooms and spaces between us and a real Synapse: seen, searched and walked both ways."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import pytest_asyncio

from bridge.demo.people import MatrixPerson, Muc
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from bridge.identity import localparts
from bridge.ids import RoomAlias, RoomId, ServerName
from bridge.rooms.public_rooms import ListQuery
from tests.support.chats import ARRIVAL_S, ask_in_room, open_bot_chat
from tests.support.gateway import Gateway
from tests.support.matrix_side import MatrixSide, matrix_sides
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

LISTS = "/_matrix/client/v3/publicRooms"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def synapse(certificates: CertificateAuthority) -> AsyncIterator[Synapse]:
    """Everybody may publish rooms there."""
    rules = {"room_list_publication_rules": [{"action": "allow"}]}
    async with Synapse(certificates, overrides=rules) as server:
        yield server


@asynccontextmanager
async def our_side(
    certificates: CertificateAuthority, folder: Path, template: Path
) -> AsyncIterator[MatrixSide]:
    async with matrix_sides(certificates, folder, template, 1) as (side,):
        yield side


async def seen_by(
    person: MatrixPerson, server: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The list of another server, through the person's own; searched where there is a body."""
    if body is None:
        return await person.request("GET", LISTS, query={"server": server})
    return await person.request("POST", f"{LISTS}?server={quote(server, safe='')}", body)


def names_of(page: Mapping[str, Any]) -> list[str]:
    return [str(one.get("name")) for one in page["chunk"]]


async def test_a_user_of_synapse_reads_searches_and_pages_our_list(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, "alice"), us.user("bob")
        rooms: dict[str, RoomId] = {}
        for number, name in enumerate(("Tea house", "Coffee house", "Garden")):
            rooms[name] = await us.create_room(
                bob,
                public=True,
                listed=True,
                name=name,
                topic=f"all about number {number}",
                alias=RoomAlias(f"#room{number}:{us.name}"),
            )
        await us.create_room(bob, public=True, name="Unlisted")
        space = await us.create_room(
            bob, public=True, listed=True, name="Space", creation_content={"type": "m.space"}
        )
        # The biggest comes first: she is in the garden.
        await alice.join(f"#room2:{us.name}")
        page = await seen_by(alice, us.name)
        assert names_of(page)[0] == "Garden"
        assert sorted(names_of(page)) == ["Coffee house", "Garden", "Space", "Tea house"]
        assert page["total_room_count_estimate"] == 4
        garden = page["chunk"][0]
        assert garden == {
            "room_id": rooms["Garden"],
            "name": "Garden",
            "topic": "all about number 2",
            "canonical_alias": f"#room2:{us.name}",
            "num_joined_members": 2,
            "join_rule": "public",
            "world_readable": False,
            "guest_can_join": False,
        }

        found = await seen_by(alice, us.name, {"filter": {"generic_search_term": "HOUSE"}})
        assert sorted(names_of(found)) == ["Coffee house", "Tea house"]
        found = await seen_by(alice, us.name, {"filter": {"room_types": ["m.space"]}})
        assert [one["room_id"] for one in found["chunk"]] == [space]

        seen, since, pages = list[str](), None, list[list[str]]()
        while True:
            wanted = {"limit": 3} if since is None else {"limit": 3, "since": since}
            page = await seen_by(alice, us.name, wanted)
            pages.append(names_of(page))
            seen += pages[-1]
            since = page.get("next_batch")
            if since is None:
                break
        assert len(pages) == 2
        assert sorted(seen) == ["Coffee house", "Garden", "Space", "Tea house"]
        back = await seen_by(alice, us.name, {"limit": 3, "since": page["prev_batch"]})
        assert names_of(back) == pages[0]


async def test_we_read_the_list_of_synapse(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, name = await matrix_person(synapse, "alice"), ServerName(synapse.server_name)
        for number in range(5):
            await alice.create_room(
                preset="public_chat",
                visibility="public",
                name=f"Meadow {number}",
                topic="clover" if number == 3 else "grass",
                alias=f"meadow{number}",
            )
        lists = us.rooms.public_rooms
        whole = await lists.page_of(name, ListQuery())
        assert sorted(str(one.name) for one in whole.rooms) == [f"Meadow {n}" for n in range(5)]
        assert whole.total == 5
        assert {one.joined_members for one in whole.rooms} == {1}
        (clover,) = (await lists.page_of(name, ListQuery(term="clover"))).rooms
        assert clover.canonical_alias == f"#meadow3:{name}"
        first = await lists.page_of(name, ListQuery(limit=3))
        assert first.next is not None
        rest = await lists.page_of(name, ListQuery(limit=3, since=first.next))
        seen = [str(one.name) for one in (*first.rooms, *rest.rooms)]
        assert sorted(seen) == [f"Meadow {number}" for number in range(5)]
        assert rest.previous is not None
        again = await lists.page_of(name, ListQuery(limit=3, since=rest.previous))
        assert again.rooms == first.rooms


async def test_a_space_with_rooms_of_both_servers_is_walked_from_both(
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with our_side(certificates, tmp_path, sqlite_template) as us:
        alice, bob = await matrix_person(synapse, "alice"), us.user("bob")
        their_name = synapse.server_name
        as_space = {"type": "m.space"}

        async def place(space: RoomId, child: str, server: str, order: str) -> None:
            content = {"via": [server], "order": order}
            await us.send(space, bob, "m.space.child", content, state_key=child)

        async def make(name: str, **more: Any) -> RoomId:
            return await us.create_room(bob, public=True, name=name, **more)

        # Ours on top; theirs below it, with a room of each server in it again.
        top = await make("Our space", creation_content=as_space)
        first, deep = await make("Our first"), await make("Our deep")
        secret = await us.create_room(bob, name="Our secret")
        theirs = await alice.create_room(
            preset="public_chat", name="Their space", creation_content=as_space
        )
        meadow = await alice.create_room(preset="public_chat", name="Their meadow")
        for child, server in ((meadow, their_name), (deep, us.name), (top, us.name)):
            content = {"via": [server], "order": child[1:3]}
            await alice.set_state(theirs, "m.space.child", content, state_key=child)
        await place(top, first, us.name, "a")
        await place(top, theirs, their_name, "b")
        await place(top, secret, us.name, "c")

        found = await us.rooms.walker.walk(top, viewer=us.user("carol"))
        walked = [(one.depth, one.entry.name) for one in found]
        assert walked[:3] == [(0, "Our space"), (1, "Our first"), (1, "Their space")]
        assert sorted(walked[3:]) == [(2, "Our deep"), (2, "Their meadow")]

        async def theirs_seen(room: str) -> list[str]:
            path = f"/_matrix/client/v1/rooms/{quote(room, safe='')}/hierarchy"
            answer = await alice.request("GET", path, query={"limit": "50"})
            return [str(one.get("name")) for one in answer["rooms"]]

        # Of a space that it is not in, Synapse asks nobody: she enters ours first.
        await alice.join(top, via=[us.name])
        seen = await theirs_seen(top)
        assert seen[:3] == ["Our space", "Our first", "Their space"]
        assert sorted(seen[3:]) == ["Our deep", "Their meadow"]
        seen = await theirs_seen(theirs)
        assert sorted(seen) == ["Our deep", "Our first", "Our space", "Their meadow", "Their space"]


async def test_the_room_of_a_muc_is_in_the_list_of_its_network_and_the_bot_lists_others(
    synapse: Synapse,
    prosody: Prosody,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
    certificates: CertificateAuthority,
) -> None:
    settings = {"portals": {"listed": True}, "permissions": {synapse.server_name: "user"}}
    async with Gateway(prosody, certificates, settings=settings) as gateway:
        alice, us = await matrix_person(synapse, "alice"), gateway.server_name
        romeo = Muc(await xmpp_person(prosody, "romeo"), f"open@{prosody.muc_domain}")
        await romeo.enter("Romeo")
        await romeo.configure(
            {"muc#roomconfig_roomname": "Open MUC", "muc#roomconfig_publicroom": True}
        )
        hidden = Muc(romeo.person, f"hidden@{prosody.muc_domain}")
        await hidden.enter("Romeo")
        await hidden.configure({"muc#roomconfig_publicroom": False})
        for muc in (romeo, hidden):
            await alice.join(localparts.alias_for(muc.address, us))

        assert names_of(await seen_by(alice, us)) == []
        # Synapse takes instance IDs only in the form of its own.
        network = {"third_party_instance_id": "bridge|xmpp"}
        page = await seen_by(alice, us, network)
        assert names_of(page) == ["Open MUC"]
        assert page["chunk"][0]["canonical_alias"] == localparts.alias_for(romeo.address, us)
        assert names_of(await seen_by(alice, us, {"third_party_instance_id": "x|irc"})) == []
        assert names_of(await seen_by(alice, us, {"include_all_networks": True})) == ["Open MUC"]

        # A room of hers that the bot is in, listed on her word.
        room = await alice.create_room(
            preset="public_chat", name="Parlour", alias="parlour", invite=[gateway.bot_id]
        )
        await alice.see_membership(room, gateway.bot_id, "join", timeout_s=ARRIVAL_S)
        chat = await open_bot_chat(alice, gateway)
        alias = f"#parlour:{synapse.server_name}"
        await ask_in_room(alice, gateway, chat, f"publish {alias}", expect="stands in the list")
        # Another limit each time: for a while Synapse does not ask the same again.
        assert names_of(await seen_by(alice, us, {"limit": 50})) == ["Parlour"]
        query = ET.Element("{http://jabber.org/protocol/disco#items}query")
        items = (await romeo.person.ask(gateway.component, query)).element[0]
        assert [(one.get("jid"), one.get("name")) for one in items] == [
            (gateway.address(alias), "Parlour")
        ]
        said = await ask_in_room(alice, gateway, chat, f"rooms {us} parlour", expect="Rooms of")
        assert f"{alias} Parlour (2 people)" in said
        await ask_in_room(alice, gateway, chat, f"unpublish {room}", expect="not listed any more")
        assert names_of(await seen_by(alice, us, {"limit": 51})) == []
