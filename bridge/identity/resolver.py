"""From what a person types to somebody who can be reached, from both sides.

The typed text is read once (`Asked`), then asked of each source in turn; the first answer wins. A
source says nothing (None: ask the next one), answers, or ends the search (`Refused`, `NotFound`).
Nothing here tells whether an account exists: an unknown number and one that nobody has a source
for get the same words after the same work, so that numbers cannot be tried out.

Conversions of addresses are the adapter's (`Conversions`). A local part that looks like a number
proves nothing unless its domain is configured to vouch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.clock import Clock
from bridge.errors import BadInput, NotFound
from bridge.identity.addresses import (
    MAX_TYPED,
    WHAT_MAY_BE_TYPED,
    PhoneNumber,
    kind_of,
    number_claimed_by,
    parse_number,
)
from bridge.identity.links import parse_matrix_id, parse_matrix_to, parse_matrix_uri
from bridge.ids import RoomAlias, RoomId, UserId

FORGET_AFTER_MS = 60_000
MAX_REMEMBERED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Somebody, or a room, under the names of both sides."""

    user_id: UserId | None = None
    """Who it is on Matrix: the one to invite."""
    address: str | None = None
    """Where somebody of the chat side writes to, or what they enter: the real address of a chat
    person or chat, an address of ours for what is on Matrix."""
    room: RoomAlias | RoomId | None = None
    """What somebody on Matrix joins."""
    chat: str | None = None
    """The foreign chat behind `room`."""
    source: str
    """Name of the source that answered."""
    note: str = ""
    """What the person should know about it, in words; often nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAddress:
    """A typed address of the chat side in its canonical spelling (XMPP: a bare JID)."""

    address: str
    local: str
    domain: str
    is_chat: bool = False
    """A link that says so: it is something to join."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was typed, read. Exactly one of the three is set."""

    number: PhoneNumber | None = None
    address: ChatAddress | None = None
    matrix_id: UserId | RoomAlias | RoomId | None = None

    @property
    def key(self) -> str:
        if self.number is not None:
            return self.number.e164
        return str(self.matrix_id if self.address is None else self.address.address)


class Conversions(Protocol):
    """What an adapter knows about its addresses. Pure: nobody is asked."""

    @property
    def own_domain(self) -> str:
        """Where addresses stand for Matrix users and rooms."""
        ...

    def parse_typed(self, text: str) -> ChatAddress:
        """An address, a link of the chat's protocol, or a short form of one of our addresses.
        Raises BadInput."""
        ...

    def matrix_of(self, address: str) -> UserId | RoomAlias | RoomId:
        """What stands at an address of our own domain. Raises NotFound."""
        ...

    def user_of(self, address: str) -> UserId:
        """The ghost of a foreign address. Raises BadInput."""
        ...

    def alias_of(self, address: str) -> RoomAlias | None:
        """The alias under which a foreign chat is a room; None for what can be no chat."""
        ...

    def to_address(self, matrix_id: UserId | RoomAlias | RoomId) -> str:
        """Of a ghost or the alias of a foreign chat the real address, of others one of ours.
        Raises NotFound for a ghost whose address is hidden."""
        ...


class Source(Protocol):
    @property
    def name(self) -> str: ...

    async def find(self, asked: Asked) -> Resolved | None:
        """None: ask the next one. Raises `Refused` or `NotFound` to end the search."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberTemplate:
    """Numbers that begin with `prefix` are `user`, with `{digits}` filled in."""

    prefix: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Voucher:
    """A domain of the chat side that vouches for the numbers that begin with `prefix`."""

    domain: str
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """What sources are made of."""

    conversions: Conversions
    numbers: tuple[NumberTemplate, ...] = ()
    vouching: tuple[Voucher, ...] = ()


class Resolver:
    """`region`: where a number without a country code is read; None: it is not."""

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        conversions: Conversions,
        clock: Clock,
        region: str | None = None,
    ) -> None:
        self._sources = tuple(sources)
        self._conversions = conversions
        self._clock = clock
        self._region = region
        self._unknown: dict[str, int] = {}
        """When what was asked in vain may be asked of the sources again."""

    async def resolve(self, typed: str) -> Resolved:
        """Raises BadInput (with what may be typed), NotFound, Refused; Unavailable from a source
        that asks somebody."""
        return await self._find(self._read(typed[: MAX_TYPED + 1].strip()))

    async def resolve_number(self, number: PhoneNumber) -> Resolved:
        return await self._find(Asked(number=number))

    async def _find(self, asked: Asked) -> Resolved:
        if self._unknown.get(asked.key, 0) > self._clock.now_ms():
            raise _not_found(asked)
        for source in self._sources:
            found = await source.find(asked)
            if found is not None:
                return found
        self._remember(asked.key)
        raise _not_found(asked)

    def _remember(self, key: str) -> None:
        self._unknown.pop(key, None)
        while len(self._unknown) >= MAX_REMEMBERED:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[key] = self._clock.now_ms() + FORGET_AFTER_MS

    # --- reading --------------------------------------------------------------------------------

    def _read(self, text: str) -> Asked:
        match kind_of(text):
            case "number":
                return Asked(number=self._number(text))
            case "user" | "alias" | "room":
                return self._matrix(parse_matrix_id(text))
            case "matrix_to":
                return self._matrix(parse_matrix_to(text))
            case "matrix":
                return self._matrix(parse_matrix_uri(text))
            case "address" | "short" | "xmpp":
                return self._address(self._conversions.parse_typed(text))

    def _number(self, text: str) -> PhoneNumber:
        number = parse_number(text, self._region)
        if number is not None:
            return number
        if self._region is None and "+" not in text:
            raise BadInput("write the number with its country code, such as +1 555 123 4567")
        raise BadInput(f"that is no phone number; {WHAT_MAY_BE_TYPED}")

    def _address(self, address: ChatAddress) -> Asked:
        """An address in our own domain is what it stands for."""
        if address.domain != self._conversions.own_domain:
            return Asked(address=address)
        number = number_claimed_by(address.local, plus_needed=False)
        if number is not None:
            return Asked(number=number)
        return self._matrix(self._conversions.matrix_of(address.address))

    def _matrix(self, matrix_id: UserId | RoomAlias | RoomId) -> Asked:
        """A ghost proves no more than the address that it stands for."""
        if matrix_id.startswith("@"):
            address = self._conversions.parse_typed(self._conversions.to_address(matrix_id))
            is_foreign = address.domain != self._conversions.own_domain
            if is_foreign and number_claimed_by(address.local) is not None:
                return Asked(address=address)
        return Asked(matrix_id=matrix_id)


def _not_found(asked: Asked) -> NotFound:
    if asked.number is not None:
        return NotFound(f"I know nobody with the number {asked.number.e164}")
    return NotFound(f"I know nobody under {asked.key}")
