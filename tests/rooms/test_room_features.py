"""What a room may be, through engine, storage and the answers to other servers: types and custom
events, direct rooms, names, join rules, bans, access lists, third-party invites, history.

Spec: client-server API, room types, join rules, history visibility, third-party invites.
"""

from __future__ import annotations

from typing import Any

import pytest

from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.signing import sign_json
from bridge.engine.versions import VERSIONS, get_version
from bridge.errors import Refused
from bridge.ids import EventId, RoomAlias, RoomId, ServerName, UserId
from tests.engine.rooms import since
from tests.support.network import Network, Server, trace
from tests.support.talk import VERSION_IDS, forge, heard, make_room, room_at, say

EVERY_VERSION = list(VERSIONS)


async def set_state(
    server: Server, room_id: RoomId, type: str, content: dict[str, Any], state_key: str = ""
) -> EventId:
    return await server.backend.send(
        room_id=room_id,
        sender=server.user("maker"),
        type=type,
        content=content,
        state_key=state_key,
        txn=f"{type} {state_key} {content}",
        trace=trace(),
    )


async def membership(server: Server, room_id: RoomId, user_id: UserId) -> str | None:
    member = await server.backend.member(room_id, user_id)
    return None if member is None else member.membership


# Types and events of their own

NESTED = {"a": [1, {"é": None}], "b": {"c": True, "d": "\u0000"}, "empty": {}, "": [""]}


@pytest.mark.parametrize("version", ["3", "6", "11", "12", "I.1"])
async def test_custom_types_state_and_events_pass_unchanged(network: Network, version: str) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    more = {"type": "org.example.club", "org.example.extra": NESTED}
    room_id = await here.rooms.creator.create(
        creator=here.user("maker"),
        version=get_version(version),
        transaction_id="club",
        trace_id=trace(),
        public=True,
        creation_content=more,
    )
    guest = there.user("guest")
    await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
    await network.deliver()
    state = await set_state(here, room_id, "org.example.state", NESTED, "some key")
    await network.deliver()
    said = await there.backend.send(
        room_id=room_id,
        sender=guest,
        type="org.example.event",
        content=NESTED,
        txn="custom",
        trace=trace(),
    )
    await network.deliver()
    here = await network.restart(here)
    for server, other in ((here, there), (there, here)):
        (create,) = await server.backend.state(room_id, "m.room.create")
        assert {key: create.content[key] for key in more} == more
        (entry,) = await server.backend.state(room_id, "org.example.state")
        assert (entry.state_key, entry.content) == ("some key", NESTED)
        for event_id in (state, said):
            pdu = await server.rooms.answers.event(other.name, event_id)
            assert pdu["content"] == NESTED
            assert Pdu.parse(pdu, get_version(version)).event_id == event_id
        listed = await server.rooms.answers.state(other.name, room_id, said)
        assert "some key" in {one["state_key"] for one in listed["pdus"]}
    shown = [one.pdu.content for one in await here.timeline(room_id)]
    assert shown[-2:] == [NESTED, NESTED]


async def test_a_direct_room_is_one_on_both_sides(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    maker, guest = here.user("maker"), there.user("guest")
    room_id = await here.backend.open_direct(
        creator=maker, target=guest, txn="direct", trace=trace(), name="Guest"
    )
    members = await here.backend.state(room_id, "m.room.member")
    assert [one.content.get("is_direct") for one in members if one.state_key == guest] == [True]
    assert await membership(there, room_id, guest) == "invite"
    await there.backend.join(user_id=guest, room_id=room_id, via=[])
    await network.deliver()
    await say(there, room_id, "guest", "just us")
    await network.deliver()
    assert await heard(here, room_id) == ["just us"]
    power = await here.backend.power(room_id)
    assert power.may(guest, "invite")
    info = await there.backend.room(room_id)
    assert info.join_rule == "invite"


async def test_a_room_is_known_by_its_canonical_alias_and_found_by_all_of_its_own(
    network: Network,
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    alias = RoomAlias("#garden:here.example")
    room_id = await here.backend.create_room(
        creator=here.user("maker"), txn="named", alias=alias, public=True
    )
    found, servers = await there.backend.resolve_alias(alias)
    assert (found, list(servers)) == (room_id, [here.name])
    await there.backend.join(user_id=there.user("guest"), room_id=room_id, via=servers)
    await network.deliver()
    assert (await there.backend.room(room_id)).canonical_alias == alias
    # The event is a claim; the directory alone leads into the room.
    await here.rooms.sender.send(
        room_id=room_id,
        sender=here.user("maker"),
        type="m.room.canonical_alias",
        state_key="",
        content={"alias": "#other:here.example", "alt_aliases": [alias]},
        trace_id=trace(),
    )
    await network.deliver()
    assert (await there.backend.room(room_id)).canonical_alias == "#other:here.example"
    assert (await there.backend.resolve_alias(alias))[0] == room_id
    await set_state(here, room_id, "m.room.canonical_alias", {})
    await network.deliver()
    assert (await there.backend.room(room_id)).canonical_alias is None


# Join rules, through make_ and send_

JOIN_RULES: tuple[Any, ...] = (
    *("public", "invite", "knock", "restricted", "knock_restricted", "private"),
    *([], {}, None, 5),
)
KNOWN_SINCE = {"knock": 7, "restricted": 8, "knock_restricted": 10}


def may_join(version: str, rule: object, before: str | None) -> bool:
    if before == "ban" or not (isinstance(rule, str) and since(version, KNOWN_SINCE.get(rule, 1))):
        return False
    return rule == "public" or (rule != "private" and before == "invite")


def may_knock(version: str, rule: object, before: str | None) -> bool:
    takes = rule in ("knock", "knock_restricted") if isinstance(rule, str) else False
    known = since(version, KNOWN_SINCE.get(str(rule), 1))
    return takes and known and before not in ("ban", "invite")


async def ask_for(
    network: Network, here: Server, there: Server, room_id: RoomId, user: UserId, wanted: str
) -> bool:
    """By the handshake and, where no template is given, by an event of its own making."""
    answers, version = here.rooms.answers, (await room_at(here, room_id)).version
    make = {"join": answers.make_join, "knock": answers.make_knock}[wanted]
    send = {"join": answers.send_join, "knock": answers.send_knock}[wanted]
    allowed = True
    try:
        made = await make(there.name, room_id, user, EVERY_VERSION)
    except Refused:
        allowed = False
    else:
        assert made["event"]["content"] == {"membership": wanted}
    pdu = await forge(
        network,
        there,
        room_id,
        user,
        type="m.room.member",
        content={"membership": wanted},
        state_key=user,
        seen_by=here,
    )
    assert pdu.version.id == version.id
    try:
        await send(there.name, room_id, pdu.event_id, pdu.wire())
    except Refused:
        assert not allowed
        return False
    assert allowed
    return True


@pytest.mark.parametrize("version", ["3", "7", "8", "10", "12"])
async def test_join_rules_and_memberships_decide_who_enters_and_who_knocks(
    network: Network, version: str
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version)
    maker = here.user("maker")
    for number, rule in enumerate(JOIN_RULES):
        for before in (None, "invite", "ban"):
            users = [there.user(f"{what}{number}{before}") for what in ("joiner", "knocker")]
            for user in users:
                if before is not None:
                    await here.rooms.sender.send(
                        room_id=room_id,
                        sender=maker,
                        type="m.room.member",
                        content={"membership": before},
                        state_key=user,
                        trace_id=trace(),
                    )
            await set_state(here, room_id, "m.room.join_rules", {"join_rule": rule})
            joiner, knocker = users
            for user, wanted, allowed in (
                (joiner, "join", may_join(version, rule, before)),
                (knocker, "knock", may_knock(version, rule, before)),
            ):
                found = await ask_for(network, here, there, room_id, user, wanted)
                assert found is allowed, (rule, before, wanted)
                after = wanted if allowed else before
                assert await membership(here, room_id, user) == after, (rule, before, wanted)


async def test_the_banned_are_out_until_the_ban_is_lifted(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    maker, guest = here.user("maker"), there.user("guest")
    await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
    await network.deliver()
    for kind in ("ban", "leave"):
        await here.rooms.sender.send(
            room_id=room_id,
            sender=maker,
            type="m.room.member",
            content={"membership": kind},
            state_key=guest,
            trace_id=trace(),
        )
        await network.deliver()
        assert await membership(here, room_id, guest) == kind
        # A server that has nobody in the room is not told that the ban is over.
        assert await membership(there, room_id, guest) == "ban"
        if kind == "ban":
            with pytest.raises(Refused):
                await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
            with pytest.raises(Refused):
                await here.backend.invite(room_id=room_id, sender=maker, target=guest, txn="i1")
            assert await membership(here, room_id, guest) == "ban"
    await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
    assert await membership(here, room_id, guest) == "join"


async def test_a_server_outside_the_access_list_is_let_in_by_no_endpoint(network: Network) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    guest = there.user("guest")
    await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
    await network.deliver()
    said = await say(here, room_id, "maker", "hello")
    await set_state(here, room_id, "m.room.server_acl", {"allow": ["*"], "deny": [there.name]})
    answers, other = here.rooms.answers, there.user("other")
    pdu = await forge(network, there, room_id, guest)
    for request in (
        lambda: answers.make_join(there.name, room_id, other, EVERY_VERSION),
        lambda: answers.send_join(there.name, room_id, pdu.event_id, pdu.wire()),
        lambda: answers.make_knock(there.name, room_id, other, EVERY_VERSION),
        lambda: answers.send_knock(there.name, room_id, pdu.event_id, pdu.wire()),
        lambda: answers.make_leave(there.name, room_id, guest),
        lambda: answers.send_leave(there.name, room_id, pdu.event_id, pdu.wire()),
        lambda: answers.event(there.name, said),
        lambda: answers.state(there.name, room_id, said),
        lambda: answers.state_ids(there.name, room_id, said),
        lambda: answers.event_auth(there.name, room_id, said),
        lambda: answers.backfill(there.name, room_id, [said], 5),
        lambda: answers.get_missing_events(there.name, room_id, [], [said], 5, 0),
        lambda: answers.timestamp_to_event(there.name, room_id, 0, forwards=True),
        lambda: answers.exchange_third_party_invite(there.name, room_id, pdu.wire()),
    ):
        with pytest.raises(Refused) as caught:
            await request()
        assert caught.value.rule == "server_acl"
    told = await network.hand_over(there.name, here.name, [pdu.wire()])
    assert "not allowed" in told[pdu.event_id]["error"]


# Third-party invites: another server exchanges what an identity server has signed

IDENTITY = SigningKey.from_seed("0", b"i" * 32)
STRANGE = SigningKey.from_seed("0", b"s" * 32)


def bound_to(user_id: UserId, key: SigningKey = IDENTITY, token: str = "abc") -> dict[str, Any]:
    signed = {"mxid": user_id, "token": token}
    return sign_json(signed, server=ServerName("id.example"), key=key)


async def exchange(
    network: Network, here: Server, there: Server, room_id: RoomId, signed: dict[str, Any]
) -> str | None:
    """The invite in the maker's name, which only the guest's server signs; why it is refused."""
    guest = there.user("guest")
    invite = {"membership": "invite", "third_party_invite": {"display_name": "g", "signed": signed}}
    pdu = await forge(
        network,
        there,
        room_id,
        here.user("maker"),
        type="m.room.member",
        content=invite,
        state_key=guest,
    )
    assert set(pdu.json["signatures"]) == {there.name}
    told = await network.hand_over(there.name, here.name, [pdu.wire()])
    return told[pdu.event_id].get("error")


@pytest.mark.parametrize("version", VERSION_IDS)
async def test_a_third_party_invite_is_exchanged_by_another_server(
    network: Network, version: str
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version)
    await there.backend.join(user_id=there.user("first"), room_id=room_id, via=[here.name])
    await set_state(here, room_id, "m.room.join_rules", {"join_rule": "invite"})
    offer = {
        "display_name": "g...",
        "key_validity_url": "https://id.example/valid",
        "public_key": IDENTITY.verify_key_base64,
        "public_keys": [{"public_key": IDENTITY.verify_key_base64}],
    }
    await set_state(here, room_id, "m.room.third_party_invite", offer, "abc")
    await network.deliver()
    guest = there.user("guest")
    with pytest.raises(Refused):
        await there.backend.join(user_id=guest, room_id=room_id, via=[])
    for signed in (
        bound_to(guest, STRANGE),
        bound_to(guest, token="other"),
        bound_to(there.user("other")),
        {**bound_to(guest), "more": "said"},
        {},
    ):
        assert await exchange(network, here, there, room_id, signed) is not None, signed
        assert await membership(here, room_id, guest) is None
    assert await exchange(network, here, there, room_id, bound_to(guest)) is None
    assert await membership(here, room_id, guest) == "invite"


@pytest.mark.parametrize("version", ["3", "10", "11", "12"])
async def test_who_was_invited_by_an_exchange_comes_in(network: Network, version: str) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here, version)
    await there.backend.join(user_id=there.user("first"), room_id=room_id, via=[here.name])
    await set_state(here, room_id, "m.room.join_rules", {"join_rule": "invite"})
    offer = {"public_key": IDENTITY.verify_key_base64}
    await set_state(here, room_id, "m.room.third_party_invite", offer, "abc")
    await network.deliver()
    guest = there.user("guest")
    assert await exchange(network, here, there, room_id, bound_to(guest)) is None
    made = await here.rooms.answers.make_join(there.name, room_id, guest, EVERY_VERSION)
    assert made["event"]["content"] == {"membership": "join"}
    # Without the offer it would not count any more, were it sent again.
    await set_state(here, room_id, "m.room.third_party_invite", {}, "abc")
    await network.deliver()
    refused = await exchange(network, here, there, room_id, bound_to(guest))
    assert refused is not None


# History visibility: what a server that is in the room now is shown of before

HIDDEN = {"joined": (None, "invite", "leave", "ban"), "invited": (None, "leave", "ban")}
"""Memberships of then under which a server is not shown what was said."""


@pytest.mark.parametrize(
    "value", ["world_readable", "shared", "invited", "joined", "odd", None, 5, []]
)
@pytest.mark.parametrize("then", [None, "invite", "join", "leave", "ban"])
async def test_a_server_is_shown_what_the_history_visibility_of_then_shows(
    network: Network, value: object, then: str | None
) -> None:
    here, there = await network.add("here.example"), await network.add("there.example")
    room_id = await make_room(here)
    guest, maker = there.user("guest"), here.user("maker")
    await set_state(here, room_id, "m.room.history_visibility", {"history_visibility": value})
    if then in ("join", "leave"):
        await there.backend.join(user_id=guest, room_id=room_id, via=[here.name])
        await network.deliver()
    if then in ("invite", "leave", "ban"):
        await here.rooms.sender.send(
            room_id=room_id,
            sender=maker,
            type="m.room.member",
            content={"membership": then},
            state_key=guest,
            trace_id=trace(),
        )
    await network.deliver()
    said = await say(here, room_id, "maker", "then")
    topic = await set_state(here, room_id, "m.room.topic", {"topic": "of then"})
    if then == "ban":
        await here.rooms.sender.send(
            room_id=room_id,
            sender=maker,
            type="m.room.member",
            content={"membership": "leave"},
            state_key=guest,
            trace_id=trace(),
        )
    # What holds later changes nothing about then.
    later = "joined" if value == "shared" else "shared"
    await set_state(here, room_id, "m.room.history_visibility", {"history_visibility": later})
    now = there.user("other") if then != "join" else guest
    await there.backend.join(user_id=now, room_id=room_id, via=[here.name])
    newest = await say(here, room_id, "maker", "now")
    answers = here.rooms.answers
    listed = await answers.backfill(there.name, room_id, [newest], 50)
    found = {Pdu.parse(one, get_version("12")).event_id: one["content"] for one in listed}
    hidden = isinstance(value, str) and then in HIDDEN.get(value, ())
    shown = {} if hidden else {"msgtype": "m.text", "body": "then"}
    assert found[said] == shown
    assert (await answers.event(there.name, said))["content"] == shown
    # State is known to whoever is in the room.
    assert found[topic] == {"topic": "of then"}
    assert found[newest]["body"] == "now"
