"""Leases: a lane or a connection belongs to one process at a time.

A lease has an owner, an epoch that grows with each new owner, and an expiry. Every commit of the
work that it guards calls `check` in the same transaction, which keeps the row locked against a
take-over until the commit. Times are the caller's clock: the processes' clocks must agree to
within a fraction of the lease's length.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, select, update

from bridge.errors import Conflict
from bridge.storage.database import Transaction
from bridge.storage.schema import leases


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What the owner keeps and shows again."""

    name: str
    owner: str
    epoch: int


def acquire(tx: Transaction, name: str, owner: str, *, now_ms: int, ttl_ms: int) -> Lease | None:
    """None while another owner's lease runs. The same owner gets a new epoch, too: whatever it
    began under the old one is over."""
    tx.execute(
        tx.dialect.insert_ignore(leases).values(name=name, owner=owner, epoch=0, expires_ms=0)
    )
    row = tx.execute(tx.dialect.lock_rows(select(leases).where(leases.c.name == name))).one()
    if row.expires_ms > now_ms and row.owner != owner:
        return None
    tx.execute(
        update(leases)
        .where(leases.c.name == name)
        .values(owner=owner, epoch=row.epoch + 1, expires_ms=now_ms + ttl_ms)
    )
    return Lease(name=name, owner=owner, epoch=row.epoch + 1)


def renew(tx: Transaction, lease: Lease, *, now_ms: int, ttl_ms: int) -> None:
    """Raises Conflict when somebody else has taken over; an expired lease that nobody took is
    renewed."""
    changed = tx.execute(update(leases).where(*_is(lease)).values(expires_ms=now_ms + ttl_ms))
    if changed.rowcount == 0:
        raise Conflict(f"the lease {lease.name} was lost")


def check(tx: Transaction, lease: Lease, *, now_ms: int) -> None:
    """Raises Conflict unless the lease is still ours and runs."""
    row = tx.execute(tx.dialect.lock_rows(select(leases.c.expires_ms).where(*_is(lease)))).first()
    if row is None or row.expires_ms <= now_ms:
        raise Conflict(f"the lease {lease.name} was lost")


def release(tx: Transaction, lease: Lease) -> None:
    """Lets another take over at once; nothing happens when the lease was lost. The row stays,
    for its epoch."""
    tx.execute(update(leases).where(*_is(lease)).values(expires_ms=0))


def _is(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return (
        leases.c.name == lease.name,
        leases.c.owner == lease.owner,
        leases.c.epoch == lease.epoch,
    )
