"""Both sides' view of a conversation, as it happens: each line is what one person said or saw.

On a wide terminal XMPP stands left and Matrix right; elsewhere each line names its side. People
who join may send anything: what would move the cursor is made visible. No colours but on a
terminal, and not with `NO_COLOR`.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal, TextIO

from bridge.demo.people import MatrixPerson, SeenEvent, Stanza, XmppPerson
from bridge.errors import Unavailable

Side = Literal["XMPP", "Matrix"]

_WIDE: Final = 110
_COLOURS: Final[dict[Side, str]] = {"XMPP": "\x1b[36m", "Matrix": "\x1b[32m"}
_PLAIN: Final = "\x1b[0m"
_MOST_CHARACTERS: Final = 1000
_MOST_LINES: Final = 12
_ARRIVALS: Final = {"join": "joins", "leave": "is gone", "ban": "is banned", "knock": "knocks"}


def visible(text: str) -> str:
    """Line breaks stay; every other character that is not printable becomes its escape."""
    cut = text[:_MOST_CHARACTERS]
    return "".join(
        char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in cut
    ) + ("" if len(cut) == len(text) else " ...")


class View:
    """Writes to `out`. `width` in characters; None asks the terminal, which must be one."""

    def __init__(self, out: TextIO | None = None, *, width: int | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        is_terminal = self._out.isatty()
        if width is None:
            width = shutil.get_terminal_size().columns if is_terminal else 0
        self._column = (width - 14) // 2 if width >= _WIDE else 0
        self._coloured = is_terminal and "NO_COLOR" not in os.environ

    def note(self, text: str = "") -> None:
        """A line of the demo itself."""
        print(text, file=self._out, flush=True)

    def heading(self, text: str) -> None:
        self.note(f"\n== {text} ==")
        if self._column:
            self.note(f"{'':8}  {'XMPP':<{self._column}}  | Matrix")

    def line(self, side: Side, person: str, text: str) -> None:
        """What this person said or saw, now."""
        time = datetime.now().astimezone().strftime("%H:%M:%S")
        rows = f"{person} {visible(text)}".split("\n")[:_MOST_LINES]
        if not self._column:
            first, *more = rows
            self.note(f"{time}  {self._tinted(f'{side:<6}', side)}  {first}")
            for row in more:
                self.note(f"{'':18}{row}")
            return
        wrapped = [part for row in rows for part in textwrap.wrap(row, self._column) or [""]]
        for index, part in enumerate(wrapped):
            left, right = (part, "") if side == "XMPP" else ("", part)
            left_cell = self._tinted(f"{left:<{self._column}}", "XMPP")
            right_cell = self._tinted(right, "Matrix")
            self.note(f"{time if index == 0 else '':8}  {left_cell}  | {right_cell}".rstrip())

    def _tinted(self, text: str, side: Side) -> str:
        return f"{_COLOURS[side]}{text}{_PLAIN}" if self._coloured and text.strip() else text

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            self.note(f"   {name:<{width}}  {value}")

    def watch_xmpp(self, name: str, person: XmppPerson) -> None:
        """Show what comes to this person from now on."""

        def show(stanza: Stanza) -> None:
            text = xmpp_line(stanza, person)
            if text is not None:
                self.line("XMPP", name, text)

        person.transcript.watch(show)

    def watch_matrix(self, name: str, person: MatrixPerson) -> None:
        """Show what comes to this person from now on."""

        def show(seen: SeenEvent) -> None:
            text = matrix_line(seen, person.user_id)
            if text is not None:
                self.line("Matrix", name, text)

        person.transcript.watch(show)


def xmpp_line(stanza: Stanza, person: XmppPerson) -> str | None:
    """A stanza in words; None for what a client would not show, our own words included."""
    if stanza.kind == "presence":
        return _presence_line(stanza)
    if stanza.kind != "message":
        return None
    if stanza.type == "error":
        return f"sees a message come back: {stanza.error_text or stanza.condition}"
    if stanza.is_subject_change:
        return f"sees the topic: {stanza.subject}" if stanza.subject else None
    if stanza.body is None:
        return None
    if stanza.type == "groupchat":
        if not stanza.nickname:
            return f"reads a notice of the room: {stanza.body}"
        if stanza.nickname == _own_nickname(person, stanza.bare_sender):
            return None
        return f"<- {stanza.nickname}: {stanza.body}"
    return f"<- {stanza.bare_sender}: {stanza.body}"


def _own_nickname(person: XmppPerson, room: str) -> str | None:
    try:
        return person.nickname_in(room)
    except Unavailable:
        return None


def _presence_line(stanza: Stanza) -> str | None:
    if not stanza.nickname or not stanza.item:
        return None
    reason = f" ({stanza.reason})" if stanza.reason else ""
    if stanza.type == "unavailable":
        return f"sees {stanza.nickname} go{reason}"
    if stanza.type == "":
        you = " (that is me)" if 110 in stanza.statuses else ""
        return f"sees {stanza.nickname} in the room{you}"
    return None


def matrix_line(seen: SeenEvent, own_id: str) -> str | None:
    """An event in words; None for what a client would not show, our own doings included."""
    if seen.sender == own_id:
        return None
    if seen.section == "invite":
        if seen.membership == "invite" and seen.state_key == own_id:
            return f"is invited by {seen.sender}"
        return None
    if seen.section not in ("timeline", "left"):
        return None
    if seen.membership is not None:
        happened = _ARRIVALS.get(seen.membership)
        return None if happened is None else f"sees: {seen.state_key} {happened}"
    if seen.type == "m.room.topic":
        return f"sees the topic: {seen.content.get('topic', '')}"
    if seen.body is None or seen.state_key is not None:
        return None
    return f"<- {seen.sender}: {seen.body}"
