"""Fillings of the chat port: one folder or file per foreign network."""

from __future__ import annotations

from bridge.adapters.loopback import LoopbackAdapter
from bridge.adapters.xmpp.adapter import XmppAdapter
from bridge.ports.chat import ChatAdapter

ADAPTERS: tuple[type[ChatAdapter], ...] = (XmppAdapter, LoopbackAdapter)
"""Each has a `NAME`; the contract test runs over all of them."""
