"""What we ask of peers: find them, sign, fetch keys, one typed function per endpoint."""
