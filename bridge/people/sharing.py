"""Who is told what of our users' device lists. Plain functions of a transaction.

Every server that shares a room with a user follows the user's list and is told of each change, as a
row beside the change itself. An update names the one that the server was told before it. A server
that does not follow the list yet is given one update that names a predecessor which it cannot know:
by that it learns that it lacks the list, and asks for it. A server that shares no room any more is
told nothing and follows no more, so that the same happens when it comes back.
Spec: S2S, device management, m.device_list_update, m.signing_key_update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bridge.engine.canonical import JsonObject, encode_canonical
from bridge.ids import DeviceId, ServerName, UserId, server_of
from bridge.people.checks import from_text
from bridge.people.signed import signed_keys
from bridge.storage import device_keys, devices, edus
from bridge.storage.database import Transaction
from bridge.storage.devices import DeviceRow
from bridge.telemetry.log import get_logger
from bridge.telemetry.metrics import EDUS_NOT_STORED

log = get_logger("people")

DEVICE_LIST = "m.device_list_update"
SIGNING_KEY = "m.signing_key_update"
TO_DEVICE = "m.direct_to_device"
NO_STREAM = 0
"""No list ever has this version: whoever is told of it as a predecessor lacks it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Servers that something waits for now, and those for which too much waits already."""

    waiting: frozenset[ServerName] = frozenset()
    refused: frozenset[ServerName] = frozenset()

    def __or__(self, other: Told) -> Told:
        return Told(waiting=self.waiting | other.waiting, refused=self.refused | other.refused)

    def settle(self, wake: Callable[[ServerName], None], edu_type: str) -> None:
        """After the commit."""
        for server in sorted(self.waiting):
            wake(server)
        for server in sorted(self.refused):
            EDUS_NOT_STORED.labels(edu_type=edu_type).inc()
            log.warning("edu not stored: too many wait", peer=server, edu_type=edu_type)


def announce(
    tx: Transaction, user_id: UserId, changed: Mapping[DeviceId, DeviceRow | None], now_ms: int
) -> Told:
    """Write what changed of the user's list, and tell it. None: the device is gone."""
    devices.lock(tx, user_id)
    told = devices.shares(tx, user_id)
    followers = _followers(tx, user_id)
    following = {server: stream for server, stream in told.items() if server in followers}
    result = Told()
    for device_id, row in changed.items():
        stream = devices.next_stream(tx, user_id)
        if row is None:
            devices.remove(tx, user_id, device_id)
        else:
            devices.put(tx, replace(row, stream_id=stream), now_ms)
        content = _content(tx, user_id, device_id, row, stream)
        one = _put_updates(tx, user_id, content, following, now_ms)
        result |= one
        # Who misses an update follows again when it has worked off what waits.
        devices.end_shares(tx, user_id, one.refused)
        following = dict.fromkeys(one.waiting, stream)
    devices.note_change(tx, user_id)
    return result | reconcile(tx, user_id, now_ms)


def reconcile(tx: Transaction, user_id: UserId, now_ms: int) -> Told:
    """Who shares a room with the user follows the list, and nobody else."""
    stream = devices.lock(tx, user_id)
    servers = _followers(tx, user_id)
    told = devices.shares(tx, user_id)
    devices.end_shares(tx, user_id, told.keys() - servers)
    missing = servers - told.keys()
    rows = devices.of_user(tx, user_id) if missing else []
    if not rows:
        return Told()
    content = _content(tx, user_id, rows[-1].device_id, rows[-1], stream)
    return _put_updates(tx, user_id, content, dict.fromkeys(missing, NO_STREAM), now_ms)


def announce_signing_keys(
    tx: Transaction, user_id: UserId, keys: Mapping[str, JsonObject], *, edu_id: str, now_ms: int
) -> Told:
    """`keys`: `master_key` and `self_signing_key`, as far as they changed."""
    devices.lock(tx, user_id)
    text = encode_canonical({"user_id": user_id, **keys}).decode()
    result = put_edus(tx, dict.fromkeys(_followers(tx, user_id), text), SIGNING_KEY, edu_id, now_ms)
    # Who misses this is not told by any later update: let them fetch the list.
    devices.end_shares(tx, user_id, result.refused)
    devices.note_change(tx, user_id)
    return result


def put_edus(
    tx: Transaction,
    contents: Mapping[ServerName, str],
    edu_type: str,
    edu_id: str,
    now_ms: int,
) -> Told:
    """`contents`: canonical JSON."""
    full = edus.put_all(tx, contents, edu_type=edu_type, edu_id=edu_id, now_ms=now_ms)
    return Told(waiting=frozenset(contents.keys() - full), refused=full)


def _put_updates(
    tx: Transaction,
    user_id: UserId,
    content: JsonObject,
    before: Mapping[ServerName, int],
    now_ms: int,
) -> Told:
    """To servers, each with what it was told last; notes that they were told this."""
    texts = {
        stream: encode_canonical({**content, "prev_id": [stream]}).decode()
        for stream in set(before.values())
    }
    told = put_edus(
        tx,
        {server: texts[stream] for server, stream in before.items()},
        DEVICE_LIST,
        f"{user_id} {content['stream_id']}",
        now_ms,
    )
    devices.set_shares(tx, user_id, told.waiting, content["stream_id"])
    return told


def _content(
    tx: Transaction, user_id: UserId, device_id: DeviceId, row: DeviceRow | None, stream: int
) -> JsonObject:
    """Of one m.device_list_update, all but `prev_id`. Row None: the device is gone."""
    content: JsonObject = {"user_id": user_id, "device_id": device_id, "stream_id": stream}
    if row is None:
        return {**content, "deleted": True}
    if row.display_name is not None:
        content["device_display_name"] = row.display_name
    if row.keys is not None:
        signatures = device_keys.signatures_of(tx, [user_id], None)
        content["keys"] = signed_keys(from_text(row.keys), device_id, signatures)
    return content


def _followers(tx: Transaction, user_id: UserId) -> frozenset[ServerName]:
    return devices.servers_with(tx, user_id) - {server_of(user_id)}
