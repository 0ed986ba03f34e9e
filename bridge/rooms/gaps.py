"""Filling gaps: what a received event rests on and we do not have.

1. Auth events: `event_auth` of whoever sent the event, else each by itself; stored as outliers.
2. Previous events: `get_missing_events`, a few rounds, oldest first; of a peer that does not know
   the received event, from its previous events on.
3. As the last resort the state at a previous event (`state_ids`, then what is unknown of it), on
   which that event is put into the graph; what lies before it stays a noted gap.

The peer chooses the graph, so everything has a bound (`bounds`).
Spec: S2S, backfilling and retrieving missing events; retrieving event authorisation information.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.engine.pdu import Pdu
from bridge.engine.state import CREATE
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import EventId, ServerName, TraceId
from bridge.rooms.accept import Acceptor, state_from
from bridge.rooms.bounds import GraphBounds, note_reached
from bridge.rooms.load import Room, RoomStates, Snapshot
from bridge.rooms.network import Peers
from bridge.rooms.verify import Verifier
from bridge.storage import events as event_rows
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database
from bridge.telemetry.log import get_logger

MISSING_EVENTS_LIMIT = 50
"""Events asked for per round; Synapse gives at most 20."""
QUICK_S = 1.0
"""A peer whose part took no longer needs no rest."""
MAX_NAMED = 20
"""Events named as ends of one question."""

log = get_logger("rooms")


@dataclass(slots=True, kw_only=True)
class _Filling:
    """What one peer may still be asked for one received event."""

    room: Room
    event_id: EventId
    peer: ServerName
    knows: bool
    """Whether it sent or made the event; another peer may never have seen it."""
    trace_id: TraceId
    requests: int
    states: int

    def ask(self) -> None:
        """Before each request. Raises `Unavailable`: what was entered stays and helps later."""
        if self.requests <= 0:
            note_reached("gap_requests", room_id=self.room.room_id, event_id=self.event_id)
            raise Unavailable(f"too much is asked for {self.event_id}")
        self.requests -= 1


class GapFiller:
    """Asks the peer that sent the event first: it claims to know what that rests on."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        database: Database,
        states: RoomStates,
        acceptor: Acceptor,
        verifier: Verifier,
        peers: Peers,
        clock: Clock,
        bounds: GraphBounds,
    ) -> None:
        self._clock = clock
        self._rests: dict[ServerName, float] = {}
        """Until when each peer is not asked."""
        self._busy: Counter[ServerName] = Counter()
        self._bounds = bounds
        self._server_name = server_name
        self._database = database
        self._states = states
        self._acceptor = acceptor
        self._verifier = verifier
        self._peers = peers

    async def is_before(self, pdu: Pdu) -> bool:
        """Whether something that the event rests on is missing."""
        if await self._acceptor.missing_prev(pdu):
            return True
        return bool(await self._unknown(pdu.auth_events))

    async def fill(self, room: Room, pdu: Pdu, *, origin: ServerName, trace_id: TraceId) -> None:
        """Bring everything that the verified event rests on, from whoever sent it or, if that
        server cannot, from a few others in the room. Raises `Unavailable`, `Refused`."""
        missing = await self._acceptor.missing_prev(pdu)
        log.info("gap found", room_id=room.room_id, event_id=pdu.event_id, missing=len(missing))
        problem: IsthmusError | None = None
        for peer in await self._candidates(room, pdu, origin):
            try:
                knows = peer in (origin, pdu.sender_server)
                await self._fill_by_turns(room, pdu, peer, knows, trace_id)
            except (Unavailable, Refused, NotFound, BadInput) as exc:
                log.info("gap not filled", event_id=pdu.event_id, peer=peer, reason=exc.reason)
                # What may still come right is tried again.
                if problem is None or isinstance(exc, Unavailable):
                    problem = exc
                continue
            return
        raise problem or Unavailable(f"nobody can be asked what {pdu.event_id} rests on")

    async def _fill_by_turns(
        self, room: Room, pdu: Pdu, peer: ServerName, knows: bool, trace_id: TraceId
    ) -> None:
        """Raises `Unavailable` at once while the peer rests, or has enough to do."""
        now_s = self._clock.monotonic_s()
        if now_s < self._rests.get(peer, 0.0):
            note_reached("gap_rest", room_id=room.room_id, event_id=pdu.event_id)
            raise Unavailable(f"{peer} took too long before")
        if self._busy[peer] >= self._bounds.gap_at_once:
            note_reached("gap_at_once", room_id=room.room_id, event_id=pdu.event_id)
            raise Unavailable(f"{peer} has enough to do")
        self._busy[peer] += 1
        factor = self._bounds.gap_rest
        try:
            await self._fill_in_time(room, pdu, peer, knows, trace_id)
            factor = min(1, factor)
        finally:
            self._busy[peer] -= 1
            if not self._busy[peer]:
                del self._busy[peer]
            self._rest(peer, self._clock.monotonic_s() - now_s, factor)

    def _rest(self, peer: ServerName, took_s: float, factor: int) -> None:
        now_s = self._clock.monotonic_s()
        self._rests = {one: until for one, until in self._rests.items() if until > now_s}
        if took_s >= QUICK_S and factor:
            self._rests[peer] = max(self._rests.get(peer, 0.0), now_s + factor * took_s)

    async def _fill_in_time(
        self, room: Room, pdu: Pdu, peer: ServerName, knows: bool, trace_id: TraceId
    ) -> None:
        filling = _Filling(
            room=room,
            event_id=pdu.event_id,
            peer=peer,
            knows=knows,
            trace_id=trace_id,
            requests=self._bounds.gap_requests,
            states=self._bounds.gap_state_requests,
        )
        try:
            async with asyncio.timeout(self._bounds.gap_timeout_s):
                await self._fill_from(filling, pdu)
        except TimeoutError as exc:
            note_reached("gap_timeout_s", room_id=room.room_id, event_id=pdu.event_id)
            raise Unavailable(f"{peer} takes too long to say what came before") from exc

    async def _candidates(self, room: Room, pdu: Pdu, origin: ServerName) -> list[ServerName]:
        others = await self._database.read(lambda tx: room_rows.servers(tx, room.room_id))
        wanted = dict.fromkeys([origin, pdu.sender_server, *sorted(others)])
        return [one for one in wanted if one != self._server_name][: self._bounds.gap_peers]

    async def _fill_from(self, filling: _Filling, pdu: Pdu) -> None:
        await self._bring_auth_events(filling, pdu)
        missing = await self._acceptor.missing_prev(pdu)
        if not missing:
            return
        try:
            found = await self._missing_events(filling, pdu, missing)
        except (NotFound, Refused, BadInput) as exc:
            log.info("missing events not given", peer=filling.peer, reason=exc.reason)
            found = {}
        for event in _oldest_first(found):
            await self._enter(filling, event)
        still = await self._acceptor.missing_prev(pdu)
        if len(still) > filling.states:
            note_reached("gap_state_requests", room_id=filling.room.room_id, event_id=pdu.event_id)
            raise Unavailable(f"too many gaps before {pdu.event_id}")
        for event_id in still:
            await self._enter_with_state(filling, event_id)

    # --- auth events ------------------------------------------------------------------------

    async def _bring_auth_events(self, filling: _Filling, pdu: Pdu) -> None:
        missing = await self._unknown(pdu.auth_events)
        if not missing:
            return
        room = filling.room
        create = await self._states.create_event(room.state)
        filling.ask()
        try:
            chain = await self._peers.event_auth(filling.peer, room.room_id, pdu.event_id)
        except (NotFound, Refused):
            chain = []
        if len(chain) > self._bounds.auth_chain_events:
            note_reached("auth_chain_events", room_id=room.room_id, event_id=pdu.event_id)
            raise Refused("the auth chain is too long", rule="bounds.auth_chain")
        pdus = await self._verifier.check_all(chain, room.version, room.room_id)
        await self._keep(filling, create, _behind(pdu, pdus))
        missing = await self._unknown(pdu.auth_events)
        if missing:
            await self._fetch_singly(filling, missing, create)

    async def _fetch_singly(
        self, filling: _Filling, missing: Sequence[EventId], create: Pdu
    ) -> None:
        """These events and the auth events behind them, one by one."""
        fetched: dict[EventId, Pdu] = {}
        wanted = list(missing)
        for _ in range(self._bounds.auth_depth):
            if not wanted or len(fetched) > self._bounds.single_events * 2:
                break
            for event_id in wanted[: self._bounds.single_events]:
                fetched[event_id] = await self._event(filling, event_id)
            parents = {one for event_id in wanted for one in _auth(fetched.get(event_id))}
            wanted = [one for one in await self._unknown(parents) if one not in fetched]
        if wanted:
            note_reached("auth_depth", room_id=filling.room.room_id, event_id=filling.event_id)
        await self._keep(filling, create, fetched.values())

    async def _keep(self, filling: _Filling, create: Pdu, pdus: Iterable[Pdu]) -> None:
        await self._acceptor.store_outliers(
            filling.room.room_id, pdus, create=create, trace_id=filling.trace_id
        )

    async def _event(self, filling: _Filling, event_id: EventId) -> Pdu:
        filling.ask()
        json = await self._peers.event(filling.peer, event_id)
        pdu = await self._verifier.check(Pdu.parse(json, filling.room.version))
        if pdu.event_id != event_id or pdu.room_id != filling.room.room_id:
            raise BadInput(f"{filling.peer} answered with another event than {event_id}")
        return pdu

    async def _unknown(self, event_ids: Collection[EventId]) -> list[EventId]:
        wanted = list(dict.fromkeys(event_ids))
        if len(wanted) > self._bounds.single_events:
            there = await self._database.read(lambda tx: event_rows.find_known(tx, wanted))
            return [one for one in wanted if one not in there]
        known = await self._states.events(wanted)
        return [one for one in wanted if one not in known]

    # --- previous events --------------------------------------------------------------------

    async def _missing_events(
        self, filling: _Filling, pdu: Pdu, missing: Sequence[EventId]
    ) -> dict[EventId, Pdu]:
        """Events between what we have and `pdu`, as far as the peer gives them."""
        room = filling.room
        floor = await self._database.read(lambda tx: event_rows.lowest_depth(tx, room.room_id))
        found: dict[EventId, Pdu] = {}
        latest, wanted = [pdu.event_id], set(missing)
        for _ in range(self._bounds.gap_rounds):
            filling.ask()
            answer = await self._peers.get_missing_events(
                filling.peer,
                room.room_id,
                earliest=sorted(room.extremities)[:MAX_NAMED],
                latest=latest,
                limit=MISSING_EVENTS_LIMIT,
                min_depth=floor,
            )
            fresh = {
                one.event_id: one
                for one in await self._verifier.check_all(
                    answer[:MISSING_EVENTS_LIMIT], room.version, room.room_id
                )
                if one.depth >= floor and one.event_id not in found and one.event_id != pdu.event_id
            }
            if not fresh and not found and not filling.knows:
                # It may know what the event names all the same.
                fresh = await self._named(filling, missing, floor)
            found |= fresh
            for one in fresh.values():
                wanted.update(await self._acceptor.missing_prev(one))
            wanted -= found.keys()
            if not fresh or not wanted:
                return found
            if len(found) >= self._bounds.gap_events:
                note_reached("gap_events", room_id=room.room_id, event_id=pdu.event_id)
                return found
            latest = sorted(
                one.event_id for one in found.values() if wanted.intersection(one.prev_events)
            )[:MAX_NAMED]
            if not latest:
                return found
        note_reached("gap_rounds", room_id=room.room_id, event_id=pdu.event_id)
        return found

    async def _named(
        self, filling: _Filling, event_ids: Sequence[EventId], floor: int
    ) -> dict[EventId, Pdu]:
        """Those of these events that the peer gives by their ID."""
        found: dict[EventId, Pdu] = {}
        for event_id in event_ids[: self._bounds.single_events]:
            try:
                pdu = await self._event(filling, event_id)
            except (NotFound, Refused, BadInput) as exc:
                log.info("previous event not given", event_id=event_id, reason=exc.reason)
                continue
            if pdu.depth >= floor:
                found[event_id] = pdu
        return found

    async def _enter(self, filling: _Filling, pdu: Pdu) -> None:
        """Put a fetched event into the graph."""
        room = filling.room
        try:
            await self._bring_auth_events(filling, pdu)
            missing = await self._acceptor.missing_prev(pdu)
            if len(missing) > filling.states:
                note_reached("gap_state_requests", room_id=room.room_id, event_id=pdu.event_id)
                return
            for event_id in missing:
                await self._enter_with_state(filling, event_id)
            await self._acceptor.accept(room.room_id, pdu, trace_id=filling.trace_id)
        except (BadInput, Refused, NotFound) as exc:
            log.info(
                "gap event left out",
                room_id=room.room_id,
                event_id=pdu.event_id,
                reason=exc.reason,
            )

    async def _enter_with_state(self, filling: _Filling, event_id: EventId) -> None:
        """Put an event into the graph on the state that the peer gives for it."""
        room, peer = filling.room, filling.peer
        filling.states -= 1
        try:
            pdu = await self._event(filling, event_id)
            before = await self._state_at(filling, event_id)
            await self._bring_auth_events(filling, pdu)
        except NotFound as exc:
            raise Unavailable(f"{peer} does not give the state at {event_id}") from exc
        await self._acceptor.accept(room.room_id, pdu, trace_id=filling.trace_id, before=before)
        log.info("gap closed by state", room_id=room.room_id, event_id=event_id, peer=peer)

    async def _state_at(self, filling: _Filling, event_id: EventId) -> Snapshot:
        room, peer = filling.room, filling.peer
        filling.ask()
        state_ids, chain_ids = await self._peers.state_ids(peer, room.room_id, event_id)
        self._check_size(filling, len(state_ids) + len(chain_ids))
        create = await self._states.create_event(room.state)
        unknown = await self._unknown([*state_ids, *chain_ids])
        if len(unknown) > self._bounds.single_events:
            filling.ask()
            state, chain = await self._peers.state(peer, room.room_id, event_id)
            self._check_size(filling, len(state) + len(chain))
            wanted = set(unknown)
            pdus = await self._verifier.check_all([*chain, *state], room.version, room.room_id)
            await self._keep(filling, create, [one for one in pdus if one.event_id in wanted])
        elif unknown:
            pdus = []
            for one in unknown:
                try:
                    pdus.append(await self._event(filling, one))
                except (BadInput, Refused, NotFound) as exc:
                    log.info("state event left out", event_id=one, reason=exc.reason)
            await self._keep(filling, create, pdus)
        known = await self._states.events(state_ids)
        state_map = state_from([one for one in known.values() if one.pdu.room_id == room.room_id])
        if state_map.get(CREATE) != create.event_id:
            raise Refused("the state has another create event", rule="state.create")
        return room.snapshot.with_state(state_map)

    def _check_size(self, filling: _Filling, events: int) -> None:
        if events > self._bounds.state_events:
            note_reached("state_events", room_id=filling.room.room_id, event_id=filling.event_id)
            raise Refused("the state is too large", rule="bounds.state")


def _behind(pdu: Pdu, chain: Iterable[Pdu]) -> list[Pdu]:
    """What the event's auth events lead to: nobody gets anything else stored."""
    given = {one.event_id: one for one in chain}
    reached: dict[EventId, Pdu] = {}
    waiting = list(pdu.auth_events)
    while waiting:
        event_id = waiting.pop()
        if event_id in given and event_id not in reached:
            reached[event_id] = given[event_id]
            waiting.extend(given[event_id].auth_events)
    return list(reached.values())


def _oldest_first(found: dict[EventId, Pdu]) -> list[Pdu]:
    return sorted(found.values(), key=lambda pdu: (pdu.depth, pdu.event_id))


def _auth(pdu: Pdu | None) -> Sequence[EventId]:
    return () if pdu is None else pdu.auth_events
