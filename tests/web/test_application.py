from __future__ import annotations

import asyncio
import gc
import gzip
import resource
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import aiohttp
import pytest
import structlog
from multidict import CIMultiDictProxy
from yarl import URL

from bridge.errors import Misconfigured, Refused, Unavailable
from bridge.web import application
from bridge.web.application import (
    Listener,
    Request,
    Response,
    Route,
    WebServer,
    _Doorkeeper,
    connections_allowed,
)
from bridge.web.health import health_routes
from tests.support.tls import PrivateCa

LOCAL = Listener(host="127.0.0.1", port=0)


async def echo(request: Request) -> Response:
    return Response(
        json={
            "target": request.target,
            "params": dict(request.params),
            "body": request.body.decode(),
            "id": request.request_id,
        }
    )


async def parse(request: Request) -> Response:
    return Response(json=request.json_object())


async def fail(_: Request) -> Response:
    raise RuntimeError("a secret of ours")


async def refuse(_: Request) -> Response:
    raise Refused("not you", rule="test")


async def wait(_: Request) -> Response:
    raise Unavailable("later", retry_after_s=1.2)


ROUTES = (
    Route(method="PUT", path="/echo/{what}", endpoint=echo),
    Route(method="PUT", path="/small", endpoint=echo, max_body_bytes=10),
    Route(method="PUT", path="/parse", endpoint=parse),
    Route(method="GET", path="/fail", endpoint=fail),
    Route(method="GET", path="/refuse", endpoint=refuse),
    Route(method="GET", path="/wait", endpoint=wait),
)


class Caller:
    """A client of the started server."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self.base = base

    async def ask(
        self, method: str, target: str, body: bytes | None = None
    ) -> tuple[int, object, CIMultiDictProxy[str]]:
        url = URL(self.base + target, encoded=True)
        async with self._session.request(method, url, data=body) as answer:
            return answer.status, await answer.json(), answer.headers


@asynccontextmanager
async def serving(server: WebServer) -> AsyncIterator[Caller]:
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Caller(session, "http://{}:{}".format(*server.addresses[0]))
    finally:
        await server.stop()


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    server = WebServer(
        routes=ROUTES, listeners=[LOCAL], max_body_bytes=1000, new_request_id=lambda: "r1"
    )
    async with serving(server) as made:
        yield made


async def test_an_endpoint_sees_the_target_as_sent_and_decoded_parameters(caller: Caller) -> None:
    status, answer, headers = await caller.ask("PUT", "/echo/%21a%2fb?q=%21", b"hi")
    assert status == 200
    assert answer == {
        "target": "/echo/%21a%2fb?q=%21",
        "params": {"what": "!a/b"},
        "body": "hi",
        "id": "r1",
    }
    assert headers["Server"] == "Isthmus"


async def test_an_unknown_path_is_unrecognized(caller: Caller) -> None:
    status, answer, _ = await caller.ask("GET", "/nothing/here")
    assert (status, answer) == (
        404,
        {"errcode": "M_UNRECOGNIZED", "error": "unrecognized request"},
    )


async def test_a_wrong_method_is_unrecognized_and_told_apart(caller: Caller) -> None:
    status, answer, headers = await caller.ask("DELETE", "/echo/a")
    assert status == 405
    assert isinstance(answer, dict)
    assert answer["errcode"] == "M_UNRECOGNIZED"
    assert headers["Allow"] == "PUT"


async def test_a_refusal_is_a_matrix_error(caller: Caller) -> None:
    assert (await caller.ask("GET", "/refuse"))[:2] == (
        403,
        {"errcode": "M_FORBIDDEN", "error": "not you"},
    )


async def test_a_wait_is_told_twice(caller: Caller) -> None:
    status, answer, headers = await caller.ask("GET", "/wait")
    assert status == 429
    assert isinstance(answer, dict)
    assert answer["retry_after_ms"] == 1200
    assert headers["Retry-After"] == "2"


async def test_an_unexpected_exception_is_logged_and_tells_nothing(caller: Caller) -> None:
    with structlog.testing.capture_logs() as lines:
        answer = await caller.ask("GET", "/fail")
    assert answer[:2] == (500, {"errcode": "M_UNKNOWN", "error": "internal server error"})
    assert [(line["event"], line["log_level"], line["exc_info"]) for line in lines] == [
        ("request failed", "error", True)
    ]
    assert (await caller.ask("GET", "/refuse"))[0] == 403


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [(b"{", 400, "M_NOT_JSON"), (b"[1]", 400, "M_BAD_JSON"), (b"x" * 1001, 413, "M_TOO_LARGE")],
)
async def test_a_bad_body_is_a_matrix_error(
    caller: Caller, body: bytes, status: int, errcode: str
) -> None:
    answer = await caller.ask("PUT", "/parse", body)
    assert answer[0] == status
    assert isinstance(answer[1], dict)
    assert answer[1]["errcode"] == errcode


async def test_a_route_may_have_its_own_bound(caller: Caller) -> None:
    assert (await caller.ask("PUT", "/small", b"x" * 10))[0] == 200
    assert (await caller.ask("PUT", "/small", b"x" * 11))[0] == 413


async def test_bytes_that_are_no_http_do_not_stop_the_server(caller: Caller) -> None:
    host, port = caller.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\x16\x03\x01 no http at all\r\n\r\n")
    await writer.drain()
    assert b"400" in (await reader.read()).splitlines()[0]
    writer.close()
    assert (await caller.ask("GET", "/refuse"))[0] == 403


async def test_a_body_that_does_not_arrive_in_time_is_given_up() -> None:
    server = WebServer(routes=ROUTES, listeners=[LOCAL], body_timeout_s=0.05)
    async with serving(server) as caller:
        host, port = caller.base.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"PUT /parse HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        await writer.drain()
        assert b"400" in await reader.readline()
        writer.close()


async def test_more_requests_than_the_bound_are_asked_to_wait() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def stay(_: Request) -> Response:
        entered.set()
        await leave.wait()
        return Response()

    server = WebServer(
        routes=[Route(method="GET", path="/stay", endpoint=stay)],
        listeners=[LOCAL],
        max_in_flight=1,
    )
    async with serving(server) as caller, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(caller.ask("GET", "/stay"))
        await entered.wait()
        assert (await caller.ask("GET", "/stay"))[0] == 429
        leave.set()
        assert (await first)[0] == 200


async def test_stopping_lets_the_request_in_hand_finish() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def stay(_: Request) -> Response:
        entered.set()
        await leave.wait()
        return Response(json={"finished": True})

    server = WebServer(routes=[Route(method="GET", path="/stay", endpoint=stay)], listeners=[LOCAL])
    async with serving(server) as caller, asyncio.TaskGroup() as tasks:
        request = tasks.create_task(caller.ask("GET", "/stay"))
        await entered.wait()
        stopping = tasks.create_task(server.stop())
        await asyncio.sleep(0)
        leave.set()
        assert (await request)[1] == {"finished": True}
        await stopping


async def test_several_listeners_with_and_without_tls(tmp_path: Path) -> None:
    ca = PrivateCa(tmp_path)
    files = ca.issue("127.0.0.1")
    tls = Listener(
        host="127.0.0.1",
        port=0,
        certificate=files.certificate,
        private_key=files.private_key,
    )
    server = WebServer(routes=ROUTES, listeners=[LOCAL, tls])
    await server.start()
    trust = ssl.create_default_context(cafile=str(ca.path))
    try:
        (_, plain_port), (_, tls_port) = server.addresses
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{plain_port}/refuse") as answer:
                assert answer.status == 403
            url = f"https://127.0.0.1:{tls_port}/refuse"
            async with session.get(url, ssl=trust) as answer:
                assert answer.status == 403
    finally:
        await server.stop()


async def test_stopping_waits_for_no_goodbye_under_tls(tmp_path: Path) -> None:
    ca = PrivateCa(tmp_path)
    files = ca.issue("127.0.0.1")
    tls = Listener(
        host="127.0.0.1",
        port=0,
        certificate=files.certificate,
        private_key=files.private_key,
    )
    server = WebServer(routes=ROUTES, listeners=[tls])
    await server.start()
    trust = ssl.create_default_context(cafile=str(ca.path))
    ((host, port),) = server.addresses
    reader, writer = await asyncio.open_connection(host, port, ssl=trust)
    try:
        writer.write(b"GET /refuse HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 403")
        # It reads no further, and so does not see that we close.
        paused = cast(asyncio.Transport, writer.transport)
        paused.pause_reading()
        before = {one for one in _sockets() if one.getsockname()[1] == port}
        assert before
        await server.stop()
        assert {one for one in _sockets() if one in before} == set()
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def _sockets() -> list[socket.socket]:
    """The open ones of this process that are connected as a server sees it."""
    return [
        one
        for one in gc.get_objects()
        if isinstance(one, socket.socket) and one.family == socket.AF_INET and _is_connected(one)
    ]


def _is_connected(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:
        return False
    return True


async def test_a_taken_address_and_a_wrong_certificate_name_the_setting(tmp_path: Path) -> None:
    server = WebServer(routes=ROUTES, listeners=[LOCAL])
    async with serving(server):
        host, port = server.addresses[0]
        taken = Listener(host=host, port=port, setting="federation.listen")
        with pytest.raises(Misconfigured) as caught:
            await WebServer(routes=ROUTES, listeners=[taken]).start()
        assert caught.value.setting == "federation.listen"
    (tmp_path / "a.pem").write_text("no certificate")
    wrong = Listener(
        host="127.0.0.1",
        port=0,
        certificate=tmp_path / "a.pem",
        private_key=tmp_path / "a.pem",
        setting="federation.tls",
    )
    with pytest.raises(Misconfigured) as caught:
        await WebServer(routes=ROUTES, listeners=[wrong]).start()
    assert caught.value.setting == "federation.tls"


async def test_health_says_what_readiness_waits_for() -> None:
    missing = ["the XMPP server does not answer"]
    routes = health_routes(missing=lambda: missing, with_metrics=True)
    async with serving(WebServer(routes=routes, listeners=[LOCAL])) as caller:
        assert (await caller.ask("GET", "/_isthmus/live"))[:2] == (200, {"live": True})
        assert (await caller.ask("GET", "/_isthmus/ready"))[:2] == (
            503,
            {"ready": False, "missing": missing},
        )
        missing.clear()
        assert (await caller.ask("GET", "/_isthmus/ready"))[:2] == (200, {"ready": True})
        async with (
            aiohttp.ClientSession() as session,
            session.get(caller.base + "/_isthmus/metrics") as answer,
        ):
            text = await answer.text()
    assert 'route="/_isthmus/ready",status="503"' in text


async def test_metrics_are_there_only_by_setting() -> None:
    routes = health_routes(missing=list)
    assert "/_isthmus/metrics" not in [route.path for route in routes]


async def _opened(caller: Caller) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = caller.base.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize(
    "begun", [b"", b"PUT /parse HT", b"PUT /parse HTTP/1.1\r\nHost: x\r\nX-Slow: a"]
)
async def test_a_connection_without_a_whole_header_is_closed_in_time(begun: bytes) -> None:
    server = WebServer(routes=ROUTES, listeners=[LOCAL], idle_timeout_s=0.1)
    async with serving(server) as caller:
        reader, writer = await _opened(caller)
        writer.write(begun)
        await writer.drain()
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_a_header_that_drips_gets_no_more_time_for_every_drop() -> None:
    server = WebServer(routes=ROUTES, listeners=[LOCAL], idle_timeout_s=0.2)
    async with serving(server) as caller:
        reader, writer = await _opened(caller)
        writer.write(b"PUT /parse HTTP/1.1\r\nHost: x\r\n")
        closed = False
        for number in range(200):
            writer.write(b"X-%d: y\r\n" % number)
            try:
                async with asyncio.timeout(0.05):
                    closed = await reader.read(1) == b""
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
                break
        assert closed
        assert number < 100
        writer.close()


async def test_who_sends_slowly_takes_a_part_of_the_places_and_no_more() -> None:
    server = WebServer(routes=ROUTES, listeners=[LOCAL], max_in_flight=8)
    async with serving(server) as caller:
        slow = [await _opened(caller) for _ in range(3)]
        for _, writer in slow[:2]:
            writer.write(b"PUT /parse HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            await writer.drain()
        while sum(server._reading.values()) < 2:
            await asyncio.sleep(0)
        reader, writer = slow[2]
        writer.write(b"PUT /parse HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert b"429" in await reader.readline()
        # Who sends no body is not concerned, and the places are free again afterwards.
        assert (await caller.ask("GET", "/refuse"))[0] == 403
        for _, one in slow:
            one.close()
        while server._reading:
            await asyncio.sleep(0)
        assert (await caller.ask("PUT", "/parse", b"{}"))[0] == 200


async def test_what_slow_senders_hold_of_our_memory_is_bounded() -> None:
    server = WebServer(routes=ROUTES, listeners=[LOCAL], max_reading_bytes=1_000)
    async with serving(server) as caller:
        _, slow = held = await _opened(caller)
        slow.write(b"PUT /parse HTTP/1.1\r\nHost: x\r\nContent-Length: 990\r\n\r\n" + b" " * 900)
        await slow.drain()
        while server._reading_bytes < 900:
            await asyncio.sleep(0)
        status, body, headers = await caller.ask("PUT", "/parse", b"{}" + b" " * 200)
        assert (status, headers["Retry-After"]) == (429, "1")
        assert isinstance(body, dict)
        assert body["errcode"] == "M_LIMIT_EXCEEDED"
        held[1].close()
        while server._reading_bytes:
            await asyncio.sleep(0)
        assert (await caller.ask("PUT", "/parse", b"{}" + b" " * 200))[0] == 200


async def test_connections_beyond_the_bound_are_closed_at_once() -> None:
    server = WebServer(routes=ROUTES, listeners=[LOCAL], max_connections=2)
    async with serving(server) as caller:
        opened = [await _opened(caller) for _ in range(2)]
        reader, _ = third = await _opened(caller)
        async with asyncio.timeout(5):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        for _, writer in [*opened, third]:
            writer.close()


def test_connections_leave_half_of_what_the_process_may_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
        assert connections_allowed() == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_body_in_chunks_is_refused_at_the_bound() -> None:
    server = WebServer(routes=ROUTES, listeners=[LOCAL])
    async with serving(server) as caller:
        reader, writer = await _opened(caller)
        writer.write(b"PUT /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            writer.write(b"5\r\nabcde\r\n")
        async with asyncio.timeout(5):
            assert b"413" in await reader.readline()
        writer.close()


async def test_a_body_over_the_bound_is_refused_before_it_is_sent() -> None:
    server = WebServer(routes=ROUTES, listeners=[LOCAL])
    async with serving(server) as caller:
        reader, writer = await _opened(caller)
        writer.write(b"PUT /small HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        async with asyncio.timeout(5):
            assert b"413" in await reader.readline()
        writer.close()


@pytest.mark.parametrize(
    ("packed", "encoding"),
    [
        (gzip.compress(b"x" * (64 << 20)), b"gzip"),
        (zlib.compress(b"x" * (64 << 20)), b"deflate"),
    ],
    ids=["gzip", "deflate"],
)
async def test_a_compressed_bomb_is_unpacked_no_further_than_the_bound(
    packed: bytes, encoding: bytes
) -> None:
    server = WebServer(routes=ROUTES, listeners=[LOCAL])
    tracemalloc.start()
    try:
        async with serving(server) as caller:
            reader, writer = await _opened(caller)
            writer.write(
                b"PUT /parse HTTP/1.1\r\nHost: x\r\nContent-Encoding: %s\r\n" % encoding
                + b"Content-Length: %d\r\n\r\n" % len(packed)
                + packed
            )
            async with asyncio.timeout(10):
                assert b"413" in await reader.readline()
            writer.close()
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


async def test_an_answer_that_is_not_taken_is_given_up() -> None:
    async def large(_: Request) -> Response:
        return Response(body=b"x" * (64 << 20))

    server = WebServer(
        routes=[Route(method="GET", path="/large", endpoint=large)],
        listeners=[LOCAL],
        answer_timeout_s=0.2,
    )
    async with serving(server) as caller:
        reader, writer = await _opened(caller)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await reader.readline()
        assert server._runner is not None
        assert server._runner.server is not None
        async with asyncio.timeout(5):
            while server._runner.server.connections:
                await asyncio.sleep(0.01)
        writer.close()


async def test_who_asks_and_goes_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    entered, leave, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stay(_: Request) -> Response:
        entered.set()
        await leave.wait()
        left.set()
        return Response(json={"finished": True})

    server = WebServer(routes=[Route(method="GET", path="/stay", endpoint=stay)], listeners=[LOCAL])
    async with serving(server) as caller:
        _, writer = await _opened(caller)
        writer.write(b"GET /stay HTTP/1.1\r\nHost: x\r\n\r\n")
        await entered.wait()
        writer.transport.abort()
        assert server._runner is not None
        assert isinstance(server._runner.server, _Doorkeeper)
        async with asyncio.timeout(5):
            while server._runner.server._open:
                await asyncio.sleep(0.01)
        leave.set()
        await left.wait()
        assert (await caller.ask("GET", "/nothing"))[0] == 404  # By then the other has ended.
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_json_that_is_nested_without_end_is_refused() -> None:
    async with serving(WebServer(routes=ROUTES, listeners=[LOCAL])) as caller:
        for body in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900):
            assert (await caller.ask("PUT", "/parse", body))[0] == 400


async def test_whoever_reads_slowly_takes_no_streams_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(application, "MAX_STREAMS_PER_ADDRESS", 1)
    leave = asyncio.Event()

    class Slow:
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"x"
            await leave.wait()

        async def close(self) -> None:
            return

    async def give(_: Request) -> Response:
        return Response(stream=Slow(), length=1, content_type="image/png")

    server = WebServer(routes=[Route(method="GET", path="/file", endpoint=give)], listeners=[LOCAL])

    async def status(local: str) -> bytes:
        """Of an answer of which no more than the head is read."""
        host, port = server.addresses[0]
        reader, writer = await asyncio.open_connection(host, port, local_addr=(local, 0))
        writers.append(writer)
        writer.write(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
        return (await reader.readline()).split()[1]

    writers: list[asyncio.StreamWriter] = []
    async with serving(server):
        assert await status("127.0.0.1") == b"200"
        assert await status("127.0.0.1") != b"200"
        assert await status("127.0.0.2") == b"200"
        leave.set()
        async with asyncio.timeout(5):
            while server._streams:
                await asyncio.sleep(0.01)
        assert await status("127.0.0.1") == b"200"
        for writer in writers:
            writer.close()
