"""Lists of rooms in people's hands, over the Matrix port: ours is changed, anybody's is read.

Whoever may set a room's canonical alias may list it, as on other servers, and admins of this
gateway may. A list is read page by page: `more` goes on where the same person stopped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.bot.words import count_of
from bridge.errors import BadInput, NotFound, Refused
from bridge.ids import RoomAlias, RoomId, ServerName, UserId, parse_server_name
from bridge.ports.matrix import MatrixBackend, PublicRoom

ACTION = "state:m.room.canonical_alias"
OPEN_RULES = ("public", "knock", "restricted", "knock_restricted")
PAGE = 20
MAX_READERS = 1_000
MAX_NAME = 80
MAX_TOPIC = 120
MORE = "more"
MAX_SPACE = 200
MAX_SHOWN = 40
"""Rooms of a space that are looked at, and of one answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """Where somebody is in a list."""

    server: ServerName
    words: str | None
    since: str
    shown: int


class RoomListings:
    """Fills `bot.context.Listings`."""

    def __init__(self, *, backend: MatrixBackend) -> None:
        self._backend = backend
        self._readings: OrderedDict[UserId, _Reading] = OrderedDict()

    # --- ours -------------------------------------------------------------------------------

    async def publish(self, *, caller: UserId, is_admin: bool, room_id: RoomId) -> str:
        await self._check(caller, room_id, is_admin=is_admin)
        info = await self._backend.room(room_id)
        if info.direct:
            raise Refused(f"{room_id} is a chat of two people: it is nobody else's to find")
        if info.join_rule not in OPEN_RULES:
            raise Refused(
                f"only invited people can join {room_id}: let people join it or knock on it first"
            )
        await self._backend.publish(room_id, by=caller)
        name = info.canonical_alias or room_id
        return f"{name} stands in the list of rooms of {self._backend.server_name} now."

    async def unpublish(self, *, caller: UserId, is_admin: bool, room_id: RoomId) -> str:
        await self._check(caller, room_id, is_admin=is_admin)
        if not await self._backend.unpublish(room_id):
            return f"{room_id} is in no list of {self._backend.server_name}."
        return f"{room_id} is not listed any more."

    async def _check(self, caller: UserId, room_id: RoomId, *, is_admin: bool) -> None:
        """Nothing about the room is told to whoever has no power there."""
        if is_admin:
            return
        denial = Refused(
            f"only members of {room_id} who may set its canonical alias can have it listed; "
            "you may not"
        )
        try:
            member = await self._backend.member(room_id, caller)
            power = await self._backend.power(room_id)
        except NotFound as exc:
            raise denial from exc
        if member is None or member.membership != "join" or not power.may(caller, ACTION):
            raise denial

    # --- anybody's --------------------------------------------------------------------------

    async def browse(self, *, caller: UserId, words: Sequence[str]) -> str:
        """`more`, or a server and what to search for."""
        if [word.lower() for word in words] == [MORE]:
            reading = self._readings.pop(caller, None)
            if reading is None:
                raise BadInput("you have read no list that goes on: write which server's")
            return await self._read(
                caller, reading.server, reading.words, reading.since, reading.shown
            )
        server = parse_server_name(words[0].lower())
        return await self._read(caller, server, " ".join(words[1:]) or None, None, 0)

    async def browse_space(
        self, *, caller: UserId, space: RoomAlias | RoomId, words: Sequence[str]
    ) -> str:
        """The rooms of a space, over all its servers, that the caller could enter, as far as we
        know: of people of other servers, what everybody may and the rooms that we share."""
        via: Sequence[ServerName] = ()
        if space.startswith("#"):
            room_id, via = await self._backend.resolve_alias(RoomAlias(space))
        else:
            room_id = RoomId(space)
            _, colon, server = room_id.partition(":")
            via = [parse_server_name(server)] if colon else ()
        found = await self._backend.hierarchy(room_id, via=via, viewer=caller, limit=MAX_SPACE)
        top, *rooms = found
        if not top.room.is_space:
            return f"{_line(top.room)}\nIt is no space: there are no rooms in it."
        wanted = [word.casefold() for word in words]
        shown = [one for one in rooms if _is_about(one.room, wanted)]
        if not shown:
            return f"{_line(top.room)}\nThere is nothing of that in it."
        lines = [f"{'  ' * one.depth}{_line(one.room)}" for one in shown[:MAX_SHOWN]]
        if len(shown) > MAX_SHOWN:
            lines.append(f"and {len(shown) - MAX_SHOWN} more")
        return "\n".join([_line(top.room), *lines])

    async def _read(
        self, caller: UserId, server: ServerName, words: str | None, since: str | None, shown: int
    ) -> str:
        page = await self._backend.public_rooms(server, words=words, limit=PAGE, since=since)
        self._readings.pop(caller, None)
        rooms = page.rooms[:PAGE]
        if not rooms and page.next is None:
            about = "" if words is None else f" about {words!r}"
            return f"{server} lists no{' more' if shown else ''} rooms{about}."
        shown += len(rooms)
        total = "" if page.total is None else f" of {max(page.total, shown)}"
        lines = [f"Rooms of {server}, {shown}{total}:", *(_line(room) for room in rooms)]
        if page.next is not None:
            self._readings[caller] = _Reading(
                server=server, words=words, since=page.next, shown=shown
            )
            while len(self._readings) > MAX_READERS:
                self._readings.popitem(last=False)
            lines.append("There are more: write `rooms more`.")
        return "\n".join(lines)


def _line(room: PublicRoom) -> str:
    address = room.canonical_alias or room.room_id
    name = "" if room.name is None else f" {_short(room.name, MAX_NAME)}"
    kind = ", a space" if room.is_space else ""
    knock = ", on knocking" if room.join_rule == "knock" else ""
    topic = "" if room.topic is None else f": {_short(room.topic, MAX_TOPIC)}"
    people = count_of(room.members, "person", "people")
    return f"{address}{name} ({people}{kind}{knock}){topic}"


def _is_about(room: PublicRoom, words: Sequence[str]) -> bool:
    said = (room.name, room.topic, room.canonical_alias)
    text = " ".join(one for one in said if one is not None).casefold()
    return all(word in text for word in words)


def _short(text: str, most: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"
