"""Matrix users inside foreign chats: we are the client of XEP-0045."""
