"""Names of rooms: whose they are, where they lead, and what a room may call itself."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import RoomAlias, RoomId, UserId
from bridge.storage import aliases
from tests.support.network import Network, Server, trace

TEA = RoomAlias("#tea:here.example")
CHAI = RoomAlias("#chai:here.example")


async def make(server: Server, name: str, alias: RoomAlias | None = None) -> RoomId:
    return await server.backend.create_room(
        creator=server.user("maker"), txn=name, name=name, alias=alias, public=True
    )


async def name(
    server: Server, room_id: RoomId, content: dict[str, Any], *, by: UserId | None = None
) -> None:
    await server.backend.send(
        room_id=room_id,
        sender=by or server.user("maker"),
        type="m.room.canonical_alias",
        state_key="",
        content=content,
        txn=str(content),
        trace=trace(),
    )


async def add(server: Server, alias: RoomAlias, room_id: RoomId) -> None:
    maker = server.user("maker")
    await server.database.write(lambda tx: aliases.put(tx, alias, room_id=room_id, creator=maker))


async def test_several_aliases_of_a_room_are_found_by_others(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make(here, "tea", TEA)
    await add(here, CHAI, room_id)
    for alias in (TEA, CHAI):
        assert await there.backend.resolve_alias(alias) == (room_id, ["here.example"])
    await here.database.write(lambda tx: aliases.remove(tx, CHAI))
    with pytest.raises(NotFound):
        await there.backend.resolve_alias(CHAI)
    assert (await there.backend.resolve_alias(TEA))[0] == room_id


async def test_an_alias_is_given_once_and_by_its_own_server(network: Network) -> None:
    here = await network.add("here.example")
    room_id = await make(here, "tea", TEA)
    with pytest.raises(Refused) as caught:
        await make(here, "thief", TEA)
    assert caught.value.errcode == "M_ROOM_IN_USE"
    with pytest.raises(Refused, match="ours to give"):
        await make(here, "elsewhere", RoomAlias("#tea:there.example"))
    assert (await here.backend.resolve_alias(TEA))[0] == room_id


async def test_of_a_room_that_we_left_an_alias_names_those_who_are_in_it(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make(here, "tea", TEA)
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    await here.backend.leave(user_id=here.user("maker"), room_id=room_id)
    assert await here.rooms.directory.local_alias(TEA) == (room_id, ["there.example"])
    empty = await make(here, "chai", CHAI)
    await here.backend.leave(user_id=here.user("maker"), room_id=empty)
    with pytest.raises(NotFound):
        await here.rooms.directory.local_alias(CHAI)


async def test_a_room_calls_itself_only_what_leads_to_it(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id, other = await make(here, "tea", TEA), await make(here, "other")
    theirs = RoomAlias("#theirs:there.example")
    await make(there, "theirs", theirs)
    for wrong in (
        {"alias": CHAI},
        {"alias": theirs},
        {"alias": TEA, "alt_aliases": [RoomAlias("#no:there.example")]},
    ):
        with pytest.raises(BadInput) as caught:
            await name(here, room_id, wrong)
        assert caught.value.errcode == "M_BAD_ALIAS"
    with pytest.raises(BadInput) as caught:
        await name(here, other, {"alias": TEA})
    assert caught.value.errcode == "M_BAD_ALIAS"
    for malformed in ({"alias": "tea"}, {"alt_aliases": TEA}, {"alt_aliases": [7]}):
        with pytest.raises(BadInput) as caught:
            await name(here, room_id, malformed)
        assert caught.value.errcode == "M_INVALID_PARAM"

    await add(here, CHAI, room_id)
    await name(here, room_id, {"alias": CHAI, "alt_aliases": [TEA]})
    assert (await here.backend.room(room_id)).canonical_alias == CHAI
    # What stands there already is not asked for again.
    await here.database.write(lambda tx: aliases.remove(tx, CHAI))
    await name(here, room_id, {"alias": CHAI})
    await name(here, room_id, {"alias": ""})
    there.down = True
    with pytest.raises(Unavailable):
        await name(here, room_id, {"alias": theirs})


async def test_names_of_foreign_chats_are_the_bots_to_give(network: Network) -> None:
    here = await network.add("here.example")
    bot = here.backend.bot
    alias = RoomAlias("#tea=40muc.example:here.example")
    room_id = await here.backend.create_room(creator=bot, txn="chat", public=True)
    await name(here, room_id, {"alias": alias}, by=bot)
    assert (await here.backend.room(room_id)).canonical_alias == alias
    stranger = await make(here, "stranger")
    with pytest.raises(BadInput):
        await name(here, stranger, {"alias": alias})
