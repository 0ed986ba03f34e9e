"""A resolver over the conversions of the XMPP side, with one template and one voucher."""

from __future__ import annotations

from bridge.adapters.xmpp.addresses import AddressBook
from bridge.adapters.xmpp.conversions import XmppConversions
from bridge.clock import Clock
from bridge.identity.resolver import NumberTemplate, Resolver, SourceSettings, Voucher
from bridge.identity.sources import build_sources
from bridge.ids import ServerName


def make_resolver(
    clock: Clock, *, domain: str = "gw.example", region: str | None = None
) -> Resolver:
    """`+1555...` is on Matrix at example.org; phone.example vouches for `+44...`."""
    conversions = XmppConversions(AddressBook(component=domain, server=ServerName(domain)))
    settings = SourceSettings(
        conversions=conversions,
        numbers=(NumberTemplate(prefix="+1555", user="@{digits}:example.org"),),
        vouching=(Voucher(domain="Phone.example", prefix="+44"),),
    )
    return Resolver(
        sources=build_sources(settings), conversions=conversions, clock=clock, region=region
    )
