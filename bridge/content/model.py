"""The neutral message: what a person said, in no network's form.

Everything that crosses the gateway passes through `Message`. Both Matrix forms (`legacy`,
`extensible`) and each adapter convert to and from it, never into each other. Replies, edits and
mentions become fields here when they are bridged; until then their text fallback is the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Content = Mapping[str, object]
"""The `content` of an event, as parsed from JSON and not trusted."""

KindName = Literal["text", "notice", "emote", "unknown"]
Look = Literal["image", "video", "audio", "file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that a message shares. `mxc`: where it is on Matrix; `url`: where for everybody."""

    look: Look = "file"
    mxc: str | None = None
    url: str | None = None
    name: str | None = None
    content_type: str | None = None
    size_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing that somebody said."""

    text: str
    """Plain text, whole and never empty; for an emote without `/me`."""
    kind: KindName = "text"
    """`notice`: written by a machine. `unknown`: `text` stands for something we cannot carry."""
    html: str | None = None
    """The same, formatted: sanitised HTML of the Matrix allow-list (`content.html`)."""
    language: str | None = None
    """BCP 47, where the author's client said so."""
    stands_for: str | None = None
    """The event type or msgtype that an `unknown` message stands for."""
    file: File | None = None
    """What it shares; `text` is what is read where files are not understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encrypted:
    """Somebody wrote, and nobody here can read it: the person is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRendered:
    """Nothing to show to people, by a rule. `reason` is a greppable word for the journal."""

    reason: Literal["signalling", "state", "banned-type", "no-content"]


Outcome = Message | Encrypted | NotRendered
