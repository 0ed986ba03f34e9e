"""Keys for end-to-end encryption: one-time, fallback, cross-signing; opaque to us.

A one-time key is given out once: whoever claims it locks its row, and others pass over it. A key
that was given out keeps its row for a while, so that the same upload again does not bring it back.
Spec: S2S, end-to-end encryption; client-server API, one-time and fallback keys, cross-signing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select, update

from bridge.ids import DeviceId, UserId
from bridge.storage.database import Transaction
from bridge.storage.schema import cross_signing_keys, fallback_keys, key_signatures, one_time_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """`json`: a text or an object, as uploaded."""

    algorithm: str
    key_id: str
    json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureRow:
    """`target_key`: a device ID, or the public key of a cross-signing key."""

    target_user: UserId
    target_key: str
    signer: UserId
    signing_key: str
    signature: str


# --- one-time keys ---------------------------------------------------------------------------


def stored_one_time_keys(
    tx: Transaction, user_id: UserId, device_id: DeviceId, key_ids: Collection[str]
) -> dict[tuple[str, str], str]:
    """Those of these IDs that were uploaded before, given out or not: the JSON of each."""
    rows = tx.execute(
        select(one_time_keys).where(
            one_time_keys.c.user_id == user_id,
            one_time_keys.c.device_id == device_id,
            one_time_keys.c.key_id.in_(sorted(key_ids)),
        )
    )
    return {(row.algorithm, row.key_id): row.json for row in rows}


def add_one_time_keys(
    tx: Transaction, user_id: UserId, device_id: DeviceId, keys: Sequence[KeyRow]
) -> None:
    if keys:
        tx.execute(
            insert(one_time_keys),
            [
                {
                    "user_id": user_id,
                    "device_id": device_id,
                    "algorithm": one.algorithm,
                    "key_id": one.key_id,
                    "json": one.json,
                    "claimed_ms": None,
                }
                for one in keys
            ],
        )


def claim(
    tx: Transaction, user_id: UserId, device_id: DeviceId, algorithm: str, now_ms: int
) -> KeyRow | None:
    """The key that was uploaded first, for nobody else any more; else the fallback key, if any."""
    wanted = (
        select(one_time_keys)
        .where(
            one_time_keys.c.user_id == user_id,
            one_time_keys.c.device_id == device_id,
            one_time_keys.c.algorithm == algorithm,
            one_time_keys.c.claimed_ms.is_(None),
        )
        .order_by(one_time_keys.c.key_number)
        .limit(1)
    )
    row = tx.execute(tx.dialect.lock_rows(wanted, skip_locked=True)).one_or_none()
    if row is not None:
        tx.execute(
            update(one_time_keys)
            .where(one_time_keys.c.key_number == row.key_number)
            .values(claimed_ms=now_ms)
        )
        return KeyRow(algorithm=row.algorithm, key_id=row.key_id, json=row.json)
    of_device = (
        fallback_keys.c.user_id == user_id,
        fallback_keys.c.device_id == device_id,
        fallback_keys.c.algorithm == algorithm,
    )
    found = tx.execute(select(fallback_keys).where(*of_device)).one_or_none()
    if found is None:
        return None
    if not found.used:
        tx.execute(update(fallback_keys).where(*of_device).values(used=True))
    return KeyRow(algorithm=found.algorithm, key_id=found.key_id, json=found.json)


def one_time_key_counts(tx: Transaction, user_id: UserId, device_id: DeviceId) -> dict[str, int]:
    """By algorithm, those that nobody has been given."""
    rows = tx.execute(
        select(one_time_keys.c.algorithm, func.count().label("keys"))
        .where(
            one_time_keys.c.user_id == user_id,
            one_time_keys.c.device_id == device_id,
            one_time_keys.c.claimed_ms.is_(None),
        )
        .group_by(one_time_keys.c.algorithm)
    )
    return {row.algorithm: row._mapping["keys"] for row in rows}


def prune_claimed(tx: Transaction, *, before_ms: int, limit: int) -> int:
    """Forget keys given out before; how many."""
    old = select(one_time_keys.c.key_number).where(one_time_keys.c.claimed_ms < before_ms)
    return tx.execute(
        delete(one_time_keys).where(one_time_keys.c.key_number.in_(old.limit(limit)))
    ).rowcount


# --- fallback keys ---------------------------------------------------------------------------


def put_fallback_key(tx: Transaction, user_id: UserId, device_id: DeviceId, key: KeyRow) -> None:
    """Takes the place of the one before. The same key again stays used."""
    stored = tx.execute(
        select(fallback_keys.c.key_id, fallback_keys.c.json).where(
            fallback_keys.c.user_id == user_id,
            fallback_keys.c.device_id == device_id,
            fallback_keys.c.algorithm == key.algorithm,
        )
    ).one_or_none()
    if stored is not None and (stored.key_id, stored.json) == (key.key_id, key.json):
        return
    tx.execute(
        tx.dialect.upsert(fallback_keys, ("user_id", "device_id", "algorithm")).values(
            user_id=user_id,
            device_id=device_id,
            algorithm=key.algorithm,
            key_id=key.key_id,
            json=key.json,
            used=False,
        )
    )


def unused_fallback_algorithms(tx: Transaction, user_id: UserId, device_id: DeviceId) -> list[str]:
    rows = tx.execute(
        select(fallback_keys.c.algorithm)
        .where(
            fallback_keys.c.user_id == user_id,
            fallback_keys.c.device_id == device_id,
            fallback_keys.c.used.is_(False),
        )
        .order_by(fallback_keys.c.algorithm)
    )
    return [row.algorithm for row in rows]


# --- cross-signing keys ----------------------------------------------------------------------


def put_cross_signing_key(tx: Transaction, user_id: UserId, usage: str, json: str) -> bool:
    """False: it is the one that was there."""
    stored = tx.execute(
        select(cross_signing_keys.c.json).where(
            cross_signing_keys.c.user_id == user_id, cross_signing_keys.c.usage == usage
        )
    ).scalar()
    if stored == json:
        return False
    tx.execute(
        tx.dialect.upsert(cross_signing_keys, ("user_id", "usage")).values(
            user_id=user_id, usage=usage, json=json
        )
    )
    return True


def remove_cross_signing_keys(tx: Transaction, user_id: UserId, usages: Collection[str]) -> None:
    tx.execute(
        delete(cross_signing_keys).where(
            cross_signing_keys.c.user_id == user_id,
            cross_signing_keys.c.usage.in_(sorted(usages)),
        )
    )


def cross_signing_of(
    tx: Transaction, user_ids: Collection[UserId]
) -> Mapping[UserId, Mapping[str, str]]:
    """By user and usage, the JSON of each key."""
    rows = tx.execute(
        select(cross_signing_keys).where(cross_signing_keys.c.user_id.in_(sorted(user_ids)))
    )
    found: dict[UserId, dict[str, str]] = {}
    for row in rows:
        found.setdefault(UserId(row.user_id), {})[row.usage] = row.json
    return found


# --- signatures ------------------------------------------------------------------------------


def put_signature(tx: Transaction, row: SignatureRow) -> None:
    tx.execute(
        tx.dialect.upsert(
            key_signatures, ("target_user", "target_key", "signer", "signing_key")
        ).values(
            target_user=row.target_user,
            target_key=row.target_key,
            signer=row.signer,
            signing_key=row.signing_key,
            signature=row.signature,
        )
    )


def signatures_of(
    tx: Transaction, targets: Collection[UserId], viewer: UserId | None
) -> list[SignatureRow]:
    """What users put on their own keys; with a `viewer` also what that user put on others'."""
    allowed = key_signatures.c.signer == key_signatures.c.target_user
    if viewer is not None:
        allowed = allowed | (key_signatures.c.signer == viewer)
    rows = tx.execute(
        select(key_signatures).where(key_signatures.c.target_user.in_(sorted(targets)), allowed)
    )
    return [
        SignatureRow(
            target_user=UserId(row.target_user),
            target_key=row.target_key,
            signer=UserId(row.signer),
            signing_key=row.signing_key,
            signature=row.signature,
        )
        for row in rows
    ]


def remove_signatures_on(tx: Transaction, user_id: UserId, target_key: str) -> None:
    """The key is gone, or is another now."""
    tx.execute(
        delete(key_signatures).where(
            key_signatures.c.target_user == user_id, key_signatures.c.target_key == target_key
        )
    )
