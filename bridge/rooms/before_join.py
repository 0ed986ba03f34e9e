"""What was written to a user between a direct invite and our join.

Whoever opens a direct chat writes at once; our join comes a moment later. Servers send nothing
into a room that we are not in, so these events are fetched before the join is stored and enter
with it, in one commit, shown as new. Only for direct chats: of other rooms the past is history.

1. `get_missing_events` between the invite and our join, at the server that let us in.
2. The state before the first of them by `state_ids`; an event that follows on another one of them
   stands on the state after that one.
3. The auth rules. What they refuse, or what cannot be placed, is left out.
Spec: S2S, backfilling and retrieving missing events; checks on receipt of a PDU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.engine.pdu import Pdu
from bridge.engine.receipt import Verdict, judge
from bridge.engine.state import CREATE
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import EventId, ServerName, UserId
from bridge.rooms.accept import has_create, state_from
from bridge.rooms.load import KnownEvent, RoomStates, Snapshot
from bridge.rooms.network import Peers
from bridge.rooms.outside import Outside
from bridge.rooms.verify import Verifier
from bridge.telemetry.log import get_logger

MAX_EVENTS = 50
"""The newest of them; Synapse gives at most 20."""

log = get_logger("rooms")

Fresh = Mapping[EventId, KnownEvent]


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
        self, *, states: RoomStates, outside: Outside, verifier: Verifier, peers: Peers
    ) -> None:
        self._states = states
        self._outside = outside
        self._verifier = verifier
        self._peers = peers

    async def find(
        self, peer: ServerName, join: Pdu, at_join: Snapshot, fresh: Fresh
    ) -> list[Written]:
        """Oldest first. `at_join`: the state before our join; `fresh`: its events."""
        invite = await self._outside.find_invite(join.room_id, UserId(join.sender))
        if invite is None:
            return []
        known = (await self._states.events([invite.event_id], fresh)).get(invite.event_id)
        if known is None or known.pdu.content.get("is_direct") is not True:
            return []
        try:
            return await self._fetch(peer, join, known.pdu, at_join, fresh)
        except (BadInput, NotFound, Refused, Unavailable) as exc:
            log.warning(
                "what came before the join is not known",
                room_id=join.room_id,
                peer=peer,
                reason=exc.reason,
            )
            return []

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
