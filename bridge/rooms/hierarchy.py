"""Walking a space over several servers: depth first, each room once, within bounds.

A room that we are in is read here. Of any other its space's server has told us what it is; only a
space is asked for once more, from the servers that its parent names. What a server says cannot be
seen is not asked for again. When the time is over or a bound is reached, the rooms found so far
are the answer, those told of included. Answers are kept for a while, as the specification wants.
Spec: S2S, spaces; client-server API, GET /rooms/{roomId}/hierarchy.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.errors import BadInput, IsthmusError, NotFound, Unavailable
from bridge.ids import RoomId, ServerName, UserId
from bridge.rooms.entries import RoomEntry, from_json
from bridge.rooms.network import Json, Peers
from bridge.rooms.spaces import MAX_CHILDREN, SPACE, Child, Space, Spaces, read_children
from bridge.telemetry.log import get_logger

MAX_ROOMS = 300
MAX_DEPTH = 10
DEFAULT_DEPTH = 3
MAX_PEERS = 3
"""Asked for one space."""
REQUEST_S = 10.0
WALK_S = 30.0
KEPT_S = 300.0
MAX_KEPT = 200

log = get_logger("rooms")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRoom:
    """A room of a walk. `depth`: 0 for the space that was asked for. `via`: to join it by."""

    entry: RoomEntry
    depth: int
    parent: RoomId | None
    via: Sequence[ServerName]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What another server says of a space."""

    space: Space
    rooms: Mapping[RoomId, RoomEntry]
    hidden: frozenset[RoomId]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    room_id: RoomId
    depth: int
    parent: RoomId | None
    via: Sequence[ServerName]
    told: RoomEntry | None


class SpaceWalker:
    def __init__(
        self, *, server_name: ServerName, spaces: Spaces, peers: Peers, clock: Clock
    ) -> None:
        self._server_name = server_name
        self._spaces = spaces
        self._peers = peers
        self._clock = clock
        self._kept: OrderedDict[tuple[RoomId, bool], tuple[float, _Told]] = OrderedDict()

    async def walk(
        self,
        room_id: RoomId,
        *,
        via: Sequence[ServerName] = (),
        viewer: UserId | None = None,
        suggested_only: bool = False,
        depth: int = DEFAULT_DEPTH,
        limit: int = MAX_ROOMS,
    ) -> list[FoundRoom]:
        """The space itself first. `viewer` is shown what they could enter, as far as we know; None:
        everything that we are told. `NotFound` when nobody shows us the space, `Unavailable`."""
        end_s = self._clock.monotonic_s() + WALK_S
        found: list[FoundRoom] = []
        seen: set[RoomId] = set()
        hidden: set[RoomId] = set()
        steps = [_Step(room_id=room_id, depth=0, parent=None, via=via, told=None)]
        while steps and len(found) < min(limit, MAX_ROOMS):
            step = steps.pop()
            if step.room_id in seen:
                continue
            seen.add(step.room_id)
            is_last = step.depth >= min(depth, MAX_DEPTH)
            look = await self._look(
                step,
                suggested_only=suggested_only,
                is_last=is_last,
                is_hidden=step.room_id in hidden,
                end_s=end_s,
            )
            if look is None or not await self._may_view(viewer, look.space.entry):
                if step.depth == 0:
                    raise NotFound(f"room {room_id} is not there for you")
                continue
            hidden |= look.hidden
            found.append(
                FoundRoom(
                    entry=look.space.entry, depth=step.depth, parent=step.parent, via=step.via
                )
            )
            if not is_last:
                steps += [
                    _Step(
                        room_id=child.room_id,
                        depth=step.depth + 1,
                        parent=step.room_id,
                        via=child.via,
                        told=look.rooms.get(child.room_id),
                    )
                    for child in reversed(look.space.children)
                ]
        return found

    async def _may_view(self, viewer: UserId | None, entry: RoomEntry) -> bool:
        return viewer is None or await self._spaces.may_view(viewer, entry)

    async def _look(
        self,
        step: _Step,
        *,
        suggested_only: bool,
        is_last: bool,
        is_hidden: bool,
        end_s: float,
    ) -> _Told | None:
        own = await self._spaces.find(step.room_id, suggested_only=suggested_only)
        if own is not None:
            return _Told(space=own[1], rooms={}, hidden=frozenset())
        known = step.told
        is_enough = known is not None and (is_last or known.room_type != SPACE)
        if not is_enough and not is_hidden:
            try:
                return await self._ask(step, suggested_only=suggested_only, end_s=end_s)
            except IsthmusError as exc:
                if step.depth == 0:
                    raise
                log.info("space not read", room_id=step.room_id, reason=exc.reason)
        if known is None:
            return None
        return _Told(space=Space(entry=known, children=()), rooms={}, hidden=frozenset())

    async def _ask(self, step: _Step, *, suggested_only: bool, end_s: float) -> _Told:
        """Of the servers that may know it, in their order. The last one's error."""
        key, now_s = (step.room_id, suggested_only), self._clock.monotonic_s()
        kept = self._kept.get(key)
        if kept is not None and kept[0] > now_s:
            return kept[1]
        error: IsthmusError = NotFound(f"no server is named that knows {step.room_id}")
        others = [one for one in dict.fromkeys(step.via) if one != self._server_name]
        for peer in others[:MAX_PEERS]:
            left_s = min(REQUEST_S, end_s - self._clock.monotonic_s())
            if left_s <= 0:
                raise Unavailable("reading the space takes too long")
            try:
                async with asyncio.timeout(left_s):
                    answer = await self._peers.hierarchy(
                        peer, step.room_id, suggested_only=suggested_only
                    )
                told = _read(answer, step.room_id, suggested_only=suggested_only)
            except TimeoutError:
                error = Unavailable(f"{peer} takes too long")
                continue
            except IsthmusError as exc:
                error = exc
                continue
            self._keep(key, told, now_s)
            return told
        raise error

    def _keep(self, key: tuple[RoomId, bool], told: _Told, now_s: float) -> None:
        self._kept[key] = now_s + KEPT_S, told
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)


def _read(answer: Json, room_id: RoomId, *, suggested_only: bool) -> _Told:
    """Raises `BadInput` where it is about another room or none."""
    room = answer.get("room")
    entry = from_json(room)
    if entry.room_id != room_id or not isinstance(room, dict):
        raise BadInput(f"the answer is about {entry.room_id}")
    said = room.get("children_state")
    children: list[Child] = []
    if entry.room_type == SPACE and isinstance(said, list):
        children = read_children(said[:MAX_CHILDREN], suggested_only=suggested_only)
    named = {child.room_id for child in children}
    rooms: dict[RoomId, RoomEntry] = {}
    for one in _list(answer, "children"):
        try:
            child = from_json(one)
        except BadInput:
            continue
        if child.room_id in named:
            rooms[child.room_id] = child
    unseen = {one for one in _list(answer, "inaccessible_children") if isinstance(one, str)}
    hidden = named & {RoomId(one) for one in unseen}
    return _Told(space=Space(entry=entry, children=children), rooms=rooms, hidden=frozenset(hidden))


def _list(answer: Json, name: str) -> list[object]:
    found = answer.get(name)
    return found[:MAX_CHILDREN] if isinstance(found, list) else []
