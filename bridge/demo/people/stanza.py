"""A stanza as it came, read without preparing any address.

slixmpp's JID class is strict: a nickname with an emoji raises. A person who watches must see what
real servers let through, so addresses stay the text of the attribute.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import Final

from slixmpp.xmlstream.tostring import tostring

CLIENT: Final = "jabber:client"
MUC: Final = "http://jabber.org/protocol/muc"
MUC_USER: Final = "http://jabber.org/protocol/muc#user"
RECEIPTS: Final = "urn:xmpp:receipts"
STANZA_ID: Final = "urn:xmpp:sid:0"
STANZAS: Final = "urn:ietf:params:xml:ns:xmpp-stanzas"
DELAY: Final = "urn:xmpp:delay"
COMMANDS: Final = "http://jabber.org/protocol/commands"

_SHOWN_CHARACTERS = 400


def to_text(element: ET.Element) -> str:
    """As clients write it: the client namespace undeclared, every other one where it begins."""
    return tostring(element, xmlns=CLIENT, top_level=True)


def client_tag(name: str) -> str:
    """An element's name in the client namespace."""
    return f"{{{CLIENT}}}{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stanza:
    """A message, presence or iq. Missing attributes are empty strings."""

    element: ET.Element = field(repr=False)

    @property
    def kind(self) -> str:
        """`message`, `presence` or `iq`."""
        return self.element.tag.rpartition("}")[2]

    @property
    def sender(self) -> str:
        return self.element.get("from", "")

    @property
    def to(self) -> str:
        return self.element.get("to", "")

    @property
    def id(self) -> str:
        return self.element.get("id", "")

    @property
    def type(self) -> str:
        return self.element.get("type", "")

    @property
    def bare_sender(self) -> str:
        """The sender without resource: a room, for what came from one."""
        return self.sender.partition("/")[0]

    @property
    def nickname(self) -> str:
        """The sender's resource: the nickname, for what came from a room."""
        return self.sender.partition("/")[2]

    def _text_of(self, name: str) -> str | None:
        child = self.element.find(client_tag(name))
        return None if child is None else child.text or ""

    @property
    def body(self) -> str | None:
        return self._text_of("body")

    @property
    def subject(self) -> str | None:
        return self._text_of("subject")

    @property
    def is_subject_change(self) -> bool:
        """A subject and no body. Spec: XEP-0045, 8.1."""
        return self.subject is not None and self.body is None

    @property
    def is_delayed(self) -> bool:
        """Old: history or from offline storage. Spec: XEP-0203."""
        return self.element.find(f"{{{DELAY}}}delay") is not None

    @property
    def wants_receipt(self) -> bool:
        return self.element.find(f"{{{RECEIPTS}}}request") is not None

    @property
    def receipt_for(self) -> str | None:
        """The id that this receipt acknowledges. Spec: XEP-0184."""
        received = self.element.find(f"{{{RECEIPTS}}}received")
        return None if received is None else received.get("id", "")

    @property
    def stanza_ids(self) -> dict[str, str]:
        """Assigned IDs by who assigned them. Spec: XEP-0359."""
        return {
            child.get("by", ""): child.get("id", "")
            for child in self.element.findall(f"{{{STANZA_ID}}}stanza-id")
        }

    @property
    def statuses(self) -> frozenset[int]:
        """MUC status codes."""
        path = f"{{{MUC_USER}}}x/{{{MUC_USER}}}status"
        return frozenset(int(child.get("code", "0")) for child in self.element.findall(path))

    @property
    def reason(self) -> str | None:
        """Of a kick or ban."""
        path = f"{{{MUC_USER}}}x/{{{MUC_USER}}}item/{{{MUC_USER}}}reason"
        child = self.element.find(path)
        return None if child is None else child.text or ""

    @property
    def item(self) -> dict[str, str]:
        """Attributes of the MUC item (affiliation, role, jid, nick), empty if there is none."""
        child = self.element.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}item")
        return {} if child is None else dict(child.attrib)

    @property
    def condition(self) -> str | None:
        """The defined condition of an error."""
        error = self.element.find(client_tag("error"))
        if error is None:
            return None
        for child in error:
            namespace, _, name = child.tag[1:].partition("}")
            if namespace == STANZAS and name != "text":
                return name
        return "undefined-condition"

    @property
    def error_text(self) -> str | None:
        """The words of an error."""
        path = f"{client_tag('error')}/{{{STANZAS}}}text"
        child = self.element.find(path)
        return None if child is None else child.text or ""

    @property
    def note(self) -> str | None:
        """What an ad-hoc command answers in words. Spec: XEP-0050, 3.4."""
        path = f"{{{COMMANDS}}}command/{{{COMMANDS}}}note"
        child = self.element.find(path)
        return None if child is None else child.text or ""

    def find(self, path: str) -> ET.Element | None:
        """A child, in ElementTree's path notation."""
        return self.element.find(path)

    def xml(self) -> str:
        return to_text(self.element)

    def __str__(self) -> str:
        text = self.xml()
        surplus = len(text) - _SHOWN_CHARACTERS
        return text if surplus <= 0 else f"{text[:_SHOWN_CHARACTERS]}... ({surplus} more)"
