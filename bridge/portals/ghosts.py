"""Ghosts: the Matrix users that stand for foreign addresses."""

from __future__ import annotations

from bridge.clock import Clock
from bridge.ids import UserId
from bridge.ports.chat import AddressMap
from bridge.ports.matrix import MatrixBackend, Profile
from bridge.storage import ghosts
from bridge.storage.database import Database


class Ghosts:
    """Makes a ghost known before it is used, and names it."""

    def __init__(
        self, *, database: Database, backend: MatrixBackend, addresses: AddressMap, clock: Clock
    ) -> None:
        self._database = database
        self._backend = backend
        self._addresses = addresses
        self._clock = clock

    async def ensure(self, address: str, *, name: str | None = None) -> UserId:
        """The ghost of an address. Its first use stores it and gives it a name."""
        user_id = self._addresses.user_of(address)
        adapter, now_ms = self._addresses.adapter, self._clock.now_ms()
        is_new = await self._database.write(
            lambda tx: ghosts.put(
                tx, user_id=user_id, adapter=adapter, address=address, now_ms=now_ms
            )
        )
        if is_new:
            displayname = name or self._addresses.default_name(address)
            await self._backend.set_profile(user_id, Profile(displayname=displayname))
        return user_id

    async def find_address(self, user_id: UserId) -> str | None:
        """The address behind a user ID, by its spelling or, for a hashed one, by its row."""
        address = self._addresses.address_of(user_id)
        if address is not None:
            return address
        return await self._database.read(lambda tx: ghosts.find_address(tx, user_id))
