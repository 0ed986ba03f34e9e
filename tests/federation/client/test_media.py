"""Fetching from peers that are old, send us elsewhere, lie or never end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bridge.clock import SystemClock
from bridge.engine.keys import SigningKey
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.federation.client import media as media_module
from bridge.federation.client.discovery import Discovery
from bridge.federation.client.media import RemoteMedia
from bridge.federation.client.transport import Transport
from bridge.federation.multipart import head_of, tail_of
from bridge.ids import ServerName
from bridge.media.store import MediaLimits, MediaStore
from bridge.media.thumbnails import Wish
from bridge.net.addresses import AddressPolicy, parse_networks
from bridge.net.client import HttpClient
from bridge.net.dns import DnsResolver
from bridge.policy.house import House
from bridge.storage.database import Database
from bridge.web.application import Listener, Request, Response, Route, WebServer
from tests.support.dns import DnsTable, dns_server
from tests.support.tls import PrivateCa

US = ServerName("us.example")
PEER = ServerName("peer.example")
KEY = SigningKey.from_seed("k", bytes(range(32)))
B = "boundary"
MAX_BYTES = 1 << 20

Make = Callable[[Request], Response]


def always(response: Response) -> Make:
    return lambda _: response


class Endless:
    """A body that goes on until somebody hangs up."""

    def __init__(self, head: bytes = b"", piece: bytes = b"x" * 50_000) -> None:
        self._head = head
        self._piece = piece
        self.is_closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._head
        while True:
            yield self._piece

    async def close(self) -> None:
        self.is_closed.set()


@dataclass
class World:
    media: RemoteMedia
    store: MediaStore
    dns: DnsTable
    port: int
    answers: dict[str, Make] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)

    def give(self, what: str, make: Make) -> None:
        self.answers[what] = make

    async def get(self, media_id: str = "abc") -> bytes:
        row = await self.media.get(PEER, media_id)
        blob = await self.store.open(row)
        try:
            return b"".join([chunk async for chunk in blob])
        finally:
            await blob.close()


PATHS = {
    "download": "/_matrix/federation/v1/media/download/{media_id}",
    "thumbnail": "/_matrix/federation/v1/media/thumbnail/{media_id}",
    "old": "/_matrix/media/v3/download/{server}/{media_id}",
    "cdn": "/cdn/{name}",
}


@pytest.fixture
async def world(tmp_path: Path, sqlite_database: Database) -> AsyncIterator[World]:
    ca = PrivateCa(tmp_path)
    files = ca.issue("peer.example", "cdn.example")
    made: list[World] = []

    def endpoint(what: str) -> Any:
        async def answer(request: Request) -> Response:
            made[0].asked.append(request)
            make = made[0].answers.get(what)
            return make(request) if make else Response(status=404, body=b"not here")

        return answer

    server = WebServer(
        routes=[Route(method="GET", path=p, endpoint=endpoint(n)) for n, p in PATHS.items()],
        listeners=[
            Listener(
                host="127.0.0.1",
                port=0,
                certificate=files.certificate,
                private_key=files.private_key,
            )
        ],
        drain_timeout_s=0.1,
    )
    await server.start()
    port = server.addresses[0][1]
    async with dns_server() as dns:
        dns.add_address("target.example", "127.0.0.1")
        dns.add_address("cdn.example", "127.0.0.1")
        dns.add_service("_matrix-fed._tcp.peer.example", "target.example", port)
        resolver = DnsResolver(nameserver=dns.address, timeout_s=2.0)
        client = HttpClient(
            resolver=resolver,
            policy=AddressPolicy(allowed=parse_networks(["127.0.0.1"], setting="test")),
            extra_ca=ca.path,
        )
        clock = SystemClock()
        store = MediaStore(
            own_name=US,
            folder=tmp_path / "media",
            database=sqlite_database,
            clock=clock,
            limits=MediaLimits(max_bytes=MAX_BYTES, keep_free_bytes=0),
        )
        await store.start()
        house = House(own_name=US)
        media = RemoteMedia(
            transport=Transport(
                own_name=US,
                key=KEY,
                client=client,
                discovery=Discovery(client=client, resolver=resolver, clock=clock),
                clock=clock,
                house=house,
            ),
            client=client,
            store=store,
            house=house,
        )
        made.append(World(media, store, dns, port))
        yield made[0]
        await client.close()
        await resolver.close()
    await server.stop()


def multipart(body: bytes, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(
        body=head_of(B, named) + body + tail_of(B),
        content_type=f"multipart/mixed; boundary={B}",
    )


def leftovers(world: World) -> list[Path]:
    return [path for path in world.store._folder.rglob("*") if path.is_file()]


async def test_the_second_part_is_the_file(world: World) -> None:
    world.give(
        "download",
        lambda _: multipart(
            b"hello", Content_Type="text/plain", Content_Disposition='inline; filename="a/b.txt"'
        ),
    )
    assert await world.get() == b"hello"
    row = await world.media.get(PEER, "abc")
    assert (row.content_type, row.name) == ("text/plain", "b.txt")
    [request] = world.asked
    assert request.headers["authorization"].startswith("X-Matrix ")
    assert request.query == [("timeout_ms", "20000")]


async def test_a_thumbnail_is_asked_for_by_what_is_wished(world: World) -> None:
    world.give("thumbnail", lambda _: multipart(b"tiny", Content_Type="image/webp"))
    wish = Wish(width=96, height=32, method="crop", animated=True)
    async with world.media.thumbnail(PEER, "abc", wish) as file:
        assert b"".join([chunk async for chunk in file.chunks]) == b"tiny"
        assert file.content_type == "image/webp"
    query = dict(world.asked[0].query)
    assert query | {"timeout_ms": ""} == {
        "width": "96",
        "height": "32",
        "method": "crop",
        "animated": "true",
        "timeout_ms": "",
    }


async def test_an_older_server_is_asked_for_its_own_files_without_a_signature(
    world: World,
) -> None:
    world.give("old", lambda _: Response(body=b"old", content_type="image/png"))
    assert await world.get() == b"old"
    first, second = world.asked
    assert (first.path, second.path) == (
        "/_matrix/federation/v1/media/download/abc",
        f"/_matrix/media/v3/download/{PEER}/abc",
    )
    assert second.query_all("allow_remote") == ("false",)
    assert "authorization" not in second.headers


async def test_only_an_unknown_endpoint_leads_to_the_older_one(world: World) -> None:
    world.give("old", lambda _: Response(body=b"old"))
    for status, errcode, error in (
        (404, "M_NOT_FOUND", NotFound),
        (403, "M_FORBIDDEN", Refused),
        (502, "M_TOO_LARGE", Unavailable),
        (504, "M_NOT_YET_UPLOADED", Unavailable),
        (429, "M_LIMIT_EXCEEDED", Unavailable),
    ):
        json = {"errcode": errcode, "error": "no"}
        world.give("download", always(Response(status=status, json=json)))
        with pytest.raises(error):
            await world.get()
    assert not [one for one in world.asked if "/media/v3/" in one.target]
    assert leftovers(world) == []


async def test_a_location_is_followed_without_our_signature(world: World) -> None:
    where = f"https://cdn.example:{world.port}/cdn/file?sig=1"
    world.give("download", lambda _: multipart(b"", Location=where))
    world.give("cdn", lambda _: Response(body=b"from afar", content_type="image/png"))
    assert await world.get() == b"from afar"
    assert world.asked[1].target == "/cdn/file?sig=1"
    assert "authorization" not in world.asked[1].headers
    assert (await world.media.get(PEER, "abc")).content_type == "image/png"


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("http://cdn.example/file", BadInput),
        ("file:///etc/passwd", BadInput),
        ("https://10.0.0.1/file", Refused),
        ("https://[::1]/file", Refused),
        ("https://169.254.169.254/latest/meta-data", Refused),
        ("https://inside.example/file", Refused),
        ("/relative", BadInput),
    ],
)
async def test_a_location_leads_nowhere_private(
    world: World, location: str, error: type[IsthmusError]
) -> None:
    world.dns.add_address("inside.example", "192.168.1.1")
    world.give("download", lambda _: multipart(b"", Location=location))
    with pytest.raises(error):
        await world.get()
    assert leftovers(world) == []


async def test_a_location_that_leads_on_to_a_private_address_is_not_followed(
    world: World,
) -> None:
    where = f"https://cdn.example:{world.port}/cdn/file"
    world.give("download", lambda _: multipart(b"", Location=where))
    world.give(
        "cdn", lambda _: Response(status=302, headers={"Location": "https://10.0.0.1/secret"})
    )
    with pytest.raises(Refused) as caught:
        await world.get()
    assert caught.value.rule == "private_address"


async def test_locations_in_a_circle_end(world: World) -> None:
    where = f"https://cdn.example:{world.port}/cdn/file"
    world.give("download", lambda _: multipart(b"", Location=where))
    world.give("cdn", lambda _: Response(status=302, headers={"Location": where}))
    with pytest.raises(Refused) as caught:
        await world.get()
    assert caught.value.rule == "redirects"
    assert len(world.asked) == 5


async def test_an_endless_body_is_hung_up_on(world: World) -> None:
    for head, error in (
        (head_of(B, {"Content-Type": "image/png"}), BadInput),
        (b"", BadInput),
        (f"--{B}\r\n".encode(), BadInput),
    ):
        body = Endless(head)
        endless = Response(stream=body, content_type=f"multipart/mixed; boundary={B}")
        world.give("download", always(endless))
        with pytest.raises(error):
            await world.get()
        async with asyncio.timeout(10):
            await body.is_closed.wait()
    assert leftovers(world) == []


async def test_a_multipart_without_end_is_no_file(world: World) -> None:
    whole = head_of(B, {"Content-Type": "image/png"}) + b"hello"
    world.give(
        "download",
        lambda _: Response(body=whole, content_type=f"multipart/mixed; boundary={B}"),
    )
    with pytest.raises(Unavailable):
        await world.get()
    assert leftovers(world) == []


async def test_what_is_no_multipart_is_no_file(world: World) -> None:
    world.give("download", lambda _: Response(body=b"<html>", content_type="text/html"))
    with pytest.raises(BadInput):
        await world.get()


async def test_a_length_that_lies_is_found_out(world: World) -> None:
    class Short:
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield head_of(B, {}) + b"half"
            raise Unavailable("gone")

        async def close(self) -> None:
            return

    kind = f"multipart/mixed; boundary={B}"
    world.give("download", lambda _: Response(stream=Short(), length=100_000, content_type=kind))
    with pytest.raises(Unavailable):
        await world.get()
    world.give("download", lambda _: Response(stream=Short(), length=1 << 40, content_type=kind))
    with pytest.raises(BadInput) as caught:
        await world.get()
    assert caught.value.errcode == "M_TOO_LARGE"
    assert leftovers(world) == []


async def test_who_waited_tries_again_after_a_failure(world: World) -> None:
    answers = iter([Response(status=500, json={}), multipart(b"hello")])
    world.give("download", lambda _: next(answers))
    async with asyncio.TaskGroup() as tasks:
        several = [tasks.create_task(_outcome(world)) for _ in range(3)]
    assert sorted(one.result() for one in several) == ["failed", "hello", "hello"]
    assert len(world.asked) == 2


async def _outcome(world: World) -> str:
    try:
        return (await world.get()).decode()
    except Unavailable:
        return "failed"


async def test_a_peer_that_dawdles_keeps_few_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_module, "MAX_WAITING_PER_PEER", 3)
    turn = world.media._turns.turn
    async with turn((PEER, "slow")), asyncio.TaskGroup() as group:
        waiting = [group.create_task(world.media.get(PEER, "slow")) for _ in range(3)]
        while world.media._waiting[PEER] < 3:
            await asyncio.sleep(0.01)
        for media_id in ("slow", "other"):
            with pytest.raises(Unavailable):
                await world.media.get(PEER, media_id)
        for task in waiting:
            task.cancel()
    assert not world.media._waiting
    world.give("download", lambda _: multipart(b"hello", Content_Type="text/plain"))
    assert await world.get("slow") == b"hello"
