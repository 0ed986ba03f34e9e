"""How the parts of this package hang together: values in, one set of parts out."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.engine.keys import Signer
from bridge.ids import ServerName, TraceId
from bridge.policy.house import House
from bridge.policy.limits import Limits
from bridge.rooms.accept import Acceptor
from bridge.rooms.answer import Answers
from bridge.rooms.append import Appender
from bridge.rooms.bounds import DEFAULTS, GraphBounds
from bridge.rooms.create import RoomCreator
from bridge.rooms.directory import Directory
from bridge.rooms.ephemeral import Ephemerals
from bridge.rooms.exchange import Exchange
from bridge.rooms.gaps import GapFiller
from bridge.rooms.handshake import Handshake
from bridge.rooms.hierarchy import SpaceWalker
from bridge.rooms.load import RoomStates
from bridge.rooms.network import KeyRing, Lookups, Peers
from bridge.rooms.outside import Outside, OutsideBounds
from bridge.rooms.policy_server import PolicyServers
from bridge.rooms.public_rooms import PublicRooms
from bridge.rooms.purge import Purger
from bridge.rooms.query import RoomQueries
from bridge.rooms.receive import Receiver
from bridge.rooms.send import Sender
from bridge.rooms.spaces import Spaces
from bridge.rooms.underway import Underway
from bridge.rooms.upgrade import Upgrader
from bridge.rooms.verify import Verifier
from bridge.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """The verbs. Long-lived are `receiver.run()`, `handshake.run()` and `ephemeral.run()`."""

    sender: Sender
    creator: RoomCreator
    upgrader: Upgrader
    handshake: Handshake
    receiver: Receiver
    answers: Answers
    queries: RoomQueries
    directory: Directory
    public_rooms: PublicRooms
    spaces: Spaces
    walker: SpaceWalker
    purger: Purger
    ephemeral: Ephemerals


def new_trace() -> TraceId:
    return TraceId(secrets.token_hex(8))


def new_room_localpart() -> str:
    """Of a room ID with a domain; those of version 12 are hashes."""
    return secrets.token_urlsafe(18)


def new_event_localpart() -> str:
    """Of an event ID with a domain; from version 3 on they are hashes."""
    return secrets.token_urlsafe(18)


def build_rooms(
    *,
    server_name: ServerName,
    key: Signer,
    database: Database,
    clock: Clock,
    peers: Peers,
    keyring: KeyRing,
    lookups: Lookups,
    bounds: GraphBounds = DEFAULTS,
    house: House | None = None,
    limits: Limits | None = None,
    outside_bounds: OutsideBounds | None = None,
    with_presence: bool = True,
    make_trace: Callable[[], TraceId] = new_trace,
    make_localpart: Callable[[], str] = new_room_localpart,
    make_event_localpart: Callable[[], str] = new_event_localpart,
) -> Rooms:
    house = house or House(own_name=server_name)
    states = RoomStates(database=database, bounds=bounds)
    appender = Appender(
        server_name=server_name, database=database, states=states, clock=clock, bounds=bounds
    )
    verifier = Verifier(
        server_name=server_name, key=key, keyring=keyring, names=states, clock=clock
    )
    policy_servers = PolicyServers(
        server_name=server_name, database=database, states=states, peers=peers, clock=clock
    )
    acceptor = Acceptor(
        database=database,
        states=states,
        appender=appender,
        policy_servers=policy_servers,
        clock=clock,
    )
    sender = Sender(
        acceptor=acceptor,
        policy_servers=policy_servers,
        server_name=server_name,
        key=key,
        database=database,
        states=states,
        appender=appender,
        clock=clock,
        bounds=bounds,
        random_text=make_event_localpart,
    )
    outside = Outside(
        server_name=server_name,
        database=database,
        verifier=verifier,
        clock=clock,
        bounds=outside_bounds,
    )
    underway = Underway()
    receiver = Receiver(
        limits=limits or Limits(),
        house=house,
        database=database,
        states=states,
        acceptor=acceptor,
        verifier=verifier,
        gaps=GapFiller(
            server_name=server_name,
            database=database,
            states=states,
            acceptor=acceptor,
            verifier=verifier,
            peers=peers,
            clock=clock,
            bounds=bounds,
        ),
        outside=outside,
        clock=clock,
        bounds=bounds,
        new_trace=make_trace,
    )
    queries = RoomQueries(server_name=server_name, database=database, states=states)
    handshake = Handshake(
        house=house,
        server_name=server_name,
        key=key,
        database=database,
        states=states,
        appender=appender,
        acceptor=acceptor,
        sender=sender,
        outside=outside,
        verifier=verifier,
        keyring=keyring,
        peers=peers,
        underway=underway,
        lookups=lookups,
        take=receiver.take,
        clock=clock,
        bounds=bounds,
        random_text=make_event_localpart,
    )
    spaces = Spaces(server_name=server_name, database=database, states=states, house=house)
    return Rooms(
        sender=sender,
        creator=RoomCreator(
            server_name=server_name,
            key=key,
            database=database,
            appender=appender,
            sender=sender,
            clock=clock,
            random_text=make_localpart,
        ),
        upgrader=Upgrader(
            server_name=server_name,
            key=key,
            database=database,
            states=states,
            appender=appender,
            sender=sender,
            handshake=handshake,
            queries=queries,
            clock=clock,
            random_text=make_localpart,
        ),
        handshake=handshake,
        receiver=receiver,
        answers=Answers(
            house=house,
            policy_servers=policy_servers,
            server_name=server_name,
            key=key,
            states=states,
            sender=sender,
            acceptor=acceptor,
            outside=outside,
            verifier=verifier,
            lookups=lookups,
            underway=underway,
            exchange=Exchange(
                server_name=server_name, states=states, invite_drafted=handshake.invite_drafted
            ),
            queries=queries,
            bounds=bounds,
            new_trace=make_trace,
        ),
        queries=queries,
        directory=Directory(
            house=house, server_name=server_name, database=database, lookups=lookups, peers=peers
        ),
        public_rooms=PublicRooms(
            server_name=server_name,
            database=database,
            states=states,
            appender=appender,
            peers=peers,
            house=house,
            clock=clock,
        ),
        spaces=spaces,
        walker=SpaceWalker(server_name=server_name, spaces=spaces, peers=peers, clock=clock),
        purger=Purger(
            server_name=server_name,
            database=database,
            states=states,
            appender=appender,
            sender=sender,
        ),
        ephemeral=Ephemerals(
            server_name=server_name,
            database=database,
            states=states,
            queries=queries,
            house=house,
            clock=clock,
            with_presence=with_presence,
        ),
    )
