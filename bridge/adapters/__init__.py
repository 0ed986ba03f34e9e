"""Foreign networks: one folder each, filling the chat port."""
