"""A peer over real DNS, TLS and HTTP: what we ask, how it is signed, what its answers mean."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bridge.clock import SystemClock
from bridge.engine.keys import SigningKey
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.federation.client.discovery import Discovery
from bridge.federation.client.requests import AnswerLimits, PeerRequests
from bridge.federation.client.transport import Transport
from bridge.federation.xmatrix import parse_xmatrix, verify_request
from bridge.ids import EventId, RoomAlias, RoomId, RoomVersionId, ServerName, UserId
from bridge.net.addresses import AddressPolicy, parse_networks
from bridge.net.client import HttpClient
from bridge.net.dns import DnsResolver
from bridge.rooms.network import Peers
from bridge.web.application import Listener, Request, Response, Route, WebServer
from tests.support.dns import DnsTable, dns_server
from tests.support.tls import PrivateCa

KEY = SigningKey.from_seed("k", bytes(range(32)))
US = ServerName("us.example")
PEER = ServerName("peer.example")
ROOM = RoomId("!room/with?marks:peer.example")
EVENT = EventId("$event+/id")
ALICE = UserId("@alice:us.example")
V10 = RoomVersionId("10")
JOIN = {"type": "m.room.member", "content": {"membership": "join"}}

METHODS = ("GET", "PUT", "POST")


@dataclass
class Peer:
    """Answers by method and template; every request is checked for our signature."""

    answers: dict[str, Response] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)
    unsigned: set[str] = field(default_factory=set)

    def give(self, path: str, json: Any = None, *, status: int = 200, **more: Any) -> None:
        self.answers[path] = Response(status=status, json=json, **more)

    def error(self, path: str, status: int, errcode: str, **more: Any) -> None:
        self.give(path, {"errcode": errcode, "error": "no", **more}, status=status)

    def endpoint(self, path: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            self.asked.append(request)
            if "authorization" in request.headers:
                verify_request(
                    parse_xmatrix(request.headers["authorization"]),
                    method=request.method,
                    target=request.target,
                    own_name=PEER,
                    content=request.json() if request.body else None,
                    verify_key=KEY.verify_key_base64,
                )
            else:
                self.unsigned.add(path)
            return self.answers.get(path, Response(status=404, body=b"not here"))

        return answer

    @property
    def last(self) -> Request:
        return self.asked[-1]


PATHS = {
    "make_join": "/_matrix/federation/v1/make_join/{room}/{user}",
    "send_join": "/_matrix/federation/v2/send_join/{room}/{event}",
    "send_join_v1": "/_matrix/federation/v1/send_join/{room}/{event}",
    "make_knock": "/_matrix/federation/v1/make_knock/{room}/{user}",
    "send_knock": "/_matrix/federation/v1/send_knock/{room}/{event}",
    "make_leave": "/_matrix/federation/v1/make_leave/{room}/{user}",
    "send_leave": "/_matrix/federation/v2/send_leave/{room}/{event}",
    "send_leave_v1": "/_matrix/federation/v1/send_leave/{room}/{event}",
    "invite": "/_matrix/federation/v2/invite/{room}/{event}",
    "invite_v1": "/_matrix/federation/v1/invite/{room}/{event}",
    "send": "/_matrix/federation/v1/send/{txn}",
    "event": "/_matrix/federation/v1/event/{event}",
    "state": "/_matrix/federation/v1/state/{room}",
    "state_ids": "/_matrix/federation/v1/state_ids/{room}",
    "event_auth": "/_matrix/federation/v1/event_auth/{room}/{event}",
    "backfill": "/_matrix/federation/v1/backfill/{room}",
    "get_missing_events": "/_matrix/federation/v1/get_missing_events/{room}",
    "profile": "/_matrix/federation/v1/query/profile",
    "directory": "/_matrix/federation/v1/query/directory",
    "public_rooms": "/_matrix/federation/v1/publicRooms",
    "version": "/_matrix/federation/v1/version",
}


@dataclass
class World:
    peer: Peer
    dns: DnsTable
    server: WebServer
    requests: PeerRequests


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """`peer.example` is found by SRV: no .well-known answers, since nobody listens there."""
    peer = Peer()
    ca = PrivateCa(tmp_path)
    files = ca.issue("peer.example")
    server = WebServer(
        routes=[
            Route(method=method, path=path, endpoint=peer.endpoint(name))
            for name, path in PATHS.items()
            for method in METHODS
        ],
        listeners=[
            Listener(
                host="127.0.0.1",
                port=0,
                certificate=files.certificate,
                private_key=files.private_key,
            )
        ],
    )
    await server.start()
    async with dns_server() as dns:
        dns.add_address("target.example", "127.0.0.1")
        dns.add_service("_matrix-fed._tcp.peer.example", "target.example", server.addresses[0][1])
        resolver = DnsResolver(nameserver=dns.address, timeout_s=2.0)
        client = HttpClient(
            resolver=resolver,
            policy=AddressPolicy(allowed=parse_networks(["127.0.0.0/8"], setting="test")),
            extra_ca=ca.path,
        )
        clock = SystemClock()
        transport = Transport(
            own_name=US,
            key=KEY,
            client=client,
            discovery=Discovery(client=client, resolver=resolver, clock=clock),
            clock=clock,
        )
        limits = AnswerLimits(usual_bytes=10_000, room_bytes=20_000, small_bytes=1000)
        requests = PeerRequests(transport=transport, clock=clock, limits=limits)
        yield World(peer, dns, server, requests)
        await client.close()
        await resolver.close()
    await server.stop()


async def test_a_request_goes_where_discovery_says_with_the_name_it_is_for(world: World) -> None:
    world.peer.give("version", {"server": {"name": "Other", "version": "1", "odd": 3}})
    assert await world.requests.version(PEER) == {"name": "Other", "version": "1"}
    assert world.peer.last.headers["host"] == "peer.example"
    assert world.peer.unsigned == {"version"}


async def test_make_join_asks_with_our_versions(world: World) -> None:
    world.peer.give("make_join", {"room_version": "10", "event": JOIN})
    made = await world.requests.make_join(PEER, ROOM, ALICE, [V10, RoomVersionId("I.1")])
    assert made == ("10", JOIN)
    assert world.peer.last.params == {"room": ROOM, "user": ALICE}
    assert world.peer.last.query_all("ver") == ("10", "I.1")
    assert world.peer.unsigned == set()


async def test_a_template_without_version_is_of_version_1(world: World) -> None:
    world.peer.give("make_leave", {"event": JOIN})
    assert await world.requests.make_leave(PEER, ROOM, ALICE) == ("1", JOIN)


async def test_send_join_brings_state_and_auth_chain(world: World) -> None:
    answer = {"state": [{"a": 1}], "auth_chain": [], "event": JOIN}
    world.peer.give("send_join", answer)
    assert await world.requests.send_join(PEER, ROOM, EVENT, JOIN) == answer
    assert world.peer.last.params == {"room": ROOM, "event": EVENT}
    assert world.peer.last.json() == JOIN


async def test_send_join_falls_back_to_v1(world: World) -> None:
    answer: dict[str, Any] = {"state": [], "auth_chain": []}
    world.peer.give("send_join_v1", [200, answer])
    assert await world.requests.send_join(PEER, ROOM, EVENT, JOIN) == answer


async def test_send_join_does_not_fall_back_when_the_peer_says_no(world: World) -> None:
    world.peer.error("send_join", 403, "M_FORBIDDEN")
    with pytest.raises(Refused) as caught:
        await world.requests.send_join(PEER, ROOM, EVENT, JOIN)
    assert caught.value.errcode == "M_FORBIDDEN"
    assert len(world.peer.asked) == 1


async def test_a_knock_tells_what_it_is_about(world: World) -> None:
    world.peer.give("make_knock", {"room_version": "10", "event": JOIN})
    assert await world.requests.make_knock(PEER, ROOM, ALICE, [V10]) == ("10", JOIN)
    assert world.peer.last.query_all("ver") == ("10",)
    state = [{"type": "m.room.name"}, 3, None]
    world.peer.give("send_knock", {"knock_room_state": state})
    assert await world.requests.send_knock(PEER, ROOM, EVENT, JOIN) == state[:1]
    assert world.peer.last.json() == JOIN
    odds: tuple[Any, ...] = ({}, [], {"knock_room_state": "none"})
    for odd in odds:
        world.peer.give("send_knock", odd)
        assert await world.requests.send_knock(PEER, ROOM, EVENT, JOIN) == []


async def test_send_leave_falls_back_to_v1(world: World) -> None:
    world.peer.error("send_leave", 404, "M_UNRECOGNIZED")
    world.peer.give("send_leave_v1", [200, {}])
    await world.requests.send_leave(PEER, ROOM, EVENT, JOIN)
    assert len(world.peer.asked) == 2


async def test_an_invite_brings_version_and_state_and_comes_back_signed(world: World) -> None:
    world.peer.give("invite", {"event": {**JOIN, "signatures": {}}})
    state = [{"type": "m.room.create"}]
    signed = await world.requests.invite(PEER, ROOM, EVENT, JOIN, V10, state)
    assert signed == {**JOIN, "signatures": {}}
    assert world.peer.last.json() == {
        "event": JOIN,
        "room_version": "10",
        "invite_room_state": state,
    }


async def test_an_invite_falls_back_to_v1_where_v1_can_mean_the_version(world: World) -> None:
    world.peer.give("invite_v1", [200, {"event": JOIN}])
    state = [{"type": "m.room.create"}]
    invite = {**JOIN, "unsigned": {"age": 1}}
    one = RoomVersionId("1")
    assert await world.requests.invite(PEER, ROOM, EVENT, invite, one, state) == JOIN
    assert world.peer.last.json() == {
        **JOIN,
        "unsigned": {"age": 1, "invite_room_state": state},
    }


async def test_a_peer_without_v2_invites_cannot_take_part_in_newer_rooms(world: World) -> None:
    world.peer.give("invite_v1", [200, {"event": JOIN}])
    with pytest.raises(Refused) as caught:
        await world.requests.invite(PEER, ROOM, EVENT, JOIN, V10, [])
    assert caught.value.errcode == "M_UNSUPPORTED_ROOM_VERSION"
    assert len(world.peer.asked) == 1


async def test_a_transaction_tells_which_pdus_were_refused(world: World) -> None:
    world.peer.give("send", {"pdus": {"$a": {}, "$b": {"error": "not allowed"}, "$c": 7}})
    refused = await world.requests.send_transaction(
        PEER, "e/1", [JOIN], [{"edu_type": "m.typing"}], origin_server_ts=5
    )
    assert refused == {"$b": "not allowed"}
    assert world.peer.last.params == {"txn": "e/1"}
    assert world.peer.last.json() == {
        "origin": US,
        "origin_server_ts": 5,
        "pdus": [JOIN],
        "edus": [{"edu_type": "m.typing"}],
    }


async def test_a_transaction_has_arrived_only_when_the_peer_says_so_in_json(world: World) -> None:
    world.peer.give("send", body=b"<html>", content_type="text/html")
    with pytest.raises(Unavailable):
        await world.requests.send_transaction(PEER, "1", [], [])
    world.peer.give("send", {})
    assert await world.requests.send_transaction(PEER, "1", [], []) == {}


async def test_a_transaction_over_the_limits_is_a_mistake_of_ours(world: World) -> None:
    with pytest.raises(ValueError, match="over the limits"):
        await world.requests.send_transaction(PEER, "1", [JOIN] * 51, [])


async def test_a_list_of_rooms_is_asked_for(world: World) -> None:
    world.peer.give("public_rooms", {"chunk": []})
    ask = world.requests
    assert await ask.public_rooms(PEER, limit=5, since="t", network="irc") == {"chunk": []}
    assert world.peer.last.method == "GET"
    assert world.peer.last.query == [
        ("include_all_networks", "false"),
        ("limit", "5"),
        ("since", "t"),
        ("third_party_instance_id", "irc"),
    ]
    assert await ask.public_rooms(
        PEER, limit=0, term="tea", room_types=[None], all_networks=True
    ) == {"chunk": []}
    assert world.peer.last.method == "POST"
    assert world.peer.last.json() == {
        "include_all_networks": True,
        "filter": {"generic_search_term": "tea", "room_types": [None]},
    }
    world.peer.give("public_rooms", [])
    with pytest.raises(BadInput):
        await ask.public_rooms(PEER, limit=5)


async def test_the_graph_is_asked_for(world: World) -> None:
    world.peer.give("event", {"pdus": [JOIN]})
    world.peer.give("state", {"pdus": [JOIN], "auth_chain": [{}, {}]})
    world.peer.give("state_ids", {"pdu_ids": ["$a"], "auth_chain_ids": ["$b", "$c"]})
    world.peer.give("event_auth", {"auth_chain": [JOIN]})
    world.peer.give("backfill", {"pdus": [JOIN, JOIN, JOIN]})
    world.peer.give("get_missing_events", {"events": [JOIN]})
    ask = world.requests
    assert await ask.event(PEER, EVENT) == JOIN
    assert await ask.state(PEER, ROOM, EVENT) == ([JOIN], [{}, {}])
    assert world.peer.last.query == [("event_id", EVENT)]
    assert await ask.state_ids(PEER, ROOM, EVENT) == (["$a"], ["$b", "$c"])
    assert await ask.event_auth(PEER, ROOM, EVENT) == [JOIN]
    assert await ask.backfill(PEER, ROOM, [EVENT, EventId("$x")], 2) == [JOIN, JOIN]
    assert world.peer.last.query == [("v", EVENT), ("v", "$x"), ("limit", "2")]
    assert await ask.get_missing_events(PEER, ROOM, [EVENT], [EventId("$x")], 10) == [JOIN]
    assert world.peer.last.json() == {
        "earliest_events": [EVENT],
        "latest_events": ["$x"],
        "limit": 10,
        "min_depth": 0,
    }
    assert world.peer.unsigned == set()


async def test_queries_keep_what_makes_sense(world: World) -> None:
    world.peer.give("profile", {"displayname": "Alice", "avatar_url": None})
    world.peer.give("directory", {"room_id": "!r", "servers": ["a.example", 7, "b c", "a.example"]})
    ask: Peers = world.requests  # fits what rooms declare
    assert await ask.query_profile(PEER, ALICE) == {"displayname": "Alice"}
    assert await ask.query_profile(PEER, ALICE, "displayname") == {"displayname": "Alice"}
    assert world.peer.last.query == [("user_id", ALICE), ("field", "displayname")]
    alias = RoomAlias("#a b:peer.example")
    assert await ask.query_directory(PEER, alias) == ("!r", ["a.example"])
    assert world.peer.last.query_one("room_alias") == alias


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("event", {"pdus": []}),
        ("event", {"pdus": [JOIN, JOIN]}),
        ("event", {"pdus": ["$a"]}),
        ("event", {"pdus": {"0": JOIN}}),
        ("event", []),
        ("event", None),
        ("event", {"pdus": [{"pad": "x" * 10_000}]}),
    ],
)
async def test_an_answer_of_the_wrong_shape_or_size_is_bad_input(
    world: World, name: str, answer: Any
) -> None:
    world.peer.give(name, answer)
    with pytest.raises(BadInput):
        await world.requests.event(PEER, EVENT)


@pytest.mark.parametrize(
    "answer",
    [
        {"state": []},
        {"state": [], "auth_chain": [7]},
        {"state": [], "auth_chain": [], "event": []},
        {"state": [], "auth_chain": [], "members_omitted": True},
        {"state": [{"pad": "x" * 20_000}], "auth_chain": []},
    ],
)
async def test_a_join_of_the_wrong_shape_or_size_is_bad_input(world: World, answer: Any) -> None:
    world.peer.give("send_join", answer)
    with pytest.raises(BadInput):
        await world.requests.send_join(PEER, ROOM, EVENT, JOIN)


@pytest.mark.parametrize(
    ("status", "body", "kind", "errcode"),
    [
        (400, {"errcode": "M_UNSUPPORTED_ROOM_VERSION"}, Refused, "M_UNSUPPORTED_ROOM_VERSION"),
        (401, {"errcode": "M_UNAUTHORIZED"}, Refused, "M_UNAUTHORIZED"),
        (403, {"errcode": "M_FORBIDDEN"}, Refused, "M_FORBIDDEN"),
        (404, {"errcode": "M_NOT_FOUND"}, NotFound, "M_NOT_FOUND"),
        (404, {"errcode": "M_UNRECOGNIZED"}, Refused, "M_UNRECOGNIZED"),
        (404, {}, Refused, "M_UNRECOGNIZED"),
        (405, [], Refused, "M_UNRECOGNIZED"),
        (400, {"errcode": 7, "error": 7}, Refused, "M_UNKNOWN"),
        (429, {"errcode": "M_LIMIT_EXCEEDED"}, Unavailable, "M_LIMIT_EXCEEDED"),
        (500, {"errcode": "M_UNKNOWN"}, Unavailable, "M_UNKNOWN"),
        (502, None, Unavailable, "M_LIMIT_EXCEEDED"),
        (302, {}, Unavailable, "M_LIMIT_EXCEEDED"),
        (202, {}, Unavailable, "M_LIMIT_EXCEEDED"),
    ],
)
async def test_the_status_decides_whether_it_is_final(
    world: World, status: int, body: Any, kind: type[IsthmusError], errcode: str
) -> None:
    world.peer.give("event_auth", body, status=status)
    with pytest.raises(IsthmusError) as caught:
        await world.requests.event_auth(PEER, ROOM, EVENT)
    assert type(caught.value) is kind
    assert caught.value.errcode == errcode


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, "", NotFound),  # what a Synapse says of an event that it does not have
        (404, {"errcode": "M_NOT_FOUND"}, NotFound),
        (403, {"errcode": "M_FORBIDDEN"}, Refused),
    ],
)
async def test_an_event_that_a_peer_does_not_have_is_not_found(
    world: World, status: int, body: Any, kind: type[IsthmusError]
) -> None:
    world.peer.give("event", body, status=status)
    with pytest.raises(kind):
        await world.requests.event(PEER, EVENT)


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ({"retry_after_ms": 1500}, {"Retry-After": "9"}, 1.5),
        ({}, {"Retry-After": "9"}, 9.0),
        ({"retry_after_ms": "soon"}, {}, None),
        ({"retry_after_ms": True}, {}, None),
        ({"retry_after_ms": -5}, {}, 0.0),
        ({"retry_after_ms": 1e300}, {}, 86400.0),
        ({}, {"Retry-After": "Tue, 14 Nov 2023 23:13:20 GMT"}, None),
    ],
)
async def test_a_peer_says_how_long_to_wait(
    world: World, body: Any, headers: dict[str, str], seconds: float | None
) -> None:
    world.peer.give("event", body, status=429, headers=headers)
    with pytest.raises(Unavailable) as caught:
        await world.requests.event(PEER, EVENT)
    assert caught.value.retry_after_s == seconds


async def test_a_peer_that_is_nowhere_is_unavailable(world: World) -> None:
    with pytest.raises(Unavailable):
        await world.requests.event(ServerName("nowhere.example"), EVENT)


async def test_a_peer_at_a_private_address_is_unavailable_not_refused(world: World) -> None:
    with pytest.raises(Unavailable, match="not a public address"):
        await world.requests.event(ServerName("10.0.0.1"), EVENT)


async def test_a_peer_whose_certificate_is_of_another_name_is_unavailable(world: World) -> None:
    port = world.server.addresses[0][1]
    world.dns.add_service("_matrix-fed._tcp.thief.example", "target.example", port)
    with pytest.raises(Unavailable):
        await world.requests.event(ServerName("thief.example"), EVENT)
    assert world.peer.asked == []


async def test_we_do_not_ask_ourselves(world: World) -> None:
    with pytest.raises(Refused):
        await world.requests.event(US, EVENT)
