"""Media between two of our own servers, over real HTTPS."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.demo.servers import CertificateAuthority
from bridge.errors import BadInput, NotFound, Refused
from bridge.federation.xmatrix import sign_request
from bridge.media.store import MediaLimits
from bridge.net.client import HttpRequest, HttpResponse
from bridge.policy.rules import Action, RuleTable, read_rule
from bridge.storage.media import MediaRow
from tests.support.matrix_side import MatrixSide, matrix_sides
from tests.support.openapi import complaints

V1 = "/_matrix/federation/v1"
DOWNLOAD = f"{V1}/media/download/{{mediaId}}"
THUMBNAIL = f"{V1}/media/thumbnail/{{mediaId}}"
TEXT = b"tea and \r\n--cake--\r\n" * 50_000


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 10_000):
        yield data[start : start + 10_000]


async def upload(side: MatrixSide, data: bytes = TEXT, name: str | None = "té.txt") -> MediaRow:
    return await side.running.media.store.put(
        pieces(data), uploader=side.user("anne"), content_type="text/plain", name=name
    )


async def bytes_at(side: MatrixSide, row: MediaRow) -> bytes:
    blob = await side.running.media.store.open(row)
    try:
        return b"".join([chunk async for chunk in blob])
    finally:
        await blob.close()


async def ask(us: MatrixSide, peer: MatrixSide, target: str) -> HttpResponse:
    header = sign_request(
        method="GET",
        target=target,
        origin=peer.name,
        destination=us.name,
        content=None,
        key=peer.key,
    ).header()
    return await peer.running.client.send(
        HttpRequest(
            method="GET", url=f"https://{us.name}{target}", headers={"Authorization": header}
        )
    )


async def test_a_file_of_a_peer_is_fetched_once_for_all_who_wait(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (us, peer):
        row = await upload(peer)
        async with asyncio.TaskGroup() as tasks:
            several = [
                tasks.create_task(us.running.remote_media.get(peer.name, row.media_id))
                for _ in range(5)
            ]
        [fetched] = {one.result() for one in several}
        assert (fetched.origin, fetched.name) == (peer.name, "té.txt")
        assert (fetched.content_type, fetched.sha256) == ("text/plain", row.sha256)
        assert await bytes_at(us, fetched) == TEXT
        asked = [one for one in peer.heard if "/media/" in one.target]
        assert [one.path for one in asked] == [f"{V1}/media/download/{row.media_id}"]
        await peer.stop()
        assert await us.running.remote_media.get(peer.name, row.media_id) == fetched


async def test_what_is_not_ours_is_not_handed_out(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (us, peer):
        row = await upload(peer)
        await us.running.remote_media.get(peer.name, row.media_id)
        for media_id in (row.media_id, "unknown", "..%2F..%2Fetc%2Fpasswd", "a%00b", "a" * 300):
            answer = await ask(us, peer, f"{V1}/media/download/{media_id}")
            assert (answer.status, answer.json()["errcode"]) == (404, "M_NOT_FOUND")
            assert complaints("GET", DOWNLOAD, answer.status, answer.json()) == []
        with pytest.raises(NotFound):
            await us.running.remote_media.get(us.name, "unknown")
        with pytest.raises(NotFound):
            await us.running.remote_media.get(peer.name, "unknown")


async def test_an_answer_cannot_be_carried_out_by_a_browser(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (us, peer):
        html = await us.running.media.store.put(
            pieces(b"<script>"), uploader=us.user("a"), content_type="text/html", name='x"\r\n.html'
        )
        answer = await ask(us, peer, f"{V1}/media/download/{html.media_id}")
        assert answer.headers["content-type"].startswith("multipart/mixed; boundary=")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert int(answer.headers["content-length"]) == len(answer.body)
        assert b"\r\nContent-Disposition: attachment; filename*=utf-8''x%22.html\r\n" in answer.body


async def test_a_denied_server_gets_no_media_and_none_is_fetched_from_it(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (us, peer):
        ours, theirs, before = await upload(us), await upload(peer), await upload(peer)
        await us.running.remote_media.get(peer.name, before.media_id)
        rule = read_rule(["server", peer.name, "media"], action=Action.DENY, rule_id=1)
        us.house.replace(RuleTable.of([rule]))
        answer = await ask(us, peer, f"{V1}/media/download/{ours.media_id}")
        assert (answer.status, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
        for row in (theirs, before):
            with pytest.raises(Refused) as caught:
                await us.running.remote_media.get(peer.name, row.media_id)
            assert caught.value.rule == "policy.1"
        assert len([one for one in peer.heard if "/media/" in one.target]) == 1


async def test_a_file_that_is_too_large_is_given_up(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (us, peer):
        us.media_limits = MediaLimits(max_bytes=1000, keep_free_bytes=0)
        await us.restart()
        for size in (1001, 900_000):
            row = await upload(peer, b"x" * size)
            with pytest.raises(BadInput) as caught:
                await us.running.remote_media.get(peer.name, row.media_id)
            assert caught.value.errcode == "M_TOO_LARGE"
        row = await upload(peer, b"x" * 1000)
        assert (await us.running.remote_media.get(peer.name, row.media_id)).size_bytes == 1000


async def test_what_was_kept_back_is_not_fetched_again(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (us, peer):
        row = await upload(peer)
        await us.running.remote_media.get(peer.name, row.media_id)
        await us.running.media.store.quarantine(peer.name, row.media_id, quarantined=True)
        with pytest.raises(Refused) as caught:
            await us.running.remote_media.get(peer.name, row.media_id)
        assert caught.value.rule == "quarantined"


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ("", "M_MISSING_PARAM"),
        ("?width=32", "M_MISSING_PARAM"),
        ("?width=x&height=32", "M_INVALID_PARAM"),
        ("?width=-1&height=32", "M_INVALID_PARAM"),
        ("?width=0&height=32", "M_INVALID_PARAM"),
        ("?width=32&height=999999999", "M_INVALID_PARAM"),
        ("?width=32&height=32&method=stretch", "M_INVALID_PARAM"),
        ("?width=32&height=32&animated=maybe", "M_INVALID_PARAM"),
        ("?width=32&height=32", "M_UNKNOWN"),
    ],
)
async def test_a_wish_that_makes_no_sense_is_refused(
    query: str,
    errcode: str,
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (us, peer):
        row = await upload(us, b"no image")
        answer = await ask(us, peer, f"{V1}/media/thumbnail/{row.media_id}{query}")
        assert (answer.status, answer.json()["errcode"]) == (400, errcode)
        assert complaints("GET", THUMBNAIL, answer.status, answer.json()) == []


async def test_a_large_file_goes_from_server_to_server_in_little_memory(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async def much() -> AsyncIterator[bytes]:
        for _ in range(100 * 16):
            yield b"0123456789abcdef" * 4096

    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (us, peer):
        small = await upload(peer)
        await us.running.remote_media.get(peer.name, small.media_id)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        row = await peer.running.media.store.put(
            much(), uploader=peer.user("anne"), content_type=None, name=None
        )
        fetched = await us.running.remote_media.get(peer.name, row.media_id)
        assert (fetched.size_bytes, fetched.sha256) == (100 << 20, row.sha256)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10
