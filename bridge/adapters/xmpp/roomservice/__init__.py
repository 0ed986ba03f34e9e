"""Matrix rooms offered to XMPP users as MUCs: here we are the XEP-0045 service."""
