"""Every federation endpoint over real HTTPS: who may ask, what is refused, and what is answered.

Good and bad answers are held against the OpenAPI files of the specification.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bridge.demo.servers import CertificateAuthority
from bridge.engine.canonical import encode_canonical
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.signing import check_json_signature
from bridge.engine.versions import get_version
from bridge.federation.server.routes import federation_routes
from bridge.federation.xmatrix import sign_request
from bridge.ids import EventId, RoomAlias, RoomId, RoomVersionId, ServerName, UserId
from bridge.net.client import HttpRequest, HttpResponse
from bridge.rooms.network import UserProfile
from bridge.rooms.public_rooms import ListQuery
from bridge.web.routing import RouteTable
from tests.support.matrix_side import MatrixSide, matrix_sides, until
from tests.support.openapi import anonymous, complaints

V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
V12 = get_version(RoomVersionId("12"))


@dataclass
class World:
    """`us` is asked by `peer`, whose bob is in alice's room; `outsider` is in none."""

    us: MatrixSide
    peer: MatrixSide
    outsider: MatrixSide
    room: RoomId
    said: EventId
    alice: UserId
    bob: UserId

    async def ask(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        by: MatrixSide | None = None,
        key: SigningKey | None = None,
        origin: ServerName | None = None,
        destination: ServerName | None = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> HttpResponse:
        """Signed by `by` (the peer), with whatever the test wants to be wrong about it."""
        asker = by or self.peer
        if headers is None:
            signed = sign_request(
                method=method,
                target=target,
                origin=origin or asker.name,
                destination=destination or self.us.name,
                content=body,
                key=key or asker.key,
            )
            headers = {"Authorization": signed.header()}
        data = raw if raw is not None else None if body is None else encode_canonical(body)
        return await asker.running.client.send(
            HttpRequest(
                method=method,
                url=f"https://{self.us.name}{target}",
                headers=headers,
                body=data,
                max_bytes=10 << 20,
            )
        )

    async def good(self, method: str, target: str, template: str, body: Any = None) -> Any:
        """The answer of a request that works, as the specification describes it."""
        answer = await self.ask(method, target, body)
        assert answer.status == 200, answer.body
        assert complaints(method, template, 200, answer.json()) == []
        return answer.json()

    async def bad(
        self, method: str, target: str, template: str, body: Any = None, **more: Any
    ) -> tuple[int, str]:
        """Status and error code of a request that does not."""
        answer = await self.ask(method, target, body, **more)
        assert answer.status >= 400, answer.body
        assert complaints(method, template, answer.status, answer.json()) == []
        return answer.status, answer.json()["errcode"]


@asynccontextmanager
async def world_of(
    certificates: CertificateAuthority, folder: Path, template: Path
) -> AsyncIterator[World]:
    async with matrix_sides(certificates, folder, template, 3) as (us, peer, outsider):
        alice, bob = us.user("alice"), peer.user("bob")
        room = await us.create_room(
            alice, public=True, name="Garden", alias=RoomAlias(f"#garden:{us.name}")
        )
        await peer.join(room, bob, us.name)
        said = await us.say(room, alice, "hello")
        await peer.wait_for_bodies(room, ["hello"])
        yield World(us, peer, outsider, room, said, alice, bob)


def enc(text: str) -> str:
    return quote(text, safe="")


def signed_targets(world: World) -> list[tuple[str, str, Any]]:
    """One request for each endpoint that wants to know who asks."""
    room, said, bob = enc(world.room), enc(world.said), enc(world.bob)
    return [
        ("PUT", f"{V1}/send/t1", {"origin": world.peer.name, "origin_server_ts": 1, "pdus": []}),
        ("GET", f"{V1}/event_auth/{room}/{said}", None),
        ("GET", f"{V1}/backfill/{room}?v={said}&limit=5", None),
        ("POST", f"{V1}/get_missing_events/{room}", {"earliest_events": [], "latest_events": []}),
        ("GET", f"{V1}/event/{said}", None),
        ("GET", f"{V1}/state/{room}?event_id={said}", None),
        ("GET", f"{V1}/state_ids/{room}?event_id={said}", None),
        ("GET", f"{V1}/make_join/{room}/{bob}?ver=12", None),
        ("PUT", f"{V1}/send_join/{room}/{said}", {}),
        ("PUT", f"{V2}/send_join/{room}/{said}", {}),
        ("PUT", f"{V1}/invite/{room}/{said}", {}),
        ("PUT", f"{V2}/invite/{room}/{said}", {}),
        ("GET", f"{V1}/make_knock/{room}/{bob}?ver=12", None),
        ("PUT", f"{V1}/send_knock/{room}/{said}", {}),
        ("GET", f"{V1}/make_leave/{room}/{bob}", None),
        ("PUT", f"{V1}/send_leave/{room}/{said}", {}),
        ("PUT", f"{V2}/send_leave/{room}/{said}", {}),
        ("PUT", f"{V1}/exchange_third_party_invite/{room}", {}),
        ("GET", f"{V1}/timestamp_to_event/{room}?ts=1&dir=f", None),
        ("GET", f"{V1}/publicRooms?limit=1", None),
        ("POST", f"{V1}/publicRooms", {}),
        ("GET", f"{V1}/hierarchy/{room}", None),
        ("GET", f"{V1}/query/directory?room_alias={enc('#garden:' + world.us.name)}", None),
        ("GET", f"{V1}/query/profile?user_id={enc(world.alice)}", None),
        ("GET", f"{V1}/user/devices/{enc(world.alice)}", None),
        ("POST", f"{V1}/user/keys/claim", {"one_time_keys": {}}),
        ("POST", f"{V1}/user/keys/query", {"device_keys": {}}),
        ("GET", f"{V1}/media/download/abc", None),
        ("GET", f"{V1}/media/thumbnail/abc?width=32&height=32", None),
    ]


async def test_only_who_proves_its_name_is_answered(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        other_key = SigningKey.from_seed("k1", b"x" * 32)
        unknown_key = SigningKey.from_seed("k2", b"x" * 32)
        targets = signed_targets(world)
        for method, target, body in targets:
            wrongs: Sequence[dict[str, Any]] = (
                {"headers": {}},
                {"headers": {"Authorization": "Bearer secret"}},
                {"headers": {"Authorization": "X-Matrix origin=nobody"}},
                {"key": other_key},
                {"key": unknown_key},
                {"destination": world.outsider.name},
            )
            for wrong in wrongs:
                answer = await world.ask(method, target, body, **wrong)
                assert (answer.status, answer.json()["errcode"]) == (401, "M_UNAUTHORIZED"), (
                    target,
                    wrong,
                )
        # What was signed is not what was sent.
        for method, target, _ in targets:
            headers = sign_request(
                method=method,
                target=target + "x",
                origin=world.peer.name,
                destination=world.us.name,
                content=None,
                key=world.peer.key,
            ).header()
            answer = await world.ask(method, target, headers={"Authorization": headers})
            assert answer.status == 401
        assert await world.us.bodies(world.room) == ["hello"]


async def test_every_signed_endpoint_of_the_table_is_tried(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    class Nothing:
        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

    nothing: Any = Nothing()
    routes = federation_routes(
        authentication=nothing,
        keys=nothing,
        notary=nothing,
        transactions=nothing,
        events=nothing,
        membership=nothing,
        queries=nothing,
        people=nothing,
        room_lists=nothing,
        media=nothing,
    )
    table = {(route.method, anonymous(route.path)) for route in routes}
    by_path = RouteTable(routes)
    keys = "/_matrix/key/v2"
    open_to_anybody = {
        ("GET", f"{V1}/version"),
        ("GET", f"{keys}/server"),
        ("GET", f"{keys}/server/{{}}"),
        ("POST", f"{keys}/query"),
        ("GET", f"{keys}/query/{{}}"),
        ("GET", f"{keys}/query/{{}}/{{}}"),
        ("GET", f"{V1}/openid/userinfo"),
    }
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        tried = set()
        for method, target, _ in signed_targets(world):
            route, _ = by_path.find(target.partition("?")[0])[method]
            tried.add((method, anonymous(route.path)))
    assert tried | open_to_anybody == table


async def test_an_unknown_path_or_method_is_unrecognized(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        for method, target, status in (
            ("GET", f"{V1}/nothing", 404),
            ("GET", f"{V1}/query/nothing?x=1", 404),
            ("GET", "/_matrix/federation/v3/version", 404),
            ("GET", f"{V1}/make_join/{enc(world.room)}", 404),
            ("GET", f"{V1}/version/", 404),
            ("POST", f"{V1}/version", 405),
            ("DELETE", f"{V1}/send/t1", 405),
            ("GET", f"{V2}/invite/{enc(world.room)}/x", 405),
        ):
            answer = await world.ask(method, target)
            assert (answer.status, answer.json()["errcode"]) == (status, "M_UNRECOGNIZED"), target


async def test_keys_and_version_are_open_to_anybody(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        answer = await world.ask("GET", "/_matrix/key/v2/server", headers={})
        keys = answer.json()
        assert complaints("GET", "/_matrix/key/v2/server", 200, keys) == []
        assert keys["server_name"] == world.us.name
        assert keys["verify_keys"] == {"ed25519:k1": {"key": world.us.key.verify_key_base64}}
        assert check_json_signature(
            keys,
            server=world.us.name,
            key_id=world.us.key.key_id,
            verify_key=world.us.key.verify_key_base64,
        )
        keys_of = "/_matrix/key/v2"
        older = await world.ask("GET", f"{keys_of}/server/ed25519:k1", headers={})
        assert older.json()["verify_keys"] == keys["verify_keys"]
        # As the notary of the peer, whose keys are fetched over HTTPS, and of ourselves.
        for name in (world.peer.name, world.us.name):
            for path in (enc(name), f"{enc(name)}/ed25519:k1"):
                answer = await world.ask("GET", f"{keys_of}/query/{path}", headers={})
                assert complaints("GET", f"{keys_of}/query/{{}}", 200, answer.json()) == []
                (entry,) = answer.json()["server_keys"]
                assert entry["server_name"] == name
                assert set(entry["signatures"]) == {name, world.us.name}
        asked: Any = {"server_keys": {world.peer.name: {"ed25519:k1": {}}, world.us.name: {}}}
        answer = await world.ask("POST", f"{keys_of}/query", asked, headers={})
        assert complaints("POST", f"{keys_of}/query", 200, answer.json()) == []
        assert len(answer.json()["server_keys"]) == 2
        for method, path, body, code in (
            ("POST", "query", {}, "M_BAD_JSON"),
            ("POST", "query", [], "M_BAD_JSON"),
            ("GET", f"query/{enc(world.peer.name)}?minimum_valid_until_ts=x", None, None),
            ("GET", "query/..%2f..", None, None),
        ):
            answer = await world.ask(method, f"{keys_of}/{path}", body, headers={})
            assert answer.status == 400
            assert code in (None, answer.json()["errcode"])
        answer = await world.ask("GET", f"{V1}/version", headers={})
        assert complaints("GET", f"{V1}/version", 200, answer.json()) == []
        assert answer.json()["server"]["name"] == "Isthmus"


async def test_events_state_and_graph_are_answered_to_members(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        room, said = enc(world.room), enc(world.said)
        one = await world.good("GET", f"{V1}/event/{said}", f"{V1}/event/{{}}")
        assert one["origin"] == world.us.name
        assert Pdu.parse(one["pdus"][0], V12).event_id == world.said

        state = await world.good("GET", f"{V1}/state/{room}?event_id={said}", f"{V1}/state/{{}}")
        ids = await world.good(
            "GET", f"{V1}/state_ids/{room}?event_id={said}", f"{V1}/state_ids/{{}}"
        )
        assert {Pdu.parse(one, V12).event_id for one in state["pdus"]} == set(ids["pdu_ids"])
        assert {Pdu.parse(one, V12).event_id for one in state["auth_chain"]} == set(
            ids["auth_chain_ids"]
        )
        members = [one for one in state["pdus"] if one["type"] == "m.room.member"]
        assert {one["state_key"] for one in members} == {world.alice, world.bob}

        auth = await world.good(
            "GET", f"{V1}/event_auth/{room}/{said}", f"{V1}/event_auth/{{}}/{{}}"
        )
        assert "m.room.power_levels" in {one["type"] for one in auth["auth_chain"]}

        back = await world.good(
            "GET", f"{V1}/backfill/{room}?v={said}&limit=3", f"{V1}/backfill/{{}}"
        )
        assert len(back["pdus"]) == 3
        assert Pdu.parse(back["pdus"][0], V12).event_id == world.said

        last = [await world.us.say(world.room, world.alice, text) for text in "abc"][-1]
        missing = await world.good(
            "POST",
            f"{V1}/get_missing_events/{room}",
            f"{V1}/get_missing_events/{{}}",
            {"earliest_events": [world.said], "latest_events": [last], "limit": 10, "min_depth": 1},
        )
        assert [one["content"]["body"] for one in missing["events"]] == ["a", "b"]


async def test_the_event_at_a_time_is_found(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        base, template = (
            f"{V1}/timestamp_to_event/{enc(world.room)}",
            f"{V1}/timestamp_to_event/{{}}",
        )
        first = await world.good("GET", f"{base}?ts=0&dir=f", template)
        create = await world.us.rooms.queries.state(world.room, "m.room.create")
        assert first["event_id"] == create[0].event_id
        last = await world.good("GET", f"{base}?ts={2**53 - 1}&dir=b", template)
        assert last["event_id"] == world.said
        for query, errcode in (
            ("", "M_MISSING_PARAM"),
            ("?ts=1", "M_MISSING_PARAM"),
            ("?dir=f", "M_MISSING_PARAM"),
            ("?ts=1&dir=x", "M_INVALID_PARAM"),
            ("?ts=-1&dir=f", "M_INVALID_PARAM"),
            ("?ts=soon&dir=f", "M_INVALID_PARAM"),
        ):
            assert await world.bad("GET", base + query, template) == (400, errcode)
        nothing = await world.bad("GET", f"{base}?ts={2**53 - 1}&dir=f", template)
        assert nothing == (404, "M_NOT_FOUND")


async def test_outsiders_and_the_unknown_get_nothing(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        room, said = enc(world.room), enc(world.said)
        nowhere = enc("!nowhere:" + world.us.name)
        nothing = enc("$nothing")
        for target, template in (
            (f"{V1}/event/{said}", f"{V1}/event/{{}}"),
            (f"{V1}/state/{room}?event_id={said}", f"{V1}/state/{{}}"),
            (f"{V1}/timestamp_to_event/{room}?ts=0&dir=f", f"{V1}/timestamp_to_event/{{}}"),
            (f"{V1}/state_ids/{room}?event_id={said}", f"{V1}/state_ids/{{}}"),
            (f"{V1}/event_auth/{room}/{said}", f"{V1}/event_auth/{{}}/{{}}"),
            (f"{V1}/backfill/{room}?v={said}&limit=3", f"{V1}/backfill/{{}}"),
        ):
            seen = await world.bad("GET", target, template, by=world.outsider)
            assert seen == (403, "M_FORBIDDEN"), target
        for target, template in (
            (f"{V1}/event/{nothing}", f"{V1}/event/{{}}"),
            (f"{V1}/state/{room}?event_id={nothing}", f"{V1}/state/{{}}"),
            (f"{V1}/state_ids/{nowhere}?event_id={said}", f"{V1}/state_ids/{{}}"),
            (f"{V1}/event_auth/{room}/{nothing}", f"{V1}/event_auth/{{}}/{{}}"),
            (f"{V1}/backfill/{nowhere}?v={said}&limit=3", f"{V1}/backfill/{{}}"),
        ):
            assert await world.bad("GET", target, template) == (404, "M_NOT_FOUND"), target


async def test_bad_parameters_are_named(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        room, said = enc(world.room), enc(world.said)
        cases: Sequence[tuple[str, str, str]] = (
            (f"{V1}/state/{room}", f"{V1}/state/{{}}", "M_MISSING_PARAM"),
            (f"{V1}/state_ids/{room}?event_id=x", f"{V1}/state_ids/{{}}", "M_INVALID_PARAM"),
            (f"{V1}/state/x?event_id={said}", f"{V1}/state/{{}}", "M_INVALID_PARAM"),
            (f"{V1}/event/x", f"{V1}/event/{{}}", "M_INVALID_PARAM"),
            (f"{V1}/event_auth/{room}/%FF", f"{V1}/event_auth/{{}}/{{}}", "M_INVALID_PARAM"),
            (f"{V1}/backfill/{room}?v={said}", f"{V1}/backfill/{{}}", "M_MISSING_PARAM"),
            (f"{V1}/backfill/{room}?limit=1", f"{V1}/backfill/{{}}", "M_MISSING_PARAM"),
            (f"{V1}/backfill/{room}?v={said}&limit=-1", f"{V1}/backfill/{{}}", "M_INVALID_PARAM"),
            (f"{V1}/backfill/{room}?v=x&limit=1", f"{V1}/backfill/{{}}", "M_INVALID_PARAM"),
            (f"{V1}/make_join/{room}/bob?ver=12", f"{V1}/make_join/{{}}/{{}}", "M_INVALID_PARAM"),
            (f"{V1}/query/profile", f"{V1}/query/profile", "M_MISSING_PARAM"),
            (f"{V1}/query/profile?user_id=x", f"{V1}/query/profile", "M_INVALID_PARAM"),
            (f"{V1}/query/directory", f"{V1}/query/directory", "M_MISSING_PARAM"),
            (f"{V1}/query/directory?room_alias=x", f"{V1}/query/directory", "M_INVALID_PARAM"),
            (f"{V1}/hierarchy/{room}?suggested_only=1", f"{V1}/hierarchy/{{}}", "M_INVALID_PARAM"),
            (f"{V1}/publicRooms?limit=-1", f"{V1}/publicRooms", "M_INVALID_PARAM"),
            (f"{V1}/publicRooms?since=x", f"{V1}/publicRooms", "M_INVALID_PARAM"),
            (f"{V1}/publicRooms?include_all_networks=1", f"{V1}/publicRooms", "M_INVALID_PARAM"),
        )
        for target, template, errcode in cases:
            assert await world.bad("GET", target, template) == (400, errcode), target
        missing = f"{V1}/get_missing_events/{room}"
        for body, errcode in (
            ({"latest_events": ["$a"]}, "M_INVALID_PARAM"),
            ({"earliest_events": [], "latest_events": ["x"]}, "M_INVALID_PARAM"),
            ({"earliest_events": [], "latest_events": [], "limit": "many"}, "M_INVALID_PARAM"),
        ):
            seen = await world.bad("POST", missing, f"{V1}/get_missing_events/{{}}", body)
            assert seen == (400, errcode), body
        lists = f"{V1}/publicRooms"
        wrongs: Sequence[dict[str, Any]] = (
            {"limit": "many"},
            {"limit": -1},
            {"since": 7},
            {"since": "bm9uZQ"},
            {"filter": []},
            {"filter": {"generic_search_term": 7}},
            {"filter": {"room_types": "m.space"}},
            {"filter": {"room_types": [7]}},
            {"include_all_networks": "yes"},
            {"third_party_instance_id": 7},
            {"include_all_networks": True, "third_party_instance_id": "xmpp"},
        )
        for wrong in wrongs:
            seen = await world.bad("POST", lists, lists, wrong)
            assert seen == (400, "M_INVALID_PARAM"), wrong
        assert await world.bad("POST", lists, lists, []) == (400, "M_BAD_JSON")


async def test_profiles_and_aliases_of_ours_are_told(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        world.us.people.profiles[world.alice] = UserProfile(displayname="Alice")
        profile, alice = f"{V1}/query/profile", enc(world.alice)
        whole = await world.good("GET", f"{profile}?user_id={alice}", profile)
        assert whole == {"displayname": "Alice"}
        one = await world.good("GET", f"{profile}?user_id={alice}&field=avatar_url", profile)
        assert one == {}
        for wrong in (world.us.user("no-body"), world.bob):
            seen = await world.bad("GET", f"{profile}?user_id={enc(wrong)}", profile)
            assert seen == (404, "M_NOT_FOUND")

        directory = f"{V1}/query/directory"
        alias = enc("#garden:" + world.us.name)
        found = await world.good("GET", f"{directory}?room_alias={alias}", directory)
        assert found["room_id"] == world.room
        assert world.us.name in found["servers"]
        for server in (world.us.name, world.peer.name):
            unknown = enc("#nothing:" + server)
            seen = await world.bad("GET", f"{directory}?room_alias={unknown}", directory)
            assert seen == (404, "M_NOT_FOUND")


async def test_published_rooms_are_listed_and_found(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        us, lists = world.us, f"{V1}/publicRooms"
        assert await world.good("GET", lists, lists) == {
            "chunk": [],
            "total_room_count_estimate": 0,
        }
        await us.rooms.public_rooms.publish(world.room, by=world.alice)
        topic = {"topic": "Roses & thorns"}
        await us.send(world.room, world.alice, "m.room.topic", topic, state_key="")
        avatar = {"url": "mxc://example.org/rose"}
        await us.send(world.room, world.alice, "m.room.avatar", avatar, state_key="")
        space = await us.create_room(
            us.user("carol"), public=True, listed=True, creation_content={"type": "m.space"}
        )
        garden = {
            "room_id": world.room,
            "num_joined_members": 2,
            "name": "Garden",
            "topic": "Roses & thorns",
            "canonical_alias": f"#garden:{us.name}",
            "avatar_url": "mxc://example.org/rose",
            "join_rule": "public",
            "world_readable": False,
            "guest_can_join": False,
        }
        first = await world.good("GET", f"{lists}?limit=1", lists)
        assert first.pop("next_batch")
        assert first == {"chunk": [garden], "total_room_count_estimate": 2}
        for wanted, rooms in (
            ({}, [world.room, space]),
            ({"generic_search_term": "ROSES garden"}, [world.room]),
            ({"generic_search_term": "tulips"}, []),
            ({"room_types": ["m.space"]}, [space]),
            ({"room_types": [None]}, [world.room]),
            ({"room_types": [None, "m.space"]}, [world.room, space]),
        ):
            found = await world.good("POST", lists, lists, {"limit": 5, "filter": wanted})
            assert [one["room_id"] for one in found["chunk"]] == rooms, wanted
        # As our own requests ask for it.
        name = us.name
        page = await world.peer.rooms.public_rooms.page_of(name, ListQuery(limit=1, term="rose"))
        assert [one.to_json() for one in page.rooms] == [garden]


async def test_a_space_and_its_children_are_told(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        us, path = world.us, f"{V1}/hierarchy/{{}}"
        space = await us.create_room(
            world.alice,
            public=True,
            name="Space",
            creation_content={"type": "m.space"},
            alias=RoomAlias(f"#space:{us.name}"),
        )
        secret = await us.create_room(us.user("carol"), name="Secret")
        for child in (world.room, secret, RoomId("!elsewhere")):
            await us.send(space, world.alice, "m.space.child", {"via": [us.name]}, state_key=child)
        told = await world.good("GET", f"{V1}/hierarchy/{enc(space)}", path)
        assert told["room"].pop("children_state")[0]["state_key"] == world.room
        assert told["room"] == {
            "room_id": space,
            "name": "Space",
            "canonical_alias": f"#space:{us.name}",
            "num_joined_members": 1,
            "room_type": "m.space",
            "room_version": "12",
            "join_rule": "public",
            "world_readable": False,
            "guest_can_join": False,
        }
        assert [one["room_id"] for one in told["children"]] == [world.room]
        assert told["inaccessible_children"] == [secret]
        for hidden in (secret, "!elsewhere"):
            seen = await world.bad("GET", f"{V1}/hierarchy/{enc(hidden)}", path)
            assert seen == (404, "M_NOT_FOUND")
        found = await world.outsider.rooms.walker.walk(space, via=[us.name])
        assert [one.entry.room_id for one in found] == [space, world.room]


async def test_a_join_and_a_leave_by_both_versions(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        for version, user in (("v1", world.peer.user("carol")), ("v2", world.peer.user("dave"))):
            for action in ("join", "leave"):
                target = f"{V1}/make_{action}/{enc(world.room)}/{enc(user)}?ver=11&ver=12"
                made = await world.good("GET", target, f"{V1}/make_{action}/{{}}/{{}}")
                assert made["room_version"] == "12"
                pdu = world.peer.sign(made["event"], V12)
                answer = await world.ask(
                    "PUT",
                    f"/_matrix/federation/{version}/send_{action}"
                    f"/{enc(world.room)}/{enc(pdu.event_id)}",
                    pdu.wire(),
                )
                assert answer.status == 200, answer.body
                body = answer.json()
                if version == "v1":
                    assert body[0] == 200
                    body = body[1]
                assert complaints("PUT", f"{V2}/send_{action}/{{}}/{{}}", 200, body) == []
                assert await world.us.membership(world.room, user) == action


async def test_a_knock_is_taken_where_the_room_takes_knocks(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        make_knock, send_knock = f"{V1}/make_knock/{{}}/{{}}", f"{V1}/send_knock/{{}}/{{}}"
        carol = world.peer.user("carol")
        target = f"{V1}/make_knock/{enc(world.room)}/{enc(carol)}"
        assert await world.bad("GET", f"{target}?ver=12", make_knock) == (403, "M_FORBIDDEN")
        await world.us.send(
            world.room, world.alice, "m.room.join_rules", {"join_rule": "knock"}, state_key=""
        )
        answer = await world.ask("GET", f"{target}?ver=11")
        assert (answer.status, answer.json()["room_version"]) == (400, "12")
        assert complaints("GET", make_knock, 400, answer.json()) == []
        foreign = f"{V1}/make_knock/{enc(world.room)}/{enc(world.outsider.user('eve'))}?ver=12"
        assert await world.bad("GET", foreign, make_knock) == (403, "M_FORBIDDEN")

        made = await world.good("GET", f"{target}?ver=11&ver=12", make_knock)
        assert made["event"]["content"] == {"membership": "knock"}
        pdu = world.peer.sign(made["event"], V12)
        good = f"{V1}/send_knock/{enc(world.room)}/{enc(pdu.event_id)}"
        joins = {**made["event"], "content": {"membership": "join"}}
        join = world.peer.sign(joins, V12)
        wrong = f"{V1}/send_knock/{enc(world.room)}/{enc(join.event_id)}"
        assert await world.bad("PUT", wrong, send_knock, join.wire()) == (400, "M_INVALID_PARAM")
        unsigned = {**pdu.wire(), "signatures": {}}
        assert (await world.bad("PUT", good, send_knock, unsigned))[0] in (400, 403)
        assert await world.us.membership(world.room, carol) is None

        body = await world.good("PUT", good, send_knock, pdu.wire())
        told = {(one["type"], one["state_key"]) for one in body["knock_room_state"]}
        assert {("m.room.create", ""), ("m.room.name", "")} <= told
        assert "m.room.member" not in {kind for kind, _ in told}
        assert await world.us.membership(world.room, carol) == "knock"

        # It is taken back like an invite.
        made = await world.good(
            "GET", f"{V1}/make_leave/{enc(world.room)}/{enc(carol)}", f"{V1}/make_leave/{{}}/{{}}"
        )
        left = world.peer.sign(made["event"], V12)
        target = f"{V2}/send_leave/{enc(world.room)}/{enc(left.event_id)}"
        await world.good("PUT", target, f"{V2}/send_leave/{{}}/{{}}", left.wire())
        assert await world.us.membership(world.room, carol) == "leave"


async def test_joins_that_cannot_be_are_refused_with_the_reason(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        room, make_join = enc(world.room), f"{V1}/make_join/{{}}/{{}}"
        carol = world.peer.user("carol")
        answer = await world.ask("GET", f"{V1}/make_join/{room}/{enc(carol)}?ver=10")
        assert answer.status == 400
        assert complaints("GET", make_join, 400, answer.json()) == []
        assert answer.json()["errcode"] == "M_INCOMPATIBLE_ROOM_VERSION"
        assert answer.json()["room_version"] == "12"
        elsewhere = f"{V1}/make_join/{enc('!nowhere:x.example')}/{enc(carol)}?ver=12"
        assert await world.bad("GET", elsewhere, make_join) == (404, "M_NOT_FOUND")
        foreign = f"{V1}/make_join/{room}/{enc(world.outsider.user('eve'))}?ver=12"
        assert await world.bad("GET", foreign, make_join) == (403, "M_FORBIDDEN")

        closed = await world.us.create_room(world.alice)
        target = f"{V1}/make_join/{enc(closed)}/{enc(carol)}?ver=12"
        assert await world.bad("GET", target, make_join) == (403, "M_FORBIDDEN")

        made = await world.good("GET", f"{V1}/make_join/{room}/{enc(carol)}?ver=12", make_join)
        pdu = world.peer.sign(made["event"], V12)
        send_join = f"{V2}/send_join/{{}}/{{}}"
        good = f"{V2}/send_join/{room}/{enc(pdu.event_id)}"
        other = f"{V2}/send_join/{room}/{enc('$other')}"
        assert await world.bad("PUT", other, send_join, pdu.wire()) == (400, "M_INVALID_PARAM")
        seen = await world.bad("PUT", good, send_join, pdu.wire(), by=world.outsider)
        assert seen == (403, "M_FORBIDDEN")
        unsigned = {**pdu.wire(), "signatures": {}}
        assert (await world.bad("PUT", good, send_join, unsigned))[0] in (400, 403)
        assert await world.bad("PUT", good, send_join, {}) == (400, "M_BAD_JSON")
        assert await world.us.membership(world.room, carol) is None


async def test_an_invite_is_signed_and_kept(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        room = await world.peer.create_room(world.bob)
        pdu = await world.peer.draft_invite(room, world.bob, world.alice)
        told = await world.peer.rooms.queries.state(room, "m.room.create")
        body: dict[str, Any] = {"event": pdu.wire(), "room_version": "12"}
        body["invite_room_state"] = [one.wire() for one in told]
        target = f"{V2}/invite/{enc(room)}/{enc(pdu.event_id)}"
        invite = f"{V2}/invite/{{}}/{{}}"
        answer = await world.good("PUT", target, invite, body)
        signed = Pdu.parse(answer["event"], V12)
        assert signed.event_id == pdu.event_id
        assert check_json_signature(
            signed.redacted().wire(),
            server=world.us.name,
            key_id=world.us.key.key_id,
            verify_key=world.us.key.verify_key_base64,
        )
        assert await world.us.membership(room, world.alice) == "invite"

        unknown = await world.ask("PUT", target, {**body, "room_version": "13"})
        assert complaints("PUT", invite, unknown.status, unknown.json()) == []
        assert unknown.json()["errcode"] == "M_INCOMPATIBLE_ROOM_VERSION"
        assert unknown.json()["room_version"] == "13"
        v1 = await world.ask("PUT", target.replace("/v2/", "/v1/"), pdu.wire())
        assert (v1.status, v1.json()["errcode"]) == (400, "M_INVALID_PARAM")  # without a name

        for wrong in ({"event": pdu.wire()}, {"room_version": "12"}, {}):
            assert await world.bad("PUT", target, invite, wrong) == (400, "M_MISSING_PARAM")
        # Whole events of this room, its create event among them. Spec: S2S, PUT /v2/invite.
        stripped = [{"type": one.type, "content": one.content, "state_key": ""} for one in told]
        for wrong_state in ([], stripped, None):
            wrong = {**body, "invite_room_state": wrong_state}
            assert await world.bad("PUT", target, invite, wrong) == (400, "M_INVALID_PARAM")
        nobody = await world.peer.draft_invite(room, world.bob, world.us.user("no-body"))
        body = {"event": nobody.wire(), "room_version": "12"}
        target = f"{V2}/invite/{enc(room)}/{enc(nobody.event_id)}"
        assert await world.bad("PUT", target, invite, body) == (404, "M_NOT_FOUND")


async def test_a_transaction_is_checked_before_anything_is_kept(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        target, template = f"{V1}/send/t9", f"{V1}/send/{{}}"
        head = {"origin": world.peer.name, "origin_server_ts": 1}
        assert await world.good("PUT", target, template, {**head, "pdus": []}) == {"pdus": {}}
        for body, expected in (
            ({**head, "pdus": {}}, (400, "M_BAD_JSON")),
            ({**head, "pdus": [{}] * 51}, (400, "M_BAD_JSON")),
            ({**head, "pdus": [], "edus": [{}] * 101}, (400, "M_BAD_JSON")),
            ({**head, "pdus": [], "origin": "other.example"}, (400, "M_INVALID_PARAM")),
        ):
            assert await world.bad("PUT", target, template, body) == expected
        for raw, expected in (
            (b"{", (400, "M_NOT_JSON")),
            (b'{"pdus": [1.5]}', (400, "M_BAD_JSON")),
            (b'{"pdus": [NaN]}', (400, "M_NOT_JSON")),
            (b'{"pdus": [9007199254740993]}', (400, "M_BAD_JSON")),
            (b"\xff", (400, "M_NOT_JSON")),
        ):
            assert await world.bad("PUT", target, template, {}, raw=raw) == expected, raw
        large = b'{"pdus": ["' + b"x" * (9 << 20) + b'"]}'
        assert await world.bad("PUT", target, template, {}, raw=large) == (413, "M_TOO_LARGE")
        # What is no event at all, or of a room that nobody knows, is passed over.
        strange = {"room_id": "!nowhere:x.example", "type": "m.room.message"}
        answer = await world.good(
            "PUT", f"{V1}/send/t10", template, {**head, "pdus": [1, {}, strange, "text"]}
        )
        assert answer == {"pdus": {}}
        # Events need no canonical form here: their room's version says whether they do.
        floats = {**head, "pdus": [{**strange, "half": 0.5}]}
        assert await world.good("PUT", f"{V1}/send/t11", template, floats) == {"pdus": {}}


async def test_a_transaction_is_answered_per_event_and_again_the_same(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        template = f"{V1}/send/{{}}"
        good = await world.peer.draft_message(world.room, world.bob, "from outside")
        stranger = world.peer.user("stranger")
        not_in = await world.peer.draft_message(world.room, stranger, "let me in")
        body = {
            "origin": world.peer.name,
            "origin_server_ts": 1,
            "pdus": [good.wire(), not_in.wire()],
        }
        answer = await world.good("PUT", f"{V1}/send/t1", template, body)
        assert answer["pdus"][good.event_id] == {}
        assert answer["pdus"][not_in.event_id]["error"]
        again = await world.good("PUT", f"{V1}/send/t1", template, body)
        assert again == answer
        assert await world.us.bodies(world.room) == ["hello", "from outside"]
        tampered = json.loads(json.dumps(good.wire()))
        tampered["signatures"][world.peer.name][world.peer.key.key_id] = "A" * 86
        tampered["content"]["body"] = "something else"
        tampered["depth"] += 1
        answer = await world.good("PUT", f"{V1}/send/t2", template, {**body, "pdus": [tampered]})
        assert all("error" in verdict for verdict in answer["pdus"].values())
        assert await world.us.bodies(world.room) == ["hello", "from outside"]


async def test_whoever_asks_is_known_to_be_there_again(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with world_of(certificates, tmp_path, sqlite_template) as world:
        await world.peer.stop()
        await world.us.say(world.room, world.alice, "while you were out")

        async def failing() -> bool:
            return bool(world.us.running.sender._resting)

        await until(failing)
        await world.peer.start()
        await world.peer.wait_for_bodies(world.room, ["hello", "while you were out"])
