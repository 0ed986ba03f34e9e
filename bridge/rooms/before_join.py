"""What was written to a user between a direct invite and our join.

Whoever opens a direct chat writes at once; our join comes a moment later. Servers send nothing
into a room that we are not in, so these events are fetched before the join is stored and enter
with it, in one commit, shown as new. Only for direct chats: of other rooms the past is history.

1. `get_missing_events` between the invite and our join, at the server that let us in.
2. The state before each, and the auth rules (`past`).
3. What was being written while we joined stands beside our join, not before it: its server computed
   the recipients without us. After the join, and once more a moment later, `make_join` tells the
   room's newest events; those that we do not have are fetched and taken in as if they had been
   sent. What is missed even so comes as a gap with the next event.
Spec: S2S, backfilling and retrieving missing events; checks on receipt of a PDU; joining rooms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from bridge.clock import Clock
from bridge.engine.pdu import Pdu, linked_ids
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import RoomVersionId, ServerName, UserId
from bridge.rooms.load import RoomStates, Snapshot
from bridge.rooms.network import Json, Peers
from bridge.rooms.outside import Outside
from bridge.rooms.past import Found, Fresh, Past
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


class BeforeJoin:
    """Looks once, at the join. A peer that does not answer this does not keep us out."""

    def __init__(
        self,
        *,
        states: RoomStates,
        past: Past,
        outside: Outside,
        verifier: Verifier,
        peers: Peers,
        take: Take,
        clock: Clock,
    ) -> None:
        self._states = states
        self._past = past
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
    ) -> Found:
        """`at_join`: the state before our join; `fresh`: its events."""
        try:
            return await self._fetch(peer, join, invite, at_join, fresh)
        except (BadInput, NotFound, Refused, Unavailable) as exc:
            log.warning(
                "what came before the join is not known",
                room_id=join.room_id,
                peer=peer,
                reason=exc.reason,
            )
            return Found()

    async def take_newest(self, peer: ServerName, join: Pdu) -> None:
        """Step 3, when the join is stored."""
        await self._look(peer, join, attempt=1)
        if not self._again.full():
            self._again.put_nowait((self._clock.monotonic_s() + AGAIN_AFTER_S, peer, join))

    async def run(self) -> None:
        """The second look of step 3, for ever."""
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
        ids = linked_ids(template.get("prev_events"))[:MAX_NEWEST]
        known = await self._states.events(ids, place_matters=True)
        return [
            await self._peers.event(peer, one)
            for one in ids
            if one not in known or known[one].outlier
        ]

    async def _fetch(
        self, peer: ServerName, join: Pdu, invite: Pdu, at_join: Snapshot, fresh: Fresh
    ) -> Found:
        if set(join.prev_events) == {invite.event_id}:
            return Found()
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
        return await self._past.place(peer, list(found.values()), at_join, fresh)
