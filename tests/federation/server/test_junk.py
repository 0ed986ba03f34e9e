"""Whatever JSON comes to an endpoint, the answer is a clean refusal; nothing falls over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.engine.build import Draft, PrevEvent, event_template
from bridge.engine.canonical import check_canonical
from bridge.engine.hashes import content_hash, event_id_of
from bridge.engine.signing import sign_event
from bridge.errors import BadInput, Unavailable
from bridge.federation.client.keyring import KeyDocument
from bridge.federation.own_keys import OwnKeys
from bridge.federation.server.auth import Authentication, PeerEndpoint
from bridge.federation.server.events import Events
from bridge.federation.server.keys import Keys
from bridge.federation.server.media import Media
from bridge.federation.server.membership import Membership
from bridge.federation.server.notary import Notary
from bridge.federation.server.people import PeopleEndpoints
from bridge.federation.server.queries import Queries
from bridge.federation.server.room_lists import RoomLists
from bridge.federation.server.routes import federation_routes
from bridge.federation.server.transactions import Transactions
from bridge.ids import ServerName
from bridge.media.assembly import build_media
from bridge.media.store import MediaLimits
from bridge.policy.rules import Scope
from bridge.rooms.load import choose_auth_events
from bridge.rooms.receive import Receiver
from bridge.storage import inbound
from bridge.telemetry import metrics
from bridge.web.middleware import answer
from bridge.web.routing import Endpoint, Request, Response, RouteTable
from tests.support.clock import FakeClock
from tests.support.network import Network, Server, open_network
from tests.support.talk import heard, room_at, say, two_in_a_room

SETTINGS = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

texts = st.text(max_size=20) | st.sampled_from(
    ["", "\0", "@", "@:", "$", "!", "@a:b", "$a", "!a", "!a:b", "join", "a" * 300, "\u202e", "%00"]
)
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.sampled_from([2**53 - 1, 1 - 2**53, -1, 0])
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "type",
    "sender",
    "state_key",
    "room_id",
    "content",
    "depth",
    "origin_server_ts",
    "prev_events",
    "auth_events",
    "hashes",
    "signatures",
    "unsigned",
    "redacts",
)
TYPES = (
    "m.room.member",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.create",
    "m.room.redaction",
    "m.room.third_party_invite",
    "m.room.server_acl",
    "m.room.history_visibility",
    "m.room.name",
    "m.room.message",
    "org.example",
)
KEYS = (
    "membership",
    "join_authorised_via_users_server",
    "third_party_invite",
    "displayname",
    "is_direct",
    "users",
    "events",
    "users_default",
    "ban",
    "join_rule",
    "allow",
    "deny",
    "history_visibility",
    "redacts",
    "room_version",
    "additional_creators",
    "name",
    "body",
    "public_keys",
)
members = st.fixed_dictionaries(
    {}, optional={key: junk | st.sampled_from(["join", "invite", "leave", "ban"]) for key in KEYS}
)


class Trusting(Authentication):
    """Believes that everything comes from one server."""

    def __init__(self, origin: ServerName) -> None:
        self._origin_name = origin

    def signed(
        self, endpoint: PeerEndpoint, scope: Scope = Scope.ALL, *, is_counted: bool = True
    ) -> Endpoint:
        async def believed(request: Request) -> Response:
            return await endpoint(request, self._origin_name)

        return believed


class Impatient(Receiver):
    """Answers at once: the clock of the test does not move by itself."""

    def __init__(self, receiver: Receiver) -> None:
        self._inner = receiver

    async def take(self, *arguments: Any, **more: Any) -> Any:
        return await self._inner.take(*arguments, **{**more, "wait_s": 0})


class NoDocuments:
    """Fits `notary.Documents`: of no other server anything is known."""

    async def documents(self, servers: Sequence[ServerName]) -> Mapping[ServerName, KeyDocument]:
        return {}

    async def renew_document(self, server: ServerName) -> None:
        raise Unavailable("nobody there")


class Door:
    """The whole URL table of a server, asked by a peer."""

    def __init__(self, server: Server, origin: ServerName, clock: FakeClock) -> None:
        self._clock = clock
        rooms, name, own = server.rooms, server.name, OwnKeys.of(server.key)
        keys = Keys(own_name=name, keys=own, clock=clock)
        media = build_media(
            own_name=name,
            folder=Path("no-such-folder"),
            database=server.database,
            clock=clock,
            limits=MediaLimits(),
        )
        self.table = RouteTable(
            federation_routes(
                authentication=Trusting(origin),
                keys=keys,
                notary=Notary(
                    own_name=name, own=keys, keys=own, documents=NoDocuments(), clock=clock
                ),
                transactions=Transactions(
                    receiver=Impatient(rooms.receiver),
                    house=server.house,
                    takers={**server.people.takers, **rooms.ephemeral.takers},
                ),
                events=Events(own_name=name, answers=rooms.answers, clock=clock),
                membership=Membership(answers=rooms.answers),
                queries=Queries(own_name=name, directory=rooms.directory),
                people=PeopleEndpoints(
                    devices=server.people.devices,
                    keys=server.people.keys,
                    openid=server.people.openid,
                ),
                room_lists=RoomLists(public_rooms=rooms.public_rooms, spaces=rooms.spaces),
                media=Media(store=media.store, thumbnails=media.thumbnails),
            )
        )

    async def ask(self, method: str, target: str, body: Any = None) -> Response:
        path = target.partition("?")[0]
        route, params = self.table.find(path)[method]
        data = b"" if body is None else orjson.dumps(body)
        request = Request(method=method, target=target, params=params, body=data)

        async def work() -> Response:
            if data:
                check_canonical(request.json())  # As the authentication does.
            return await route.endpoint(request)

        return await answer(work, route=route, request_id="r", clock=self._clock)


async def with_junk(
    network: Network, example: Callable[[Callable[[Awaitable[Any]], Any]], None]
) -> None:
    """Run a property that needs the loop: it lives in a thread, its questions come back here."""
    loop = asyncio.get_running_loop()

    def ask(question: Awaitable[Any]) -> Any:
        coroutine = cast(Any, question)
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=30)

    await asyncio.to_thread(example, ask)


def enc(value: object) -> str:
    return quote(str(value), safe="") or "%00"


async def test_no_request_makes_an_endpoint_fall_over(
    clock: FakeClock, tmp_path: Path, sqlite_template: Path
) -> None:
    async with open_network(clock, tmp_path, sqlite_template) as network:
        here, there, room_id = await two_in_a_room(network)
        said = await say(here, room_id, "maker", "hello")
        door = Door(here, there.name, clock)
        guest = there.user("guest")
        event = await signed_event(network, there, room_id, {"type": "m.room.message"})
        v1, v2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
        rooms = st.just(str(room_id)) | texts.filter(bool)
        ids = st.just(str(said)) | texts.filter(bool)
        users = st.just(str(guest)) | texts.filter(bool)
        bodies = (
            junk
            | st.dictionaries(st.sampled_from(FIELDS), junk, max_size=3).map(
                lambda wrong: {**event, **wrong}
            )
            | st.fixed_dictionaries(
                {},
                optional={
                    "pdus": junk | st.lists(junk, max_size=3),
                    "edus": junk,
                    "origin": junk,
                    "event": junk | st.just(event),
                    "room_version": st.sampled_from(["12", "11", "1"]) | junk,
                    "invite_room_state": junk,
                    "earliest_events": junk | st.lists(ids),
                    "latest_events": junk | st.lists(ids),
                    "limit": junk,
                    "min_depth": junk,
                },
            )
        )
        requests = st.one_of(
            st.tuples(st.just("PUT"), texts.filter(bool).map(lambda t: f"{v1}/send/{enc(t)}")),
            st.tuples(
                st.just("PUT"),
                st.builds(
                    lambda endpoint, room, one: (
                        f"{endpoint}/{enc(room)}/{enc(one)}?omit_members=true"
                    ),
                    st.sampled_from(
                        [
                            f"{v1}/send_knock",
                            *(
                                f"{base}/{what}"
                                for base in (v1, v2)
                                for what in ("send_join", "send_leave", "invite")
                            ),
                        ]
                    ),
                    rooms,
                    ids,
                ),
            ),
            st.tuples(
                st.just("GET"),
                st.builds(
                    lambda what, room, user, ver: (
                        f"{v1}/{what}/{enc(room)}/{enc(user)}?ver={enc(ver)}"
                    ),
                    st.sampled_from(["make_join", "make_knock", "make_leave", "event_auth"]),
                    rooms,
                    users | ids,
                    st.sampled_from(["12", "11"]) | texts,
                ),
            ),
            st.tuples(
                st.just("GET"),
                st.builds(
                    lambda what, room, one, n: (
                        f"{v1}/{what}/{enc(room)}?event_id={enc(one)}&v={enc(one)}&limit={enc(n)}"
                    ),
                    st.sampled_from(["state", "state_ids", "backfill"]),
                    rooms,
                    ids,
                    junk,
                ),
            ),
            st.tuples(
                st.just("PUT"),
                rooms.map(lambda r: f"{v1}/exchange_third_party_invite/{enc(r)}"),
            ),
            st.tuples(
                st.just("GET"),
                st.builds(
                    lambda room, ts, way: (
                        f"{v1}/timestamp_to_event/{enc(room)}?ts={enc(ts)}&dir={enc(way)}"
                    ),
                    rooms,
                    st.integers(-1, 2**70) | texts,
                    st.sampled_from(["f", "b"]) | texts,
                ),
            ),
            st.tuples(st.just("GET"), ids.map(lambda one: f"{v1}/event/{enc(one)}")),
            st.tuples(st.just("POST"), rooms.map(lambda r: f"{v1}/get_missing_events/{enc(r)}")),
            st.tuples(st.just("GET"), texts.map(lambda t: f"{v1}/query/profile?user_id={enc(t)}")),
            st.tuples(
                st.just("GET"), texts.map(lambda t: f"{v1}/query/directory?room_alias={enc(t)}")
            ),
            st.tuples(
                st.just("GET"),
                st.builds(
                    lambda limit, since: (
                        f"{v1}/publicRooms?limit={enc(limit)}&since={enc(since)}"
                        f"&third_party_instance_id={enc(since)}"
                    ),
                    st.integers(-1, 2**70) | texts,
                    texts,
                ),
            ),
            st.tuples(st.just("POST"), st.just(f"{v1}/publicRooms")),
            st.tuples(st.just("GET"), rooms.map(lambda r: f"{v1}/hierarchy/{enc(r)}")),
        )

        def example(wait: Callable[[Awaitable[Any]], Any]) -> None:
            @SETTINGS
            @given(requests, bodies)
            def every_request(request: tuple[str, str], body: Any) -> None:
                method, target = request
                sent = None if method == "GET" else body
                response: Response = wait(door.ask(method, target, sent))
                assert response.status < 500, (request, body)
                assert response.to_bytes()

            every_request()

        await with_junk(network, example)
        await here.rooms.receiver.work_off_due()
        assert await heard(here, room_id) == ["hello"]


def failed_edus() -> float:
    """EDUs that met a mistake of ours."""
    samples = [sample for family in metrics.EDUS.collect() for sample in family.samples]
    return sum(one.value for one in samples if one.labels.get("outcome") == "failed")


async def test_no_edu_makes_its_transaction_fall_over(
    clock: FakeClock, tmp_path: Path, sqlite_template: Path
) -> None:
    """Whatever an EDU holds, the transaction is taken, and what it says of others is not."""
    async with open_network(clock, tmp_path, sqlite_template) as network:
        here, there, room_id = await two_in_a_room(network)
        door = Door(here, there.name, clock)
        guest, maker = there.user("guest"), here.user("maker")
        users = st.sampled_from([str(guest), str(maker), "@x:third.example"]) | texts
        rooms = st.sampled_from([str(room_id), "!other:x.example"]) | texts
        data = st.fixed_dictionaries(
            {}, optional={"ts": junk | st.just(1), "thread_id": junk | st.just("main")}
        )
        entry = st.fixed_dictionaries(
            {}, optional={"event_ids": junk | st.just(["$event"]), "data": data | junk}
        )
        content = (
            junk
            | st.fixed_dictionaries(
                {},
                optional={
                    "room_id": rooms | junk,
                    "user_id": users | junk,
                    "typing": st.booleans() | junk,
                    "sender": users | junk,
                    "device_id": texts | junk,
                    "stream_id": st.integers(-1, 2**53 - 1) | junk,
                    "prev_id": junk,
                    "type": texts | junk,
                    "message_id": texts | junk,
                    "messages": junk | st.dictionaries(users, junk, max_size=3),
                    "keys": junk,
                    "master_key": junk,
                    "self_signing_key": junk,
                },
            )
            | st.dictionaries(
                rooms,
                junk | st.fixed_dictionaries({"m.read": st.dictionaries(users, entry | junk)}),
                max_size=3,
            )
            | st.fixed_dictionaries(
                {
                    "push": st.lists(
                        junk
                        | st.fixed_dictionaries(
                            {"user_id": users, "presence": st.just("online") | junk},
                            optional={
                                "status_msg": junk,
                                "last_active_ago": junk,
                                "currently_active": junk,
                            },
                        ),
                        max_size=3,
                    )
                }
            )
        )
        kinds = st.sampled_from([*here.rooms.ephemeral.takers, *here.people.takers]) | texts
        edus = st.lists(
            junk | st.fixed_dictionaries({"edu_type": kinds, "content": content}), max_size=4
        )
        counter = iter(range(1_000_000))

        def example(wait: Callable[[Awaitable[Any]], Any]) -> None:
            @settings(SETTINGS, max_examples=300)
            @given(edus)
            def every_edu(some: list[Any]) -> None:
                body = {"origin": there.name, "pdus": [], "edus": some}
                target = f"/_matrix/federation/v1/send/t{next(counter)}"
                response: Response = wait(door.ask("PUT", target, body))
                try:
                    check_canonical(body)
                except BadInput:
                    assert response.status == 400, some
                else:
                    assert (response.status, response.json) == (200, {"pdus": {}}), some

            every_edu()

        failed = failed_edus()
        await with_junk(network, example)
        assert failed_edus() == failed
        ephemeral = here.rooms.ephemeral
        assert {row.user_id for row in await ephemeral.receipts.of_room(room_id)} <= {guest}
        assert set(ephemeral.typing.typing(room_id)) <= {guest}
        assert ephemeral.presence.of(maker) is None


async def test_no_event_breaks_the_room_it_is_sent_into(
    clock: FakeClock, tmp_path: Path, sqlite_template: Path
) -> None:
    """Events with a good hash and signature, whose values are not what anybody expects."""
    async with open_network(clock, tmp_path, sqlite_template) as network:
        here, there, room_id = await two_in_a_room(network)
        door = Door(here, there.name, clock)
        guest = there.user("guest")
        room = await room_at(here, room_id)
        anywhere = st.sampled_from([*room.state.values(), *room.extremities])
        events = st.fixed_dictionaries(
            {"type": st.sampled_from(TYPES), "content": members},
            optional={
                "state_key": texts | st.sampled_from([str(guest), str(here.user("maker"))]),
                "prev_events": st.lists(anywhere, max_size=3),
                "auth_events": st.lists(anywhere, max_size=3),
                "redacts": junk | anywhere,
                "depth": st.sampled_from([0, 2**53 - 1]),
                "unsigned": junk,
            },
        )

        async def send(parts: Mapping[str, Any], number: int) -> None:
            try:
                pdu = await signed_event(network, there, room_id, parts)
                event_id = event_id_of(pdu, room.version)
                check_canonical(pdu)
            except BadInput:
                return  # It has no canonical form: it does not get this far.
            body = {"origin": there.name, "pdus": [pdu]}
            response = await door.ask("PUT", f"/_matrix/federation/v1/send/t{number}", body)
            assert response.status == 200, parts
            await here.rooms.receiver.work_off_due()
            verdicts = response.json["pdus"]
            assert set(verdicts) <= {event_id}, parts
            waiting = await here.database.read(partial(inbound.count_waiting, origin=there.name))
            assert waiting == 0, parts  # Each has its verdict, none met an unforeseen error.
            for what in ("send_join", "send_leave", "invite"):
                answered = await door.ask(
                    "PUT",
                    f"/_matrix/federation/v2/{what}/{enc(room_id)}/{enc(event_id)}",
                    pdu
                    if what != "invite"
                    else {"event": pdu, "room_version": "12", "invite_room_state": []},
                )
                assert answered.status < 500, (what, parts)

        counter = iter(range(1_000_000))

        def example(wait: Callable[[Awaitable[Any]], Any]) -> None:
            @SETTINGS
            @given(events)
            def every_event(parts: dict[str, Any]) -> None:
                wait(send(parts, next(counter)))

            every_event()

        await with_junk(network, example)
        clock.shift(100)
        await here.rooms.receiver.work_off_due()
        assert (await here.backend.room(room_id)).room_id == room_id
        await here.backend.members(room_id)
        await here.backend.power(room_id)
        await here.backend.timeline(room_id, limit=1000)


async def signed_event(
    network: Network, server: Server, room_id: Any, parts: Mapping[str, Any]
) -> dict[str, Any]:
    """On top of the room as the server knows it, with these parts exchanged."""
    room = await room_at(server, room_id)
    guest = server.user("guest")
    kind, content = parts["type"], parts.get("content", {"body": "junk"})
    draft = Draft(
        room_id=room_id,
        type=kind,
        sender=guest,
        content=content,
        state_key=parts.get("state_key"),
    )
    template = event_template(
        draft,
        prev_events=[PrevEvent(event_id=one, depth=d) for one, d in room.extremities.items()],
        auth_events=choose_auth_events(
            room.state,
            event_type=kind,
            sender=guest,
            state_key=draft.state_key,
            content=content,
            version=room.version,
        ),
        version=room.version,
        origin_server_ts=network.clock.now_ms(),
    )
    json = {**template, **parts, "content": content}
    json["hashes"] = {"sha256": content_hash(json)}
    return sign_event(json, room.version, server=server.name, key=server.key)
