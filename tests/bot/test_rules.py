"""The rules of the house by the bot: made, listed, removed, and what they refused."""

from __future__ import annotations

from functools import partial

import pytest

from bridge.bot import rules
from bridge.bot.peers import PeerDesk
from bridge.bot.rules import RuleBook
from bridge.errors import BadInput, Misconfigured, NotFound, Refused
from bridge.ids import RoomId, ServerName, TraceId, UserId
from bridge.policy.house import House
from bridge.policy.rules import Action, Scope
from bridge.ports.command import Caller
from bridge.storage import journal, peers, policy
from bridge.storage.database import Database
from bridge.storage.peers import Mark
from tests.support.bot import ADMIN, ALICE, GATEWAY, FakeRules, bench
from tests.support.clock import FakeClock

EVIL = ServerName("evil.example")


class Desk:
    def __init__(self, database: Database, clock: FakeClock, *configured: str) -> None:
        self.database = database
        self.house = House(own_name=GATEWAY, bot=UserId(f"@isthmus:{GATEWAY}"))
        self.book = RuleBook(
            database=database, clock=clock, house=self.house, configured=configured
        )
        self.house.attach(on_refusal=self.book.on_refusal, address_of=lambda _: None)
        self.peers = PeerDesk(database=database, clock=clock, house=self.house)

    async def deny(self, line: str) -> str:
        return await self.book.add(Action.DENY, line.split(), by=ADMIN)

    async def journal_of(self, number: int) -> list[str]:
        entries = await self.database.read(lambda tx: journal.read(tx, TraceId(f"policy.{number}")))
        return [f"{entry.decision}: {entry.detail}" for entry in entries]


@pytest.fixture
def at(sqlite_database: Database, clock: FakeClock) -> Desk:
    return Desk(sqlite_database, clock)


async def test_a_rule_holds_at_once_and_no_more_when_it_is_gone(at: Desk) -> None:
    assert await at.deny('server evil.example "spam"') == (
        'Rule 1: deny server evil.example all "spam".'
    )
    with pytest.raises(Refused, match="bot rule 1: spam"):
        at.house.check_server(EVIL, Scope.JOINS, door="request")
    assert 'deny server evil.example all "spam", has refused 1 thing' in await at.book.listing()
    assert "is gone" in await at.book.remove("1", by=ADMIN)
    at.house.check_server(EVIL, Scope.JOINS, door="request")
    assert await at.book.listing() == "There are no rules: everybody is welcome."


async def test_the_journal_says_who_made_it_and_what_it_refused_once(at: Desk) -> None:
    await at.deny("server evil.example")
    for _ in range(3):
        with pytest.raises(Refused):
            at.house.check_server(EVIL, Scope.ALL, door="request")
    await at.book.write_refusals()
    await at.book.write_refusals()
    assert await at.journal_of(1) == [
        f"added: deny server evil.example all, by {ADMIN}",
        "refused: evil.example (request) by bot rule 1",
    ]


async def test_rules_are_there_after_a_restart(at: Desk, clock: FakeClock) -> None:
    await at.deny("server evil.example")
    again = Desk(at.database, clock)
    again.house.check_server(EVIL, Scope.ALL, door="request")
    await again.book.load()
    with pytest.raises(Refused):
        again.house.check_server(EVIL, Scope.ALL, door="request")


async def test_the_same_rule_is_made_once(at: Desk) -> None:
    await at.deny("server evil.example")
    assert (await at.deny("server evil.example")).startswith("Rule 1 says so already")


async def test_rules_of_the_configuration_hold_and_stay(
    sqlite_database: Database, clock: FakeClock
) -> None:
    at = Desk(sqlite_database, clock, 'deny server evil.example invites "no"')
    await at.book.load()
    with pytest.raises(Refused, match="config rule 1"):
        at.house.check_server(EVIL, Scope.INVITES, door="request")
    with pytest.raises(NotFound):
        await at.book.remove("1", by=ADMIN)
    with pytest.raises(Misconfigured, match=r"policy\.rules"):
        Desk(sqlite_database, clock, "forbid everything")


async def test_nobody_shuts_themselves_out(at: Desk) -> None:
    for name in (ADMIN, "*"):
        with pytest.raises(Refused, match="yourself"):
            await at.deny(f"user {name}")


@pytest.mark.parametrize("typed", ["", "x", "-1", "1e3", "9" * 30])
async def test_what_is_no_number_is_no_rule(at: Desk, typed: str) -> None:
    with pytest.raises(BadInput):
        await at.book.remove(typed, by=ADMIN)


async def test_the_rules_of_a_policy_room_are_removed_with_it_only(at: Desk) -> None:
    row = policy.RuleRow(
        source="!list:x",
        action="deny",
        subject="server",
        glob="a.example",
        scopes=("all",),
        reason="",
        made_by=ADMIN,
        made_ms=1,
    )
    await at.database.write(lambda tx: policy.add(tx, row))
    with pytest.raises(Refused, match="comes from !list:x"):
        await at.book.remove("1", by=ADMIN)


async def test_lists_never_push_out_a_rule_of_ours_and_what_is_too_much_is_said(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_RULES", 4)
    listed = [
        policy.RuleRow(
            source="!list:x",
            source_key=f"m.policy.rule.server {number}",
            action="deny",
            subject="server",
            glob=f"s{number}.example",
            scopes=("all",),
            reason="",
            made_by=ADMIN,
            made_ms=1,
        )
        for number in range(5)
    ]
    await at.database.write(lambda tx: policy.replace_source(tx, "!list:x", listed))
    await at.deny("server evil.example")
    assert [one.glob for one in at.house.table.rules] == [
        "evil.example",
        "s0.example",
        "s1.example",
        "s2.example",
    ]
    assert "no more than 4 rules may hold" in await at.book.listing()
    await at.database.write(lambda tx: policy.replace_source(tx, "!list:x", listed[:2]))
    await at.book.load()
    assert "no more than" not in await at.book.listing()


async def test_what_waits_for_a_server_is_tried_at_once_when_its_rule_goes(at: Desk) -> None:
    room = RoomId("!r:x")
    await at.deny("server evil.example")
    await at.database.write(
        lambda tx: peers.mark(tx, [Mark(server=EVIL, room_id=room, first=1, newest=2)])
    )
    fail = partial(peers.failed, server=EVIL, next_attempt_ms=1 << 50, error="denied by rule 1")
    await at.database.write(fail)
    told = await at.peers.describe("evil.example")
    assert "could not be reached 1 time in a row, at last: denied by rule 1" in told
    assert "events in 1 room (!r:x)" in told
    assert "Rule 1: deny server evil.example all" in told
    await at.book.remove("1", by=ADMIN)
    state = await at.database.read(lambda tx: peers.state(tx, EVIL))
    assert state.next_attempt_ms == 0
    assert "No rule names it." in await at.peers.describe("evil.example")


async def test_who_is_denied_may_not_use_the_bot_unless_they_are_an_admin() -> None:
    table = bench(rules=FakeRules(ALICE, ADMIN))
    assert "is denied here" in await table.run(Caller(user_id=ALICE), "status")
    assert "Gateway" in await table.run(Caller(user_id=ADMIN), "status")
