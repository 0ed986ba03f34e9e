"""The HTTP server's plumbing: routes, listeners, errors as Matrix JSON, health."""
