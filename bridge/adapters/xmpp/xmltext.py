"""What XML can carry as text. The one place where illegal characters are replaced (G5)."""

from __future__ import annotations

import re

_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
REPLACEMENT = "\ufffd"


def xml_text(text: str) -> str:
    """The text as a parser will give it back: illegal characters replaced, line ends as LF.

    Code points are never added or removed otherwise, so offsets into the result are safe.
    Spec: XML 1.0, 2.2 and 2.11.
    """
    return _ILLEGAL.sub(REPLACEMENT, text.replace("\r\n", "\n").replace("\r", "\n"))
