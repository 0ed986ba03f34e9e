"""Checks on receipt of a PDU: every decision, in the specification's order. The shell fetches.

1. Format and size: `Pdu.parse`; otherwise dropped.
2. Signatures: `check_signatures_and_hash`; otherwise dropped.
3. Content hash: the same function gives the redacted copy when it does not match.
4. Auth rules by the auth events: `judge`; otherwise rejected.
5. Auth rules by the state before the event: `judge`; otherwise rejected.
6. Auth rules by the current state: `judge`; otherwise soft-failed.
7. The policy server that the room uses now: `judge`; otherwise soft-failed.

Spec: S2S, checks on receipt of a PDU.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from bridge.engine.auth import check_auth, check_auth_events
from bridge.engine.hashes import check_content_hash
from bridge.engine.pdu import Pdu
from bridge.engine.policy_server import POLICY_KEY, PolicyServer, is_signed
from bridge.engine.signing import (
    check_signature,
    is_key_valid_at,
    required_signers,
    signatures_of,
)
from bridge.engine.state import CREATE, AuthState, StateKey
from bridge.errors import Refused
from bridge.ids import EventId, KeyId, ServerName


class Verdict(Enum):
    """What becomes of a received PDU."""

    DROPPED = "dropped"
    REJECTED = "rejected"
    SOFT_FAILED = "soft-failed"
    ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict and, unless accepted, the rule that led to it."""

    verdict: Verdict
    rule: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyKey:
    """A server's published key. For a retired key `valid_until_ts` is its `expired_ts`."""

    key_base64: str
    valid_until_ts: int


KeysByServer: TypeAlias = Mapping[ServerName, Mapping[KeyId, VerifyKey]]


def keys_to_fetch(pdu: Pdu) -> Mapping[ServerName, frozenset[KeyId]]:
    """The keys that step 2 may look at. An empty set: that server has not signed at all."""
    return {server: frozenset(_signatures(pdu, server)) for server in required_signers(pdu)}


def _signatures(pdu: Pdu, server: ServerName) -> dict[KeyId, str]:
    """Without what the server says as a policy server, by a key that it does not publish."""
    found = signatures_of(pdu.json, server)
    return {key_id: found[key_id] for key_id in found if key_id != POLICY_KEY}


def check_signatures_and_hash(pdu: Pdu, keys: KeysByServer, *, now_ms: int) -> Pdu:
    """Steps 2 and 3: the event, or its redacted copy. Raises `Refused`: drop it.

    Signatures of unknown keys, and of keys not valid at the event's time, are skipped. Each
    required server needs a valid signature and must have no invalid one.
    """
    for server in sorted(required_signers(pdu)):
        _check_server(pdu, server, keys.get(server, {}), now_ms)
    strict = pdu.version.event_format.strict_json
    return pdu if check_content_hash(pdu.json, strict=strict) else pdu.redacted()


def _check_server(
    pdu: Pdu, server: ServerName, keys: Mapping[KeyId, VerifyKey], now_ms: int
) -> None:
    valid = False
    for key_id, signature in _signatures(pdu, server).items():
        key = keys.get(key_id)
        if key is None or not is_key_valid_at(
            pdu.origin_server_ts,
            valid_until_ts=key.valid_until_ts,
            now_ms=now_ms,
            rules=pdu.version.signing,
        ):
            continue
        if not check_signature(pdu, signature, key.key_base64):
            raise Refused(f"wrong signature of {server}", rule="signature.wrong")
        valid = True
    if not valid:
        raise Refused(f"no valid signature of {server}", rule="signature.missing")


def judge(
    pdu: Pdu,
    *,
    create: Pdu | None,
    auth_events: Mapping[EventId, Pdu],
    state_before: AuthState | None,
    current_state: AuthState | None,
    rejected: Collection[EventId] = (),
    policy: PolicyServer | None = None,
) -> Decision:
    """Steps 4 to 7. The states need only what `auth_state_keys` names.

    `create` is the room's create event (None for the create event itself). All auth events must
    have been fetched: one that is missing from `auth_events` leads to a final rejection.
    `state_before` is None for outliers, whose state is not known; `current_state` is None where
    step 6 does not apply: outliers, backfilled events, the state of a room that is being joined.
    `policy`: the policy server that the room uses.
    """
    chosen: dict[StateKey, Pdu] = {}
    for event_id in pdu.auth_events:
        event = auth_events.get(event_id)
        if event is not None and event.key is not None:
            chosen[event.key] = event
    try:
        check_auth_events(pdu, auth_events, rejected=rejected)  # 4
        check_auth(pdu, _with_create(chosen, create))
    except Refused as exc:
        return Decision(verdict=Verdict.REJECTED, rule=exc.rule, reason=exc.reason)
    for state, verdict in (
        (state_before, Verdict.REJECTED),  # 5
        (current_state, Verdict.SOFT_FAILED),  # 6
    ):
        if state is None:
            continue
        try:
            # A state without a create event is none of a room's: what stands on nothing is refused.
            check_auth(pdu, state)
        except Refused as exc:
            return Decision(verdict=verdict, rule=exc.rule, reason=exc.reason)
    if policy is not None and not is_signed(pdu, policy):  # 7
        return Decision(
            verdict=Verdict.SOFT_FAILED,
            rule="policy_server",
            reason=f"the policy server {policy.server} has not signed it",
        )
    return Decision(verdict=Verdict.ACCEPTED)


def _with_create(state: AuthState, create: Pdu | None) -> AuthState:
    return state if create is None else {CREATE: create, **state}
