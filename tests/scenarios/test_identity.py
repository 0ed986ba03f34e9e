"""A phone number finds a person, from both networks; addresses and links are read as people type
them. Synapse keeps numeric names for its guests, so the numbers are an application service's."""

from __future__ import annotations

import json
import secrets
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bridge.demo.people import MatrixPerson, XmppPerson
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from bridge.errors import Refused
from tests.support.chats import ARRIVAL_S, ask_in_room, ask_on_xmpp, open_bot_chat
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

GATEWAY_NAMESPACE = "jabber:iq:gateway"
NUMBER_OF_CAROL = "15551234567"
NUMBER_OF_DAVE = "15557654321"
TOKEN = secrets.token_hex(16)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def synapse(
    certificates: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Synapse]:
    """With an application service that owns all numbers."""
    registration: Path = tmp_path_factory.mktemp("numbers") / "numbers.yaml"
    settings = {
        "id": "numbers",
        "url": None,
        "as_token": TOKEN,
        "hs_token": secrets.token_hex(16),
        "sender_localpart": "numbers",
        "namespaces": {"users": [{"regex": "@[0-9]+:.*", "exclusive": True}]},
    }
    registration.write_text(json.dumps(settings), "utf-8")
    async with Synapse(certificates, app_services=[registration]) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    prosody: Prosody, synapse: Synapse, certificates: CertificateAuthority
) -> AsyncIterator[Gateway]:
    settings = {
        "identity": {
            "numbers": [{"prefix": "+1555123", "user": f"@{{digits}}:{synapse.server_name}"}],
            "vouching": [{"domain": prosody.domain, "prefix": "+1555765"}],
        },
        "permissions": {prosody.domain: "user", synapse.server_name: "user"},
    }
    async with Gateway(prosody, certificates, settings=settings) as server:
        yield server


@pytest_asyncio.fixture
async def carol(synapse: Synapse) -> AsyncIterator[MatrixPerson]:
    """On Synapse, under her number; a new device."""
    body = {"type": "m.login.application_service", "inhibit_login": True}
    service = MatrixPerson(synapse.client_url, "numbers", TOKEN)
    user_id = synapse.user_id(NUMBER_OF_CAROL)
    async with service:
        if user_id not in _registered:
            path = "/_matrix/client/v3/register"
            await service.request("POST", path, {**body, "username": NUMBER_OF_CAROL})
            _registered.add(user_id)
        identifier = {"type": "m.id.user", "user": NUMBER_OF_CAROL}
        login = {"type": "m.login.application_service", "identifier": identifier}
        answer = await service.request("POST", "/_matrix/client/v3/login", login)
    async with MatrixPerson(synapse.client_url, user_id, str(answer["access_token"])) as person:
        yield person


_registered: set[str] = set()


async def prompt(person: XmppPerson, gateway: Gateway, typed: str) -> str:
    """What the component answers to what somebody typed. Spec: XEP-0100, 6.3."""
    query = ET.Element(f"{{{GATEWAY_NAMESPACE}}}query")
    ET.SubElement(query, f"{{{GATEWAY_NAMESPACE}}}prompt").text = typed
    answer = await person.ask(gateway.component, query, type="set", timeout_s=20)
    jid = answer.element.findtext(f"{{{GATEWAY_NAMESPACE}}}query/{{{GATEWAY_NAMESPACE}}}jid")
    assert jid is not None
    return jid


async def test_a_number_typed_on_xmpp_is_a_matrix_user_and_both_talk(
    gateway: Gateway,
    prosody: Prosody,
    carol: MatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    romeo = await xmpp_person(prosody, "romeo_dials")
    address = await prompt(romeo, gateway, "+1 555 123 4567")
    assert address == gateway.address(carol.user_id)
    answer = await ask_on_xmpp(
        romeo, gateway.bot_address, "resolve +1 555 123 4567", expect=carol.user_id
    )
    assert address in answer

    said = romeo.say(address, "is this your number?")
    invite = await carol.see_invite(sender=gateway.ghost(romeo.address), timeout_s=ARRIVAL_S)
    await carol.join(invite.room_id)
    await carol.hear("is this your number?", room=invite.room_id, timeout_s=ARRIVAL_S)
    await romeo.receipt(said, timeout_s=ARRIVAL_S)
    await carol.say(invite.room_id, "it is")
    await romeo.hear("it is", sender=address)


async def test_a_number_that_a_domain_vouches_for_is_reached_from_matrix(
    gateway: Gateway,
    prosody: Prosody,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_dials")
    dave = await xmpp_person(prosody, f"+{NUMBER_OF_DAVE}")
    ghost = gateway.ghost(dave.address)
    chat = await open_bot_chat(alice, gateway)
    await ask_in_room(alice, gateway, chat, "resolve +1 (555) 765-4321", expect=ghost)

    room_id = await alice.create_direct(ghost)
    await alice.see_membership(room_id, ghost, "join", timeout_s=ARRIVAL_S)
    await alice.say(room_id, "is this your number?")
    heard = await dave.hear("is this your number?", sender=gateway.address(alice.user_id))
    dave.say(heard.bare_sender, "it is")
    await alice.hear("it is", room=room_id, sender=ghost)


async def test_a_number_at_a_domain_that_does_not_vouch_is_refused_on_both_networks(
    gateway: Gateway,
    prosody: Prosody,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_doubts")
    romeo = await xmpp_person(prosody, "romeo_doubts")
    elsewhere = f"+{NUMBER_OF_DAVE}@elsewhere.test"
    chat = await open_bot_chat(alice, gateway)
    await ask_in_room(alice, gateway, chat, f"resolve {elsewhere}", expect="does not vouch")
    await ask_on_xmpp(romeo, gateway.bot_address, f"resolve {elsewhere}", expect="does not vouch")
    with pytest.raises(Refused) as refusal:
        await prompt(romeo, gateway, elsewhere)
    assert refusal.value.rule == "forbidden"

    # Nor is there anybody behind a number that nobody vouches for.
    await ask_in_room(alice, gateway, chat, "resolve +1 555 999 0000", expect="nobody")
    with pytest.raises(Refused) as refusal:
        await prompt(romeo, gateway, "+1 555 999 0000")
    assert refusal.value.rule == "item-not-found"


async def test_addresses_and_links_are_understood_from_both_sides(
    gateway: Gateway,
    prosody: Prosody,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_links")
    romeo = await xmpp_person(prosody, "romeo_links")
    chat = await open_bot_chat(alice, gateway)
    server = synapse.server_name
    garden = f"#garden:{server}"
    meant = {
        alice.user_id: gateway.address(alice.user_id),
        f"https://matrix.to/#/{alice.user_id}": gateway.address(alice.user_id),
        f"matrix:u/alice_links:{server}": gateway.address(alice.user_id),
        garden: gateway.address(garden),
        f"https://matrix.to/#/{garden}": gateway.address(garden),
    }
    for typed, address in meant.items():
        assert await prompt(romeo, gateway, typed) == address
        await ask_in_room(alice, gateway, chat, f"resolve {typed}", expect=address)
    for typed in (romeo.address, f"xmpp:{romeo.address}"):
        ghost = gateway.ghost(romeo.address)
        await ask_in_room(alice, gateway, chat, f"resolve {typed}", expect=ghost)
        await ask_on_xmpp(romeo, gateway.bot_address, f"resolve {typed}", expect=ghost)
    coven = f"xmpp:coven@{prosody.muc_domain}?join"
    await ask_in_room(alice, gateway, chat, f"resolve {coven}", expect="#coven=40muc.a.test:")
    with pytest.raises(Refused) as refusal:
        await prompt(romeo, gateway, "what you call me")
    assert refusal.value.rule == "not-acceptable"
