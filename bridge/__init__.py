"""Isthmus: a gateway that joins XMPP and Matrix."""

__version__ = "0.1.0"
