"""A large JSON object, taken in as it arrives: the elements of its long lists are parsed a run at a
time, so that neither its text is held whole nor the others wait while it is parsed.

Only brackets outside of strings are looked at here; what stands between them is parsed by orjson,
which decides what is JSON. Of duplicate keys the last wins, as in `orjson.loads`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

import orjson

from bridge.errors import BadInput

MAX_PART_BYTES = 1 << 20
"""Of one element of a list, and of all that stands outside the lists."""

_BLANK: Final = b" \t\r\n"
_FILLING: Final = rb'[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+"'
_INNERMOST: Final = rb"[{\[](?:" + _FILLING + rb")*+[}\]]"
"""Skipped as a whole, without a turn in Python. Its brackets are matched by orjson."""
_NEXT_BRACKET: Final = re.compile(
    rb"(?:" + _FILLING + rb"|" + _INNERMOST + rb")*+([{}\[\]])", re.DOTALL
)
_MAX_KEY_BYTES: Final = 200
_KEY_AT_END: Final = re.compile(rb'"((?:[^"\\]|\\.)*+)"\s*+:\s*+\Z', re.DOTALL)


class JsonParts:
    """`feed` what arrives, then `finish`. Both raise `BadInput`.

    `names`: keys of the outermost object whose values, if they are lists, are taken in parts.
    """

    def __init__(self, names: Collection[str], *, max_part_bytes: int = MAX_PART_BYTES) -> None:
        self._names = frozenset(name.encode() for name in names)
        self._max_part_bytes = max_part_bytes
        self._waiting = b""
        self._scanned = 0
        """So much of `_waiting` holds no bracket that was not seen."""
        self._depth = 0
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._lists: dict[bytes, list[Any]] = {}
        self._list: list[Any] | None = None
        """The one that we are in."""
        self._is_first = True

    def feed(self, data: bytes) -> None:
        self._waiting += data
        kept = 0  # up to here it went into the rest, or into a list
        ended = 0  # up to here the elements of the list are complete
        at = self._scanned
        text = self._waiting
        while (match := _NEXT_BRACKET.match(text, at)) is not None:
            at = match.end()
            bracket = text[at - 1]
            if bracket in b"{[":
                self._depth += 1
                if self._depth == 2 and self._list is None and bracket == b"["[0]:
                    name = self._name_before(text[max(kept, at - _MAX_KEY_BYTES) : at - 1])
                    if name is not None:
                        self._keep(text[kept:at] + b"0")
                        self._list = self._lists[name] = []
                        self._is_first = True
                        kept = ended = at
                continue
            self._depth -= 1
            if self._depth < 0:
                raise _not_json("a bracket too many")
            if self._list is None:
                continue
            if self._depth == 2:
                ended = at
            elif self._depth == 1:
                self._take(text[kept : at - 1], is_last=True)
                self._list = None
                kept = at - 1
        if self._list is not None and ended > kept:
            self._take(text[kept:ended], is_last=False)
            kept = ended
        self._waiting = text[kept:]
        self._scanned = at - kept
        if len(self._waiting) + self._rest_bytes > self._max_part_bytes + len(data):
            raise BadInput("a part of the answer is too large", errcode="M_TOO_LARGE")

    def finish(self) -> Any:
        """The whole value."""
        if self._list is not None or self._depth:
            raise _not_json("it ends too early")
        self._keep(self._waiting)
        try:
            value = orjson.loads(b"".join(self._rest))
        except orjson.JSONDecodeError as exc:
            raise _not_json(str(exc)) from exc
        if isinstance(value, dict):
            # [0] stands for what was taken. The name may have come again: then that value counts.
            value.update(
                (name.decode(), found)
                for name, found in self._lists.items()
                if value.get(name.decode()) == [0]
            )
        return value

    def _name_before(self, text: bytes) -> bytes | None:
        match = _KEY_AT_END.search(text)
        return match[1] if match is not None and match[1] in self._names else None

    def _keep(self, text: bytes) -> None:
        self._rest.append(text)
        self._rest_bytes += len(text)

    def _take(self, text: bytes, *, is_last: bool) -> None:
        """A run of whole elements of the list, with the commas between and before them."""
        text = text.strip(_BLANK)
        if not text and is_last:
            return
        if not self._is_first:
            if not text.startswith(b","):
                raise _not_json("no comma between elements")
            text = text[1:]
        self._is_first = False
        try:
            found = orjson.loads(b"[" + text + b"]")
        except orjson.JSONDecodeError as exc:
            raise _not_json(str(exc)) from exc
        if not found:
            raise _not_json("a comma too many")
        assert self._list is not None
        self._list.extend(found)


def _not_json(reason: str) -> BadInput:
    return BadInput(f"the answer is not JSON: {reason}", errcode="M_NOT_JSON")
