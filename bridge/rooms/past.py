"""What was said in a room before we came in: fetched, judged, and placed before our join.

`recent` asks the server that let us in for the newest of it. The join's own commit stores it, as
history: whoever enters first finds more than an empty room, and nobody is told of it as of news.

1. `backfill` from the join's previous events, back to what we have (after an absence) or until
   there is enough for a screen; of the answer only what leads there.
2. Signatures and hashes.
3. The state before each event: that after its previous events, where they are among these or known
   already; else, a few times, `state_ids`, and what we lack of that.
4. The auth rules. What they refuse, or what cannot be placed, is left out.
Spec: S2S, backfilling and retrieving missing events; checks on receipt of a PDU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bridge.engine.pdu import Pdu
from bridge.engine.receipt import Verdict, judge
from bridge.engine.state import CREATE
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomId, ServerName
from bridge.rooms.accept import Acceptor, has_create, state_from
from bridge.rooms.bounds import DEFAULTS, GraphBounds, note_reached
from bridge.rooms.load import EMPTY, KnownEvent, RoomStates, Snapshot
from bridge.rooms.network import Json, Peers
from bridge.rooms.verify import Verifier, check_name
from bridge.storage import events as event_rows
from bridge.telemetry.log import get_logger

ENOUGH_MESSAGES = 20
"""What came before these is not asked for at a first join."""
PER_ROUND = 50
MAX_LATEST = 20
"""Events from which one request goes back."""

log = get_logger("rooms")

Fresh = Mapping[EventId, KnownEvent]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One accepted event and the state before it."""

    pdu: Pdu
    before: Snapshot
    is_known: bool
    """As an outlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the commit of the join takes in."""

    written: Sequence[Written] = ()
    """Oldest first."""
    outliers: Sequence[KnownEvent] = ()
    """State of then that their snapshots name."""


@dataclass(slots=True, kw_only=True)
class _Placing:
    """The events placed so far. `fresh`: all that are not stored yet."""

    peer: ServerName
    room_id: RoomId
    at_join: Snapshot
    create: Pdu
    fresh: dict[EventId, KnownEvent]
    after: dict[EventId, Snapshot] = field(default_factory=dict)
    written: list[Written] = field(default_factory=list)
    outliers: list[KnownEvent] = field(default_factory=list)
    state_requests: int


class Past:
    """Looks back from our join. A peer that does not answer this does not keep us out."""

    def __init__(
        self,
        *,
        states: RoomStates,
        acceptor: Acceptor,
        verifier: Verifier,
        peers: Peers,
        bounds: GraphBounds = DEFAULTS,
    ) -> None:
        self._bounds = bounds
        self._states = states
        self._acceptor = acceptor
        self._verifier = verifier
        self._peers = peers

    async def recent(self, peer: ServerName, join: Pdu, at_join: Snapshot, fresh: Fresh) -> Found:
        """`at_join`: the state before our join; `fresh`: its events."""
        try:
            async with asyncio.timeout(self._bounds.past_timeout_s):
                pdus = await self._back(peer, join)
                return await self.place(peer, pdus, at_join, fresh)
        except (BadInput, NotFound, Refused, Unavailable, TimeoutError) as exc:
            log.warning(
                "the past of a room is not known",
                room_id=join.room_id,
                peer=peer,
                reason=str(exc) or "timeout",
            )
            return Found()

    # --- step 1 -----------------------------------------------------------------------------

    async def _back(self, peer: ServerName, join: Pdu) -> list[Pdu]:
        is_return = await self._states.find_room(join.room_id) is not None
        found: dict[EventId, Pdu] = {}
        latest = await self._unplaced(join.prev_events)
        for _ in range(self._bounds.past_rounds):
            limit = min(PER_ROUND, self._bounds.past_events - len(found))
            if not latest or limit <= 0:
                break
            answer = await self._peers.backfill(peer, join.room_id, latest[:MAX_LATEST], limit)
            pdus = await self._verifier.check_all(answer[:limit], join.version, join.room_id)
            unplaced = await self._unplaced([pdu.event_id for pdu in pdus])
            new = {
                pdu.event_id: pdu
                for pdu in pdus
                if pdu.event_id in unplaced and pdu.event_id not in found
            }
            if not new:
                break
            found |= new
            messages = sum(1 for pdu in found.values() if not pdu.is_state)
            if messages >= ENOUGH_MESSAGES and not is_return:
                break
            behind = {prev for pdu in found.values() for prev in pdu.prev_events}
            latest = await self._unplaced(sorted(behind - found.keys()))
        return _oldest_first(_reached(join.prev_events, found))

    async def _unplaced(self, event_ids: Iterable[EventId]) -> list[EventId]:
        """Those without a place in the graph here."""
        wanted = list(dict.fromkeys(event_ids))
        known = await self._states.events(wanted, place_matters=True)
        return [one for one in wanted if one not in known or known[one].outlier]

    # --- steps 3 and 4 ----------------------------------------------------------------------

    async def place(
        self, peer: ServerName, pdus: Sequence[Pdu], at_join: Snapshot, fresh: Fresh
    ) -> Found:
        """Verified events, oldest first. Those that have their place already are left out."""
        create = (await self._states.pick(at_join.state, [CREATE], fresh)).get(CREATE)
        if create is None:
            raise Refused("the state has no create event", rule="state.create")
        unplaced = await self._unplaced([pdu.event_id for pdu in pdus])
        placing = _Placing(
            peer=peer,
            room_id=create.room_id,
            at_join=at_join,
            create=create,
            fresh=dict(fresh),
            state_requests=self._bounds.past_state_requests,
        )
        for pdu in pdus:
            if pdu.event_id not in unplaced:
                continue
            try:
                await self._place(placing, pdu)
            except (BadInput, NotFound, Refused) as exc:
                _left_out(pdu, getattr(exc, "rule", ""), exc.reason)
        return Found(written=placing.written, outliers=placing.outliers)

    async def _place(self, placing: _Placing, pdu: Pdu) -> None:
        before = await self._state_before(placing, pdu)
        auth = await self._states.events(pdu.auth_events, placing.fresh)
        if len(auth) < len(set(pdu.auth_events)):
            _left_out(pdu, "auth.missing", "")
            return
        decision = judge(
            pdu,
            create=None if pdu.key == CREATE else placing.create,
            auth_events={event_id: known.pdu for event_id, known in auth.items()},
            state_before=await self._states.auth_state(before.state, pdu, placing.fresh),
            current_state=None,
            rejected=[event_id for event_id, known in auth.items() if known.is_rejected],
        )
        if decision.verdict is not Verdict.ACCEPTED:
            placing.after[pdu.event_id] = before
            _left_out(pdu, decision.rule, decision.reason)
            return
        there = await self._states.events([pdu.event_id], placing.fresh)
        check_name(pdu, {event_id: known.pdu for event_id, known in there.items()})
        placing.after[pdu.event_id] = before.with_event(pdu)
        placing.fresh[pdu.event_id] = KnownEvent(
            pdu=pdu, verdict=event_rows.ACCEPTED, outlier=False, snapshot_before=None
        )
        placing.written.append(Written(pdu=pdu, before=before, is_known=bool(there)))

    async def _state_before(self, placing: _Placing, pdu: Pdu) -> Snapshot:
        prev = list(dict.fromkeys(pdu.prev_events))
        if not prev:
            return Snapshot(EMPTY)
        if not await self._unplaced([one for one in prev if one not in placing.after]):
            return await self._states.merged(prev, pdu.version, placing.after, placing.fresh)
        if placing.state_requests <= 0:
            note_reached("past_state_requests", room_id=placing.room_id, event_id=pdu.event_id)
            raise Refused("too many gaps in the past", rule="bounds.state")
        placing.state_requests -= 1
        return await self._state_at(placing, pdu)

    async def _state_at(self, placing: _Placing, pdu: Pdu) -> Snapshot:
        """As the peer tells it, of what we know or can get."""
        ids, chain = await self._peers.state_ids(placing.peer, placing.room_id, pdu.event_id)
        self._check_size(placing, pdu, len(ids) + len(chain))
        wanted = dict.fromkeys([*chain, *ids])
        there = await self._states.events(wanted, placing.fresh)
        await self._fetch(placing, pdu, [one for one in wanted if one not in there])
        known = await self._states.events(ids, placing.fresh)
        state = state_from([one for one in known.values() if one.pdu.room_id == placing.room_id])
        if not has_create(state, placing.room_id, known):
            raise Refused("the state has no create event of this room", rule="state.create")
        return placing.at_join.with_state(state)

    async def _fetch(self, placing: _Placing, pdu: Pdu, unknown: Sequence[EventId]) -> None:
        """State of then, and what that rests on, which is no state any more."""
        if not unknown:
            return
        jsons: list[Json] = []
        if len(unknown) > self._bounds.single_events:
            state, chain = await self._peers.state(placing.peer, placing.room_id, pdu.event_id)
            self._check_size(placing, pdu, len(state) + len(chain))
            jsons = [*chain, *state]
        else:
            for event_id in unknown:
                try:
                    jsons.append(await self._peers.event(placing.peer, event_id))
                except IsthmusError as exc:
                    log.info("state event left out", event_id=event_id, reason=exc.reason)
        wanted = set(unknown)
        pdus = [
            one
            for one in await self._verifier.check_all(jsons, pdu.version, placing.room_id)
            if one.event_id in wanted
        ]
        judged = await self._acceptor.judge_outliers(
            pdus, create=placing.create, fresh=placing.fresh
        )
        for known, _ in judged:
            placing.fresh[known.pdu.event_id] = known
            placing.outliers.append(known)

    def _check_size(self, placing: _Placing, pdu: Pdu, events: int) -> None:
        if events > self._bounds.state_events:
            note_reached("state_events", room_id=placing.room_id, event_id=pdu.event_id)
            raise Refused("the state is too large", rule="bounds.state")


def _reached(start: Collection[EventId], found: Mapping[EventId, Pdu]) -> list[Pdu]:
    """What a peer gives beyond is not between us and what we know."""
    reached: dict[EventId, Pdu] = {}
    waiting = list(start)
    while waiting:
        event_id = waiting.pop()
        if event_id in found and event_id not in reached:
            reached[event_id] = found[event_id]
            waiting.extend(found[event_id].prev_events)
    return list(reached.values())


def _oldest_first(pdus: Iterable[Pdu]) -> list[Pdu]:
    return sorted(pdus, key=lambda pdu: (pdu.depth, pdu.origin_server_ts, pdu.event_id))


def _left_out(pdu: Pdu, rule: str, reason: str) -> None:
    log.info("event before the join left out", event_id=pdu.event_id, rule=rule, reason=reason)
