"""The rules of the house in an operator's hands, and the book of what they refused.

The table that decides (`policy.house`) is in memory and read anew whenever a rule comes or goes,
in this process or another. What a rule refuses is counted and logged every time, the first of its
kind within an hour as a line that is seen; that one is journalled, too, under the rule's own
trace, so that a peer that goes on asking fills neither log nor database.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence

from bridge.bot.words import count_of
from bridge.clock import Clock
from bridge.errors import BadInput, Misconfigured, Refused, Unavailable
from bridge.ids import TraceId, UserId
from bridge.policy.house import House, Refusal
from bridge.policy.rules import (
    BOT,
    CONFIG,
    MAX_RULES,
    Action,
    Rule,
    RuleTable,
    Scope,
    Subject,
    checked,
    read_rule,
)
from bridge.storage import journal, peers, policy
from bridge.storage.database import Database, Transaction
from bridge.storage.policy import RuleRow
from bridge.telemetry import metrics
from bridge.telemetry.log import get_logger

SAME_S = 3_600.0
MAX_REMEMBERED = 10_000
MAX_UNWRITTEN = 100
MAX_OWN = 5_000
"""Rules by the bot; policy rooms fill what is left of the table."""
POLL_S = 1.0
PAUSE_S = 1.0
SHOWN = 50
STEP = "policy"

log = get_logger("policy")


class RuleBook:
    """Fills `bot.context.Rules`. `load` before anybody is let in; `run` for ever."""

    def __init__(
        self, *, database: Database, clock: Clock, house: House, configured: Sequence[str] = ()
    ) -> None:
        """`configured`: rules as one would write them to the bot. Raises Misconfigured."""
        self._database = database
        self._clock = clock
        self._house = house
        self._configured = tuple(
            _configured(line, number) for number, line in enumerate(configured, 1)
        )
        self._counts: Counter[tuple[str, int]] = Counter()
        self._seen: OrderedDict[tuple[str, int, str, str], float] = OrderedDict()
        self._unwritten: deque[tuple[int, Refusal]] = deque(maxlen=MAX_UNWRITTEN)
        self._are_too_many = False
        self._waker = database.waker(policy.TOPIC)

    # --- the table --------------------------------------------------------------------------

    async def load(self) -> None:
        most = MAX_RULES - len(self._configured)
        rows = await self._database.read(lambda tx: policy.rules(tx, most + 1))
        self._are_too_many = len(rows) > most
        if self._are_too_many:
            log.warning("there are more rules than may hold", holding=MAX_RULES)
        found = list(self._configured)
        for row in rows[:most]:
            try:
                found.append(_rule(row))
            except (BadInput, ValueError) as exc:  # of a newer program
                log.warning("a stored rule cannot be read", rule=row.rule_id, reason=str(exc))
        self._house.replace(RuleTable.of(found))

    async def run(self) -> None:
        while True:
            changed = await self._waker.wait(POLL_S)
            try:
                if changed:
                    await self.load()
                await self.write_refusals()
            except Unavailable as exc:
                log.warning("the rules cannot be read now", reason=exc.reason)
                await self._clock.sleep(PAUSE_S)

    # --- what was refused -------------------------------------------------------------------

    def on_refusal(self, refusal: Refusal) -> None:
        rule = refusal.rule
        metrics.POLICY_REFUSALS.labels(refusal.door, rule.subject.value).inc()
        self._counts[rule.source, rule.rule_id] += 1
        key = (rule.source, rule.rule_id, refusal.door, refusal.what)
        now_s = self._clock.monotonic_s()
        is_known = now_s - self._seen.get(key, -SAME_S) < SAME_S
        tell = log.debug if is_known else log.info
        tell(
            "refused by a rule",
            door=refusal.door,
            what=refusal.what,
            rule=f"policy.{rule.rule_id}",
            source=rule.source,
            reason=rule.reason,
        )
        if is_known:
            return
        self._seen[key] = now_s
        self._seen.move_to_end(key)
        while len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        self._unwritten.append((self._clock.now_ms(), refusal))

    async def write_refusals(self) -> None:
        some = list(self._unwritten)
        if not some:
            return
        self._unwritten.clear()

        def unit(tx: Transaction) -> None:
            for at_ms, refusal in some:
                journal.record(
                    tx,
                    trace_id=trace_of(refusal.rule),
                    step=STEP,
                    decision="refused",
                    detail=f"{refusal.what} ({refusal.door}) by {refusal.rule.name}",
                    now_ms=at_ms,
                )

        try:
            await self._database.write(unit)
        except Unavailable:
            self._unwritten.extendleft(reversed(some))
            raise

    # --- for commands -----------------------------------------------------------------------

    def denial_of(self, user_id: UserId) -> str | None:
        """Why somebody may not use the bot."""
        try:
            self._house.check_user(user_id, Scope.ALL, door="bot")
        except Refused as exc:
            return exc.reason
        return None

    async def add(self, action: Action, words: Sequence[str], *, by: UserId) -> str:
        rule = read_rule(words, action=action)
        self._check_own(rule, by)
        now_ms = self._clock.now_ms()
        row = RuleRow(
            source=BOT,
            action=rule.action,
            subject=rule.subject,
            glob=rule.glob,
            scopes=tuple(sorted(rule.scopes)),
            reason=rule.reason,
            made_by=by,
            made_ms=now_ms,
        )

        def unit(tx: Transaction) -> tuple[int, bool]:
            same = policy.find_same(tx, row)
            if same is not None:
                return same, False
            if policy.count(tx, BOT) >= MAX_OWN:
                raise Refused(f"there are {MAX_OWN} rules already: remove some first")
            number = policy.add(tx, row)
            self._record(tx, number, f"{rule}, by {by}", "added", now_ms)
            return number, True

        number, is_new = await self._database.write(unit)
        if not is_new:
            return f"Rule {number} says so already: {rule}."
        log.info("a rule was added", rule=f"policy.{number}", by=by, what=str(rule))
        await self._apply(rule)
        return f"Rule {number}: {rule}."

    async def remove(self, typed: str, *, by: UserId) -> str:
        number = _number(typed)
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> Rule:
            row = policy.get(tx, number)
            if row.source != BOT:
                raise Refused(
                    f"rule {number} comes from {row.source}: `allow` what it should not deny, "
                    "or `policy unsubscribe`"
                )
            policy.remove(tx, number)
            rule = _rule(row)
            self._record(tx, number, f"{rule}, by {by}", "removed", now_ms)
            return rule

        rule = await self._database.write(unit)
        log.info("a rule was removed", rule=f"policy.{number}", by=by, what=str(rule))
        await self._apply(rule)
        return f"Rule {number} is gone: {rule}."

    async def listing(self) -> str:
        rules = self._house.table.rules
        if not rules:
            return "There are no rules: everybody is welcome."
        lines = [f"There {'is' if len(rules) == 1 else 'are'} {count_of(len(rules), 'rule')}:"]
        for rule in rules[:SHOWN]:
            times = self._counts[rule.source, rule.rule_id]
            whose = "" if rule.source == BOT else f" (from {rule.source})"
            used = f", has refused {count_of(times, 'thing')} since the start" if times else ""
            lines.append(f"  {rule.rule_id}: {rule}{whose}{used}")
        if len(rules) > SHOWN:
            lines.append(f"  ... and {len(rules) - SHOWN} more")
        if self._are_too_many:
            lines.append(f"The policy rooms say more, but no more than {MAX_RULES} rules may hold.")
        return "\n".join(lines)

    async def _apply(self, rule: Rule) -> None:
        """From now on; what waited for servers that the rule is about is tried at once."""
        await self.load()
        await self._database.write(lambda tx: _hasten(tx, rule))

    def _check_own(self, rule: Rule, by: UserId) -> None:
        """Nobody may shut themselves out by mistake."""
        if rule.action is not Action.DENY or rule.subject is not Subject.USER:
            return
        table = RuleTable.of([rule, *self._house.table.rules])
        decision = table.user(by, Scope.ALL, own=self._house.own_name)
        if decision.rule is rule:
            raise Refused("that would deny you yourself")

    def _record(
        self, tx: Transaction, number: int, detail: str, decision: str, now_ms: int
    ) -> None:
        trace = TraceId(f"policy.{number}")
        journal.record(
            tx, trace_id=trace, step=STEP, decision=decision, detail=detail, now_ms=now_ms
        )


def trace_of(rule: Rule) -> TraceId:
    """Under which the journal keeps what a rule has refused."""
    prefix = "policy.config" if rule.source == CONFIG else "policy"
    return TraceId(f"{prefix}.{rule.rule_id}")


def _hasten(tx: Transaction, rule: Rule) -> None:
    """What waited for a server that the rule is about is tried again now."""
    if rule.subject is Subject.SERVER:
        table = RuleTable.of([rule])
        peers.hasten_those(tx, lambda server: bool(table.about_server(server)))


def _rule(row: RuleRow) -> Rule:
    return checked(
        Rule(
            rule_id=row.rule_id,
            action=Action(row.action),
            subject=Subject(row.subject),
            glob=row.glob,
            scopes=frozenset(Scope(scope) for scope in row.scopes),
            reason=row.reason,
            source=row.source,
        )
    )


def _configured(line: str, number: int) -> Rule:
    words = line.split()
    try:
        action = Action(words[0].lower()) if words else None
        if action is None:
            raise BadInput("is empty")
        return read_rule(words[1:], action=action, rule_id=number, source=CONFIG)
    except (BadInput, ValueError) as exc:
        raise Misconfigured("policy.rules", f"{line!r}: {exc}") from exc


def _number(typed: str) -> int:
    text = typed.strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 18):
        raise BadInput("which rule? Write its number as `policy list` shows it")
    return int(text)
