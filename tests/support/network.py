"""Several servers in one process: real rooms over real SQLite files, joined without HTTP.

Requests go straight to the other server's `rooms/answer`, through JSON text as on the wire. What
leaves by itself is carried by `deliver`, in stream order. Faults: a server that is down, an answer
that is lost after the other side has acted, a tampered answer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from bridge.backends.native.backend import NativeBackend
from bridge.backends.native.lookups import ListenerLookups
from bridge.backends.native.media import MediaFiles
from bridge.engine.keys import SigningKey
from bridge.errors import NotFound, Refused, Unavailable
from bridge.ids import (
    EventId,
    KeyId,
    RoomAlias,
    RoomId,
    RoomVersionId,
    ServerName,
    TraceId,
    UserId,
)
from bridge.media.assembly import MediaParts, build_media
from bridge.media.store import MediaLimits, MediaStore
from bridge.people.assembly import People, build_people
from bridge.policy.house import House
from bridge.policy.limits import Limits
from bridge.ports.matrix import Acceptance, Ephemeral, Profile, RoomEvent
from bridge.rooms.assembly import Rooms, build_rooms
from bridge.rooms.bounds import DEFAULTS
from bridge.rooms.network import Json
from bridge.rooms.outside import OutsideBounds
from bridge.rooms.public_rooms import ListQuery
from bridge.storage import events as event_rows
from bridge.storage import streams
from bridge.storage.database import Database, Transaction
from bridge.storage.media import MediaRow
from bridge.storage.schema import stream_events
from tests.support.clock import FakeClock

T = TypeVar("T")


def wire(value: T) -> T:
    """What comes out at the other end of a connection."""
    copy: T = json.loads(json.dumps(value))
    return copy


class RecordingListener:
    """Keeps what it was told; `refuse` makes it raise."""

    def __init__(self) -> None:
        self.events: list[RoomEvent] = []
        self.acceptances: list[Acceptance] = []
        self.ephemeral: list[Ephemeral] = []
        self.users: Callable[[UserId], bool] = lambda user_id: True
        self.refuse: Callable[[RoomEvent], Exception | None] = lambda event: None

    async def on_event(self, event: RoomEvent) -> None:
        problem = self.refuse(event)
        if problem is not None:
            raise problem
        self.events.append(event)

    async def on_acceptance(self, acceptance: Acceptance) -> None:
        self.acceptances.append(acceptance)

    async def on_ephemeral(self, change: Ephemeral) -> None:
        self.ephemeral.append(change)

    async def on_user_query(self, user_id: UserId) -> bool:
        return self.users(user_id)

    async def on_profile_query(self, user_id: UserId) -> Profile | None:
        return None

    async def on_alias_query(self, alias: RoomAlias) -> RoomId | None:
        return None


@dataclass(slots=True)
class Server:
    """One homeserver of the network."""

    name: ServerName
    key: SigningKey
    database: Database
    rooms: Rooms
    backend: NativeBackend
    listener: RecordingListener
    lookups: ListenerLookups
    house: House
    people: People
    media: MediaParts
    down: bool = False
    software: str = "Isthmus"
    refuses_versions: set[str] = field(default_factory=set)
    carried_to: int = 0
    transactions: int = 0

    def user(self, localpart: str) -> UserId:
        return UserId(f"@{localpart}:{self.name}")

    async def timeline(self, room_id: RoomId) -> list[Any]:
        return await self.rooms.queries.timeline(room_id, limit=1000)

    async def bodies(self, room_id: RoomId) -> list[str]:
        return [
            one.pdu.content.get("body", "(redacted)")
            for one in await self.timeline(room_id)
            if one.pdu.type == "m.room.message"
        ]


class Network:
    """The servers by name, and what happens between them."""

    def __init__(self, clock: FakeClock, folder: Path, template: Path) -> None:
        self.clock = clock
        self._template = template
        self.servers: dict[ServerName, Server] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.lose_answer: Callable[[str, ServerName], bool] = lambda endpoint, peer: False
        self.tamper: Callable[[str, Any], Any] = lambda endpoint, answer: answer
        self.after_answer: Callable[[str], Awaitable[None]] | None = None
        self.lose_pdu: Callable[[ServerName, Json], bool] = lambda peer, pdu: False
        self.policy: Callable[[str, Json], Json] | None = None
        """What the policy servers answer, by path and event."""
        self.keys_away: set[ServerName] = set()
        """Servers whose keys cannot be had."""
        self.straight = True
        """Servers may take what is simple at once, without the queue."""
        self.bounds = DEFAULTS
        self.outside_bounds = OutsideBounds()
        self.limits = Limits()
        """Of the servers that are added from now on."""
        self._folder = folder

    async def add(
        self,
        name: str,
        versions: Sequence[str] = ("12", "11", "10"),
        path: Path | None = None,
        url: str | None = None,
    ) -> Server:
        """`url`: a database with all tables that is not a file of ours."""
        server_name = ServerName(name)
        file = path or self._folder / f"{name}.sqlite"
        if url is None and not file.exists():
            shutil.copyfile(self._template, file)
        database = await Database.open(url or f"sqlite:///{file}", clock=self.clock)
        key = SigningKey.from_seed("1", name.encode().ljust(32, b"x"))
        listener = RecordingListener()
        lookups = ListenerLookups()
        lookups.attach(listener)
        peers = NetworkPeers(self, server_name)
        house = House(own_name=server_name, bot=UserId(f"@isthmus:{name}"))
        rooms = build_rooms(
            house=house,
            server_name=server_name,
            key=key,
            database=database,
            clock=self.clock,
            peers=peers,
            keyring=NetworkKeys(self),
            lookups=lookups,
            bounds=self.bounds,
            limits=self.limits,
            outside_bounds=self.outside_bounds,
        )
        media = build_media(
            own_name=server_name,
            folder=file.with_suffix(".media"),
            database=database,
            clock=self.clock,
            limits=MediaLimits(keep_free_bytes=0),
        )
        await media.store.start()
        backend = NativeBackend(
            server_name=server_name,
            bot=UserId(f"@isthmus:{name}"),
            rooms=rooms,
            peers=peers,
            database=database,
            clock=self.clock,
            versions=[RoomVersionId(one) for one in versions],
            media=MediaFiles(
                store=media.store, remote=NetworkMedia(self, media.store), signer=media.signer
            ),
        )
        people = build_people(
            own_name=server_name,
            database=database,
            peers=peers,
            clock=self.clock,
            random=Random(1),
            wake=lambda _: None,
        )
        server = Server(
            server_name, key, database, rooms, backend, listener, lookups, house, people, media
        )
        self.servers[server_name] = server
        return server

    async def restart(self, server: Server) -> Server:
        """The same files, nothing else: as after a crash."""
        await server.database.close()
        again = await self.add(server.name, path=self._folder / f"{server.name}.sqlite")
        again.carried_to, again.transactions = server.carried_to, server.transactions
        return again

    async def close(self) -> None:
        for server in self.servers.values():
            await server.database.close()

    async def ask(
        self,
        endpoint: str,
        origin: ServerName,
        peer: ServerName,
        answer: Callable[[Server], Awaitable[T]],
    ) -> T:
        server = self.servers.get(peer)
        self.requests.append((endpoint, origin, peer))
        if server is None or server.down or self.servers[origin].down:
            raise Unavailable(f"{peer} is down")
        result: T = wire(self.tamper(endpoint, await answer(server)))
        if self.after_answer is not None:
            await self.after_answer(endpoint)
        if self.lose_answer(endpoint, peer):
            raise Unavailable(f"the answer of {peer} was lost")
        return result

    async def deliver(self) -> None:
        """Carry what is outgoing to its destinations until everything is quiet."""
        busy = True
        while busy:
            busy = False
            for server in list(self.servers.values()):
                busy = await self._carry(server) or busy

    async def _carry(self, server: Server) -> bool:
        after = server.carried_to

        def unit(tx: Transaction) -> list[tuple[EventId, str, bool]]:
            rows = streams.read_since(tx, stream_events, after, 1000)
            found = event_rows.find(tx, [EventId(row["event_id"]) for row in rows])
            server.carried_to = rows[-1]["position"] if rows else after
            return [
                (EventId(row["event_id"]), found[EventId(row["event_id"])].json, row["outgoing"])
                for row in rows
                if row["event_id"] in found
            ]

        rows = await server.database.read(unit)
        for event_id, text, outgoing in rows:
            if outgoing:
                for peer in sorted(await server.rooms.queries.destinations(event_id)):
                    await self.hand_over(server.name, peer, [json.loads(text)])
        return bool(rows)

    async def hand_over(
        self, origin: ServerName, peer: ServerName, pdus: Sequence[Json]
    ) -> Mapping[EventId, Mapping[str, str]]:
        """One transaction, worked off at once."""
        target = self.servers.get(peer)
        kept = [pdu for pdu in pdus if not self.lose_pdu(peer, pdu)]
        if target is None or target.down or not kept:
            return {}
        target.transactions += 1
        txn = f"{origin}{target.transactions}"
        await target.rooms.receiver.take(origin, txn, wire(kept), wait_s=0, straight=self.straight)
        await target.rooms.receiver.work_off_due()
        return await target.rooms.receiver.take(origin, txn, wire(kept), wait_s=0)


class NetworkKeys:
    """Fits `rooms.network.KeyRing`: everybody's key is known."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def verify_key(
        self, server: ServerName, key_id: KeyId, minimum_valid_until_ts: int
    ) -> str | None:
        if server in self._network.keys_away:
            raise Unavailable(f"no keys of {server}")
        there = self._network.servers.get(server)
        if there is None or there.key.key_id != key_id:
            return None
        return there.key.verify_key_base64


class NetworkMedia:
    """Fits `backends.native.media.RemoteFiles`: files go from store to store."""

    def __init__(self, network: Network, store: MediaStore) -> None:
        self._network = network
        self._store = store

    async def get(self, origin: ServerName, media_id: str) -> MediaRow:
        found = await self._store.find(origin, media_id)
        if found is not None:
            return found
        there = self._network.servers.get(origin)
        if there is None or there.down:
            raise Unavailable(f"{origin} is down")
        is_own = there.media.store is self._store
        row = None if is_own else await there.media.store.find(origin, media_id)
        if row is None:
            raise NotFound("there is no such media")
        blob = await there.media.store.open(row)
        try:
            return await self._store.put_cached(
                blob,
                origin=origin,
                media_id=media_id,
                content_type=row.content_type,
                name=row.name,
            )
        finally:
            await blob.close()


class NetworkPeers:
    """Fits `rooms.network.Peers`."""

    def __init__(self, network: Network, origin: ServerName) -> None:
        self._network = network
        self._origin = origin

    async def _ask(
        self, endpoint: str, peer: ServerName, answer: Callable[[Server], Awaitable[T]]
    ) -> T:
        return await self._network.ask(endpoint, self._origin, peer, answer)

    async def policy_sign(
        self, peer: ServerName, path: str, pdu: Json, *, timeout_s: float
    ) -> Json:
        async def answer(server: Server) -> Json:
            if self._network.policy is None:
                raise Refused("no policy server", errcode="M_UNRECOGNIZED", rule="peer")
            return self._network.policy(path, wire(pdu))

        return await self._ask("policy_sign", peer, answer)

    async def make_join(
        self, peer: ServerName, room_id: RoomId, user_id: UserId, versions: Sequence[RoomVersionId]
    ) -> tuple[RoomVersionId, Json]:
        answer = await self._ask(
            "make_join",
            peer,
            lambda s: s.rooms.answers.make_join(self._origin, room_id, user_id, versions),
        )
        return RoomVersionId(answer["room_version"]), answer["event"]

    async def send_join(
        self, peer: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> Json:
        return await self._ask(
            "send_join",
            peer,
            lambda s: s.rooms.answers.send_join(self._origin, room_id, event_id, wire(pdu)),
        )

    async def make_knock(
        self, peer: ServerName, room_id: RoomId, user_id: UserId, versions: Sequence[RoomVersionId]
    ) -> tuple[RoomVersionId, Json]:
        answer = await self._ask(
            "make_knock",
            peer,
            lambda s: s.rooms.answers.make_knock(self._origin, room_id, user_id, versions),
        )
        return RoomVersionId(answer["room_version"]), answer["event"]

    async def send_knock(
        self, peer: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> list[Json]:
        answer = await self._ask(
            "send_knock",
            peer,
            lambda s: s.rooms.answers.send_knock(self._origin, room_id, event_id, wire(pdu)),
        )
        state: list[Json] = answer["knock_room_state"]
        return state

    async def make_leave(
        self, peer: ServerName, room_id: RoomId, user_id: UserId
    ) -> tuple[RoomVersionId, Json]:
        answer = await self._ask(
            "make_leave",
            peer,
            lambda s: s.rooms.answers.make_leave(self._origin, room_id, user_id),
        )
        return RoomVersionId(answer["room_version"]), answer["event"]

    async def send_leave(
        self, peer: ServerName, room_id: RoomId, event_id: EventId, pdu: Json
    ) -> None:
        await self._ask(
            "send_leave",
            peer,
            lambda s: s.rooms.answers.send_leave(self._origin, room_id, event_id, wire(pdu)),
        )

    async def invite(
        self,
        peer: ServerName,
        room_id: RoomId,
        event_id: EventId,
        pdu: Json,
        room_version: RoomVersionId,
        invite_room_state: Sequence[Json],
    ) -> Json:
        async def answer(server: Server) -> Json:
            if room_version in server.refuses_versions:
                raise Refused("unknown here", errcode="M_UNSUPPORTED_ROOM_VERSION")
            return await server.rooms.answers.invite(
                self._origin, room_id, event_id, wire(pdu), room_version, wire(invite_room_state)
            )

        return await self._ask("invite", peer, answer)

    async def event(self, peer: ServerName, event_id: EventId) -> Json:
        return await self._ask(
            "event", peer, lambda s: s.rooms.answers.event(self._origin, event_id)
        )

    async def state(
        self, peer: ServerName, room_id: RoomId, event_id: EventId
    ) -> tuple[list[Json], list[Json]]:
        answer = await self._ask(
            "state", peer, lambda s: s.rooms.answers.state(self._origin, room_id, event_id)
        )
        return answer["pdus"], answer["auth_chain"]

    async def state_ids(
        self, peer: ServerName, room_id: RoomId, event_id: EventId
    ) -> tuple[list[EventId], list[EventId]]:
        answer = await self._ask(
            "state_ids", peer, lambda s: s.rooms.answers.state_ids(self._origin, room_id, event_id)
        )
        return answer["pdu_ids"], answer["auth_chain_ids"]

    async def event_auth(self, peer: ServerName, room_id: RoomId, event_id: EventId) -> list[Json]:
        answer = await self._ask(
            "event_auth",
            peer,
            lambda s: s.rooms.answers.event_auth(self._origin, room_id, event_id),
        )
        chain: list[Json] = answer["auth_chain"]
        return chain

    async def backfill(
        self, peer: ServerName, room_id: RoomId, event_ids: Sequence[EventId], limit: int
    ) -> list[Json]:
        return await self._ask(
            "backfill",
            peer,
            lambda s: s.rooms.answers.backfill(self._origin, room_id, event_ids, limit),
        )

    async def get_missing_events(
        self,
        peer: ServerName,
        room_id: RoomId,
        earliest: Sequence[EventId],
        latest: Sequence[EventId],
        limit: int,
        min_depth: int = 0,
    ) -> list[Json]:
        return await self._ask(
            "get_missing_events",
            peer,
            lambda s: s.rooms.answers.get_missing_events(
                self._origin, room_id, earliest, latest, limit, min_depth
            ),
        )

    async def query_profile(
        self, peer: ServerName, user_id: UserId, field: str | None = None
    ) -> Json:
        async def answer(server: Server) -> Json:
            found = await server.rooms.directory.local_profile(user_id)
            return {"displayname": found.displayname, "avatar_url": found.avatar_url}

        return await self._ask("query_profile", peer, answer)

    async def query_directory(
        self, peer: ServerName, alias: RoomAlias
    ) -> tuple[RoomId, list[ServerName]]:
        async def answer(server: Server) -> list[Any]:
            room_id, servers = await server.rooms.directory.local_alias(alias)
            return [room_id, list(servers)]

        room_id, servers = await self._ask("query_directory", peer, answer)
        return RoomId(room_id), servers

    async def user_devices(self, peer: ServerName, user_id: UserId) -> Json:
        return await self._ask("user_devices", peer, lambda s: s.people.devices.answer(user_id))

    async def query_user_keys(
        self, peer: ServerName, wanted: Mapping[UserId, Sequence[str]]
    ) -> Json:
        body = wire({user: list(ids) for user, ids in wanted.items()})
        return await self._ask("query_user_keys", peer, lambda s: s.people.keys.answer_query(body))

    async def claim_user_keys(
        self, peer: ServerName, wanted: Mapping[UserId, Mapping[str, str]]
    ) -> Json:
        body = wire({user: dict(devices) for user, devices in wanted.items()})
        return await self._ask("claim_user_keys", peer, lambda s: s.people.keys.answer_claim(body))

    async def public_rooms(self, peer: ServerName, **wanted: Any) -> Json:
        async def answer(server: Server) -> Json:
            page = await server.rooms.public_rooms.page(ListQuery(**wanted), origin=self._origin)
            return page.to_json()

        return await self._ask("public_rooms", peer, answer)

    async def hierarchy(
        self, peer: ServerName, room_id: RoomId, *, suggested_only: bool = False
    ) -> Json:
        return await self._ask(
            "hierarchy",
            peer,
            lambda s: s.rooms.spaces.answer(self._origin, room_id, suggested_only=suggested_only),
        )

    async def version(self, peer: ServerName) -> Json:
        async def answer(server: Server) -> Json:
            return {"name": server.software, "version": "1"}

        return await self._ask("version", peer, answer)


@asynccontextmanager
async def open_network(clock: FakeClock, folder: Path, template: Path) -> AsyncIterator[Network]:
    """`template`: a SQLite file with all tables."""
    network = Network(clock, folder, template)
    try:
        yield network
    finally:
        await network.close()


def trace(text: str = "t") -> TraceId:
    return TraceId(text)
