"""Signing JSON and PDUs, who must sign a PDU, and when a key counts.

Spec: appendices, signing JSON; S2S, signing events; rooms/v5, signing key validity period.
"""

from __future__ import annotations

from contextlib import suppress

from bridge.engine.canonical import JsonObject, encode_canonical
from bridge.engine.hashes import signed_bytes
from bridge.engine.keys import ALGORITHM, Signer, verify
from bridge.engine.pdu import Pdu
from bridge.engine.versions.rules import RoomVersion, SigningRules
from bridge.errors import BadInput
from bridge.ids import KeyId, ServerName, parse_user_id, server_of

_NOT_SIGNED = frozenset({"signatures", "unsigned"})
_KEY_PREFIX = f"{ALGORITHM}:"


def sign_json(obj: JsonObject, *, server: ServerName, key: Signer) -> JsonObject:
    """A copy with our signature added to those that are there. `unsigned` is not covered."""
    return _with_signature(obj, server, key, key.sign(_signable(obj)))


def check_json_signature(
    obj: JsonObject, *, server: ServerName, key_id: KeyId, verify_key: str, strict: bool = True
) -> bool:
    """Whether `server` signed the object with this key. False when there is no such signature.

    Not `strict`: there may be in it what is not canonical.
    """
    signature = signature_of(obj, server, key_id)
    return signature is not None and verify(verify_key, _signable(obj, strict=strict), signature)


def sign_event(
    json: JsonObject, version: RoomVersion, *, server: ServerName, key: Signer
) -> JsonObject:
    """A copy with our signature over the redacted form. The content hash must be there."""
    return _with_signature(json, server, key, key.sign(signed_bytes(json, version)))


def check_pdu_signature(pdu: Pdu, *, server: ServerName, key_id: KeyId, verify_key: str) -> bool:
    """Whether `server` signed the PDU with this key; validity in time is `is_key_valid_at`."""
    signature = signature_of(pdu.json, server, key_id)
    return signature is not None and check_signature(pdu, signature, verify_key)


def check_signature(pdu: Pdu, signature: str, verify_key: str) -> bool:
    """Whether it is the key's signature of the PDU."""
    return verify(verify_key, pdu.signed or signed_bytes(pdu.json, pdu.version), signature)


def signature_of(obj: JsonObject, server: ServerName, key_id: KeyId) -> str | None:
    """The signature of that server and key, if it is there and a string."""
    signature = signatures_of(obj, server).get(key_id)
    return signature if isinstance(signature, str) else None


def signatures_of(obj: JsonObject, server: ServerName) -> dict[KeyId, str]:
    """The server's ed25519 signatures; those of other algorithms are skipped."""
    signatures = obj.get("signatures")
    by_key = signatures.get(server) if isinstance(signatures, dict) else None
    if not isinstance(by_key, dict):
        return {}
    return {
        KeyId(key_id): signature
        for key_id, signature in by_key.items()
        if key_id.startswith(_KEY_PREFIX) and isinstance(signature, str)
    }


def required_signers(pdu: Pdu) -> frozenset[ServerName]:
    """The servers without whose valid signature the PDU is dropped.

    The sender's, save for third-party invites, which another server may send (the identity
    server's signature is checked by the auth rules); and the server of the member who vouches
    for a restricted join. Where senders choose the event ID, the server that it names as well.

    Deviates: the text asks for that signature where that server is not the sender's. Here it is
    needed of third-party invites too: else anybody could take any ID of the sender's server.
    Spec: S2S, validating signatures; rooms/v8, authorisation rule 4.2.
    """
    signers: set[ServerName] = set()
    if not (pdu.membership == "invite" and "third_party_invite" in pdu.content):
        signers.add(pdu.sender_server)
    if pdu.version.event_format.named_by_sender:
        signers.add(server_of(pdu.event_id))
    if pdu.type == "m.room.member" and pdu.version.auth.restricted_rules:
        voucher = pdu.content.get("join_authorised_via_users_server")
        if voucher is not None:
            # For what is no user ID nobody could sign; the auth rules refuse the value itself.
            with suppress(BadInput):
                signers.add(server_of(parse_user_id(voucher)))
    return frozenset(signers)


def is_key_valid_at(
    origin_server_ts: int, *, valid_until_ts: int, now_ms: int, rules: SigningRules
) -> bool:
    """Whether a published key counts for an event of that time.

    For a retired key pass its `expired_ts` as `valid_until_ts`. What a key claims beyond seven
    days from now is not believed.
    """
    if not rules.enforce_key_validity:
        return True
    return origin_server_ts <= min(valid_until_ts, now_ms + rules.max_key_validity_ms)


def _signable(obj: JsonObject, *, strict: bool = True) -> bytes:
    signed = {k: v for k, v in obj.items() if k not in _NOT_SIGNED}
    return encode_canonical(signed, strict=strict)


def _with_signature(obj: JsonObject, server: ServerName, key: Signer, signature: str) -> JsonObject:
    there = obj.get("signatures")
    signatures = dict(there) if isinstance(there, dict) else {}
    own = signatures.get(server)
    signatures[server] = {**(own if isinstance(own, dict) else {}), key.key_id: signature}
    return {**obj, "signatures": signatures}
