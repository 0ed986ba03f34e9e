"""Domains of the chat side that vouch, by configuration, for the numbers in their addresses:
`+15551234567@phone.example`. The same local part at any other domain proves nothing.
"""

from __future__ import annotations

from dataclasses import replace

from bridge.errors import Refused
from bridge.identity.addresses import check_prefix, number_claimed_by
from bridge.identity.resolver import Asked, ChatAddress, Resolved, SourceSettings

NAME = "vouching"


class Vouching:
    name = NAME

    def __init__(self, settings: SourceSettings) -> None:
        for voucher in settings.vouching:
            check_prefix(voucher.prefix, "identity.vouching")
        self._vouchers = [
            replace(one, domain=one.domain.lower())
            for one in sorted(settings.vouching, key=lambda one: -len(one.prefix))
        ]
        self._conversions = settings.conversions

    async def find(self, asked: Asked) -> Resolved | None:
        if asked.number is not None:
            for voucher in self._vouchers:
                if asked.number.e164.startswith(voucher.prefix):
                    return self._person(f"{asked.number.e164}@{voucher.domain}", voucher.domain)
        if asked.address is not None and not asked.address.is_chat:
            return self._judge(asked.address)
        return None

    def _judge(self, address: ChatAddress) -> Resolved | None:
        """Somebody who writes the plus sign means the number. Without it `1234567@icq.example` is
        an address like others."""
        number = number_claimed_by(address.local)
        if number is None:
            return None
        prefixes = [one.prefix for one in self._vouchers if one.domain == address.domain]
        if not prefixes:
            raise Refused(
                f"{address.domain} does not vouch for phone numbers;"
                " as a plain address it proves nothing",
                rule="no-voucher",
            )
        if not any(number.e164.startswith(prefix) for prefix in prefixes):
            raise Refused(
                f"{address.domain} vouches only for numbers that begin with"
                f" {' or '.join(sorted(prefixes))}",
                rule="no-voucher",
            )
        return self._person(address.address, address.domain)

    def _person(self, address: str, domain: str) -> Resolved:
        return Resolved(
            user_id=self._conversions.user_of(address),
            address=address,
            source=NAME,
            note=f"{domain} vouches for the number.",
        )
