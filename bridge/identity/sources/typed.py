"""Addresses, Matrix IDs and links: pure conversions, nobody is asked whether they exist."""

from __future__ import annotations

from bridge.identity.addresses import number_claimed_by
from bridge.identity.resolver import Asked, ChatAddress, Resolved, SourceSettings
from bridge.identity.sources.templates import find_user
from bridge.ids import RoomAlias, RoomId, UserId, localpart_of, server_of

NAME = "typed"
MAY_BE_CHAT = "The room is for the case that this is the address of a group chat."


class Typed:
    name = NAME

    def __init__(self, settings: SourceSettings) -> None:
        self._conversions = settings.conversions
        self._templates = sorted(settings.numbers, key=lambda one: -len(one.prefix))

    async def find(self, asked: Asked) -> Resolved | None:
        if asked.address is not None:
            return self._foreign(asked.address)
        if asked.matrix_id is None:
            return None
        if asked.matrix_id.startswith("@"):
            return self._user(UserId(asked.matrix_id))
        return self._room(
            RoomAlias(asked.matrix_id) if asked.matrix_id[0] == "#" else RoomId(asked.matrix_id)
        )

    def _foreign(self, address: ChatAddress) -> Resolved:
        alias = self._conversions.alias_of(address.address)
        if address.is_chat and alias is not None:
            return Resolved(address=address.address, room=alias, chat=address.address, source=NAME)
        note = "" if alias is None else MAY_BE_CHAT
        if number_claimed_by(address.local, plus_needed=False) is not None:
            note = f"The digits prove no phone number, only a name at {address.domain}."
        return Resolved(
            user_id=self._conversions.user_of(address.address),
            address=address.address,
            room=alias,
            chat=None if alias is None else address.address,
            source=NAME,
            note=note,
        )

    def _user(self, user_id: UserId) -> Resolved:
        note = ""
        number = number_claimed_by(localpart_of(user_id), plus_needed=False)
        if number is not None:
            if find_user(self._templates, number) == user_id:
                note = f"By the configuration of this gateway this is {number.e164}."
            else:
                note = f"The digits prove no phone number, only a name at {server_of(user_id)}."
        return Resolved(
            user_id=user_id,
            address=self._conversions.to_address(user_id),
            source=NAME,
            note=note,
        )

    def _room(self, room: RoomAlias | RoomId) -> Resolved:
        address = self._conversions.to_address(room)
        is_ours = address.endswith(f"@{self._conversions.own_domain}")
        return Resolved(address=address, room=room, chat=None if is_ours else address, source=NAME)
