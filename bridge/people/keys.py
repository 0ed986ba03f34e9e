"""Keys for end-to-end encryption: uploaded, asked for, claimed. Opaque to us.

For users of other servers their server is asked; of a device list that we follow and that is not
stale, what is stored is as good. Spec: S2S, end-to-end encryption; client-server API, key
management.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence

from bridge.clock import Clock
from bridge.engine.canonical import JsonObject
from bridge.errors import BadInput, NotFound
from bridge.ids import DeviceId, ServerName, UserId, parse_device_id, parse_user_id, server_of
from bridge.people.checks import (
    MASTER,
    SELF_SIGNING,
    USER_SIGNING,
    check_cross_signing_key,
    check_device_keys,
    from_text,
    public_key,
    to_text,
)
from bridge.people.network import PeoplePeers
from bridge.people.sharing import DEVICE_LIST, SIGNING_KEY, Told, announce, announce_signing_keys
from bridge.people.signed import signed_keys
from bridge.storage import device_keys, device_lists, devices
from bridge.storage.database import Database, Transaction
from bridge.storage.device_keys import KeyRow, SignatureRow
from bridge.storage.devices import DeviceRow

MAX_USERS = 1_000
MAX_DEVICES = 1_000
"""Named in one request."""
MAX_ONE_TIME_KEYS = 1_000
"""In one upload."""
MAX_ONE_TIME_KEYS_KEPT = 10_000
"""Of one device, those that nobody has been given."""
MAX_ONE_TIME_KEY_BYTES = 4 << 10
ANSWERS = ((MASTER, "master_keys"), (SELF_SIGNING, "self_signing_keys"))


class Keys:
    def __init__(
        self,
        *,
        own_name: ServerName,
        database: Database,
        peers: PeoplePeers,
        clock: Clock,
        wake: Callable[[ServerName], None],
        random_text: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._own_name = own_name
        self._database = database
        self._peers = peers
        self._clock = clock
        self._wake = wake
        self._random_text = random_text

    # --- uploads ------------------------------------------------------------------------------

    async def put_device_keys(self, user_id: UserId, device_id: DeviceId, keys: JsonObject) -> None:
        """`NotFound` unless the device exists; `BadInput` for keys of another."""
        text = to_text(check_device_keys(keys, user_id, device_id))
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> Told:
            devices.lock(tx, user_id)
            there = _get_device(tx, user_id, device_id)
            if there.keys == text:
                return Told()
            device_keys.remove_signatures_on(tx, user_id, device_id)
            row = DeviceRow(
                user_id=user_id,
                device_id=device_id,
                display_name=there.display_name,
                keys=text,
                stream_id=0,
            )
            return announce(tx, user_id, {device_id: row}, now_ms)

        told = await self._database.write(unit)
        told.settle(self._wake, DEVICE_LIST)

    async def add_one_time_keys(
        self, user_id: UserId, device_id: DeviceId, keys: Mapping[str, object]
    ) -> None:
        """By `algorithm:key_id`. The same key again changes nothing; another under its ID is
        `BadInput`, and nothing of the upload is stored."""
        wanted = _key_rows(keys)

        def unit(tx: Transaction) -> None:
            devices.lock(tx, user_id)
            _get_device(tx, user_id, device_id)
            there = device_keys.stored_one_time_keys(
                tx, user_id, device_id, [one.key_id for one in wanted]
            )
            fresh = []
            for one in wanted:
                stored = there.get((one.algorithm, one.key_id))
                if stored is None:
                    fresh.append(one)
                elif stored != one.json:
                    raise BadInput(
                        f"one-time key {one.algorithm}:{one.key_id} exists and is another",
                        errcode="M_INVALID_PARAM",
                    )
            kept = sum(device_keys.one_time_key_counts(tx, user_id, device_id).values())
            if kept + len(fresh) > MAX_ONE_TIME_KEYS_KEPT:
                raise BadInput("too many one-time keys", errcode="M_TOO_LARGE")
            device_keys.add_one_time_keys(tx, user_id, device_id, fresh)

        await self._database.write(unit)

    async def put_fallback_keys(
        self, user_id: UserId, device_id: DeviceId, keys: Mapping[str, object]
    ) -> None:
        """By `algorithm:key_id`; one for each algorithm, in place of the one before."""
        wanted = _key_rows(keys)

        def unit(tx: Transaction) -> None:
            devices.lock(tx, user_id)
            _get_device(tx, user_id, device_id)
            for one in wanted:
                device_keys.put_fallback_key(tx, user_id, device_id, one)

        await self._database.write(unit)

    async def counts(
        self, user_id: UserId, device_id: DeviceId
    ) -> tuple[dict[str, int], Sequence[str]]:
        """One-time keys left by algorithm, and the algorithms whose fallback key is unused."""
        return await self._database.read(
            lambda tx: (
                device_keys.one_time_key_counts(tx, user_id, device_id),
                device_keys.unused_fallback_algorithms(tx, user_id, device_id),
            )
        )

    async def put_cross_signing(
        self,
        user_id: UserId,
        *,
        master: JsonObject | None = None,
        self_signing: JsonObject | None = None,
        user_signing: JsonObject | None = None,
    ) -> None:
        """Those that are given. Other servers are told of the first two."""
        given = {MASTER: master, SELF_SIGNING: self_signing, USER_SIGNING: user_signing}
        texts = {
            usage: to_text(check_cross_signing_key(key, user_id, usage))
            for usage, key in given.items()
            if key is not None
        }
        now_ms, edu_id = self._clock.now_ms(), self._random_text()

        def unit(tx: Transaction) -> Told:
            devices.lock(tx, user_id)
            changed = {
                usage: from_text(text)
                for usage, text in texts.items()
                if device_keys.put_cross_signing_key(tx, user_id, usage, text)
            }
            if not changed:
                return Told()
            public = {
                name: changed[usage]
                for usage, name in ((MASTER, "master_key"), (SELF_SIGNING, "self_signing_key"))
                if usage in changed
            }
            if not public:
                devices.note_change(tx, user_id)
                return Told()
            return announce_signing_keys(tx, user_id, public, edu_id=edu_id, now_ms=now_ms)

        told = await self._database.write(unit)
        told.settle(self._wake, SIGNING_KEY)

    async def put_signatures(self, signer: UserId, signatures: Sequence[SignatureRow]) -> None:
        """On keys of the signer, which everybody sees, or of others, which the signer alone sees.

        Whether they are right is for those who read them to find out.
        """
        if any(one.signer != signer for one in signatures):
            raise BadInput("a signature of somebody else", errcode="M_INVALID_PARAM")
        now_ms, edu_id = self._clock.now_ms(), self._random_text()

        def unit(tx: Transaction) -> tuple[Told, Told]:
            devices.lock(tx, signer)
            for one in signatures:
                device_keys.put_signature(tx, one)
            own = {one.target_key for one in signatures if one.target_user == signer}
            rows = {
                one.device_id: one
                for one in devices.of_user(tx, signer)
                if one.device_id in own and one.keys is not None
            }
            told = announce(tx, signer, dict(rows), now_ms) if rows else Told()
            master = device_keys.cross_signing_of(tx, [signer]).get(signer, {}).get(MASTER)
            if master is not None and public_key(from_text(master)) in own:
                merged = signed_keys(
                    from_text(master), None, device_keys.signatures_of(tx, [signer], None)
                )
                signing = announce_signing_keys(
                    tx, signer, {"master_key": merged}, edu_id=edu_id, now_ms=now_ms
                )
                return told, signing
            if not rows:
                devices.note_change(tx, signer)
            return told, Told()

        told, signing = await self._database.write(unit)
        told.settle(self._wake, DEVICE_LIST)
        signing.settle(self._wake, SIGNING_KEY)

    # --- asked by other servers -----------------------------------------------------------------

    async def answer_query(self, wanted: object, viewer: UserId | None = None) -> JsonObject:
        """For POST /user/keys/query. Only users of our server are answered; nobody learns from it
        whether one of them exists."""
        users = {
            user_id: _device_ids(device_ids)
            for user_id, device_ids in _by_user(wanted, "device_keys").items()
            if server_of(user_id) == self._own_name
        }
        return await self._database.read(lambda tx: _local_answer(tx, users, viewer))

    async def answer_claim(self, wanted: object) -> JsonObject:
        """For POST /user/keys/claim. What cannot be found is missing from the answer."""
        devices_of = {
            user_id: _algorithms(by_device)
            for user_id, by_device in _by_user(wanted, "one_time_keys").items()
            if server_of(user_id) == self._own_name
        }
        if sum(map(len, devices_of.values())) > MAX_DEVICES:
            raise BadInput(f"more than {MAX_DEVICES} devices", errcode="M_INVALID_PARAM")
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> JsonObject:
            found: dict[str, dict[str, JsonObject]] = {}
            # In one order for all, so that two requests never wait for each other.
            for user_id, by_device in sorted(devices_of.items()):
                for device_id, algorithm in sorted(by_device.items()):
                    key = device_keys.claim(tx, user_id, device_id, algorithm, now_ms)
                    if key is not None:
                        named = {f"{key.algorithm}:{key.key_id}": from_text(key.json)}
                        found.setdefault(user_id, {})[device_id] = named
            return {"one_time_keys": found}

        return await self._database.write(unit)

    # --- asked by our users -----------------------------------------------------------------------

    async def query(
        self, viewer: UserId, peer: ServerName, wanted: Mapping[UserId, Sequence[DeviceId]]
    ) -> JsonObject:
        """Keys of users of one server, ours or another. Errors as of a request."""
        if peer == self._own_name:
            return await self.answer_query(
                {user: list(ids) for user, ids in wanted.items()}, viewer
            )
        theirs = {user: ids for user, ids in wanted.items() if server_of(user) == peer}

        def unit(tx: Transaction) -> tuple[JsonObject, set[UserId], list[UserId]]:
            lists = {user: device_lists.find(tx, user) for user in theirs}
            known = {user for user, one in lists.items() if one is not None and not one.stale}
            # The client will rely on being told of what changes.
            new = [user for user, one in lists.items() if one is None]
            new = [user for user in new if devices.is_with_us(tx, user)]
            return _remote_answer(tx, {one: theirs[one] for one in known}, viewer), known, new

        answer, known, new = await self._database.read(unit)
        if new:
            await self._database.write(lambda tx: device_lists.follow(tx, sorted(new)))
        rest = {user: list(ids) for user, ids in theirs.items() if user not in known}
        if rest:
            told = _checked_answer(await self._peers.query_user_keys(peer, rest), rest)
            signatures = await self._database.read(
                lambda tx: device_keys.signatures_of(tx, rest, viewer)
            )
            for name, by_user in _signed_answer(told, signatures).items():
                answer.setdefault(name, {}).update(by_user)
        return answer

    async def claim(
        self, peer: ServerName, wanted: Mapping[UserId, Mapping[DeviceId, str]]
    ) -> JsonObject:
        """One-time keys of devices of one server's users, ours or another's."""
        if peer == self._own_name:
            return await self.answer_claim({user: dict(ids) for user, ids in wanted.items()})
        answer = await self._peers.claim_user_keys(
            peer,
            {
                user: {str(device_id): algorithm for device_id, algorithm in by_device.items()}
                for user, by_device in wanted.items()
            },
        )
        found: dict[str, dict[str, object]] = {}
        for user, by_device in _object(answer.get("one_time_keys")).items():
            for device_id, keys in _object(by_device).items():
                if device_id in wanted.get(UserId(user), {}) and isinstance(keys, dict):
                    found.setdefault(user, {})[device_id] = keys
        return {"one_time_keys": found}


def _get_device(tx: Transaction, user_id: UserId, device_id: DeviceId) -> DeviceRow:
    found = devices.find(tx, user_id, device_id)
    if found is None:
        raise NotFound("no such device")
    return found


def _key_rows(keys: Mapping[str, object]) -> list[KeyRow]:
    if len(keys) > MAX_ONE_TIME_KEYS:
        raise BadInput(f"more than {MAX_ONE_TIME_KEYS} keys", errcode="M_TOO_LARGE")
    rows = []
    for name, key in keys.items():
        algorithm, colon, key_id = name.partition(":")
        if not (algorithm and colon and key_id) or len(name) > 255 or "\0" in name:
            raise BadInput("a key is named by algorithm and ID", errcode="M_INVALID_PARAM")
        if not isinstance(key, str | dict):
            raise BadInput("a key is a text or an object")
        text = to_text(key, max_bytes=MAX_ONE_TIME_KEY_BYTES)
        rows.append(KeyRow(algorithm=algorithm, key_id=key_id, json=text))
    return rows


def _by_user(wanted: object, name: str) -> dict[UserId, object]:
    if not isinstance(wanted, dict):
        raise BadInput(f"{name} is missing or no object", errcode="M_BAD_JSON")
    if len(wanted) > MAX_USERS:
        raise BadInput(f"more than {MAX_USERS} users", errcode="M_INVALID_PARAM")
    return {parse_user_id(user): value for user, value in wanted.items()}


def _device_ids(value: object) -> frozenset[str]:
    """Empty: all of them."""
    if value is None:
        return frozenset()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise BadInput("devices are a list of IDs")
    if len(value) > MAX_DEVICES:
        raise BadInput(f"more than {MAX_DEVICES} devices", errcode="M_INVALID_PARAM")
    return frozenset(value)


def _algorithms(value: object) -> dict[DeviceId, str]:
    if not isinstance(value, dict):
        raise BadInput("devices and algorithms are an object")
    found: dict[DeviceId, str] = {}
    for device_id, algorithm in value.items():
        if not isinstance(algorithm, str) or len(algorithm) > 255 or "\0" in algorithm:
            raise BadInput("an algorithm is a short text")
        found[parse_device_id(device_id)] = algorithm
    return found


def _local_answer(
    tx: Transaction, wanted: Mapping[UserId, Collection[str]], viewer: UserId | None
) -> JsonObject:
    found = devices.of_users(tx, wanted)
    signatures = device_keys.signatures_of(tx, wanted, viewer)
    by_user: dict[str, JsonObject] = {user: {} for user in wanted}
    for user_id, rows in found.items():
        for row in rows:
            if row.keys is None or (wanted[user_id] and row.device_id not in wanted[user_id]):
                continue
            keys = signed_keys(from_text(row.keys), row.device_id, signatures)
            by_user[user_id][row.device_id] = _with_name(keys, row.display_name)
    return {"device_keys": by_user, **_signing_answer(tx, wanted, signatures, viewer)}


def _remote_answer(
    tx: Transaction, wanted: Mapping[UserId, Collection[str]], viewer: UserId | None
) -> JsonObject:
    signatures = device_keys.signatures_of(tx, wanted, viewer)
    by_user: dict[str, JsonObject] = {}
    for user_id, device_ids in wanted.items():
        by_user[user_id] = {
            one.device_id: _with_name(
                signed_keys(from_text(one.keys), one.device_id, signatures), one.display_name
            )
            for one in device_lists.devices_of(tx, user_id)
            if one.keys is not None and (not device_ids or one.device_id in device_ids)
        }
    return {"device_keys": by_user, **_signing_answer(tx, wanted, signatures, viewer)}


def _with_name(keys: JsonObject, name: str | None) -> JsonObject:
    return {**keys, "unsigned": {} if name is None else {"device_display_name": name}}


def _signing_answer(
    tx: Transaction,
    users: Collection[UserId],
    signatures: Sequence[SignatureRow],
    viewer: UserId | None,
) -> JsonObject:
    """By usage and user; the user-signing key is for its owner alone."""
    stored = device_keys.cross_signing_of(tx, users)
    answer: JsonObject = {
        name: {
            user: signed_keys(from_text(keys[usage]), None, signatures)
            for user, keys in stored.items()
            if usage in keys
        }
        for usage, name in ANSWERS
    }
    if viewer is not None and USER_SIGNING in stored.get(viewer, {}):
        answer["user_signing_keys"] = {viewer: from_text(stored[viewer][USER_SIGNING])}
    return answer


def _checked_answer(
    answer: JsonObject, wanted: Mapping[UserId, Sequence[str]]
) -> dict[str, dict[str, JsonObject]]:
    """What another server said of its users, without what it was not asked or cannot be."""
    found: dict[str, dict[str, JsonObject]] = {"device_keys": {}}
    for user_id, device_ids in wanted.items():
        by_device = _object(_object(answer.get("device_keys")).get(user_id, {}))
        good: JsonObject = {}
        for device_id, keys in by_device.items():
            if device_ids and device_id not in device_ids:
                continue
            try:
                good[device_id] = check_device_keys(keys, user_id, parse_device_id(device_id))
            except BadInput:
                continue
        found["device_keys"][user_id] = good
        for usage, name in ANSWERS:
            key = _object(answer.get(name) or {}).get(user_id)
            try:
                checked = check_cross_signing_key(key, user_id, usage)
            except BadInput:
                continue
            found.setdefault(name, {})[user_id] = checked
    return found


def _signed_answer(
    told: Mapping[str, Mapping[str, JsonObject]], signatures: Sequence[SignatureRow]
) -> dict[str, dict[str, JsonObject]]:
    """With what the viewer put on these keys, which their own server does not know."""
    signed = {
        name: {user: signed_keys(key, None, signatures) for user, key in by_user.items()}
        for name, by_user in told.items()
        if name != "device_keys"
    }
    signed["device_keys"] = {
        user: {
            device_id: signed_keys(keys, DeviceId(device_id), signatures)
            for device_id, keys in by_device.items()
        }
        for user, by_device in told["device_keys"].items()
    }
    return signed


def _object(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise BadInput("the answer is not the object it should be")
    return value
