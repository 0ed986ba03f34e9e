"""Rooms that name a policy server: which one, what it must have signed, and whether it did.

A room may want each event checked by a server before it is sent; that server's signature, by a key
that stands in the room's state, says that it was. What lacks it is soft-failed on receipt. The
state event that names the server is never checked itself, so that a room can always let go of it.
Spec: S2S, policy servers; C2S, m.room.policy. MSC4284, with its names from before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.engine.canonical import JsonObject
from bridge.engine.pdu import Pdu
from bridge.engine.signing import check_signature, signature_of
from bridge.engine.state import StateKey
from bridge.errors import BadInput
from bridge.ids import KeyId, ServerName, parse_server_name

POLICY_KEY = KeyId("ed25519:policy_server")
"""Always this one. It says nothing about who sent an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyNames:
    """How the same things are called, and what may be where."""

    event_type: str
    sign_path: str
    lone_key: str | None
    """A field of the content that may hold the key by itself, where there is no `public_keys`."""

    @property
    def state_key(self) -> StateKey:
        return self.event_type, ""


STABLE = PolicyNames(event_type="m.room.policy", sign_path="/_matrix/policy/v1/sign", lone_key=None)
UNSTABLE = PolicyNames(
    event_type="org.matrix.msc4284.policy",
    sign_path="/_matrix/policy/unstable/org.matrix.msc4284/sign",
    lone_key="public_key",
)
NAMES = (STABLE, UNSTABLE)
"""The first that a room has counts."""
STATE_KEYS = tuple(names.state_key for names in NAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyServer:
    """Of a room, as its state names it. It counts while somebody of that server is joined."""

    server: ServerName
    verify_key: str
    names: PolicyNames


def policy_server_of(state: Mapping[StateKey, Pdu]) -> PolicyServer | None:
    """`state`: at least what `STATE_KEYS` names. None: none is named, or not validly."""
    for names in NAMES:
        event = state.get(names.state_key)
        if event is not None:
            return _read(event.content, names)
    return None


def _read(content: Mapping[str, Any], names: PolicyNames) -> PolicyServer | None:
    keys = content.get("public_keys")
    key = keys.get("ed25519") if isinstance(keys, dict) else None
    if key is None and names.lone_key is not None:
        key = content.get(names.lone_key)
    try:
        server = parse_server_name(content.get("via"))
    except BadInput:
        return None
    if not isinstance(key, str):
        return None
    return PolicyServer(server=server, verify_key=key, names=names)


def is_checked(pdu: Pdu) -> bool:
    """Everything but what names the policy server."""
    return pdu.key not in STATE_KEYS


def is_signed(pdu: Pdu, policy: PolicyServer) -> bool:
    """Whether the policy server has recommended it, or need not."""
    if not is_checked(pdu):
        return True
    signature = signature_of(pdu.json, policy.server, POLICY_KEY)
    return signature is not None and check_signature(pdu, signature, policy.verify_key)


def with_signature(pdu: Pdu, policy: PolicyServer, answer: JsonObject) -> Pdu:
    """The event with the policy server's signature from its answer, beside all that were there.
    Raises `BadInput` when there is none that its key has made."""
    signature = signature_of({"signatures": answer}, policy.server, POLICY_KEY)
    if signature is None:
        raise BadInput("the policy server did not sign")
    there = pdu.json.get("signatures")
    signatures = dict(there) if isinstance(there, dict) else {}
    by_server = signatures.get(policy.server)
    before = by_server if isinstance(by_server, dict) else {}
    signatures[policy.server] = {**before, POLICY_KEY: signature}
    signed = Pdu.parse({**pdu.json, "signatures": signatures}, pdu.version)
    if not is_signed(signed, policy):
        raise BadInput("the policy server's signature is not by the key that the room names")
    return signed
