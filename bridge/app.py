"""The composition root: knows every part, decides nothing.

Start: settings -> log -> database -> signing key -> parts wired -> listening (keys answerable, not
ready) -> tasks -> ready. Stop (SIGTERM, SIGINT): not ready; HTTP drains; the queues finish the item
in hand; the adapter stores what it has been given; everything ends. Nothing is lost either way: it
is a row, or it was never acknowledged.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random, SystemRandom

from bridge import __version__
from bridge.adapters.xmpp.adapter import XmppAdapter, XmppAddresses
from bridge.adapters.xmpp.config import XmppSettings
from bridge.adapters.xmpp.connection import Status
from bridge.adapters.xmpp.conversions import XmppConversions
from bridge.adapters.xmpp.jid import Jid
from bridge.backends.native.backend import NativeBackend
from bridge.backends.native.ephemeral import EphemeralFeed
from bridge.backends.native.feed import NativeFeed
from bridge.backends.native.lookups import ListenerLookups
from bridge.backends.native.media import MediaFiles
from bridge.bot.assembly import build_bot
from bridge.bot.control import SOCKET
from bridge.clock import Clock, SystemClock
from bridge.config import IdentitySettings, LimitSettings, Settings, validated
from bridge.delivery.backoff import Backoff
from bridge.delivery.queue import DurableQueue
from bridge.delivery.upkeep import Upkeep
from bridge.engine.keybook import KeyBook
from bridge.engine.versions import get_creatable
from bridge.errors import BadInput, Misconfigured, Unavailable
from bridge.federation.client.discovery import Discovery
from bridge.federation.client.keyring import ServerKeyRing
from bridge.federation.client.keystore import DatabaseKeyStore
from bridge.federation.client.media import RemoteMedia
from bridge.federation.client.requests import PeerRequests
from bridge.federation.client.transport import Transport
from bridge.federation.edu_sources import StoredEdus, StoredReceipts
from bridge.federation.own_keys import KeyFile, OwnKeys
from bridge.federation.sender import Sender
from bridge.federation.server.auth import Authentication
from bridge.federation.server.events import Events
from bridge.federation.server.keys import Keys
from bridge.federation.server.media import Media
from bridge.federation.server.membership import Membership as MembershipEndpoints
from bridge.federation.server.notary import Notary
from bridge.federation.server.people import PeopleEndpoints
from bridge.federation.server.queries import Queries
from bridge.federation.server.room_lists import RoomLists
from bridge.federation.server.routes import federation_routes
from bridge.federation.server.transactions import Transactions
from bridge.federation.server.well_known import well_known_routes
from bridge.identity.resolver import NumberTemplate, Resolver, SourceSettings, Voucher
from bridge.identity.sources import build_sources
from bridge.ids import RoomVersionId, ServerName, UserId, parse_server_name, parse_user_id
from bridge.media.assembly import build_media
from bridge.media.store import MediaLimits
from bridge.net.addresses import AddressPolicy, parse_networks
from bridge.net.client import HttpClient
from bridge.net.dns import DnsResolver
from bridge.people.assembly import build_people
from bridge.policy.house import House
from bridge.policy.limits import Buckets, Limits, Rate
from bridge.portals.assembly import build_portals
from bridge.portals.media import Files, FileSettings
from bridge.ports.chat import DELIVERIES, Delivery
from bridge.ports.codec import from_tagged
from bridge.rooms.assembly import Rooms, build_rooms
from bridge.rooms.bounds import GraphBounds
from bridge.rooms.network import EduTaker
from bridge.rooms.outside import OutsideBounds
from bridge.storage import migrate, queues
from bridge.storage.database import Database, Unit
from bridge.storage.queues import INBOX, OUTBOX, QueueItem
from bridge.telemetry.log import configure_log, get_logger
from bridge.web.application import Listener, Route, WebServer
from bridge.web.health import health_routes

log = get_logger("app")

Say = Callable[[str], None]
DRAIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who we are: checked settings that everything stands on."""

    server_name: ServerName
    bot: UserId
    keys: KeyBook
    versions: Sequence[RoomVersionId]


async def serve(settings: Settings, *, say: Say) -> int:
    """Runs until SIGTERM or SIGINT. Raises `Misconfigured` where it cannot start."""
    configure_log(level=settings.log.level, form=settings.log.format)
    identity = read_identity(settings)
    xmpp = validated(XmppSettings, settings.xmpp, prefix="xmpp")
    database = await open_database(settings, say)
    try:
        async with Network(settings) as network:
            gateway = Gateway(settings, identity, xmpp, database, network, SystemClock(), say)
            spare_the_collector()
            await gateway.run()
    finally:
        await database.close()
    say("Stopped.")
    return 0


def spare_the_collector() -> None:
    """What stands by now stays: it is not looked at again. Events and states, of which there may be
    many, hold no cycles: looking at them often would stop everything for a tenth of a second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def read_identity(settings: Settings) -> Identity:
    try:
        server_name = parse_server_name(settings.server_name)
        bot = parse_user_id(f"@{settings.bot}:{server_name}")
    except BadInput as exc:
        raise Misconfigured("server_name", exc.reason) from exc
    versions = tuple(RoomVersionId(version) for version in settings.rooms.versions)
    for version in versions:
        try:
            get_creatable(version)
        except BadInput as exc:
            raise Misconfigured("rooms.versions", exc.reason) from exc
    if not versions:
        raise Misconfigured("rooms.versions", "names no version")
    if settings.portals.version is not None:
        try:
            get_creatable(RoomVersionId(settings.portals.version))
        except BadInput as exc:
            raise Misconfigured("portals.version", exc.reason) from exc
    return Identity(
        server_name=server_name,
        bot=bot,
        keys=read_keys(settings.path(settings.signing_key)),
        versions=versions,
    )


def read_keys(path: Path) -> KeyBook:
    try:
        return KeyFile(path).read()
    except FileNotFoundError as exc:
        raise Misconfigured("signing_key", f"{path} is missing: `isthmus init` makes one") from exc
    except (OSError, BadInput) as exc:
        raise Misconfigured("signing_key", f"{path} cannot be used: {exc}") from exc


def read_notaries(names: Sequence[str]) -> tuple[ServerName, ...]:
    try:
        return tuple(parse_server_name(name) for name in names)
    except BadInput as exc:
        raise Misconfigured("federation.notaries", exc.reason) from exc


async def open_database(settings: Settings, say: Say) -> Database:
    """Opens it, brought to the current schema first where that is needed."""
    settings.data_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    url = settings.database_url
    if await asyncio.to_thread(migrate.bring_up, url):
        say("The database has been brought to the current schema.")
    return await Database.open(url)


def build_resolver(
    settings: IdentitySettings, conversions: XmppConversions, clock: Clock
) -> Resolver:
    sources = build_sources(
        SourceSettings(
            conversions=conversions,
            numbers=tuple(NumberTemplate(prefix=n.prefix, user=n.user) for n in settings.numbers),
            vouching=tuple(Voucher(domain=v.domain, prefix=v.prefix) for v in settings.vouching),
        )
    )
    return Resolver(sources=sources, conversions=conversions, clock=clock, region=settings.region)


def build_limits(settings: LimitSettings) -> Limits:
    def buckets(per_s: int, burst: int) -> Buckets:
        return Buckets(Rate(per_s=per_s, burst=burst))

    return Limits(
        requests=buckets(settings.requests_per_s, settings.requests_burst),
        server_events=buckets(settings.server_events_per_s, settings.server_events_burst),
        room_events=buckets(settings.room_events_per_s, settings.room_events_burst),
        server_edus=buckets(settings.server_edus_per_s, settings.server_edus_burst),
    )


def build_outside_bounds(settings: LimitSettings) -> OutsideBounds:
    return OutsideBounds(
        invites_per_server=settings.invites_per_server,
        invites_per_user=settings.invites_per_user,
        knocks_per_user=settings.knocks_per_user,
    )


class Network:
    """What goes out: the resolver and the HTTP clients, closed at the end. `files` goes to URLs
    that anybody may have named: what the operator allows for servers is not allowed for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.federation
        self._file_networks = settings.media.allowed_networks
        self._data_folder = settings.data_folder

    async def __aenter__(self) -> Network:
        federation = self._settings
        authority = federation.certificate_authority
        self.resolver = DnsResolver(nameserver=federation.resolver)
        self.client, self.files = (
            HttpClient(
                resolver=self.resolver,
                policy=AddressPolicy(allowed=parse_networks(networks, setting=setting)),
                extra_ca=None if authority is None else self._data_folder / authority,
                user_agent=f"Isthmus/{__version__}",
            )
            for networks, setting in (
                (federation.allowed_networks, "federation.allowed_networks"),
                (self._file_networks, "media.allowed_networks"),
            )
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.files.close()
        await self.client.close()
        await self.resolver.close()


class Gateway:
    """All parts of the gateway mode, wired."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        xmpp: XmppSettings,
        database: Database,
        network: Network,
        clock: Clock,
        say: Say,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._xmpp = xmpp
        self._say = say
        self._database = database
        self._clock = clock
        self._network = network
        self._stopping = False
        self._last_said = ""
        self._connected = asyncio.Event()
        random = SystemRandom()
        self._build_matrix_side(network, random)
        self._build_bridge_side(random)
        self._build_web()

    # --- wiring ------------------------------------------------------------------------------

    def _build_matrix_side(self, network: Network, random: Random) -> None:
        identity, clock, database = self._identity, self._clock, self._database
        federation = self._settings.federation
        self._keys = OwnKeys(
            identity.keys,
            keeper=KeyFile(self._settings.path(self._settings.signing_key)),
            clock=clock,
            random=random,
        )
        self._house = House(own_name=identity.server_name, bot=identity.bot)
        transport = Transport(
            house=self._house,
            own_name=identity.server_name,
            key=self._keys,
            client=network.client,
            discovery=Discovery(client=network.client, resolver=network.resolver, clock=clock),
            clock=clock,
        )
        self._requests = PeerRequests(transport=transport, clock=clock)
        self._keyring = ServerKeyRing(
            own_name=identity.server_name,
            own_keys=self._keys,
            transport=transport,
            store=DatabaseKeyStore(database),
            clock=clock,
            notaries=read_notaries(federation.notaries),
        )
        self._media = build_media(
            own_name=identity.server_name,
            folder=self._settings.path(Path("media")),
            database=database,
            clock=clock,
            limits=MediaLimits(
                **self._settings.media.model_dump(
                    exclude={"public_url", "link_days", "fetch_timeout_s", "allowed_networks"}
                )
            ),
        )
        self._remote_media = RemoteMedia(
            transport=transport,
            client=network.files,
            store=self._media.store,
            house=self._house,
        )
        self._lookups = ListenerLookups()
        self._limits = build_limits(self._settings.federation.limits)
        self._rooms: Rooms = build_rooms(
            limits=self._limits,
            outside_bounds=build_outside_bounds(self._settings.federation.limits),
            house=self._house,
            server_name=identity.server_name,
            key=self._keys,
            database=database,
            clock=clock,
            peers=self._requests,
            keyring=self._keyring,
            lookups=self._lookups,
            bounds=GraphBounds(**self._settings.rooms.bounds.model_dump()),
            with_presence=federation.presence,
        )
        self._sender = Sender(
            database=database,
            destinations=self._rooms.queries,
            requests=self._requests,
            clock=clock,
            random=random,
            backoff=Backoff(first_s=1.0, most_s=float(federation.retry_max_s)),
            sources=[
                StoredEdus(database=database),
                StoredReceipts(database=database),
                *self._rooms.ephemeral.sources,
            ],
        )
        self._people = build_people(
            own_name=identity.server_name,
            database=database,
            peers=self._requests,
            clock=clock,
            random=random,
            wake=self._sender.wake,
        )
        self._takers: Mapping[str, EduTaker] = {
            **self._people.takers,
            **self._rooms.ephemeral.takers,
        }
        self._backend = NativeBackend(
            server_name=identity.server_name,
            bot=identity.bot,
            rooms=self._rooms,
            peers=self._requests,
            database=database,
            clock=clock,
            versions=identity.versions,
            media=MediaFiles(
                store=self._media.store, remote=self._remote_media, signer=self._media.signer
            ),
            extensible_direct_chats=self._settings.rooms.extensible_direct_chats,
        )

    def _build_bridge_side(self, random: Random) -> None:
        clock, database, backend = self._clock, self._database, self._backend
        delivery = self._settings.delivery
        addresses = XmppAddresses(
            domain=self._xmpp.domain, server_name=self._identity.server_name, bot=self._settings.bot
        )
        wanted = self._settings.portals
        files = self._settings.media
        self._files = Files(
            house=self._house,
            backend=backend,
            client=self._network.files,
            signer=self._media.signer,
            clock=clock,
            settings=FileSettings(
                public_url=files.public_url,
                link_days=files.link_days,
                max_bytes=files.max_bytes,
                fetch_timeout_s=files.fetch_timeout_s,
            ),
        )
        self._portals = portals = build_portals(
            files=self._files,
            house=self._house,
            database=database,
            backend=backend,
            addresses=addresses,
            clock=clock,
            random=random,
            on_command=lambda caller, line: self._bot.commands.run(caller, line),
            greet=lambda caller: self._bot.commands.greet(caller),
            on_demand=wanted.on_demand,
            listed=wanted.listed,
            version=None if wanted.version is None else RoomVersionId(wanted.version),
            most_shown=wanted.occupants,
            absent_after_s=float(wanted.absent_after_s),
            unused_after_s=float(wanted.unused_after_s),
        )
        conversions = XmppConversions(addresses.book)
        resolver = build_resolver(self._settings.identity, conversions, clock)
        self._bot = build_bot(
            house=self._house,
            rules=self._settings.policy.rules,
            database=database,
            backend=backend,
            addresses=addresses,
            room_addresses=[addresses.room_of],
            conversions=conversions,
            resolver=resolver,
            portals=portals.plumbing,
            lists=portals.policy_rooms,
            keys=self._keys,
            permissions=self._settings.permissions,
            prepare_address=lambda text: str(Jid.parse(text).prepared()),
            tell_inbox=portals.from_chat.on_parked,
            tell_outbox=portals.notices.on_parked,
            connection=lambda: self._adapter.status.text,
            socket=self._settings.path(SOCKET),
            clock=clock,
        )
        self._lookups.attach(portals.from_matrix)
        self._feed = NativeFeed(
            server_name=self._identity.server_name,
            database=database,
            queries=self._rooms.queries,
            listener=portals.from_matrix,
            clock=clock,
        )
        self._ephemeral_feed = EphemeralFeed(listener=portals.from_matrix)
        self._rooms.ephemeral.outlet.attach(wake=self._sender.wake, sink=self._ephemeral_feed)
        self._adapter = XmppAdapter(
            settings=self._xmpp,
            addresses=addresses,
            database=database,
            listener=portals.from_chat,
            commands=self._bot.commands,
            clock=clock,
            random=random,
            on_status=self._on_status,
            resolver=resolver,
        )
        portals.attach(self._adapter)
        backoff = Backoff(first_s=1.0, most_s=float(delivery.retry_max_s))
        self._inbox = DurableQueue(
            database=database,
            clock=clock,
            queue=INBOX,
            deliver=portals.from_chat.deliver,
            on_parked=portals.from_chat.on_parked,
            on_waiting=portals.from_chat.on_waiting,
            workers=delivery.workers,
            backoff=backoff,
            random=random,
            give_up_after_s=delivery.give_up_after_s,
            tell_waiting_after_s=delivery.waiting_notice_s,
            keep_done_s=delivery.keep_done_s,
        )
        self._outbox = DurableQueue(
            database=database,
            clock=clock,
            queue=OUTBOX,
            deliver=self._deliver,
            on_parked=portals.notices.on_parked,
            on_waiting=portals.notices.tell_waiting,
            workers=delivery.workers,
            backoff=backoff,
            random=random,
            give_up_after_s=delivery.give_up_after_s,
            tell_waiting_after_s=delivery.waiting_notice_s,
            keep_done_s=delivery.keep_done_s,
        )

    async def _deliver(self, item: QueueItem) -> Unit[None] | None:
        delivery: Delivery = from_tagged(DELIVERIES, item.payload)
        chat_id = await self._adapter.deliver(delivery, outbox_id=item.id, trace=item.trace_id)
        return self._portals.to_chat.proved(item, chat_id)

    def _build_web(self) -> None:
        identity, clock, settings = self._identity, self._clock, self._settings
        keys = Keys(own_name=identity.server_name, keys=self._keys, clock=clock)
        routes: tuple[Route, ...] = federation_routes(
            authentication=Authentication(
                own_name=identity.server_name,
                keyring=self._keyring,
                clock=clock,
                on_heard=self._sender.on_heard,
                house=self._house,
                limits=self._limits,
            ),
            keys=keys,
            notary=Notary(
                own_name=identity.server_name,
                own=keys,
                keys=self._keys,
                documents=self._keyring,
                clock=clock,
            ),
            transactions=Transactions(
                receiver=self._rooms.receiver,
                house=self._house,
                takers=self._takers,
                limits=self._limits,
                clock=clock,
            ),
            events=Events(own_name=identity.server_name, answers=self._rooms.answers, clock=clock),
            membership=MembershipEndpoints(answers=self._rooms.answers),
            queries=Queries(own_name=identity.server_name, directory=self._rooms.directory),
            people=PeopleEndpoints(
                devices=self._people.devices, keys=self._people.keys, openid=self._people.openid
            ),
            room_lists=RoomLists(public_rooms=self._rooms.public_rooms, spaces=self._rooms.spaces),
            media=Media(store=self._media.store, thumbnails=self._media.thumbnails),
        )
        known = settings.well_known
        routes += well_known_routes(
            server=None if known.server is None else ServerName(known.server),
            contacts=[one.model_dump(exclude_none=True) for one in known.contacts],
            support_page=known.support_page,
        )
        routes += self._files.routes()
        self._web = WebServer(
            routes=routes,
            listeners=[
                Listener(
                    host=listener.host,
                    port=listener.port,
                    certificate=_from(settings, listener.certificate),
                    private_key=_from(settings, listener.private_key),
                )
                for listener in settings.listeners
            ],
            max_connections=settings.web.connections or None,
            max_in_flight=settings.web.requests_at_once,
            max_reading_bytes=settings.web.reading_bytes,
            idle_timeout_s=settings.web.idle_timeout_s,
            body_timeout_s=settings.web.body_timeout_s,
            answer_timeout_s=settings.web.answer_timeout_s,
            clock=clock,
        )
        self._health = WebServer(
            routes=health_routes(missing=self._missing, with_metrics=settings.health.metrics),
            listeners=[
                Listener(
                    host=settings.health.host, port=settings.health.port, setting="health.port"
                )
            ],
            clock=clock,
        )

    # --- running -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Until a signal says stop. A part that ends by a fault ends the whole program."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self._introduce()
        await self._bot.rules.load()
        await self._media.store.start()
        await self._health.start()
        await self._web.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                working = [
                    tasks.create_task(self._inbox.run()),
                    tasks.create_task(self._outbox.run()),
                ]
                others = [
                    tasks.create_task(self._rooms.receiver.run()),
                    tasks.create_task(self._rooms.handshake.run()),
                    tasks.create_task(self._sender.run()),
                    tasks.create_task(self._people.run()),
                    tasks.create_task(self._feed.run()),
                    tasks.create_task(self._rooms.ephemeral.run()),
                    tasks.create_task(self._ephemeral_feed.run()),
                    tasks.create_task(self._adapter.run()),
                    tasks.create_task(self._portals.run()),
                    tasks.create_task(self._bot.control.run()),
                    tasks.create_task(self._bot.rules.run()),
                    tasks.create_task(
                        Upkeep(
                            database=self._database,
                            clock=self._clock,
                            keep_done_s=self._settings.delivery.keep_done_s,
                        ).run()
                    ),
                    tasks.create_task(self._hasten_when_connected()),
                    tasks.create_task(
                        self._portals.notices.run(
                            after_s=self._settings.delivery.waiting_notice_s,
                            again_after_s=self._settings.delivery.waiting_again_s,
                        )
                    ),
                ]
                await stop.wait()
                self._say("Stopping.")
                self._stopping = True
                await self._web.stop()
                self._inbox.stop()
                self._outbox.stop()
                await asyncio.wait(working, timeout=DRAIN_S)
                await self._adapter.stop()
                for task in (*working, *others):
                    task.cancel()
        finally:
            await self._web.stop()
            await self._health.stop()

    def _introduce(self) -> None:
        settings = self._settings
        self._say(
            f"Isthmus {__version__}: {self._identity.server_name} on Matrix, "
            f"{self._xmpp.domain} on XMPP."
        )
        for listener in settings.listeners:
            if listener.certificate is None:
                how = "HTTP, for a reverse proxy that speaks HTTPS to the world"
            else:
                how = "HTTPS"
            self._say(f"Matrix servers: {listener.host}:{listener.port} ({how}).")
        self._say(
            f"XMPP server: connecting to {self._xmpp.host}:{self._xmpp.port}. "
            f"Ready or not: http://{settings.health.host}:{settings.health.port}/_isthmus/ready"
        )

    async def _hasten_when_connected(self) -> None:
        """What waited for the XMPP server goes out as soon as it is back."""
        while True:
            await self._connected.wait()
            self._connected.clear()
            now_ms = self._clock.now_ms()
            try:
                await self._database.write(
                    partial(
                        queues.hasten_adapter,
                        queue=OUTBOX,
                        adapter=self._adapter.name,
                        now_ms=now_ms,
                    )
                )
            except Unavailable as exc:
                log.warning("what waits is not hastened", reason=exc.reason)
                await self._clock.sleep(1.0)
                self._connected.set()

    def _on_status(self, status: Status) -> None:
        if status.state == "connected":
            self._connected.set()
        if status.state == "connecting" or status.text == self._last_said:
            return
        self._last_said = status.text
        self._say(f"{status.text[:1].upper()}{status.text[1:]}.")
        if status.state == "connected":
            self._say("Ready.")

    def _missing(self) -> Sequence[str]:
        if self._stopping:
            return ["stopping"]
        status = self._adapter.status
        return [] if status.state == "connected" else [status.text]


def _from(settings: Settings, path: Path | None) -> Path | None:
    return None if path is None else settings.path(path)
