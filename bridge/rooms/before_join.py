"""What was written to a user between a direct invite and our join.

Whoever opens a direct chat writes at once; our join comes a moment later. Servers send nothing
into a room that we are not in, so these events are fetched before the join is stored and enter
with it, in one commit, shown as new. Only for direct chats: of other rooms the past is history.

1. `get_missing_events` between the invite and our join, at the server that let us in.
2. The state before the first of them by `state_ids`; an event that follows on another one of them
   stands on the state after that one.
3. The auth rules. What they refuse, or what cannot be placed, is left out.
4. What was being written while we joined stands beside our join, not before it: its server computed
   the recipients without us. After the join, and once more a moment later, `make_join` tells the
   room's newest events; those that we do not have are fetched and taken in as if they had been
   sent. What is missed even so comes as a gap with the next event.
Spec: S2S, backfilling and retrieving missing events; checks on receipt of a PDU; joining rooms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.clock import Clock
from bridge.engine.pdu import Pdu
from bridge.engine.receipt import Verdict, judge
from bridge.engine.state import CREATE
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import EventId, RoomVersionId, ServerName, UserId
from bridge.rooms.accept import has_create, state_from
from bridge.rooms.load import KnownEvent, RoomStates, Snapshot
from bridge.rooms.network import Json, Peers
from bridge.rooms.outside import Outside
from bridge.rooms.verify import Verifier
from bridge.telemetry.log import get_logger

MAX_EVENTS = 50
"""The newest of them; Synapse gives at most 20."""
MAX_NEWEST = 20
"""Forward extremities of the peer that are looked at."""
AGAIN_AFTER_S = 1.0
LOOK_TIMEOUT_S = 15.0
MAX_WAITING = 1_000
"""Joins whose second look waits; beyond it there is none."""

log = get_logger("rooms")

Fresh = Mapping[EventId, KnownEvent]


class Take(Protocol):
    """`Receiver.take`."""

    async def __call__(
        self,
        origin: ServerName,
        transaction_id: str,
        pdus: Sequence[object],
        *,
        wait_s: float = 5.0,
    ) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One accepted event and the state before it."""

    pdu: Pdu
    before: Snapshot
    is_known: bool
    """As an outlier."""


class BeforeJoin:
    """Looks once, at the join. A peer that does not answer this does not keep us out."""

    def __init__(
        self,
        *,
        states: RoomStates,
        outside: Outside,
        verifier: Verifier,
        peers: Peers,
        take: Take,
        clock: Clock,
    ) -> None:
        self._states = states
        self._outside = outside
        self._verifier = verifier
        self._peers = peers
        self._take = take
        self._clock = clock
        self._again: asyncio.Queue[tuple[float, ServerName, Pdu]] = asyncio.Queue(MAX_WAITING)

    async def find_invite(self, join: Pdu) -> Pdu | None:
        """The invite that this join accepts, if it is one into a direct chat."""
        invite = await self._outside.find_invite(join.room_id, UserId(join.sender))
        if invite is None:
            return None
        known = (await self._states.events([invite.event_id])).get(invite.event_id)
        is_direct = known is not None and known.pdu.content.get("is_direct") is True
        return known.pdu if known is not None and is_direct else None

    async def find(
        self, peer: ServerName, join: Pdu, invite: Pdu, at_join: Snapshot, fresh: Fresh
    ) -> list[Written]:
        """Oldest first. `at_join`: the state before our join; `fresh`: its events."""
        try:
            return await self._fetch(peer, join, invite, at_join, fresh)
        except (BadInput, NotFound, Refused, Unavailable) as exc:
            log.warning(
                "what came before the join is not known",
                room_id=join.room_id,
                peer=peer,
                reason=exc.reason,
            )
            return []

    async def take_newest(self, peer: ServerName, join: Pdu) -> None:
        """Step 4, when the join is stored."""
        await self._look(peer, join, attempt=1)
        if not self._again.full():
            self._again.put_nowait((self._clock.monotonic_s() + AGAIN_AFTER_S, peer, join))

    async def run(self) -> None:
        """The second look of step 4, for ever."""
        while True:
            due_s, peer, join = await self._again.get()
            await self._clock.sleep(max(0.0, due_s - self._clock.monotonic_s()))
            await self._look(peer, join, attempt=2)

    async def _look(self, peer: ServerName, join: Pdu, *, attempt: int) -> None:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                pdus = await self._newest(peer, join)
                if pdus:
                    await self._take(peer, f"newest.{attempt}.{join.event_id}", pdus, wait_s=0)
        except (BadInput, NotFound, Refused, Unavailable, TimeoutError) as exc:
            log.info(
                "what came beside the join is not known",
                room_id=join.room_id,
                peer=peer,
                reason=str(exc),
            )

    async def _newest(self, peer: ServerName, join: Pdu) -> list[Json]:
        """Forward extremities of the peer that we do not have."""
        _, template = await self._peers.make_join(
            peer, join.room_id, UserId(join.sender), [RoomVersionId(join.version.id)]
        )
        listed = template.get("prev_events")
        newest = listed[:MAX_NEWEST] if isinstance(listed, list) else []
        ids = [EventId(one) for one in newest if isinstance(one, str)]
        known = await self._states.events(ids, place_matters=True)
        return [
            await self._peers.event(peer, one)
            for one in ids
            if one not in known or known[one].outlier
        ]

    async def _fetch(
        self, peer: ServerName, join: Pdu, invite: Pdu, at_join: Snapshot, fresh: Fresh
    ) -> list[Written]:
        if set(join.prev_events) == {invite.event_id}:
            return []
        answer = await self._peers.get_missing_events(
            peer,
            join.room_id,
            earliest=[invite.event_id],
            latest=[join.event_id],
            limit=MAX_EVENTS,
            min_depth=invite.depth,
        )
        pdus = await self._verifier.check_all(answer[:MAX_EVENTS], join.version, join.room_id)
        found = {
            pdu.event_id: pdu
            for pdu in sorted(pdus, key=lambda one: (one.depth, one.event_id))
            if pdu.event_id not in (invite.event_id, join.event_id) and pdu.depth > invite.depth
        }
        there = await self._states.events(found, fresh)
        after: dict[EventId, Snapshot] = {}
        written: list[Written] = []
        for pdu in found.values():
            old = there.get(pdu.event_id)
            if old is not None and not old.outlier:
                continue
            before = await self._state_before(peer, pdu, after, at_join, fresh)
            if not await self._is_allowed(pdu, before, fresh):
                continue
            after[pdu.event_id] = before.with_event(pdu)
            written.append(Written(pdu=pdu, before=before, is_known=old is not None))
        return written

    async def _state_before(
        self,
        peer: ServerName,
        pdu: Pdu,
        after: Mapping[EventId, Snapshot],
        at_join: Snapshot,
        fresh: Fresh,
    ) -> Snapshot:
        if len(pdu.prev_events) == 1 and pdu.prev_events[0] in after:
            return after[pdu.prev_events[0]]
        ids, _ = await self._peers.state_ids(peer, pdu.room_id, pdu.event_id)
        known = await self._states.events(ids, fresh)
        state = state_from([one for one in known.values() if one.pdu.room_id == pdu.room_id])
        if not has_create(state, pdu.room_id, known):
            raise Refused("the state has no create event of this room", rule="state.create")
        return at_join.with_state(state)

    async def _is_allowed(self, pdu: Pdu, before: Snapshot, fresh: Fresh) -> bool:
        auth = await self._states.events(pdu.auth_events, fresh)
        if len(auth) < len(set(pdu.auth_events)):
            log.info("event before the join left out", event_id=pdu.event_id, rule="auth.missing")
            return False
        create = (await self._states.pick(before.state, [CREATE], fresh)).get(CREATE)
        decision = judge(
            pdu,
            create=create,
            auth_events={event_id: known.pdu for event_id, known in auth.items()},
            state_before=await self._states.auth_state(before.state, pdu, fresh),
            current_state=None,
            rejected=[event_id for event_id, known in auth.items() if known.is_rejected],
        )
        if decision.verdict is not Verdict.ACCEPTED:
            log.info("event before the join left out", event_id=pdu.event_id, rule=decision.rule)
        return decision.verdict is Verdict.ACCEPTED
