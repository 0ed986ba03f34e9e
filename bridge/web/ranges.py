"""Parts of a file that a client asks for. Spec: RFC 9110, 14.

One range of bytes is answered; several, or what is none, are ignored, as is allowed.
"""

from __future__ import annotations

import re

_ONE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def requested(header: str | None, size: int) -> range | None:
    """The bytes asked for; None: all of them. An empty range: there are none such (416)."""
    found = _ONE.fullmatch((header or "").replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        return range(max(0, size - int(found[2])), size)
    start = int(found[1])
    end = min(int(found[2]) + 1, size) if found[2] else size
    if found[2] and int(found[2]) < start:
        return None
    return range(start, end) if start < size else range(0)
