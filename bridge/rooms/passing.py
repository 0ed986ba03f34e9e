"""What passes: who may tell it, to whom it goes, and what waits in memory for a peer.

Typing and presence are true now or not at all: they wait for nobody, the newest of a kind takes
the place of the one before, and what is old is dropped. DESIGN of the house: EDUs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Generic, Protocol, TypeAlias, TypeVar

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject
from bridge.engine.edu import Receipt, TypingEdu
from bridge.errors import Refused
from bridge.ids import RoomId, ServerName, UserId, server_of
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.rooms.load import RoomStates
from bridge.rooms.visibility import check_server
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database

DOOR = "edu"
MAX_PER_PEER = 500
MAX_HELD = 100_000

V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPresence:
    """How a user is there. `last_active_ms`: by our own clock."""

    user_id: UserId
    presence: str
    """`online`, `unavailable` or `offline`."""
    status: str | None
    last_active_ms: int | None
    currently_active: bool


Change: TypeAlias = TypingEdu | Receipt | UserPresence


class EphemeralSink(Protocol):
    """Whoever wants to know what users of other servers do."""

    def put(self, change: Change) -> None:
        """Takes it at once, or drops something: nobody waits for it."""
        ...


class Outlet:
    """Where it goes on: attached when everything is built, and silent before."""

    def __init__(self, *, server_name: ServerName, house: House) -> None:
        self._server_name = server_name
        self._house = house
        self.wake: Callable[[ServerName], None] = lambda _: None
        self.tell: Callable[[Change], None] = lambda _: None

    def attach(self, *, wake: Callable[[ServerName], None], sink: EphemeralSink) -> None:
        self.wake, self.tell = wake, sink.put

    def peers(self, servers: Collection[ServerName]) -> list[ServerName]:
        """Those of them that are others, and that no rule keeps from hearing of us."""
        return [
            one
            for one in sorted(servers)
            if one != self._server_name and self._house.allows_server(one, Scope.EDUS)
        ]


class Door:
    """Whose users are in which rooms, as far as they may tell something there."""

    def __init__(
        self, *, server_name: ServerName, database: Database, states: RoomStates, house: House
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._states = states
        self._house = house

    async def joined(
        self, origin: ServerName, users: Mapping[RoomId, Collection[UserId]]
    ) -> frozenset[tuple[RoomId, UserId]]:
        """Of these, those whom the origin may speak for there: its own users, joined in a room that
        we are in, whose ACL lets their server in, and whom no rule of the house denies."""
        own = {
            room_id: [user_id for user_id in some if server_of(user_id) == origin]
            for room_id, some in users.items()
        }
        there = await self._database.read(partial(room_rows.joined_among, users=own))
        if origin == self._server_name:
            return there
        allowed = {room_id for room_id, _ in there if await self._may_tell(origin, room_id)}
        return frozenset(
            (room_id, user_id)
            for room_id, user_id in there
            if room_id in allowed and self.is_heard(user_id)
        )

    async def check(self, origin: ServerName, room_id: RoomId, user_id: UserId) -> None:
        """Raises `Refused`."""
        if not await self.joined(origin, {room_id: [user_id]}):
            raise Refused(f"{user_id} may tell nothing in {room_id}", rule="edu")

    async def check_own(self, room_id: RoomId, user_id: UserId) -> None:
        """Raises `Refused`."""
        await self.check(self._server_name, room_id, user_id)

    def is_heard(self, user_id: UserId) -> bool:
        try:
            self._house.check_user(user_id, Scope.EDUS, door=DOOR)
        except Refused:
            return False
        return True

    async def _may_tell(self, origin: ServerName, room_id: RoomId) -> bool:
        room = await self._states.find_room(room_id)
        if room is None or not room.joined:
            return False
        try:
            self._house.check_room(room_id, Scope.EDUS, door=DOOR)
            await check_server(self._states, room, origin)
        except Refused:
            return False
        return True


@dataclass(frozen=True, slots=True, eq=False)
class _Held(Generic[V]):
    value: V
    since_s: float


class PassingEdus(Generic[V]):
    """A source of EDUs for the sender (`federation.edu_sources.EduSource`), in memory.

    `to_edu` makes one EDU of up to `per_edu` values. What has waited for `max_age_s` is not true
    any more.
    """

    is_passing = True

    def __init__(
        self,
        *,
        clock: Clock,
        to_edu: Callable[[Sequence[V]], JsonObject],
        max_age_s: float,
        per_edu: int = 1,
    ) -> None:
        self._clock = clock
        self._to_edu = to_edu
        self._max_age_s = max_age_s
        self._per_edu = per_edu
        self._held: OrderedDict[ServerName, OrderedDict[Hashable, _Held[V]]] = OrderedDict()
        self._count = 0

    def put(self, server: ServerName, key: Hashable, value: V) -> None:
        """In the place of what waited under this key. Over the bounds the oldest is dropped."""
        mine = self._held.setdefault(server, OrderedDict())
        self._count += key not in mine
        mine.pop(key, None)
        mine[key] = _Held(value, self._clock.monotonic_s())
        if len(mine) > MAX_PER_PEER:
            mine.popitem(last=False)
            self._count -= 1
        while self._count > MAX_HELD:
            self.dropped(next(iter(self._held)))

    async def pending(self, server: ServerName, limit: int) -> tuple[list[JsonObject], object]:
        mine = self._held.get(server)
        if mine is None:
            return [], ()
        before_s = self._clock.monotonic_s() - self._max_age_s
        for key in [key for key, held in mine.items() if held.since_s < before_s]:
            self._forget(server, key)
        some = list(islice(mine.items(), limit * self._per_edu))
        values = [held.value for _, held in some]
        made = [
            self._to_edu(values[start : start + self._per_edu])
            for start in range(0, len(values), self._per_edu)
        ]
        return made, tuple(some)

    async def sent(self, server: ServerName, token: object) -> None:
        assert isinstance(token, tuple)
        mine = self._held.get(server, OrderedDict())
        for key, held in token:
            if mine.get(key) is held:
                self._forget(server, key)

    async def waiting(self) -> Collection[ServerName]:
        return ()

    def dropped(self, server: ServerName) -> None:
        self._count -= len(self._held.pop(server, ()))

    def _forget(self, server: ServerName, key: Hashable) -> None:
        mine = self._held[server]
        del mine[key]
        self._count -= 1
        if not mine:
            del self._held[server]
