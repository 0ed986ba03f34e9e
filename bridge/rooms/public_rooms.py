"""The list of rooms that we show to everybody, and that of other servers.

Ours is read along an index, most members first; a token names a place in that order and a
direction, so that pages fit together while rooms come and go. To another server we show neither
what its own rules of the house or a room's ACL keep from it, nor rooms that its users may not join
by `m.federate`. A page may therefore be shorter than asked for. Spec: S2S, public room directory.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bridge.clock import Clock
from bridge.engine.canonical import parse_json
from bridge.engine.format import MAX_PDU_BYTES
from bridge.errors import BadInput, NotFound, Refused
from bridge.ids import RoomAlias, RoomId, ServerName, UserId, server_of
from bridge.policy.house import House
from bridge.policy.rules import Scope
from bridge.rooms.append import Appender
from bridge.rooms.entries import RoomEntry, from_json, from_published
from bridge.rooms.listing import LISTED, listing_of
from bridge.rooms.load import RoomStates
from bridge.rooms.network import Json, Peers
from bridge.rooms.visibility import is_server_allowed
from bridge.storage import aliases, published
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction
from bridge.storage.published import MAX_WORDS, Place, PublishedRoom, Wanted, fold
from bridge.telemetry.log import get_logger

MAX_ROOMS = 200
"""Rooms of one page, whatever is asked for."""
MAX_PAGE_CHARACTERS = 1_000_000
"""Of names and topics of one page, but for a single room."""
MAX_TOKEN = 1_000
MAX_TERM = 500
MAX_ROOM_TYPES = 50
MAX_NETWORK = 255

log = get_logger("rooms")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """`limit`: 0 for as many as fit on a page. `network`: the third-party network whose rooms are
    wanted; without it those of Matrix itself, or with `all_networks` all."""

    limit: int = 0
    since: str | None = None
    term: str | None = None
    room_types: Sequence[str | None] | None = None
    all_networks: bool = False
    network: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomPage:
    rooms: Sequence[RoomEntry]
    next: str | None
    previous: str | None
    total: int | None

    def to_json(self) -> Json:
        known: dict[str, Any] = {
            "chunk": [room.to_json() for room in self.rooms],
            "next_batch": self.next,
            "prev_batch": self.previous,
            "total_room_count_estimate": self.total,
        }
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Token:
    """Where a page begins (not included): None is the edge that the direction comes from."""

    forwards: bool
    place: Place | None

    def __str__(self) -> str:
        way = "f" if self.forwards else "b"
        at = "" if self.place is None else f"{self.place.joined_members} {self.place.room_id}"
        return urlsafe_b64encode(f"{way}{at}".encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str | None) -> Token:
        """Raises `BadInput` M_INVALID_PARAM for what was never a token of ours."""
        if text is None:
            return cls(True, None)
        try:
            if len(text) > MAX_TOKEN:
                raise ValueError("too long")
            padded = text + "=" * (-len(text) % 4)
            said = urlsafe_b64decode(padded.encode("ascii")).decode()
            way, members, space, room_id = said[:1], *said[1:].partition(" ")
            if way not in ("f", "b") or (space and not room_id.startswith("!")):
                raise ValueError("of no form")
            if not space and members:
                raise ValueError("without a room")
            place = Place(joined_members=int(members), room_id=room_id) if space else None
            if (place is not None and not 0 <= place.joined_members < 2**31) or "\0" in said:
                raise ValueError("of no room")
        except (ValueError, Base64Error) as exc:
            raise BadInput("since is no token of this list", errcode="M_INVALID_PARAM") from exc
        return cls(way == "f", place)


class PublicRooms:
    """Publishes rooms and reads lists."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        database: Database,
        states: RoomStates,
        appender: Appender,
        peers: Peers,
        house: House,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._states = states
        self._appender = appender
        self._peers = peers
        self._house = house
        self._clock = clock

    # --- what is listed ---------------------------------------------------------------------

    async def publish(self, room_id: RoomId, *, by: UserId) -> None:
        """Idempotent. From now on the list follows the room. `NotFound` unless we are in it."""

        async def attempt() -> None:
            room = await self._states.joined_room(room_id)
            listing = listing_of(await self._states.pick(room.state, LISTED))

            def unit(tx: Transaction) -> None:
                room_rows.hold(tx, room_id, expected=room.position)
                published.put(tx, room_id, listing, joined=True, by=by, now_ms=self._clock.now_ms())

            await self._database.write(unit)

        await self._appender.until_unmoved(room_id, attempt)
        log.info("room published", room_id=room_id, user_id=by)

    async def unpublish(self, room_id: RoomId) -> bool:
        """False: it was not listed."""
        was_listed = await self._database.write(lambda tx: published.remove(tx, room_id))
        if was_listed:
            log.info("room unpublished", room_id=room_id)
        return was_listed

    async def is_published(self, room_id: RoomId) -> bool:
        return await self._database.read(lambda tx: published.is_listed(tx, room_id))

    # --- our list ---------------------------------------------------------------------------

    async def page(self, query: ListQuery, *, origin: ServerName | None = None) -> RoomPage:
        """A page of our own list, as `origin` may see it. `BadInput` for a bad token."""
        token = Token.parse(query.since)
        wanted = Wanted(
            network=query.network,
            all_networks=query.all_networks,
            words=words_of(query.term),
            room_types=query.room_types or (),
        )
        limit = min(query.limit, MAX_ROOMS) if query.limit > 0 else MAX_ROOMS

        def unit(tx: Transaction) -> tuple[list[PublishedRoom], bool, bool, int, set[RoomId]]:
            found = published.page(
                tx, wanted, after=token.place, forwards=token.forwards, limit=limit + 1
            )
            rows = _fitting(found, limit)
            more = len(found) > len(rows)
            # Is anything on the side that the page comes from?
            edge = rows[0].place if rows else None
            behind = (rows or token.place is not None) and published.page(
                tx, wanted, after=edge, forwards=not token.forwards, limit=1
            )
            misnamed = _misnamed(tx, rows, self._server_name)
            return rows, more, bool(behind), published.count(tx, wanted), misnamed

        rows, more, behind, total, misnamed = await self._database.read(unit)
        first, last = (rows[0].place, rows[-1].place) if rows else (None, None)
        onwards = str(Token(token.forwards, last)) if more else None
        back = str(Token(not token.forwards, first)) if behind else None
        shown = rows if token.forwards else rows[::-1]
        return RoomPage(
            rooms=[
                replace(from_published(row), canonical_alias=None)
                if row.room_id in misnamed
                else from_published(row)
                for row in shown
                if self._may_see(row, origin)
            ],
            next=onwards if token.forwards else back,
            previous=back if token.forwards else onwards,
            total=total,
        )

    async def page_beside(self, room_id: RoomId | None, *, forwards: bool, limit: int) -> RoomPage:
        """Of our own list what comes behind or before a room; None: from that end. `NotFound`
        where the room is not listed any more."""
        place = None
        if room_id is not None:
            place = await self._database.read(lambda tx: published.find_place(tx, room_id))
            if place is None:
                raise NotFound(f"room {room_id} is not listed")
        return await self.page(ListQuery(limit=limit, since=str(Token(forwards, place))))

    def _may_see(self, row: PublishedRoom, origin: ServerName | None) -> bool:
        if not self._house.allows_room(row.room_id, Scope.JOINS):
            return False
        if origin is None or origin == self._server_name:
            return True
        if not row.listing.federated:
            return False
        if row.listing.acl is None:
            return True
        acl = parse_json(row.listing.acl.encode(), max_bytes=MAX_PDU_BYTES)
        return is_server_allowed(acl if isinstance(acl, dict) else None, origin)

    # --- the lists of others ----------------------------------------------------------------

    async def page_of(self, server: ServerName, query: ListQuery) -> RoomPage:
        """Of another server, or ours. A server that cannot search is read without it: what of that
        page fits is given. `Refused`, `NotFound`, `Unavailable`, `BadInput`."""
        if server == self._server_name:
            return await self.page(query)
        is_search = bool(query.term) or query.room_types is not None
        try:
            answer = await self._ask(server, query)
            is_filtered = True
        except (NotFound, Refused) as exc:
            if not is_search or exc.errcode not in ("M_UNRECOGNIZED", "M_NOT_FOUND"):
                raise
            answer = await self._ask(server, replace(query, term=None, room_types=None))
            is_filtered = False
        page = read_page(answer)
        if is_filtered:
            return page
        return replace(page, rooms=[one for one in page.rooms if _fits(one, query)], total=None)

    async def _ask(self, server: ServerName, query: ListQuery) -> Json:
        return await self._peers.public_rooms(
            server,
            limit=query.limit if 0 < query.limit <= MAX_ROOMS else MAX_ROOMS,
            since=query.since,
            term=query.term,
            room_types=query.room_types,
            all_networks=query.all_networks,
            network=query.network,
        )


def words_of(term: str | None) -> list[str]:
    """All of them are looked for."""
    return [] if term is None else term[:MAX_TERM].split()[:MAX_WORDS]


def read_page(answer: Json) -> RoomPage:
    """What another server answered. Raises `BadInput`."""
    chunk = answer.get("chunk")
    if not isinstance(chunk, list):
        raise BadInput("the list of rooms is none")
    rooms = []
    for one in chunk[:MAX_ROOMS]:
        try:
            rooms.append(from_json(one))
        except BadInput as exc:
            log.debug("an entry of a list is left out", reason=exc.reason)
    total = answer.get("total_room_count_estimate")
    return RoomPage(
        rooms=rooms,
        next=_token(answer.get("next_batch")),
        previous=_token(answer.get("prev_batch")),
        total=total if isinstance(total, int) and not isinstance(total, bool) else None,
    )


def _token(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_TOKEN else None


def _fitting(rows: Sequence[PublishedRoom], limit: int) -> list[PublishedRoom]:
    """As many as a page may hold, in their order; one at least."""
    kept: list[PublishedRoom] = []
    size = 0
    for row in rows[:limit]:
        size += len(row.listing.name or "") + len(row.listing.topic or "")
        if kept and size > MAX_PAGE_CHARACTERS:
            break
        kept.append(row)
    return kept


def _misnamed(
    tx: Transaction, rows: Sequence[PublishedRoom], server_name: ServerName
) -> set[RoomId]:
    """Rooms that call an alias of our server their own that names another room."""
    wrong = set()
    for row in rows:
        alias = RoomAlias(row.listing.canonical_alias or "")
        is_own = bool(alias) and server_of(alias) == server_name
        if is_own and aliases.find(tx, alias) not in (None, row.room_id):
            wrong.add(row.room_id)
    return wrong


def _fits(entry: RoomEntry, query: ListQuery) -> bool:
    said = (entry.name, entry.topic, entry.canonical_alias)
    text = fold("\n".join(one for one in said if one is not None))
    if query.room_types and entry.room_type not in query.room_types:
        return False
    return all(fold(word) in text for word in words_of(query.term))
