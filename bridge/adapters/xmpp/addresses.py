"""Matrix ID <-> JID of our component, and back through ghosts: total, injective, no table.

    @alice:m.example            alice%m.example@gw.example
    #garden:m.example           #garden%m.example@gw.example
    !AbC:m.example              !\\41b\\43%m.example@gw.example
    !hash (version 12)          !hash@gw.example
    the bot                     isthmus@gw.example, and the bare domain

Preparation changes or refuses whole localparts, so every byte of the UTF-8 form stands for itself
only if it is in `_PLAIN`; every other one is `\\hh`. Only the canonical spelling is an address:
what is typed differently is answered with the canonical one (`Moved`). Nothing is wrapped twice:
our ghosts and the aliases of foreign MUCs lead to their own JIDs, never to one of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from bridge.adapters.xmpp.jid import MAX_PART_BYTES, Jid, check_sendable
from bridge.adapters.xmpp.nicknames import NicknameKey, make_nickname, nickname_key
from bridge.adapters.xmpp.xmltext import xml_text
from bridge.errors import BadInput, NotFound
from bridge.identity import localparts
from bridge.ids import (
    RoomAlias,
    RoomId,
    ServerName,
    UserId,
    parse_room_alias,
    parse_room_id,
    parse_server_name,
    parse_user_id,
)

__all__ = [
    "MAX_PART_BYTES",
    "AddressBook",
    "Bot",
    "Destination",
    "Jid",
    "MatrixId",
    "Moved",
    "NicknameKey",
    "Person",
    "Room",
    "XmppUri",
    "check_sendable",
    "from_local",
    "from_typed",
    "is_canonical",
    "make_nickname",
    "nickname_key",
    "parse_uri",
    "to_local",
    "to_uri",
    "xml_text",
]

MatrixId = UserId | RoomAlias | RoomId

_OCCUPANT_KEYS: dict[str, localparts.OccupantKey] = {"i": "occupant-id", "n": "nickname"}
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-._=+~$()*,;?^|{}[]!#")
_ESCAPE = re.compile(r"\\([0-9a-f]{2})")
_ESCAPE_TYPED = re.compile(r"(?:\\[0-9A-Fa-f]{2})+")
_URI_LOCAL = "!$()*+,;="
_URI_RESOURCE = "!$&'()*+,:;="


@dataclass(frozen=True, slots=True, kw_only=True)
class Bot:
    """The gateway's bot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A Matrix user. `otherwise`: what a client that escapes twice meant, if nobody is here."""

    user_id: UserId
    otherwise: Jid | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A Matrix room, by alias or ID. `otherwise` as for a person."""

    room: RoomAlias | RoomId
    otherwise: Jid | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The real address of what was meant, for `<gone/>` or `<redirect/>`."""

    to: Jid


Destination = Bot | Person | Room | Moved


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressBook:
    """The two names of the gateway, and all conversions that depend on them."""

    component: str
    server: ServerName
    bot: str = "isthmus"
    prefix: str = ""
    """Of ghost localparts: `_xmpp_` beside an existing homeserver."""

    @property
    def bot_id(self) -> UserId:
        return UserId(f"@{self.bot}:{self.server}")

    @property
    def bot_jid(self) -> Jid:
        return Jid(self.bot, self.component)

    def jid_of(self, matrix_id: MatrixId) -> Jid:
        """The JID under which XMPP knows it. NotFound: a ghost whose address is hashed."""
        if matrix_id == self.bot_id:
            return self.bot_jid
        return self.unwrap(matrix_id) or Jid(to_local(matrix_id), self.component)

    def unwrap(self, matrix_id: MatrixId) -> Jid | None:
        """The foreign JID behind our ghost or portal alias; None for what is Matrix' own."""
        try:
            if matrix_id.startswith("@"):
                text = localparts.address_for(UserId(matrix_id), self.server, prefix=self.prefix)
            elif matrix_id.startswith("#"):
                text = localparts.chat_for(RoomAlias(matrix_id), self.server, prefix=self.prefix)
            else:
                return None
            return Jid.parse(text)
        except BadInput:
            return None

    def user_of(self, jid: Jid) -> localparts.GhostName:
        """Who a JID is on Matrix: a ghost, or in our own domain the Matrix user behind it."""
        if jid.domain != self.component:
            return localparts.user_id_for(str(jid.bare), self.server, prefix=self.prefix)
        match self.destination_of(jid):
            case Bot():
                return localparts.GhostName(user_id=self.bot_id)
            case Person(user_id=user_id):
                return localparts.GhostName(user_id=user_id)
            case _:
                raise NotFound(f"nobody has the address {jid.bare}")

    def user_of_address(self, address: str) -> UserId:
        """As `user_of`, also for an occupant whose real address is hidden: `CHAT/iID` by
        occupant-id (XEP-0421), `CHAT/nNICKNAME` where there is none."""
        jid = Jid.parse(address)
        kind, key = _OCCUPANT_KEYS.get(jid.resource[:1]), jid.resource[1:]
        if jid.domain == self.component or kind is None or not key:
            return self.user_of(jid).user_id
        return localparts.user_id_for_occupant(
            str(jid.bare), key, self.server, kind=kind, prefix=self.prefix
        ).user_id

    def destination_of(self, jid: Jid) -> Destination:
        """What stands at a JID of our domain. NotFound: nothing can."""
        if jid.domain != self.component:
            raise BadInput(f"not in our domain: {jid}")
        if jid.local in ("", self.bot):
            return Bot()
        typed = from_typed(jid.local)
        try:
            meant = from_local(jid.local)
        except BadInput as exc:
            if typed is None:
                raise NotFound(f"nothing has the address {jid.bare}") from exc
            return Moved(to=self.jid_of(typed))
        real = self.jid_of(meant)
        if real != jid.bare:
            return Moved(to=real)
        otherwise = self.jid_of(typed) if typed not in (None, meant) else None
        if meant.startswith("@"):
            return Person(user_id=UserId(meant), otherwise=otherwise)
        return Room(
            room=RoomAlias(meant) if meant[0] == "#" else RoomId(meant), otherwise=otherwise
        )


def to_local(matrix_id: MatrixId) -> str:
    """The localpart of a Matrix ID under our domain."""
    sigil, rest = matrix_id[:1], matrix_id[1:]
    name, colon, server = rest.partition(":")
    out = _escape(name)
    if sigil == "@":
        sigil = ""
        if out[:1] in ("#", "!"):
            out = f"\\{ord(out[0]):02x}{out[1:]}"
    return f"{sigil}{out}%{_escape(server)}" if colon else f"{sigil}{out}"


def from_local(local: str) -> MatrixId:
    """The Matrix ID behind a canonical localpart; BadInput for any other spelling."""
    sigil, rest = (local[0], local[1:]) if local[:1] in ("#", "!") else ("@", local)
    name, percent, server = rest.partition("%")
    if not percent and sigil != "!":
        raise BadInput("not an address of ours: no server in it")
    matrix_id = _parse(f"{sigil}{_unescape(name)}{':' if percent else ''}{_unescape(server)}")
    if to_local(matrix_id) != local:
        raise BadInput("not an address of ours: not the canonical spelling")
    return matrix_id


def is_canonical(local: str) -> bool:
    """Whether the localpart is the one spelling of some Matrix ID."""
    try:
        from_local(local)
    except BadInput:
        return False
    return True


def from_typed(local: str) -> MatrixId | None:
    """What somebody meant who typed an address; None where it cannot be told.

    Takes `#garden:m.example` and `@alice:m.example` as clients escape them, needless escapes and
    localparts that were escaped twice. Not injective: the answer is for a redirect, never for use.
    """
    found: MatrixId | None = None
    text = local
    for _ in range(3):
        plain = _unescape_typed(text)
        found = _interpret(plain) or found
        if plain == text:
            break
        text = plain
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class XmppUri:
    """An `xmpp:` link. `action` is the query type (`join`, `message`), with its pairs."""

    jid: Jid
    action: str = ""
    fields: tuple[tuple[str, str], ...] = ()


def to_uri(jid: Jid, action: str = "", fields: tuple[tuple[str, str], ...] = ()) -> str:
    """Percent-encoded from the JID. Spec: RFC 5122, 2.2; XEP-0147."""
    out = "xmpp:"
    if jid.local:
        out += quote(jid.local, safe=_URI_LOCAL) + "@"
    out += quote(jid.domain, safe="[]:")
    if jid.resource:
        out += "/" + quote(jid.resource, safe=_URI_RESOURCE)
    if action:
        out += "?" + quote(action, safe="")
        out += "".join(f";{quote(k, safe='')}={quote(v, safe='')}" for k, v in fields)
    return out


def parse_uri(text: str) -> XmppUri:
    """Reads an `xmpp:` URI or IRI; an account to use (`//me@here/`) is ignored."""
    scheme, colon, rest = text.strip().partition(":")
    if not colon or scheme.lower() != "xmpp":
        raise BadInput("not an xmpp: link")
    rest = rest.partition("#")[0]
    if rest.startswith("//"):
        rest = rest[2:].partition("/")[2]
    path, _, query = rest.partition("?")
    bare, slash, resource = path.partition("/")
    local, at, domain = bare.partition("@")
    if not at:
        local, domain = "", bare
    try:
        parts = [unquote(part, errors="strict") for part in (local, domain, resource)]
        action, *pairs = [unquote(p, errors="strict") for p in query.split(";")]
    except UnicodeDecodeError as exc:
        raise BadInput("not an xmpp: link: no UTF-8") from exc
    local, domain, resource = parts
    if "@" in local or "/" in local:
        raise BadInput("not an xmpp: link: not a localpart")
    jid = Jid.parse(f"{local}{at}{domain}{slash}{resource}")
    if jid != Jid(local, domain, resource):
        raise BadInput("not an xmpp: link: not a JID")
    fields = tuple((k, v) for k, _, v in (pair.partition("=") for pair in pairs if pair))
    return XmppUri(jid=jid, action=action, fields=fields)


def _escape(text: str) -> str:
    try:
        raw = text.encode()
    except UnicodeEncodeError as exc:
        raise BadInput("identifier with a lone surrogate") from exc
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:02x}" for byte in raw)


def _unescape(text: str) -> str:
    if not text.isascii():
        raise BadInput("not an address of ours: not ASCII")
    raw = _ESCAPE.sub(lambda m: chr(int(m[1], 16)), text)
    try:
        return raw.encode("latin-1").decode()
    except UnicodeDecodeError as exc:
        raise BadInput("not an address of ours: no UTF-8") from exc


def _unescape_typed(text: str) -> str:
    """Each run of escapes that is UTF-8; anything else stays as it is."""

    def decode(match: re.Match[str]) -> str:
        try:
            return bytes.fromhex(match[0].replace("\\", "")).decode()
        except UnicodeDecodeError:
            return match[0]

    return _ESCAPE_TYPED.sub(decode, text)


def _interpret(text: str) -> MatrixId | None:
    sigil, body = (text[0], text[1:]) if text[:1] in ("@", "#", "!") else ("@", text)
    name, percent, server = body.rpartition("%")
    try:
        if percent:
            return _parse(f"{sigil}{name}:{parse_server_name(server)}")
    except BadInput:
        pass
    if ":" not in body and sigil != "!":
        return None
    try:
        return _parse(sigil + body)
    except BadInput:
        return None


def _parse(text: str) -> MatrixId:
    if text.startswith("#"):
        return parse_room_alias(text)
    return parse_room_id(text) if text.startswith("!") else parse_user_id(text)
