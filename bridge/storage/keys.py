"""Names from outside as keys of an index, which PostgreSQL bounds at about 2,700 bytes a row."""

from __future__ import annotations

import hashlib

MAX_KEY_BYTES = 512


def bounded(name: str) -> str:
    """The name itself; of one that nobody gives in earnest a hash."""
    raw = name.encode("utf-8", "surrogatepass")
    return name if len(raw) <= MAX_KEY_BYTES else f"sha256:{hashlib.sha256(raw).hexdigest()}"
