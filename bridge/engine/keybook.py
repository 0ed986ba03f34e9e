"""All our signing keys and their text, the key file: those in use, and those that were retired.

One line each: `ed25519 VERSION SEED` is a key in use, the last of them signs; and
`old ed25519 VERSION VERIFY_KEY EXPIRED_TS` is a retired key, of which nobody needs the private half
any more. Empty lines and those that begin with `#` say nothing. A file with one key, as other
servers write it, is such a file. Spec: S2S, publishing keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.engine.keys import ALGORITHM, SigningKey, decode_base64
from bridge.errors import BadInput
from bridge.ids import KeyId

MAX_KEYS = 100
_OLD = "old"


@dataclass(frozen=True, slots=True, kw_only=True)
class OldKey:
    """Counts for events until `expired_ms`, and for nothing else."""

    key_id: KeyId
    verify_key_base64: str
    expired_ms: int

    @classmethod
    def from_text(cls, text: str) -> OldKey:
        parts = text.split()
        if len(parts) != 5 or parts[:2] != [_OLD, ALGORITHM] or not parts[4].isdecimal():
            raise BadInput("an old key's line reads: old ed25519 VERSION VERIFY_KEY EXPIRED_TS")
        if len(decode_base64(parts[3])) != 32:
            raise BadInput(f"the old key {parts[2]} is no ed25519 key")
        return cls(
            key_id=KeyId(f"{ALGORITHM}:{parts[2]}"),
            verify_key_base64=parts[3],
            expired_ms=int(parts[4]),
        )

    def to_text(self) -> str:
        version = self.key_id.partition(":")[2]
        return f"{_OLD} {ALGORITHM} {version} {self.verify_key_base64} {self.expired_ms}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBook:
    """`current` is never empty; its last key signs."""

    current: tuple[SigningKey, ...]
    old: tuple[OldKey, ...] = ()

    @classmethod
    def from_text(cls, text: str) -> KeyBook:
        """Raises `BadInput`, never showing a seed."""
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if len(lines) > MAX_KEYS:
            raise BadInput(f"more than {MAX_KEYS} keys")
        old = tuple(OldKey.from_text(line) for line in lines if line.split()[0] == _OLD)
        current = tuple(SigningKey.from_text(line) for line in lines if line.split()[0] != _OLD)
        if not current:
            raise BadInput("there is no key in it that signs")
        book = cls(current=current, old=old)
        if len(book.key_ids()) != len(lines):
            raise BadInput("two keys have the same version")
        return book

    def to_text(self) -> str:
        """What `from_text` reads. Secret."""
        lines = [*(key.to_text() for key in self.old), *(key.to_text() for key in self.current)]
        return "".join(f"{line}\n" for line in lines)

    @property
    def signing(self) -> SigningKey:
        return self.current[-1]

    def key_ids(self) -> frozenset[KeyId]:
        return frozenset((*(key.key_id for key in self.current), *(key.key_id for key in self.old)))

    def find(self, key_id: KeyId, at_ms: int) -> str | None:
        """The verify key in Base64, if that key of ours counts for what was signed then."""
        for key in self.current:
            if key.key_id == key_id:
                return key.verify_key_base64
        for old in self.old:
            if old.key_id == key_id and at_ms <= old.expired_ms:
                return old.verify_key_base64
        return None

    def with_new(self, key: SigningKey) -> KeyBook:
        """The key signs from now on; those before it are still in use."""
        if key.key_id in self.key_ids():
            raise BadInput(f"there is a key {key.key_id} already")
        return KeyBook(current=(*self.current, key), old=self.old)

    def with_others_retired(self, *, at_ms: int) -> KeyBook:
        """Every key in use but the one that signs is an old one from that time on."""
        retired = tuple(
            OldKey(
                key_id=key.key_id,
                verify_key_base64=key.verify_key_base64,
                expired_ms=at_ms,
            )
            for key in self.current[:-1]
        )
        return KeyBook(current=self.current[-1:], old=(*self.old, *retired))
