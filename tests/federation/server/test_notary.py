"""We as notary: what we answer for others, whom we ask for it, and how often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pytest

from bridge.engine.canonical import JsonObject, encode_canonical
from bridge.engine.keybook import KeyBook
from bridge.engine.keys import SigningKey
from bridge.engine.signing import check_json_signature, sign_json
from bridge.errors import BadInput, Unavailable
from bridge.federation.client.keyring import KeyDocument
from bridge.federation.own_keys import OwnKeys
from bridge.federation.server.keys import Keys
from bridge.federation.server.notary import Notary
from bridge.ids import ServerName
from bridge.web.routing import Request
from tests.support.clock import FakeClock
from tests.support.openapi import complaints

US = ServerName("us.example")
PEER = ServerName("peer.example")
OTHER = ServerName("other.example")
DAY_MS = 24 * 3600 * 1000


def key(version: str) -> SigningKey:
    return SigningKey.from_seed(version, version.encode().ljust(32, b"."))


OURS = (key("us1"), key("us2"))


class Documents:
    """Fits `notary.Documents`. `living` answer when they are asked; `asked` in order."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.kept: dict[ServerName, KeyDocument] = {}
        self.living: dict[ServerName, KeyDocument] = {}
        self.asked: list[ServerName] = []
        self.hanging: asyncio.Event | None = None
        self.at_once = self.most_at_once = 0

    def make(self, server: ServerName, *versions: str, for_ms: int = DAY_MS) -> KeyDocument:
        now_ms = self.clock.now_ms()
        content: JsonObject = {
            "server_name": server,
            "valid_until_ts": now_ms + for_ms,
            "verify_keys": {key(v).key_id: {"key": key(v).verify_key_base64} for v in versions},
            "old_verify_keys": {
                "ed25519:old": {"key": key("old").verify_key_base64, "expired_ts": 5}
            },
        }
        signed = sign_json(content, server=server, key=key(versions[0]))
        return KeyDocument(
            server=server,
            json=encode_canonical(signed).decode(),
            valid_until_ms=now_ms + for_ms,
            fetched_ms=now_ms,
        )

    async def documents(self, servers: Sequence[ServerName]) -> Mapping[ServerName, KeyDocument]:
        return {server: self.kept[server] for server in servers if server in self.kept}

    async def renew_document(self, server: ServerName) -> None:
        self.asked.append(server)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.hanging is not None and server not in self.living:
            await self.hanging.wait()
        if server not in self.living:
            raise Unavailable("nobody there")
        self.kept[server] = self.living[server]


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.documents = Documents(self.clock)
        keys = OwnKeys(KeyBook(current=OURS))
        own = Keys(own_name=US, keys=keys, clock=self.clock)
        self.notary = Notary(
            own_name=US, own=own, keys=keys, documents=self.documents, clock=self.clock
        )

    async def get(
        self, server: str, key_id: str | None = None, *, until: object = None, by: str = "192.0.2.1"
    ) -> list[dict[str, Any]]:
        target = f"/_matrix/key/v2/query/{server}"
        params = {"server_name": server}
        if key_id is not None:
            target, params = f"{target}/{key_id}", {**params, "key_id": key_id}
        if until is not None:
            target = f"{target}?minimum_valid_until_ts={until}"
        request = Request(method="GET", target=target, params=params, peer_address=by)
        answer = (await self.notary.query_one(request)).json
        assert complaints("GET", "/_matrix/key/v2/query/{}", 200, answer) == []
        found: list[dict[str, Any]] = answer["server_keys"]
        return found

    async def post(self, asked: object, *, by: str = "192.0.2.1") -> list[dict[str, Any]]:
        request = Request(
            method="POST",
            target="/_matrix/key/v2/query",
            body=orjson.dumps({"server_keys": asked}),
            peer_address=by,
        )
        answer = (await self.notary.query(request)).json
        assert complaints("POST", "/_matrix/key/v2/query", 200, answer) == []
        found: list[dict[str, Any]] = answer["server_keys"]
        return found


@pytest.fixture
def world() -> World:
    return World()


async def test_a_document_is_answered_as_its_server_signed_it_with_all_our_signatures(
    world: World,
) -> None:
    world.documents.living[PEER] = world.documents.make(PEER, "a")
    (answer,) = await world.get(PEER)
    original = json.loads(world.documents.kept[PEER].json)
    for each in OURS:
        assert check_json_signature(
            answer, server=US, key_id=each.key_id, verify_key=each.verify_key_base64
        )
    assert {**answer, "signatures": {PEER: answer["signatures"][PEER]}} == original


async def test_what_is_good_enough_is_answered_without_asking(world: World) -> None:
    world.documents.kept[PEER] = world.documents.make(PEER, "a")
    now_ms = world.clock.now_ms()
    assert len(await world.get(PEER)) == 1
    assert len(await world.get(PEER, "ed25519:a")) == 1
    assert len(await world.get(PEER, "ed25519:old")) == 1
    assert len(await world.get(PEER, until=now_ms + DAY_MS)) == 1
    assert len(await world.post({PEER: {}})) == 1
    assert len(await world.post({PEER: {"ed25519:a": {"minimum_valid_until_ts": 0}}})) == 1
    assert world.documents.asked == []


@pytest.mark.parametrize(
    ("key_id", "in_ms", "later_s"),
    [("ed25519:b", 0, 0), (None, DAY_MS + 1, 0), ("ed25519:a", 0, 12 * 3600 + 1)],
)
async def test_what_is_not_good_enough_is_asked_for_again(
    world: World, key_id: str | None, in_ms: int, later_s: int
) -> None:
    """A key that is missing, a document that ends too soon, one that is past half of its life."""
    world.documents.kept[PEER] = world.documents.make(PEER, "a")
    world.clock.shift(later_s)
    world.documents.living[PEER] = world.documents.make(PEER, "b", "a", for_ms=2 * DAY_MS)
    (answer,) = await world.get(PEER, key_id, until=world.clock.now_ms() + in_ms)
    assert "ed25519:b" in answer["verify_keys"]
    assert world.documents.asked == [PEER]


async def test_for_a_server_that_is_gone_its_last_document_is_answered(world: World) -> None:
    world.documents.kept[PEER] = world.documents.make(PEER, "a")
    world.clock.shift(30 * 24 * 3600)
    (answer,) = await world.get(PEER)
    assert answer["valid_until_ts"] < world.clock.now_ms()


async def test_of_a_server_that_nobody_knows_there_is_nothing(world: World) -> None:
    assert await world.get(PEER) == []
    assert await world.post({PEER: {"ed25519:a": {}}, "no server": {}}) == []
    assert await world.post({}) == []


async def test_our_own_keys_are_answered_too(world: World) -> None:
    (answer,) = await world.get(US)
    assert set(answer["verify_keys"]) == {each.key_id for each in OURS}
    (answer,) = await world.post({US: {"ed25519:whatever": {}}})
    assert set(answer["signatures"]) == {US}
    assert world.documents.asked == []


async def test_several_servers_are_answered_at_once(world: World) -> None:
    world.documents.kept[OTHER] = world.documents.make(OTHER, "o")
    world.documents.living[PEER] = world.documents.make(PEER, "a")
    answers = await world.post({PEER: {"ed25519:a": {}}, OTHER: {}, US: {}, "gone.example": {}})
    assert sorted(answer["server_name"] for answer in answers) == [OTHER, PEER, US]


@pytest.mark.parametrize(
    "asked",
    [
        None,
        [],
        {PEER: []},
        {PEER: {"ed25519:a": 1}},
        {PEER: {"ed25519:a": {"minimum_valid_until_ts": "now"}}},
        {PEER: {"ed25519:a": {"minimum_valid_until_ts": True}}},
        {PEER: {"ed25519:a": {"minimum_valid_until_ts": 2**60}}},
        {f"s{number}.example": {} for number in range(1001)},
    ],
)
async def test_a_question_that_is_none_is_refused(world: World, asked: object) -> None:
    with pytest.raises(BadInput):
        await world.post(asked)
    assert world.documents.asked == []


@pytest.mark.parametrize(
    ("server", "until"), [("no server", None), (PEER, "soon"), (PEER, "1.5"), (PEER, "9" * 30)]
)
async def test_a_path_that_is_none_is_refused(world: World, server: str, until: object) -> None:
    with pytest.raises(BadInput):
        await world.get(server.replace(" ", "%20") if " " in server else server, until=until)
    assert world.documents.asked == []


async def test_one_request_makes_us_ask_few_servers_and_few_at_once(world: World) -> None:
    await world.post({f"s{number}.example": {} for number in range(1000)})
    assert len(world.documents.asked) == 50
    assert world.documents.most_at_once <= 8


async def test_one_requester_makes_us_ask_few_servers_in_a_while(world: World) -> None:
    for number in range(300):
        await world.get(f"s{number}.example", by="192.0.2.1")
    assert len(world.documents.asked) == 100
    # Somebody else has an allowance of their own, and this one's comes back.
    await world.get("s1.example", by="192.0.2.2")
    assert len(world.documents.asked) == 101
    world.clock.shift(20)
    for number in range(300):
        await world.get(f"s{number}.example", by="192.0.2.1")
    assert len(world.documents.asked) == 111


async def test_one_requester_gets_so_many_documents_in_a_while(world: World) -> None:
    servers = [ServerName(f"s{number}.example") for number in range(1000)]
    made = world.documents.make(PEER, "a")
    world.documents.kept = dict.fromkeys(servers, made)
    asked: dict[ServerName, Any] = {server: {} for server in servers}
    got = [len(await world.post(asked)) for _ in range(11)]
    assert got == [1000] * 10 + [0]
    assert len(await world.post({servers[0]: {}}, by="192.0.2.2")) == 1
    world.clock.shift(1)
    assert len(await world.post(asked)) == 50


async def test_whoever_hangs_does_not_keep_the_others_answers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.federation.server.notary.ASKING_TIMEOUT_S", 0.05)
    world.documents.hanging = asyncio.Event()
    world.documents.living[PEER] = world.documents.make(PEER, "a")
    answers = await world.post({"hanging.example": {}, PEER: {}})
    assert [answer["server_name"] for answer in answers] == [PEER]


async def test_an_answer_has_a_bound(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for server in (PEER, OTHER):
        world.documents.kept[server] = world.documents.make(server, "a")
    size = len(world.documents.kept[PEER].json)
    monkeypatch.setattr("bridge.federation.server.notary.MAX_ANSWER_BYTES", size)
    assert len(await world.post({PEER: {}, OTHER: {}})) == 1
