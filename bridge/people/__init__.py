"""What belongs to a person and not to a room: devices, their keys, messages to them, OpenID."""
