"""Rooms that we list for everybody: one row each, kept by the commits that change the room.

A page is read along one index, the rooms with most members first; equal numbers go by room ID. A
room is shown while one of ours is in it and its join rule or history lets strangers do something
there. Which network it belongs to is looked up where it is kept: whether it is a foreign chat's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from bridge.ids import RoomId, UserId
from bridge.storage.database import Transaction
from bridge.storage.portals import OF_CHAT
from bridge.storage.schema import memberships, portals, published_rooms

MAX_FOLDED = 4_000
"""Characters of name, topic and alias that a search looks at."""
MAX_WORDS = 10
OPEN_RULES = ("public", "knock", "restricted", "knock_restricted")
"""Join rules by which people come in without having been invited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What the state of a room says to strangers. `acl`: content of the server ACL, as JSON."""

    name: str | None = None
    topic: str | None = None
    canonical_alias: str | None = None
    avatar_url: str | None = None
    join_rule: str = "invite"
    room_type: str | None = None
    world_readable: bool = False
    guest_can_join: bool = False
    federated: bool = True
    acl: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """In the order of the list; with the fewest members and the lowest ID at the end."""

    joined_members: int
    room_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRoom:
    room_id: RoomId
    joined_members: int
    listing: Listing

    @property
    def place(self) -> Place:
        return Place(joined_members=self.joined_members, room_id=self.room_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`network`: of which rooms; None: those that are no foreign chat's. `words`: all of them
    stand somewhere in name, topic or alias. `room_types`: empty for all."""

    network: str | None = None
    all_networks: bool = False
    words: Sequence[str] = ()
    room_types: Sequence[str | None] = ()


_p = published_rooms.c
_COUNT_MEMBERS = (
    select(func.count())
    .where(memberships.c.room_id == bindparam("of_room"), memberships.c.membership == "join")
    .scalar_subquery()
)
_RECOUNT = (
    update(published_rooms)
    .where(_p.room_id == bindparam("of_room"))
    .values(joined_members=_COUNT_MEMBERS, joined=bindparam("we_are_in"))
)


def fold(text: str) -> str:
    """As names are compared: neither case nor form matters."""
    return unicodedata.normalize("NFKC", text).casefold()


def put(
    tx: Transaction,
    room_id: RoomId,
    listing: Listing,
    *,
    joined: bool,
    by: UserId,
    now_ms: int,
) -> None:
    """New, or what it says of itself is brought up to date."""
    values = _values(listing)
    if tx.execute(update(published_rooms).where(_p.room_id == room_id).values(values)).rowcount:
        recount(tx, room_id, joined=joined)
        return
    tx.execute(
        insert(published_rooms).values(
            room_id=room_id,
            joined=joined,
            joined_members=0,
            published_by=by,
            published_ms=now_ms,
            **values,
        )
    )
    recount(tx, room_id, joined=joined)


def remove(tx: Transaction, room_id: RoomId) -> bool:
    """False: it was not listed."""
    return bool(tx.execute(delete(published_rooms).where(_p.room_id == room_id)).rowcount)


def move(tx: Transaction, *, of: RoomId, to: RoomId, listing: Listing) -> None:
    """A room's successor takes its place in the list."""
    row = tx.execute(select(_p.published_by, _p.published_ms).where(_p.room_id == of)).one_or_none()
    if row is None:
        return
    remove(tx, of)
    put(
        tx,
        to,
        listing,
        joined=True,
        by=UserId(row.published_by),
        now_ms=row.published_ms,
    )


def is_listed(tx: Transaction, room_id: RoomId) -> bool:
    """Whether somebody published it, shown or not."""
    return tx.execute(select(_p.room_id).where(_p.room_id == room_id)).first() is not None


def find_place(tx: Transaction, room_id: RoomId) -> Place | None:
    row = tx.execute(select(_p.joined_members).where(_p.room_id == room_id)).one_or_none()
    return None if row is None else Place(joined_members=row.joined_members, room_id=room_id)


def change(tx: Transaction, room_id: RoomId, changed: Mapping[str, Any]) -> None:
    """Fields of the listing that the room's state now has otherwise; nothing for a room that is
    not listed."""
    row = tx.execute(select(published_rooms).where(_p.room_id == room_id)).one_or_none()
    if row is None:
        return
    before = _listing(row)
    names = [one.name for one in fields(Listing)]
    listing = Listing(**{name: changed.get(name, getattr(before, name)) for name in names})
    tx.execute(update(published_rooms).where(_p.room_id == room_id).values(_values(listing)))


def recount(tx: Transaction, room_id: RoomId, *, joined: bool) -> None:
    """After the memberships were written. `joined`: one of ours is in the room."""
    tx.execute(_RECOUNT, {"of_room": room_id, "we_are_in": joined})


def page(
    tx: Transaction, wanted: Wanted, *, after: Place | None, forwards: bool, limit: int
) -> list[PublishedRoom]:
    """The next ones in that direction, the closest first. Backwards without a place: the last."""
    order = tuple_(_p.joined_members, _p.room_id)
    query = select(published_rooms).where(*_conditions(wanted))
    if after is not None:
        here = tuple_(after.joined_members, after.room_id)
        query = query.where(order < here if forwards else order > here)
    if forwards:
        query = query.order_by(_p.joined_members.desc(), _p.room_id.desc())
    else:
        query = query.order_by(_p.joined_members, _p.room_id)
    return [
        PublishedRoom(
            room_id=RoomId(row.room_id), joined_members=row.joined_members, listing=_listing(row)
        )
        for row in tx.execute(query.limit(limit))
    ]


def count(tx: Transaction, wanted: Wanted) -> int:
    query = select(func.count()).select_from(published_rooms).where(*_conditions(wanted))
    return int(tx.execute(query).scalar_one())


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [
        _p.joined.is_(True),
        or_(_p.join_rule.in_(OPEN_RULES), _p.world_readable.is_(True)),
    ]
    if not wanted.all_networks:
        bridged = exists().where(
            portals.c.room_id == _p.room_id,
            portals.c.kind.in_(OF_CHAT),
            portals.c.status == "open",
        )
        if wanted.network is None:
            found.append(~bridged)
        else:
            found.append(bridged.where(portals.c.adapter == wanted.network))
    for word in wanted.words[:MAX_WORDS]:
        found.append(_p.folded.contains(fold(word), autoescape=True))
    if wanted.room_types:
        named = sorted({one for one in wanted.room_types if one is not None})
        of_type = _p.room_type.in_(named)
        found.append(or_(of_type, _p.room_type.is_(None)) if None in wanted.room_types else of_type)
    return found


def _values(listing: Listing) -> dict[str, Any]:
    said = (listing.name, listing.canonical_alias, listing.topic)
    folded = fold("\n".join(one for one in said if one is not None)[:MAX_FOLDED])
    return {one.name: _storable(getattr(listing, one.name)) for one in fields(Listing)} | {
        "folded": _storable(folded)
    }


def _storable(value: object) -> object:
    # PostgreSQL's text has no NUL.
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _listing(row: Row[Any]) -> Listing:
    return Listing(**{one.name: getattr(row, one.name) for one in fields(Listing)})
