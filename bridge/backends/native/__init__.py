"""The Matrix ports, filled from `rooms/` in this process."""
