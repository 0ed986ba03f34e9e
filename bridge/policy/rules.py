"""The rules of the house: who may do what here, decided over one table. Pure.

A rule allows or denies a subject (servers, users or rooms, by a glob) in some scopes, or in all.
What no rule names is allowed. Where several name the same thing, the most exact one counts:

1. a rule for a user goes before a rule for their server
2. a rule of this house (bot, configuration) goes before one of a policy room
3. a name without wildcards goes before a glob, and of globs the one with more letters
4. a denial goes before a permission

What concerns both somebody and a room is denied where either is. Where `only_own` is asked for, the
lists of others do not count. `all` includes what has no scope
of its own (messages, state, profiles, ...). Spec: C2S, moderation policy lists; appendices, glob.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from bridge.errors import BadInput
from bridge.ids import RoomId, ServerName, UserId, server_of
from bridge.policy.globs import Glob

MAX_RULES = 10_000
MAX_REASON = 200


class Action(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


class Subject(StrEnum):
    SERVER = "server"
    USER = "user"
    ROOM = "room"


class Scope(StrEnum):
    INVITES = "invites"
    JOINS = "joins"
    KNOCKS = "knocks"
    MEDIA = "media"
    EDUS = "edus"
    ALL = "all"


BOT = "bot"
CONFIG = "config"
OWN_SOURCES = frozenset({BOT, CONFIG})
"""Everything else is the ID of a policy room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    rule_id: int
    action: Action
    subject: Subject
    glob: str
    scopes: frozenset[Scope]
    reason: str = ""
    source: str = BOT

    def __str__(self) -> str:
        scopes = " ".join(sorted(self.scopes))
        reason = f' "{self.reason}"' if self.reason else ""
        return f"{self.action} {self.subject} {self.glob} {scopes}{reason}"

    @property
    def name(self) -> str:
        """As logs, journal and errors say it."""
        return f"{self.source} rule {self.rule_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`rule` is what decided; None: nothing names it, so it is allowed."""

    is_allowed: bool
    rule: Rule | None = None


ALLOWED = Decision(is_allowed=True)


def read_rule(words: Sequence[str], *, action: Action, rule_id: int = 0, source: str = BOT) -> Rule:
    """From what a person writes: SUBJECT GLOB [SCOPE ...] ["REASON"]. Raises BadInput."""
    if len(words) < 2:
        raise BadInput("write what it is about and its name: server, user or room, and a glob")
    try:
        subject = Subject(words[0].lower())
    except ValueError as exc:
        raise BadInput(f"{words[0][:20]!r} is none of {', '.join(Subject)}") from exc
    names, rest = set(Scope), list(words[2:])
    scopes: set[Scope] = set()
    while rest and rest[0].lower() in names:
        scopes.add(Scope(rest.pop(0).lower()))
    reason = " ".join(rest)
    if reason and reason[0] not in "\"'":
        raise BadInput(
            f"{rest[0][:20]!r} is none of {', '.join(Scope)}; a reason stands in quotation marks"
        )
    return checked(
        Rule(
            rule_id=rule_id,
            action=action,
            subject=subject,
            glob=words[1],
            scopes=frozenset(scopes or {Scope.ALL}),
            reason=reason.strip("\"'")[:MAX_REASON],
            source=source,
        )
    )


def checked(rule: Rule) -> Rule:
    """Raises BadInput for a glob that can name nothing of its kind."""
    _compile(rule)
    sigils = {Subject.USER: "@*?", Subject.ROOM: "!#*?"}
    allowed = sigils.get(rule.subject)
    if rule.subject is Subject.SERVER and set(rule.glob) & set("@!#/"):
        raise BadInput(f"{rule.glob!r} names no server: write example.org or *.example.org")
    # A person of the chat side is named by their address, which has no sigil.
    if allowed is not None and rule.glob[0] not in allowed and "@" not in rule.glob[1:]:
        raise BadInput(f"{rule.glob!r} names no {rule.subject}")
    return rule


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    rule: Rule
    glob: Glob
    rank: tuple[bool, bool, int, bool]

    @property
    def is_own(self) -> bool:
        return self.rank[0]


@dataclass(frozen=True, slots=True)
class RuleTable:
    """All rules, read once. Those over the bound, the last ones, do not count."""

    rules: tuple[Rule, ...] = ()
    _exact: dict[tuple[Subject, str], list[_Compiled]] = field(default_factory=dict, repr=False)
    _globs: dict[Subject, list[_Compiled]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> RuleTable:
        kept = tuple(islice(rules, MAX_RULES))
        table = cls(kept)
        for entry in map(_compile, kept):
            subject, glob = entry.rule.subject, entry.glob
            if glob.is_exact:
                name = glob.text.lower() if subject is Subject.SERVER else glob.text
                table._exact.setdefault((subject, name), []).append(entry)
            else:
                table._globs.setdefault(subject, []).append(entry)
        return table

    def server(self, server: ServerName, scope: Scope, *, only_own: bool = False) -> Decision:
        names = _server_names(server)
        return _decision(self._first(Subject.SERVER, names, scope, only_own=only_own))

    def user(
        self,
        user_id: UserId,
        scope: Scope,
        *,
        address: str | None = None,
        own: ServerName,
        only_own: bool = False,
    ) -> Decision:
        """`address`: of somebody of the chat side, by which they can be named as well. Our own
        server is nobody's: whoever is here is named themselves."""
        names = (str(user_id),) if address is None else (str(user_id), address)
        best = self._first(Subject.USER, names, scope, only_own=only_own)
        if best is None and server_of(user_id) != own:
            servers = _server_names(server_of(user_id))
            best = self._first(Subject.SERVER, servers, scope, only_own=only_own)
        return _decision(best)

    def room(self, room_id: RoomId, scope: Scope, *, only_own: bool = False) -> Decision:
        return _decision(self._first(Subject.ROOM, (room_id,), scope, only_own=only_own))

    def about_server(self, server: ServerName) -> Sequence[Rule]:
        """All rules that match it, the one that counts first."""
        found = self._matching(Subject.SERVER, _server_names(server))
        return [entry.rule for entry in sorted(found, key=lambda one: one.rank, reverse=True)]

    def _first(
        self, subject: Subject, names: Sequence[str], scope: Scope, *, only_own: bool
    ) -> Rule | None:
        wanted = {scope, Scope.ALL}
        applying = (
            entry
            for entry in self._matching(subject, names)
            if entry.rule.scopes & wanted and (entry.is_own or not only_own)
        )
        best = max(applying, key=lambda entry: entry.rank, default=None)
        return None if best is None else best.rule

    def _matching(self, subject: Subject, names: Sequence[str]) -> Iterator[_Compiled]:
        for name in names:
            yield from self._exact.get((subject, name), ())
        for entry in self._globs.get(subject, ()):
            if any(map(entry.glob.matches, names)):
                yield entry


def _decision(rule: Rule | None) -> Decision:
    if rule is None:
        return ALLOWED
    return Decision(is_allowed=rule.action is Action.ALLOW, rule=rule)


def _compile(rule: Rule) -> _Compiled:
    glob = Glob.parse(rule.glob, folds_case=rule.subject is Subject.SERVER)
    rank = (
        rule.source in OWN_SOURCES,
        glob.is_exact,
        glob.letters,
        rule.action is Action.DENY,
    )
    return _Compiled(rule=rule, glob=glob, rank=rank)


def _server_names(server: ServerName) -> tuple[str, ...]:
    """The name as it is, and without its port: whoever denies a host denies it on all of them."""
    whole = server.lower()
    host, colon, port = whole.rpartition(":")
    if not colon or not port.isdigit() or _is_ipv6(whole):
        return (whole,)
    return (whole, host)


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text.strip("[]")).version == 6
    except ValueError:
        return False
