"""What a server checks of keys that are opaque to it: whose they say they are, and their size.

Spec: client-server API, POST /keys/upload, POST /keys/device_signing/upload; S2S,
m.device_list_update, m.signing_key_update.
"""

from __future__ import annotations

from typing import Any

from bridge.engine.canonical import JsonObject, check_canonical, encode_canonical, parse_json
from bridge.errors import BadInput
from bridge.ids import DeviceId, UserId

MAX_KEYS_BYTES = 32 << 10
"""Of one device or one cross-signing key, signatures included."""
MAX_NAME_CHARACTERS = 255
MAX_STREAM_ID = 2**53 - 1
MASTER, SELF_SIGNING, USER_SIGNING = "master", "self_signing", "user_signing"


def to_text(value: object, *, max_bytes: int = MAX_KEYS_BYTES) -> str:
    """JSON to be stored: canonical and bounded."""
    check_canonical(value)
    encoded = encode_canonical(value)
    if len(encoded) > max_bytes:
        raise BadInput(f"over {max_bytes} bytes", errcode="M_TOO_LARGE")
    return encoded.decode()


def from_text(text: str) -> Any:
    """What was stored by `to_text`."""
    return parse_json(text.encode(), max_bytes=1 << 20)


def check_device_keys(keys: object, user_id: UserId, device_id: DeviceId) -> JsonObject:
    """Raises `BadInput` unless they say that they are this device's."""
    if not isinstance(keys, dict):
        raise BadInput("the keys of a device are an object")
    if keys.get("user_id") != user_id or keys.get("device_id") != device_id:
        raise BadInput("the keys name another user or device", errcode="M_INVALID_PARAM")
    if not isinstance(keys.get("keys"), dict) or not isinstance(keys.get("algorithms"), list):
        raise BadInput("keys of a device without keys or algorithms")
    _check_signatures(keys)
    return keys


def check_cross_signing_key(key: object, user_id: UserId, usage: str) -> JsonObject:
    """Raises `BadInput` unless it says that it is this user's, for this usage, and is one key."""
    if not isinstance(key, dict):
        raise BadInput("a cross-signing key is an object")
    if key.get("user_id") != user_id:
        raise BadInput("the key names another user", errcode="M_INVALID_PARAM")
    usages = key.get("usage")
    if not isinstance(usages, list) or usage not in usages:
        raise BadInput(f"the key is not for {usage}", errcode="M_INVALID_PARAM")
    public_key(key)
    _check_signatures(key)
    return key


def _check_signatures(value: JsonObject) -> None:
    signatures = value.get("signatures", {})
    if not isinstance(signatures, dict) or not all(
        isinstance(of_user, dict) for of_user in signatures.values()
    ):
        raise BadInput("signatures are by user and key")


def public_key(key: JsonObject) -> str:
    """The one key of a cross-signing key object, as signatures and devices name it."""
    keys = key.get("keys")
    if not isinstance(keys, dict) or len(keys) != 1:
        raise BadInput("a cross-signing key has exactly one key", errcode="M_INVALID_PARAM")
    [(name, value)] = keys.items()
    algorithm, colon, _ = str(name).partition(":")
    if not algorithm or not colon or not isinstance(value, str) or not value:
        raise BadInput("a cross-signing key has one named key", errcode="M_INVALID_PARAM")
    return value


def display_name(value: object) -> str | None:
    """As much of it as is shown; what is no text is no name."""
    if not isinstance(value, str):
        return None
    return value.replace("\0", "")[:MAX_NAME_CHARACTERS]


def stream_id(value: object) -> int:
    """An integer of canonical JSON; some servers write it as a text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 17:
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAX_STREAM_ID:
        raise BadInput("not a stream ID", errcode="M_INVALID_PARAM")
    return value
