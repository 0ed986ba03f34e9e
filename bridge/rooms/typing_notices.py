"""Who types: told by other servers, and told to them.

Nobody types for ever: what is not told again has ended. Servers tell again every 25 to 40 seconds
while it lasts. Spec: S2S, typing notifications; server ACLs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject
from bridge.engine.edu import TypingEdu, parse_edu
from bridge.errors import BadInput, Refused, Unavailable
from bridge.ids import RoomId, ServerName, UserId, server_of
from bridge.rooms.network import Json
from bridge.rooms.passing import Door, Outlet, PassingEdus
from bridge.rooms.query import RoomQueries

MAX_TYPING = 10_000
"""Users of other servers who type, and of ours."""
LAST_S = 60.0
"""How long somebody of another server types when their server says no more. Established servers
say it again every 40 seconds."""
REFRESH_S = 25.0
"""We tell again before anybody forgets it: some do after 30 seconds."""
MAX_TIMEOUT_MS = 120_000
MAX_AGE_S = 20.0

_Key = tuple[RoomId, UserId]


@dataclass(slots=True)
class _Own:
    until_s: float
    told_s: float


class TypingNotices:
    def __init__(
        self,
        *,
        server_name: ServerName,
        door: Door,
        queries: RoomQueries,
        outlet: Outlet,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._door = door
        self._queries = queries
        self._outlet = outlet
        self._clock = clock
        self._others: OrderedDict[_Key, float] = OrderedDict()
        self._own: dict[_Key, _Own] = {}
        self.source = PassingEdus[TypingEdu](clock=clock, to_edu=_to_edu, max_age_s=MAX_AGE_S)

    def typing(self, room_id: RoomId) -> list[UserId]:
        """Everybody who types in the room."""
        return sorted(user for room, user in (*self._others, *self._own) if room == room_id)

    # --- in -----------------------------------------------------------------------------------

    async def take(self, origin: ServerName, content: Json) -> None:
        edu = parse_edu({"edu_type": "m.typing", "content": content})
        if not isinstance(edu, TypingEdu):
            raise BadInput("not a typing notification")
        await self._door.check(origin, edu.room_id, edu.user_id)
        key = (edu.room_id, edu.user_id)
        if not edu.typing:
            self._end(key)
            return
        is_new = key not in self._others
        self._others[key] = self._clock.monotonic_s() + LAST_S
        self._others.move_to_end(key)
        if is_new:
            self._outlet.tell(edu)
        while len(self._others) > MAX_TYPING:
            self._end(next(iter(self._others)))

    def _end(self, key: _Key) -> None:
        if self._others.pop(key, None) is not None:
            room_id, user_id = key
            self._outlet.tell(TypingEdu(room_id=room_id, user_id=user_id, typing=False))

    # --- out ----------------------------------------------------------------------------------

    async def set(
        self, room_id: RoomId, user_id: UserId, typing: bool, *, timeout_ms: int = 30_000
    ) -> None:
        """One of our users types, for so long unless it is said again, or has stopped. `Refused`
        for whoever is not in the room, `Unavailable` when too many type."""
        key = (room_id, user_id)
        if server_of(user_id) != self._server_name:
            raise Refused(f"{user_id} is no user of ours", rule="sender")
        known = self._own.get(key)
        if not typing:
            if known is not None:
                await self._stop(key)
            return
        await self._door.check_own(room_id, user_id)
        now_s = self._clock.monotonic_s()
        until_s = now_s + max(0, min(timeout_ms, MAX_TIMEOUT_MS)) / 1000
        if known is not None:
            known.until_s = until_s
            return
        if len(self._own) >= MAX_TYPING:
            raise Unavailable("too many people type")
        self._own[key] = _Own(until_s=until_s, told_s=now_s)
        await self._tell(key, True)

    async def tick(self) -> None:
        """Ends what has lasted long enough, and tells again what lasts."""
        now_s = self._clock.monotonic_s()
        for key in [key for key, until_s in self._others.items() if until_s <= now_s]:
            self._end(key)
        for key, own in list(self._own.items()):
            if own.until_s <= now_s:
                await self._stop(key)
            elif now_s - own.told_s >= REFRESH_S:
                own.told_s = now_s
                await self._tell(key, True)

    async def _stop(self, key: _Key) -> None:
        if self._own.pop(key, None) is not None:
            await self._tell(key, False)

    async def _tell(self, key: _Key, typing: bool) -> None:
        room_id, user_id = key
        edu = TypingEdu(room_id=room_id, user_id=user_id, typing=typing)
        for peer in self._outlet.peers(await self._queries.servers_now(room_id)):
            self.source.put(peer, key, edu)
            self._outlet.wake(peer)


def _to_edu(values: Sequence[TypingEdu]) -> JsonObject:
    (one,) = values
    content = {"room_id": one.room_id, "user_id": one.user_id, "typing": one.typing}
    return {"edu_type": "m.typing", "content": content}
