from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bridge.errors import BadInput, Misconfigured, Refused, Unavailable
from bridge.net.addresses import AddressPolicy, parse_networks
from bridge.net.client import Endpoint, HttpClient, HttpRequest, trusting
from bridge.net.dns import DnsResolver, Service
from bridge.web.application import Listener, Request, Response, Route, WebServer
from tests.support.dns import DnsTable, dns_server
from tests.support.tls import PrivateCa

LOOPBACK = AddressPolicy(allowed=parse_networks(["127.0.0.0/8"], setting="test"))


LISTED = [{"content": {"number": number, "text": "[" * 100}} for number in range(5_000)]


@dataclass
class Site:
    """A TLS server for `m.example` and what it was asked."""

    port: int
    asked: list[Request] = field(default_factory=list)

    def url(self, path: str = "/hello", host: str = "m.example") -> str:
        return f"https://{host}:{self.port}{path}"


def _bomb(_: Request) -> Response:
    return Response(body=gzip.compress(b"0" * 5_000_000), headers={"Content-Encoding": "gzip"})


@asynccontextmanager
async def serving(ca: PrivateCa, *names: str, tls: bool = True) -> AsyncIterator[Site]:
    site = Site(port=0)

    def asked(make: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            site.asked.append(request)
            return make(request)

        return endpoint

    def to(location: str) -> Callable[[Request], Response]:
        return lambda _: Response(status=302, headers={"Location": location})

    async def never(_: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    answers: dict[str, Callable[[Request], Response]] = {
        "/hello": lambda _: Response(json={"hello": "world"}),
        "/page": lambda _: Response(body=b"<html>", content_type="text/html"),
        "/long": lambda _: Response(body=b"x" * 5000),
        "/bomb": _bomb,
        "/listed": lambda _: Response(json={"origin": "m.example", "state": LISTED}),
        "/loop": to("/loop"),
        "/moved": to("/hello"),
        "/plain": to("http://m.example/hello"),
        "/inside": to("https://10.0.0.1/hello"),
        "/{segment}": lambda request: Response(json={"segment": request.params["segment"]}),
    }
    files = ca.issue(*(names or ("m.example",)))
    server = WebServer(
        routes=[
            *(Route(method="GET", path=path, endpoint=asked(m)) for path, m in answers.items()),
            Route(method="GET", path="/never", endpoint=never),
        ],
        listeners=[
            Listener(
                host="127.0.0.1",
                port=0,
                certificate=files.certificate if tls else None,
                private_key=files.private_key if tls else None,
            )
        ],
        drain_timeout_s=0.1,
    )
    await server.start()
    site.port = server.addresses[0][1]
    try:
        yield site
    finally:
        await server.stop()


@pytest.fixture
def ca(tmp_path: Path) -> PrivateCa:
    return PrivateCa(tmp_path)


@pytest.fixture
async def site(ca: PrivateCa) -> AsyncIterator[Site]:
    async with serving(ca) as running:
        yield running


@pytest.fixture
async def dns() -> AsyncIterator[DnsTable]:
    async with dns_server() as table:
        table.add_address("m.example", "127.0.0.1")
        table.add_address("other.example", "127.0.0.1")
        yield table


@asynccontextmanager
async def client_of(
    dns: DnsTable, ca: PrivateCa | None, policy: AddressPolicy = LOOPBACK
) -> AsyncIterator[HttpClient]:
    resolver = DnsResolver(nameserver=dns.address, timeout_s=2.0)
    client = HttpClient(
        resolver=resolver,
        policy=policy,
        extra_ca=ca.path if ca else None,
        connect_timeout_s=2.0,
    )
    try:
        yield client
    finally:
        await client.close()
        await resolver.close()


@pytest.fixture
async def client(dns: DnsTable, ca: PrivateCa) -> AsyncIterator[HttpClient]:
    async with client_of(dns, ca) as made:
        yield made


async def test_an_answer_is_read_whole(site: Site, client: HttpClient) -> None:
    answer = await client.send(HttpRequest(method="GET", url=site.url()))
    assert answer.status == 200
    assert answer.json() == {"hello": "world"}
    assert answer.headers["content-type"] == "application/json"


async def test_an_answer_with_long_lists_is_parsed_as_it_arrives(
    site: Site, client: HttpClient
) -> None:
    request = HttpRequest(method="GET", url=site.url("/listed"), long_lists=("state",))
    answer = await client.send(request)
    assert answer.json() == {"origin": "m.example", "state": LISTED}
    assert answer.body == b""


@pytest.mark.parametrize(
    ("path", "errcode"), [("/listed", "M_TOO_LARGE"), ("/bomb", "M_TOO_LARGE")]
)
async def test_long_lists_are_bounded_too(
    site: Site, client: HttpClient, path: str, errcode: str
) -> None:
    request = HttpRequest(
        method="GET", url=site.url(path), long_lists=("state",), max_bytes=100_000
    )
    with pytest.raises(BadInput) as caught:
        await client.send(request)
    assert caught.value.errcode == errcode


async def test_a_page_instead_of_long_lists_is_no_json(site: Site, client: HttpClient) -> None:
    request = HttpRequest(method="GET", url=site.url("/page"), long_lists=("state",))
    with pytest.raises(BadInput) as caught:
        await client.send(request)
    assert caught.value.errcode == "M_NOT_JSON"


async def test_the_path_is_sent_byte_by_byte(site: Site, client: HttpClient) -> None:
    await client.send(HttpRequest(method="GET", url=site.url("/%21a%2Fb%40c?x=%21&y=a+b")))
    assert site.asked[0].target == "/%21a%2Fb%40c?x=%21&y=a+b"
    assert site.asked[0].params == {"segment": "!a/b@c"}


async def test_an_unknown_authority_is_not_trusted(site: Site, dns: DnsTable) -> None:
    async with client_of(dns, None) as client:
        with pytest.raises(Unavailable, match="cannot connect"):
            await client.send(HttpRequest(method="GET", url=site.url()))
    assert site.asked == []


async def test_a_certificate_for_another_name_is_not_trusted(
    site: Site, client: HttpClient
) -> None:
    with pytest.raises(Unavailable, match="cannot connect"):
        await client.send(HttpRequest(method="GET", url=site.url(host="other.example")))
    assert site.asked == []


async def test_a_private_address_is_refused_however_it_is_reached(
    site: Site, dns: DnsTable, ca: PrivateCa
) -> None:
    async with client_of(dns, ca, AddressPolicy()) as client:
        for request in (
            HttpRequest(method="GET", url=site.url()),
            HttpRequest(method="GET", url=site.url(host="127.0.0.1")),
            HttpRequest(method="GET", url=site.url(host="[::ffff:127.0.0.1]")),
            HttpRequest(
                method="GET",
                url=site.url(),
                connect_to=[Endpoint(host="127.0.0.1", port=site.port)],
            ),
        ):
            with pytest.raises(Refused) as caught:
                await client.send(request)
            assert caught.value.rule == "private_address"
    assert site.asked == []


class Rebinding:
    """Fits `Resolver`: harmless at the first look, private ever after."""

    def __init__(self, first: str, later: str) -> None:
        self._first, self._later = first, later
        self.looks = 0

    async def addresses(self, host: str) -> tuple[str, ...]:
        self.looks += 1
        return (self._first if self.looks == 1 else self._later,)

    async def services(self, name: str) -> tuple[Service, ...]:
        return ()


async def test_the_address_that_was_checked_is_the_one_that_is_dialled(
    site: Site, ca: PrivateCa
) -> None:
    resolver = Rebinding("127.0.0.1", "10.0.0.1")
    client = HttpClient(resolver=resolver, policy=LOOPBACK, extra_ca=ca.path)
    try:
        for _ in range(2):  # The second time by the connection that stands.
            assert (await client.send(HttpRequest(method="GET", url=site.url()))).status == 200
            assert resolver.looks == 1
        for url in (site.url(host="other.example"), f"https://m.example:{site.port + 1}/"):
            with pytest.raises(Refused) as caught:
                await client.send(HttpRequest(method="GET", url=url))
            assert caught.value.rule == "private_address"
    finally:
        await client.close()


async def test_connecting_elsewhere_keeps_host_and_certificate(
    site: Site, client: HttpClient, dns: DnsTable
) -> None:
    dns.add_address("target.example", "127.0.0.1")
    answer = await client.send(
        HttpRequest(
            method="GET",
            url="https://m.example/hello",
            headers={"Host": "m.example"},
            connect_to=[Endpoint(host="target.example", port=site.port)],
            certificate_name="m.example",
        )
    )
    assert answer.status == 200
    assert site.asked[0].headers["host"] == "m.example"


async def test_a_connection_proven_for_one_name_is_not_used_for_another(
    site: Site, client: HttpClient
) -> None:
    endpoint = [Endpoint(host="127.0.0.1", port=site.port)]
    first = HttpRequest(
        method="GET", url=site.url(), connect_to=endpoint, certificate_name="m.example"
    )
    await client.send(first)
    with pytest.raises(Unavailable, match="cannot connect"):
        await client.send(
            HttpRequest(
                method="GET",
                url="https://other.example/hello",
                connect_to=endpoint,
                certificate_name="other.example",
            )
        )
    assert len(site.asked) == 1


async def test_the_next_endpoint_is_tried_when_one_cannot_be_connected_to(
    site: Site, client: HttpClient, unused_port: int
) -> None:
    answer = await client.send(
        HttpRequest(
            method="GET",
            url=site.url(),
            connect_to=[
                Endpoint(host="127.0.0.1", port=unused_port),
                Endpoint(host="nowhere.example", port=site.port),
                Endpoint(host="127.0.0.1", port=site.port),
            ],
            certificate_name="m.example",
        )
    )
    assert answer.status == 200


async def test_an_address_literal_needs_a_certificate_for_the_address(
    ca: PrivateCa, client: HttpClient
) -> None:
    async with serving(ca, "127.0.0.1") as site:
        answer = await client.send(HttpRequest(method="GET", url=site.url(host="127.0.0.1")))
        assert answer.status == 200
        with pytest.raises(Unavailable):
            await client.send(HttpRequest(method="GET", url=site.url(host="m.example")))


@pytest.mark.parametrize("path", ["/long", "/bomb"])
async def test_an_answer_over_the_bound_is_bad_input(
    site: Site, client: HttpClient, path: str
) -> None:
    with pytest.raises(BadInput) as caught:
        await client.send(HttpRequest(method="GET", url=site.url(path), max_bytes=4999))
    assert caught.value.errcode == "M_TOO_LARGE"


async def test_an_answer_at_the_bound_is_taken(site: Site, client: HttpClient) -> None:
    answer = await client.send(HttpRequest(method="GET", url=site.url("/long"), max_bytes=5000))
    assert len(answer.body) == 5000


async def test_an_answer_that_does_not_come_is_unavailable(site: Site, client: HttpClient) -> None:
    with pytest.raises(Unavailable, match=r"within 0\.05 s"):
        await client.send(HttpRequest(method="GET", url=site.url("/never"), timeout_s=0.05))


async def test_a_page_is_not_json(site: Site, client: HttpClient) -> None:
    answer = await client.send(HttpRequest(method="GET", url=site.url("/page")))
    with pytest.raises(BadInput):
        answer.json()


async def test_redirects_are_not_followed_unless_asked_for(site: Site, client: HttpClient) -> None:
    answer = await client.send(HttpRequest(method="GET", url=site.url("/moved")))
    assert answer.status == 302
    followed = HttpRequest(
        method="GET",
        url=site.url("/moved"),
        headers={"Authorization": "secret", "Accept": "application/json"},
        max_redirects=1,
    )
    assert (await client.send(followed)).json() == {"hello": "world"}
    assert "authorization" not in site.asked[-1].headers
    assert site.asked[-1].headers["accept"] == "application/json"


async def test_redirects_are_bounded(site: Site, client: HttpClient) -> None:
    with pytest.raises(Refused, match="too many redirects"):
        await client.send(HttpRequest(method="GET", url=site.url("/loop"), max_redirects=3))
    assert len(site.asked) == 4


async def test_a_redirect_away_from_https_is_refused(site: Site, client: HttpClient) -> None:
    with pytest.raises(Refused, match="away from https"):
        await client.send(HttpRequest(method="GET", url=site.url("/plain"), max_redirects=3))


async def test_a_redirect_to_a_private_address_is_refused(site: Site, client: HttpClient) -> None:
    with pytest.raises(Refused) as caught:
        await client.send(HttpRequest(method="GET", url=site.url("/inside"), max_redirects=3))
    assert caught.value.rule == "private_address"


async def test_a_plain_server_is_no_tls_server(ca: PrivateCa, client: HttpClient) -> None:
    async with serving(ca, tls=False) as site:
        with pytest.raises(Unavailable):
            await client.send(HttpRequest(method="GET", url=site.url()))


@pytest.mark.parametrize("url", ["ftp://m.example/", "https:///x", "//m.example", "https://[::1/"])
async def test_what_is_no_http_url_is_bad_input(client: HttpClient, url: str) -> None:
    with pytest.raises(BadInput):
        await client.send(HttpRequest(method="GET", url=url))


async def test_a_server_that_speaks_something_else_is_an_error_of_ours(
    client: HttpClient,
) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 smtp.example ready\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises((BadInput, Unavailable)):
            await client.send(HttpRequest(method="GET", url=f"http://127.0.0.1:{port}/"))


def test_an_unreadable_authority_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        trusting(tmp_path / "none.pem", setting="federation.authority")
    assert caught.value.setting == "federation.authority"


@pytest.fixture
async def unused_port() -> int:
    """A port where nobody listens."""
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port
