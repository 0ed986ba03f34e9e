"""PURE. The neutral message and its Matrix forms; `events` has the way in and out."""
