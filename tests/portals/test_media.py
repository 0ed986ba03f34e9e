"""Files between the two sides: links that open them, and fetching what is shared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from bridge.content.model import File, Message
from bridge.errors import Unavailable
from bridge.ids import UserId
from bridge.media.links import LinkSigner
from bridge.net.addresses import AddressPolicy, parse_networks
from bridge.net.client import HttpClient
from bridge.net.dns import DnsResolver
from bridge.portals.media import PATH, Files, FileSettings
from bridge.web.application import Listener, Request, Response, Route, WebServer
from tests.support.clock import FakeClock
from tests.support.network import Network, Server, open_network

ANNE = UserId("@anne=40x.example:gw.example")
BOB = UserId("@bob:peer.example")
MAX_BYTES = 100_000
DAY_S = 24 * 3600
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x05\0\0\0\x07\x08\0\0\0\0" + b"x" * 500


class Endless:
    def __init__(self) -> None:
        self.is_closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 10_000

    async def close(self) -> None:
        self.is_closed.set()


class Stuck:
    """Begins, and never goes on."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async def close(self) -> None:
        return


@dataclass
class Site:
    """Where people of the chat side keep their files."""

    base: str = ""
    answers: dict[str, Response] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def give(self, name: str, response: Response) -> str:
        self.answers[name] = response
        return f"{self.base}/{name}"


@dataclass
class World:
    files: Files
    server: Server
    network: Network
    site: Site
    web: str
    clock: FakeClock

    async def fetched(self, url: str, *, txn: str = "t1", attempts: int = 0) -> Message:
        return await self.files.fetched(
            Message(text=url, file=File(url=url)), uploader=ANNE, txn=txn, attempts=attempts
        )

    async def bytes_of(self, message: Message) -> bytes:
        assert message.file is not None
        assert message.file.mxc is not None
        stream = await self.server.backend.open_media(message.file.mxc)
        try:
            return b"".join([chunk async for chunk in stream])
        finally:
            await stream.close()

    async def upload(self, data: bytes, content_type: str, name: str | None) -> str:
        async def chunks() -> AsyncIterator[bytes]:
            yield data

        made = await self.server.backend.upload(
            chunks=chunks(), uploader=ANNE, content_type=content_type, name=name, txn=f"u{name}"
        )
        return made.mxc

    async def ask(
        self, link: str, *, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        target = self.web + link.removeprefix("https://gw.example")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, target, headers=named) as answer,
        ):
            found = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, found, await answer.read()


def shown_file(message: Message) -> File:
    assert message.file is not None
    return message.file


@pytest.fixture
async def world(clock: FakeClock, tmp_path: Path, sqlite_template: Path) -> AsyncIterator[World]:
    site = Site()

    async def answer(request: Request) -> Response:
        site.asked.append(request.path)
        return site.answers.get(request.params["name"], Response(status=404, body=b"no"))

    elsewhere = WebServer(
        routes=[Route(method="GET", path="/{name}", endpoint=answer)],
        listeners=[Listener(host="127.0.0.1", port=0)],
        drain_timeout_s=0.1,
    )
    await elsewhere.start()
    site.base = f"http://127.0.0.1:{elsewhere.addresses[0][1]}"
    resolver = DnsResolver()
    client = HttpClient(
        resolver=resolver,
        policy=AddressPolicy(allowed=parse_networks(["127.0.0.1"], setting="test")),
    )
    async with open_network(clock, tmp_path, sqlite_template) as network:
        server = await network.add("gw.example")
        files = Files(
            backend=server.backend,
            client=client,
            signer=LinkSigner(b"k" * 32),
            clock=clock,
            settings=FileSettings(
                public_url="https://gw.example/",
                max_bytes=MAX_BYTES,
                fetch_timeout_s=1.0,
            ),
        )
        web = WebServer(routes=files.routes(), listeners=[Listener(host="127.0.0.1", port=0)])
        await web.start()
        yield World(files, server, network, site, "http://{}:{}".format(*web.addresses[0]), clock)
        await web.stop()
    await client.close()
    await resolver.close()
    await elsewhere.stop()


def image(mxc: str, **more: Any) -> Message:
    return Message(
        kind="unknown",
        text="[image: a.png]",
        stands_for="m.image",
        file=File(look="image", mxc=mxc, name="a.png", content_type="image/png", **more),
    )


# --- links ----------------------------------------------------------------------------------------


async def test_a_link_opens_the_file_without_an_account(world: World) -> None:
    mxc = await world.upload(PNG, "image/png", "a b.png")
    shown = world.files.shown(image(mxc), BOB)
    link = shown_file(shown).url or ""
    assert shown.text == link
    assert urlsplit(link).path.startswith(f"{PATH}/")
    status, headers, body = await world.ask(link)
    assert (status, body, headers["content-type"]) == (200, PNG, "image/png")
    assert headers["content-disposition"] == "inline; filename*=utf-8''a%20b.png"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox;")
    status, headers, body = await world.ask(link, method="HEAD")
    assert (status, headers["content-length"], body) == (200, str(len(PNG)), b"")
    status, headers, body = await world.ask(link, Range="bytes=8-11")
    assert (status, body) == (206, PNG[8:12])
    assert headers["content-range"] == f"bytes 8-11/{len(PNG)}"
    status, _, body = await world.ask(link, Range="bytes=8-11", If_Range='"other"')
    assert (status, body) == (200, PNG)
    assert (await world.ask(link, Range="bytes=9999-"))[0] == 416
    assert (await world.ask(link, If_None_Match=headers["etag"]))[0] == 304


async def test_a_caption_stands_before_the_link(world: World) -> None:
    shown = world.files.shown(image("mxc://gw.example/abc", caption="the view"), BOB)
    assert shown.text == f"the view\n{shown_file(shown).url}"


async def test_a_link_is_the_same_all_day_and_ends_after_its_days(world: World) -> None:
    mxc = await world.upload(PNG, "image/png", "a.png")
    link = shown_file(world.files.shown(image(mxc), BOB)).url or ""
    world.clock.shift(60)
    assert shown_file(world.files.shown(image(mxc), BOB)).url == link
    world.clock.shift(29 * DAY_S)
    assert (await world.ask(link))[0] == 200
    world.clock.shift(3 * DAY_S)
    assert (await world.ask(link))[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        f"{PATH}/AAAA/gw.example/{{id}}/a.png",
        f"{PATH}/AAAA/../etc/passwd",
        f"{PATH}/AAAA/gw.example/..%2F..%2Fetc%2Fpasswd/a.png",
        f"{PATH}/AAAA/bad%20name/abc/a.png",
        f"{PATH}/{'A' * 28}/gw.example/{{id}}/a.png",
    ],
)
async def test_without_a_link_of_ours_nothing_opens(world: World, path: str) -> None:
    mxc = await world.upload(PNG, "image/png", "a.png")
    status, _, _ = await world.ask(path.replace("{id}", mxc.rpartition("/")[2]))
    assert status == 404


async def test_a_link_to_a_file_of_a_peer_fetches_it_and_no_other_is_fetched(world: World) -> None:
    peer = await world.network.add("peer.example")

    async def chunks() -> AsyncIterator[bytes]:
        yield PNG

    theirs = await peer.backend.upload(
        chunks=chunks(), uploader=peer.user("bob"), content_type="image/png", name=None, txn="t"
    )
    link = shown_file(world.files.shown(image(theirs.mxc), BOB)).url or ""
    assert (await world.ask(link))[2] == PNG
    peer.down = True
    assert (await world.ask(link))[2] == PNG
    other = shown_file(world.files.shown(image("mxc://peer.example/other"), BOB)).url or ""
    assert (await world.ask(other))[0] == 429


@pytest.mark.parametrize(
    ("content_type", "served"),
    [
        ("text/html", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("application/javascript", "application/octet-stream"),
        ("application/pdf", "application/pdf"),
    ],
)
async def test_nothing_is_handed_out_that_a_browser_carries_out(
    world: World, content_type: str, served: str
) -> None:
    mxc = await world.upload(b"<script>alert(1)</script>", content_type, "x.html")
    link = shown_file(world.files.shown(image(mxc), BOB)).url or ""
    _, headers, _ = await world.ask(link)
    assert headers["content-type"] == served
    assert headers["content-disposition"].startswith("attachment")


async def test_without_a_public_url_files_are_named(world: World) -> None:
    files = Files(
        backend=world.server.backend,
        client=world.files._client,
        signer=LinkSigner(b"k" * 32),
        clock=world.clock,
        settings=FileSettings(),
    )
    shown = files.shown(image("mxc://gw.example/abc"), BOB)
    assert (shown.text, shown.file) == ("[image: a.png]", None)


# --- fetching -------------------------------------------------------------------------------------


async def test_a_picture_is_fetched_once_for_a_row(world: World) -> None:
    url = world.site.give("caf%C3%A9.png", Response(body=PNG, content_type="image/png"))
    world.site.answers["café.png"] = world.site.answers["caf%C3%A9.png"]
    first = await world.fetched(url)
    again = await world.fetched(url)
    assert first == again
    assert world.site.asked == ["/caf%C3%A9.png"]
    file = shown_file(first)
    assert (file.look, file.name, file.width, file.height) == ("image", "café.png", 5, 7)
    assert (file.content_type, file.size_bytes) == ("image/png", len(PNG))
    assert await world.bytes_of(first) == PNG


async def test_what_it_is_goes_by_its_bytes(world: World) -> None:
    lying = world.site.give("lie.png", Response(body=b"MZ\x90", content_type="image/png"))
    file = shown_file(await world.fetched(lying))
    assert (file.look, file.content_type) == ("file", "application/octet-stream")
    hidden = world.site.give("x.bin", Response(body=PNG, content_type="application/octet-stream"))
    assert shown_file(await world.fetched(hidden, txn="t2")).look == "image"


@pytest.mark.parametrize(
    ("name", "response"),
    [
        ("page", Response(body=b"<html>", content_type="text/html; charset=utf-8")),
        ("gone", Response(status=404, body=b"")),
        ("forbidden", Response(status=403, body=b"")),
        ("empty", Response(body=b"", content_type="image/png")),
        ("large", Response(body=b"x" * (MAX_BYTES + 1), content_type="image/png")),
        ("inside", Response(status=302, headers={"Location": "http://10.0.0.1/x"})),
        ("metadata", Response(status=302, headers={"Location": "http://169.254.169.254/x"})),
        ("circle", Response(status=302, headers={"Location": "circle"})),
        ("nowhere", Response(status=302, headers={"Location": "file:///etc/passwd"})),
    ],
)
async def test_what_cannot_be_fetched_stays_a_link(
    world: World, name: str, response: Response
) -> None:
    url = world.site.give(name, response)
    message = await world.fetched(url)
    assert (message.text, message.file) == (url, None)
    assert await world.server.backend.find_upload("t1") is None


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/x.png",
        "http://[::1]/x.png",
        "http://169.254.169.254/latest/meta-data",
        "http://2130706433:1/x",
        "https://",
        "http://user:secret@/x",
        "http://[bad/x",
    ],
)
async def test_an_address_that_is_none_of_theirs_stays_a_link(world: World, url: str) -> None:
    message = await world.fetched(url, attempts=9)
    assert (message.text, message.file) == (url, None)


async def test_an_endless_body_is_hung_up_on(world: World) -> None:
    body = Endless()
    url = world.site.give("endless", Response(stream=body, content_type="image/png"))
    assert (await world.fetched(url)).file is None
    async with asyncio.timeout(10):
        await body.is_closed.wait()


async def test_what_may_yet_work_is_tried_some_times_and_then_a_link(world: World) -> None:
    for name, response in (
        ("busy", Response(status=503, body=b"")),
        ("stuck", Response(stream=Stuck(), content_type="image/png")),
    ):
        url = world.site.give(name, response)
        for attempts in range(3):
            with pytest.raises(Unavailable):
                await world.fetched(url, attempts=attempts)
        assert (await world.fetched(url, attempts=3)).file is None


async def test_nobody_waits_for_ever_behind_the_files_of_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.files, "_places", asyncio.Semaphore(0))
    url = world.site.give("a.png", Response(body=PNG, content_type="image/png"))
    async with asyncio.timeout(10):
        with pytest.raises(Unavailable):
            await world.fetched(url)
        assert (await world.fetched(url, attempts=3)).file is None
    assert world.site.asked == []


async def test_a_quota_that_is_reached_leaves_the_link(world: World) -> None:
    store = world.server.media.store
    limits = store.limits
    store.limits = type(limits)(quota_bytes=100, keep_free_bytes=0)
    url = world.site.give("a.png", Response(body=PNG, content_type="image/png"))
    assert (await world.fetched(url)).file is None
    store.limits = limits
    assert (await world.fetched(url)).file is not None


async def test_what_shares_nothing_is_left_alone(world: World) -> None:
    message = Message(text="hello")
    assert await world.files.fetched(message, uploader=ANNE, txn="t", attempts=0) is message
    assert world.files.shown(message, BOB) is message
