"""Links to single files for people without an account: signed, expiring, naming no person.

`TOKEN = base64url(MAC || expiry)`: the MAC (16 bytes of HMAC-SHA-256) covers the file's mxc URI and
the expiry, so that a link opens one file until then and tells nothing else. The key is made once
and kept beside the files; who deletes it takes every link back.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from bridge.errors import Misconfigured, NotFound
from bridge.ids import ServerName

_KEY_BYTES = 32
_MAC_BYTES = 16
_EXPIRY_BYTES = 5


def read_key(path: Path, *, setting: str = "data_folder") -> bytes:
    """Makes it where there is none. Raises Misconfigured."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)  # whoever was first
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        key = path.read_bytes()
    except OSError as exc:
        raise Misconfigured(setting, f"{path} cannot be used: {exc.strerror}") from exc
    if len(key) != _KEY_BYTES:
        raise Misconfigured(setting, f"{path} is no key of {_KEY_BYTES} bytes")
    return key


class LinkSigner:
    """Times are whole seconds: a link is as long as it must be."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, origin: ServerName, media_id: str, *, until_s: int) -> str:
        """The token for this file until then."""
        expiry = until_s.to_bytes(_EXPIRY_BYTES, "big")
        token = self._mac(origin, media_id, expiry) + expiry
        return base64.urlsafe_b64encode(token).decode().rstrip("=")

    def check(self, token: str, origin: ServerName, media_id: str, *, now_s: int) -> None:
        """Raises NotFound for what is no link of ours to this file, or no more."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except ValueError as exc:
            raise NotFound("there is no such file") from exc
        mac, expiry = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        is_ours = len(expiry) == _EXPIRY_BYTES and hmac.compare_digest(
            mac, self._mac(origin, media_id, expiry)
        )
        if not is_ours:
            raise NotFound("there is no such file")
        if int.from_bytes(expiry, "big") < now_s:
            raise NotFound("this link is no longer valid")

    def secret_id(self, text: str) -> str:
        """A media ID for what is stored once per `text`; nobody else can tell it from the text."""
        return hmac.digest(self._key, b"media id 1\n" + text.encode(), hashlib.sha256).hex()[:40]

    def _mac(self, origin: ServerName, media_id: str, expiry: bytes) -> bytes:
        text = b"\n".join([b"media link 1", origin.encode(), media_id.encode(), expiry])
        return hmac.digest(self._key, text, hashlib.sha256)[:_MAC_BYTES]
