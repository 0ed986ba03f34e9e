"""Policy servers are asked: for every event of ours before it leaves, and for what came without
their signature.

An event of ours that a policy server refuses is not sent, and its author is told in the server's
own words; while the server is away the event waits, as the specification wants it. An event of
others is asked about once: what is not signed then is soft-failed. A server that did not answer
rests, so that neither an outage nor a flood of unsigned events holds up the rooms that name it.
Never called inside a room's lane, save for an upgrade. Spec: S2S, policy servers.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.engine.pdu import Pdu
from bridge.engine.policy_server import (
    NAMES,
    STATE_KEYS,
    PolicyServer,
    is_checked,
    is_signed,
    policy_server_of,
    with_signature,
)
from bridge.errors import BadInput, IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import EventId, ServerName
from bridge.rooms.load import Fresh, Room, RoomStates
from bridge.rooms.network import Json, Peers
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database
from bridge.telemetry.log import get_logger

ASK_TIMEOUT_S = 30.0
"""It may have to look at media."""
MAX_ASKED = 8
"""Questions to one server at the same time ..."""
WAIT_S = 10.0
"""... and how long one waits for its turn."""
REST_S = 30.0
MAX_SERVERS = 1_000
MAX_REFUSED = 1_000

log = get_logger("rooms")


@dataclass(slots=True)
class _Standing:
    turn: asyncio.Semaphore
    rests_until_s: float = 0.0
    reason: str = ""


class PolicyServers:
    def __init__(
        self,
        *,
        server_name: ServerName,
        database: Database,
        states: RoomStates,
        peers: Peers,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._states = states
        self._peers = peers
        self._clock = clock
        self._standings: OrderedDict[ServerName, _Standing] = OrderedDict()
        self._refused: OrderedDict[EventId, Refused] = OrderedDict()
        """What is asked about again and again is refused without asking."""

    async def find(self, room: Room, fresh: Fresh | None = None) -> PolicyServer | None:
        """The policy server that a room uses now.

        Deviates: a room that names this server uses none; we are no policy server, and nobody could
        say anything there. Spec: S2S, determining if a policy server is enabled in a room.
        """
        keys = [key for key in STATE_KEYS if key in room.state]
        if not keys:
            return None
        policy = policy_server_of(await self._states.pick(room.state, keys, fresh))
        if policy is None or policy.server == self._server_name:
            return None
        server, room_id = policy.server, room.room_id
        joined = await self._database.read(lambda tx: room_rows.count_joined(tx, room_id, server))
        return policy if joined else None

    async def sign(self, room: Room, pdu: Pdu) -> Pdu:
        """The event as it may go out. Raises `Refused` with the policy server's words, or
        `Unavailable` while it cannot be asked."""
        policy = await self.find(room)
        if policy is None or is_signed(pdu, policy):
            return pdu
        return await self._ask(policy, pdu)

    async def complete(self, room: Room, pdu: Pdu) -> Pdu:
        """A received event, with the signature if it can be had: what lacks it is soft-failed."""
        try:
            return await self.sign(room, pdu)
        except IsthmusError as exc:
            log.info(
                "no signature of the policy server",
                room_id=pdu.room_id,
                event_id=pdu.event_id,
                reason=exc.reason,
            )
            return pdu

    async def _ask(self, policy: PolicyServer, pdu: Pdu) -> Pdu:
        refused = self._refused.get(pdu.event_id)
        if refused is not None:
            raise refused
        server = policy.server
        standing = self._standing(server)
        left_s = standing.rests_until_s - self._clock.monotonic_s()
        if left_s > 0:
            raise Unavailable(standing.reason, retry_after_s=left_s)
        try:
            async with asyncio.timeout(WAIT_S):
                await standing.turn.acquire()
        except TimeoutError as exc:
            raise Unavailable(f"too much waits for the policy server {server}") from exc
        try:
            return with_signature(pdu, policy, await self._asked(policy, pdu))
        except Unavailable as exc:
            standing.reason = f"the policy server of this room cannot be asked: {exc.reason}"
            rest_s = max(REST_S, exc.retry_after_s or 0.0)
            standing.rests_until_s = self._clock.monotonic_s() + rest_s
            raise Unavailable(standing.reason, retry_after_s=rest_s) from exc
        except BadInput as exc:
            raise Refused(
                f"{exc.reason} ({server})", errcode="M_FORBIDDEN", rule="policy_server"
            ) from exc
        except Refused as exc:
            error = Refused(
                f"the policy server of this room refused it: {exc.reason}",
                errcode=exc.errcode,
                rule="policy_server",
            )
            self._refused[pdu.event_id] = error
            while len(self._refused) > MAX_REFUSED:
                self._refused.popitem(last=False)
            raise error from exc
        except NotFound as exc:
            raise Refused(
                f"the policy server of this room does not know it: {exc.reason}",
                errcode="M_FORBIDDEN",
                rule="policy_server",
            ) from exc
        finally:
            standing.turn.release()

    async def _asked(self, policy: PolicyServer, pdu: Pdu) -> Json:
        """By the path that goes with the state event; a server that does not know it by another."""
        paths = [policy.names.sign_path, *(names.sign_path for names in NAMES)]
        problem: Refused | None = None
        for path in dict.fromkeys(paths):
            try:
                return await self._peers.policy_sign(
                    policy.server, path, pdu.wire(), timeout_s=ASK_TIMEOUT_S
                )
            except Refused as exc:
                if exc.errcode != "M_UNRECOGNIZED":
                    raise
                problem = problem or exc
        raise problem or Refused("it cannot be asked", rule="policy_server")

    def _standing(self, server: ServerName) -> _Standing:
        standing = self._standings.get(server)
        if standing is None:
            standing = self._standings[server] = _Standing(turn=asyncio.Semaphore(MAX_ASKED))
            while len(self._standings) > MAX_SERVERS:
                self._standings.popitem(last=False)
        return standing


def needs(pdu: Pdu, policy: PolicyServer | None) -> bool:
    """Whether it lacks a signature that the room wants."""
    return policy is not None and not is_signed(pdu, policy)


def changes(pdu: Pdu, policy: PolicyServer | None) -> bool:
    """Whether after it the room may use another one, or none."""
    if not is_checked(pdu):
        return True
    if policy is None or pdu.key is None or pdu.type != "m.room.member":
        return False
    return pdu.key[1].endswith(f":{policy.server}")
