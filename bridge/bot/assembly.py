"""The bot over the portals, one back end and one adapter's addresses, wired."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.bot.context import Keys, Lists, Portals
from bridge.bot.control import Control
from bridge.bot.dispatch import Dispatch
from bridge.bot.journal import MessageJournal
from bridge.bot.listings import RoomListings
from bridge.bot.peers import PeerDesk
from bridge.bot.queues import QueueDesk
from bridge.bot.rooms import BackendRooms, RoomAddress
from bridge.bot.rules import RuleBook
from bridge.bot.status import GatewayStatus
from bridge.bot.upgrades import RoomUpgrades
from bridge.clock import Clock
from bridge.delivery.queue import OnParked
from bridge.errors import BadInput, NotFound
from bridge.identity.resolver import Conversions, Resolver
from bridge.ids import UserId
from bridge.policy.house import House
from bridge.policy.rights import Rights
from bridge.ports.chat import AddressMap
from bridge.ports.command import Caller
from bridge.ports.matrix import MatrixBackend
from bridge.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Bot:
    """`commands` is the table of every face; `control` that of the server's own command line."""

    commands: Dispatch
    control: Control
    rules: RuleBook


def build_bot(
    *,
    database: Database,
    backend: MatrixBackend,
    addresses: AddressMap,
    room_addresses: Sequence[RoomAddress],
    conversions: Conversions,
    resolver: Resolver,
    portals: Portals,
    keys: Keys,
    permissions: Mapping[str, str],
    prepare_address: Callable[[str], str],
    tell_inbox: OnParked,
    tell_outbox: OnParked,
    connection: Callable[[], str],
    socket: Path,
    clock: Clock,
    house: House,
    rules: Sequence[str] = (),
    lists: Lists | None = None,
) -> Bot:
    """`permissions` are those of the configuration; `connection` says how things are with the chat
    side; `tell_…` tell the author of a row that it is given up. May raise Misconfigured."""
    book = RuleBook(database=database, clock=clock, house=house, configured=rules)
    rights = Rights(permissions, own_server=backend.server_name, prepare_address=prepare_address)
    house.attach(
        on_refusal=book.on_refusal,
        address_of=_address_of(addresses),
        is_admin=rights.is_admin,
        admin_servers=rights.admin_servers(),
    )
    commands = Dispatch(
        rooms=BackendRooms(backend=backend, addresses=room_addresses, conversions=conversions),
        rights=rights,
        address_of=addresses.address_of,
        portals=portals,
        upgrades=RoomUpgrades(backend=backend),
        listings=RoomListings(backend=backend),
        resolver=resolver,
        keys=keys,
        queues=QueueDesk(
            database=database, clock=clock, tell_inbox=tell_inbox, tell_outbox=tell_outbox
        ),
        journal=MessageJournal(database=database),
        status=GatewayStatus(
            database=database, clock=clock, connection=connection, adapter=addresses.adapter
        ),
        rules=book,
        lists=lists,
        peers=PeerDesk(database=database, clock=clock, house=house),
    )
    caller = Caller(user_id=backend.bot, is_operator=True)
    return Bot(
        commands=commands,
        control=Control(path=socket, table=commands, caller=caller),
        rules=book,
    )


def _address_of(addresses: AddressMap) -> Callable[[UserId], str | None]:
    """Of a ghost whose name tells whose it is."""

    def find(user_id: UserId) -> str | None:
        try:
            return addresses.address_of(user_id)
        except (BadInput, NotFound):
            return None

    return find
