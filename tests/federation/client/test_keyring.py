from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from bridge.engine.canonical import JsonObject
from bridge.engine.keys import SigningKey
from bridge.engine.signing import sign_json
from bridge.errors import BadInput, IsthmusError, Refused, Unavailable
from bridge.federation.client.keyring import KeyDocument, ServerKey, ServerKeyRing, read_server_keys
from bridge.federation.own_keys import OwnKeys
from bridge.ids import KeyId, ServerName
from tests.support.clock import FakeClock

US = ServerName("us.example")
PEER = ServerName("peer.example")
NOTARY = ServerName("notary.example")
DAY_MS = 24 * 3600 * 1000


def key(version: str) -> SigningKey:
    return SigningKey.from_seed(version, version.encode().ljust(32, b"."))


def document(
    server: ServerName,
    *current: SigningKey,
    valid_until_ts: object,
    old: Mapping[str, JsonObject] | None = None,
) -> JsonObject:
    made: JsonObject = {
        "server_name": server,
        "valid_until_ts": valid_until_ts,
        "verify_keys": {each.key_id: {"key": each.verify_key_base64} for each in current},
        "old_verify_keys": old or {},
    }
    return sign_json(made, server=server, key=current[0])


@dataclass
class Store:
    keys: dict[tuple[ServerName, KeyId], ServerKey] = field(default_factory=dict)
    documents: dict[ServerName, KeyDocument] = field(default_factory=dict)

    async def find(self, server: ServerName, key_id: KeyId) -> ServerKey | None:
        return self.keys.get((server, key_id))

    async def put(self, keys: Sequence[ServerKey], document: KeyDocument | None = None) -> None:
        for each in keys:
            self.keys[each.server, each.key_id] = each
        if document is not None:
            self.documents[document.server] = document

    async def find_documents(self, servers: Sequence[ServerName]) -> Sequence[KeyDocument]:
        return [self.documents[server] for server in servers if server in self.documents]


@dataclass
class Network:
    """Answers by server, or what to raise; `asked` in order."""

    answers: dict[ServerName, Any] = field(default_factory=dict)
    asked: list[tuple[ServerName, str]] = field(default_factory=list)
    bodies: list[JsonObject | None] = field(default_factory=list)
    entrusted: dict[ServerName, Any] = field(default_factory=dict)

    async def request(
        self,
        peer: ServerName,
        method: str,
        path: str,
        *,
        endpoint: str,
        query: Sequence[tuple[str, str]] = (),
        body: JsonObject | None = None,
        timeout_s: float = 1.0,
        max_bytes: int = 1,
        signed: bool = True,
    ) -> Any:
        self.asked.append((peer, path))
        self.bodies.append(body)
        await asyncio.sleep(0)
        table = self.entrusted if path.endswith("/query") else self.answers
        found = table.get(peer, Unavailable("nobody there"))
        if isinstance(found, IsthmusError):
            raise found
        return found


@dataclass
class World:
    clock: FakeClock = field(default_factory=FakeClock)
    network: Network = field(default_factory=Network)
    store: Store = field(default_factory=Store)
    notaries: tuple[ServerName, ...] = ()

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.ring = ServerKeyRing(
            own_name=US,
            own_keys=OwnKeys.of(key("own")),
            transport=self.network,
            store=self.store,
            clock=self.clock,
            notaries=self.notaries,
        )

    def publish(self, *current: SigningKey, for_ms: int = DAY_MS, **more: Any) -> None:
        until = self.clock.now_ms() + for_ms
        self.network.answers[PEER] = document(PEER, *current, valid_until_ts=until, **more)

    async def ask(self, version: str, in_ms: int = 0, server: ServerName = PEER) -> str | None:
        return await self.ring.verify_key(
            server, KeyId(f"ed25519:{version}"), self.clock.now_ms() + in_ms
        )


@pytest.fixture
def world() -> World:
    return World()


async def test_a_key_is_fetched_once_and_remembered(world: World) -> None:
    world.publish(key("a"))
    assert await world.ask("a") == key("a").verify_key_base64
    assert await world.ask("a") == key("a").verify_key_base64
    assert world.network.asked == [(PEER, "/_matrix/key/v2/server")]


async def test_a_stored_key_survives_a_restart(world: World) -> None:
    world.publish(key("a"))
    await world.ask("a")
    world.restart()
    assert await world.ask("a") == key("a").verify_key_base64
    assert len(world.network.asked) == 1


async def test_many_who_wait_for_one_server_cause_one_request(world: World) -> None:
    world.publish(key("a"), key("b"))
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(world.ask(version)) for version in "abab"]
    assert all(each.result() is not None for each in waiting)
    assert len(world.network.asked) == 1


async def test_our_own_keys_are_known_without_asking(world: World) -> None:
    assert await world.ask("own", server=US) == key("own").verify_key_base64
    assert await world.ask("other", server=US) is None
    assert world.network.asked == []


async def test_a_key_past_its_validity_is_fetched_again(world: World) -> None:
    world.publish(key("a"), for_ms=DAY_MS)
    await world.ask("a")
    world.clock.shift(24 * 3600 + 1)
    world.publish(key("a"), for_ms=DAY_MS)
    assert await world.ask("a") is not None
    assert len(world.network.asked) == 2
    # What it signed while it counted needs no new answer.
    assert await world.ask("a", in_ms=-DAY_MS) is not None
    assert len(world.network.asked) == 2


async def test_a_key_that_its_server_let_run_out_does_not_count(world: World) -> None:
    world.publish(key("a"), for_ms=1000)
    assert await world.ask("a", in_ms=1001) is None
    assert await world.ask("a", in_ms=1000) is not None


async def test_validity_is_believed_for_seven_days_at_most(world: World) -> None:
    world.publish(key("a"), for_ms=1000 * DAY_MS)
    assert await world.ask("a", in_ms=7 * DAY_MS) is not None
    assert await world.ask("a", in_ms=7 * DAY_MS + 1) is None


async def test_an_old_key_counts_for_events_before_it_expired(world: World) -> None:
    expired_ts = world.clock.now_ms() - 5000
    old = {"ed25519:old": {"key": key("old").verify_key_base64, "expired_ts": expired_ts}}
    world.publish(key("a"), old=old)
    assert await world.ask("old", in_ms=-5000) == key("old").verify_key_base64
    assert await world.ask("old", in_ms=-4999) is None
    assert await world.ask("old") is None


async def test_an_old_key_never_counts_for_a_request_now(world: World) -> None:
    later = world.clock.now_ms() + DAY_MS
    old = {"ed25519:old": {"key": key("old").verify_key_base64, "expired_ts": later}}
    world.publish(key("a"), old=old)
    assert await world.ask("old") is None


async def test_a_key_that_was_retired_stops_counting_when_that_is_learnt(world: World) -> None:
    world.publish(key("a"))
    await world.ask("a")
    retired = {"key": key("a").verify_key_base64, "expired_ts": world.clock.now_ms()}
    world.clock.shift(3600)
    world.publish(key("b"), old={"ed25519:a": retired})
    assert await world.ask("b") is not None
    assert await world.ask("a") is None
    assert await world.ask("a", in_ms=-3600_000) is not None


async def test_a_missing_key_is_asked_for_again_only_after_a_while(world: World) -> None:
    world.publish(key("a"))
    assert await world.ask("b") is None
    world.publish(key("a"), key("b"))
    assert await world.ask("b") is None
    assert len(world.network.asked) == 1
    world.clock.shift(31)
    assert await world.ask("b") is not None


async def test_a_server_that_does_not_answer_is_left_alone_for_longer_and_longer(
    world: World,
) -> None:
    for _ in range(3600):
        with pytest.raises(Unavailable):
            await world.ask("a")
        world.clock.shift(1)
    # After 0, 30, 90, 210 and 450 seconds, and then every 300.
    assert len(world.network.asked) == 5 + (3600 - 450 - 1) // 300
    world.publish(key("a"))
    world.clock.shift(300)
    assert await world.ask("a") is not None


async def test_the_wait_is_told(world: World) -> None:
    with pytest.raises(Unavailable):
        await world.ask("a")
    with pytest.raises(Unavailable) as caught:
        await world.ask("a")
    assert caught.value.retry_after_s == pytest.approx(30.0)


async def test_a_known_key_needs_no_living_server(world: World) -> None:
    world.publish(key("a"))
    await world.ask("a")
    world.network.answers.clear()
    world.clock.shift(60)
    with pytest.raises(Unavailable):
        await world.ask("b")
    assert await world.ask("a") is not None


def _tampered(change: Mapping[str, Any]) -> JsonObject:
    return {**document(PEER, key("a"), valid_until_ts=2**50), **change}


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        _tampered({"server_name": NOTARY}),
        _tampered({"valid_until_ts": 2**50 + 1}),
        _tampered({"verify_keys": {"ed25519:a": {"key": key("b").verify_key_base64}}}),
        _tampered({"signatures": {}}),
        document(PEER, key("a"), valid_until_ts="soon"),
        document(PEER, key("a"), valid_until_ts=True),
        _tampered({"verify_keys": []}),
        _tampered({"verify_keys": {"ed25519:a": {}}}),
        _tampered({"more": 1.5}),
        document(
            PEER,
            key("a"),
            valid_until_ts=1,
            old={"ed25519:x": {"key": "A" * 43, "expired_ts": "then"}},
        ),
        document(NOTARY, key("a"), valid_until_ts=2**50),
    ],
)
async def test_a_key_document_that_is_not_right_is_none(world: World, answer: Any) -> None:
    with pytest.raises(BadInput):
        read_server_keys(answer, PEER, now_ms=0)
    world.network.answers[PEER] = answer
    with pytest.raises(Unavailable):
        await world.ask("a")
    assert world.store.keys == {}


async def test_keys_of_other_algorithms_are_passed_over(world: World) -> None:
    made = document(PEER, key("a"), valid_until_ts=2**50)
    del made["signatures"]
    made["verify_keys"]["rsa:1"] = {"key": "abc"}
    world.network.answers[PEER] = sign_json(made, server=PEER, key=key("a"))
    assert await world.ask("a") is not None
    assert [key_id for _, key_id in world.store.keys] == ["ed25519:a"]


@pytest.fixture
def notarised() -> World:
    return World(notaries=(NOTARY,))


def _entrust(world: World, signer: SigningKey, *current: SigningKey, for_ms: int) -> None:
    until = world.clock.now_ms() + for_ms
    world.network.answers[NOTARY] = document(
        NOTARY, key("n"), valid_until_ts=world.clock.now_ms() + DAY_MS
    )
    entry = document(PEER, *current, valid_until_ts=until)
    entry = sign_json(entry, server=NOTARY, key=signer)
    world.network.entrusted[NOTARY] = {"server_keys": [entry]}


async def test_a_notary_answers_for_a_server_that_does_not(notarised: World) -> None:
    _entrust(notarised, key("n"), key("a"), for_ms=DAY_MS)
    assert await notarised.ask("a") == key("a").verify_key_base64
    assert [path for _, path in notarised.network.asked] == [
        "/_matrix/key/v2/server",
        "/_matrix/key/v2/query",
        "/_matrix/key/v2/server",
    ]
    criteria = {"minimum_valid_until_ts": notarised.clock.now_ms()}
    assert notarised.network.bodies[1] == {"server_keys": {PEER: {"ed25519:a": criteria}}}


async def test_a_notary_must_have_signed(notarised: World) -> None:
    _entrust(notarised, key("other"), key("a"), for_ms=DAY_MS)
    with pytest.raises(Unavailable):
        await notarised.ask("a")
    assert (PEER, KeyId("ed25519:a")) not in notarised.store.keys


async def test_a_server_that_answers_is_asked_alone(notarised: World) -> None:
    _entrust(notarised, key("n"), key("a"), for_ms=DAY_MS)
    notarised.publish(key("a"))
    await notarised.ask("a")
    assert len(notarised.network.asked) == 1


async def test_an_old_copy_at_a_notary_does_not_shorten_what_is_known(notarised: World) -> None:
    notarised.publish(key("a"), for_ms=DAY_MS)
    await notarised.ask("a")
    notarised.network.answers[PEER] = Refused("gone")
    _entrust(notarised, key("n"), key("a"), for_ms=1000)
    notarised.clock.shift(60)
    assert await notarised.ask("b") is None
    assert await notarised.ask("a", in_ms=3600_000) is not None


async def test_without_notaries_nobody_else_is_asked(world: World) -> None:
    _entrust(world, key("n"), key("a"), for_ms=DAY_MS)
    with pytest.raises(Unavailable):
        await world.ask("a")
    assert {peer for peer, _ in world.network.asked} == {PEER}


async def test_nobody_waits_without_end_for_others_slow_keys(world: World) -> None:
    """Anybody may name servers that answer slowly, as many as there are places to fetch."""
    stuck = asyncio.Event()

    class Slow(Network):
        async def request(self, peer: ServerName, *_: Any, **__: Any) -> Any:
            await stuck.wait()
            raise Unavailable("nobody there")

    ring = ServerKeyRing(
        own_name=US,
        own_keys=OwnKeys.of(key("own")),
        transport=Slow(),
        store=world.store,
        clock=world.clock,
        max_fetches=1,
        queue_timeout_s=0.01,
    )
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(_unavailable(ring, ServerName("slow.example")))
        await asyncio.sleep(0)
        for number in range(3):
            assert await _unavailable(ring, ServerName(f"s{number}.example"))
        assert not first.done()
        stuck.set()
    assert first.result()


async def _unavailable(ring: ServerKeyRing, server: ServerName) -> bool:
    try:
        await ring.verify_key(server, KeyId("ed25519:1"), 0)
    except Unavailable as exc:
        return exc.retry_after_s is None or exc.retry_after_s > 0
    return False


# --- hostile servers and notaries ------------------------------------------------------------


def swapped(version: str) -> SigningKey:
    return SigningKey.from_seed(version, b"another seed".ljust(32, b"."))


async def test_another_key_under_a_known_id_is_refused(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.publish(key("a"))
    await world.ask("a")
    world.clock.shift(60)
    world.publish(swapped("a"), key("b"))
    assert await world.ask("b") == key("b").verify_key_base64
    assert await world.ask("a") == key("a").verify_key_base64
    assert "key.changed" in capsys.readouterr().out
    # Nor is it handed on in our name.
    assert swapped("a").verify_key_base64 not in world.store.documents[PEER].json


async def test_a_server_that_was_set_up_anew_is_believed_once_its_former_key_has_run_out(
    world: World,
) -> None:
    world.publish(key("a"), for_ms=3600_000)
    await world.ask("a")
    world.clock.shift(3601)
    world.publish(swapped("a"))
    assert await world.ask("a") == swapped("a").verify_key_base64


async def test_a_retired_key_never_becomes_another(world: World) -> None:
    retired = {"key": key("old").verify_key_base64, "expired_ts": world.clock.now_ms() - 5}
    world.publish(key("a"), old={"ed25519:old": retired})
    await world.ask("a")
    world.clock.shift(30 * 24 * 3600)
    world.publish(swapped("old"), key("a"))
    assert await world.ask("old") is None
    assert await world.ask("old", in_ms=-31 * DAY_MS) == key("old").verify_key_base64


async def test_a_notary_never_changes_a_key(notarised: World) -> None:
    notarised.publish(key("a"), for_ms=3600_000)
    await notarised.ask("a")
    notarised.clock.shift(3601)
    notarised.network.answers[PEER] = Unavailable("gone")
    _entrust(notarised, key("n"), swapped("a"), for_ms=DAY_MS)
    assert await notarised.ask("a") is None
    assert await notarised.ask("a", in_ms=-3601_000) == key("a").verify_key_base64


async def test_a_notary_that_lies_is_not_believed(notarised: World) -> None:
    until = notarised.clock.now_ms() + DAY_MS
    good = document(PEER, key("a"), valid_until_ts=until)
    unsigned = {name: value for name, value in good.items() if name != "signatures"}
    forged = {**good, "verify_keys": {"ed25519:a": {"key": swapped("a").verify_key_base64}}}
    for lie in (
        unsigned,
        forged,
        document(NOTARY, key("a"), valid_until_ts=until),
        {**good, "valid_until_ts": until + DAY_MS},
        {**good, "verify_keys": {f"ed25519:k{n}": {"key": "A" * 43} for n in range(201)}},
    ):
        _entrust(notarised, key("n"), key("a"), for_ms=DAY_MS)
        entry = sign_json(lie, server=NOTARY, key=key("n"))
        notarised.network.entrusted[NOTARY] = {"server_keys": [entry]}
        with pytest.raises(Unavailable):
            await notarised.ask("a")
        assert PEER not in notarised.store.documents
        notarised.clock.shift(301)


async def test_what_a_notary_gives_that_has_run_out_does_not_count_now(notarised: World) -> None:
    _entrust(notarised, key("n"), key("a"), for_ms=-1000)
    assert await notarised.ask("a") is None
    assert await notarised.ask("a", in_ms=-1000) == key("a").verify_key_base64


async def test_a_document_that_is_too_large_is_none(world: World) -> None:
    made = document(PEER, key("a"), valid_until_ts=2**50)
    del made["signatures"]
    world.network.answers[PEER] = sign_json({**made, "x": "y" * 65_536}, server=PEER, key=key("a"))
    with pytest.raises(Unavailable):
        await world.ask("a")


@pytest.mark.parametrize("key_id", ["ed25519:", "ed25519:a\0", "ed25519:" + "a" * 300, "rsa:a"])
async def test_for_what_is_no_key_id_nobody_is_asked(world: World, key_id: str) -> None:
    world.publish(key("a"))
    assert await world.ring.verify_key(PEER, KeyId(key_id), 0) is None
    assert world.network.asked == []


async def test_keys_that_are_none_are_passed_over(world: World) -> None:
    made = document(PEER, key("a"), valid_until_ts=2**50)
    del made["signatures"]
    made["verify_keys"] |= {"ed25519:b": {"key": "short"}, "ed25519:c\0": {"key": "A" * 43}}
    world.network.answers[PEER] = sign_json(made, server=PEER, key=key("a"))
    await world.ask("a")
    assert [key_id for _, key_id in world.store.keys] == ["ed25519:a"]


# --- documents --------------------------------------------------------------------------------


async def test_a_document_is_kept_as_its_server_signed_it(world: World) -> None:
    world.publish(key("a"))
    published = dict(world.network.answers[PEER])
    stranger = sign_json(published, server=NOTARY, key=key("n"))
    world.network.answers[PEER] = stranger
    await world.ring.renew_document(PEER)
    found = await world.ring.documents([PEER, NOTARY])
    assert list(found) == [PEER]
    assert json.loads(found[PEER].json) == published
    assert found[PEER].valid_until_ms == published["valid_until_ts"]


async def test_a_document_is_asked_for_at_its_server_alone_and_not_in_quick_succession(
    notarised: World,
) -> None:
    for _ in range(3):
        with pytest.raises(Unavailable):
            await notarised.ring.renew_document(PEER)
    assert notarised.network.asked == [(PEER, "/_matrix/key/v2/server")]


async def test_an_old_copy_at_a_notary_does_not_replace_a_newer_document(notarised: World) -> None:
    notarised.publish(key("a"), for_ms=DAY_MS)
    await notarised.ask("a")
    newer = notarised.store.documents[PEER]
    notarised.network.answers[PEER] = Refused("gone")
    _entrust(notarised, key("n"), key("a"), for_ms=1000)
    notarised.clock.shift(60)
    await notarised.ask("b")
    assert notarised.store.documents[PEER] == newer


async def test_a_key_that_has_just_come_into_use_is_asked_for_at_once(world: World) -> None:
    world.publish(key("a"))
    assert await world.ask("a") == key("a").verify_key_base64
    world.publish(key("b"))
    assert await world.ask("b") == key("b").verify_key_base64
    # Whoever asks for keys that nobody has makes us ask no oftener than before.
    assert await world.ask("c") is None
    asked = len(world.network.asked)
    assert await world.ask("c") is None
    for name in "defg":
        # These may have come into use meanwhile, which we shall see.
        with pytest.raises(Unavailable):
            await world.ask(name)
    assert len(world.network.asked) == asked
