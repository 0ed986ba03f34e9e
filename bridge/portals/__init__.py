"""Portals bind rooms to chats: the bridge side between the two ports."""
