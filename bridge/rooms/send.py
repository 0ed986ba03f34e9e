"""Events of our own users: built on the forward extremities, checked, signed, appended.

A transaction ID makes sending twice sending once: it is a row of the same commit.
Spec: S2S, PDUs; I.1, 3.6 (types that extensible rooms do not take).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridge.clock import Clock
from bridge.engine.auth import check_auth
from bridge.engine.build import Draft, PrevEvent, chosen_event_id, complete, event_template
from bridge.engine.canonical import JsonObject
from bridge.engine.keys import Signer
from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels
from bridge.engine.receipt import Verdict
from bridge.engine.redaction import may_apply_redaction, may_redact_anything
from bridge.engine.state import CREATE, POWER_LEVELS
from bridge.errors import NotFound, Refused
from bridge.ids import EventId, RoomId, ServerName, TraceId, UserId, server_of
from bridge.rooms.accept import Acceptor
from bridge.rooms.append import Appender, Plan, Repeated
from bridge.rooms.bounds import DEFAULTS, GraphBounds
from bridge.rooms.load import KnownEvent, Room, RoomStates, Snapshot, choose_auth_events
from bridge.rooms.policy_server import PolicyServers
from bridge.storage import events as event_rows
from bridge.storage.database import Database

NOT_EXTENSIBLE = frozenset({"m.room.message", "m.sticker", "m.room.message.feedback"})


class Sender:
    """Sends for users of this server."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        key: Signer,
        database: Database,
        states: RoomStates,
        appender: Appender,
        clock: Clock,
        random_text: Callable[[], str],
        acceptor: Acceptor,
        policy_servers: PolicyServers,
        bounds: GraphBounds = DEFAULTS,
    ) -> None:
        """`random_text`: of the IDs of our events, where they are no hashes."""
        self._acceptor = acceptor
        self._policy_servers = policy_servers
        self._bounds = bounds
        self._server_name = server_name
        self._key = key
        self._database = database
        self._states = states
        self._appender = appender
        self._clock = clock
        self._random_text = random_text

    async def send(
        self,
        *,
        room_id: RoomId,
        sender: UserId,
        type: str,
        content: Mapping[str, Any],
        trace_id: TraceId,
        transaction_id: str | None = None,
        state_key: str | None = None,
        redacts: EventId | None = None,
        at_ms: int | None = None,
    ) -> EventId:
        """Returns when the event is committed. Raises `Refused`, `NotFound`, `Unavailable`."""
        if server_of(sender) != self._server_name:
            raise Refused(f"{sender} is no user of ours", rule="sender")
        draft = Draft(
            room_id=room_id,
            type=type,
            sender=sender,
            content=content,
            state_key=state_key,
            redacts=redacts,
            at_ms=at_ms,
        )

        signed: Pdu | None = None
        room = await self._states.find_room(room_id)
        if room is not None and await self._policy_servers.find(room) is not None:
            # Its name stands in the signature: what the policy server has seen is what is sent,
            # wherever the room has moved meanwhile.
            done = await self.find_sent(transaction_id)
            if done is not None:
                return done
            signed, _ = await self.build(room, draft)

        async def attempt() -> EventId:
            room = await self._states.joined_room(room_id)
            plan = self._appender.plan(room)
            if signed is None:
                pdu = await self.add(plan, draft, trace_id=trace_id)
            else:
                pdu = await self._add_signed(plan, signed, trace_id)
            await self._appender.commit(plan, transaction_id=transaction_id, answers=pdu.event_id)
            return pdu.event_id

        try:
            return await self._appender.until_unmoved(room_id, attempt)
        except Repeated as before:
            if before.event_id is None:
                raise Refused(f"{transaction_id} stood for a room", rule="transaction") from before
            return before.event_id
        except (NotFound, Refused):
            # The first try may have changed what allows it (a leave): it still counts.
            done = await self.find_sent(transaction_id)
            if done is not None:
                return done
            raise

    async def find_sent(self, transaction_id: str | None) -> EventId | None:
        """What this transaction ID did."""
        if transaction_id is None:
            return None
        wanted = transaction_id
        there = await self._database.read(lambda tx: event_rows.find_local_transaction(tx, wanted))
        return None if there is None else there[1]

    async def add(self, plan: Plan, draft: Draft, *, trace_id: TraceId) -> Pdu:
        """Build, check and plan an event of ours. Raises `Refused` with the rule."""
        pdu, before = await self.build(plan.room, draft, plan)
        await self._appender.add(plan, pdu, before=before, trace_id=trace_id, outgoing=True)
        return pdu

    async def _add_signed(self, plan: Plan, pdu: Pdu, trace_id: TraceId) -> Pdu:
        before = await self._acceptor.state_before(plan.room, pdu)
        decision = await self._acceptor.judge(plan.room, pdu, before)
        if decision.verdict is not Verdict.ACCEPTED:
            raise Refused(decision.reason, rule=decision.rule)
        await self._appender.add(plan, pdu, before=before, trace_id=trace_id, outgoing=True)
        return pdu

    async def build(
        self, room: Room, draft: Draft, plan: Plan | None = None
    ) -> tuple[Pdu, Snapshot]:
        """A signed event on top of the room, allowed by the state before it and by the room's
        policy server, and that state."""
        if room.version.extensible_events and draft.type in NOT_EXTENSIBLE:
            raise Refused(
                f"{draft.type} is not sent into rooms with extensible events", rule="extensible"
            )
        template, before = await self.template(room, draft, plan)
        pdu = complete(
            template,
            version=room.version,
            key=self._key,
            server=self._server_name,
            event_id=chosen_event_id(room.version, self._server_name, self._random_text),
        )
        fresh = None if plan is None else plan.fresh
        check_auth(pdu, await self._states.auth_state(before.state, pdu, fresh))
        if pdu.redacts is not None:
            await self._check_redaction(pdu, pdu.redacts, before, fresh)
        return await self._policy_servers.sign(room, pdu), before

    async def _check_redaction(
        self,
        pdu: Pdu,
        target_id: EventId,
        before: Snapshot,
        fresh: Mapping[EventId, KnownEvent] | None,
    ) -> None:
        """Servers take any redaction and ignore those by people without the power: ours is refused
        instead. Spec: rooms/v3, handling redactions; C-S, redactions."""
        found = await self._states.pick(before.state, (POWER_LEVELS, CREATE), fresh)
        power = PowerLevels.of(found.get(POWER_LEVELS), found.get(CREATE))
        if may_redact_anything(pdu, power):
            return
        target = (await self._states.events([target_id], fresh)).get(target_id)
        if target is None or not may_apply_redaction(pdu, target.pdu, power):
            raise Refused(f"{pdu.sender} may not redact {target_id}", rule="redaction.level")

    async def template(
        self, room: Room, draft: Draft, plan: Plan | None = None
    ) -> tuple[JsonObject, Snapshot]:
        """An event on top of the room without hash and signature, and the state before it."""
        extremities = sorted(room.extremities.items(), key=lambda item: (-item[1], item[0]))
        before = room.snapshot
        most = self._bounds.prev_events
        if len(extremities) > most:
            afters = {} if plan is None else plan.afters
            chosen = await self._states.choose_extremities(room.extremities, afters, limit=most)
            ids = _spread(chosen.event_ids, most)
            extremities = [(one, room.extremities[one]) for one in ids]
            if chosen.states > most:
                fresh = None if plan is None else plan.fresh
                before = await self._states.merged(ids, room.version, afters, fresh)
        auth_events = choose_auth_events(
            before.state,
            event_type=draft.type,
            sender=draft.sender,
            state_key=draft.state_key,
            content=draft.content,
            version=room.version,
        )
        linked: Mapping[EventId, Pdu] = {}
        if room.version.event_format.links_with_hashes:
            named = [*(key for key, _ in extremities), *auth_events]
            found = await self._states.events(named, None if plan is None else plan.fresh)
            linked = {event_id: known.pdu for event_id, known in found.items()}
        template = event_template(
            draft,
            prev_events=[PrevEvent(event_id=key, depth=depth) for key, depth in extremities],
            auth_events=auth_events,
            version=room.version,
            origin_server_ts=self._clock.now_ms() if draft.at_ms is None else draft.at_ms,
            linked=linked,
        )
        return template, before


def _spread(event_ids: Sequence[EventId], most: int) -> Sequence[EventId]:
    """Half of them the deepest, half by their hash: whoever claims great depths gets no more."""
    if len(event_ids) <= most:
        return event_ids
    half = most // 2
    return [*event_ids[:half], *sorted(event_ids[half:])[: most - half]]
