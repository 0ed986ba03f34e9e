"""Our own keys: which one signs, which are published, and how they are replaced.

The rest of the house holds this object as its `Signer` and so always signs with the newest key. A
rotation has two steps, each of which replaces the key file whole and is durable before it counts:

1. the new key joins the file beside the others, and then signs;
2. the others are retired in the file as of then, and then in what we publish.

So whatever signs is in the file and published, no event of a retired key is later than its expiry,
and a crash between the steps leaves two keys in use, of which the next rotation retires both.
Spec: S2S, publishing keys.
"""

from __future__ import annotations

import asyncio
import os
import string
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Protocol

from bridge.clock import Clock
from bridge.engine.keybook import KeyBook, OldKey
from bridge.engine.keys import SigningKey
from bridge.errors import BadInput, Refused, Unavailable
from bridge.ids import KeyId
from bridge.telemetry.log import get_logger

VERSION_LETTERS = 6
_SEED_BYTES = 32

log = get_logger("keys")


class KeyKeeper(Protocol):
    """Where the keys survive a restart. Both methods block."""

    def read(self) -> KeyBook: ...

    def replace(self, book: KeyBook) -> None:
        """Durable, and whole or not at all, when it returns. Raises `OSError`."""
        ...


class KeyFile:
    """The key file. Raises `OSError`, `BadInput`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> KeyBook:
        try:
            return KeyBook.from_text(self._path.read_text(encoding="ascii"))
        except UnicodeDecodeError as exc:
            raise BadInput("it is no text") from exc

    def replace(self, book: KeyBook) -> None:
        # A link stays one: what it points at is replaced.
        path = self._path.resolve(strict=True)
        new = path.with_name(f"{path.name}.new")
        with suppress(FileNotFoundError):
            new.unlink()
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(book.to_text())
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except OSError:
            with suppress(OSError):
                new.unlink()
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class OwnKeys:
    """Fits `engine.keys.Signer`. Without a `keeper` the keys are as they are."""

    def __init__(
        self,
        book: KeyBook,
        *,
        keeper: KeyKeeper | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        """`random` makes private keys: the system's own generator, except in tests."""
        self._book = book
        self._keeper = keeper
        self._clock = clock
        self._random = random
        self._rotating = asyncio.Lock()

    @classmethod
    def of(cls, key: SigningKey) -> OwnKeys:
        """One key that stays."""
        return cls(KeyBook(current=(key,)))

    # --- what signs --------------------------------------------------------------------------

    @property
    def key_id(self) -> KeyId:
        return self._book.signing.key_id

    @property
    def verify_key_base64(self) -> str:
        return self._book.signing.verify_key_base64

    def sign(self, message: bytes) -> str:
        return self._book.signing.sign(message)

    # --- what is published -------------------------------------------------------------------

    @property
    def current(self) -> Sequence[SigningKey]:
        return self._book.current

    @property
    def old(self) -> Sequence[OldKey]:
        return self._book.old

    def find(self, key_id: KeyId, at_ms: int) -> str | None:
        """The verify key in Base64, if that key of ours counts for what was signed then."""
        return self._book.find(key_id, at_ms)

    # --- for the operator --------------------------------------------------------------------

    def in_use(self) -> Sequence[KeyId]:
        """The one that signs is the last."""
        return [key.key_id for key in self._book.current]

    def retired(self) -> Sequence[tuple[KeyId, int]]:
        """With the time until which each counts."""
        return [(key.key_id, key.expired_ms) for key in self._book.old]

    async def rotate(self) -> KeyId:
        """A new key signs from now on; its ID. Raises `Refused`, `Unavailable`."""
        if self._keeper is None or self._clock is None or self._random is None:
            raise Refused("the keys of this gateway are fixed", rule="keys.fixed")
        async with self._rotating:
            await self._check_unchanged(self._keeper)
            key = SigningKey.from_seed(
                self._new_version(self._random), self._random.randbytes(_SEED_BYTES)
            )
            await self._become(self._keeper, self._book.with_new(key))
            log.info("a new signing key is in use", key_id=key.key_id)
            at_ms = self._clock.now_ms()
            await self._become(self._keeper, self._book.with_others_retired(at_ms=at_ms))
            log.info("signing keys are rotated", key_id=key.key_id, expired_ms=at_ms)
            return key.key_id

    async def _check_unchanged(self, keeper: KeyKeeper) -> None:
        """Nothing that somebody else put into the file is overwritten."""
        try:
            there = await asyncio.to_thread(keeper.read)
        except (OSError, BadInput) as exc:
            raise Unavailable(f"the key file cannot be read: {exc}") from exc
        if there != self._book:
            raise Refused(
                "the key file has changed since the gateway started; restart it first",
                rule="keys.changed",
            )

    async def _become(self, keeper: KeyKeeper, book: KeyBook) -> None:
        try:
            await asyncio.to_thread(keeper.replace, book)
        except OSError as exc:
            raise Unavailable(f"the key file cannot be replaced: {exc.strerror}") from exc
        self._book = book

    def _new_version(self, random: Random) -> str:
        taken = self._book.key_ids()
        while True:
            version = "".join(random.choices(string.ascii_lowercase, k=VERSION_LETTERS))
            if f"ed25519:{version}" not in taken:
                return version
