"""The server-server API as we answer it: one file per area, one table of routes."""
