"""What a real Synapse says to our signed requests, and we to its keys and answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from bridge.clock import SystemClock
from bridge.demo.servers import CertificateAuthority, Synapse
from bridge.engine.keys import SigningKey
from bridge.errors import NotFound, Refused, Unavailable
from bridge.federation.client.discovery import Discovery
from bridge.federation.client.keyring import KeyDocument, ServerKey, ServerKeyRing
from bridge.federation.client.requests import PeerRequests
from bridge.federation.client.transport import Transport
from bridge.federation.own_keys import OwnKeys
from bridge.federation.server.keys import Keys
from bridge.ids import EventId, KeyId, RoomAlias, RoomId, RoomVersionId, ServerName, UserId
from bridge.net.addresses import AddressPolicy, parse_networks
from bridge.net.client import HttpClient
from bridge.net.dns import DnsResolver
from bridge.web.application import Listener, Route, WebServer
from tests.support.servers import MakeMatrixPerson

KEY = SigningKey.from_seed("k1", bytes(range(32)))


@dataclass
class Memory:
    keys: dict[tuple[ServerName, KeyId], ServerKey] = field(default_factory=dict)

    async def find(self, server: ServerName, key_id: KeyId) -> ServerKey | None:
        return self.keys.get((server, key_id))

    async def put(self, keys: Sequence[ServerKey], document: KeyDocument | None = None) -> None:
        self.keys.update({(key.server, key.key_id): key for key in keys})

    async def find_documents(self, servers: Sequence[ServerName]) -> Sequence[KeyDocument]:
        return []


@dataclass
class Us:
    """A server that answers for its keys, so that the peer can check what we sign."""

    name: ServerName
    requests: PeerRequests
    ring: ServerKeyRing
    transport: Transport
    peer: ServerName


@pytest.fixture
async def us(synapse: Synapse, certificates: CertificateAuthority) -> AsyncIterator[Us]:
    clock = SystemClock()
    files = certificates.issue(label="us")
    # The name contains the port, which is known once the keys are served.
    keys: list[Keys] = []
    server = WebServer(
        routes=[
            Route(
                method="GET",
                path="/_matrix/key/v2/server",
                endpoint=lambda request: keys[0].own(request),
            )
        ],
        listeners=[
            Listener(host="127.0.0.1", port=0, certificate=files.chain, private_key=files.key)
        ],
    )
    await server.start()
    name = ServerName(f"localhost:{server.addresses[0][1]}")
    keys.append(Keys(own_name=name, keys=OwnKeys.of(KEY), clock=clock))
    resolver = DnsResolver()
    client = HttpClient(
        resolver=resolver,
        policy=AddressPolicy(allowed=parse_networks(["127.0.0.0/8", "::1"], setting="test")),
        extra_ca=certificates.certificate_file,
    )
    transport = Transport(
        own_name=name,
        key=KEY,
        client=client,
        discovery=Discovery(client=client, resolver=resolver, clock=clock),
        clock=clock,
    )
    ring = ServerKeyRing(
        own_name=name,
        own_keys=OwnKeys.of(KEY),
        transport=transport,
        store=Memory(),
        clock=clock,
    )
    yield Us(
        name=name,
        requests=PeerRequests(transport=transport, clock=clock),
        ring=ring,
        transport=transport,
        peer=ServerName(synapse.server_name),
    )
    await client.close()
    await resolver.close()
    await server.stop()


async def test_a_real_peer_is_asked_and_its_answers_are_understood(
    us: Us, synapse: Synapse, matrix_person: MakeMatrixPerson
) -> None:
    alice = await matrix_person(synapse, "alice")
    await alice.set_display_name("Alice")
    room = RoomId(await alice.create_room(alias="garden", preset="public_chat"))
    ask, peer = us.requests, us.peer

    assert (await ask.version(peer))["name"] == "Synapse"

    profile = await ask.query_profile(peer, UserId(synapse.user_id("alice")))
    assert profile["displayname"] == "Alice"
    with pytest.raises(NotFound):
        await ask.query_profile(peer, UserId(synapse.user_id("no-body")))

    alias = RoomAlias(f"#garden:{synapse.server_name}")
    assert await ask.query_directory(peer, alias) == (room, [peer])

    # The path has `!`, `@` and `:` percent-encoded: the signature covers it as it was sent.
    version, template = await ask.make_join(
        peer, room, UserId(f"@bob:{us.name}"), [RoomVersionId("10"), RoomVersionId("12")]
    )
    assert version == "12"
    assert template["content"]["membership"] == "join"
    with pytest.raises(Refused) as caught:
        await ask.make_join(peer, room, UserId(f"@bob:{us.name}"), [RoomVersionId("10")])
    assert caught.value.errcode == "M_INCOMPATIBLE_ROOM_VERSION"

    with pytest.raises(Refused):
        await ask.state_ids(peer, room, EventId(template["prev_events"][0]))


async def test_the_keys_of_a_real_peer_are_fetched_and_counted(us: Us, synapse: Synapse) -> None:
    line = (synapse.folder / "signing.key").read_text("ascii").strip()
    key = SigningKey.from_text(line)
    now_ms = SystemClock().now_ms()
    assert await us.ring.verify_key(us.peer, key.key_id, now_ms) == key.verify_key_base64
    assert await us.ring.verify_key(us.peer, KeyId("ed25519:other"), now_ms) is None


async def test_a_real_notary_vouches_for_a_server_that_is_gone(
    us: Us, synapse: Synapse, certificates: CertificateAuthority
) -> None:
    clock, key = SystemClock(), SigningKey.from_seed("gone", bytes(range(1, 33)))
    files = certificates.issue(label="gone")
    keys: list[Keys] = []
    server = WebServer(
        routes=[
            Route(
                method="GET",
                path="/_matrix/key/v2/server",
                endpoint=lambda request: keys[0].own(request),
            )
        ],
        listeners=[
            Listener(host="127.0.0.1", port=0, certificate=files.chain, private_key=files.key)
        ],
    )
    await server.start()
    gone = ServerName(f"localhost:{server.addresses[0][1]}")
    keys.append(Keys(own_name=gone, keys=OwnKeys.of(key), clock=clock))
    # The notary learns of it while it lives.
    try:
        seen = await us.transport.request(
            us.peer,
            "POST",
            "/_matrix/key/v2/query",
            endpoint="keys_query",
            body={"server_keys": {gone: {key.key_id: {"minimum_valid_until_ts": 0}}}},
        )
    finally:
        await server.stop()
    assert [entry["server_name"] for entry in seen["server_keys"]] == [gone]
    ring = ServerKeyRing(
        own_name=us.name,
        own_keys=OwnKeys.of(KEY),
        transport=us.transport,
        store=Memory(),
        clock=clock,
        notaries=[us.peer],
    )
    assert await ring.verify_key(gone, key.key_id, clock.now_ms()) == key.verify_key_base64
    with pytest.raises(Unavailable):
        await us.ring.verify_key(gone, key.key_id, clock.now_ms())
