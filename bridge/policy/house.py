"""The doors of the house: what asks here is let through, or refused with the rule that says so.

The table is changed as a whole while everything goes on. Who keeps the book of refusals (log,
journal, count) is handed in. The rules of policy rooms, which others write, never keep out an admin
of this gateway, nor the server or the rooms of one: nobody is locked out by somebody else's list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from bridge.errors import Refused
from bridge.ids import RoomAlias, RoomId, ServerName, UserId, server_of
from bridge.policy.rules import ALLOWED, Decision, Rule, RuleTable, Scope, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One thing that a rule forbade: `what` names it, `door` where it was met."""

    rule: Rule
    door: str
    what: str


OnRefusal = Callable[[Refusal], None]
AddressOf = Callable[[UserId], str | None]
IsAdmin = Callable[[UserId, str | None], bool]
MAX_KNOWN = 20_000
"""Decisions that are remembered; each stands for a walk over all globs."""


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
        self._is_admin: IsAdmin = lambda *_: False
        self._admin_servers: frozenset[str] = frozenset()
        self._protected: frozenset[RoomId] = frozenset()
        self._known: dict[tuple[Subject, str, Scope, bool], Decision] = {}

    @property
    def table(self) -> RuleTable:
        return self._table

    def replace(self, table: RuleTable) -> None:
        self._table = table
        self._known = {}

    def attach(
        self,
        *,
        on_refusal: OnRefusal,
        address_of: AddressOf,
        is_admin: IsAdmin | None = None,
        admin_servers: Collection[str] = (),
    ) -> None:
        """`address_of`: of a ghost, whose it is, so that a rule can name the person. `is_admin`
        gets a user ID and that address; `admin_servers` are in lower case."""
        self._on_refusal = on_refusal
        self._address_of = address_of
        self._is_admin = is_admin or self._is_admin
        self._admin_servers = frozenset(admin_servers)

    def protect(self, rooms: Collection[RoomId]) -> None:
        """These are denied by rules of this house only: whoever writes one list does not take
        another away."""
        self._protected = frozenset(rooms)
        self._known = {}

    def is_admin(self, user_id: UserId) -> bool:
        """Of another server, named in the configuration."""
        return self._is_admin(user_id, None)

    def check_server(self, server: ServerName, scope: Scope, *, door: str) -> None:
        """Raises Refused. Our own server is always welcome."""
        self._check(self._of_server(server, scope), door, server)

    def allows_server(self, server: ServerName, scope: Scope) -> bool:
        """As `check_server`, where nobody asks for anything: no refusal is noted."""
        return self._of_server(server, scope).is_allowed

    def allows_room(self, room_id: RoomId, scope: Scope) -> bool:
        """As `check_room`, likewise."""
        return self._of_room(room_id, scope, is_admin=False).is_allowed

    def _of_server(self, server: ServerName, scope: Scope) -> Decision:
        if server == self.own_name or not self._table.rules:
            return ALLOWED
        only_own = server.lower() in self._admin_servers
        return self._decide(
            (Subject.SERVER, server, scope, only_own),
            lambda: self._table.server(server, scope, only_own=only_own),
        )

    def check_user(self, user_id: UserId, scope: Scope, *, door: str) -> None:
        """The user, and where no rule names them, their server. Raises Refused."""
        self._check_user(user_id, scope, door)

    def check_room(self, room_id: RoomId, scope: Scope, *, door: str) -> None:
        """Raises Refused."""
        self._check_room(room_id, scope, door, is_admin=False)

    def check_alias(self, alias: RoomAlias, scope: Scope, *, door: str) -> None:
        """The name by which somebody looks for a room. Raises Refused."""
        self._check_room(RoomId(alias), scope, door, is_admin=False)

    def check_member(self, user_id: UserId, room_id: RoomId, scope: Scope, *, door: str) -> None:
        """Somebody and the room that they come into, or write in. Raises Refused."""
        is_admin = self._check_user(user_id, scope, door)
        self._check_room(room_id, scope, door, is_admin=is_admin)

    def _check_user(self, user_id: UserId, scope: Scope, door: str) -> bool:
        """True: an admin."""
        if not self._table.rules or user_id == self._bot:
            return True
        ours = server_of(user_id) == self.own_name
        address = self._address_of(user_id) if ours else None
        is_admin = self._is_admin(user_id, address)
        decision = self._decide(
            (Subject.USER, user_id, scope, is_admin),
            lambda: self._table.user(
                user_id, scope, address=address, own=self.own_name, only_own=is_admin
            ),
        )
        self._check(decision, door, user_id)
        return is_admin

    def _check_room(self, room_id: RoomId, scope: Scope, door: str, *, is_admin: bool) -> None:
        self._check(self._of_room(room_id, scope, is_admin=is_admin), door, room_id)

    def _of_room(self, room_id: RoomId, scope: Scope, *, is_admin: bool) -> Decision:
        if not self._table.rules:
            return ALLOWED
        server = room_id.partition(":")[2].lower()
        is_admins = server != "" and server in self._admin_servers
        only_own = is_admin or is_admins or room_id in self._protected
        return self._decide(
            (Subject.ROOM, room_id, scope, only_own),
            lambda: self._table.room(room_id, scope, only_own=only_own),
        )

    def _decide(
        self, key: tuple[Subject, str, Scope, bool], decide: Callable[[], Decision]
    ) -> Decision:
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            known = self._known[key] = decide()
        return known

    def _check(self, decision: Decision, door: str, what: str) -> None:
        if decision is ALLOWED or decision.is_allowed or decision.rule is None:
            return
        rule = decision.rule
        self._on_refusal(Refusal(rule=rule, door=door, what=what))
        because = f": {rule.reason}" if rule.reason else ""
        raise Refused(
            f"{what} is denied here by {rule.name}{because}", rule=f"policy.{rule.rule_id}"
        )
