"""XMPP as one XEP-0114 component. slixmpp stays behind this floor."""
