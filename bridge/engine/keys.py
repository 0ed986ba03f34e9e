"""Ed25519 signing keys, and unpadded Base64. The only place with the crypto library.

The text form of a key (one line of a key file) is `ed25519 VERSION SEED`, as the established
servers write it. Spec: appendices, unpadded Base64, signing details.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey as NaclSigningKey

from bridge.errors import BadInput
from bridge.ids import KeyId

ALGORITHM = "ed25519"
_VERSION = re.compile(r"[a-zA-Z0-9_]{1,128}")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_KEY_BYTES = 32
_KEY_TEXT = 44
_SIGNATURE_BYTES = 64


def encode_base64(data: bytes) -> str:
    """Unpadded, standard alphabet."""
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64(text: str) -> bytes:
    """Standard or URL-safe alphabet, padded or not; surplus bits ignored. Raises `BadInput`."""
    try:
        # As nearly everybody writes it.
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError:
        pass
    try:
        raw = text.encode("ascii").rstrip(b"=").translate(_STANDARD)
        return binascii.a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as exc:
        raise BadInput("not Base64") from exc


class Signer(Protocol):
    """Whatever signs for us: a key, or whoever knows which of our keys it is at the moment."""

    @property
    def key_id(self) -> KeyId: ...

    @property
    def verify_key_base64(self) -> str: ...

    def sign(self, message: bytes) -> str:
        """The signature in unpadded Base64, by the key that `key_id` names now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key and its version. Its representation never shows the seed."""

    version: str
    seed: bytes = field(repr=False)
    _key: NaclSigningKey = field(repr=False, compare=False)

    @classmethod
    def from_seed(cls, version: str, seed: bytes) -> SigningKey:
        """`seed` is 32 bytes, for a new key random ones, which the caller brings."""
        if not _VERSION.fullmatch(version):
            raise BadInput(f"not a key version: {version!r}")
        if len(seed) != _KEY_BYTES:
            raise BadInput(f"a signing key seed has {_KEY_BYTES} bytes, not {len(seed)}")
        return cls(version=version, seed=seed, _key=NaclSigningKey(seed))

    @classmethod
    def from_text(cls, text: str) -> SigningKey:
        """One line `ed25519 VERSION SEED`. Raises `BadInput`, never showing the seed."""
        parts = text.split()
        if len(parts) != 3 or parts[0] != ALGORITHM:
            raise BadInput("a signing key line reads: ed25519 VERSION SEED")
        return cls.from_seed(parts[1], decode_base64(parts[2]))

    def to_text(self) -> str:
        """The line that `from_text` reads. Secret."""
        return f"{ALGORITHM} {self.version} {encode_base64(self.seed)}"

    @property
    def key_id(self) -> KeyId:
        return KeyId(f"{ALGORITHM}:{self.version}")

    @property
    def verify_key_base64(self) -> str:
        return encode_base64(bytes(self._key.verify_key))

    def sign(self, message: bytes) -> str:
        """The signature in unpadded Base64."""
        return encode_base64(self._key.sign(message).signature)


def verify(key_base64: str, message: bytes, signature: str) -> bool:
    """Whether the signature is the key's. False also for keys and signatures that are garbage."""
    try:
        # Whoever names long keys that are none gets no place in memory for them.
        decode = _decode_key if len(key_base64) <= _KEY_TEXT else decode_base64
        key, raw = decode(key_base64), decode_base64(signature)
    except BadInput:
        return False
    if len(key) != _KEY_BYTES or len(raw) != _SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(raw + message, key)
    except BadSignatureError:
        return False
    return True


@lru_cache(maxsize=1024)
def _decode_key(key_base64: str) -> bytes:
    """Few keys sign many events."""
    return decode_base64(key_base64)
