"""Fillings of the Matrix ports: `native` is our own homeserver, in process."""
