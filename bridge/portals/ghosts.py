"""Ghosts: the Matrix users that stand for foreign addresses."""

from __future__ import annotations

from bridge.clock import Clock
from bridge.errors import BadInput, NotFound, Refused
from bridge.ids import UserId, server_of
from bridge.ports.chat import AddressMap
from bridge.ports.matrix import MatrixBackend, Profile
from bridge.storage import ghosts
from bridge.storage.database import Database

MAX_KNOWN = 10_000


class Ghosts:
    """Makes a ghost known before it is used, and names it."""

    def __init__(
        self, *, database: Database, backend: MatrixBackend, addresses: AddressMap, clock: Clock
    ) -> None:
        self._database = database
        self._backend = backend
        self._addresses = addresses
        self._clock = clock
        # Rows of ghosts are never removed.
        self._known: dict[UserId, None] = {}

    def user_of(self, address: str) -> UserId:
        """The ghost of an address, made or not."""
        return self._addresses.user_of(address)

    async def ensure(self, address: str, *, name: str | None = None) -> UserId:
        """The ghost of an address. Its first use stores it and gives it a name."""
        user_id = self._addresses.user_of(address)
        if server_of(user_id) != self._backend.server_name or user_id == self._backend.bot:
            raise Refused(f"{address} is an address of ours", rule="own-address")
        if user_id in self._known or await self._is_stored(user_id):
            return user_id
        # Named before it is stored: a crash in between names it again.
        displayname = name or self._addresses.default_name(address)
        await self._backend.set_profile(user_id, Profile(displayname=displayname))
        adapter, now_ms = self._addresses.adapter, self._clock.now_ms()
        await self._database.write(
            lambda tx: ghosts.put(
                tx, user_id=user_id, adapter=adapter, address=address, now_ms=now_ms
            )
        )
        self._remember(user_id)
        return user_id

    async def find_address(self, user_id: UserId) -> str | None:
        """The address behind a user ID, by its spelling or, for a hashed one, by its row.

        None where it is no ghost: what stands for an address of our own is nobody's.
        """
        if server_of(user_id) != self._backend.server_name:
            return None
        try:
            address = self._addresses.address_of(user_id)
            if address is not None:
                return address if self._addresses.user_of(address) == user_id else None
        except (BadInput, NotFound):
            pass  # hashed, or nothing that anybody can be called
        return await self._database.read(lambda tx: ghosts.find_address(tx, user_id))

    async def _is_stored(self, user_id: UserId) -> bool:
        found = await self._database.read(lambda tx: ghosts.find_address(tx, user_id))
        if found is not None:
            self._remember(user_id)
        return found is not None

    def _remember(self, user_id: UserId) -> None:
        if len(self._known) >= MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[user_id] = None
