"""Rooms of a real Synapse, entered as MUCs by people of two federated Prosodys."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import pytest

from bridge.demo.people import MatrixPerson, Stanza, XmppPerson
from bridge.demo.people.stanza import DELAY, MUC_USER, client_tag
from bridge.demo.servers import Prosody, Synapse
from bridge.errors import Refused
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

Pair = tuple[Prosody, Prosody]
DISCO_INFO = "http://jabber.org/protocol/disco#info"
DISCO_ITEMS = "http://jabber.org/protocol/disco#items"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Alice on Synapse with a public room; Juliet on our Prosody, Romeo on the other one."""

    alice: MatrixPerson
    juliet: XmppPerson
    romeo: XmppPerson
    room_id: str
    room: str
    """The address under which the room is entered."""
    juliet_id: str
    romeo_id: str


@pytest.fixture
async def scene(
    request: pytest.FixtureRequest,
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> Scene:
    """People of this test alone."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:6]
    alice = await matrix_person(synapse, f"alice-{name}")
    await alice.set_display_name("Alice")
    juliet = await xmpp_person(prosody_pair[0], f"juliet-{name}")
    romeo = await xmpp_person(prosody_pair[1], f"romeo-{name}")
    alias = f"garden-{name}"
    room_id = await alice.create_room(
        name="The Garden", topic="Flowers", alias=alias, preset="public_chat"
    )
    return Scene(
        alice=alice,
        juliet=juliet,
        romeo=romeo,
        room_id=room_id,
        room=gateway.address(f"#{alias}:{synapse.server_name}"),
        juliet_id=gateway.ghost(juliet.address),
        romeo_id=gateway.ghost(romeo.address),
    )


async def _rename(scene: Scene, name: str) -> None:
    """Alice takes a name, and the room shows it: a homeserver tells its rooms only later."""
    before = scene.alice.position
    await scene.alice.set_display_name(name)
    await scene.alice.wait_for(
        lambda seen: (
            seen.room_id == scene.room_id
            and seen.state_key == scene.alice.user_id
            and seen.content.get("displayname") == name
        ),
        what=f"alice as {name} in the room",
        since=before,
    )


async def test_two_people_of_two_servers_enter_by_alias_and_all_talk(scene: Scene) -> None:
    alice, juliet, romeo, room = scene.alice, scene.juliet, scene.romeo, scene.room
    assert room.startswith("#garden-")

    # Joins are seen on both sides.
    entry = await juliet.enter(room, "Juliet")
    assert 110 in entry.self_presence.statuses
    assert entry.self_presence.nickname == "Juliet"
    assert set(entry.occupants) == {"Alice", "Juliet"}
    assert entry.subject.subject == "Flowers"
    await alice.see_membership(scene.room_id, scene.juliet_id, "join")

    said = await alice.say(scene.room_id, "welcome")
    heard = await juliet.hear("welcome", sender=room)
    assert heard.type == "groupchat"
    assert heard.nickname == "Alice"
    assert heard.stanza_ids[room] == said

    # The second one finds the recent past, with its times, and is seen by the first.
    late = await romeo.enter(room, "Romeo", timeout_s=30)
    assert set(late.occupants) == {"Alice", "Juliet", "Romeo"}
    assert late.subject.subject == "Flowers"
    past = {message.body: message for message in late.history}
    assert "welcome" in past
    assert past["welcome"].is_delayed
    assert past["welcome"].nickname == "Alice"
    assert past["welcome"].stanza_ids[room] == said
    await alice.see_membership(scene.room_id, scene.romeo_id, "join")
    await juliet.see_arrive(room, "Romeo")

    # Messages in every direction; the author sees the own one with the own id.
    mine = juliet.say_in(room, "from juliet")
    reflected = await juliet.reflection(mine)
    event = await alice.hear("from juliet", room=scene.room_id, sender=scene.juliet_id)
    assert reflected.stanza_ids[room] == event.event_id
    assert (await romeo.hear("from juliet", sender=room)).nickname == "Juliet"
    romeo.say_in(room, "from romeo")
    await alice.hear("from romeo", room=scene.room_id, sender=scene.romeo_id)
    assert (await juliet.hear("from romeo", sender=room)).nickname == "Romeo"
    await alice.say_html(scene.room_id, "look here", "look <b>here</b>")
    await juliet.hear("look *here*", sender=room)
    await romeo.hear("look *here*", sender=room)

    # The topic.
    await alice.set_state(scene.room_id, "m.room.topic", {"topic": "Herbs"})
    for person in (juliet, romeo):
        await person.wait_for(
            lambda s: s.is_subject_change and s.subject == "Herbs", what="the new subject"
        )


async def test_whoever_enters_first_finds_what_was_said_before(scene: Scene) -> None:
    alice, juliet, romeo, room = scene.alice, scene.juliet, scene.romeo, scene.room
    said = [("one", await alice.say(scene.room_id, "one"))]
    shown = await alice.say_html(scene.room_id, "look here", "look <b>here</b>")
    said.append(("look *here*", shown))
    # State that is none any more when she comes in.
    await _rename(scene, "Alicia")
    said.append(("two", await alice.say(scene.room_id, "two")))
    await alice.set_state(scene.room_id, "m.room.topic", {"topic": "Weeds"})
    said.append(("three", await alice.say(scene.room_id, "three")))
    await _rename(scene, "Alice")

    entry = await juliet.enter(room, "Juliet")
    assert [(one.body, one.stanza_ids[room]) for one in entry.history] == said
    assert all(one.is_delayed and one.nickname == "Alice" for one in entry.history)
    assert all(one.type == "groupchat" for one in entry.history)
    assert entry.subject.subject == "Weeds"
    # By the times of the people who wrote it, not by that of her coming.
    stamps = [
        delay.get("stamp", "")
        for one in entry.history
        if (delay := one.find(f"{{{DELAY}}}delay")) is not None
    ]
    assert stamps == sorted(stamps)
    assert len(stamps) == len(said)

    late = await romeo.enter(room, "Romeo", timeout_s=30)
    assert [(one.body, one.stanza_ids[room]) for one in late.history] == said
    after = await alice.say(scene.room_id, "after")
    for person in (juliet, romeo):
        assert (await person.hear("after", sender=room)).stanza_ids[room] == after
        heard = [one.body for one in person.transcript.since(0) if one.nickname == "Alice"]
        assert [body for body in heard if body] == [*(body for body, _ in said), "after"]


async def test_after_an_absence_of_all_what_was_said_meanwhile_is_shown(scene: Scene) -> None:
    alice, juliet, room = scene.alice, scene.juliet, scene.room
    await alice.say(scene.room_id, "one")
    await juliet.enter(room, "Juliet")
    await alice.say(scene.room_id, "two")
    await juliet.hear("two", sender=room)
    await juliet.run_command(room, "leave")
    await alice.see_membership(scene.room_id, scene.juliet_id, "leave")
    await alice.say(scene.room_id, "three")
    entry = await juliet.enter(room, "Juliet")
    assert [one.body for one in entry.history] == ["one", "two", "three"]


async def test_what_newcomers_may_not_see_they_are_not_shown(scene: Scene) -> None:
    alice, juliet, romeo, room = scene.alice, scene.juliet, scene.romeo, scene.room
    await alice.set_state(
        scene.room_id, "m.room.history_visibility", {"history_visibility": "joined"}
    )
    await alice.say(scene.room_id, "among us")
    entry = await juliet.enter(room, "Juliet")
    assert [one.body for one in entry.history] == []
    await alice.say(scene.room_id, "among us and her")
    await juliet.hear("among us and her", sender=room)
    late = await romeo.enter(room, "Romeo", timeout_s=30)
    assert [one.body for one in late.history] == []


async def test_somebody_who_may_not_change_the_subject_is_told_and_who_may_does(
    scene: Scene,
) -> None:
    alice, juliet, room = scene.alice, scene.juliet, scene.room
    await juliet.enter(room, "Juliet")
    refused = juliet.set_subject(room, "Weeds")
    assert (await juliet.error(refused)).condition == "forbidden"
    levels = (await alice.state(scene.room_id))["m.room.power_levels", ""]["content"]
    levels["users"][scene.juliet_id] = 50
    await alice.set_state(scene.room_id, "m.room.power_levels", levels)
    # What was said after the change comes after it.
    await alice.say(scene.room_id, "now you may")
    await juliet.hear("now you may")
    juliet.set_subject(room, "Roses")
    await alice.wait_for(
        lambda seen: seen.type == "m.room.topic" and seen.content.get("topic") == "Roses",
        what="the new topic",
    )


async def test_going_offline_and_coming_back_is_no_news_for_matrix(scene: Scene) -> None:
    alice, juliet, romeo, room = scene.alice, scene.juliet, scene.romeo, scene.room
    await juliet.enter(room, "Juliet")
    await romeo.enter(room, "Romeo", timeout_s=30)
    await alice.see_membership(scene.room_id, scene.juliet_id, "join")
    await alice.see_membership(scene.room_id, scene.romeo_id, "join")
    await alice.sync()
    start, romeo_start = alice.position, romeo.position

    await juliet.logout()
    await romeo.see_go(room, "Juliet", since=romeo_start)
    await alice.say(scene.room_id, "while you were away")
    await romeo.hear("while you were away")

    await juliet.login()
    entry = await juliet.enter(room, "Juliet")
    assert "while you were away" in [message.body for message in entry.history]
    await romeo.see_arrive(room, "Juliet", since=romeo_start)
    juliet.say_in(room, "back again")
    await alice.hear("back again", room=scene.room_id)
    changes = [
        seen
        for seen in alice.transcript.since(start)
        if seen.state_key == scene.juliet_id and seen.membership is not None
    ]
    assert not changes


async def test_a_lost_connection_is_no_news_for_matrix_either(scene: Scene) -> None:
    alice, juliet, romeo, room = scene.alice, scene.juliet, scene.romeo, scene.room
    await juliet.enter(room, "Juliet")
    await romeo.enter(room, "Romeo", timeout_s=30)
    await alice.see_membership(scene.room_id, scene.juliet_id, "join")
    await alice.sync()
    start, romeo_start = alice.position, romeo.position
    await juliet.drop()
    await romeo.see_go(room, "Juliet", since=romeo_start)
    romeo.say_in(room, "alone")
    await alice.hear("alone", room=scene.room_id)
    assert not [s for s in alice.transcript.since(start) if s.state_key == scene.juliet_id]


async def test_leaving_by_the_command_of_the_room_ends_the_membership(scene: Scene) -> None:
    alice, juliet, romeo, room = scene.alice, scene.juliet, scene.romeo, scene.room
    await juliet.enter(room, "Juliet")
    await romeo.enter(room, "Romeo", timeout_s=30)
    items = ET.Element(f"{{{DISCO_ITEMS}}}query", {"node": "http://jabber.org/protocol/commands"})
    offered = await juliet.ask(room, items)
    nodes = [item.get("node") for item in offered.element.iter(f"{{{DISCO_ITEMS}}}item")]
    assert "leave" in nodes
    done = await juliet.run_command(room, "leave")
    command = done.find("{http://jabber.org/protocol/commands}command")
    assert command is not None
    assert command.get("status") == "completed"
    await alice.see_membership(scene.room_id, scene.juliet_id, "leave")
    gone = await juliet.see_go(room, "Juliet")
    assert 110 in gone.statuses
    assert 307 not in gone.statuses
    await romeo.see_go(room, "Juliet")
    said = juliet.say_in(room, "am I still here?")
    assert (await juliet.error(said)).condition == "not-acceptable"


async def test_leaving_by_a_word_to_the_bot_ends_the_membership(
    scene: Scene, gateway: Gateway
) -> None:
    alice, romeo, room = scene.alice, scene.romeo, scene.room
    await romeo.enter(room, "Romeo", timeout_s=30)
    await romeo.wait_for(
        lambda s: s.bare_sender == gateway.bot_address and "leave" in (s.body or ""),
        what="the word on how to leave",
    )
    romeo.say(gateway.bot_address, f"leave {room}")
    await alice.see_membership(scene.room_id, scene.romeo_id, "leave")
    await romeo.hear("You have left the room.", sender=gateway.bot_address)
    await romeo.see_go(room, "Romeo")


async def test_whoever_is_kicked_from_matrix_sees_the_status_and_the_reason(scene: Scene) -> None:
    alice, juliet, romeo, room = scene.alice, scene.juliet, scene.romeo, scene.room
    await juliet.enter(room, "Juliet")
    await romeo.enter(room, "Romeo", timeout_s=30)
    await alice.see_membership(scene.room_id, scene.juliet_id, "join")
    await alice.kick(scene.room_id, scene.juliet_id, "too loud")
    gone = await juliet.see_go(room, "Juliet")
    assert {110, 307} <= gone.statuses
    assert gone.reason == "too loud"
    seen = await romeo.see_go(room, "Juliet")
    assert 307 in seen.statuses
    assert 110 not in seen.statuses
    assert seen.reason == "too loud"
    refused = juliet.say_in(room, "hey!")
    assert (await juliet.error(refused)).condition == "not-acceptable"
    # A kick is no ban.
    await juliet.enter(room, "Juliet")
    juliet.say_in(room, "sorry")
    await alice.hear("sorry", room=scene.room_id)


async def test_whoever_is_banned_sees_it_and_cannot_enter(scene: Scene) -> None:
    alice, juliet, room = scene.alice, scene.juliet, scene.room
    await juliet.enter(room, "Juliet")
    await alice.see_membership(scene.room_id, scene.juliet_id, "join")
    await alice.ban(scene.room_id, scene.juliet_id, "for good")
    gone = await juliet.see_go(room, "Juliet")
    assert {110, 301} <= gone.statuses
    assert gone.reason == "for good"
    with pytest.raises(Refused) as refusal:
        await juliet.enter(room, "Juliet")
    assert refusal.value.rule == "forbidden"


async def test_an_invite_becomes_an_invitation_and_entering_accepts_it(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_invites")
    juliet = await xmpp_person(prosody_pair[0], "juliet_invited")
    ghost = gateway.ghost(juliet.address)
    room_id = await alice.create_room(name="Balcony", preset="private_chat")
    await alice.invite(room_id, ghost)

    def is_invitation(stanza: Stanza) -> bool:
        return stanza.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}invite") is not None

    invitation = await juliet.wait_for(is_invitation, what="an invitation")
    invite = invitation.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}invite")
    assert invite is not None
    assert invite.get("from") == gateway.address(alice.user_id)
    room = invitation.sender
    assert room == gateway.address(room_id)
    assert (await alice.members(room_id))[ghost] == "invite"

    await juliet.enter(room, "Juliet")
    await alice.see_membership(room_id, ghost, "join")
    juliet.say_in(room, "I am here")
    await alice.hear("I am here", room=room_id, sender=ghost)
    await alice.say(room_id, "so am I")
    await juliet.hear("so am I", sender=room)


async def test_nobody_enters_a_private_room_without_an_invitation(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_private")
    juliet = await xmpp_person(prosody_pair[0], "juliet_uninvited")
    await alice.create_room(name="Crypt", alias="crypt", preset="private_chat")
    with pytest.raises(Refused) as refusal:
        await juliet.enter(gateway.address(f"#crypt:{synapse.server_name}"), "Juliet")
    assert refusal.value.rule == "registration-required"


async def test_an_alias_that_does_not_exist_is_not_found(
    gateway: Gateway, prosody_pair: Pair, synapse: Synapse, xmpp_person: MakeXmppPerson
) -> None:
    juliet = await xmpp_person(prosody_pair[0], "juliet_lost")
    with pytest.raises(Refused) as refusal:
        await juliet.enter(gateway.address(f"#nowhere:{synapse.server_name}"), "Juliet")
    assert refusal.value.rule == "item-not-found"


async def test_a_nickname_that_another_person_uses_is_a_conflict(scene: Scene) -> None:
    await scene.juliet.enter(scene.room, "Star")
    with pytest.raises(Refused) as refusal:
        await scene.romeo.enter(scene.room, "Star", timeout_s=30)
    assert refusal.value.rule == "conflict"
    entry = await scene.romeo.enter(scene.room, "Moon", timeout_s=30)
    assert {"Star", "Moon"} <= set(entry.occupants)


async def test_a_matrix_member_gives_way_to_the_nickname_of_somebody_who_enters(
    scene: Scene,
) -> None:
    juliet, romeo, room = scene.juliet, scene.romeo, scene.room
    await juliet.enter(room, "Juliet")
    entry = await romeo.enter(room, "Alice", timeout_s=30)
    assert entry.self_presence.nickname == "Alice"
    renamed = await juliet.wait_for(
        lambda s: 303 in s.statuses and s.nickname == "Alice", what="Alice's new name"
    )
    new_name = renamed.item["nick"]
    assert new_name != "Alice"
    await scene.alice.say(scene.room_id, "who am I?")
    assert (await juliet.hear("who am I?")).nickname == new_name


async def test_a_self_ping_is_answered_for_the_own_nickname_alone(scene: Scene) -> None:
    juliet, room = scene.juliet, scene.room
    await juliet.enter(room, "Juliet")
    await juliet.ping(f"{room}/Juliet")
    with pytest.raises(Refused) as refusal:
        await scene.romeo.ping(f"{room}/Romeo", timeout_s=20)
    assert refusal.value.rule == "not-acceptable"
    await juliet.exit(room)
    with pytest.raises(Refused) as refusal:
        await juliet.ping(f"{room}/Juliet")
    assert refusal.value.rule == "not-acceptable"


async def test_a_room_describes_itself_as_a_room_and_a_person_as_a_person(
    scene: Scene, gateway: Gateway
) -> None:
    juliet = scene.juliet

    async def identities(address: str) -> tuple[set[str], set[str]]:
        answer = await juliet.ask(address, ET.Element(f"{{{DISCO_INFO}}}query"))
        query = answer.element.find(f"{{{DISCO_INFO}}}query")
        assert query is not None
        kinds = {
            f"{identity.get('category')}/{identity.get('type')}"
            for identity in query.findall(f"{{{DISCO_INFO}}}identity")
        }
        features = {f.get("var", "") for f in query.findall(f"{{{DISCO_INFO}}}feature")}
        return kinds, features

    muc = "http://jabber.org/protocol/muc"
    kinds, features = await identities(scene.room)
    assert "conference/text" in kinds
    assert muc in features
    kinds, features = await identities(gateway.address(scene.alice.user_id))
    assert "account/registered" in kinds
    assert muc not in features
    kinds, features = await identities(gateway.component)
    assert "conference/text" in kinds
    assert muc in features


async def test_membership_and_sessions_outlive_a_restart_of_the_gateway(
    scene: Scene, gateway: Gateway
) -> None:
    alice, juliet, room = scene.alice, scene.juliet, scene.room
    await juliet.enter(room, "Juliet")
    await alice.see_membership(scene.room_id, scene.juliet_id, "join")
    await alice.sync()
    start = alice.position
    await gateway.stop()
    await alice.say(scene.room_id, "while it was down")
    await gateway.start()
    await juliet.hear("while it was down", sender=room, timeout_s=30)
    juliet.say_in(room, "still in")
    await alice.hear("still in", room=scene.room_id, timeout_s=30)
    assert not [s for s in alice.transcript.since(start) if s.state_key == scene.juliet_id]


async def test_matrix_people_come_and_go_before_everybodys_eyes(
    scene: Scene, synapse: Synapse, matrix_person: MakeMatrixPerson
) -> None:
    juliet, romeo, room = scene.juliet, scene.romeo, scene.room
    await juliet.enter(room, "Juliet")
    await romeo.enter(room, "Romeo", timeout_s=30)
    bob = await matrix_person(synapse, f"bob-{scene.alice.user_id.partition(':')[0][-6:]}")
    await bob.set_display_name("Bob")
    await bob.join(scene.room_id)
    for person in (juliet, romeo):
        arrived = await person.see_arrive(room, "Bob")
        assert arrived.item["affiliation"] == "member"
    await bob.say(scene.room_id, "hello, I am Bob")
    await juliet.hear("hello, I am Bob", sender=room)
    await bob.set_display_name("Robert")
    for person in (juliet, romeo):
        renamed = await person.wait_for(
            lambda s: 303 in s.statuses and s.nickname == "Bob", what="Bob's new name"
        )
        assert renamed.item["nick"] == "Robert"
    await bob.leave(scene.room_id)
    for person in (juliet, romeo):
        gone = await person.see_go(room, "Robert")
        assert not {301, 307} & gone.statuses


async def test_two_clients_of_one_person_are_one_occupant(
    scene: Scene, prosody_pair: Pair, xmpp_person: MakeXmppPerson
) -> None:
    alice, juliet, romeo, room = scene.alice, scene.juliet, scene.romeo, scene.room
    phone = await xmpp_person(prosody_pair[0], juliet.address.partition("@")[0], resource="phone")
    await romeo.enter(room, "Romeo", timeout_s=30)
    await juliet.enter(room, "Juliet")
    entry = await phone.enter(room, "Juliet")
    assert entry.self_presence.nickname == "Juliet"
    await alice.say(scene.room_id, "to all of you")
    for person in (juliet, phone, romeo):
        await person.hear("to all of you", sender=room)
    start = romeo.position
    await juliet.logout()
    await alice.say(scene.room_id, "to the phone")
    await phone.hear("to the phone", sender=room)
    await romeo.hear("to the phone", sender=room)
    gone = [s for s in romeo.transcript.since(start) if s.type == "unavailable"]
    assert not gone
    said = phone.say_in(room, "from the phone")
    await phone.reflection(said)
    assert (await romeo.hear("from the phone", sender=room)).nickname == "Juliet"
    await alice.hear("from the phone", room=scene.room_id, sender=scene.juliet_id)


async def test_a_new_nickname_is_seen_by_all(scene: Scene) -> None:
    juliet, romeo, room = scene.juliet, scene.romeo, scene.room
    await juliet.enter(room, "Juliet")
    await romeo.enter(room, "Romeo", timeout_s=30)
    juliet.set_presence(to=f"{room}/Capulet")
    for person in (juliet, romeo):
        gone = await person.see_go(room, "Juliet")
        assert 303 in gone.statuses
        assert gone.item["nick"] == "Capulet"
        await person.see_arrive(room, "Capulet")
    juliet.say_in(room, "a rose by any other name")
    heard = await romeo.hear("a rose by any other name", sender=room)
    assert heard.nickname == "Capulet"
    await juliet.ping(f"{room}/Capulet")


async def test_a_declined_invitation_is_refused_on_matrix(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_declined")
    juliet = await xmpp_person(prosody_pair[0], "juliet_declines")
    ghost = gateway.ghost(juliet.address)
    room_id = await alice.create_room(name="Tomb", preset="private_chat")
    await alice.invite(room_id, ghost)
    invitation = await juliet.wait_for(
        lambda s: s.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}invite") is not None, what="an invitation"
    )
    answer = ET.Element(client_tag("message"), {"to": invitation.sender})
    decline = ET.SubElement(
        ET.SubElement(answer, f"{{{MUC_USER}}}x"),
        f"{{{MUC_USER}}}decline",
        {"to": gateway.address(alice.user_id)},
    )
    ET.SubElement(decline, f"{{{MUC_USER}}}reason").text = "not now"
    juliet.send(answer)
    declined = await alice.see_membership(room_id, ghost, "leave")
    assert declined.content.get("reason") == "not now"
    with pytest.raises(Refused):
        await juliet.enter(invitation.sender, "Juliet")


async def test_whoever_is_kicked_while_offline_may_come_back(scene: Scene) -> None:
    alice, juliet, room = scene.alice, scene.juliet, scene.room
    await juliet.enter(room, "Juliet")
    await alice.see_membership(scene.room_id, scene.juliet_id, "join")
    await juliet.logout()
    await alice.kick(scene.room_id, scene.juliet_id, "asleep")
    await juliet.login()
    entry = await juliet.enter(room, "Juliet")
    assert 110 in entry.self_presence.statuses
    juliet.say_in(room, "awake")
    await alice.hear("awake", room=scene.room_id)
