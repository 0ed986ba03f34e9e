"""What somebody typed: which kind of address it is, and phone numbers in their one spelling.

A number is E.164: a plus sign, the country code, at most 15 digits in all. Whether it is assigned
is nobody's business here: it has to be possible, not valid (`+1 555 123 4567` is not assigned).
The library that knows countries is loaded when the first number is read.
Spec: ITU-T E.164; RFC 3966; appendices, identifier grammar and Matrix URIs (MSC2312).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bridge.errors import BadInput, Misconfigured
from bridge.ids import parse_room_alias, parse_room_id, parse_user_id

MAX_TYPED = 4096
"""Characters: the longest JID as a link, most of it escaped."""
MAX_NUMBER = 64
"""Characters, separators and all."""
WHAT_MAY_BE_TYPED = (
    "write a phone number with its country code (+1 555 123 4567), a Matrix ID (@alice:example.org"
    " or #room:example.org), an XMPP address (romeo@example.org), or a link to one of these"
)

Kind = Literal["number", "address", "short", "user", "alias", "room", "matrix_to", "matrix", "xmpp"]
"""`address`: of the chat side, a JID; `short`: `alice%m.example`; the last three are links."""

_NUMBER = re.compile(r"\+?[ (]*[0-9](?:[ ()./-]*[0-9]){4,24}[ )]*")
_CLAIM = re.compile(r"\+[1-9][0-9]{4,14}")
_PREFIX = re.compile(r"\+(?:[1-9][0-9]{0,14})?")
_MATRIX_TO = re.compile(r"(?:https?://)?(?:www\.)?matrix\.to/", re.IGNORECASE)
_HOST = re.compile(r"[^\s@:/#?%!\[\]\\\"'<>&,;()]+|\[[0-9A-Fa-f:.]+\]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_MARKS = {ord(mark): None for mark in "\u200e\u200f\u202a\u202c\u2066\u2068\u2069\u2060\ufeff"}
_SEPARATORS = {ord(space): " " for space in "\u00a0\u2007\u2009\u202f\t"} | {
    ord(dash): "-" for dash in "\u2010\u2011\u2012\u2013\u2212"
}
"""Numbers are often copied from where they were set nicely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneNumber:
    """A possible number. `digits` has the country code and no sign."""

    digits: str

    @property
    def e164(self) -> str:
        return f"+{self.digits}"


def looks_like_number(text: str) -> bool:
    """Whether somebody means a phone number, readable or not."""
    if len(text) > MAX_NUMBER:
        return False
    return text[:4].lower() == "tel:" or _NUMBER.fullmatch(_plain(text)) is not None


def parse_number(text: str, region: str | None) -> PhoneNumber | None:
    """`region` (`GB`) is where a number without a country code is read; without it there is none.

    Parameters of a `tel:` link name an extension or a context: such a link is no number of ours.
    """
    if len(text) > MAX_NUMBER:
        return None
    if text[:4].lower() == "tel:":
        text = text[4:]
    text = _plain(text)
    if _NUMBER.fullmatch(text) is None or (region is None and not text.startswith("+")):
        return None
    import phonenumbers  # here, because most gateways never read one

    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if (
        phonenumbers.is_possible_number_with_reason(number)
        != phonenumbers.ValidationResult.IS_POSSIBLE
    ):
        return None
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return PhoneNumber(digits=e164.removeprefix("+")) if _CLAIM.fullmatch(e164) else None


def number_claimed_by(local: str, *, plus_needed: bool = True) -> PhoneNumber | None:
    """The number that a local part (`+15551234567`) claims to be; it proves nothing by itself."""
    if not plus_needed and not local.startswith("+"):
        local = f"+{local}"
    return parse_number(local, None) if _CLAIM.fullmatch(local) else None


def check_prefix(prefix: str, setting: str) -> None:
    """Raises `Misconfigured` for what no number in E.164 begins with."""
    if prefix and _PREFIX.fullmatch(prefix) is None:
        raise Misconfigured(setting, f"{prefix!r}: a prefix is written like +1555")


def kind_of(text: str) -> Kind:
    """Raises BadInput, with what may be typed, for what is none of these."""
    if not 0 < len(text) <= MAX_TYPED or _CONTROL.search(text):
        raise BadInput(WHAT_MAY_BE_TYPED)
    link = text[:7].lower()
    if link.startswith("xmpp:"):
        return "xmpp"
    if link.startswith("matrix:"):
        return "matrix"
    if _MATRIX_TO.match(text):
        return "matrix_to"
    if looks_like_number(text):
        return "number"
    bare = text.partition("/")[0]
    if "@" in bare[1:]:
        if _HOST.fullmatch(bare.rpartition("@")[2]):
            return "address"
    elif "%" in text and ":" not in text:
        return "short"
    kind = _matrix_kind(text)
    if kind is not None:
        return kind
    if "." in bare.strip(".") and _HOST.fullmatch(bare):
        return "address"  # a domain
    raise BadInput(WHAT_MAY_BE_TYPED)


def _matrix_kind(text: str) -> Kind | None:
    try:
        match text[0]:
            case "@":
                parse_user_id(text)
                return "user"
            case "#":
                parse_room_alias(text)
                return "alias"
            case "!":
                parse_room_id(text)
                return "room"
    except BadInput:
        pass
    return None


def _plain(text: str) -> str:
    return text.translate(_MARKS).translate(_SEPARATORS).strip(" ")
