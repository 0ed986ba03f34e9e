"""Scripted people on both networks: what a person's client can do, and what they saw."""

from bridge.demo.people.matrix import MatrixPerson
from bridge.demo.people.muc import Archived, Muc, MucOccupant
from bridge.demo.people.seen import MatrixFailed, SeenEvent
from bridge.demo.people.stanza import Stanza
from bridge.demo.people.transcript import NotSeen, Transcript
from bridge.demo.people.xmpp import Entry, XmppPerson

__all__ = [
    "Archived",
    "Entry",
    "MatrixFailed",
    "MatrixPerson",
    "Muc",
    "MucOccupant",
    "NotSeen",
    "SeenEvent",
    "Stanza",
    "Transcript",
    "XmppPerson",
]
