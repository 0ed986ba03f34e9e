"""How the parts of this package hang together: values in, one set of parts out."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from bridge.clock import Clock
from bridge.delivery.backoff import Backoff
from bridge.ids import ServerName, TraceId
from bridge.people.company import Company
from bridge.people.devices import Devices
from bridge.people.keys import Keys
from bridge.people.lists import DeviceListUpdates, SigningKeyUpdates
from bridge.people.network import PeoplePeers
from bridge.people.openid import OpenId
from bridge.people.resync import Resync
from bridge.people.sharing import DEVICE_LIST, SIGNING_KEY, TO_DEVICE
from bridge.people.to_device import ToDevice
from bridge.rooms.network import EduTaker
from bridge.storage.database import Database

OLD_SIGNING_KEY = "org.matrix.signing_key_update"
"""As it was called before it was specified; some servers still send it, beside the new name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """`takers`: of EDUs, by type. Long-lived is `run()`."""

    devices: Devices
    keys: Keys
    to_device: ToDevice
    openid: OpenId
    company: Company
    resync: Resync
    takers: Mapping[str, EduTaker]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.company.run())
            tasks.create_task(self.resync.run())


def new_trace() -> TraceId:
    return TraceId(secrets.token_hex(8))


def build_people(
    *,
    own_name: ServerName,
    database: Database,
    peers: PeoplePeers,
    clock: Clock,
    random: Random,
    wake: Callable[[ServerName], None],
    backoff: Backoff | None = None,
    resync_pause_s: float = 10.0,
) -> People:
    """`wake`: EDUs are stored for that server."""
    to_device = ToDevice(
        own_name=own_name, database=database, clock=clock, wake=wake, new_trace=new_trace
    )
    signing_keys = SigningKeyUpdates(database=database)
    return People(
        devices=Devices(own_name=own_name, database=database, clock=clock, wake=wake),
        keys=Keys(own_name=own_name, database=database, peers=peers, clock=clock, wake=wake),
        to_device=to_device,
        openid=OpenId(own_name=own_name, database=database, clock=clock),
        company=Company(own_name=own_name, database=database, clock=clock, wake=wake),
        resync=Resync(
            database=database,
            peers=peers,
            clock=clock,
            random=random,
            backoff=backoff,
            pause_s=resync_pause_s,
        ),
        takers={
            DEVICE_LIST: DeviceListUpdates(database=database, clock=clock),
            SIGNING_KEY: signing_keys,
            OLD_SIGNING_KEY: signing_keys,
            TO_DEVICE: to_device,
        },
    )
