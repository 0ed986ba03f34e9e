"""Our own JID: as tolerant as the servers when reading, strict about what we mint.

slixmpp's class refuses whatever Unicode 3.2 did not know (an emoji in a resource), and a stanza
with such an address would vanish. `Jid.parse` only splits and bounds; `prepare` applies nodeprep,
nameprep and resourceprep, with unassigned code points let through (what servers do with addresses
that they are given) or refused (`strict`: what we create).
Spec: RFC 6122, 2; RFC 3454; RFC 7622, 3.1.
"""

from __future__ import annotations

import ipaddress
import re
import stringprep
from collections.abc import Callable
from dataclasses import dataclass, replace
from unicodedata import ucd_3_2_0

from bridge.errors import BadInput

MAX_PART_BYTES = 1023
_LOCAL_FORBIDDEN = frozenset("\"&'/:<>@")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_PLAIN_LOCAL = re.compile(r"[a-z0-9!#$%()*+,.;=?\[\\\]^_`{|}~-]{0,1023}")
_PLAIN_RESOURCE = re.compile(r"[ -~]{0,1023}")
_PROHIBITED: tuple[Callable[[str], bool], ...] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21,
    stringprep.in_table_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


@dataclass(frozen=True, slots=True)
class Jid:
    """An XMPP address in its three parts; the empty string where a part is missing."""

    local: str
    domain: str
    resource: str = ""

    @classmethod
    def parse(cls, text: object) -> Jid:
        """Splits as the servers do. Nothing is folded: what comes from a server is prepared."""
        if not isinstance(text, str):
            raise BadInput("not a JID")
        bare, slash, resource = text.partition("/")
        local, at, domain = bare.partition("@")
        if not at:
            local, domain = "", bare
        if not domain or "@" in domain or (at and not local) or (slash and not resource):
            raise BadInput(f"not a JID: {text[:80]!r}")
        for part in (local, domain, resource):
            _check_length(part)
        return cls(local, domain, resource)

    @property
    def bare(self) -> Jid:
        return replace(self, resource="") if self.resource else self

    def with_resource(self, resource: str) -> Jid:
        return replace(self, resource=resource)

    def prepared(self, *, strict: bool = False) -> Jid:
        """The canonical spelling; BadInput where there is none."""
        return Jid(
            prepare_local(self.local, strict=strict) if self.local else "",
            prepare_domain(self.domain, strict=strict),
            prepare_resource(self.resource, strict=strict) if self.resource else "",
        )

    def is_prepared(self, *, strict: bool = False) -> bool:
        """Whether a server would take the address as it stands."""
        if self._is_plain:
            return True
        try:
            return self.prepared(strict=strict) == self
        except BadInput:
            return False

    @property
    def _is_plain(self) -> bool:
        """Characters that preparation leaves alone: most addresses, and 100 times faster."""
        return (
            _PLAIN_LOCAL.fullmatch(self.local) is not None
            and len(self.domain) <= 253
            and _HOST.fullmatch(self.domain) is not None
            and _PLAIN_RESOURCE.fullmatch(self.resource) is not None
        )

    def __str__(self) -> str:
        bare = f"{self.local}@{self.domain}" if self.local else self.domain
        return f"{bare}/{self.resource}" if self.resource else bare


def check_sendable(*, sender: Jid, to: Jid, component: str) -> None:
    """Raises BadInput for addresses that would close our stream or lose the stanza."""
    check_sender(sender, component=component)
    check_receiver(to)


def check_sender(sender: Jid, *, component: str) -> None:
    """It is ours, so strictly prepared and in our domain."""
    if sender.domain != component:
        raise BadInput(f"from is not in our domain: {sender}")
    if not sender.is_prepared(strict=True):
        raise BadInput(f"from is not prepared: {sender}")


def check_receiver(to: Jid) -> None:
    """It may be whatever its own server accepted, newer code points included."""
    if not to.is_prepared():
        raise BadInput(f"to is not prepared: {to}")


def prepare_local(text: str, *, strict: bool = False) -> str:
    """Nodeprep. Spec: RFC 6122, appendix A."""
    out = _stringprep(text, fold=True, strict=strict)
    if any(c in _LOCAL_FORBIDDEN or stringprep.in_table_c11(c) for c in out):
        raise BadInput("character not allowed in a localpart")
    return out


def prepare_resource(text: str, *, strict: bool = False) -> str:
    """Resourceprep. Spec: RFC 6122, appendix B."""
    return _stringprep(text, fold=False, strict=strict)


def prepare_domain(text: str, *, strict: bool = False) -> str:
    """Host name, internationalised name (in Unicode form) or IP literal."""
    if text.startswith("["):
        try:
            ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]"))
        except ValueError as exc:
            raise BadInput(f"not a domain: {text!r}") from exc
        if not text.endswith("]"):
            raise BadInput(f"not a domain: {text!r}")
        return text.lower()
    out = _stringprep(text, fold=True, strict=strict).removesuffix(".")
    for label in out.split("."):
        # Unicode labels stand for their ASCII form; only the ASCII in them is checked.
        ascii_part = "".join(c if c.isascii() else "x" for c in label)
        if not _HOST.fullmatch(ascii_part) or len(label.encode()) > 253:
            raise BadInput(f"not a domain: {text!r}")
    _check_length(out)
    return out


def has_mixed_direction(text: str) -> bool:
    """Whether the bidi rule of stringprep refuses the string. Spec: RFC 3454, 6."""
    if not any(stringprep.in_table_d1(c) for c in text):
        return False
    return (
        any(stringprep.in_table_d2(c) for c in text)
        or not stringprep.in_table_d1(text[0])
        or not stringprep.in_table_d1(text[-1])
    )


def is_prohibited(char: str) -> bool:
    """Whether resourceprep refuses the character wherever it stands."""
    return any(table(char) for table in _PROHIBITED)


def _stringprep(text: str, *, fold: bool, strict: bool) -> str:
    """RFC 3454 in its order: unassigned, map, normalise, prohibit, bidi; then our bounds."""
    if strict and any(stringprep.in_table_a1(c) for c in text):
        raise BadInput("code point that preparation does not know")
    mapped = "".join(
        stringprep.map_table_b2(c) if fold else c for c in text if not stringprep.in_table_b1(c)
    )
    out = ucd_3_2_0.normalize("NFKC", mapped)
    if any(is_prohibited(c) for c in out):
        raise BadInput("character not allowed in an address")
    if out and has_mixed_direction(out):
        raise BadInput("address of mixed direction")
    if not out:
        raise BadInput("nothing left of a part of an address")
    _check_length(out)
    return out


def _check_length(part: str) -> None:
    try:
        size = len(part.encode())
    except UnicodeEncodeError as exc:
        raise BadInput("address with a lone surrogate") from exc
    if size > MAX_PART_BYTES:
        raise BadInput(f"part of an address over {MAX_PART_BYTES} bytes")
