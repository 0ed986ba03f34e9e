"""Which events a room allows. Spec: rooms/vN, authorisation rules."""

from __future__ import annotations

from bridge.engine.auth.general import check_auth, check_auth_events
from bridge.engine.auth.selection import auth_event_keys, auth_state_keys

__all__ = ["auth_event_keys", "auth_state_keys", "check_auth", "check_auth_events"]
