"""What the auth rules read of a room's state: a typed view over an auth state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from bridge.engine.pdu import Pdu
from bridge.engine.power import PowerLevels
from bridge.engine.state import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS, AuthState
from bridge.errors import Refused


def refuse(rule: str, reason: str) -> NoReturn:
    """`rule` is the word that stands in the log."""
    raise Refused(reason, rule=rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthView:
    """Readings of one auth state, with the defaults of the rules."""

    state: AuthState
    create: Pdu
    power: PowerLevels

    @classmethod
    def of(cls, state: AuthState, create: Pdu) -> AuthView:
        return cls(
            state=state, create=create, power=PowerLevels.of(state.get(POWER_LEVELS), create)
        )

    def membership(self, user_id: str) -> str:
        """`leave` where there is no member event."""
        event = self.state.get((MEMBER, user_id))
        return "leave" if event is None else event.membership or "leave"

    @property
    def join_rule(self) -> str | None:
        """`invite` where none is set; None where what is set is no string, and so no known rule."""
        event = self.state.get(JOIN_RULES)
        value = "invite" if event is None else event.content.get("join_rule", "invite")
        return value if isinstance(value, str) else None

    @property
    def power_levels(self) -> Pdu | None:
        return self.state.get(POWER_LEVELS)


def create_of(state: AuthState) -> Pdu:
    """The room's create event, which every auth state must hold."""
    create = state.get(CREATE)
    if create is None:
        refuse("create.missing", "there is no create event in the state")
    return create
