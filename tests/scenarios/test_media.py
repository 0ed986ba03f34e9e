"""Files between a real Synapse and a real Prosody with its upload service, through the gateway."""

from __future__ import annotations

import json
import secrets
import ssl
import struct
import xml.etree.ElementTree as ET
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio

from bridge.demo.people import MatrixPerson, Stanza, XmppPerson
from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from bridge.web.application import Listener, Request, Response, Route, WebServer
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson, make_prosody

OOB = "jabber:x:oob"
UPLOAD = "urn:xmpp:http:upload:0"
CLIENT = "jabber:client"


def png(width: int = 900, height: int = 700) -> bytes:
    """Noise in grey: it does not become small."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    noise = secrets.token_bytes(width * height)
    rows = b"".join(b"\0" + noise[at * width : (at + 1) * width] for at in range(height))
    body = chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Web:
    """Plain HTTP, as a client's."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls

    async def ask(
        self, url: str, *, method: str = "GET", data: bytes | None = None, **headers: str
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, data=data, headers=named, ssl=self._tls) as answer,
        ):
            return Answer(
                status=answer.status,
                headers={name.lower(): value for name, value in answer.headers.items()},
                body=await answer.read(),
            )

    async def matrix_upload(self, person: MatrixPerson, data: bytes, kind: str, name: str) -> str:
        answer = await self.ask(
            f"{person.base_url}/_matrix/media/v3/upload?filename={quote(name)}",
            method="POST",
            data=data,
            Authorization=person.authorization,
            Content_Type=kind,
        )
        assert answer.status == 200, answer
        return str(json.loads(answer.body)["content_uri"])

    async def matrix_get(
        self, person: MatrixPerson, what: str, mxc: str, query: str = ""
    ) -> Answer:
        return await self.ask(
            f"{person.base_url}/_matrix/client/v1/media/{what}/{mxc.removeprefix('mxc://')}{query}",
            Authorization=person.authorization,
        )


@pytest.fixture
def web(certificates: CertificateAuthority) -> Web:
    return Web(ssl.create_default_context(cafile=str(certificates.certificate_file)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Prosody]:
    async with make_prosody(upload=True) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(server: Prosody, certificates: CertificateAuthority) -> AsyncIterator[Gateway]:
    running = Gateway(server, certificates)
    running.change_settings({"media": {"public_url": f"https://{running.server_name}"}})
    async with running:
        yield running


async def share(person: XmppPerson, server: Prosody, web: Web, data: bytes, name: str) -> str:
    """Uploads a file to the person's own server; its URL."""
    attributes = {"filename": name, "size": str(len(data)), "content-type": "image/png"}
    request = ET.Element(f"{{{UPLOAD}}}request", attributes)
    slot = await person.ask(f"upload.{server.domain}", request)
    put, get = slot.find(f".//{{{UPLOAD}}}put"), slot.find(f".//{{{UPLOAD}}}get")
    assert put is not None
    assert get is not None
    headers = {str(h.get("name")): h.text or "" for h in put}
    answer = await web.ask(
        str(put.get("url")), method="PUT", data=data, Content_Type="image/png", **headers
    )
    assert answer.status in (200, 201), answer
    return str(get.get("url"))


def say_file(person: XmppPerson, to: str, url: str, *, type: str = "chat") -> str:
    message = ET.Element(f"{{{CLIENT}}}message", {"to": to, "type": type})
    ET.SubElement(message, f"{{{CLIENT}}}body").text = url
    ET.SubElement(ET.SubElement(message, f"{{{OOB}}}x"), f"{{{OOB}}}url").text = url
    return person.send(message)


def shared_url(stanza: Stanza) -> str:
    found = stanza.find(f"{{{OOB}}}x/{{{OOB}}}url")
    return "" if found is None else found.text or ""


async def see_file(person: MatrixPerson, room: str, sender: str) -> dict[str, Any]:
    seen = await person.wait_for(
        lambda seen: (
            seen.section == "timeline"
            and seen.room_id == room
            and seen.sender == sender
            and "url" in seen.content
        ),
        what="a file",
        timeout_s=20.0,
    )
    return dict(seen.content)


async def hear_file(person: XmppPerson, sender: str) -> Stanza:
    return await person.wait_for(
        lambda stanza: bool(shared_url(stanza)) and stanza.bare_sender == sender,
        what="a file",
        timeout_s=20.0,
    )


async def chat_of(
    gateway: Gateway, alice: MatrixPerson, juliet: XmppPerson
) -> tuple[str, str, str]:
    """A direct chat: its room, her ghost, his address over there."""
    ghost = gateway.ghost(juliet.address)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    her_contact = gateway.address(alice.user_id)
    await alice.say(room, "hello")
    await juliet.hear("hello", sender=her_contact)
    return room, ghost, her_contact


async def test_a_picture_from_xmpp_is_a_picture_on_matrix(
    gateway: Gateway,
    server: Prosody,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
    web: Web,
) -> None:
    alice = await matrix_person(synapse, "alice")
    juliet = await xmpp_person(server, "juliet")
    room, ghost, her_contact = await chat_of(gateway, alice, juliet)
    data = png()
    url = await share(juliet, server, web, data, "garden view.png")
    say_file(juliet, her_contact, url)
    juliet.say(her_contact, "look at that")
    content = await see_file(alice, room, ghost)
    assert content["msgtype"] == "m.image"
    assert content["filename"] == "garden view.png"
    assert content["info"] == {"mimetype": "image/png", "size": len(data), "w": 900, "h": 700}
    assert content["url"].startswith(f"mxc://{gateway.server_name}/")
    await alice.hear("look at that", room=room, sender=ghost)
    bodies = [one.body for one in alice.transcript if one.sender == ghost and one.body]
    assert bodies[-2:] == ["garden view.png", "look at that"]

    got = await web.matrix_get(alice, "download", content["url"])
    assert (got.status, got.body) == (200, data)
    assert got.headers["content-type"] == "image/png"
    for query, size in (
        ("?width=32&height=32&method=crop", (32, 32)),
        ("?width=320&height=240&method=scale", (308, 240)),
    ):
        small = await web.matrix_get(alice, "thumbnail", content["url"], query)
        assert small.status == 200, small
        assert len(small.body) < len(data) / 4, size


async def test_a_picture_from_matrix_opens_by_a_link(
    gateway: Gateway,
    server: Prosody,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
    web: Web,
) -> None:
    alice = await matrix_person(synapse, "alice")
    juliet = await xmpp_person(server, "juliet_two")
    room, _, her_contact = await chat_of(gateway, alice, juliet)
    data = png()
    mxc = await web.matrix_upload(alice, data, "image/png", "summit.png")
    await alice.send_event(
        room,
        "m.room.message",
        {"msgtype": "m.image", "body": "summit.png", "url": mxc, "info": {"mimetype": "image/png"}},
    )
    stanza = await hear_file(juliet, her_contact)
    url = shared_url(stanza)
    assert stanza.body == url
    assert url.startswith(f"https://{gateway.server_name}/_isthmus/media/")
    assert url.endswith("/summit.png")

    head = await web.ask(url, method="HEAD")
    assert (head.status, head.headers["content-length"]) == (200, str(len(data)))
    got = await web.ask(url)
    assert (got.status, got.body) == (200, data)
    assert got.headers["content-type"] == "image/png"
    assert got.headers["content-disposition"] == "inline; filename=summit.png"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in got.headers["content-security-policy"]
    part = await web.ask(url, Range="bytes=10-19")
    assert (part.status, part.body) == (206, data[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(data)}"
    assert (await web.ask(url, Range=f"bytes={len(data)}-")).status == 416
    assert (await web.ask(url, If_None_Match=got.headers["etag"])).status == 304
    for wrong in (url.replace("/media/", "/media/A"), url.replace(mxc[-5:], "XXXXX")):
        assert (await web.ask(wrong)).status == 404
    # Their server is not needed any more.
    await synapse.stop()
    try:
        assert (await web.ask(url)).body == data
    finally:
        await synapse.start()


async def test_a_page_that_is_linked_to_stays_a_link(
    gateway: Gateway,
    server: Prosody,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_links")
    juliet = await xmpp_person(server, "juliet_links")
    room, ghost, her_contact = await chat_of(gateway, alice, juliet)
    gone = f"http://127.0.0.1:{server.ports.http}/upload/none/gone.png"
    inside = "http://10.1.2.3/secret.png"
    for url in (gone, inside):
        say_file(juliet, her_contact, url)
        await alice.hear(url, room=room, sender=ghost, timeout_s=30.0)


async def test_pictures_in_a_room_reach_everybody_by_links_that_open(
    gateway: Gateway,
    server: Prosody,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
    web: Web,
) -> None:
    alice = await matrix_person(synapse, "alice")
    juliet, romeo = [await xmpp_person(server, name) for name in ("juliet_room", "romeo_room")]
    room = await alice.create_room(alias="gallery", preset="public_chat")
    place = gateway.address(f"#gallery:{synapse.server_name}")
    for person, name in ((juliet, "Juliet"), (romeo, "Romeo")):
        await person.enter(place, name)
    data = png(60, 40)
    url = await share(juliet, server, web, data, "small.png")
    say_file(juliet, place, url, type="groupchat")
    content = await see_file(alice, room, gateway.ghost(juliet.address))
    assert (await web.matrix_get(alice, "download", content["url"])).body == data
    for person in (juliet, romeo):
        assert (await web.ask(shared_url(await hear_file(person, place)))).body == data
    # A picture that is small is its own thumbnail.
    small = await web.matrix_get(alice, "thumbnail", content["url"], "?width=96&height=96")
    assert (small.status, small.headers["content-type"]) == (200, "image/png")
    await juliet.exit(place)
    await romeo.exit(place)


def peak_memory_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) << 10


class Large:
    """90 MB, made while it is sent."""

    SIZE = 90 << 20

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.SIZE >> 16):
            yield b"\0" * (1 << 16)

    async def close(self) -> None:
        return


async def test_a_large_file_passes_in_little_memory(
    gateway: Gateway,
    server: Prosody,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
    web: Web,
) -> None:
    async def large(_: Request) -> Response:
        return Response(stream=Large(), length=Large.SIZE, content_type="video/mp4")

    alice = await matrix_person(synapse, "alice")
    juliet = await xmpp_person(server, "juliet_large")
    await alice.create_room(alias="cinema", preset="public_chat")
    place = gateway.address(f"#cinema:{synapse.server_name}")
    await juliet.enter(place, "Juliet")
    site = WebServer(
        routes=[Route(method="GET", path="/film.mp4", endpoint=large)],
        listeners=[Listener(host="127.0.0.1", port=0)],
    )
    await site.start()
    try:
        before = peak_memory_bytes(gateway.pid)
        url = f"http://127.0.0.1:{site.addresses[0][1]}/film.mp4"
        say_file(juliet, place, url, type="groupchat")
        link = shared_url(await hear_file(juliet, place))
        assert link.endswith("/film.mp4")
        got = await web.ask(link)
        assert (got.status, len(got.body)) == (200, Large.SIZE)
        grown = peak_memory_bytes(gateway.pid) - before
        print(f"the gateway grew by {grown / (1 << 20):.1f} MB")
        assert grown < 50 << 20
    finally:
        await site.stop()
    await juliet.exit(place)
