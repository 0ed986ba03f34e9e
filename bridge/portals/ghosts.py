"""Ghosts: the Matrix users that stand for foreign addresses."""

from __future__ import annotations

from bridge.clock import Clock
from bridge.errors import BadInput, NotFound, Refused
from bridge.identity.localparts import is_ghost_localpart
from bridge.ids import UserId, localpart_of, server_of
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

    def is_ghost(self, user_id: UserId) -> bool:
        """Whether the name is kept for ghosts of ours; nobody else has such a one."""
        is_ours = server_of(user_id) == self._backend.server_name
        return is_ours and is_ghost_localpart(localpart_of(user_id))

    def is_person(self, user_id: UserId) -> bool:
        """Neither a ghost of ours nor our bot."""
        return user_id != self._backend.bot and not self.is_ghost(user_id)

    def is_own_address(self, address: str) -> bool:
        """Whether an address of the chat side is one of our own: Matrix stands behind it."""
        try:
            user_id = self._addresses.user_of(address)
        except NotFound:
            return True  # in our domain, and nobody's
        except BadInput:
            return False
        return not self.is_ghost(user_id)

    async def rename(self, address: str, name: str) -> None:
        """The ghost of an address that has no other name than this one."""
        await self._backend.set_profile(self.user_of(address), Profile(displayname=name))

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
