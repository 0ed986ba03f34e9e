"""Keys together with the signatures that were put on them afterwards. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.engine.canonical import JsonObject
from bridge.ids import DeviceId
from bridge.people.checks import public_key
from bridge.storage.device_keys import SignatureRow


def signed_keys(
    keys: JsonObject, device_id: DeviceId | None, signatures: Sequence[SignatureRow]
) -> JsonObject:
    """`device_id` None: a cross-signing key, which signatures name by its public key."""
    target = public_key(keys) if device_id is None else device_id
    ours = [
        one
        for one in signatures
        if one.target_user == keys.get("user_id") and one.target_key == target
    ]
    if not ours:
        return keys
    merged = {user: dict(of_user) for user, of_user in keys.get("signatures", {}).items()}
    for one in ours:
        merged.setdefault(one.signer, {})[one.signing_key] = one.signature
    return {**keys, "signatures": merged}
