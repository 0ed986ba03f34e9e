"""Which servers have a joined user in a state: what decides who is sent an event.

Asked for every event that leaves, so its cost must not grow with the room. Members are counted per
server; the counts of a state are those of the state that it is a delta of, changed by the delta,
or those of the current members in the database. Only a state that neither knows is counted whole.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rpds import HashTrieMap

from bridge.engine.state import MEMBER, StateKey, StateMap
from bridge.errors import NotFound
from bridge.ids import EventId, RoomId, ServerName, UserId, server_of
from bridge.rooms.load import RoomStates, Snapshot
from bridge.storage import rooms as room_rows
from bridge.storage import snapshots as snapshot_rows
from bridge.storage.database import Database, Transaction

MAX_REMEMBERED = 200
LOOK = 200
"""Member events looked at in one go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Joined:
    counts: HashTrieMap[ServerName, int]
    servers: frozenset[ServerName]


class JoinedServers:
    """Remembers the states that were asked about last, by their row."""

    def __init__(self, *, database: Database, states: RoomStates) -> None:
        self._database = database
        self._states = states
        self._known: OrderedDict[int, _Joined] = OrderedDict()
        self.whole_counts = 0
        """States that had to be counted member by member."""

    async def of(self, room_id: RoomId, snapshot: Snapshot) -> frozenset[ServerName]:
        row_id = snapshot.row_id
        if row_id is None:
            return frozenset((await self._count_whole(snapshot.state)).keys())
        known = self._known.get(row_id)
        if known is None:
            known = await self._find_out(room_id, snapshot, row_id)
            self._known[row_id] = known
            while len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(row_id)
        return known.servers

    async def _find_out(self, room_id: RoomId, snapshot: Snapshot, row_id: int) -> _Joined:
        derived = await self._derive(snapshot, row_id)
        if derived is not None:
            return derived
        counts = await self._count_current(room_id, snapshot)
        if counts is None:
            counts = await self._count_whole(snapshot.state)
        return _Joined(counts=HashTrieMap(counts), servers=frozenset(counts))

    async def _derive(self, snapshot: Snapshot, row_id: int) -> _Joined | None:
        """From the nearest remembered state that it is a delta of."""
        remembered = frozenset(self._known)
        chain = await self._database.read(
            lambda tx: snapshot_rows.load_chain(tx, row_id, known=remembered)
        )
        parent_id = chain[-1].parent_id
        parent = None if parent_id is None else self._known.get(parent_id)
        if parent is None or parent_id is None:
            return None
        try:
            before = (await self._states.snapshot(parent_id)).state
        except NotFound:
            return None
        keys = {(kind, key) for row in chain for kind, key, _ in row.delta if kind == MEMBER}
        gone = await self._servers_of(before, keys)
        come = await self._servers_of(snapshot.state, keys)
        counts = parent.counts
        for server in gone.keys() | come.keys():
            count = (counts.get(server) or 0) - gone[server] + come[server]
            counts = counts.insert(server, count) if count > 0 else counts.discard(server)
        changed = any((server in counts) != (server in parent.servers) for server in gone | come)
        servers = frozenset(counts) if changed else parent.servers
        return _Joined(counts=counts, servers=servers)

    async def _count_current(
        self, room_id: RoomId, snapshot: Snapshot
    ) -> Mapping[ServerName, int] | None:
        """None: the state is not the current one."""

        def unit(tx: Transaction) -> Mapping[ServerName, int] | None:
            row = room_rows.find(tx, room_id)
            if row is None or row.snapshot_id != snapshot.row_id:
                return None
            return room_rows.joined_counts(tx, room_id)

        return await self._database.read(unit)

    async def _count_whole(self, state: StateMap) -> Mapping[ServerName, int]:
        self.whole_counts += 1
        keys = [key for key in state if key[0] == MEMBER]
        counts: Counter[ServerName] = Counter()
        for start in range(0, len(keys), LOOK):
            counts += await self._servers_of(state, keys[start : start + LOOK])
        return counts

    async def _servers_of(self, state: StateMap, keys: Iterable[StateKey]) -> Counter[ServerName]:
        """How many of these members are joined in this state, per server."""
        ids: dict[EventId, UserId] = {state[key]: UserId(key[1]) for key in keys if key in state}
        found = await self._states.events(ids)
        return Counter(
            server_of(ids[event_id])
            for event_id, known in found.items()
            if known.pdu.membership == "join"
        )
