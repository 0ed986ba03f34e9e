"""Two gateways, each with its own Prosody, that know each other over Matrix alone.

Between them a direct chat becomes a room of version I.1 by itself; with a Synapse it does not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from bridge.demo.people import Stanza, XmppPerson
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from tests.support.gateway import Gateway, signing_key_of_synapse, verify
from tests.support.operator import admin
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson, make_prosody


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    prosody: Prosody
    gateway: Gateway


Sides = tuple[Side, Side]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sides(certificates: CertificateAuthority) -> AsyncIterator[Sides]:
    """`a.test` and `b.test`; their Prosodys do not know each other."""
    async with (
        make_prosody("a.test") as here,
        make_prosody("b.test") as there,
        Gateway(here, certificates) as ours,
        Gateway(there, certificates) as theirs,
    ):
        yield Side(prosody=here, gateway=ours), Side(prosody=there, gateway=theirs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Couple:
    """Two people, and the address under which each knows the other."""

    juliet: XmppPerson
    romeo: XmppPerson
    juliet_id: str
    romeo_id: str
    to_romeo: str
    to_juliet: str


async def couple(sides: Sides, make: MakeXmppPerson, label: str) -> Couple:
    ours, theirs = (side.gateway for side in sides)
    juliet = await make(sides[0].prosody, f"juliet-{label}")
    romeo = await make(sides[1].prosody, f"romeo-{label}")
    juliet_id, romeo_id = ours.ghost(juliet.address), theirs.ghost(romeo.address)
    return Couple(
        juliet=juliet,
        romeo=romeo,
        juliet_id=juliet_id,
        romeo_id=romeo_id,
        to_romeo=ours.address(romeo_id),
        to_juliet=theirs.address(juliet_id),
    )


def common_room(sides: Sides, pair: Couple) -> str:
    """The one room that the two ghosts are in, on either side."""
    rooms = [
        {
            room: membership
            for room, membership in side.gateway.memberships(user_id).items()
            if membership in ("join", "invite")
        }
        for side in sides
        for user_id in (pair.juliet_id, pair.romeo_id)
    ]
    assert all(one == rooms[0] for one in rooms), rooms
    assert len(rooms[0]) == 1
    return next(iter(rooms[0]))


async def test_a_direct_chat_between_two_gateways_is_a_room_of_version_i_1(
    sides: Sides, xmpp_person: MakeXmppPerson
) -> None:
    pair = await couple(sides, xmpp_person, "talks")
    first = pair.juliet.say(pair.to_romeo, "good morrow")
    await pair.romeo.hear("good morrow", sender=pair.to_juliet, timeout_s=20)
    await pair.juliet.receipt(first)
    second = pair.romeo.say(pair.to_juliet, "good night")
    await pair.juliet.hear("good night", sender=pair.to_romeo)
    await pair.romeo.receipt(second)
    pair.juliet.say(pair.to_romeo, "*strong* and _soft_")
    await pair.romeo.hear("*strong* and _soft_")

    room = common_room(sides, pair)
    keys = {str(side.gateway.server_name): side.gateway.signing_key for side in sides}
    stored = []
    for side in sides:
        assert side.gateway.room_version(room) == "I.1"
        events = {event.event_id: event for event in side.gateway.events(room)}
        for event in events.values():
            assert event.verdict == "accepted"
            verify(event, "I.1", keys)
        stored.append(events)
    here, there = stored
    create = next(event for event in here.values() if event.type == "m.room.create")
    assert create.content["room_version"] == "I.1"

    messages = [event for event in here.values() if event.type == "m.message"]
    assert [event.json["sender"] for event in messages] == [
        pair.juliet_id,
        pair.romeo_id,
        pair.juliet_id,
    ]
    assert messages[0].content["m.text"] == [{"body": "good morrow"}]
    assert "body" not in messages[0].content
    assert "msgtype" not in messages[0].content
    formatted, plain = messages[2].content["m.text"]
    assert formatted["mimetype"] == "text/html"
    assert "<strong>strong</strong> and <em>soft</em>" in formatted["body"]
    assert "strong" in plain["body"]
    assert not [event for event in here.values() if event.type == "m.room.message"]
    # What both have is the same, bit by bit; the second has everything from its join on.
    for event in messages:
        assert there[event.event_id].json == event.json
    assert {event.type for event in there.values()} == {event.type for event in here.values()}


async def test_typing_reading_and_presence_cross_two_gateways(
    sides: Sides, xmpp_person: MakeXmppPerson
) -> None:
    pair = await couple(sides, xmpp_person, "states")
    juliet, romeo = pair.juliet, pair.romeo
    states, markers = "http://jabber.org/protocol/chatstates", "urn:xmpp:chat-markers:0"

    def say(person: XmppPerson, to: str, id: str, inner: str) -> None:
        person.send_raw(f"<message to='{to}' type='chat' id='{id}'>{inner}</message>")

    def has(sender: str, path: str) -> Callable[[Stanza], bool]:
        return lambda s: s.bare_sender == sender and s.element.find(path) is not None

    content = f"<markable xmlns='{markers}'/><active xmlns='{states}'/>"
    say(juliet, pair.to_romeo, "j1", f"<body>art thou there?</body>{content}")
    heard = await romeo.hear("art thou there?", sender=pair.to_juliet, timeout_s=20)
    say(romeo, pair.to_juliet, "r1", f"<body>I am</body>{content}")
    await juliet.hear("I am", sender=pair.to_romeo)

    say(romeo, pair.to_juliet, "r2", f"<composing xmlns='{states}'/>")
    await juliet.wait_for(has(pair.to_romeo, f"{{{states}}}composing"), what="romeo typing")
    say(romeo, pair.to_juliet, "r3", f"<displayed xmlns='{markers}' id='{heard.id}'/>")
    marker = await juliet.wait_for(
        has(pair.to_romeo, f"{{{markers}}}displayed"), what="what romeo has read"
    )
    node = marker.element.find(f"{{{markers}}}displayed")
    assert node is not None
    assert node.get("id") == "j1"

    juliet.set_presence(to=pair.to_romeo, type="subscribe")
    romeo.set_presence(to=pair.to_juliet, type="subscribe")
    for person, other in ((juliet, pair.to_romeo), (romeo, pair.to_juliet)):

        def asks(stanza: Stanza, other: str = other) -> bool:
            return stanza.bare_sender == other and stanza.type == "subscribe"

        await person.wait_for(asks, what=f"{other} asking")
        person.set_presence(to=other, type="subscribed")
    romeo.set_presence(show="dnd", status="at swords")
    await juliet.wait_for(
        lambda s: (
            s.kind == "presence"
            and s.bare_sender == pair.to_romeo
            and s.element.findtext("{jabber:client}status") == "at swords"
        ),
        what="romeo's status",
        timeout_s=20,
    )


async def test_an_event_that_was_changed_does_not_verify(
    sides: Sides, xmpp_person: MakeXmppPerson
) -> None:
    """That the check of the test above can fail."""
    pair = await couple(sides, xmpp_person, "changes")
    pair.juliet.say(pair.to_romeo, "the truth")
    await pair.romeo.hear("the truth", timeout_s=20)
    room = common_room(sides, pair)
    keys = {str(side.gateway.server_name): side.gateway.signing_key for side in sides}
    event = next(e for e in sides[1].gateway.events(room) if e.type == "m.message")
    verify(event, "I.1", keys)
    event.json["content"] = {"m.text": [{"body": "a lie"}]}
    with pytest.raises(AssertionError, match="content hash"):
        verify(event, "I.1", keys)
    event.json["depth"] += 1
    with pytest.raises(AssertionError, match="ID"):
        verify(event, "I.1", keys)


async def test_both_write_first_at_the_same_time_and_everything_arrives(
    sides: Sides, xmpp_person: MakeXmppPerson
) -> None:
    pair = await couple(sides, xmpp_person, "crosses")
    pair.juliet.say(pair.to_romeo, "you first")
    pair.romeo.say(pair.to_juliet, "no, you first")
    await pair.romeo.hear("you first", timeout_s=30)
    await pair.juliet.hear("no, you first", timeout_s=30)
    pair.juliet.say(pair.to_romeo, "well")
    await pair.romeo.hear("well")
    pair.romeo.say(pair.to_juliet, "well, well")
    await pair.juliet.hear("well, well")


@pytest.mark.parametrize("out", ["frozen", "killed"])
@pytest.mark.parametrize("away", [0, 1])
async def test_a_chat_goes_on_while_one_gateway_is_out_and_all_arrives_once_and_in_order(
    away: int, out: str, sides: Sides, xmpp_person: MakeXmppPerson
) -> None:
    pair = await couple(sides, xmpp_person, f"waits{away}{out}")
    people = ((pair.romeo, pair.to_juliet), (pair.juliet, pair.to_romeo))
    (speaker, to), (listener, back) = people if away == 0 else reversed(people)
    await listener.receipt(listener.say(back, "are you there?"), timeout_s=20)
    await speaker.hear("are you there?")
    gone = sides[away].gateway
    if out == "frozen":
        gone.freeze()
    else:
        await gone.kill()
    said = [f"{out} {number}" for number in range(8)]
    sent = [speaker.say(to, text) for text in said]
    if out == "frozen":
        gone.thaw()
    else:
        await gone.start()
    for text in said:
        await listener.hear(text, sender=back, timeout_s=30)
    for one in sent:
        await speaker.receipt(one, timeout_s=30)
    answered = listener.say(back, "all of it")
    await speaker.hear("all of it", sender=to)
    await listener.receipt(answered)
    heard = [
        stanza.body
        for stanza in listener.transcript
        if stanza.kind == "message" and stanza.bare_sender == back and stanza.body in said
    ]
    assert heard == said


async def test_the_ghost_of_an_address_of_the_other_gateway_is_never_wrapped_twice(
    sides: Sides, xmpp_person: MakeXmppPerson
) -> None:
    pair = await couple(sides, xmpp_person, "unwraps")
    back = sides[0].gateway.address(pair.juliet_id)
    assert back == pair.juliet.address


async def test_a_first_message_to_a_synapse_user_ends_in_a_stable_room(
    sides: Sides,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    gateway = sides[0].gateway
    alice = await matrix_person(synapse, "alice_stable")
    juliet = await xmpp_person(sides[0].prosody, "juliet-stable")
    juliet.say(gateway.address(alice.user_id), "hello alice")
    invite = await alice.see_invite(sender=gateway.ghost(juliet.address))
    room = await alice.join(invite.room_id)
    await alice.hear("hello alice", room=room)
    create = (await alice.state(room))["m.room.create", ""]
    assert create["content"]["room_version"] == "12"
    keys = {
        str(gateway.server_name): gateway.signing_key,
        synapse.server_name: signing_key_of_synapse(synapse.folder),
    }
    await alice.say(room, "hello juliet")
    await juliet.hear("hello juliet")
    events = gateway.events(room)
    for event in events:
        verify(event, "12", keys)
    assert [e.type for e in events].count("m.room.message") == 2
    assert "m.message" not in {e.type for e in events}
    await no_dead_room(gateway, juliet, alice_rooms=await alice.joined_rooms(), room=room)
    invited = {s.room_id for s in alice.transcript if s.section == "invite"}
    assert invited == {room}


async def test_a_wrong_hint_about_a_synapse_costs_one_room_that_nobody_ever_sees(
    sides: Sides,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    gateway = sides[0].gateway
    alice = await matrix_person(synapse, "alice_hinted")
    juliet = await xmpp_person(sides[0].prosody, "juliet-hinted")
    await gateway.stop()
    gateway.change("DELETE FROM peers WHERE server = ?", synapse.server_name)
    gateway.change(
        "INSERT INTO peers (server, failures, next_attempt_ms, room_versions)"
        " VALUES (?, 0, 0, '{\"I.1\":true}')",
        synapse.server_name,
    )
    await gateway.start()
    juliet.say(gateway.address(alice.user_id), "hello alice")
    invite = await alice.see_invite(sender=gateway.ghost(juliet.address), timeout_s=30)
    room = await alice.join(invite.room_id)
    await alice.hear("hello alice", room=room)
    create = (await alice.state(room))["m.room.create", ""]
    assert create["content"]["room_version"] == "12"
    await no_dead_room(gateway, juliet, alice_rooms=await alice.joined_rooms(), room=room)
    invited = {s.room_id for s in alice.transcript if s.section == "invite"}
    assert invited == {room}
    # The refusal is remembered.
    hints = gateway.query("SELECT room_versions FROM peers WHERE server = ?", synapse.server_name)
    assert '"I.1":false' in hints[0][0]


async def no_dead_room(
    gateway: Gateway, juliet: XmppPerson, *, alice_rooms: list[str], room: str
) -> None:
    assert alice_rooms == [room]
    assert gateway.memberships(gateway.ghost(juliet.address)) == {room: "join"}
    by_ghost = gateway.query(
        "SELECT DISTINCT room_id FROM events WHERE sender = ?", gateway.ghost(juliet.address)
    )
    assert by_ghost == [(room,)]


async def test_a_conversation_goes_on_when_a_gateway_gets_a_new_key(
    sides: Sides, xmpp_person: MakeXmppPerson
) -> None:
    pair = await couple(sides, xmpp_person, "rotates")
    pair.juliet.say(pair.to_romeo, "before")
    await pair.romeo.hear("before", sender=pair.to_juliet, timeout_s=20)
    ours, theirs = (side.gateway for side in sides)
    old = ours.signing_key.key_id

    code, printed = await admin(ours, "keys rotate")
    assert code == 0, printed
    assert f"{old} stays published" in printed
    said = pair.juliet.say(pair.to_romeo, "after")
    await pair.romeo.hear("after", sender=pair.to_juliet, timeout_s=20)
    await pair.juliet.receipt(said)
    answer = pair.romeo.say(pair.to_juliet, "heard")
    await pair.juliet.hear("heard", sender=pair.to_romeo)
    await pair.romeo.receipt(answer)
    code, printed = await admin(ours, "keys")
    assert f"{old} is retired: it counts for events until" in printed

    # Whoever is met for the first time is talked to like everybody, also after a restart.
    await ours.restart()
    other = await xmpp_person(sides[1].prosody, "benvolio-rotates")
    pair.juliet.say(ours.address(theirs.ghost(other.address)), "good morrow, cousin")
    await other.hear("good morrow, cousin", sender=pair.to_juliet, timeout_s=30)
    known = dict(
        theirs.query(
            "SELECT key_id, expired_ms FROM server_keys WHERE server = ?", str(ours.server_name)
        )
    )
    assert old in known
    assert len(known) == 2
    assert [expired for key_id, expired in known.items() if key_id != old] == [None]
