"""Redacting events, and whether a redaction applies. The key lists are in the room version.

Spec: rooms/vN, redactions; rooms/v1, authorisation rule 11; rooms/v3, handling redactions.
"""

from __future__ import annotations

from bridge.engine.hashes import redact
from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels

__all__ = ["may_apply_redaction", "may_redact_anything", "redact", "redact_pdu"]


def redact_pdu(pdu: Pdu) -> Pdu:
    """The redacted copy; same event ID."""
    return pdu.redacted()


def may_apply_redaction(redaction: Pdu, target: Pdu, power: PowerLevels) -> bool:
    """Whether an accepted redaction takes effect on an accepted target; `power` is the room's.

    The redact level, or the target's own server: the same *server*, not the same user. Where the
    auth rules have asked that already, every accepted one does. It does not say whether either
    event was accepted.
    """
    if redaction.redacts != target.event_id or redaction.room_id != target.room_id:
        return False
    if redaction.version.auth.check_redactions:
        return True
    return power.may_redact(redaction.sender) or redaction.sender_server == target.sender_server


def may_redact_anything(redaction: Pdu, power: PowerLevels) -> bool:
    """Whether an accepted redaction takes effect whosever its target is: what can be told of it
    before the target is here. Where the auth rules have asked that already, every one does."""
    return redaction.version.auth.check_redactions or power.may_redact(redaction.sender)
