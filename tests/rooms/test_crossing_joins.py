"""Servers that come in through us at the same moment hear of each other."""

from __future__ import annotations

import pytest

from bridge.engine.build import chosen_event_id, complete
from bridge.engine.pdu import Pdu
from bridge.engine.versions import get_version
from bridge.ids import RoomId, RoomVersionId
from bridge.storage import events as event_rows
from tests.support.network import Network, Server, wire
from tests.support.talk import VERSION_IDS, make_room, say


async def template_of(
    network: Network, here: Server, joiner: Server, room_id: RoomId, version_id: str
) -> Pdu:
    """The join as it is signed, not handed in yet."""
    version = get_version(version_id)
    made = await here.rooms.answers.make_join(
        joiner.name, room_id, joiner.user("late"), [RoomVersionId(version_id)]
    )
    event = {**wire(made["event"]), "origin_server_ts": network.clock.now_ms()}
    event_id = chosen_event_id(version, joiner.name, lambda: joiner.name)
    return complete(event, version=version, key=joiner.key, server=joiner.name, event_id=event_id)


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_joins_that_cross_are_told_to_both_servers(network: Network, version: str) -> None:
    here = await network.add("here.example")
    first, second = await network.add("first.example"), await network.add("second.example")
    room_id = await make_room(here, version)
    head = await say(here, room_id, "maker", "before")
    joins = {
        joiner.name: await template_of(network, here, joiner, room_id, version)
        for joiner in (first, second)
    }
    for name, join in joins.items():
        await here.rooms.answers.send_join(name, room_id, join.event_id, wire(join.wire()))
    queries = here.rooms.queries
    places = await here.database.read(lambda tx: event_rows.positions(tx, [head]))
    assert await queries.destinations(joins[first.name].event_id) == {second.name}
    assert await queries.destinations(joins[second.name].event_id) == {first.name}
    for name, join in joins.items():
        assert await queries.entered(join.event_id) == (name, places[head])
    assert await queries.entered(head) is None
