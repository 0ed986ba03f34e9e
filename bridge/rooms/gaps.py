"""Filling gaps: what a received event rests on and we do not have.

1. Auth events: `event_auth` of whoever sent the event, else each by itself; stored as outliers.
2. Previous events: `get_missing_events`, a few rounds, oldest first.
3. As the last resort the state at a previous event (`state_ids`, then what is unknown of it), on
   which that event is put into the graph; what lies before it stays a noted gap.

The peer chooses the graph, so everything has a bound. Spec: S2S, backfilling and retrieving
missing events; retrieving event authorisation information.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence

from bridge.engine.pdu import Pdu
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import EventId, ServerName, TraceId
from bridge.rooms.accept import Acceptor, state_from
from bridge.rooms.load import Room, RoomStates, Snapshot
from bridge.rooms.network import Json, Peers
from bridge.rooms.verify import Verifier
from bridge.storage import events as event_rows
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database
from bridge.telemetry.log import get_logger

MAX_ROUNDS = 60
"""Requests of `get_missing_events` for one received event: after an outage a Synapse sends only a
room's newest event, and what was said meanwhile has to be fetched."""
MISSING_EVENTS_LIMIT = 50
"""Events asked for per round; Synapse gives at most 20."""
MAX_MISSING_EVENTS = 1_000
"""Events taken from all rounds together."""
MAX_STATE_EVENTS = 60_000
"""State events and their auth chain at a gap."""
MAX_STATE_REQUESTS = 10
"""Gaps of one received event that are closed by asking for the state."""
MAX_SINGLE_EVENTS = 20
"""Unknown state or auth events fetched one by one; more are fetched as a whole."""
MAX_PEERS = 3
"""Servers asked, one after the other, for what one event rests on."""
FILL_TIMEOUT_S = 300.0
"""One peer's part in closing one gap; what was entered by then stays."""
MAX_AUTH_DEPTH = 20
"""Rounds of fetching auth events of auth events."""

log = get_logger("rooms")


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
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._states = states
        self._acceptor = acceptor
        self._verifier = verifier
        self._peers = peers

    async def fill(self, room: Room, pdu: Pdu, *, origin: ServerName, trace_id: TraceId) -> None:
        """Bring everything that the verified event rests on, from whoever sent it or, if that
        server cannot, from a few others in the room. Raises `Unavailable`, `Refused`."""
        missing = await self._acceptor.missing_prev(pdu)
        if not missing and not await self._unknown(pdu.auth_events):
            return
        log.info("gap found", room_id=room.room_id, event_id=pdu.event_id, missing=len(missing))
        problem: IsthmusError | None = None
        for peer in await self._candidates(room, pdu, origin):
            try:
                await self._fill_in_time(room, pdu, peer, trace_id)
            except (Unavailable, Refused, NotFound, BadInput) as exc:
                log.info("gap not filled", event_id=pdu.event_id, peer=peer, reason=exc.reason)
                # What may still come right is tried again.
                if problem is None or isinstance(exc, Unavailable):
                    problem = exc
                continue
            return
        raise problem or Unavailable(f"nobody can be asked what {pdu.event_id} rests on")

    async def _fill_in_time(
        self, room: Room, pdu: Pdu, peer: ServerName, trace_id: TraceId
    ) -> None:
        try:
            async with asyncio.timeout(FILL_TIMEOUT_S):
                await self._fill_from(room, pdu, peer, trace_id)
        except TimeoutError as exc:
            raise Unavailable(f"{peer} takes too long to say what came before") from exc

    async def _candidates(self, room: Room, pdu: Pdu, origin: ServerName) -> list[ServerName]:
        others = await self._database.read(lambda tx: room_rows.servers(tx, room.room_id))
        wanted = dict.fromkeys([origin, pdu.sender_server, *sorted(others)])
        return [one for one in wanted if one != self._server_name][:MAX_PEERS]

    async def _fill_from(self, room: Room, pdu: Pdu, origin: ServerName, trace_id: TraceId) -> None:
        await self._bring_auth_events(room, pdu, origin, trace_id)
        missing = await self._acceptor.missing_prev(pdu)
        if not missing:
            return
        try:
            found = await self._missing_events(room, pdu, missing, origin)
        except (NotFound, Refused, BadInput) as exc:
            log.info("missing events not given", peer=origin, reason=exc.reason)
            found = {}
        left = MAX_STATE_REQUESTS
        for event in _oldest_first(found):
            left -= await self._enter(room, event, origin, trace_id, left)
        still = await self._acceptor.missing_prev(pdu)
        if len(still) > left:
            raise Unavailable(f"too many gaps before {pdu.event_id}")
        for event_id in still:
            await self._enter_with_state(room, event_id, origin, trace_id)

    # --- auth events ------------------------------------------------------------------------

    async def _bring_auth_events(
        self, room: Room, pdu: Pdu, origin: ServerName, trace_id: TraceId
    ) -> None:
        missing = await self._unknown(pdu.auth_events)
        if not missing:
            return
        create = await self._states.create_event(room.state)
        try:
            chain = await self._peers.event_auth(origin, room.room_id, pdu.event_id)
        except (NotFound, Refused):
            chain = []
        if len(chain) > MAX_STATE_EVENTS:
            raise Refused("the auth chain is too long", rule="bounds.auth_chain")
        await self._keep(room, chain, create, trace_id)
        missing = await self._unknown(pdu.auth_events)
        if missing:
            await self._fetch_singly(room, missing, create, origin, trace_id)

    async def _fetch_singly(
        self,
        room: Room,
        missing: Sequence[EventId],
        create: Pdu,
        origin: ServerName,
        trace_id: TraceId,
    ) -> None:
        """These events and the auth events behind them, one by one."""
        fetched: dict[EventId, Pdu] = {}
        wanted = list(missing)
        for _ in range(MAX_AUTH_DEPTH):
            if not wanted or len(fetched) > MAX_SINGLE_EVENTS * 2:
                break
            for event_id in wanted[:MAX_SINGLE_EVENTS]:
                pdu = await self._event(room, event_id, origin)
                fetched[event_id] = pdu
            parents = {one for event_id in wanted for one in _auth(fetched.get(event_id))}
            wanted = [one for one in await self._unknown(parents) if one not in fetched]
        await self._acceptor.store_outliers(
            room.room_id, fetched.values(), create=create, trace_id=trace_id
        )

    async def _keep(
        self, room: Room, jsons: Iterable[Json], create: Pdu, trace_id: TraceId
    ) -> None:
        pdus = await self._verifier.check_all(jsons, room.version, room.room_id)
        await self._acceptor.store_outliers(room.room_id, pdus, create=create, trace_id=trace_id)

    async def _event(self, room: Room, event_id: EventId, origin: ServerName) -> Pdu:
        json = await self._peers.event(origin, event_id)
        pdu = await self._verifier.check(Pdu.parse(json, room.version))
        if pdu.event_id != event_id or pdu.room_id != room.room_id:
            raise BadInput(f"{origin} answered with another event than {event_id}")
        return pdu

    async def _unknown(self, event_ids: Collection[EventId]) -> list[EventId]:
        wanted = list(dict.fromkeys(event_ids))
        if len(wanted) > MAX_SINGLE_EVENTS:
            there = await self._database.read(lambda tx: event_rows.find_known(tx, wanted))
            return [one for one in wanted if one not in there]
        known = await self._states.events(wanted)
        return [one for one in wanted if one not in known]

    # --- previous events --------------------------------------------------------------------

    async def _missing_events(
        self, room: Room, pdu: Pdu, missing: Sequence[EventId], origin: ServerName
    ) -> dict[EventId, Pdu]:
        """Events between what we have and `pdu`, as far as the peer gives them."""
        floor = await self._database.read(lambda tx: event_rows.lowest_depth(tx, room.room_id))
        found: dict[EventId, Pdu] = {}
        latest, wanted = [pdu.event_id], set(missing)
        for _ in range(MAX_ROUNDS):
            answer = await self._peers.get_missing_events(
                origin,
                room.room_id,
                earliest=sorted(room.extremities)[:20],
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
            found |= fresh
            for one in fresh.values():
                wanted.update(await self._acceptor.missing_prev(one))
            wanted -= found.keys()
            if not fresh or not wanted or len(found) >= MAX_MISSING_EVENTS:
                break
            latest = sorted(
                one.event_id for one in found.values() if wanted.intersection(one.prev_events)
            )[:20]
            if not latest:
                break
        return found

    async def _enter(
        self, room: Room, pdu: Pdu, origin: ServerName, trace_id: TraceId, left: int
    ) -> int:
        """Put a fetched event into the graph; returns how many states were asked for."""
        try:
            await self._bring_auth_events(room, pdu, origin, trace_id)
            missing = await self._acceptor.missing_prev(pdu)
            if len(missing) > left:
                return 0
            for event_id in missing:
                await self._enter_with_state(room, event_id, origin, trace_id)
            await self._acceptor.accept(room.room_id, pdu, trace_id=trace_id)
        except (BadInput, Refused, NotFound) as exc:
            log.info(
                "gap event left out",
                room_id=room.room_id,
                event_id=pdu.event_id,
                reason=exc.reason,
            )
            return 0
        return len(missing)

    async def _enter_with_state(
        self, room: Room, event_id: EventId, origin: ServerName, trace_id: TraceId
    ) -> None:
        """Put an event into the graph on the state that the peer gives for it."""
        try:
            pdu = await self._event(room, event_id, origin)
            before = await self._state_at(room, event_id, origin, trace_id)
            await self._bring_auth_events(room, pdu, origin, trace_id)
        except NotFound as exc:
            raise Unavailable(f"{origin} does not give the state at {event_id}") from exc
        await self._acceptor.accept(room.room_id, pdu, trace_id=trace_id, before=before)
        log.info("gap closed by state", room_id=room.room_id, event_id=event_id, peer=origin)

    async def _state_at(
        self, room: Room, event_id: EventId, origin: ServerName, trace_id: TraceId
    ) -> Snapshot:
        state_ids, chain_ids = await self._peers.state_ids(origin, room.room_id, event_id)
        if len(state_ids) + len(chain_ids) > MAX_STATE_EVENTS:
            raise Refused("the state is too large", rule="bounds.state")
        create = await self._states.create_event(room.state)
        unknown = await self._unknown([*state_ids, *chain_ids])
        if len(unknown) > MAX_SINGLE_EVENTS:
            state, chain = await self._peers.state(origin, room.room_id, event_id)
            if len(state) + len(chain) > MAX_STATE_EVENTS:
                raise Refused("the state is too large", rule="bounds.state")
            await self._keep(room, [*chain, *state], create, trace_id)
        elif unknown:
            pdus = []
            for one in unknown:
                try:
                    pdus.append(await self._event(room, one, origin))
                except (BadInput, Refused, NotFound) as exc:
                    log.info("state event left out", event_id=one, reason=exc.reason)
            await self._acceptor.store_outliers(
                room.room_id, pdus, create=create, trace_id=trace_id
            )
        known = await self._states.events(state_ids)
        state_map = state_from([one for one in known.values() if one.pdu.room_id == room.room_id])
        if state_map.get(("m.room.create", "")) != create.event_id:
            raise Refused("the state has another create event", rule="state.create")
        return room.snapshot.with_state(state_map)


def _oldest_first(found: dict[EventId, Pdu]) -> list[Pdu]:
    return sorted(found.values(), key=lambda pdu: (pdu.depth, pdu.event_id))


def _auth(pdu: Pdu | None) -> Sequence[EventId]:
    return () if pdu is None else pdu.auth_events
