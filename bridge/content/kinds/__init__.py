"""One file per kind of message; a new one is a file, a line here and a name in `model`."""

from __future__ import annotations

from bridge.content.kinds.emote import EMOTE
from bridge.content.kinds.kind import ContentKind
from bridge.content.kinds.notice import NOTICE
from bridge.content.kinds.text import TEXT
from bridge.content.kinds.unknown import UNKNOWN

KINDS: tuple[ContentKind, ...] = (TEXT, NOTICE, EMOTE, UNKNOWN)
