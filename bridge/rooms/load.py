"""Room state in memory: persistent maps over the snapshot rows, events, and the room's head.

A `Snapshot` is a state map that may not have a row yet; it gets one in the commit that first needs
it. Derived maps share their memory with what they were derived from. Everything here is a bounded
cache: content that cannot change (events, snapshots), and the room's head, which `append` compares
with the stored position before it writes. Spec: S2S, room state resolution.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Container, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar, cast

from rpds import HashTrieMap

from bridge.engine.auth import auth_event_keys, auth_state_keys
from bridge.engine.canonical import parse_json
from bridge.engine.format import MAX_PDU_BYTES
from bridge.engine.pdu import Pdu
from bridge.engine.state import CREATE, AuthState, StateKey, StateMap
from bridge.engine.stateres import resolve
from bridge.engine.versions import RoomVersion, get_version
from bridge.errors import NotFound
from bridge.ids import EventId, RoomId, ServerName
from bridge.rooms.bounds import DEFAULTS, GraphBounds
from bridge.storage import events as event_rows
from bridge.storage import rooms as room_rows
from bridge.storage import snapshots as snapshot_rows
from bridge.storage.database import Database, Transaction
from bridge.storage.events import EventRow
from bridge.storage.snapshots import Change

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

State: TypeAlias = "HashTrieMap[StateKey, EventId]"  # rpds has no subscripts at run time
EMPTY: State = HashTrieMap()


class Snapshot:
    """A state map and, once it is stored, its row. Compared by identity."""

    __slots__ = ("_mark", "delta", "hops", "parent", "row_id", "state")

    def __init__(
        self,
        state: State,
        *,
        row_id: int | None = None,
        hops: int = 0,
        parent: Snapshot | None = None,
        delta: Sequence[Change] = (),
    ) -> None:
        self.state = state
        self.row_id = row_id
        self.hops = hops
        self.parent = parent
        self.delta = delta
        self._mark: int | None = None

    @property
    def mark(self) -> int:
        """Equal for equal states; whoever chooses the events cannot make others meet, since
        Python's hashes of text are secret."""
        if self._mark is None:
            self._mark = hash(frozenset(self.state.items()))
        return self._mark

    def with_event(self, pdu: Pdu) -> Snapshot:
        """The state after an accepted event: this very snapshot when it is no state event."""
        key = pdu.key
        if key is None or self.state.get(key) == pdu.event_id:
            return self
        return Snapshot(
            self.state.insert(key, pdu.event_id), parent=self, delta=[(*key, pdu.event_id)]
        )

    def with_state(self, state: StateMap) -> Snapshot:
        """Another map, stored as what differs from this one."""
        delta: list[Change] = [
            (*key, event_id) for key, event_id in state.items() if self.state.get(key) != event_id
        ]
        gone = [key for key in self.state if key not in state]
        if not delta and not gone:
            return self
        new = self.state
        if not new:  # One by one they take ten times as long.
            new = HashTrieMap(state)
            return Snapshot(new, parent=self, delta=delta)
        for kind, state_key, event_id in delta:
            new = new.insert((kind, state_key), cast(EventId, event_id))
        for key in gone:
            new = new.remove(key)
        return Snapshot(new, parent=self, delta=[*delta, *((*key, None) for key in gone)])

    def is_same(self, other: Snapshot) -> bool:
        return self is other or (self.row_id is not None and self.row_id == other.row_id)

    def has_same_state(self, other: Snapshot) -> bool:
        if self.is_same(other):
            return True
        return len(self.state) == len(other.state) and self.mark == other.mark


def store_snapshot(
    tx: Transaction,
    room_id: RoomId,
    snapshot: Snapshot,
    stored: dict[Snapshot, tuple[int, int]],
    *,
    max_hops: int,
) -> int:
    """Its row ID; rows are written for it and what it stands on, where missing.

    `stored` collects row ID and hops of the new rows: the caller puts them into the snapshots
    (`settle_snapshots`) when the transaction is committed.
    """
    waiting: list[Snapshot] = []
    one: Snapshot | None = snapshot
    while one is not None and one.row_id is None and one not in stored:
        waiting.append(one)
        one = one.parent
    for new in reversed(waiting):
        parent = new.parent
        parent_id, hops = None, 0
        if parent is not None:
            parent_id, hops = stored.get(parent) or (parent.row_id, parent.hops)
        is_shorter = len(new.state) <= len(new.delta)
        if parent_id is None or hops >= max_hops or is_shorter:
            full: list[Change] = [(*key, event_id) for key, event_id in new.state.items()]
            row_id = snapshot_rows.insert_snapshot(tx, room_id, parent_id=None, hops=0, delta=full)
            stored[new] = (row_id, 0)
        else:
            row_id = snapshot_rows.insert_snapshot(
                tx, room_id, parent_id=parent_id, hops=hops + 1, delta=new.delta
            )
            stored[new] = (row_id, hops + 1)
    if snapshot.row_id is not None:
        return snapshot.row_id
    return stored[snapshot][0]


def settle_snapshots(stored: Mapping[Snapshot, tuple[int, int]]) -> None:
    """After the commit. Lets go of the parents: only rows are built upon from now on."""
    for snapshot, (row_id, hops) in stored.items():
        snapshot.row_id, snapshot.hops = row_id, hops
        snapshot.parent, snapshot.delta = None, ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownEvent:
    """An event that we have, and what we think of it."""

    pdu: Pdu
    verdict: str
    outlier: bool
    snapshot_before: int | None
    redacted_by: EventId | None = None

    @property
    def is_rejected(self) -> bool:
        return self.verdict == event_rows.REJECTED

    @property
    def redacted(self) -> bool:
        return self.redacted_by is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A room that we are (or were) in, at one position."""

    room_id: RoomId
    version: RoomVersion
    position: int
    joined: bool
    snapshot: Snapshot
    """State after all forward extremities."""
    extremities: Mapping[EventId, int]
    """Event IDs and depths."""

    @property
    def state(self) -> State:
        return self.snapshot.state


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Some of a room's forward extremities, the deepest first."""

    event_ids: Sequence[EventId]
    states: int
    """How many different states there are after all extremities: where more than were asked for,
    not each is represented."""


class _Lru(Generic[K, V]):
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._items.get(key)
        if value is not None:
            self._items.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        while len(self._items) > self._limit:
            self._items.popitem(last=False)

    def drop(self, key: K) -> None:
        self._items.pop(key, None)

    def keys(self) -> Container[K]:
        return self._items.keys()


Fresh = Mapping[EventId, KnownEvent]
"""Events of a plan that is not committed yet."""


class RoomStates:
    """Loads rooms, events and states; keeps the recent ones."""

    def __init__(self, *, database: Database, bounds: GraphBounds = DEFAULTS) -> None:
        self._database = database
        self._rooms: _Lru[RoomId, Room] = _Lru(bounds.cached_rooms)
        self._events: _Lru[EventId, KnownEvent] = _Lru(bounds.cached_events)
        self._snapshots: _Lru[int, Snapshot] = _Lru(bounds.cached_snapshots)
        self._after: _Lru[EventId, Snapshot] = _Lru(bounds.cached_snapshots)
        self._forgotten = 0
        """How often an event was forgotten."""
        self.joining: dict[RoomId, RoomVersion] = {}
        """Rooms whose handshake is under way: their first events may come before its end."""

    # --- heads ------------------------------------------------------------------------------

    async def find_room(self, room_id: RoomId) -> Room | None:
        """None when we do not know it, or by an invite only."""
        room = self._rooms.get(room_id)
        if room is not None:
            return room

        def unit(
            tx: Transaction,
        ) -> tuple[room_rows.RoomRow, list[tuple[EventId, int]]] | None:
            row = room_rows.find(tx, room_id)
            return None if row is None else (row, room_rows.extremities(tx, room_id))

        found = await self._database.read(unit)
        if found is None or found[0].snapshot_id is None:
            return None
        row, extremities = found
        assert row.snapshot_id is not None
        snapshot = await self.snapshot(row.snapshot_id)
        room = Room(
            room_id=room_id,
            version=get_version(row.version),
            position=row.position,
            joined=row.joined,
            snapshot=snapshot,
            extremities=dict(extremities),
        )
        if len(extremities) == 1:
            self._after.put(extremities[0][0], snapshot)
        self._rooms.put(room_id, room)
        return room

    async def joined_room(self, room_id: RoomId) -> Room:
        """Raises `NotFound` unless one of our users is in it."""
        room = await self.find_room(room_id)
        if room is None or not room.joined:
            raise NotFound(f"we are not in room {room_id}")
        return room

    async def has_joined(self, room_id: RoomId, server: ServerName) -> bool:
        """Whether a user of the server is joined in the current state."""
        count = await self._database.read(lambda tx: room_rows.count_joined(tx, room_id, server))
        return count > 0

    async def has_left(self, room_id: RoomId, server: ServerName) -> bool:
        return await self._database.read(lambda tx: room_rows.has_left(tx, room_id, server))

    def keep_room(self, room: Room) -> None:
        """What a commit made of it."""
        self._rooms.put(room.room_id, room)

    def forget_room(self, room_id: RoomId) -> None:
        self._rooms.drop(room_id)

    # --- events -----------------------------------------------------------------------------

    async def events(
        self,
        event_ids: Iterable[EventId],
        fresh: Fresh | None = None,
        *,
        place_matters: bool = False,
    ) -> dict[EventId, KnownEvent]:
        """Those that we have. `place_matters`: whether they are outliers is asked anew, because
        another process may have given them their place in the graph."""
        found: dict[EventId, KnownEvent] = {}
        missing: list[EventId] = []
        for event_id in event_ids:
            known = (fresh or {}).get(event_id) or self._events.get(event_id)
            if known is None or (place_matters and known.outlier):
                missing.append(event_id)
            else:
                found[event_id] = known
        if missing:
            forgotten = self._forgotten
            rows = await self._database.read(lambda tx: self._read_events(tx, missing))
            found |= rows
            # An event may have been redacted while we read: then nobody is to be given the old one.
            if forgotten == self._forgotten:
                for known in rows.values():
                    self.keep_event(known)
        return found

    def _read_events(
        self, tx: Transaction, event_ids: Collection[EventId]
    ) -> dict[EventId, KnownEvent]:
        rows = event_rows.find(tx, event_ids)
        versions: dict[RoomId, RoomVersion] = {}
        for row in rows.values():
            if row.room_id not in versions:
                room = room_rows.find(tx, row.room_id)
                if room is None:
                    continue
                versions[row.room_id] = get_version(room.version)
        return {
            event_id: to_known(row, versions[row.room_id])
            for event_id, row in rows.items()
            if row.room_id in versions
        }

    async def event(self, event_id: EventId, fresh: Fresh | None = None) -> KnownEvent:
        """Raises `NotFound`."""
        known = (await self.events([event_id], fresh)).get(event_id)
        if known is None:
            raise NotFound(f"event {event_id} is not known")
        return known

    def keep_event(self, known: KnownEvent) -> None:
        self._events.put(known.pdu.event_id, known)

    def forget_event(self, event_id: EventId) -> None:
        self._forgotten += 1
        self._events.drop(event_id)
        self._after.drop(event_id)

    # --- states -----------------------------------------------------------------------------

    async def snapshot(self, row_id: int) -> Snapshot:
        known = self._snapshots.get(row_id)
        if known is not None:
            return known
        cached = self._snapshots.keys()
        chain = await self._database.read(
            lambda tx: snapshot_rows.load_chain(tx, row_id, known=cached)
        )
        state = EMPTY
        if chain[-1].parent_id is not None:
            base = self._snapshots.get(chain[-1].parent_id)
            if base is None:  # It left the cache while we read.
                chain = await self._database.read(lambda tx: snapshot_rows.load_chain(tx, row_id))
            else:
                state = base.state
        for row in reversed(chain):
            if row.parent_id is None:
                state = HashTrieMap(
                    {(kind, key): event for kind, key, event in row.delta if event is not None}
                )
                continue
            for kind, key, event in row.delta:
                if event is None:
                    state = state.discard((kind, key))
                else:
                    state = state.insert((kind, key), event)
        snapshot = Snapshot(state, row_id=row_id, hops=chain[0].hops)
        self._snapshots.put(row_id, snapshot)
        return snapshot

    def keep_snapshots(self, snapshots: Iterable[Snapshot]) -> None:
        for snapshot in snapshots:
            if snapshot.row_id is not None:
                self._snapshots.put(snapshot.row_id, snapshot)

    def keep_after(self, event_id: EventId, snapshot: Snapshot) -> None:
        self._after.put(event_id, snapshot)

    async def before(self, known: KnownEvent) -> Snapshot:
        """State before an event inside the graph. Raises `NotFound` for an outlier."""
        if known.snapshot_before is None:
            raise NotFound(f"the state before {known.pdu.event_id} is not known")
        return await self.snapshot(known.snapshot_before)

    async def after(self, event_id: EventId, afters: Mapping[EventId, Snapshot]) -> Snapshot:
        """State after an event; `afters` has those of a plan that is not committed yet."""
        snapshot = afters.get(event_id) or self._after.get(event_id)
        if snapshot is not None:
            return snapshot
        known = (await self.events([event_id], place_matters=True)).get(event_id)
        if known is None:
            raise NotFound(f"event {event_id} is not known")
        snapshot = await self.before(known)
        if not known.is_rejected:
            snapshot = snapshot.with_event(known.pdu)
        self._after.put(event_id, snapshot)
        return snapshot

    async def merged(
        self,
        event_ids: Sequence[EventId],
        version: RoomVersion,
        afters: Mapping[EventId, Snapshot] | None = None,
        fresh: Fresh | None = None,
    ) -> Snapshot:
        """The resolved state after several events, all of which must be inside the graph."""
        snapshots: list[Snapshot] = []
        for event_id in event_ids:
            snapshot = await self.after(event_id, afters or {})
            if not any(snapshot.has_same_state(other) for other in snapshots):
                snapshots.append(snapshot)
        if not snapshots:
            return Snapshot(EMPTY)
        if len(snapshots) == 1:
            return snapshots[0]
        states = [snapshot.state for snapshot in snapshots]
        return snapshots[0].with_state(await self.drive(resolve(states, version), fresh))

    async def choose_extremities(
        self, extremities: Mapping[EventId, int], afters: Mapping[EventId, Snapshot], *, limit: int
    ) -> Chosen:
        """One for each state, the deepest of it, as far as `limit` goes; then the deepest others.

        So what is chosen resolves to the same state as all of them. All states are chosen, even
        beyond the limit.
        """
        ordered = sorted(extremities, key=lambda one: (-extremities[one], one))
        seen: list[Snapshot] = []
        first: list[EventId] = []
        others: list[EventId] = []
        for event_id in ordered:
            snapshot = await self.after(event_id, afters)
            if any(snapshot.has_same_state(one) for one in seen):
                others.append(event_id)
            else:
                seen.append(snapshot)
                first.append(event_id)
        wanted = {*first, *others[: max(0, limit - len(first))]}
        return Chosen(event_ids=[one for one in ordered if one in wanted], states=len(seen))

    async def drive(
        self,
        steps: Generator[Collection[EventId], Mapping[EventId, Pdu], T],
        fresh: Fresh | None = None,
    ) -> T:
        """Answer an engine function that asks for events, each question with one query."""
        try:
            wanted = next(steps)
            while True:
                found = await self.events(wanted, fresh)
                wanted = steps.send({key: known.pdu for key, known in found.items()})
        except StopIteration as stop:
            return cast(T, stop.value)

    async def auth_state(self, state: StateMap, pdu: Pdu, fresh: Fresh | None = None) -> AuthState:
        """The part of a state that decides about an event, the create event included."""
        keys = auth_state_keys(pdu.type, pdu.sender, pdu.state_key, pdu.content, pdu.version)
        return await self.pick(state, keys, fresh)

    async def pick(
        self, state: StateMap, keys: Iterable[StateKey], fresh: Fresh | None = None
    ) -> dict[StateKey, Pdu]:
        """The events of these keys, where the state has them."""
        ids = {key: state[key] for key in keys if key in state}
        found = await self.events(ids.values(), fresh)
        return {key: found[event_id].pdu for key, event_id in ids.items() if event_id in found}

    async def create_event(self, state: StateMap, fresh: Fresh | None = None) -> Pdu:
        create = (await self.pick(state, [CREATE], fresh)).get(CREATE)
        if create is None:
            raise NotFound("the state has no create event")
        return create


def choose_auth_events(
    state: StateMap,
    *,
    event_type: str,
    sender: str,
    state_key: str | None,
    content: Mapping[str, object],
    version: RoomVersion,
) -> list[EventId]:
    """Spec: S2S, auth events selection."""
    keys = auth_event_keys(event_type, sender, state_key, content, version)
    return sorted(state[key] for key in keys if key in state)


def to_known(row: EventRow, version: RoomVersion) -> KnownEvent:
    rejected = row.verdict == event_rows.REJECTED
    json = parse_json(row.json.encode(), max_bytes=2 * MAX_PDU_BYTES)
    return KnownEvent(
        pdu=Pdu.trusted(json, version, row.event_id, rejected=rejected),
        verdict=row.verdict,
        outlier=row.outlier,
        snapshot_before=row.snapshot_before,
        redacted_by=row.redacted_by,
    )
