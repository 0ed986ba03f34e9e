"""What a policy room says, read as rules of the house. Pure.

A rule is a state event that recommends something about an entity. Of the recommendations only
`m.ban` is specified: it denies the entity everything here. What is not understood, or would shut
ourselves out, is no rule, and is counted under the reason. Older names of the same are read, too.
Spec: C2S, moderation policy lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge.errors import BadInput
from bridge.ids import RoomId, ServerName, UserId, server_of
from bridge.policy.globs import Glob
from bridge.policy.rules import MAX_REASON, Action, Rule, RuleTable, Scope, Subject, checked

TYPES: Mapping[str, Subject] = {
    prefix + subject: subject
    for prefix in ("m.policy.rule.", "m.room.rule.", "org.matrix.mjolnir.rule.")
    for subject in Subject
}
"""The specified name, and the two that tools wrote before."""
BANS = frozenset({"m.ban", "org.matrix.mjolnir.ban"})
MAX_LIST_RULES = 5_000
"""Of one room; large public lists hold some thousand."""
MAX_LIST_GLOBS = 500
"""Of these with wildcards: each is tried on every name that is asked about."""
MAX_REASONS = 10
MAX_SHOWN = 40
_GHOST = "@x0x0x0=40x0x0x0.invalid:"
_ROOM = "!x0X0x0X0x0X0x0X0x0"
"""Names that only a glob for everything of a server can match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEntry:
    """One state event of a policy room."""

    type: str
    state_key: str
    sender: UserId
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRule:
    key: str
    """Event type and state key."""
    sender: UserId
    rule: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    rules: tuple[ListedRule, ...] = ()
    ignored: Mapping[str, int]
    """How many said something else, by why that is no rule here."""


def read_list(
    entries: Iterable[ListEntry], *, source: RoomId, own: ServerName, bot: UserId
) -> Reading:
    """The rules of the room `source`, in the order of the entries."""
    rules: dict[tuple[Subject, str], ListedRule] = {}
    ignored: Counter[str] = Counter()
    globs = 0
    for entry in entries:
        subject = TYPES.get(entry.type)
        if subject is None or "entity" not in entry.content:
            continue  # nothing, or taken back
        try:
            rule = _read(entry, subject, source)
            _check(rule, entry.sender, own=own, bot=bot)
            if (subject, rule.glob) in rules:
                continue
            is_glob = any(one in rule.glob for one in "*?")
            if len(rules) >= MAX_LIST_RULES or (is_glob and globs >= MAX_LIST_GLOBS):
                raise BadInput("there are too many")
        except BadInput as exc:
            why = exc.reason if exc.reason in ignored or len(ignored) < MAX_REASONS else "other"
            ignored[why] += 1
            continue
        globs += is_glob
        rules[subject, rule.glob] = ListedRule(
            key=f"{entry.type} {entry.state_key}", sender=entry.sender, rule=rule
        )
    return Reading(rules=tuple(rules.values()), ignored=dict(ignored))


def _read(entry: ListEntry, subject: Subject, source: RoomId) -> Rule:
    entity, recommendation = entry.content["entity"], entry.content.get("recommendation")
    if not isinstance(recommendation, str) or recommendation not in BANS:
        named = recommendation if isinstance(recommendation, str) else "nothing"
        shown = "".join(one for one in named[:MAX_SHOWN] if one.isprintable())
        raise BadInput(f"they recommend {shown!r}")
    if not isinstance(entity, str):
        raise BadInput("they name nothing")
    reason = entry.content.get("reason")
    said = reason if isinstance(reason, str) else ""
    try:
        return checked(
            Rule(
                rule_id=0,
                action=Action.DENY,
                subject=subject,
                glob=entity.strip(),
                scopes=frozenset({Scope.ALL}),
                reason="".join(one if one.isprintable() else " " for one in said[:MAX_REASON]),
                source=source,
            )
        )
    except BadInput as exc:
        raise BadInput("they name nothing of their kind") from exc


def _check(rule: Rule, sender: UserId, *, own: ServerName, bot: UserId) -> None:
    """Raises BadInput for what would keep out ourselves, or whoever could take it back."""
    table = RuleTable.of([rule])
    if rule.subject is Subject.SERVER:
        if not table.server(own, Scope.ALL).is_allowed:
            raise BadInput("they would deny this server")
        if not table.server(server_of(sender), Scope.ALL).is_allowed:
            raise BadInput("they would deny the server of whoever made them")
        return
    glob = Glob.parse(rule.glob)
    if rule.subject is Subject.USER:
        if any(map(glob.matches, (bot, f"{_GHOST}{own}"))):
            raise BadInput("they would deny this server")
        if glob.matches(sender):
            raise BadInput("they would deny whoever made them")
        return
    whole = [f"{_ROOM}:{own}", f"{_ROOM}:{server_of(sender)}", _ROOM]
    if any(map(glob.matches, whole)):
        raise BadInput("they would deny all rooms of a server that matters")
    if glob.matches(rule.source):
        raise BadInput("they would deny the list itself")
