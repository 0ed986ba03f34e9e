"""Upgrades over the in-memory network: every version to every other, with a peer in the room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bridge.engine.pdu import Pdu
from bridge.engine.power import INFINITE
from bridge.engine.versions import VERSIONS
from bridge.errors import BadInput, Refused
from bridge.ids import RoomAlias, RoomId, RoomVersionId, UserId
from bridge.storage import aliases, version_hints
from tests.support.crash import Crash, crash_at
from tests.support.network import Network, Server, trace
from tests.support.talk import VERSION_IDS, heard, make_room, room_at, say

MADE = tuple(version.id for version in VERSIONS.values() if version.creatable)
ALIAS = RoomAlias("#garden:here.example")
OTHER_ALIAS = RoomAlias("#back:here.example")
FOREIGN_ALIAS = RoomAlias("#garden:far.example")


async def put(
    server: Server, room_id: RoomId, kind: str, content: dict[str, Any], *, key: str = "", by: str
) -> None:
    # Not by the port, which would ask whether the aliases lead here: in time they drift.
    await server.rooms.sender.send(
        room_id=room_id,
        sender=server.user(by),
        type=kind,
        content=content,
        state_key=key,
        transaction_id=f"put-{kind}-{key}-{content}",
        trace_id=trace(),
    )


async def garden(network: Network, version: str, *, public: bool = True) -> tuple[Any, ...]:
    """A room with something of everything: `maker` here, `guest` (a moderator) there."""
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version, public=public)
    if not public:
        await invite(here, room_id, there.user("guest"))
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=[here.name])
    await network.deliver()
    for alias in (ALIAS, OTHER_ALIAS):
        await name_room(here, alias, room_id)
    named = {"alias": ALIAS, "alt_aliases": [OTHER_ALIAS, FOREIGN_ALIAS]}
    await put(here, room_id, "m.room.canonical_alias", named, by="maker")
    await put(here, room_id, "m.room.guest_access", {"guest_access": "forbidden"}, by="maker")
    await put(here, room_id, "m.room.avatar", {"url": "mxc://here.example/rose"}, by="maker")
    await put(
        here, room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["x.example"]}, by="maker"
    )
    await put(here, room_id, "m.room.pinned_events", {"pinned": ["$one"]}, by="maker")
    await put(here, room_id, "org.example.custom", {"trust": "the sender"}, by="maker")
    await put(
        here,
        room_id,
        "m.room.member",
        {"membership": "ban", "reason": "weeds"},
        key=there.user("troll"),
        by="maker",
    )
    levels = dict(await state_of(here, room_id, "m.room.power_levels"))
    levels["users"] = {**levels["users"], there.user("guest"): 50}
    await put(here, room_id, "m.room.power_levels", levels, by="maker")
    await network.deliver()
    return here, there, room_id


async def name_room(server: Server, alias: RoomAlias, room_id: RoomId) -> None:
    creator = server.user("maker")
    await server.database.write(lambda tx: aliases.put(tx, alias, room_id=room_id, creator=creator))


async def invite(server: Server, room_id: RoomId, target: UserId) -> None:
    await server.backend.invite(
        room_id=room_id, sender=server.user("maker"), target=target, txn=f"invite-{target}"
    )


async def upgrade(
    server: Server,
    room_id: RoomId,
    version: str,
    *,
    by: str = "maker",
    txn: str = "up",
    creators: Sequence[UserId] = (),
) -> RoomId:
    return await server.backend.upgrade(
        room_id=room_id,
        sender=server.user(by),
        version=RoomVersionId(version),
        txn=txn,
        additional_creators=creators,
    )


async def state_of(server: Server, room_id: RoomId, kind: str, key: str = "") -> dict[str, Any]:
    found = {pdu.state_key: pdu for pdu in await server.rooms.queries.state(room_id, kind)}
    return {} if key not in found else found[key].content


async def create_of(server: Server, room_id: RoomId) -> Pdu:
    (create,) = await server.rooms.queries.state(room_id, "m.room.create")
    return create


def pairs() -> list[tuple[str, str]]:
    return [(before, after) for before in VERSIONS for after in MADE]


@pytest.mark.parametrize(("before", "after"), pairs())
async def test_a_room_of_any_version_gets_a_successor_of_any_version(
    network: Network, before: str, after: str
) -> None:
    here, there, old = await garden(network, before)
    new = await upgrade(here, old, after)
    await network.deliver()

    create = await create_of(here, new)
    assert create.content["room_version"] == after
    predecessor = create.content["predecessor"]
    assert predecessor["room_id"] == old
    tombstone = (await there.rooms.queries.state(old, "m.room.tombstone"))[0]
    assert tombstone.content == {"body": "This room has been replaced", "replacement_room": new}
    if VERSIONS[RoomVersionId(after)].event_format.room_id_from_create:
        assert [predecessor["event_id"]] == list(tombstone.prev_events)
    else:
        assert predecessor["event_id"] == tombstone.event_id
    assert tombstone.sender == here.user("maker") == create.sender

    for kind, content in (
        ("m.room.name", {"name": "Garden"}),
        ("m.room.topic", {"topic": "roses"}),
        ("m.room.avatar", {"url": "mxc://here.example/rose"}),
        ("m.room.join_rules", {"join_rule": "public"}),
        ("m.room.guest_access", {"guest_access": "forbidden"}),
        ("m.room.history_visibility", {"history_visibility": "shared"}),
        ("m.room.server_acl", {"allow": ["*"], "deny": ["x.example"]}),
        ("m.room.canonical_alias", {"alias": ALIAS, "alt_aliases": [OTHER_ALIAS]}),
        ("m.room.pinned_events", {}),
        ("org.example.custom", {}),
    ):
        assert await state_of(here, new, kind) == content
    assert await state_of(there, old, "m.room.canonical_alias") == {"alt_aliases": [FOREIGN_ALIAS]}
    troll = await here.rooms.queries.member(new, there.user("troll"))
    assert troll is not None
    assert troll.content == {"membership": "ban", "reason": "weeds"}

    power = await here.rooms.queries.power(new)
    privileged = VERSIONS[RoomVersionId(after)].auth.privileged_creators
    assert power.user(there.user("guest")) == 50
    if privileged:
        assert power.user(here.user("maker")) == INFINITE
    else:
        from_creator = VERSIONS[RoomVersionId(before)].auth.privileged_creators
        assert power.user(here.user("maker")) == (150 if from_creator else 100)
        assert power.may_send(here.user("maker"), "m.room.tombstone", is_state=True)

    await there.backend.join(user_id=there.user("guest"), room_id=new, via=[here.name])
    await network.deliver()
    await say(there, new, "guest", "here we are")
    await network.deliver()
    assert await heard(here, new) == ["here we are"]
    with pytest.raises(Refused):
        await there.backend.join(user_id=there.user("troll"), room_id=new, via=[here.name])
    assert (await there.backend.resolve_alias(ALIAS))[0] == new
    assert (await there.backend.resolve_alias(OTHER_ALIAS))[0] == new


@pytest.mark.parametrize("version", [one for one in VERSION_IDS if one in MADE])
async def test_the_old_room_falls_silent(network: Network, version: str) -> None:
    here, there, old = await garden(network, version)
    await there.backend.join(user_id=there.user("plain"), room_id=old, via=[here.name])
    await network.deliver()
    await upgrade(here, old, "12")
    await network.deliver()
    with pytest.raises(Refused):
        await say(there, old, "plain", "anybody here?")
    with pytest.raises(Refused):
        await there.backend.invite(
            room_id=old, sender=there.user("plain"), target=there.user("more"), txn="i"
        )
    await say(there, old, "guest", "moderators may still speak")


@pytest.mark.parametrize("version", VERSIONS)
async def test_who_may_not_send_the_tombstone_is_refused_before_anything_is_done(
    network: Network, version: str
) -> None:
    here, there, old = await garden(network, version)
    await there.backend.join(user_id=there.user("plain"), room_id=old, via=[here.name])
    await network.deliver()
    before = await room_at(here, old)
    rooms = await here.backend.joined_rooms(here.user("maker"))
    for user in ("stranger", "maker"):
        server = there if user == "maker" else here
        with pytest.raises(Refused):
            await upgrade(server, old, "11", by=user)
    with pytest.raises(Refused):
        await upgrade(there, old, "12", by="plain")
    with pytest.raises(Refused):
        await here.backend.upgrade(
            room_id=old, sender=there.user("guest"), version=RoomVersionId("12"), txn="up"
        )
    after = await room_at(here, old)
    assert after.position == before.position
    assert await here.backend.joined_rooms(here.user("maker")) == rooms
    assert (await there.backend.resolve_alias(ALIAS))[0] == old


async def test_a_version_that_nobody_knows_is_refused(network: Network) -> None:
    here, _, old = await garden(network, "12")
    for version in ("1", "2", "13", "I.2", "", "org.example.unknown"):
        with pytest.raises(BadInput) as refused:
            await upgrade(here, old, version)
        assert refused.value.errcode == "M_UNSUPPORTED_ROOM_VERSION"
    assert (await here.backend.room(old)).replacement is None


async def test_the_same_transaction_makes_one_successor(network: Network) -> None:
    here, _, old = await garden(network, "10")
    new = await upgrade(here, old, "12")
    assert await upgrade(here, old, "12") == new
    here = await network.restart(here)
    assert await upgrade(here, old, "12") == new
    assert await here.backend.joined_rooms(here.user("maker")) == sorted([old, new])


@pytest.mark.parametrize("version", ["11", "12"])
async def test_a_replaced_room_is_not_replaced_again(network: Network, version: str) -> None:
    here, _, old = await garden(network, version)
    new = await upgrade(here, old, version)
    with pytest.raises(Refused, match="was replaced") as refused:
        await upgrade(here, old, version, txn="another")
    assert new in refused.value.reason
    newest = await upgrade(here, new, version, txn="third")
    assert newest != new
    assert (await here.backend.room(new)).replacement == newest


async def test_a_tombstone_that_leads_nowhere_does_not_stand_in_the_way(network: Network) -> None:
    here, _, old = await garden(network, "11")
    await put(here, old, "m.room.tombstone", {"body": "closed"}, by="maker")
    new = await upgrade(here, old, "12")
    assert (await here.backend.room(old)).replacement == new


@pytest.mark.parametrize("version", ["11", "12", "I.1"])
@pytest.mark.parametrize("when", ["before", "within", "after"])
async def test_a_crash_at_any_write_leaves_all_or_nothing_and_the_repeat_finishes(
    network: Network, version: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, old = await garden(network, "10", public=False)
    seen = []
    for number in range(100):
        crash_at(monkeypatch, here, number, when)
        crashed = False
        try:
            await upgrade(here, old, version)
        except Crash:
            crashed = True
        here = await network.restart(here)
        replacement = (await here.backend.room(old)).replacement
        seen.append(replacement)
        rooms = await here.backend.joined_rooms(here.user("maker"))
        if replacement is None:
            assert rooms == [old]
            assert (await here.backend.resolve_alias(ALIAS))[0] == old
        else:
            assert rooms == sorted([old, replacement])
            assert (await here.backend.room(replacement)).name == "Garden"
            assert (await here.backend.resolve_alias(ALIAS))[0] == replacement
            assert "users" in await state_of(here, replacement, "m.room.power_levels")
        if not crashed:
            break
    assert None in seen[:-1] or when == "after"
    assert len(seen) >= 2
    new = await upgrade(here, old, version)
    assert new == seen[-1]
    assert len({one for one in seen if one is not None}) == 1
    await there.backend.join(user_id=there.user("guest"), room_id=new, via=[here.name])


@pytest.mark.parametrize("version", MADE)
async def test_members_who_could_not_come_by_themselves_are_invited(
    network: Network, version: str
) -> None:
    here, there, old = await garden(network, version, public=False)
    ghost = here.user("ghost")
    await invite(here, old, ghost)
    await here.backend.join(user_id=ghost, room_id=old, via=[])
    await network.deliver()
    new = await upgrade(here, old, version)
    for server, user in ((here, ghost), (there, there.user("guest"))):
        member = await server.rooms.queries.member(new, user)
        assert member is not None
        assert member.membership == "invite"
        await server.backend.join(user_id=user, room_id=new, via=[here.name])
    with pytest.raises(Refused):
        await there.backend.join(user_id=there.user("plain"), room_id=new, via=[here.name])


async def test_nobody_is_invited_into_a_public_successor(network: Network) -> None:
    here, there, old = await garden(network, "11")
    new = await upgrade(here, old, "12")
    assert await here.rooms.queries.member(new, there.user("guest")) is None
    assert not [one for one in network.requests if one[0] == "invite"]


async def test_a_member_whose_server_is_down_is_invited_by_the_repeat(network: Network) -> None:
    here, there, old = await garden(network, "11", public=False)
    there.down = True
    new = await upgrade(here, old, "12")
    assert await here.rooms.queries.member(new, there.user("guest")) is None
    there.down = False
    assert await upgrade(here, old, "12") == new
    guest = await here.rooms.queries.member(new, there.user("guest"))
    assert guest is not None
    assert guest.membership == "invite"


async def test_whoever_refused_the_successor_is_not_asked_again(network: Network) -> None:
    here, there, old = await garden(network, "11", public=False)
    new = await upgrade(here, old, "12")
    await there.backend.leave(user_id=there.user("guest"), room_id=new)
    await upgrade(here, old, "12")
    guest = await here.rooms.queries.member(new, there.user("guest"))
    assert guest is not None
    assert guest.membership == "leave"


async def test_a_server_that_refuses_the_version_is_remembered(network: Network) -> None:
    here, there, old = await garden(network, "11", public=False)
    there.refuses_versions = {"12"}
    version = RoomVersionId("12")
    assert await here.backend.left_behind(old, version) == []
    new = await upgrade(here, old, "12")
    assert await here.rooms.queries.member(new, there.user("guest")) is None
    hints = await here.database.read(lambda tx: version_hints.find(tx, there.name))
    assert hints[version] is False
    assert await here.backend.left_behind(old, version) == [there.name]


async def test_no_more_members_are_invited_than_the_limit_the_most_powerful_first(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, old = await garden(network, "11", public=False)
    for name in ("a", "b"):
        await invite(here, old, there.user(name))
        await network.deliver()
        await there.backend.join(user_id=there.user(name), room_id=old, via=[here.name])
    await network.deliver()
    monkeypatch.setattr("bridge.rooms.upgrade.MAX_INVITED", 1)
    new = await upgrade(here, old, "12")
    invited = [pdu.state_key for pdu in await here.rooms.queries.members(new, ("invite",))]
    assert invited == [there.user("guest")]


async def test_servers_of_other_software_are_left_behind_by_extensible_rooms(
    network: Network,
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(there, "11")
    await here.backend.join(user_id=here.user("guest"), room_id=room_id, via=[there.name])
    there.down = True
    assert await here.backend.left_behind(room_id, RoomVersionId("I.1")) == []
    there.down, there.software = False, "Synapse"
    assert await here.backend.left_behind(room_id, RoomVersionId("12")) == []
    assert await here.backend.left_behind(room_id, RoomVersionId("I.1")) == [there.name]


@pytest.mark.parametrize("before", ["10", "12"])
async def test_additional_creators_are_those_of_the_call(network: Network, before: str) -> None:
    here, there, old = await garden(network, before)
    guest = there.user("guest")
    new = await upgrade(here, old, "12", creators=[guest, here.user("maker"), guest])
    assert (await create_of(here, new)).content["additional_creators"] == [guest]
    assert (await here.rooms.queries.power(new)).user(guest) == INFINITE
    newer = await upgrade(here, new, "12", txn="again")
    assert "additional_creators" not in (await create_of(here, newer)).content
    power = await here.rooms.queries.power(newer)
    assert 100 <= power.user(guest) < INFINITE
    with pytest.raises(BadInput, match="have no creators"):
        await upgrade(here, newer, "11", txn="back", creators=[guest])
    newest = await here.rooms.upgrader.upgrade(  # as the client-server API has it
        room_id=newer,
        sender=here.user("maker"),
        version=VERSIONS[RoomVersionId("11")],
        transaction_id="back",
        trace_id=trace(),
        additional_creators=[guest],
    )
    assert "additional_creators" not in (await create_of(here, newest)).content


async def test_a_banned_user_is_no_creator(network: Network) -> None:
    here, there, old = await garden(network, "11")
    with pytest.raises(Refused, match="banned"):
        await upgrade(here, old, "12", creators=[there.user("troll")])
    with pytest.raises(BadInput):
        await upgrade(here, old, "12", creators=[UserId("nobody")])
    assert (await here.backend.room(old)).replacement is None


@pytest.mark.parametrize("version", ["10", "12", "I.1"])
async def test_a_space_keeps_its_type_its_rooms_and_its_borders(
    network: Network, version: str
) -> None:
    here = await network.add("here.example")
    old = await here.rooms.creator.create(
        creator=here.user("maker"),
        version=VERSIONS[RoomVersionId("11")],
        transaction_id="space",
        trace_id=trace(),
        creation_content={"type": "m.space", "m.federate": False, "org.example.more": 1},
    )
    await put(here, old, "m.space.child", {"via": ["a.example"]}, key="!in:a.example", by="maker")
    await put(here, old, "m.space.child", {}, key="!out:a.example", by="maker")
    new = await upgrade(here, old, version)
    create = (await create_of(here, new)).content
    assert create["type"] == "m.space"
    assert create["m.federate"] is False
    assert "org.example.more" not in create
    children = await here.rooms.queries.state(new, "m.space.child")
    assert [(pdu.state_key, pdu.content) for pdu in children] == [
        ("!in:a.example", {"via": ["a.example"]})
    ]


async def test_what_cannot_be_carried_over_whole_is_not_upgraded(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _, old = await garden(network, "11")
    monkeypatch.setattr("bridge.rooms.upgrade.MAX_CARRIED", 0)
    with pytest.raises(Refused, match="more than 0 bans"):
        await upgrade(here, old, "12")
    assert (await here.backend.room(old)).replacement is None


async def test_a_direct_chat_stays_one(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    maker, guest = here.user("maker"), there.user("guest")
    old = await here.backend.open_direct(creator=maker, target=guest, txn="d", trace=trace())
    await there.backend.join(user_id=guest, room_id=old, via=[here.name])
    await network.deliver()
    new = await upgrade(here, old, "12")
    await there.backend.join(user_id=guest, room_id=new, via=[here.name])
    assert (await here.backend.room(new)).direct
    assert (await there.backend.room(new)).direct


async def test_an_alias_of_ours_that_names_another_room_is_left_to_it(network: Network) -> None:
    here, _, old = await garden(network, "11")
    other = await make_room(here, "11", creator="other")
    unknown = RoomAlias("#known-to-the-bridge-side:here.example")
    await here.database.write(lambda tx: aliases.remove(tx, OTHER_ALIAS))
    await name_room(here, OTHER_ALIAS, other)
    named = {"alias": ALIAS, "alt_aliases": [OTHER_ALIAS, unknown]}
    await put(here, old, "m.room.canonical_alias", named, by="maker")
    new = await upgrade(here, old, "11")
    there = await state_of(here, new, "m.room.canonical_alias")
    assert there == {"alias": ALIAS, "alt_aliases": [unknown]}
    assert (await here.backend.resolve_alias(OTHER_ALIAS))[0] == other


async def test_who_may_bury_the_room_but_nothing_else_leaves_its_levels_alone(
    network: Network,
) -> None:
    here, _, old = await garden(network, "11")
    await here.backend.join(user_id=here.user("digger"), room_id=old, via=[])
    levels = dict(await state_of(here, old, "m.room.power_levels"))
    levels["events"] = {**levels["events"], "m.room.tombstone": 10}
    levels["users"] = {**levels["users"], here.user("digger"): 10}
    await put(here, old, "m.room.power_levels", levels, by="maker")
    new = await upgrade(here, old, "11", by="digger")
    assert await state_of(here, old, "m.room.power_levels") == levels
    assert (await state_of(here, old, "m.room.canonical_alias"))["alias"] == ALIAS
    power = await here.rooms.queries.power(new)
    assert power.user(here.user("digger")) == 10
    assert power.user(here.user("maker")) == 100
