"""Nicknames for Matrix people in MUCs: what every server accepts, unique, and stable to look at.

1. NFKC; unassigned (to Unicode 3.2, which preparation knows), emoji and forbidden code points go;
   runs of space become one; at most 60 code points.
2. Mixed direction or nothing left: the Matrix localpart, cleaned the same way.
3. A clash gets a suffix that keeps the direction: ` (server)`, then ` 2`, ` 3` behind left-to-right
   names; a letter as numeral behind right-to-left ones, because preparation demands that such a
   name ends as it began.
The result passes strict resourceprep and PRECIS OpaqueString.
Spec: RFC 6122, appendix B; RFC 8265, 4.2; RFC 5892, appendix A; XEP-0045, 7.2.
"""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Container, Iterator
from itertools import count
from typing import NewType

from bridge.adapters.xmpp.jid import has_mixed_direction, is_prohibited

MAX_CODE_POINTS = 60
_LAST_RESORT = "someone"
_EMOJI = (
    (0x203C, 0x203C), (0x2049, 0x2049), (0x20E3, 0x20E3), (0x231A, 0x231B), (0x2328, 0x2328),
    (0x23CF, 0x23F3), (0x25AA, 0x25AB), (0x25B6, 0x25B6), (0x25C0, 0x25C0), (0x25FB, 0x25FE),
    (0x2600, 0x27BF), (0x2934, 0x2935), (0x2B00, 0x2BFF), (0x3030, 0x3030), (0x303D, 0x303D),
    (0x1F000, 0x1FAFF), (0xE0000, 0xE007F),
)  # fmt: skip
_OLD_JAMO = ((0x1100, 0x11FF), (0xA960, 0xA97C), (0xD7B0, 0xD7FB))
_IGNORABLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_HEBREW = "בגדהוזחטיכלמנסעפצקרשת"
_ARABIC = "بجدهوزحطيكلمنسعفصقرشت"

NicknameKey = NewType("NicknameKey", str)
"""Two nicknames with the same key are the same to some server or some eye."""


def nickname_key(nickname: str) -> NicknameKey:
    """What must be unique in a room: prepared, without case, each space one."""
    folded = unicodedata.normalize("NFKC", nickname).casefold()
    return NicknameKey(" ".join(unicodedata.normalize("NFKC", folded).split()))


def make_nickname(
    display_name: str | None, localpart: str, server: str, taken: Container[NicknameKey]
) -> str:
    """A nickname for a Matrix user that is not in `taken` (keys by `nickname_key`)."""
    for name in (display_name or "", localpart, _LAST_RESORT):
        base = _clean(name)
        if not base or has_mixed_direction(base):
            continue
        for suffix in _suffixes(base, server):
            kept = base[: MAX_CODE_POINTS - len(suffix)].rstrip()
            nickname = kept + suffix
            if kept and not has_mixed_direction(nickname) and nickname_key(nickname) not in taken:
                return nickname
    raise AssertionError("the last resort has endless suffixes")


def _suffixes(base: str, server: str) -> Iterator[str]:
    yield ""
    if stringprep.in_table_d1(base[0]):
        letters = _HEBREW if "\u0590" <= base[0] <= "\u05ff" else _ARABIC
        yield from (f" {letter}" for letter in letters)
        return
    where = _clean(server)
    if where and len(where) <= MAX_CODE_POINTS // 2 and not has_mixed_direction(where):
        yield f" ({where})"
    yield from (f" {number}" for number in count(2))


def _clean(text: str) -> str:
    """Step 1. Normalised before filtering (a circled digit becomes one) and after it."""
    normal = unicodedata.normalize("NFKC", text[: MAX_CODE_POINTS * 20])
    spaced = "".join(" " if c.isspace() else c for c in normal)
    kept = _with_context("".join(c for c in spaced if _is_welcome(c)))
    kept = unicodedata.normalize("NFKC", kept)
    return " ".join(kept.split())


def _is_welcome(char: str) -> bool:
    point = ord(char)
    return not (
        stringprep.in_table_a1(char)
        or stringprep.in_table_b1(char)
        or is_prohibited(char)
        or char in _IGNORABLE
        or any(low <= point <= high for low, high in _EMOJI)
        or any(low <= point <= high for low, high in _OLD_JAMO)
    )


def _with_context(text: str) -> str:
    """Drops what PRECIS allows only beside certain neighbours, where they are missing."""
    has_kana = any(_is_script(c, "HIRAGANA", "KATAKANA", "CJK") for c in text if c != "\u30fb")
    has_arabic_digits = any("\u0660" <= c <= "\u0669" for c in text)

    def fits(at: int, char: str) -> bool:
        before = text[at - 1] if at else ""
        after = text[at + 1] if at + 1 < len(text) else ""
        match char:
            case "\u00b7":
                return before == after == "l"
            case "\u0375":
                return _is_script(after, "GREEK")
            case "\u05f3" | "\u05f4":
                return _is_script(before, "HEBREW")
            case "\u30fb":
                return has_kana
            case _:
                return not (has_arabic_digits and "\u06f0" <= char <= "\u06f9")

    return "".join(c for at, c in enumerate(text) if fits(at, c))


def _is_script(char: str, *names: str) -> bool:
    return bool(char) and unicodedata.name(char, "").startswith(names)
