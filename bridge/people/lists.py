"""Device lists of other servers' users: kept up to date by what their servers tell us.

A list is followed from when one of our users asked for its owner's keys, or from the first update
of a user who shares a room with one of ours who has a device: where only ghosts are, nobody needs
it. An update that names a predecessor that we do not know means that we missed
something: the list is stale then, and `resync` fetches it. While it is stale updates are not
applied: the fetched list has them, or, if it was made before they came, is fetched again.
Spec: S2S, m.device_list_update, m.signing_key_update.
"""

from __future__ import annotations

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject
from bridge.errors import BadInput, Refused
from bridge.ids import ServerName, UserId, parse_device_id, parse_user_id, server_of
from bridge.people.checks import (
    MASTER,
    SELF_SIGNING,
    check_cross_signing_key,
    check_device_keys,
    display_name,
    stream_id,
    to_text,
)
from bridge.storage import device_keys, device_lists, devices
from bridge.storage.database import Database, Transaction
from bridge.storage.device_lists import RemoteDevice, RemoteList

MAX_PREVIOUS = 100
HASTEN_MS = 10_000
"""A server that was away and speaks again is asked this much later."""
SIGNING_KEYS = (("master_key", MASTER), ("self_signing_key", SELF_SIGNING))


class DeviceListUpdates:
    """Fits `rooms.network.EduTaker` for m.device_list_update."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def take(self, origin: ServerName, content: JsonObject) -> None:
        user_id = owner(origin, content)
        device_id = parse_device_id(content.get("device_id"))
        stream = stream_id(content.get("stream_id"))
        previous = content.get("prev_id") or []
        if not isinstance(previous, list) or len(previous) > MAX_PREVIOUS:
            raise BadInput("prev_id is a list of stream IDs", errcode="M_INVALID_PARAM")
        previous = [stream_id(one) for one in previous]
        deleted = content.get("deleted") is True
        device = None if deleted else remote_device(user_id, content)
        now_ms = self._clock.now_ms()
        if not await self._database.read(lambda tx: _matters(tx, origin, user_id)):
            return

        def unit(tx: Transaction) -> None:
            device_lists.hasten(tx, origin, now_ms + HASTEN_MS)
            known = device_lists.lock(tx, user_id)
            if known is None:
                if devices.is_with_a_device(tx, user_id):
                    device_lists.follow(tx, [user_id])
                return
            if stream in known.seen:
                return
            if known.stale or not previous or not set(previous) <= set(known.seen):
                device_lists.mark_stale(tx, user_id)
                return
            if device is None:
                device_lists.remove_device(tx, user_id, device_id)
            elif not device_lists.put_device(tx, user_id, device):
                # As a list that is too long when it is fetched: it is not relied on.
                device_lists.mark_stale(tx, user_id)
                return
            device_lists.advance(tx, known, stream)
            devices.note_change(tx, user_id)

        await self._database.write(unit)


class SigningKeyUpdates:
    """Fits `rooms.network.EduTaker` for m.signing_key_update."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def take(self, origin: ServerName, content: JsonObject) -> None:
        user_id = owner(origin, content)
        keys = signing_keys(user_id, content)
        if not await self._database.read(lambda tx: _matters(tx, origin, user_id)):
            return

        def unit(tx: Transaction) -> None:
            known = device_lists.lock(tx, user_id)
            if known is None:
                if devices.is_with_a_device(tx, user_id):
                    device_lists.follow(tx, [user_id])
                return
            if known.stale:
                device_lists.mark_stale(tx, user_id)
            put_signing_keys(tx, known, keys)

        await self._database.write(unit)


def _matters(tx: Transaction, origin: ServerName, user_id: UserId) -> bool:
    """Most of what is told does not, where nobody here has a device: that costs no commit."""
    return (
        device_lists.find(tx, user_id) is not None
        or device_lists.has_failed(tx, origin)
        or devices.is_with_a_device(tx, user_id)
    )


def put_signing_keys(tx: Transaction, known: RemoteList, keys: dict[str, str]) -> bool:
    """By usage, the JSON. Whether anything is new; the list's lock is held."""
    new = [
        usage
        for usage, text in keys.items()
        if device_keys.put_cross_signing_key(tx, known.user_id, usage, text)
    ]
    if new:
        devices.note_change(tx, known.user_id)
    return bool(new)


def signing_keys(user_id: UserId, content: JsonObject) -> dict[str, str]:
    """By usage, the JSON of those that are there. `BadInput` for one that is not this user's."""
    return {
        usage: to_text(check_cross_signing_key(content[name], user_id, usage))
        for name, usage in SIGNING_KEYS
        if content.get(name) is not None
    }


def remote_device(user_id: UserId, content: JsonObject) -> RemoteDevice:
    """`BadInput` for keys that say they are of another."""
    device_id = parse_device_id(content.get("device_id"))
    keys = content.get("keys")
    is_bare = keys is None or keys == {}
    text = None if is_bare else to_text(check_device_keys(keys, user_id, device_id))
    return RemoteDevice(
        device_id=device_id,
        display_name=display_name(content.get("device_display_name")),
        keys=text,
    )


def owner(origin: ServerName, content: JsonObject) -> UserId:
    user_id = parse_user_id(content.get("user_id"))
    if server_of(user_id) != origin:
        raise Refused(f"{origin} may not speak for {user_id}", rule="edu_sender")
    return user_id
