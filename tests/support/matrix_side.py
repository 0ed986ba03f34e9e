"""The Matrix side alone: a homeserver in this process that federates over real HTTPS on loopback.

Everything is real but the bridge side: database file, key, rooms, federation both ways. It can be
stopped and started again over the same database, and a test may step between a request and its
endpoint.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from bridge.clock import Clock, SystemClock
from bridge.delivery.backoff import Backoff
from bridge.demo.servers import CertificateAuthority, free_port
from bridge.engine.build import Draft, chosen_event_id, complete
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.versions import RoomVersion, get_version
from bridge.federation.client.discovery import Discovery, Location
from bridge.federation.client.keyring import ServerKeyRing
from bridge.federation.client.keystore import DatabaseKeyStore
from bridge.federation.client.media import RemoteMedia
from bridge.federation.client.requests import PeerRequests
from bridge.federation.client.transport import Transport
from bridge.federation.edu_sources import StoredEdus, StoredReceipts
from bridge.federation.own_keys import OwnKeys
from bridge.federation.sender import Sender
from bridge.federation.server.auth import Authentication
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
from bridge.ids import EventId, RoomAlias, RoomId, RoomVersionId, ServerName, TraceId, UserId
from bridge.media.assembly import MediaParts, build_media
from bridge.media.store import MediaLimits
from bridge.net.addresses import AddressPolicy, parse_networks
from bridge.net.client import Endpoint as Address
from bridge.net.client import HttpClient
from bridge.net.dns import DnsResolver
from bridge.people.assembly import People, build_people
from bridge.policy.house import House
from bridge.policy.limits import Limits
from bridge.rooms.assembly import Rooms, build_rooms
from bridge.rooms.network import UserProfile
from bridge.rooms.passing import Change
from bridge.rooms.query import TimelineEvent
from bridge.storage.database import Database
from bridge.web.application import Endpoint, Listener, Request, Response, Route, WebServer

T = TypeVar("T")
TRACE = TraceId("test")
QUICK = Backoff(first_s=0.05, most_s=0.4)
Interference = Callable[[Request, Endpoint], Awaitable[Response]]


async def until(look: Callable[[], Awaitable[T]], *, timeout_s: float = 20.0) -> T:
    """What `look` gives, once that is true: other servers have their own pace."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = await look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s; last seen: {found!r}")
        await asyncio.sleep(0.02)


class Residents:
    """Fits `rooms.network.Lookups`: everybody exists but those whose name begins with `no-`."""

    def __init__(self) -> None:
        self.profiles: dict[UserId, UserProfile] = {}

    async def user_exists(self, user_id: UserId) -> bool:
        return not user_id.startswith("@no-")

    async def profile(self, user_id: UserId) -> UserProfile | None:
        return self.profiles.get(user_id)

    async def alias(self, alias: RoomAlias) -> RoomId | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What exists between start and stop."""

    database: Database
    rooms: Rooms
    sender: Sender
    people: People
    requests: PeerRequests
    client: HttpClient
    resolver: DnsResolver
    web: WebServer
    task: asyncio.Task[None]
    media: MediaParts
    remote_media: RemoteMedia


class Routed(Discovery):
    """Servers named in `routes` are reached at that port of loopback, whatever their name says."""

    def __init__(self, routes: Mapping[ServerName, int], **more: Any) -> None:
        super().__init__(**more)
        self._routes = routes

    async def locate(self, server: ServerName) -> Location:
        location = await super().locate(server)
        port = self._routes.get(server)
        if port is None:
            return location
        return replace(location, endpoints=(Address(host="127.0.0.1", port=port),))


class MatrixSide:
    """`interfere` gets every request and its endpoint; `heard` are all requests, in order.

    `named_port` stands in its name where that is not the port that it listens on. `routes`: where
    it reaches other servers, if not where their names say.
    """

    def __init__(
        self,
        authority: CertificateAuthority,
        database_file: Path,
        tasks: asyncio.TaskGroup,
        *,
        backoff: Backoff = QUICK,
        clock: Clock | None = None,
        named_port: int | None = None,
    ) -> None:
        self.port = free_port()
        self.name = ServerName(f"localhost:{named_port or self.port}")
        self.routes: dict[ServerName, int] = {}
        self.key = SigningKey.from_seed("k1", secrets.token_bytes(32))
        self.keys = OwnKeys.of(self.key)
        self.house = House(own_name=self.name)
        self.limits = Limits()
        self.people = Residents()
        self.media_limits = MediaLimits(keep_free_bytes=0)
        self.heard: list[Request] = []
        self.changes: list[Change] = []
        self.interfere: Interference | None = None
        self.clock = clock or SystemClock()
        self._authority = authority
        self._certificate = authority.issue(label=f"side-{self.port}")
        self._database_file = database_file
        self._tasks = tasks
        self._backoff = backoff
        self._running: Running | None = None
        self._count = 0

    # --- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        database = await Database.open(f"sqlite:///{self._database_file}", clock=self.clock)
        resolver = DnsResolver()
        client = HttpClient(
            resolver=resolver,
            policy=AddressPolicy(allowed=parse_networks(["127.0.0.0/8", "::1"], setting="test")),
            extra_ca=self._authority.certificate_file,
        )
        transport = Transport(
            house=self.house,
            own_name=self.name,
            key=self.keys,
            client=client,
            discovery=Routed(self.routes, client=client, resolver=resolver, clock=self.clock),
            clock=self.clock,
        )
        requests = PeerRequests(transport=transport, clock=self.clock)
        keyring = ServerKeyRing(
            own_name=self.name,
            own_keys=self.keys,
            transport=transport,
            store=DatabaseKeyStore(database),
            clock=self.clock,
        )
        rooms = build_rooms(
            house=self.house,
            server_name=self.name,
            key=self.keys,
            database=database,
            clock=self.clock,
            peers=requests,
            keyring=keyring,
            lookups=self.people,
        )
        sender = Sender(
            database=database,
            destinations=rooms.queries,
            requests=requests,
            clock=self.clock,
            random=random.Random(1),
            backoff=self._backoff,
            sources=[
                StoredEdus(database=database),
                StoredReceipts(database=database),
                *rooms.ephemeral.sources,
            ],
        )
        people = build_people(
            own_name=self.name,
            database=database,
            peers=requests,
            clock=self.clock,
            random=random.Random(2),
            wake=sender.wake,
            backoff=self._backoff,
            resync_pause_s=0.2,
        )
        rooms.ephemeral.outlet.attach(wake=sender.wake, sink=self)
        media = build_media(
            own_name=self.name,
            folder=self._database_file.with_suffix(".media"),
            database=database,
            clock=self.clock,
            limits=self.media_limits,
        )
        await media.store.start()
        remote_media = RemoteMedia(
            transport=transport, client=client, store=media.store, house=self.house
        )
        keys = Keys(own_name=self.name, keys=self.keys, clock=self.clock)
        routes = federation_routes(
            authentication=Authentication(
                own_name=self.name,
                keyring=keyring,
                clock=self.clock,
                on_heard=sender.on_heard,
                house=self.house,
                limits=self.limits,
            ),
            keys=keys,
            notary=Notary(
                own_name=self.name,
                own=keys,
                keys=self.keys,
                documents=keyring,
                clock=self.clock,
            ),
            transactions=Transactions(
                receiver=rooms.receiver,
                house=self.house,
                takers={**people.takers, **rooms.ephemeral.takers},
            ),
            events=Events(own_name=self.name, answers=rooms.answers, clock=self.clock),
            membership=Membership(answers=rooms.answers),
            queries=Queries(own_name=self.name, directory=rooms.directory),
            people=PeopleEndpoints(devices=people.devices, keys=people.keys, openid=people.openid),
            room_lists=RoomLists(public_rooms=rooms.public_rooms, spaces=rooms.spaces),
            media=Media(store=media.store, thumbnails=media.thumbnails),
        )
        web = WebServer(
            routes=[self._between(route) for route in routes],
            listeners=[
                Listener(
                    host="127.0.0.1",
                    port=self.port,
                    certificate=self._certificate.chain,
                    private_key=self._certificate.key,
                )
            ],
            drain_timeout_s=0.5,
        )
        await web.start()
        self._running = Running(
            database=database,
            rooms=rooms,
            sender=sender,
            requests=requests,
            client=client,
            resolver=resolver,
            web=web,
            people=people,
            task=self._tasks.create_task(_run(rooms, sender, people)),
            media=media,
            remote_media=remote_media,
        )

    async def stop(self) -> None:
        """Cut: nobody answers any more. Does nothing when it is not running."""
        if self._running is None:
            return
        running, self._running = self._running, None
        running.task.cancel()
        with suppress(asyncio.CancelledError):
            await running.task
        await running.web.stop()
        await running.client.close()
        await running.resolver.close()
        await running.database.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def put(self, change: Change) -> None:
        """Fits `rooms.passing.EphemeralSink`."""
        self.changes.append(change)

    def _between(self, route: Route) -> Route:
        async def endpoint(request: Request) -> Response:
            self.heard.append(request)
            if self.interfere is not None:
                return await self.interfere(request, route.endpoint)
            return await route.endpoint(request)

        return replace(route, endpoint=endpoint)

    @property
    def running(self) -> Running:
        assert self._running is not None, f"{self.name} is stopped"
        return self._running

    @property
    def rooms(self) -> Rooms:
        return self.running.rooms

    @property
    def requests(self) -> PeerRequests:
        return self.running.requests

    @property
    def database(self) -> Database:
        return self.running.database

    # --- what its people do -----------------------------------------------------------------

    def user(self, localpart: str) -> UserId:
        return UserId(f"@{localpart}:{self.name}")

    def _transaction(self) -> str:
        self._count += 1
        return f"test.{self._count}"

    async def create_room(
        self, creator: UserId, *, version: str = "12", public: bool = False, **more: Any
    ) -> RoomId:
        return await self.rooms.creator.create(
            creator=creator,
            version=get_version(RoomVersionId(version)),
            transaction_id=self._transaction(),
            trace_id=TRACE,
            public=public,
            **more,
        )

    async def invite(self, room_id: RoomId, sender: UserId, target: UserId, **more: Any) -> None:
        await self.rooms.handshake.invite(
            room_id=room_id,
            sender=sender,
            target=target,
            transaction_id=self._transaction(),
            trace_id=TRACE,
            **more,
        )

    async def join(self, room_id: RoomId, user: UserId, *via: ServerName) -> None:
        await self.rooms.handshake.join(
            user_id=user, room_id=room_id, via=list(via), trace_id=TRACE
        )

    async def leave(self, room_id: RoomId, user: UserId) -> None:
        await self.rooms.handshake.leave(user_id=user, room_id=room_id, trace_id=TRACE)

    async def send(
        self,
        room_id: RoomId,
        sender: UserId,
        type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
    ) -> EventId:
        return await self.rooms.sender.send(
            room_id=room_id,
            sender=sender,
            type=type,
            content=content,
            state_key=state_key,
            trace_id=TRACE,
        )

    async def say(self, room_id: RoomId, sender: UserId, body: str) -> EventId:
        content = {"msgtype": "m.text", "body": body}
        return await self.send(room_id, sender, "m.room.message", content)

    async def kick(self, room_id: RoomId, sender: UserId, target: UserId, reason: str) -> EventId:
        content = {"membership": "leave", "reason": reason}
        return await self.send(room_id, sender, "m.room.member", content, state_key=target)

    # --- events that are made and not sent --------------------------------------------------

    def sign(self, template: Mapping[str, Any], version: RoomVersion) -> Pdu:
        """A template of another server, dated and signed."""
        dated = {**template, "origin_server_ts": self.clock.now_ms()}
        return complete(
            dated,
            version=version,
            key=self.key,
            server=self.name,
            event_id=chosen_event_id(version, self.name, lambda: secrets.token_hex(8)),
        )

    async def draft(self, room_id: RoomId, sender: UserId, **more: Any) -> Pdu:
        """On top of the room, signed, whether the rules allow it or not."""
        states = self.rooms.sender._states
        room = await states.joined_room(room_id)
        draft = Draft(room_id=room_id, sender=sender, **more)
        template, _ = await self.rooms.sender.template(room, draft)
        return self.sign(template, room.version)

    async def draft_message(self, room_id: RoomId, sender: UserId, body: str) -> Pdu:
        content = {"msgtype": "m.text", "body": body}
        return await self.draft(room_id, sender, type="m.room.message", content=content)

    async def draft_invite(self, room_id: RoomId, sender: UserId, target: UserId) -> Pdu:
        content = {"membership": "invite"}
        return await self.draft(
            room_id, sender, type="m.room.member", content=content, state_key=target
        )

    # --- what is seen -----------------------------------------------------------------------

    async def timeline(self, room_id: RoomId) -> list[TimelineEvent]:
        return await self.rooms.queries.timeline(room_id, limit=1000)

    async def bodies(self, room_id: RoomId) -> list[str]:
        return [
            str(one.pdu.content.get("body"))
            for one in await self.timeline(room_id)
            if one.pdu.type == "m.room.message"
        ]

    async def membership(self, room_id: RoomId, user: UserId) -> str | None:
        member = await self.rooms.queries.member(room_id, user)
        return None if member is None else member.membership

    async def wait_for_bodies(
        self, room_id: RoomId, wanted: list[str], *, timeout_s: float = 20.0
    ) -> None:
        """All of them, in this order, each once; whatever else was said does not matter."""
        names = set(wanted)

        async def look() -> bool:
            seen = [one for one in await self.bodies(room_id) if one in names]
            return len(seen) >= len(wanted)

        await until(look, timeout_s=timeout_s)
        assert [one for one in await self.bodies(room_id) if one in names] == wanted

    async def wait_for_membership(
        self, room_id: RoomId, user: UserId, membership: str, *, timeout_s: float = 20.0
    ) -> None:
        async def look() -> bool:
            return await self.membership(room_id, user) == membership

        await until(look, timeout_s=timeout_s)

    def transactions(self, *, origin: ServerName | None = None) -> list[dict[str, Any]]:
        """The bodies of the transactions that arrived, in order."""
        bodies = [
            request.json_object()
            for request in self.heard
            if request.method == "PUT" and "/federation/v1/send/" in request.target
        ]
        return [body for body in bodies if origin in (None, body["origin"])]


async def _run(rooms: Rooms, sender: Sender, people: People) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rooms.receiver.run())
        tasks.create_task(sender.run())
        tasks.create_task(people.run())
        tasks.create_task(rooms.ephemeral.run())


@asynccontextmanager
async def matrix_sides(
    authority: CertificateAuthority,
    folder: Path,
    template: Path,
    count: int,
    *,
    named_ports: Sequence[int] = (),
    **more: Any,
) -> AsyncIterator[list[MatrixSide]]:
    """`count` of them, started. `template`: a SQLite file with all tables."""
    async with asyncio.TaskGroup() as tasks:
        sides = []
        for number in range(count):
            file = folder / f"side{number}.sqlite"
            shutil.copyfile(template, file)
            named = named_ports[number] if named_ports else None
            sides.append(MatrixSide(authority, file, tasks, named_port=named, **more))
        try:
            for side in sides:
                await side.start()
            yield sides
        finally:
            for side in sides:
                await side.stop()
