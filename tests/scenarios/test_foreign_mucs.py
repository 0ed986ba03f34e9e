"""People of a real Synapse inside MUCs of a real Prosody and a real ejabberd.

A room is made when somebody looks up the alias of a MUC; who joins it is an occupant there.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from bridge.demo.people import MatrixFailed, Muc, SeenEvent, Stanza
from bridge.demo.servers import CertificateAuthority, Prosody, XmppServer
from bridge.identity import localparts
from tests.support.chats import ARRIVAL_S, Coven, bodies, moves, said_in
from tests.support.gateway import Gateway
from tests.support.servers import MakeXmppPerson


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    xmpp_server: XmppServer, certificates: CertificateAuthority
) -> AsyncIterator[Gateway]:
    async with Gateway(xmpp_server, certificates) as server:
        yield server


# --- coming in, and talking -----------------------------------------------------------------------


async def test_whoever_joins_by_alias_finds_name_subject_and_people_and_all_talk(
    coven: Coven, xmpp_server: XmppServer, xmpp_person: MakeXmppPerson
) -> None:
    alice, romeo = coven.alice, coven.romeo
    await romeo.configure({"muc#roomconfig_roomname": "The Coven"})
    romeo.set_subject("toil and trouble")
    hecate = Muc(await xmpp_person(xmpp_server, f"hecate-{coven.label}"), coven.chat)
    await hecate.enter("Hecate")

    assert await alice.resolve_alias(coven.alias)
    room_id = await coven.join()
    romeo_id = await coven.ghost_of("Romeo", room_id)
    hecate_id = await coven.ghost_of("Hecate", room_id)
    assert romeo_id != hecate_id
    await alice.wait_for(
        lambda seen: (
            seen.type == "m.room.topic" and seen.content.get("topic") == "toil and trouble"
        ),
        what="the subject as the topic",
        timeout_s=ARRIVAL_S,
    )
    state = await alice.state(room_id)
    assert state["m.room.name", ""]["content"]["name"] == "The Coven"
    bridges = [event for (type, _), event in state.items() if type == "uk.half-shot.bridge"]
    assert [event["content"]["channel"]["id"] for event in bridges] == [coven.chat]
    assert [event["content"]["protocol"]["id"] for event in bridges] == ["xmpp"]

    for number in range(3):
        await alice.say(room_id, f"down {number}")
        romeo.say(f"up {number}")
    for number in range(3):
        heard = await hecate.person.hear(f"down {number}", sender=coven.chat)
        assert heard.nickname == "Alice"
        await alice.hear(f"up {number}", room=room_id, sender=romeo_id)
    hecate.say("double, double")
    await alice.hear("double, double", room=room_id, sender=hecate_id)
    await alice.say(room_id, "the end")
    await hecate.person.hear("the end", sender=coven.chat)
    down = [f"down {number}" for number in range(3)]
    for muc in (romeo, hecate):
        heard_lines = said_in(muc.person, coven.chat)
        assert [line for line in heard_lines if line.startswith("down")] == down
    up = [body for body in bodies(list(alice.transcript), room_id) if body.startswith("up")]
    assert up == [f"up {number}" for number in range(3)]


async def test_who_types_and_reads_is_seen_on_both_sides(
    coven: Coven, xmpp_server: XmppServer
) -> None:
    alice, romeo, chat = coven.alice, coven.romeo.person, coven.chat
    room_id = await coven.join()
    ghost = await coven.ghost_of("Romeo", room_id)
    await alice.say(room_id, "hail")
    heard = await romeo.hear("hail", sender=chat)

    def of_alice(name: str) -> Callable[[Stanza], bool]:
        return lambda s: (
            s.sender == f"{chat}/Alice"
            and any(child.tag.endswith("}" + name) for child in s.element)
        )

    def typing(*users: str) -> Callable[[SeenEvent], bool]:
        return lambda seen: (
            seen.type == "m.typing"
            and seen.room_id == room_id
            and seen.content["user_ids"] == list(users)
        )

    # From Matrix: by alice's own occupant.
    await alice.set_typing(room_id, True)
    await romeo.wait_for(of_alice("composing"), what="alice typing", timeout_s=ARRIVAL_S)
    await alice.set_typing(room_id, False)
    await romeo.wait_for(of_alice("paused"), what="alice's pause", timeout_s=ARRIVAL_S)
    coven.romeo.say("hail to thee")
    said = await alice.hear("hail to thee", room=room_id, sender=ghost)
    await alice.mark_read(room_id, said.event_id)
    marker = await romeo.wait_for(of_alice("displayed"), what="a marker", timeout_s=ARRIVAL_S)
    mine = await romeo.hear("hail to thee", sender=chat)
    node = next(child for child in marker.element if child.tag.endswith("}displayed"))
    assert node.get("id") == mine.stanza_ids[chat]

    # From the MUC.
    since = alice.position
    romeo.send_raw(
        f"<message to='{chat}' type='groupchat'>"
        "<composing xmlns='http://jabber.org/protocol/chatstates'/></message>"
    )
    await alice.wait_for(typing(ghost), what="romeo typing", since=since, timeout_s=ARRIVAL_S)
    since = alice.position
    romeo.send_raw(
        f"<message to='{chat}' type='groupchat'>"
        "<paused xmlns='http://jabber.org/protocol/chatstates'/>"
        f"<displayed xmlns='urn:xmpp:chat-markers:0' id='{heard.stanza_ids[chat]}'/></message>"
    )
    await alice.wait_for(typing(), what="romeo's pause", since=since, timeout_s=ARRIVAL_S)
    await alice.wait_for(
        lambda seen: seen.type == "m.receipt" and ghost in str(seen.content),
        what="what romeo has read",
        timeout_s=ARRIVAL_S,
    )


async def test_what_is_no_muc_has_no_room(coven: Coven, xmpp_server: XmppServer) -> None:
    server = coven.gateway.server_name
    for chat in (f"nobody-here@{xmpp_server.muc_domain}", "coven@muc.nowhere.test"):
        with pytest.raises(MatrixFailed) as failure:
            await coven.alice.join(localparts.alias_for(chat, server))
        assert failure.value.status in (403, 404)
        assert not [room for room in coven.gateway.rooms() if chat in room]


async def test_people_of_the_muc_come_and_go_on_matrix(
    coven: Coven, xmpp_server: XmppServer, xmpp_person: MakeXmppPerson
) -> None:
    room_id = await coven.join()
    hecate = Muc(await xmpp_person(xmpp_server, f"hecate-{coven.label}"), coven.chat)
    await hecate.enter("Hecate")
    ghost = await coven.ghost_of("Hecate", room_id)
    await coven.romeo.kick("Hecate", "out of tune")
    gone = await coven.alice.see_membership(room_id, ghost, "leave", timeout_s=ARRIVAL_S)
    assert "out of tune" in str(gone.content.get("reason"))


async def test_a_nickname_that_is_taken_is_solved_and_said(
    coven: Coven, xmpp_server: XmppServer, xmpp_person: MakeXmppPerson
) -> None:
    alice = coven.alice
    other = Muc(await xmpp_person(xmpp_server, f"other-{coven.label}"), coven.chat)
    await other.enter("Alice")
    room_id = await alice.join(coven.alias)

    def nickname() -> str | None:
        names = set(coven.romeo.occupants()) - {"Romeo", "Alice"}
        return names.pop() if names else None

    await coven.romeo.person.wait_for(
        lambda _: nickname() is not None, what="alice's guest", timeout_s=ARRIVAL_S
    )
    given = nickname()
    assert given is not None
    assert given.startswith("Alice")
    told = await alice.wait_for(
        lambda seen: seen.content.get("msgtype") == "m.notice" and given in (seen.body or ""),
        what=f"the word on being called {given}",
        timeout_s=ARRIVAL_S,
    )
    assert told.sender.endswith(f":{coven.gateway.server_name}")
    await alice.say(room_id, "which one am I?")
    heard = await coven.romeo.person.hear("which one am I?", sender=coven.chat)
    assert heard.nickname == given
    other.say("not me")
    await alice.hear("not me", room=room_id)


async def test_a_new_subject_is_the_new_topic(coven: Coven) -> None:
    room_id = await coven.join()
    coven.romeo.set_subject("fire burn")
    seen = await coven.alice.wait_for(
        lambda seen: seen.type == "m.room.topic" and seen.content.get("topic") == "fire burn",
        what="the new topic",
        timeout_s=ARRIVAL_S,
    )
    assert seen.room_id == room_id


async def test_a_new_name_on_matrix_is_a_new_nickname(coven: Coven) -> None:
    await coven.join()
    await coven.alice.set_display_name("Alicia")
    gone = await coven.romeo.see_go("Alice", timeout_s=ARRIVAL_S)
    assert 303 in gone.statuses
    await coven.romeo.see_arrive("Alicia", timeout_s=ARRIVAL_S)


# --- going, of one's own will and not -------------------------------------------------------------


async def test_leaving_on_matrix_leaves_the_muc_and_nothing_more(coven: Coven) -> None:
    room_id = await coven.join()
    await coven.alice.say(room_id, "farewell")
    await coven.romeo.person.hear("farewell", sender=coven.chat)
    await coven.alice.leave(room_id)
    gone = await coven.romeo.see_go("Alice", timeout_s=ARRIVAL_S)
    assert not {301, 307, 321, 322, 332, 333} & gone.statuses


async def test_whoever_is_kicked_from_the_muc_sees_by_whom_and_why_and_may_come_back(
    coven: Coven,
) -> None:
    alice = coven.alice
    room_id = await coven.join()
    romeo_id = await coven.ghost_of("Romeo", room_id)
    await coven.romeo.kick("Alice", "too loud")
    gone = await alice.see_membership(room_id, alice.user_id, "leave", timeout_s=ARRIVAL_S)
    assert "too loud" in str(gone.content.get("reason"))
    assert gone.sender != alice.user_id
    assert gone.sender == romeo_id or "Romeo" in str(gone.content.get("reason"))
    start = coven.romeo.person.position
    await alice.join(coven.alias)
    await coven.romeo.see_arrive("Alice", timeout_s=ARRIVAL_S, since=start)
    await alice.say(room_id, "quietly now")
    await coven.romeo.person.hear("quietly now", sender=coven.chat)


async def test_whoever_is_banned_from_the_muc_is_told_why_and_does_not_stay(coven: Coven) -> None:
    alice = coven.alice
    room_id = await coven.join()
    await coven.romeo.ban(coven.guest_address, "for good")
    gone = await alice.see_membership(room_id, alice.user_id, "leave", timeout_s=ARRIVAL_S)
    assert "for good" in str(gone.content.get("reason"))
    assert "anned" in str(gone.content.get("reason"))
    await alice.sync()
    begin = alice.position
    await alice.join(coven.alias)
    again = await alice.see_membership(
        room_id, alice.user_id, "leave", timeout_s=ARRIVAL_S, since=begin
    )
    assert again.content.get("reason")
    assert set(coven.romeo.occupants()) == {"Romeo"}


# --- who is who -----------------------------------------------------------------------------------


async def test_a_muc_that_shows_addresses_has_the_people_themselves(coven: Coven) -> None:
    await coven.romeo.show_addresses()
    room_id = await coven.join()
    ghost = coven.gateway.ghost(coven.romeo.person.address)
    await coven.alice.see_membership(room_id, ghost, "join", timeout_s=ARRIVAL_S)
    coven.romeo.say("it is really me")
    await coven.alice.hear("it is really me", room=room_id, sender=ghost)


async def test_no_real_address_leaves_a_semi_anonymous_muc_and_people_stay_who_they_are(
    coven: Coven, xmpp_server: XmppServer, xmpp_person: MakeXmppPerson
) -> None:
    alice, romeo = coven.alice, coven.romeo
    hecate = Muc(await xmpp_person(xmpp_server, f"montague-h-{coven.label}"), coven.chat)
    await hecate.enter("Hecate")
    room_id = await coven.join()
    romeo_id = await coven.ghost_of("Romeo", room_id)
    romeo.say("before")
    await alice.hear("before", room=room_id, sender=romeo_id)

    # Whoever administers a MUC sees the addresses of all.
    await romeo.affiliate(coven.guest_address, "admin")
    await romeo.person.wait_for(
        lambda _: romeo.occupants()["Alice"].affiliation == "admin", what="an admin"
    )
    romeo.say("you are an admin")
    await alice.hear("you are an admin", room=room_id, sender=romeo_id)
    await hecate.leave()
    await hecate.enter("Hecate")

    await romeo.rename("Giulietto")
    romeo.say("under another name")
    heard = await alice.hear("under another name", room=room_id)
    if isinstance(xmpp_server, Prosody):
        assert heard.sender == romeo_id
    else:
        # ejabberd has no occupant IDs: another nickname may be another person.
        assert heard.sender != romeo_id
    await alice.wait_for(
        lambda seen: (
            seen.state_key == heard.sender
            and seen.membership == "join"
            and "Giulietto" in str(seen.content.get("displayname"))
        ),
        what="the new name",
    )

    stored = json.dumps([event.json for event in coven.gateway.events(room_id)])
    seen = json.dumps([seen.event for seen in alice.transcript])
    profile = json.dumps(await alice.profile(romeo_id))
    for text in (stored, seen, profile, *(await alice.members(room_id))):
        assert "montague" not in text


# --- absences -------------------------------------------------------------------------------------


async def test_the_muc_service_restarts_and_matrix_sees_nobody_come_or_go(
    coven: Coven, xmpp_server: XmppServer
) -> None:
    alice, romeo = coven.alice, coven.romeo
    room_id = await coven.join()
    await alice.say(room_id, "before")
    await romeo.person.hear("before", sender=coven.chat)
    romeo_id = await coven.ghost_of("Romeo", room_id)
    await alice.sync()
    begin = alice.position

    await xmpp_server.restart()
    await coven.gateway.wait_until_ready()
    await romeo.person.login()
    await romeo.enter("Romeo")
    await romeo.see_arrive("Alice", timeout_s=ARRIVAL_S)
    romeo.say("all here again?")
    await alice.hear("all here again?", room=room_id, sender=romeo_id, timeout_s=ARRIVAL_S)
    await alice.say(room_id, "all here")
    heard = await romeo.person.hear("all here", sender=coven.chat, timeout_s=ARRIVAL_S)
    assert heard.nickname == "Alice"
    await alice.hear("all here", room=room_id, since=begin)
    assert not moves(alice.transcript.since(begin), room_id)
    assert bodies(alice.transcript.since(begin), room_id) == ["all here again?", "all here"]
    assert [line for line in said_in(romeo.person, coven.chat) if line == "before"] == ["before"]


async def test_what_is_said_while_isthmus_is_dead_arrives_once_and_in_order(coven: Coven) -> None:
    alice, romeo = coven.alice, coven.romeo
    room_id = await coven.join()
    romeo_id = await coven.ghost_of("Romeo", room_id)
    romeo.say("before")
    await alice.hear("before", room=room_id, sender=romeo_id)
    await alice.sync()
    begin = alice.position

    await coven.gateway.kill()
    count = 20
    for number in range(count):
        last = romeo.say(f"missed {number}")
    await romeo.person.reflection(last)
    await coven.gateway.start()
    await alice.hear(f"missed {count - 1}", room=room_id, sender=romeo_id, timeout_s=60)
    romeo.say("after")
    await alice.hear("after", room=room_id, sender=romeo_id, timeout_s=ARRIVAL_S)
    expected = [*(f"missed {number}" for number in range(count)), "after"]
    assert bodies(alice.transcript.since(begin), room_id) == expected
    assert not moves(alice.transcript.since(begin), room_id)
    await alice.say(room_id, "still here")
    heard = await romeo.person.hear("still here", sender=coven.chat, timeout_s=ARRIVAL_S)
    assert heard.nickname == "Alice"
    assert said_in(romeo.person, coven.chat).count("still here") == 1
