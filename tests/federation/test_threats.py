"""Threats over real HTTPS: each refused with the right error, and nothing of it stored.

What a single part refuses by itself is tested beside it; here is what comes through the whole door.
Spec: appendices, security threat model; S2S, request authentication.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.clock import SystemClock
from bridge.demo.servers import CertificateAuthority
from bridge.engine.canonical import encode_canonical
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.errors import Refused
from bridge.federation.server.auth import Authentication
from bridge.federation.xmatrix import sign_request
from bridge.ids import EventId, KeyId, RoomAlias, ServerName, UserId
from bridge.net.client import HttpRequest
from bridge.storage.database import Transaction
from bridge.storage.schema import METADATA
from bridge.web.routing import Request, Response
from tests.federation.server.test_routes import V1, V2, V12, World, enc, world_of
from tests.support.matrix_side import MatrixSide, until

# What no request of this file may change. Keys, journals and hints are no room's history.
KEPT = (
    "events",
    "inbound_pdus",
    "invites",
    "memberships",
    "rooms",
    "stream_events",
    "transactions",
)


async def stored(side: MatrixSide) -> dict[str, int]:
    """Rows of the tables that hold what others say."""

    def unit(tx: Transaction) -> dict[str, int]:
        return {name: len(tx.execute(METADATA.tables[name].select()).all()) for name in KEPT}

    return await side.database.read(unit)


def transaction(world: World, *pdus: Any) -> dict[str, Any]:
    return {"origin": world.peer.name, "origin_server_ts": 1, "pdus": list(pdus)}


def header(world: World, method: str, target: str, body: Any = None, **more: Any) -> str:
    """The Authorization header of the peer."""
    signed = sign_request(
        method=method,
        target=target,
        origin=more.get("origin", world.peer.name),
        destination=more.get("destination", world.us.name),
        content=body,
        key=more.get("key", world.peer.key),
    )
    return replace(signed, **more.get("changed", {})).header()


# --- who asks -------------------------------------------------------------------------------------


async def test_nobody_speaks_for_another_server(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        target = f"{V1}/send/spoof"
        pdu = await world.peer.draft_message(world.room, world.bob, "spoofed")
        body = transaction(world, pdu.wire())
        before = await stored(world.us)
        honest = header(world, "PUT", target, body)
        wrongs = {
            "another origin": header(world, "PUT", target, body, origin=world.outsider.name),
            "our own name": header(world, "PUT", target, body, origin=world.us.name),
            "its key, our name": header(
                world, "PUT", target, body, changed={"origin": world.us.name}
            ),
            "a key ID nobody has": header(
                world, "PUT", target, body, changed={"key_id": KeyId("ed25519:k9")}
            ),
            "another algorithm": honest.replace("ed25519:k1", "curve25519:k1"),
            "no algorithm": honest.replace("ed25519:k1", "none:k1"),
            "no signature": header(world, "PUT", target, body, changed={"signature": ""}),
            "a short signature": header(world, "PUT", target, body, changed={"signature": "AAAA"}),
            "another path": header(world, "PUT", f"{V1}/send/other", body),
            "another method": header(world, "POST", target, body),
            "another body": header(world, "PUT", target, transaction(world)),
            "no body": header(world, "PUT", target),
            "another destination": header(
                world, "PUT", target, body, destination=world.outsider.name
            ),
            "another destination, not said": header(
                world,
                "PUT",
                target,
                body,
                destination=world.outsider.name,
                changed={"destination": None},
            ),
        }
        for name, wrong in wrongs.items():
            answer = await world.ask("PUT", target, body, headers={"Authorization": wrong})
            assert (answer.status, answer.json()["errcode"]) == (401, "M_UNAUTHORIZED"), name
        assert await stored(world.us) == before
        # An old server does not name its destination; what it signed says whom it means.
        silent = header(world, "PUT", target, body, changed={"destination": None})
        answer = await world.ask("PUT", target, body, headers={"Authorization": silent})
        assert (answer.status, answer.json()) == (200, {"pdus": {pdu.event_id: {}}})


class OneKey:
    """Fits `rooms.network.KeyRing`: everybody's key is this one."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    async def verify_key(self, server: ServerName, key_id: KeyId, at_ms: int) -> str | None:
        return self._key.verify_key_base64 if key_id == self._key.key_id else None


@pytest.mark.parametrize("good_first", [True, False])
async def test_of_several_authorization_headers_the_first_counts(good_first: bool) -> None:
    """HTTP knows one; a second one neither helps a bad first nor harms a good one."""
    key = SigningKey.from_seed("k1", b"k" * 32)
    us, peer = ServerName("us.example"), ServerName("peer.example")
    good = sign_request(
        method="GET", target="/x", origin=peer, destination=us, content=None, key=key
    )
    bad = replace(good, origin=ServerName("victim.example"))
    order = [good, bad] if good_first else [bad, good]

    async def endpoint(request: Request, origin: ServerName) -> Response:
        return Response(json={"origin": origin})

    heard: list[ServerName] = []
    authentication = Authentication(
        own_name=us, keyring=OneKey(key), clock=SystemClock(), on_heard=heard.append
    )
    request = Request(
        method="GET",
        target="/x",
        headers_all=[("authorization", one.header()) for one in order],
    )
    if good_first:
        assert (await authentication.signed(endpoint)(request)).json == {"origin": peer}
        assert heard == [peer]
    else:
        with pytest.raises(Refused) as caught:
            await authentication.signed(endpoint)(request)
        assert caught.value.errcode == "M_UNAUTHORIZED"
        assert heard == []


async def test_a_server_that_publishes_another_servers_key_proves_nothing(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    """The outsider calls the peer's key its own: it cannot sign with it, so it has no key."""
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        stolen = world.peer.key

        async def lie(request: Request, endpoint: Any) -> Response:
            told: Response = await endpoint(request)
            if request.path == "/_matrix/key/v2/server":
                verify_keys = {stolen.key_id: {"key": stolen.verify_key_base64}}
                return Response(json={**told.json, "verify_keys": verify_keys})
            return told

        world.outsider.interfere = lie
        target = f"{V1}/query/profile?user_id={enc(world.alice)}"
        # Signed by the peer's key, in the outsider's name.
        answer = await world.ask("GET", target, origin=world.outsider.name, key=stolen)
        assert answer.status in (401, 429, 503)
        assert answer.json()["errcode"] in ("M_UNAUTHORIZED", "M_LIMIT_EXCEEDED")


# --- what was said --------------------------------------------------------------------------------


async def test_a_transaction_id_is_taken_once_whatever_comes_with_it(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        target = f"{V1}/send/once"
        first = await world.peer.draft_message(world.room, world.bob, "first")
        second = await world.peer.draft_message(world.room, world.bob, "second")
        body = transaction(world, first.wire())
        told = await world.ask("PUT", target, body)
        before = await stored(world.us)
        again = await world.ask("PUT", target, transaction(world, second.wire()))
        assert (again.status, again.json()) == (200, told.json())
        assert await stored(world.us) == before
        # The ID is the origin's own: another server's transaction of that name is another one.
        other = await world.outsider.running.client.send(
            _signed_put(world.outsider, world.us, target, {"pdus": []})
        )
        assert (other.status, json.loads(other.body)) == (200, {"pdus": {}})
        assert await world.us.bodies(world.room) == ["hello", "first"]


def _signed_put(by: MatrixSide, to: MatrixSide, target: str, body: Any) -> Any:
    signed = sign_request(
        method="PUT", target=target, origin=by.name, destination=to.name, content=body, key=by.key
    )
    return HttpRequest(
        method="PUT",
        url=f"https://{to.name}{target}",
        headers={"Authorization": signed.header()},
        body=encode_canonical(body),
    )


async def test_no_server_puts_words_into_the_mouths_of_anothers_users(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        await world.outsider.join(world.room, world.outsider.user("eve"), world.us.name)
        await until(lambda: _is_in(world, world.outsider.user("eve")))
        forged = []
        for sender in (world.alice, world.outsider.user("eve"), UserId("@x=40y:bridge.example")):
            # The peer's own signature under another server's user.
            pdu = await world.peer.draft_message(world.room, world.bob, f"I am {sender}")
            template = {
                name: value
                for name, value in pdu.wire().items()
                if name not in ("hashes", "signatures")
            }
            forged.append(world.peer.sign({**template, "sender": sender}, V12))
        stripped = (await world.peer.draft_message(world.room, world.bob, "stripped")).wire()
        faults: list[dict[str, Any]] = [
            {},
            {world.peer.name: {}},
            {world.outsider.name: {"ed25519:k1": "AA"}},
        ]
        for signatures in faults:
            changed = {**stripped, "signatures": signatures}
            forged.append(Pdu.parse(changed, V12))
        for number, pdu in enumerate(forged):
            body = transaction(world, pdu.wire())
            answer = await world.ask("PUT", f"{V1}/send/forged{number}", body)
            assert answer.status == 200
            assert answer.json()["pdus"][pdu.event_id]["error"], pdu.wire()
            event = f"{V1}/event/{enc(pdu.event_id)}"
            assert (await world.ask("GET", event)).status == 404
        assert await world.us.bodies(world.room) == ["hello"]


async def _is_in(world: World, user: UserId) -> bool:
    return await world.us.membership(world.room, user) == "join"


async def test_an_event_cannot_rest_on_another_room_or_on_what_was_rejected(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        elsewhere = await world.us.create_room(world.alice, public=True)
        await world.peer.join(elsewhere, world.bob, world.us.name)
        foreign = (await world.peer.draft_message(elsewhere, world.bob, "x")).auth_events
        own = await world.peer.draft_message(world.room, world.bob, "mixed")
        # Bob makes himself moderator, which is rejected; then he acts as one.
        power = await world.peer.draft(
            world.room,
            world.bob,
            type="m.room.power_levels",
            content={"users": {str(world.bob): 100}},
            state_key="",
        )
        rest = [one for one in own.auth_events if one not in await _power_of(world)]
        cases: list[tuple[Pdu, ...]] = [
            (_resting_on(world, own, list(foreign)),),
            (_resting_on(world, own, [*own.auth_events, foreign[-1]]),),
            (power, _resting_on(world, own, [*rest, power.event_id])),
        ]
        for number, pdus in enumerate(cases):
            body = transaction(world, *(pdu.wire() for pdu in pdus))
            answer = await world.ask("PUT", f"{V1}/send/rest{number}", body)
            assert answer.status == 200
            for pdu in pdus:
                assert answer.json()["pdus"][pdu.event_id]["error"], number
        assert await world.us.bodies(world.room) == ["hello"]
        assert await world.us.bodies(elsewhere) == []


async def _power_of(world: World) -> set[EventId]:
    states = world.us.rooms.sender._states
    room = await states.joined_room(world.room)
    return {room.state["m.room.power_levels", ""]}


def _resting_on(world: World, pdu: Pdu, auth_events: list[EventId]) -> Pdu:
    template = {
        name: value for name, value in pdu.wire().items() if name not in ("hashes", "signatures")
    }
    return world.peer.sign({**template, "auth_events": auth_events}, V12)


# --- joins and invites ----------------------------------------------------------------------------


async def test_what_is_let_in_is_what_the_path_says(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        other_room = await world.us.create_room(world.alice, public=True)
        carol = world.peer.user("carol")
        target = f"{V1}/make_join/{enc(world.room)}/{enc(carol)}?ver=12"
        made = (await world.ask("GET", target)).json()["event"]
        join = world.peer.sign(made, V12)
        ours = world.peer.sign({**made, "sender": world.alice, "state_key": world.alice}, V12)
        before = await stored(world.us)
        for room, event_id, pdu, expected in (
            (world.room, EventId("$" + "A" * 43), join, (400, "M_INVALID_PARAM")),
            (other_room, join.event_id, join, (400, "M_INVALID_PARAM")),
            (world.room, ours.event_id, ours, (403, "M_FORBIDDEN")),
        ):
            for version in (V1, V2):
                path = f"{version}/send_join/{enc(room)}/{enc(event_id)}"
                answer = await world.ask("PUT", path, pdu.wire())
                assert (answer.status, answer.json()["errcode"]) == expected
        assert await stored(world.us) == before


async def test_an_invite_is_the_inviters_own_and_the_paths_own(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        room = await world.peer.create_room(world.bob)
        good = await world.peer.draft_invite(room, world.bob, world.alice)
        template = {
            name: value
            for name, value in good.wire().items()
            if name not in ("hashes", "signatures")
        }

        def variant(**changed: Any) -> Pdu:
            return world.peer.sign({**template, **changed}, V12)

        unsigned = Pdu.parse({**good.wire(), "signatures": {}}, V12)
        from_us = variant(sender=world.alice)
        from_outside = variant(sender=world.outsider.user("eve"))
        for_another = variant(state_key=world.outsider.user("eve"))
        no_invite = variant(content={"membership": "join"})
        before = await stored(world.us)
        for name, event_id, pdu, status in (
            ("another event ID", EventId("$" + "A" * 43), good, 400),
            ("no signature", unsigned.event_id, unsigned, 403),
            ("our own user invites", from_us.event_id, from_us, 403),
            ("another server's user invites", from_outside.event_id, from_outside, 403),
            ("nobody of ours", for_another.event_id, for_another, 400),
            ("no invite", no_invite.event_id, no_invite, 400),
        ):
            body = {"event": pdu.wire(), "room_version": "12", "invite_room_state": []}
            path = f"{V2}/invite/{enc(room)}/{enc(event_id)}"
            answer = await world.ask("PUT", path, body)
            assert answer.status == status, (name, answer.body)
            assert answer.json()["errcode"].startswith("M_"), name
        assert await stored(world.us) == before
        assert await world.us.membership(room, world.alice) is None


async def test_a_room_that_claims_our_alias_does_not_get_it(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        alias = RoomAlias(f"#garden:{world.us.name}")
        claimed = await world.peer.create_room(world.bob, public=True)
        await world.us.join(claimed, world.alice, world.peer.name)
        await world.peer.send(
            claimed, world.bob, "m.room.canonical_alias", {"alias": alias}, state_key=""
        )
        await world.peer.say(claimed, world.bob, "claimed")
        await world.us.wait_for_bodies(claimed, ["claimed"])
        target = f"{V1}/query/directory?room_alias={enc(alias)}"
        assert (await world.ask("GET", target)).json()["room_id"] == world.room
        foreign = f"{V1}/query/directory?room_alias={enc('#garden:' + world.peer.name)}"
        answer = await world.ask("GET", foreign)
        assert (answer.status, answer.json()["errcode"]) == (404, "M_NOT_FOUND")


# --- paths ----------------------------------------------------------------------------------------

TRICKS = (
    "%2E%2E%2F%2E%2E%2Fetc",  # ..%2F as text
    "%2F",
    "a%2Fb",
    "%252F",
    "%00",
    "!a%00:b",
    "%C0%AF",  # an overlong slash
    "%ED%A0%80",  # half of a surrogate pair
    "%FF",
    "%",
    "%zz",
    "!%0D%0AX-Injected%3A1:x",
    "!" + "a" * 300,
    "@:%5B%3A%3A1%25zone%5D",  # an address with a zone is no server name
    "%E2%80%AE",
)
ROUTES_WITH_IDS = (
    ("PUT", V1 + "/send/{}"),
    ("GET", V1 + "/event_auth/{}/{}"),
    ("GET", V1 + "/backfill/{}?v={}&limit=1"),
    ("POST", V1 + "/get_missing_events/{}"),
    ("GET", V1 + "/event/{}"),
    ("GET", V1 + "/state/{}?event_id={}"),
    ("GET", V1 + "/state_ids/{}?event_id={}"),
    ("GET", V1 + "/make_join/{}/{}?ver=12"),
    ("PUT", V1 + "/send_join/{}/{}"),
    ("PUT", V2 + "/send_join/{}/{}"),
    ("GET", V1 + "/make_knock/{}/{}?ver=12"),
    ("PUT", V1 + "/send_knock/{}/{}"),
    ("GET", V1 + "/make_leave/{}/{}"),
    ("PUT", V1 + "/send_leave/{}/{}"),
    ("PUT", V2 + "/send_leave/{}/{}"),
    ("PUT", V1 + "/invite/{}/{}"),
    ("PUT", V2 + "/invite/{}/{}"),
    ("GET", V1 + "/hierarchy/{}"),
    ("GET", V1 + "/query/directory?room_alias={}"),
    ("GET", V1 + "/query/profile?user_id={}"),
)


async def test_no_trick_in_a_path_leads_anywhere(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        before = await stored(world.us)
        for method, template in ROUTES_WITH_IDS:
            for trick in TRICKS:
                target = template.replace("{}", trick)
                # A transaction ID may be anything that is text; its body is refused here.
                body: dict[str, Any] = {"pdus": {}} if "/send/" in template else {}
                answer = await world.ask(method, target, None if method == "GET" else body)
                assert 400 <= answer.status < 500, (target, answer.body)
                assert answer.json()["errcode"].startswith("M_"), target
                assert "x-injected" not in answer.headers, target
        assert await stored(world.us) == before


OTHER_PATHS = (
    f"{V1}/../../key/v2/server",
    f"{V1}/./version",
    f"{V1}//version",
    f"{V1}%2Fversion",
    "/%5Fmatrix/key/v2/server",
    "/_MATRIX/key/v2/server",
    "/_matrix/key/v2/server;x",
    "/_matrix/key/v2/server/",
    "/.well-known/../_matrix/key/v2/server",
    "/",
    "//",
)


async def test_a_path_is_taken_as_it_was_sent(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    """Whatever a proxy before us thinks it means, for us it is another path."""
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        for target in OTHER_PATHS:
            answer = await world.ask("GET", target, headers={})
            seen = (answer.status, answer.json()["errcode"])
            assert seen == (404, "M_UNRECOGNIZED"), target


async def test_a_transaction_id_is_text_that_every_database_keeps(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        before = await stored(world.us)
        for wrong in ("%00", "a%00b", "a" * 1001, "%FF"):
            answer = await world.ask("PUT", f"{V1}/send/{wrong}", transaction(world))
            assert (answer.status, answer.json()["errcode"]) == (400, "M_INVALID_PARAM")
        assert await stored(world.us) == before
        odd = await world.ask("PUT", f"{V1}/send/..%2F%252F%E2%80%AE", transaction(world))
        assert (odd.status, odd.json()) == (200, {"pdus": {}})
