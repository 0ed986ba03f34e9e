"""Fills `identity.resolver.Conversions`: what people type, by the address book."""

from __future__ import annotations

from bridge.adapters.xmpp.addresses import AddressBook, from_local, from_typed, parse_uri
from bridge.adapters.xmpp.jid import Jid
from bridge.errors import BadInput, NotFound
from bridge.identity import localparts
from bridge.identity.addresses import PhoneNumber, parse_number
from bridge.identity.resolver import ChatAddress
from bridge.ids import RoomAlias, RoomId, UserId


def number_in(local: str) -> PhoneNumber | None:
    """The phone number that somebody wrote before our domain, as clients escape it (XEP-0106)."""
    if "%" in local:
        return None
    text = local.replace("\\20", " ").strip()
    return parse_number(text if text.startswith("+") else f"+{text}", None)


class XmppConversions:
    def __init__(self, book: AddressBook) -> None:
        self._book = book

    @property
    def own_domain(self) -> str:
        return self._book.component

    def parse_typed(self, text: str) -> ChatAddress:
        is_chat = False
        if text[:5].lower() == "xmpp:":
            uri = parse_uri(text)
            jid, is_chat = uri.jid.bare, uri.action == "join"
        else:
            jid = self._read(text)
        if jid.domain.lower().rstrip(".") == self._book.component:
            # The capitals of an alias typed here mean something: `destination_of` reads it.
            number = number_in(jid.local)
            local = jid.local if number is None else number.e164
            jid = Jid(local, self._book.component)
        else:
            jid = jid.prepared()
        return ChatAddress(address=str(jid), local=jid.local, domain=jid.domain, is_chat=is_chat)

    def _read(self, text: str) -> Jid:
        bare = text.partition("/")[0]
        local, at, domain = bare.rpartition("@")
        if at and domain.lower() == self._book.component:
            return Jid(local, self._book.component)  # `@alice:m.example@gw.example`
        if not at and "%" in bare:
            return Jid(text, self._book.component)
        return Jid.parse(text).bare

    def matrix_of(self, address: str) -> UserId | RoomAlias | RoomId:
        local = address.rpartition("@")[0]
        if local in ("", self._book.bot):
            return self._book.bot_id
        try:
            return from_local(local)
        except BadInput:
            meant = from_typed(local)
        if meant is None:
            raise NotFound(f"nothing has the address {address}")
        return meant

    def user_of(self, address: str) -> UserId:
        return localparts.user_id_for(address, self._book.server, prefix=self._book.prefix).user_id

    def alias_of(self, address: str) -> RoomAlias | None:
        try:
            return localparts.alias_for(address, self._book.server, prefix=self._book.prefix)
        except BadInput:
            return None

    def to_address(self, matrix_id: UserId | RoomAlias | RoomId) -> str:
        return str(self._book.jid_of(matrix_id))
