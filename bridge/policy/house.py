"""The doors of the house: what asks here is let through, or refused with the rule that says so.

The table is changed as a whole while everything goes on. Who keeps the book of refusals (log,
journal, count) is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bridge.errors import Refused
from bridge.ids import RoomId, ServerName, UserId, server_of
from bridge.policy.rules import ALLOWED, Decision, Rule, RuleTable, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One thing that a rule forbade: `what` names it, `door` where it was met."""

    rule: Rule
    door: str
    what: str


OnRefusal = Callable[[Refusal], None]
AddressOf = Callable[[UserId], str | None]


class House:
    """Holds the table. Everybody is let in until somebody says otherwise."""

    def __init__(
        self,
        *,
        own_name: ServerName,
        bot: UserId | None = None,
        on_refusal: OnRefusal = lambda _: None,
    ) -> None:
        """`bot` is ours, and as welcome as we are."""
        self.own_name = own_name
        self._bot = bot
        self._table = RuleTable()
        self._on_refusal = on_refusal
        self._address_of: AddressOf = lambda _: None

    @property
    def table(self) -> RuleTable:
        return self._table

    def replace(self, table: RuleTable) -> None:
        self._table = table

    def attach(self, *, on_refusal: OnRefusal, address_of: AddressOf) -> None:
        """`address_of`: of a ghost, whose it is, so that a rule can name the person."""
        self._on_refusal = on_refusal
        self._address_of = address_of

    def check_server(self, server: ServerName, scope: Scope, *, door: str) -> None:
        """Raises Refused. Our own server is always welcome."""
        if server != self.own_name:
            self._check(self._table.server(server, scope), door, server)

    def check_user(self, user_id: UserId, scope: Scope, *, door: str) -> None:
        """The user, and where no rule names them, their server. Raises Refused."""
        if not self._table.rules or user_id == self._bot:
            return
        ours = server_of(user_id) == self.own_name
        decision = self._table.user(
            user_id,
            scope,
            address=self._address_of(user_id) if ours else None,
            own=self.own_name,
        )
        self._check(decision, door, user_id)

    def check_room(self, room_id: RoomId, scope: Scope, *, door: str) -> None:
        """Raises Refused."""
        self._check(self._table.room(room_id, scope), door, room_id)

    def check_member(self, user_id: UserId, room_id: RoomId, scope: Scope, *, door: str) -> None:
        """Somebody and the room that they come into. Raises Refused."""
        self.check_user(user_id, scope, door=door)
        self.check_room(room_id, scope, door=door)

    def _check(self, decision: Decision, door: str, what: str) -> None:
        if decision is ALLOWED or decision.is_allowed or decision.rule is None:
            return
        rule = decision.rule
        self._on_refusal(Refusal(rule=rule, door=door, what=what))
        because = f": {rule.reason}" if rule.reason else ""
        raise Refused(
            f"{what} is denied here by {rule.name}{because}", rule=f"policy.{rule.rule_id}"
        )
