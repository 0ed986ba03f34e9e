"""XML namespaces by the names of their specifications, and the elements built from them."""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree as ET

COMPONENT: Final = "jabber:component:accept"
"""Every stanza inside the gateway stands in this namespace (XEP-0114)."""
CLIENT: Final = "jabber:client"
STREAMS: Final = "http://etherx.jabber.org/streams"
STREAM_ERRORS: Final = "urn:ietf:params:xml:ns:xmpp-streams"
STANZA_ERRORS: Final = "urn:ietf:params:xml:ns:xmpp-stanzas"
XML: Final = "http://www.w3.org/XML/1998/namespace"

CHAT_MARKERS: Final = "urn:xmpp:chat-markers:0"
CHAT_STATES: Final = "http://jabber.org/protocol/chatstates"
COMMANDS: Final = "http://jabber.org/protocol/commands"
CORRECT: Final = "urn:xmpp:message-correct:0"
DATA_FORMS: Final = "jabber:x:data"
DELAY: Final = "urn:xmpp:delay"
DIRECT_INVITE: Final = "jabber:x:conference"
DISCO_INFO: Final = "http://jabber.org/protocol/disco#info"
DISCO_ITEMS: Final = "http://jabber.org/protocol/disco#items"
FASTEN: Final = "urn:xmpp:fasten:0"
FILE_SHARING: Final = "urn:xmpp:sfs:0"
GATEWAY: Final = "jabber:iq:gateway"
FORWARD: Final = "urn:xmpp:forward:0"
HINTS: Final = "urn:xmpp:hints"
IDLE: Final = "urn:xmpp:idle:1"
JINGLE_MESSAGE: Final = "urn:xmpp:jingle-message:0"
MAM: Final = "urn:xmpp:mam:2"
MARKUP: Final = "urn:xmpp:markup:0"
MUC: Final = "http://jabber.org/protocol/muc"
MUC_ADMIN: Final = "http://jabber.org/protocol/muc#admin"
MUC_OWNER: Final = "http://jabber.org/protocol/muc#owner"
MUC_ROOMINFO: Final = "http://jabber.org/protocol/muc#roominfo"
MUC_STABLE_ID: Final = "http://jabber.org/protocol/muc#stable_id"
MUC_USER: Final = "http://jabber.org/protocol/muc#user"
NICK: Final = "http://jabber.org/protocol/nick"
OCCUPANT_ID: Final = "urn:xmpp:occupant-id:0"
OLD_PGP: Final = "jabber:x:encrypted"
OMEMO: Final = ("eu.siacs.conversations.axolotl", "urn:xmpp:omemo:1", "urn:xmpp:omemo:2")
OOB: Final = "jabber:x:oob"
OPENPGP: Final = "urn:xmpp:openpgp:0"
PING: Final = "urn:xmpp:ping"
REACTIONS: Final = "urn:xmpp:reactions:0"
RECEIPTS: Final = "urn:xmpp:receipts"
RETRACT: Final = ("urn:xmpp:message-retract:0", "urn:xmpp:message-retract:1")
RSM: Final = "http://jabber.org/protocol/rsm"
SELF_PING: Final = "http://jabber.org/protocol/muc#self-ping-optimization"
SPOILER: Final = "urn:xmpp:spoiler:0"
STANZA_ID: Final = "urn:xmpp:sid:0"
STYLING: Final = "urn:xmpp:styling:0"
VCARD: Final = "vcard-temp"
VERSION: Final = "jabber:iq:version"


def add(parent: ET.Element, namespace: str, name: str, text: str | None = None) -> ET.Element:
    """A child element; attributes are set on what is returned."""
    child = ET.SubElement(parent, f"{{{namespace}}}{name}")
    if text is not None:
        child.text = text
    return child


def element(namespace: str, name: str) -> ET.Element:
    return ET.Element(f"{{{namespace}}}{name}")
