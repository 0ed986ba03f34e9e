"""Globs as Matrix writes them: `*` any run of characters, `?` exactly one, no way to escape them.

Matched as a bit-parallel automaton: one step for each character of the text, whatever the glob, so
that no rule that somebody published can make us slow. Spec: appendices, glob-style matching.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.errors import BadInput

MAX_GLOB = 255
"""What the longest identifier needs."""
MAX_TEXT = 1_024
"""Longer texts name nothing that exists and match nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glob:
    text: str
    letters: int
    """Characters that stand for themselves."""
    is_exact: bool
    _steps: dict[str, int]
    """By character: the places from which it leads on."""
    _any: int
    """The places from which every character leads on."""
    _stay: int
    """The places behind a star."""
    _end: int

    @classmethod
    def parse(cls, text: str, *, folds_case: bool = False) -> Glob:
        """Raises BadInput for what is empty, too long or not printable."""
        if not text or len(text) > MAX_GLOB or not text.isprintable() or " " in text:
            raise BadInput(f"a glob has 1 to {MAX_GLOB} printable characters, none of them blank")
        written = text.lower() if folds_case else text
        steps: dict[str, int] = {}
        wild = stay = place = letters = 0
        for character in written:
            if character == "*":
                stay |= 1 << place
                continue
            if character == "?":
                wild |= 1 << place
            else:
                steps[character] = steps.get(character, 0) | 1 << place
                letters += 1
            place += 1
        return cls(
            text=text,
            letters=letters,
            is_exact=not wild and not stay,
            _steps={character: mask | wild for character, mask in steps.items()},
            _any=wild,
            _stay=stay,
            _end=1 << place,
        )

    def matches(self, text: str) -> bool:
        """`text` is folded by the caller where the glob was."""
        if len(text) > MAX_TEXT:
            return False
        places = 1
        for character in text:
            step = self._steps.get(character, self._any)
            places = (places & step) << 1 | places & self._stay
            if not places:
                return False
        return bool(places & self._end)
