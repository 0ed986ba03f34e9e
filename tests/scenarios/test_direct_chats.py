"""Direct chats between a real Synapse and real Prosodys: who writes first, formatting, receipts,
encryption, and what the author is told when it does not work."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from bridge.demo.people import NotSeen, Stanza
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

Pair = tuple[Prosody, Prosody]
ROSTER = "jabber:iq:roster"


# --- Matrix first ---------------------------------------------------------------------------------


async def test_a_matrix_user_opens_a_chat_with_a_ghost_and_both_talk(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice")
    juliet = await xmpp_person(prosody_pair[0], "juliet")
    ghost = gateway.ghost(juliet.address)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")

    await alice.say(room, "hello juliet")
    heard = await juliet.hear("hello juliet", sender=gateway.address(alice.user_id))
    assert heard.type == "chat"

    said = juliet.say(heard.bare_sender, "hello alice")
    await alice.hear("hello alice", room=room, sender=ghost)
    receipt = await juliet.receipt(said)
    assert receipt.bare_sender == gateway.address(alice.user_id)

    for number in range(5):
        await alice.say(room, f"down {number}")
        juliet.say(heard.bare_sender, f"up {number}")
    for number in range(5):
        await juliet.hear(f"down {number}")
        await alice.hear(f"up {number}", room=room)
    down = [s.body for s in juliet.transcript if (s.body or "").startswith("down")]
    up = [s.body for s in alice.transcript if (s.body or "").startswith("up")]
    assert down == [f"down {number}" for number in range(5)]
    assert up == [f"up {number}" for number in range(5)]


async def test_a_ghost_has_the_profile_of_its_address(
    gateway: Gateway, synapse: Synapse, matrix_person: MakeMatrixPerson
) -> None:
    alice = await matrix_person(synapse, "alice")
    profile = await alice.profile(gateway.ghost("mercutio@a.test"))
    assert "mercutio" in profile["displayname"]


async def test_formatting_survives_both_ways(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_formats")
    juliet = await xmpp_person(prosody_pair[0], "juliet_formats")
    ghost = gateway.ghost(juliet.address)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")

    await alice.say_html(
        room,
        "a strong word, a soft one, a wrong one, `code`",
        "a <b>strong</b> word, a <em>soft</em> one, a <del>wrong</del> one, <code>code</code>",
    )
    heard = await juliet.hear("a *strong* word, a _soft_ one, a ~wrong~ one, `code`")

    juliet.say(heard.bare_sender, "*strong*, _soft_, ~wrong~, `code`\n> quoted")
    seen = await alice.wait_for(
        lambda seen: seen.sender == ghost and "formatted_body" in seen.content,
        what="formatted text from juliet",
    )
    html = seen.content["formatted_body"]
    assert seen.content["format"] == "org.matrix.custom.html"
    for part in (
        "<strong>strong</strong>",
        "<em>soft</em>",
        "<del>wrong</del>",
        "<code>code</code>",
        "<blockquote>quoted</blockquote>",
    ):
        assert part in html
    assert seen.type == "m.room.message"
    assert seen.content["msgtype"] == "m.text"

    juliet.say(heard.bare_sender, "snow ☃ and ❤️, 2*3*4")
    plain = await alice.hear("snow ☃ and ❤️, 2*3*4", sender=ghost)
    assert "formatted_body" not in plain.content


async def test_a_chat_with_somebody_on_another_xmpp_server(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_far")
    romeo = await xmpp_person(prosody_pair[1], "romeo_far")
    ghost = gateway.ghost(romeo.address)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    await alice.say(room, "over two borders")
    heard = await romeo.hear("over two borders", timeout_s=20)
    said = romeo.say(heard.bare_sender, "and back")
    await alice.hear("and back", room=room, sender=ghost)
    await romeo.receipt(said)


async def test_a_message_to_an_xmpp_address_that_does_not_exist_is_reported_in_the_room(
    gateway: Gateway, synapse: Synapse, matrix_person: MakeMatrixPerson
) -> None:
    alice = await matrix_person(synapse, "alice_nobody")
    ghost = gateway.ghost("nobody@a.test")
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    await alice.say(room, "anybody?")
    told = await alice.wait_for(
        lambda seen: seen.sender == ghost and "could not be delivered" in (seen.body or ""),
        what="the report",
    )
    assert told.content["msgtype"] == "m.notice"


async def test_what_is_no_text_arrives_as_text(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_kinds")
    juliet = await xmpp_person(prosody_pair[0], "juliet_kinds")
    ghost = gateway.ghost(juliet.address)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    for msgtype, body in (
        ("m.emote", "waves"),
        ("m.notice", "by a bot"),
        ("m.image", "balcony.jpg"),
        ("org.example.custom", "a custom thing"),
    ):
        await alice.send_event(room, "m.room.message", {"msgtype": msgtype, "body": body})

        def has_it(stanza: Stanza, body: str = body) -> bool:
            return body in (stanza.body or "")

        await juliet.wait_for(has_it, what=f"the text of {msgtype}")
    await juliet.hear("/me waves")
    juliet.say(gateway.address(alice.user_id), "/me waves back")
    seen = await alice.wait_for(
        lambda seen: seen.sender == ghost and seen.content.get("msgtype") == "m.emote",
        what="the emote",
    )
    assert seen.body == "waves back"


async def test_a_text_that_is_too_long_for_one_event_arrives_in_parts(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_long")
    juliet = await xmpp_person(prosody_pair[0], "juliet_long")
    ghost = gateway.ghost(juliet.address)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    text = "\n".join(f"line {number} of a long story, with an é in it" for number in range(2000))
    said = juliet.say(gateway.address(alice.user_id), text)
    juliet.say(gateway.address(alice.user_id), "the end")
    await alice.hear("the end", room=room)
    await juliet.receipt(said)
    parts = [s.body or "" for s in alice.transcript if s.sender == ghost and s.body][:-1]
    assert len(parts) > 1
    assert "".join("".join(parts).split()) == "".join(text.split())


async def test_somebody_offline_finds_the_message_later(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_early")
    juliet = await xmpp_person(prosody_pair[0], "juliet_sleeps")
    ghost = gateway.ghost(juliet.address)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    await alice.say(room, "good night")
    await juliet.hear("good night")
    await juliet.logout()
    await alice.say(room, "are you asleep?")
    await juliet.login()
    await alice.say(room, "good morning")
    await juliet.hear("good morning")
    archive = ET.Element("{urn:xmpp:mam:2}query")
    await juliet.ask(None, archive, type="set")
    assert any("are you asleep?" in stanza.xml() for stanza in juliet.transcript)
    told = [s for s in alice.transcript if "not be delivered" in (s.body or "")]
    assert not told


# --- encryption -----------------------------------------------------------------------------------


async def test_an_encrypted_chat_is_answered_in_words_and_with_a_readable_room(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_secret")
    juliet = await xmpp_person(prosody_pair[0], "juliet_secret")
    ghost = gateway.ghost(juliet.address)
    secret = await alice.create_direct(ghost, encrypted=True)
    await alice.see_membership(secret, ghost, "join")
    told = await alice.wait_for(
        lambda seen: (
            seen.room_id == secret and seen.sender == ghost and "cannot read" in (seen.body or "")
        ),
        what="the explanation",
    )
    assert told.content["msgtype"] == "m.notice"

    start = alice.position
    await alice.say_encrypted(secret)
    await alice.wait_for(
        lambda seen: seen.room_id == secret and "was not delivered" in (seen.body or ""),
        what="the report on the unreadable message",
        since=start,
    )

    invite = await alice.see_invite(sender=ghost)
    plain = invite.room_id
    assert plain != secret
    assert invite.content["is_direct"] is True
    await alice.join(plain)
    assert ("m.room.encryption", "") not in await alice.state(plain)

    await alice.say(plain, "in the open")
    heard = await juliet.hear("in the open", sender=gateway.address(alice.user_id))
    juliet.say(heard.bare_sender, "heard you")
    await alice.hear("heard you", room=plain, sender=ghost)

    # A second encrypted chat leads to the same readable room.
    again = await alice.create_direct(ghost, encrypted=True)
    await alice.wait_for(
        lambda seen: seen.room_id == again and "cannot read" in (seen.body or ""),
        what="the second explanation",
    )
    juliet.say(heard.bare_sender, "still here")
    await alice.hear("still here", room=plain, sender=ghost)
    invites = {
        seen.room_id for seen in alice.transcript if seen.section == "invite" and seen.membership
    }
    assert invites == {plain}
    assert not [s for s in juliet.transcript if "ciphertext" in s.xml()]


async def test_turning_encryption_on_later_is_answered_the_same_way(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_later")
    juliet = await xmpp_person(prosody_pair[0], "juliet_later")
    ghost = gateway.ghost(juliet.address)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    await alice.say(room, "still readable")
    heard = await juliet.hear("still readable")
    await alice.set_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    await alice.wait_for(
        lambda seen: seen.room_id == room and "cannot read" in (seen.body or ""),
        what="the explanation",
    )
    invite = await alice.see_invite(sender=ghost)
    await alice.join(invite.room_id)
    juliet.say(heard.bare_sender, "on in the other room")
    await alice.hear("on in the other room", room=invite.room_id)


# --- XMPP first -----------------------------------------------------------------------------------


async def test_an_xmpp_user_writes_first_and_the_waiting_messages_are_found_after_the_join(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_asked")
    juliet = await xmpp_person(prosody_pair[0], "juliet_asks")
    address, ghost = gateway.address(alice.user_id), gateway.ghost(juliet.address)
    assert address.startswith("alice_asked%localhost")

    first = juliet.say(address, "are you there?")
    second = juliet.say(address, "I have news")
    invite = await alice.see_invite(sender=ghost)
    assert invite.content["is_direct"] is True
    with pytest.raises(NotSeen):
        await juliet.receipt(first, timeout_s=1.0)

    room = await alice.join(invite.room_id)
    await alice.hear("are you there?", room=room, sender=ghost)
    await alice.hear("I have news", room=room, sender=ghost)
    await juliet.receipt(first)
    await juliet.receipt(second)
    bodies = [event["content"].get("body") for event in reversed(await alice.messages(room))]
    assert [b for b in bodies if b] == ["are you there?", "I have news"]

    await alice.say(room, "tell me")
    await juliet.hear("tell me", sender=address)
    juliet.say(address, "it works")
    await alice.hear("it works", room=room)
    assert not [s for s in juliet.transcript if s.type == "error"]


async def test_a_person_on_another_xmpp_server_writes_first(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_wanted")
    romeo = await xmpp_person(prosody_pair[1], "romeo_asks")
    said = romeo.say(gateway.address(alice.user_id), "from b.test")
    invite = await alice.see_invite(sender=gateway.ghost(romeo.address), timeout_s=20)
    room = await alice.join(invite.room_id)
    await alice.hear("from b.test", room=room)
    await romeo.receipt(said)
    await alice.say(room, "welcome")
    await romeo.hear("welcome", sender=gateway.address(alice.user_id))


async def test_the_same_message_sent_twice_arrives_once(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_once")
    juliet = await xmpp_person(prosody_pair[0], "juliet_twice")
    address = gateway.address(alice.user_id)
    juliet.say(address, "once", message_id="m1")
    juliet.say(address, "once", message_id="m1")
    room = await alice.join((await alice.see_invite()).room_id)
    juliet.say(address, "the end")
    await alice.hear("the end", room=room)
    bodies = [event["content"].get("body") for event in await alice.messages(room)]
    assert bodies.count("once") == 1


async def test_a_message_to_an_unknown_matrix_user_comes_back_with_the_reason(
    gateway: Gateway, prosody_pair: Pair, synapse: Synapse, xmpp_person: MakeXmppPerson
) -> None:
    juliet = await xmpp_person(prosody_pair[0], "juliet_errs")
    said = juliet.say(gateway.address(synapse.user_id("nobody")), "hello?")
    error = await juliet.error(said)
    assert error.condition == "item-not-found"
    assert "nobody" in (error.error_text or "")
    assert not gateway.memberships(gateway.ghost(juliet.address))


async def test_a_message_to_our_own_server_comes_back_with_the_reason(
    gateway: Gateway, prosody_pair: Pair, xmpp_person: MakeXmppPerson
) -> None:
    juliet = await xmpp_person(prosody_pair[0], "juliet_errs_here")
    said = juliet.say(gateway.address(f"@nobody:{gateway.server_name}"), "hello?")
    assert (await juliet.error(said)).error_text


async def test_what_is_no_address_is_answered_at_once(
    gateway: Gateway, prosody_pair: Pair, xmpp_person: MakeXmppPerson
) -> None:
    juliet = await xmpp_person(prosody_pair[0], "juliet_mistypes")
    said = juliet.say(f"no-server-in-it@{gateway.component}", "hello?")
    assert (await juliet.error(said)).condition == "item-not-found"


async def test_a_refused_invitation_comes_back_with_the_reason(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_refuses")
    juliet = await xmpp_person(prosody_pair[0], "juliet_refused")
    address = gateway.address(alice.user_id)
    said = juliet.say(address, "may I?")
    invite = await alice.see_invite()
    await alice.leave(invite.room_id)
    error = await juliet.error(said)
    assert "refused the invitation" in (error.error_text or "")
    assert error.bare_sender == address

    # Whoever writes again asks again.
    juliet.say(address, "please?")
    second = await alice.wait_for(
        lambda seen: seen.section == "invite" and seen.room_id != invite.room_id,
        what="a second invitation",
    )
    await alice.join(second.room_id)
    await alice.hear("please?", room=second.room_id)


async def test_whoever_left_a_chat_is_invited_anew_by_the_next_message(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_goes")
    juliet = await xmpp_person(prosody_pair[0], "juliet_stays")
    ghost, address = gateway.ghost(juliet.address), gateway.address(alice.user_id)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    await alice.say(room, "good bye")
    await juliet.hear("good bye")
    await alice.leave(room)
    await gateway.see_membership(alice.user_id, room, "leave")
    juliet.say(address, "come back")
    invite = await alice.see_invite(sender=ghost)
    assert invite.room_id != room
    await alice.join(invite.room_id)
    await alice.hear("come back", room=invite.room_id)


async def test_a_server_that_does_not_exist_is_reported_when_it_is_given_up(
    prosody_pair: Pair, certificates: CertificateAuthority, xmpp_person: MakeXmppPerson
) -> None:
    settings = {"delivery": {"give_up_after_s": 2, "waiting_notice_s": 1, "retry_max_s": 1}}
    async with Gateway(prosody_pair[1], certificates, settings=settings) as impatient:
        romeo = await xmpp_person(prosody_pair[1], "romeo_errs")
        said = romeo.say(impatient.address("@alice:nowhere.invalid"), "hello?")
        error = await romeo.error(said, timeout_s=20)
        assert "nowhere.invalid" in (error.error_text or "")
        assert not impatient.memberships(impatient.ghost(romeo.address))
        await romeo.logout()


async def test_a_subscription_is_answered_and_outlives_a_restart(
    gateway: Gateway, prosody_pair: Pair, synapse: Synapse, xmpp_person: MakeXmppPerson
) -> None:
    juliet = await xmpp_person(prosody_pair[0], "juliet_subscribes")
    address = gateway.address(synapse.user_id("alice"))

    async def subscription() -> str:
        answer = await juliet.ask(None, ET.Element(f"{{{ROSTER}}}query"))
        items = answer.element.iter(f"{{{ROSTER}}}item")
        return next((i.get("subscription", "") for i in items if i.get("jid") == address), "")

    def from_alice(type: str) -> Callable[[Stanza], bool]:
        def wanted(stanza: Stanza) -> bool:
            return (
                stanza.kind == "presence" and stanza.bare_sender == address and stanza.type == type
            )

        return wanted

    juliet.set_presence(to=address, type="subscribe")
    await juliet.wait_for(from_alice("subscribe"), what="the request back")
    juliet.set_presence(to=address, type="subscribed")
    assert await subscription() == "both"
    await juliet.logout()
    await gateway.restart()
    start = juliet.position
    await juliet.login()
    await juliet.wait_for(from_alice(""), what="alice's presence", since=start)
    assert await subscription() == "both"


async def test_a_second_room_for_the_same_chat_loses_nothing_said_in_the_first(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_two_rooms")
    juliet = await xmpp_person(prosody_pair[0], "juliet_two_rooms")
    ghost, address = gateway.ghost(juliet.address), gateway.address(alice.user_id)
    first = await alice.create_direct(ghost)
    await alice.see_membership(first, ghost, "join")
    second = await alice.create_direct(ghost)
    await alice.see_membership(second, ghost, "join")
    for room in (second, first, second):
        start, alice_start = juliet.position, alice.position
        await alice.say(room, f"in {room}")
        await juliet.hear(f"in {room}", sender=address, since=start)
        juliet.say(address, f"answer to {room}")
        await alice.hear(f"answer to {room}", room=room, since=alice_start)
