"""The portals over one back end and one adapter's addresses, wired."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from bridge.clock import Clock
from bridge.ids import RoomVersionId
from bridge.policy.house import House
from bridge.portals.access import ChatAccess
from bridge.portals.changes import Changes
from bridge.portals.chats import Chats
from bridge.portals.directory import Directory
from bridge.portals.ephemeral import EphemeralPortal
from bridge.portals.following import Following
from bridge.portals.from_chat import FromChat
from bridge.portals.from_matrix import FromMatrix, OnCommand
from bridge.portals.ghosts import Ghosts
from bridge.portals.in_chat import InChat
from bridge.portals.media import Files
from bridge.portals.membership import Greet, Membership
from bridge.portals.moves import Moves
from bridge.portals.notices import Notices
from bridge.portals.occupants import Occupants
from bridge.portals.plumbing import Plumbing
from bridge.portals.policy_rooms import PolicyRooms
from bridge.portals.to_chat import ToChat
from bridge.ports.chat import AddressMap, ChatAdapter
from bridge.ports.matrix import MatrixBackend
from bridge.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Portals:
    """`attach` the adapter when it is there. `run` what happens now and then."""

    from_matrix: FromMatrix
    from_chat: FromChat
    to_chat: ToChat
    notices: Notices
    directory: Directory
    ghosts: Ghosts
    chats: Chats
    occupants: Occupants
    plumbing: Plumbing
    access: ChatAccess
    moves: Moves
    policy_rooms: PolicyRooms
    ephemeral: EphemeralPortal

    def attach(self, adapter: ChatAdapter) -> None:
        """The adapter is built on the portals, and comes later."""
        self.access.attach(adapter)
        self.ephemeral.attach(adapter)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.chats.run())
            tasks.create_task(self.occupants.run())
            tasks.create_task(self.plumbing.run())
            tasks.create_task(self.policy_rooms.run())
            tasks.create_task(self.ephemeral.run())


def build_portals(
    *,
    database: Database,
    backend: MatrixBackend,
    addresses: AddressMap,
    clock: Clock,
    random: Random,
    on_command: OnCommand,
    greet: Greet | None = None,
    on_demand: bool = True,
    listed: bool = False,
    version: RoomVersionId | None = None,
    most_shown: int = 200,
    absent_after_s: float = 300.0,
    unused_after_s: float = 900.0,
    house: House | None = None,
    files: Files | None = None,
) -> Portals:
    """The settings are those of `portals` in the configuration; `random` makes codes that nobody
    may guess. Without `files` none are carried."""
    adapter = addresses.adapter
    house = house or House(own_name=backend.server_name, bot=backend.bot)
    ghosts = Ghosts(database=database, backend=backend, addresses=addresses, clock=clock)
    directory = Directory(
        database=database, backend=backend, ghosts=ghosts, adapter=adapter, clock=clock
    )
    notices = Notices(database=database, backend=backend, adapter=adapter, clock=clock)
    moves = Moves(database=database, backend=backend, adapter=adapter, clock=clock)
    policy_rooms = PolicyRooms(
        database=database,
        backend=backend,
        directory=directory,
        moves=moves,
        house=house,
        clock=clock,
    )
    access = ChatAccess()
    chats = Chats(
        database=database,
        backend=backend,
        addresses=addresses,
        ghosts=ghosts,
        access=access,
        clock=clock,
        random=random,
        on_demand=on_demand,
        listed=listed,
        version=version,
        unused_after_s=unused_after_s,
    )
    occupants = Occupants(
        database=database,
        backend=backend,
        ghosts=ghosts,
        chats=chats,
        adapter=adapter,
        clock=clock,
        most_shown=most_shown,
        absent_after_s=absent_after_s,
    )
    to_chat = ToChat(
        files=files,
        database=database,
        backend=backend,
        ghosts=ghosts,
        notices=notices,
        chats=chats,
        occupants=occupants,
        adapter=adapter,
        clock=clock,
    )
    ephemeral = EphemeralPortal(
        database=database,
        backend=backend,
        directory=directory,
        addresses=addresses,
        house=house,
        clock=clock,
    )
    from_matrix = FromMatrix(
        files=files,
        database=database,
        backend=backend,
        directory=directory,
        ghosts=ghosts,
        membership=Membership(
            database=database,
            backend=backend,
            directory=directory,
            ghosts=ghosts,
            notices=notices,
            adapter=adapter,
            clock=clock,
            moves=moves,
            greet=greet,
        ),
        notices=notices,
        addresses=addresses,
        clock=clock,
        on_command=on_command,
        chats=chats,
        to_chat=to_chat,
        moves=moves,
        house=house,
        policy_rooms=policy_rooms,
        ephemeral=ephemeral,
    )
    following = Following(
        database=database,
        backend=backend,
        directory=directory,
        ghosts=ghosts,
        notices=notices,
        chats=chats,
        moves=moves,
        adapter=adapter,
        clock=clock,
        carry=from_matrix.carry_past,
    )
    from_matrix.attach(following.on_left_behind)
    return Portals(
        from_matrix=from_matrix,
        from_chat=FromChat(
            files=files,
            database=database,
            backend=backend,
            directory=directory,
            ghosts=ghosts,
            notices=notices,
            addresses=addresses,
            clock=clock,
            on_command=on_command,
            in_chat=InChat(
                files=files,
                database=database,
                backend=backend,
                chats=chats,
                occupants=occupants,
                changes=Changes(
                    backend=backend,
                    ghosts=ghosts,
                    notices=notices,
                    chats=chats,
                    occupants=occupants,
                ),
                moves=moves,
                adapter=adapter,
                clock=clock,
            ),
            moves=moves,
            following=following,
            house=house,
            ephemeral=ephemeral,
        ),
        to_chat=to_chat,
        notices=notices,
        directory=directory,
        ghosts=ghosts,
        chats=chats,
        occupants=occupants,
        plumbing=Plumbing(
            database=database,
            backend=backend,
            addresses=addresses,
            ghosts=ghosts,
            notices=notices,
            chats=chats,
            access=access,
            random=random,
        ),
        access=access,
        moves=moves,
        policy_rooms=policy_rooms,
        ephemeral=ephemeral,
    )
