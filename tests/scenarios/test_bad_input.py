"""Input that is wrong, from both sides: a clear answer each, nothing stored that should not be,
and afterwards everything goes on."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from bridge.demo.people import XmppPerson
from bridge.demo.people.stanza import client_tag
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from bridge.engine.hashes import content_hash
from bridge.engine.signing import sign_event
from bridge.errors import Refused
from bridge.ids import UserId
from tests.support.gateway import Gateway
from tests.support.peer import FakePeer, PeerRoom, now_ms, path
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson, make_prosody

Pair = tuple[Prosody, Prosody]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Eve, of a server that says what it likes, in a direct chat with Juliet."""

    peer: FakePeer
    gateway: Gateway
    juliet: XmppPerson
    eve: UserId
    room: PeerRoom
    eve_address: str

    async def send(self, *pdus: dict[str, Any]) -> dict[str, Any]:
        return await self.peer.send(self.gateway.server_name, *pdus)

    async def still_works(self) -> None:
        """A good message arrives, and so does the answer."""
        number = len(self.room.events)
        good = self.peer.message(self.room, self.eve, f"all is well {number}")
        verdicts = await self.send(good.wire())
        assert verdicts == {good.event_id: {}}
        self.room.add(good)
        await self.juliet.hear(f"all is well {number}", sender=self.eve_address)
        said = self.juliet.say(self.eve_address, f"indeed {number}")
        await self.juliet.receipt(said)
        assert any(pdu["content"].get("body") == f"indeed {number}" for pdu in self.peer.received)
        assert self.gateway.is_running
        assert self.gateway.log_text().count("Connected to the XMPP server") == 1


@pytest.fixture
async def chat(
    request: pytest.FixtureRequest,
    gateway: Gateway,
    prosody_pair: Pair,
    peer: FakePeer,
    xmpp_person: MakeXmppPerson,
) -> Chat:
    juliet = await xmpp_person(prosody_pair[0], f"juliet-{peer.name.rpartition(':')[2]}")
    eve = peer.user("eve")
    room = peer.make_room(eve)
    ghost = gateway.ghost(juliet.address)
    invite = peer.build(
        room,
        eve,
        "m.room.member",
        {"membership": "invite", "is_direct": True},
        state_key=ghost,
    )
    status, answer = await peer.invite(gateway.server_name, room, invite)
    assert status == 200, answer
    scene = Chat(
        peer=peer,
        gateway=gateway,
        juliet=juliet,
        eve=eve,
        room=room,
        eve_address=gateway.address(eve),
    )
    await gateway.see_membership(ghost, room.room_id, "join")
    await scene.still_works()
    return scene


# --- events ---------------------------------------------------------------------------------------


async def test_an_event_with_a_wrong_signature_is_refused_and_not_stored(chat: Chat) -> None:
    pdu = chat.peer.message(chat.room, chat.eve, "forged")
    forged = pdu.wire()
    name, key_id = chat.peer.name, chat.peer.key.key_id
    forged["signatures"] = {name: {key_id: chat.peer.key.sign(b"another text")}}
    verdicts = await chat.send(forged)
    assert verdicts[pdu.event_id]["error"]
    assert chat.gateway.event(pdu.event_id) is None
    await chat.still_works()
    assert not [s for s in chat.juliet.transcript if s.body == "forged"]


async def test_an_event_without_any_signature_is_refused_and_not_stored(chat: Chat) -> None:
    pdu = chat.peer.message(chat.room, chat.eve, "unsigned")
    verdicts = await chat.send({**pdu.wire(), "signatures": {}})
    assert verdicts[pdu.event_id]["error"]
    assert chat.gateway.event(pdu.event_id) is None
    await chat.still_works()


async def test_an_event_signed_by_somebody_else_is_refused_and_not_stored(chat: Chat) -> None:
    """The sender is of a server that did not sign."""
    stranger = UserId("@alice:localhost:1")
    pdu = chat.peer.message(chat.room, stranger, "in another's name")
    verdicts = await chat.send(pdu.wire())
    assert verdicts[pdu.event_id]["error"]
    assert chat.gateway.event(pdu.event_id) is None
    await chat.still_works()


async def test_an_event_with_a_wrong_hash_is_taken_redacted(chat: Chat) -> None:
    """Spec: S2S, checks on receipt of a PDU, step 3."""
    pdu = chat.peer.message(chat.room, chat.eve, "before")
    changed = pdu.wire()
    changed["content"] = {"msgtype": "m.text", "body": "after"}
    verdicts = await chat.send(changed)
    assert verdicts == {pdu.event_id: {}}
    stored = chat.gateway.event(pdu.event_id)
    assert stored is not None
    assert stored.verdict == "accepted"
    assert stored.content == {}
    chat.room.add(pdu)
    await chat.still_works()
    assert not [s for s in chat.juliet.transcript if s.body in ("before", "after")]


async def test_an_event_that_the_rules_forbid_is_rejected(chat: Chat) -> None:
    """Somebody who is not in the room speaks."""
    mallory = chat.peer.user("mallory")
    pdu = chat.peer.message(chat.room, mallory, "let me in")
    verdicts = await chat.send(pdu.wire())
    assert verdicts[pdu.event_id]["error"]
    stored = chat.gateway.event(pdu.event_id)
    assert stored is None or stored.verdict == "rejected"
    await chat.still_works()
    assert not [s for s in chat.juliet.transcript if s.body == "let me in"]


async def test_an_oversize_event_is_refused_and_the_rest_of_its_transaction_is_taken(
    chat: Chat,
) -> None:
    good = chat.peer.message(chat.room, chat.eve, "small")
    big = good.wire()
    big["content"] = {"msgtype": "m.text", "body": "x" * 66_000}
    big["hashes"] = {"sha256": content_hash(big)}
    big = sign_event(
        {**big, "signatures": {}}, chat.room.version, server=chat.peer.name, key=chat.peer.key
    )
    before = {event.event_id for event in chat.gateway.events(chat.room.room_id)}
    verdicts = await chat.send(big, good.wire())
    assert verdicts[good.event_id] == {}
    chat.room.add(good)
    after = {event.event_id for event in chat.gateway.events(chat.room.room_id)}
    assert after - before == {good.event_id}
    await chat.juliet.hear("small")
    refused = [v for event_id, v in verdicts.items() if event_id != good.event_id]
    assert all("error" in verdict for verdict in refused)
    await chat.still_works()


@pytest.mark.parametrize(
    ("name", "text", "errcode"),
    [
        ("a float", b"1.5", "M_BAD_JSON"),
        ("an exponent", b"1e3", "M_BAD_JSON"),
        ("NaN", b"NaN", "M_NOT_JSON"),
        ("an infinity", b"Infinity", "M_NOT_JSON"),
        ("a number out of range", b"9007199254740992", "M_BAD_JSON"),
        ("a lone surrogate", b'"\\ud800"', "M_NOT_JSON"),
        ("no UTF-8", b'"\xff"', "M_NOT_JSON"),
        ("a comment", b"1/**/", "M_NOT_JSON"),
        ("a hundred thousand brackets", b"[" * 100_000 + b"]" * 100_000, "M_NOT_JSON"),
    ],
)
async def test_what_has_no_canonical_form_is_refused_whole(
    chat: Chat, name: str, text: bytes, errcode: str
) -> None:
    good = chat.peer.message(chat.room, chat.eve, f"beside {name}")
    body = chat.peer.transaction(good.wire())
    raw = (
        b'{"origin":"%s","origin_server_ts":%d,"pdus":[%s],"extra":'
        % (chat.peer.name.encode(), now_ms(), good.canonical())
        + text
        + b"}"
    )
    status, answer = await chat.peer.send_raw(chat.gateway.server_name, body, raw=raw)
    assert (status, answer["errcode"]) == (400, errcode)
    assert answer["error"]
    assert chat.gateway.event(good.event_id) is None
    await chat.still_works()


async def test_an_event_with_a_float_is_discarded_and_the_rest_is_taken(chat: Chat) -> None:
    good = chat.peer.message(chat.room, chat.eve, "whole")
    half = chat.peer.message(chat.room, chat.eve, "half")
    verdicts = await chat.send({**half.wire(), "half": 0.5}, good.wire())
    assert verdicts == {good.event_id: {}}
    assert chat.gateway.event(half.event_id) is None
    chat.room.add(good)
    await chat.juliet.hear("whole")
    await chat.still_works()


async def test_a_pdu_that_is_no_event_is_passed_over(chat: Chat) -> None:
    good = chat.peer.message(chat.room, chat.eve, "among garbage")
    without_type = {k: v for k, v in good.wire().items() if k != "type"}
    pdus: list[Any] = [{}, without_type, {"room_id": chat.room.room_id}, good.wire()]
    verdicts = await chat.send(*pdus)
    assert verdicts[good.event_id] == {}
    chat.room.add(good)
    await chat.juliet.hear("among garbage")
    await chat.still_works()


async def test_too_many_events_at_once_are_refused_whole(chat: Chat) -> None:
    pdu = chat.peer.message(chat.room, chat.eve, "one of many").wire()
    body = chat.peer.transaction(*[pdu] * 51)
    status, answer = await chat.peer.send_raw(chat.gateway.server_name, body)
    assert status == 400
    assert answer["errcode"]
    await chat.still_works()


async def test_the_same_transaction_twice_is_one(chat: Chat) -> None:
    pdu = chat.peer.message(chat.room, chat.eve, "once only")
    server = chat.gateway.server_name
    first = await chat.peer.send(server, pdu.wire(), txn="again")
    second = await chat.peer.send(server, pdu.wire(), txn="again")
    assert first == second == {pdu.event_id: {}}
    chat.room.add(pdu)
    await chat.still_works()
    assert [s.body for s in chat.juliet.transcript].count("once only") == 1


# --- requests -------------------------------------------------------------------------------------


async def test_a_request_without_signature_is_unauthorized(
    gateway: Gateway, peer: FakePeer
) -> None:
    target = "/_matrix/federation/v1/event" + path("$abc")
    status, answer = await peer.ask(gateway.server_name, "GET", target, authorization=None)
    assert (status, answer["errcode"]) == (401, "M_UNAUTHORIZED")


async def test_a_request_with_a_wrong_signature_is_unauthorized(
    gateway: Gateway, peer: FakePeer
) -> None:
    target = "/_matrix/federation/v1/event" + path("$abc")
    false = peer.false_signature(gateway.server_name, "GET", target)
    status, answer = await peer.ask(gateway.server_name, "GET", target, authorization=false)
    assert (status, answer["errcode"]) == (401, "M_UNAUTHORIZED")
    garbage = 'X-Matrix origin="::",key=,sig'
    status, answer = await peer.ask(gateway.server_name, "GET", target, authorization=garbage)
    assert (status, answer["errcode"]) == (401, "M_UNAUTHORIZED")


async def test_a_transaction_of_somebody_elses_signature_is_unauthorized(
    gateway: Gateway, peer: FakePeer
) -> None:
    """The body is not the one that was signed."""
    signed = peer.transaction()
    sent = b'{"origin":"%s","origin_server_ts":1,"pdus":[]}' % peer.name.encode()
    status, answer = await peer.send_raw(gateway.server_name, signed, raw=sent)
    assert (status, answer["errcode"]) == (401, "M_UNAUTHORIZED")


async def test_an_unknown_path_is_unrecognized(gateway: Gateway, peer: FakePeer) -> None:
    target = "/_matrix/federation/v1/no_such_thing"
    status, answer = await peer.ask(gateway.server_name, "GET", target)
    assert (status, answer["errcode"]) == (404, "M_UNRECOGNIZED")
    known = "/_matrix/federation/v1/version"
    status, answer = await peer.ask(gateway.server_name, "DELETE", known)
    assert (status, answer["errcode"]) == (405, "M_UNRECOGNIZED")


async def test_a_request_over_the_limit_of_size_is_refused(
    gateway: Gateway, peer: FakePeer
) -> None:
    body = peer.transaction()
    raw = b'{"pdus":[],"padding":"' + b"x" * (9 << 20) + b'"}'
    try:
        status, answer = await peer.send_raw(gateway.server_name, body, raw=raw)
    except aiohttp.ClientError:
        pass  # cut off while still writing
    else:
        assert (status, answer["errcode"]) == (413, "M_TOO_LARGE")
    status, _ = await peer.ask(gateway.server_name, "GET", "/_matrix/federation/v1/version")
    assert status == 200


async def test_an_invite_into_an_unknown_room_version_is_refused(
    gateway: Gateway, peer: FakePeer
) -> None:
    eve = peer.user("eve")
    room = peer.make_room(eve)
    ghost = gateway.ghost("juliet@a.test")
    invite = peer.build(
        room, eve, "m.room.member", {"membership": "invite", "is_direct": True}, state_key=ghost
    )
    for version in ("org.example.unheard", "13", "I.999", ""):
        target = f"/_matrix/federation/v2/invite{path(room.room_id, invite.event_id)}"
        content: dict[str, Any] = {
            "event": invite.wire(),
            "room_version": version,
            "invite_room_state": [],
        }
        status, answer = await peer.ask(gateway.server_name, "PUT", target, content=content)
        assert status == 400
        assert answer["errcode"] in ("M_UNSUPPORTED_ROOM_VERSION", "M_INCOMPATIBLE_ROOM_VERSION")
    assert gateway.room_version(room.room_id) is None
    assert room.room_id not in gateway.memberships(ghost)


async def test_a_join_by_a_server_that_does_not_know_the_version_is_refused(chat: Chat) -> None:
    target = f"/_matrix/federation/v1/make_join{path(chat.room.room_id, chat.eve)}"
    for query in ("", "?ver=1&ver=org.example.unheard"):
        status, answer = await chat.peer.ask(chat.gateway.server_name, "GET", target + query)
        assert (status, answer["errcode"]) == (400, "M_INCOMPATIBLE_ROOM_VERSION")
        assert answer["room_version"] == chat.room.version.id
    await chat.still_works()


async def test_an_invite_with_a_wrong_signature_is_refused(
    gateway: Gateway, peer: FakePeer
) -> None:
    eve = peer.user("eve")
    room = peer.make_room(eve)
    ghost = gateway.ghost("juliet@a.test")
    invite = peer.build(room, eve, "m.room.member", {"membership": "invite"}, state_key=ghost)
    json = invite.wire()
    json["signatures"] = {peer.name: {peer.key.key_id: peer.key.sign(b"another text")}}
    target = f"/_matrix/federation/v2/invite{path(room.room_id, invite.event_id)}"
    content = {"event": json, "room_version": room.version.id, "invite_room_state": []}
    status, answer = await peer.ask(gateway.server_name, "PUT", target, content=content)
    assert status == 403
    assert answer["errcode"] == "M_FORBIDDEN"
    assert gateway.event(invite.event_id) is None
    assert gateway.room_version(room.room_id) is None


async def test_an_invite_for_nobody_is_refused(gateway: Gateway, peer: FakePeer) -> None:
    eve = peer.user("eve")
    room = peer.make_room(eve)
    nobody = UserId(f"@no-ghost:{gateway.server_name}")
    invite = peer.build(room, eve, "m.room.member", {"membership": "invite"}, state_key=nobody)
    status, answer = await peer.invite(gateway.server_name, room, invite)
    assert status in (403, 404)
    assert answer["errcode"] in ("M_FORBIDDEN", "M_NOT_FOUND")
    assert gateway.room_version(room.room_id) is None


async def test_an_event_for_an_unknown_room_is_refused(gateway: Gateway, peer: FakePeer) -> None:
    eve = peer.user("eve")
    room = peer.make_room(eve)
    pdu = peer.message(room, eve, "to nobody")
    verdicts = await peer.send(gateway.server_name, pdu.wire())
    assert "error" in next(iter(verdicts.values()), {"error": ""})
    assert gateway.event(pdu.event_id) is None
    assert gateway.room_version(room.room_id) is None


# --- stanzas --------------------------------------------------------------------------------------


async def test_an_illegal_character_ends_the_stream_of_its_author_only(
    chat: Chat, prosody_pair: Pair, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(prosody_pair[0], f"{chat.juliet.address.partition('@')[0]}-rude")
    for illegal in (b"\x00", b"\x08", b"&#8;", b"\xef\xbf\xbf", b"\xff"):
        await romeo.login()
        romeo.send_raw(
            b"<message to='"
            + chat.eve_address.encode()
            + b"' type='chat' id='bad'><body>a"
            + illegal
            + b"b</body></message>"
        )
    await chat.still_works()
    assert not [p for p in chat.peer.received if p["content"].get("body", "").startswith("a")]


async def test_matrix_text_with_illegal_characters_arrives_without_them(chat: Chat) -> None:
    pdu = chat.peer.message(chat.room, chat.eve, "bell\u0007 null\u0000 end\uffff.")
    assert (await chat.send(pdu.wire()))[pdu.event_id] == {}
    chat.room.add(pdu)
    heard = await chat.juliet.wait_for(
        lambda s: (s.body or "").startswith("bell"), what="the cleaned message"
    )
    assert heard.body is not None
    assert not set(heard.body) & set("\u0007\u0000\uffff")
    await chat.still_works()


async def test_an_oversize_stanza_is_answered_with_an_error(chat: Chat) -> None:
    """Over our limit, below that of the XMPP server."""
    said = chat.juliet.say(chat.eve_address, "x" * 200_000)
    error = await chat.juliet.error(said)
    assert error.condition in ("policy-violation", "not-acceptable")
    await chat.still_works()


async def test_a_stanza_over_the_limit_of_the_xmpp_server_harms_its_author_only(
    chat: Chat, prosody_pair: Pair, xmpp_person: MakeXmppPerson
) -> None:
    romeo = await xmpp_person(prosody_pair[0], f"{chat.juliet.address.partition('@')[0]}-loud")
    romeo.say(chat.eve_address, "x" * 600_000)
    await chat.still_works()


async def test_an_oversize_matrix_message_is_reported_and_breaks_no_stream(chat: Chat) -> None:
    """32 kB are little for Matrix; as XML they are over our limit for a stanza."""
    pdu = chat.peer.message(chat.room, chat.eve, "<&" * 16_000)
    assert (await chat.send(pdu.wire()))[pdu.event_id] == {}
    chat.room.add(pdu)
    await chat.still_works()
    assert not chat.juliet.transcript.find(lambda s: (s.body or "").startswith("<&<&"))
    assert [p for p in chat.peer.received if "not be delivered" in p["content"].get("body", "")]


async def test_a_deep_stanza_is_answered_with_an_error(chat: Chat) -> None:
    said = ET.Element(client_tag("message"), {"to": chat.eve_address, "type": "chat"})
    ET.SubElement(said, client_tag("body")).text = "deep"
    node = said
    for _ in range(100):
        node = ET.SubElement(node, "{urn:example:deep}n")
    error = await chat.juliet.error(chat.juliet.send(said))
    assert error.condition in ("policy-violation", "not-acceptable", "bad-request")
    await chat.still_works()
    assert not [p for p in chat.peer.received if p["content"].get("body") == "deep"]


@pytest.mark.parametrize(
    "nickname",
    ["🦊", "fox 🦊 fox", "①", "שלום", "abc שלום", "‮evil", "a" * 300, "\u00a0", "ﷺ"],
)
async def test_an_odd_nickname_is_taken_or_refused_and_nothing_breaks(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
    nickname: str,
) -> None:
    alice = await matrix_person(synapse, "alice-odd")
    juliet = await xmpp_person(prosody_pair[0], "juliet-odd")
    alias = f"odd-{nickname.encode().hex()[:40]}"
    room_id = await alice.create_room(alias=alias, preset="public_chat")
    room = gateway.address(f"#{alias}:{synapse.server_name}")
    rule = ""
    try:
        await juliet.enter(room, nickname)
    except Refused as refusal:
        rule = refusal.rule
        await juliet.enter(room, "Juliet")
    assert rule in ("", "jid-malformed")
    juliet.say_in(room, "hello")
    await alice.hear("hello", room=room_id)
    await alice.say(room_id, "hello to you")
    await juliet.hear("hello to you", sender=room)


@pytest.mark.parametrize(
    "name", ["🦊", "Fox 🦊", "①", "שלום", "abc שלום", "‮evil", "a" * 250, "🦊🦊", "Juliet"]
)
async def test_an_odd_display_name_becomes_a_nickname_that_everybody_can_see(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
    name: str,
) -> None:
    alice = await matrix_person(synapse, "alice-named")
    await alice.set_display_name(name)
    juliet = await xmpp_person(prosody_pair[0], "juliet-names")
    alias = f"named-{name.encode().hex()[:40]}"
    room_id = await alice.create_room(alias=alias, preset="public_chat")
    room = gateway.address(f"#{alias}:{synapse.server_name}")
    entry = await juliet.enter(room, "Juliet")
    assert entry.self_presence.nickname == "Juliet"
    assert len(entry.occupants) == 2
    await alice.say(room_id, "it is me")
    heard = await juliet.hear("it is me", sender=room)
    assert heard.nickname in entry.occupants
    assert heard.nickname.strip()


async def test_requests_that_nobody_answers_are_answered_with_an_error(chat: Chat) -> None:
    for to in (chat.gateway.component, chat.eve_address, chat.gateway.bot_address):
        with pytest.raises(Refused) as refusal:
            await chat.juliet.ask(to, ET.Element("{urn:example:nothing}query"))
        assert refusal.value.rule in ("service-unavailable", "feature-not-implemented")
    await chat.still_works()


# --- the component's secret -----------------------------------------------------------------------


async def test_a_wrong_component_secret_is_said_in_words_and_the_process_stays_up(
    certificates: CertificateAuthority, peer: FakePeer
) -> None:
    async with make_prosody("c.test") as prosody:
        gateway = Gateway(prosody, certificates, settings={"xmpp": {"secret": "not the secret"}})
        try:
            gateway.spawn()
            await gateway.wait_for_log("refused the component secret")
            assert gateway.is_running
            async with (
                aiohttp.ClientSession() as session,
                session.get(gateway.ready_url) as response,
            ):
                assert response.status == 503
                missing = (await response.json())["missing"]
            assert any("secret" in words for words in missing)
            assert "not the secret" not in gateway.log_text()
            status, _ = await peer.ask(
                gateway.server_name, "GET", "/_matrix/key/v2/server", authorization=None
            )
            assert status == 200
        finally:
            await gateway.close()


async def test_a_prosody_that_is_not_there_is_said_in_words_and_waited_for(
    certificates: CertificateAuthority, xmpp_person: MakeXmppPerson
) -> None:
    prosody = make_prosody("d.test")
    gateway = Gateway(prosody, certificates)
    try:
        gateway.spawn()
        await gateway.wait_for_log(f"127.0.0.1:{prosody.ports.component} is not there")
        assert gateway.is_running
        await prosody.start()
        await gateway.wait_until_ready(timeout_s=40)
    finally:
        await gateway.close()
        await prosody.close()
